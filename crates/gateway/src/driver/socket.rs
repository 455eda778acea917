//! The WebSocket itself: reads whole messages, writes what the connection has while the socket takes it, and closes so
//! that the peer gets to read why.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use connection::{Connection, Input, Transmit};
use futures_util::{Sink as _, SinkExt as _, Stream as _};
use protocol::CloseCode;
use protocol::client::WireFrame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::counted::Counted;

/// An upgraded connection.
pub type Socket = WebSocketStream<Counted<TcpStream>>;

/// How long a close may take: the peer reads why, and what it still sends is thrown away.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// How much of what comes after our close is thrown away. A client that sent a message of 70 KB has to be able to finish
/// it, or its library hears of a broken pipe before it hears `bye`.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

pub(super) struct Wire {
    socket: Socket,
    /// Something was handed to the socket that is not flushed yet.
    is_dirty: bool,
    /// Bytes that an unfinished message may have, with the headers of its fragments.
    unfinished_max: u64,
}

impl Wire {
    pub(super) fn new(socket: Socket, max_bytes: u64) -> Self {
        Self { socket, is_dirty: false, unfinished_max: 2 * max_bytes + 16 * 1024 }
    }

    /// The next thing that came.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Input> {
        let next = std::pin::Pin::new(&mut self.socket).poll_next(cx);
        let Poll::Ready(next) = next else {
            let is_flood = self.socket.get_ref().read_bytes() > self.unfinished_max;
            return if is_flood { Poll::Ready(Input::Broken(CloseCode::TooBig)) } else { Poll::Pending };
        };
        self.socket.get_mut().start_over();
        Poll::Ready(match next {
            Some(Ok(Message::Text(text))) => Input::Text(Bytes::from(text)),
            Some(Ok(Message::Binary(bytes))) => Input::Binary(bytes),
            Some(Ok(Message::Close(_))) => {
                // The library has queued the answer to it.
                self.is_dirty = true;
                Input::Gone
            }
            Some(Ok(_)) => {
                // A ping is answered by the library, with the next write.
                self.is_dirty = true;
                Input::Activity
            }
            Some(Err(error)) => fault(&error),
            None => Input::Gone,
        })
    }

    /// Writes what the connection has, as far as the socket takes it.
    #[allow(clippy::result_large_err, reason = "it goes straight into the connection")]
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, connection: &mut Connection) -> Result<(), Input> {
        let mut socket = std::pin::Pin::new(&mut self.socket);
        loop {
            match socket.as_mut().poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Err(write_fault(&error)),
                Poll::Pending => return Ok(()),
            }
            let Some(transmit) = connection.poll_transmit() else { break };
            socket.as_mut().start_send(message(transmit)).map_err(|error| write_fault(&error))?;
            self.is_dirty = true;
        }
        if self.is_dirty {
            match socket.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.is_dirty = false,
                Poll::Ready(Err(error)) => return Err(write_fault(&error)),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// The peer closed: the library's answer to it goes out, and then the socket is done.
    pub(super) async fn answer_close(&mut self) {
        let answer = async {
            if self.is_dirty && self.socket.flush().await.is_ok() {
                let _ = self.socket.get_mut().shutdown().await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_WITHIN, answer).await;
    }

    /// Writes what is left, the close frame, and waits for the peer to take it: a socket that is dropped while the peer
    /// still sends is reset by the kernel, and the peer may never read why.
    pub(super) async fn close(&mut self, code: CloseCode, connection: &mut Connection) {
        let _ = tokio::time::timeout(CLOSE_WITHIN, self.say_goodbye(code, connection)).await;
    }

    async fn say_goodbye(&mut self, code: CloseCode, connection: &mut Connection) {
        while let Some(transmit) = connection.poll_transmit() {
            if self.socket.feed(message(transmit)).await.is_err() {
                break;
            }
        }
        close(&mut self.socket, code).await;
    }
}

/// The close frame, the end of what we write, and what the peer still sends.
#[doc(hidden)] // the RFC 6455 conformance example closes with it, as a node does
pub async fn close(socket: &mut Socket, code: CloseCode) {
    let frame = CloseFrame { code: code.number().into(), reason: Utf8Bytes::from_static(code.as_str()) };
    let _ = socket.send(Message::Close(Some(frame))).await;
    let stream = socket.get_mut();
    if stream.shutdown().await.is_err() {
        return;
    }
    let (mut sink, mut taken) = ([0u8; 4096], 0);
    while taken < LINGER_BYTES_MAX
        && let Ok(n @ 1..) = stream.read(&mut sink).await
    {
        taken += n;
    }
}

fn message(transmit: Transmit) -> Message {
    match transmit {
        Transmit::Ping => Message::Ping(Bytes::new()),
        Transmit::Frame(WireFrame { encoding: protocol::Encoding::MessagePack, bytes }) => Message::Binary(bytes),
        // The codec writes UTF-8 only.
        Transmit::Frame(frame) => Message::Text(Utf8Bytes::try_from(frame.bytes).unwrap_or_default()),
    }
}

/// What a read error is to the connection.
fn fault(error: &Error) -> Input {
    close_code(error).map_or(Input::Gone, Input::Broken)
}

/// What a peer is told whose bytes broke a rule; `None`: nobody is there any more.
#[doc(hidden)] // see `close`
pub fn close_code(error: &Error) -> Option<CloseCode> {
    match error {
        Error::Capacity(_) => Some(CloseCode::TooBig),
        Error::Utf8(_) => Some(CloseCode::NotUtf8),
        Error::Protocol(tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(CloseCode::Protocol),
        _ => None,
    }
}

fn write_fault(error: &Error) -> Input {
    match error {
        Error::WriteBufferFull(_) => Input::Broken(CloseCode::SlowConsumer),
        _ => Input::Gone,
    }
}
