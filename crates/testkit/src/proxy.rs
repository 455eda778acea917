//! A TCP proxy inside the test process that pauses, delays, slices and cuts what goes through it.
//!
//! Both directions are pumped on their own, in order, with a bounded number of bytes on the way: a paused proxy pushes
//! back as a full network does, and nobody is told. Whoever waits for something behind a proxy must not block its
//! thread: the proxy runs on the runtime that started it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Bytes of one piece.
const PIECE_BYTES: usize = 16 * 1024;

/// Pieces on the way in one direction: 1 MiB, so that a delay does not become a limit of the rate.
const PIECES_MAX: usize = 64;

/// Between one client and one server. Dropping it closes everything that goes through it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    mode: watch::Sender<Mode>,
    target: Mutex<SocketAddr>,
    open: AtomicUsize,
    slices: AtomicU64,
}

/// How it treats everybody at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mode {
    is_paused: bool,
    is_refusing: bool,
    delay: Duration,
    /// Bytes that are written at once at most; 0 is no limit.
    slice_bytes: usize,
    /// Counts the cuts: a connection ends when it sees another number than at its beginning.
    cuts: u64,
}

impl Proxy {
    /// Listens on a free port of the loopback interface and passes everything on to `target`.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mode, _) = watch::channel(Mode::default());
        let shared =
            Arc::new(Shared { mode, target: Mutex::new(target), open: AtomicUsize::new(0), slices: AtomicU64::new(0) });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// Where to connect instead of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections that go through it now.
    pub fn open_count(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Passes new connections on to somebody else; those that are open stay where they are.
    pub fn retarget(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Writes that were cut short by [`Proxy::slice`] since the start.
    pub fn slice_count(&self) -> u64 {
        self.shared.slices.load(Ordering::Relaxed)
    }

    /// From now on no byte moves in either direction, and no connection ends: a network that swallows everything.
    /// New connections are accepted, as the kernel of a frozen server does.
    pub fn pause(&self) {
        self.shared.mode.send_modify(|mode| mode.is_paused = true);
    }

    /// Everything that waited moves on, in order.
    pub fn resume(&self) {
        self.shared.mode.send_modify(|mode| mode.is_paused = false);
    }

    /// Every byte takes this much longer, in each direction; order is kept. Holds for what is read from now on.
    pub fn delay(&self, delay: Duration) {
        self.shared.mode.send_modify(|mode| mode.delay = delay);
    }

    /// Every write has at most this many bytes, so that the other side sees frames in pieces; 0 ends it.
    pub fn slice(&self, bytes: usize) {
        self.shared.mode.send_modify(|mode| mode.slice_bytes = bytes);
    }

    /// Ends every connection with a reset, on both sides; what was on its way is lost. New ones are welcome.
    pub fn cut(&self) {
        self.shared.mode.send_modify(|mode| mode.cuts += 1);
    }

    /// New connections are reset at once, until they are allowed again.
    pub fn refuse(&self, is_refusing: bool) {
        self.shared.mode.send_modify(|mode| mode.is_refusing = is_refusing);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(crate::wait::PAUSE).await;
            continue;
        };
        // Subscribed before anything else happens, so that a cut from here on is seen.
        let mode = shared.mode.subscribe();
        if mode.borrow().is_refusing {
            reset(&client);
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            shared.open.fetch_add(1, Ordering::SeqCst);
            let target = *shared.target.lock().unwrap_or_else(PoisonError::into_inner);
            carry(client, target, mode, &shared.slices).await;
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Carries one connection until both sides are done, one fails, or it is cut.
async fn carry(mut client: TcpStream, target: SocketAddr, mode: watch::Receiver<Mode>, slices: &AtomicU64) {
    let begun = mode.borrow().cuts;
    let cut = |mut mode: watch::Receiver<Mode>| async move {
        // An error means that the proxy is gone, which is a cut too.
        let _ = mode.wait_for(|mode| mode.cuts != begun).await;
    };
    let connected = tokio::select! {
        connected = TcpStream::connect(target) => connected,
        () = cut(mode.clone()) => return reset(&client),
    };
    let Ok(mut server) = connected else { return reset(&client) };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let is_whole = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(from_client, to_server, mode.clone(), slices);
        let down = pump(from_server, to_client, mode.clone(), slices);
        tokio::select! {
            // A direction that ends well was a half close: the other one goes on.
            ended = async { tokio::try_join!(up, down) } => ended.is_ok(),
            () = cut(mode.clone()) => false,
        }
    };
    if !is_whole {
        reset(&client);
        reset(&server);
    }
}

/// One direction: a reader that stamps pieces, a writer that holds them back until their time.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mode: watch::Receiver<Mode>,
    slices: &AtomicU64,
) -> std::io::Result<()> {
    let (pieces, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let mut before_reading = mode.clone();
    let reading = async move {
        loop {
            flowing(&mut before_reading).await;
            let mut piece = vec![0; PIECE_BYTES];
            let n = from.read(&mut piece).await?;
            if n == 0 {
                return Ok::<_, std::io::Error>(());
            }
            piece.truncate(n);
            let at = Instant::now() + before_reading.borrow().delay;
            if pieces.send((at, piece)).await.is_err() {
                return Ok(());
            }
        }
    };
    let mut before_writing = mode;
    let writing = async move {
        while let Some((at, piece)) = due.recv().await {
            sleep_until(at).await;
            flowing(&mut before_writing).await;
            let slice_bytes = before_writing.borrow().slice_bytes;
            if slice_bytes == 0 {
                to.write_all(&piece).await?;
                continue;
            }
            // Without Nagle's algorithm each write is a segment of its own.
            for slice in piece.chunks(slice_bytes) {
                to.write_all(slice).await?;
                slices.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
        // An end is held back like a byte.
        flowing(&mut before_writing).await;
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(|_| ())
}

/// Waits while the proxy is paused.
async fn flowing(mode: &mut watch::Receiver<Mode>) {
    let _ = mode.wait_for(|mode| !mode.is_paused).await;
}

/// Makes the close of this socket a reset: the other side gets an error, not an end.
fn reset(socket: &TcpStream) {
    let _ = socket.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::time::timeout;

    use super::*;
    use crate::eventually;

    const SOON: Duration = Duration::from_secs(10);
    const MOMENT: Duration = Duration::from_millis(150);

    /// A server that sends back what it gets, and ends when the client has ended.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    let _ = to.shutdown().await;
                });
            }
        });
        address
    }

    async fn said_back(stream: &mut TcpStream, what: &[u8]) {
        stream.write_all(what).await.unwrap();
        heard(stream, what).await;
    }

    async fn heard(stream: &mut TcpStream, what: &[u8]) {
        let mut bytes = vec![0; what.len()];
        timeout(SOON, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
        assert_eq!(bytes, what);
    }

    #[tokio::test]
    async fn it_carries_bytes_both_ways_and_a_half_close_to_the_end() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        said_back(&mut stream, b"hello").await;
        assert_eq!(proxy.open_count(), 1);
        let (mut from, mut to) = stream.split();
        let large: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        let writing = async {
            to.write_all(&large).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let mut back = Vec::new();
        let (_, read) = tokio::join!(writing, timeout(SOON, from.read_to_end(&mut back)));
        read.unwrap().unwrap();
        assert!(back == large, "{} of {} bytes came back", back.len(), large.len());
        eventually("it forgets the connection", SOON, || async { (proxy.open_count() == 0).then_some(()) })
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn while_it_is_paused_nothing_moves_and_afterwards_everything_in_order() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        said_back(&mut stream, b"before").await;
        proxy.pause();
        stream.write_all(b"during").await.unwrap();
        let mut byte = [0];
        assert!(timeout(MOMENT, stream.read(&mut byte)).await.is_err(), "not a byte");
        let mut late = TcpStream::connect(proxy.address()).await.unwrap();
        late.write_all(b"late").await.unwrap();
        assert!(timeout(MOMENT, late.read(&mut byte)).await.is_err(), "a new connection hears nothing either");
        proxy.resume();
        heard(&mut stream, b"during").await;
        heard(&mut late, b"late").await;
        said_back(&mut stream, b"after").await;
    }

    #[tokio::test]
    async fn a_cut_resets_everybody_and_the_next_one_is_welcome() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            said_back(&mut stream, b"x").await;
            streams.push(stream);
        }
        proxy.cut();
        for stream in &mut streams {
            let read = timeout(SOON, stream.read(&mut [0])).await.unwrap();
            assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        let mut next = TcpStream::connect(proxy.address()).await.unwrap();
        said_back(&mut next, b"again").await;
    }

    #[tokio::test]
    async fn a_cut_also_ends_what_is_paused() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        said_back(&mut stream, b"x").await;
        proxy.pause();
        proxy.cut();
        assert!(timeout(SOON, stream.read(&mut [0])).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_delay_holds_every_byte_back_without_changing_their_order() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.delay(MOMENT);
        let begun = Instant::now();
        stream.write_all(b"one").await.unwrap();
        stream.write_all(b"two").await.unwrap();
        heard(&mut stream, b"onetwo").await;
        assert!(begun.elapsed() >= 2 * MOMENT, "there and back: {:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn slices_arrive_whole_and_a_new_target_gets_the_next_connection() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        proxy.slice(1);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        said_back(&mut stream, b"bit by bit").await;
        assert_eq!(proxy.slice_count(), 20, "ten bytes each way");
        proxy.retarget(SocketAddr::from(([127, 0, 0, 1], crate::ports::free_port().unwrap())));
        said_back(&mut stream, b"still there").await;
        let mut next = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(timeout(SOON, next.read(&mut [0])).await.unwrap().is_err(), "nobody is at the new target");
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_or_has_no_target_resets_whoever_comes() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        proxy.refuse(true);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(timeout(SOON, stream.read(&mut [0])).await.unwrap().is_err());
        proxy.refuse(false);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        said_back(&mut stream, b"x").await;
        drop(proxy);
        assert!(timeout(SOON, stream.read(&mut [0])).await.unwrap().is_err(), "it ends with its proxy");

        let nobody = SocketAddr::from(([127, 0, 0, 1], crate::ports::free_port().unwrap()));
        let proxy = Proxy::start(nobody).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(timeout(SOON, stream.read(&mut [0])).await.unwrap().is_err());
    }
}
