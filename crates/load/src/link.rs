//! One light connection: opened, welcomed, and then read in bundles.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context;
use protocol::Encoding;
use switchboard_client::endpoint::Endpoint;
use switchboard_client::socket::{Incoming, Socket, SocketOptions};
use switchboard_client::wire::write::{ClientFrame, Hello};
use switchboard_client::wire::{self, ServerEvent};

use crate::options::Common;
use crate::socket_io;

/// Connections from one local address to one port. An address has about 28,000 free ports; some may be in use.
const CONNECTIONS_PER_SOURCE: usize = 20_000;

/// Frames taken before what they caused is written: enough to make few writes of many, and no task keeps its thread.
pub(crate) const BUNDLE_FRAMES: usize = 64;

/// Messages from the server are small here, and the answer to a flood is `batch` arrays of at most this.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A node, resolved once for all connections.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    endpoint: Endpoint,
    address: SocketAddr,
    batch: bool,
    open_timeout_ms: u64,
    read_buffer_bytes: usize,
}

impl Target {
    pub(crate) async fn resolve(url: &str, common: &Common, read_buffer_bytes: usize) -> anyhow::Result<Self> {
        let endpoint = Endpoint::parse(url)?;
        let address = *endpoint.resolve().await?.first().context("the host has no address")?;
        let open_timeout_ms = u64::try_from(common.open_timeout.as_millis()).unwrap_or(u64::MAX);
        Ok(Self { endpoint, address, batch: common.batch, open_timeout_ms, read_buffer_bytes })
    }

    /// Opens the connection number `index` of this run for `user`, up to its `welcome`.
    ///
    /// # Errors
    /// A text for people: what went wrong.
    pub(crate) async fn open(&self, user: &str, index: usize) -> Result<Socket, String> {
        let url = self.endpoint.url(&[("user", user)]);
        let mut socket = self.socket(&url, index).await?;
        let mut hello = Vec::with_capacity(64);
        ClientFrame::Hello(Hello { batch: self.batch, ..Hello::default() }).encode(Encoding::Json, &mut hello);
        socket.queue(hello)?;
        self.within(welcomed(&mut socket)).await.map(|()| socket)
    }

    /// Opens a Socket.IO connection over its WebSocket transport, up to the answer of the server's namespace `/`.
    ///
    /// # Errors
    /// A text for people: what went wrong.
    pub(crate) async fn open_socket_io(&self, index: usize) -> Result<Socket, String> {
        let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket", self.endpoint.authority());
        let mut socket = self.socket(&url, index).await?;
        self.within(socket_io::connected(&mut socket)).await.map(|()| socket)
    }

    async fn socket(&self, url: &str, index: usize) -> Result<Socket, String> {
        let options = SocketOptions {
            encoding: Encoding::Json,
            read_buffer_bytes: self.read_buffer_bytes,
            message_bytes_max: MESSAGE_BYTES_MAX,
            open_timeout_ms: self.open_timeout_ms,
            source: source(self.address, index),
        };
        Socket::open(self.address, url, options).await.map_err(|e| e.to_string())
    }

    async fn within(&self, opening: impl Future<Output = Result<(), String>>) -> Result<(), String> {
        let limit = std::time::Duration::from_millis(self.open_timeout_ms);
        let late = |_| Err(format!("no welcome within {} ms", self.open_timeout_ms));
        tokio::time::timeout(limit, opening).await.unwrap_or_else(late)
    }
}

async fn welcomed(socket: &mut Socket) -> Result<(), String> {
    let mut bye = None;
    loop {
        match socket.drive(true).await {
            Incoming::Alive => {}
            Incoming::Closed { code, reason } => {
                return Err(bye.unwrap_or_else(|| format!("closed with {code:?} before the welcome: {reason}")));
            }
            Incoming::Frame(frame) => {
                for event in wire::read(Encoding::Json, &frame).map_err(|e| e.to_string())? {
                    match event {
                        ServerEvent::Welcome(_) => return Ok(()),
                        ServerEvent::Bye(said) => bye = Some(format!("bye {}: {}", said.code, said.reason)),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// The local address for the connection number `index`: the kernel's choice for the first ones, then further addresses of
/// the loopback network, which are there without being configured.
fn source(target: SocketAddr, index: usize) -> Option<IpAddr> {
    let block = index / CONNECTIONS_PER_SOURCE;
    if block == 0 || !target.ip().is_loopback() || !target.is_ipv4() {
        return None;
    }
    // 127.0.1.1, 127.0.1.2, …: not in the network of 127.0.0.1, which others use.
    let part = |number: usize| u8::try_from(number + 1).unwrap_or(u8::MAX);
    Some(Ipv4Addr::new(127, 0, part((block - 1) / 250), part((block - 1) % 250)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_20000_connections_other_local_addresses_are_used() {
        let node: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let text = |index| source(node, index).map(|ip| ip.to_string());
        assert_eq!(text(0), None);
        assert_eq!(text(19_999), None);
        assert_eq!(text(20_000).as_deref(), Some("127.0.1.1"));
        assert_eq!(text(40_000).as_deref(), Some("127.0.1.2"));
        assert_eq!(text(251 * 20_000).as_deref(), Some("127.0.2.1"));
        assert_eq!(source("10.0.0.1:80".parse().unwrap(), 50_000), None, "a real network has the addresses it has");
    }
}
