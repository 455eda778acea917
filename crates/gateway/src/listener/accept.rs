//! Takes connections from the kernel and hands them out.
//!
//! It never ends by itself: running out of file descriptors is a reason to wait, not to stop listening.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics::Counter;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Connections that have not finished their request, and so have shown no credentials. At 16 KiB of headers each they
/// hold 160 MB at worst, for 10 s at most.
pub const PENDING_MAX: usize = 10_000;

/// Connections that the kernel keeps until we take them; it lowers this to `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;

/// Pause after `accept` failed: long enough for a file descriptor to come free, short enough not to be noticed.
const BACK_OFF: Duration = Duration::from_millis(50);

/// One line of log for so many failures in a row: one a second.
const FAILURES_PER_LINE: u32 = 20;

const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// A connection that has not said anything yet. It is tied to no runtime, so that it can go to any worker.
#[derive(Debug)]
pub struct Arrival {
    pub stream: std::net::TcpStream,
    pub peer: SocketAddr,
    /// Its place among the pending ones; free when this is dropped.
    pub(super) slot: OwnedSemaphorePermit,
}

/// Listens at an address; with port 0 at any free port.
///
/// # Errors
/// The address is taken or not ours; the error says which.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listen = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Or a node that starts again would wait a minute for the connections of the one before.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listen().map_err(|e| io::Error::new(e.kind(), format!("cannot listen at {address}: {e}")))
}

/// Accepts until `stop`, and gives each connection to `spawn`. Above `pending_max` connections that have not finished
/// their request, a new one is answered 503 at once and counted: those who came before keep their chance.
pub async fn run(
    listener: TcpListener,
    pending_max: usize,
    refused: Counter,
    stop: CancellationToken,
    mut spawn: impl FnMut(Arrival),
) {
    let slots = Arc::new(Semaphore::new(pending_max));
    let mut failures = 0u32;
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                failures = 0;
                if let Some(arrival) = admit(stream, peer, &slots, &refused) {
                    spawn(arrival);
                }
            }
            // The peer went away between the kernel's queue and us.
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(e) => {
                if failures.is_multiple_of(FAILURES_PER_LINE) {
                    tracing::error!(error = %e, failures, "cannot accept connections; trying again");
                }
                failures = failures.wrapping_add(1);
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn admit(stream: TcpStream, peer: SocketAddr, slots: &Arc<Semaphore>, refused: &Counter) -> Option<Arrival> {
    // Small frames are what this is about; without this each waits for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let mut stream = stream.into_std().ok()?;
    match Arc::clone(slots).try_acquire_owned() {
        Ok(slot) => Some(Arrival { stream, peer, slot }),
        Err(_) => {
            refused.increment(1);
            // Not blocking; into an empty socket buffer it fits.
            let _ = stream.write(FULL);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[tokio::test]
    async fn a_taken_address_is_told_by_name() {
        let first = bind(loopback()).unwrap();
        let address = first.local_addr().unwrap();
        let said = bind(address).unwrap_err();
        assert_eq!(said.kind(), ErrorKind::AddrInUse);
        assert!(said.to_string().contains(&address.to_string()), "{said}");
    }

    #[tokio::test]
    async fn above_the_bound_a_new_connection_hears_503_and_a_free_place_is_used_again() {
        let listener = bind(loopback()).unwrap();
        let address = listener.local_addr().unwrap();
        let (arrivals, mut arrived) = tokio::sync::mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let spawn = move |arrival| arrivals.send(arrival).unwrap();
        let task = tokio::spawn(run(listener, 1, Counter::noop(), stop.clone(), spawn));
        let connect = || tokio::task::spawn_blocking(move || std::net::TcpStream::connect(address).unwrap());
        let _first = connect().await.unwrap();
        let held = arrived.recv().await.unwrap();
        assert!(held.stream.nodelay().unwrap());
        let mut second = connect().await.unwrap();
        let answer = tokio::task::spawn_blocking(move || {
            let mut answer = String::new();
            second.read_to_string(&mut answer).map(|_| answer)
        });
        assert!(answer.await.unwrap().unwrap().starts_with("HTTP/1.1 503 "));
        drop(held);
        let _third = connect().await.unwrap();
        assert!(arrived.recv().await.is_some());
        stop.cancel();
        task.await.unwrap();
        assert!(arrived.recv().await.is_none(), "the loop ended and dropped its closure");
    }
}
