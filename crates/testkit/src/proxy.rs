//! A TCP proxy inside the test process that pauses, delays and cuts what goes through it.
//!
//! Both directions are pumped on their own, in order, with a bounded number of bytes on the way: a paused proxy pushes
//! back as a full network does, and nobody is told. Whoever waits for something behind a proxy must not block its
//! thread: the proxy runs on the runtime that started it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
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
    open: AtomicUsize,
}

/// How it treats everybody at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mode {
    is_paused: bool,
    is_refusing: bool,
    delay: Duration,
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
        let shared = Arc::new(Shared { mode, open: AtomicUsize::new(0) });
        let accepting = tokio::spawn(accept(listener, target, Arc::clone(&shared)));
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

async fn accept(listener: TcpListener, target: SocketAddr, shared: Arc<Shared>) {
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
            carry(client, target, mode).await;
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Carries one connection until both sides are done, one fails, or it is cut.
async fn carry(client: TcpStream, target: SocketAddr, mode: watch::Receiver<Mode>) {
    let begun = mode.borrow().cuts;
    let cut = |mut mode: watch::Receiver<Mode>| async move {
        // An error means that the proxy is gone, which is a cut too.
        let _ = mode.wait_for(|mode| mode.cuts != begun).await;
    };
    let server = tokio::select! {
        server = TcpStream::connect(target) => server,
        () = cut(mode.clone()) => return reset(&client),
    };
    let Ok(server) = server else { return reset(&client) };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both = async {
        let up = pump(from_client, to_server, mode.clone());
        let down = pump(from_server, to_client, mode.clone());
        // A direction that ends well was a half close: the other one goes on.
        tokio::try_join!(up, down)
    };
    let is_whole = tokio::select! {
        ended = both => ended.is_ok(),
        () = cut(mode.clone()) => false,
    };
    // The halves are gone by now and the sockets closed, unless somebody has to be told the hard way: see `Pump`.
    let _ = is_whole;
}

/// One direction: a reader that stamps pieces, a writer that holds them back until their time.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mode: watch::Receiver<Mode>) -> std::io::Result<()> {
    let (pieces, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let reading = {
        let mut mode = mode.clone();
        async move {
            loop {
                flowing(&mut mode).await;
                let mut piece = vec![0; PIECE_BYTES];
                let n = from.read(&mut piece).await?;
                if n == 0 {
                    return Ok::<_, std::io::Error>(());
                }
                piece.truncate(n);
                let at = Instant::now() + mode.borrow().delay;
                if pieces.send((at, piece)).await.is_err() {
                    return Ok(());
                }
            }
        }
    };
    let writing = {
        let mut mode = mode;
        async move {
            while let Some((at, piece)) = due.recv().await {
                sleep_until(at).await;
                flowing(&mut mode).await;
                to.write_all(&piece).await?;
            }
            to.shutdown().await
        }
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
