//! One light connection: opened, greeted, and then read in bundles. It has no memory: what comes is given on as it came.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::Encoding;
use serde_json::Value;
use switchboard_client::socket::{Incoming, Socket, SocketOptions};
use switchboard_client::wire::{self, ServerEvent, Welcome};
use tokio::time::timeout;

/// From TCP to `welcome`. Longer than a node that attaches again needs, shorter than a frozen one lasts.
const OPEN_WITHIN: Duration = Duration::from_secs(6);

/// Frames taken before what they caused is written.
pub(crate) const BUNDLE_FRAMES: usize = 64;

/// Answers to a flood come in arrays of at most this.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Allocated for every socket; most frames have a hundred bytes.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) struct NoLink {
    /// That of a `bye`, if one came.
    pub(crate) code: Option<u16>,
    pub(crate) reconnect_ms: Option<u64>,
    pub(crate) reason: String,
}

/// Opens a connection for `user` and says `hello`. What came behind `welcome` in its frame is the second part.
///
/// # Errors
/// [`NoLink`] says why.
///
/// # Cancellation
/// Dropping the future drops the socket.
pub(crate) async fn open(
    front: SocketAddr,
    user: &str,
    hello: &Value,
) -> Result<(Socket, Welcome, Vec<ServerEvent>), NoLink> {
    let gone = |reason: String| NoLink { code: None, reconnect_ms: None, reason };
    let options = SocketOptions {
        encoding: Encoding::Json,
        read_buffer_bytes: READ_BUFFER_BYTES,
        message_bytes_max: MESSAGE_BYTES_MAX,
        open_timeout_ms: 5_000,
        source: None,
    };
    let opening = async {
        let url = format!("ws://{front}/v1/connect?user={user}");
        let mut socket = Socket::open(front, &url, options).await.map_err(|e| gone(e.to_string()))?;
        socket.queue(hello.to_string().into_bytes()).map_err(gone)?;
        let mut bye = None;
        loop {
            match socket.drive(true).await {
                Incoming::Alive => {}
                Incoming::Closed { code, reason } => {
                    return Err(bye.unwrap_or(NoLink { code, reconnect_ms: None, reason }));
                }
                Incoming::Frame(frame) => {
                    let mut events = wire::read(Encoding::Json, &frame).map_err(|e| gone(e.to_string()))?.into_iter();
                    while let Some(event) = events.next() {
                        match event {
                            ServerEvent::Welcome(welcome) => return Ok((socket, welcome, events.collect())),
                            ServerEvent::Bye(said) => {
                                let (code, reconnect_ms) = (Some(said.code), said.reconnect_ms);
                                bye = Some(NoLink { code, reconnect_ms, reason: said.reason });
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
    };
    timeout(OPEN_WITHIN, Box::pin(opening)).await.unwrap_or_else(|_| Err(gone("no welcome in time".to_owned())))
}
