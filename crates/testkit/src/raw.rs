//! RFC 6455 by hand, for what no library would send.
//!
//! The framing here may lie: about lengths, masks, reserved bits, opcodes. [`Raw::play`] writes and reads at the same
//! time, because a server that refuses a flood answers before the flood is over, and what it says is lost to a client
//! that only writes.

mod frame;
mod heard;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use self::heard::Heard;
use crate::http::Head;

pub use self::frame::{Frame, opcode};

/// For a handshake that is expected to be answered.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Bytes to be written, once or many times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Burst {
    bytes: Vec<u8>,
    times: usize,
    pause: Duration,
}

impl Burst {
    pub fn once(bytes: impl Into<Vec<u8>>) -> Self {
        Self::times(bytes, 1)
    }

    pub fn times(bytes: impl Into<Vec<u8>>, times: usize) -> Self {
        Self { bytes: bytes.into(), times, pause: Duration::ZERO }
    }

    /// Waits after each time.
    pub fn every(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }
}

impl From<Frame> for Burst {
    fn from(frame: Frame) -> Self {
        Self::once(frame.to_bytes())
    }
}

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An HTTP answer, and no upgrade.
    Http(u16),
    /// A close frame; 1005 if it had no code. `bye` is the last frame of that type before it.
    Close { code: u16, bye: Option<Value> },
    /// The end of the stream without a close frame.
    Eof,
    /// A reset, or another error of the socket.
    Reset,
    /// None of these in the time given.
    StillOpen,
}

impl Outcome {
    /// True if the connection was ended without a word.
    pub fn is_cut(&self) -> bool {
        matches!(self, Self::Eof | Self::Reset)
    }
}

/// An outcome and what led to it, from the begin of the connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub outcome: Outcome,
    /// The maps that came, in order; those of a batch one by one.
    pub frames: Vec<Value>,
    /// How many pongs came, and what the last one carried.
    pub pong_count: u64,
    pub last_pong: Option<Vec<u8>>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub elapsed: Duration,
}

/// One TCP connection to a WebSocket server.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    begun: Instant,
    heard: Heard,
    bytes_sent: AtomicU64,
}

impl Raw {
    /// Opens the TCP connection and says nothing.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, begun: Instant::now(), heard: Heard::default(), bytes_sent: AtomicU64::new(0) })
    }

    /// Asks for an upgrade and reads the head of the answer, whatever it is. `headers` come after the usual ones.
    ///
    /// # Errors
    /// No connection, no HTTP, or no answer.
    pub async fn upgrade(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<(Self, Head)> {
        let mut raw = Self::connect(address).await?;
        raw.write(&upgrade_request(address, target, headers)).await?;
        let head = raw.head().await.with_context(|| format!("asking {address} for an upgrade at {target}"))?;
        Ok((raw, head))
    }

    /// As [`Raw::upgrade`], for an upgrade that must succeed.
    ///
    /// # Errors
    /// Any other answer than 101.
    pub async fn open(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let (raw, head) = Self::upgrade(address, target, headers).await?;
        if head.status != 101 {
            bail!("no upgrade at {target}: {}", head.status);
        }
        Ok(raw)
    }

    /// Reads the head of an answer.
    ///
    /// # Errors
    /// No HTTP, or no answer within 10 seconds.
    pub async fn head(&mut self) -> Result<Head> {
        let end = Instant::now() + HANDSHAKE_WITHIN;
        loop {
            if let Some((head, at)) = Head::parse(&self.heard.unparsed)? {
                self.heard.unparsed.drain(..at);
                self.heard.is_upgraded = head.status == 101;
                if self.heard.is_upgraded {
                    self.heard.take_apart();
                } else {
                    self.heard.outcome = Some(Outcome::Http(head.status));
                }
                return Ok(head);
            }
            let n = timeout_at(end, self.stream.read_buf(&mut self.heard.unparsed)).await.context("no answer")??;
            self.heard.bytes += n as u64;
            if n == 0 {
                bail!("the connection ended within the head of the answer");
            }
        }
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// The other side has ended, or takes nothing for 10 seconds.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        timeout(HANDSHAKE_WITHIN, self.stream.write_all(bytes)).await.context("nothing is taken")??;
        self.bytes_sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Writes frames.
    ///
    /// # Errors
    /// As [`Raw::write`].
    pub async fn send(&mut self, frames: &[Frame]) -> Result<()> {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::to_bytes).collect();
        self.write(&bytes).await
    }

    /// Writes the script while reading, and reads on until the connection ends or `within` is over.
    pub async fn play(&mut self, script: &[Burst], within: Duration) -> Report {
        let end = Instant::now() + within;
        self.run(script, end, false).await;
        self.report()
    }

    /// Writes the script while reading, and stops when everything is written or the connection has ended.
    pub async fn play_out(&mut self, script: &[Burst], within: Duration) -> Report {
        let end = Instant::now() + within;
        self.run(script, end, true).await;
        self.report()
    }

    /// Reads until the connection ends or `within` is over.
    pub async fn outcome(&mut self, within: Duration) -> Report {
        self.play(&[], within).await
    }

    /// Reads until a frame fits and gives it back, or `None` if the connection ends before or `within` is over. Frames
    /// that came before are looked at too.
    pub async fn wait_for(&mut self, within: Duration, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        let end = Instant::now() + within;
        loop {
            if let Some(frame) = self.heard.frames.iter().find(|frame| fits(frame)) {
                return Some(frame.clone());
            }
            if self.heard.outcome.is_some() {
                return None;
            }
            timeout_at(end, self.heard.read_from(&mut self.stream)).await.ok()?;
        }
    }

    /// After a close frame: what becomes of the TCP connection while the script is written into it.
    pub async fn after_close(&mut self, script: &[Burst], within: Duration) -> Report {
        self.heard.outcome = None;
        self.play(script, within).await
    }

    async fn run(&mut self, script: &[Burst], end: Instant, is_over_when_written: bool) {
        let Self { stream, heard, bytes_sent, .. } = self;
        let (mut from, mut to) = stream.split();
        let reading = async {
            while heard.outcome.is_none() {
                heard.read_from(&mut from).await;
            }
        };
        let writing = async {
            for burst in script {
                for _ in 0..burst.times {
                    if to.write_all(&burst.bytes).await.is_err() {
                        // Why, the reader finds out.
                        return false;
                    }
                    bytes_sent.fetch_add(burst.bytes.len() as u64, Ordering::Relaxed);
                    if !burst.pause.is_zero() {
                        sleep(burst.pause).await;
                    }
                }
            }
            true
        };
        tokio::pin!(reading, writing);
        let mut is_writing = true;
        loop {
            tokio::select! {
                () = &mut reading => return,
                is_written = &mut writing, if is_writing => {
                    is_writing = false;
                    if is_written && is_over_when_written {
                        return;
                    }
                }
                () = sleep_until(end) => return,
            }
        }
    }

    fn report(&self) -> Report {
        Report {
            outcome: self.heard.outcome.clone().unwrap_or(Outcome::StillOpen),
            frames: self.heard.frames.clone(),
            pong_count: self.heard.pong_count,
            last_pong: self.heard.last_pong.clone(),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.heard.bytes,
            elapsed: self.begun.elapsed(),
        }
    }
}

/// The request of an upgrade; `headers` come after the usual ones.
pub fn upgrade_request(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut request = format!(
        "GET {target} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request.into_bytes()
}
