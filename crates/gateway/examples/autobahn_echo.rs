//! Echoes messages through a node's own accept path, for the RFC 6455 conformance run of `scripts/autobahn`: the same
//! listener, upgrade, limits, socket and close codes, without the client protocol behind them.
//!
//! Usage: `autobahn_echo ADDRESS`; it prints the address that it got, and runs until it is killed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use connection::{Joined, Opening, Person, SendFault};
use futures_util::{SinkExt as _, StreamExt as _};
use gateway::config::Origins;
use gateway::door::{BoxFuture, Door, MembersPage, OutgoingMessage, SendAnswer, Socket};
use gateway::listener::{Http, HttpSettings, accept, bind};
use gateway::metrics::Metrics;
use protocol::{ErrorCode, GroupId, UserId};
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

/// Cases 9.* send messages of 16 MiB.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// As a node waits for its peer at the end.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

struct Echo {
    metrics: Metrics,
}

impl Door for Echo {
    fn readiness(&self) -> Result<(), String> {
        Ok(())
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn open(self: Arc<Self>, mut socket: Socket, _opening: Opening, _peer: SocketAddr) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            echo(&mut socket).await;
        })
    }

    fn send(&self, _message: OutgoingMessage) -> BoxFuture<'_, Result<SendAnswer, SendFault>> {
        nothing()
    }

    fn join(&self, _group: GroupId, _user: UserId) -> BoxFuture<'_, Result<Joined, SendFault>> {
        nothing()
    }

    fn remove(&self, _group: GroupId, _user: UserId) -> BoxFuture<'_, Result<Option<u64>, SendFault>> {
        nothing()
    }

    fn members(
        &self,
        _group: GroupId,
        _after: Option<String>,
        _limit: u64,
    ) -> BoxFuture<'_, Result<MembersPage, SendFault>> {
        nothing()
    }

    fn presence(&self, _users: Vec<UserId>) -> BoxFuture<'_, Result<Vec<Person>, SendFault>> {
        nothing()
    }
}

/// The server API has nothing here.
fn nothing<T: Send + 'static>() -> BoxFuture<'static, Result<T, SendFault>> {
    let message = "this is an echo".to_owned();
    Box::pin(async move { Err(SendFault { code: ErrorCode::NotFound, message, retry_ms: None, is_final: true }) })
}

/// Sends back what comes, until the peer closes or breaks a rule.
async fn echo(socket: &mut Socket) {
    loop {
        let written = match socket.next().await {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => socket.send(message).await,
            // The library has queued the answer.
            Some(Ok(Message::Close(_))) => break,
            Some(Ok(_)) => socket.flush().await,
            Some(Err(error)) => {
                if let Some(code) = gateway::close_code(&error) {
                    let _ = tokio::time::timeout(CLOSE_WITHIN, gateway::close(socket, code)).await;
                }
                return;
            }
            None => return,
        };
        if written.is_err() {
            return;
        }
    }
    if socket.flush().await.is_ok() {
        let _ = socket.get_mut().shutdown().await;
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).context("expected an address, for example 127.0.0.1:9002")?;
    let listener = bind(address.parse().context("expected an IP address and a port")?)?;
    println!("{}", listener.local_addr()?);
    let stop = CancellationToken::new();
    let settings = HttpSettings {
        origins: Origins::SameHost,
        takes_users: true,
        max_bytes: MAX_BYTES,
        api_key: None,
        header_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(10),
    };
    let http = Arc::new(Http::new(Arc::new(Echo { metrics: Metrics::new() }), settings, stop.clone()));
    let spawn = move |arrival| drop(tokio::spawn(Arc::clone(&http).serve_client(arrival)));
    accept::run(listener, accept::PENDING_MAX, metrics::Counter::noop(), stop, spawn).await;
    Ok(())
}
