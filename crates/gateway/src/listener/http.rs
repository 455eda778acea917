//! HTTP/1.1 on both listeners: limits, timeouts, and who answers what.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::code::doc_page;
use protocol::{CloseCode, ErrorCode};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::accept::Arrival;
use super::respond::{self, Answer};
use crate::config::{Auth, Config, Origins, Secret};
use crate::door::Door;
use crate::{api, ops};

/// From the first byte that is due to the end of the headers; also how long an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// From the end of the headers to the end of the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What a request that is under way gets when the node stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of the request line and headers. A token of 8 KiB fits; a flood of headers does not.
const HEAD_BYTES_MAX: usize = 16 * 1_024;

/// Headers of a request: browsers and proxies send about 20.
const HEADERS_MAX: usize = 64;

const CLIENT_PATHS: &str = "\
GET /v1/connect  WebSocket, subprotocol switchboard.v1.json or switchboard.v1.msgpack\n\
GET /docs/CODE   what an error code or close code means\n\
GET /healthz     200 while the process runs\n\
GET /readyz      200 while it takes connections, else 503\n";

const INTERNAL_PATHS: &str = "\
POST /v1/send                              sends one message or an array of them\n\
PUT, DELETE /v1/groups/GROUP/members/USER  makes a user a member of a group, or ends it\n\
GET /v1/groups/GROUP/members               who is one\n\
GET /v1/presence?user=USER                 who is there\n\
GET /metrics                               for Prometheus\n\
GET /healthz                               200 while the process runs\n\
GET /readyz                                200 while it takes connections, else 503 and why\n";

/// What the HTTP side takes from the configuration.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    pub origins: Origins,
    /// `--auth none`: `?user=` says who comes.
    pub takes_users: bool,
    /// Bytes of one message of a client.
    pub max_bytes: u64,
    pub api_key: Option<Secret>,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
}

impl HttpSettings {
    pub fn new(config: &Config) -> Self {
        Self {
            origins: config.origins.clone(),
            takes_users: config.auth == Auth::None,
            max_bytes: config.max_bytes,
            api_key: config.api_key.clone(),
            header_timeout: HEADER_TIMEOUT,
            body_timeout: BODY_TIMEOUT,
        }
    }
}

/// The HTTP side of one node, shared by all its connections.
pub struct Http {
    pub(crate) door: Arc<dyn Door>,
    pub(crate) settings: HttpSettings,
    stop: CancellationToken,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Which listener a request came to.
#[derive(Clone, Copy)]
enum Face {
    Client,
    Internal,
}

impl Http {
    /// `stop` ends idle HTTP connections; upgraded ones belong to the node behind the door.
    pub fn new(door: Arc<dyn Door>, settings: HttpSettings, stop: CancellationToken) -> Self {
        Self { door, settings, stop }
    }

    /// Serves one connection of the listener for clients, until it ends or is upgraded. To be spawned on the runtime
    /// where the connection is to live.
    pub async fn serve_client(self: Arc<Self>, arrival: Arrival) {
        self.serve(arrival, Face::Client).await;
    }

    /// Serves one connection of the internal listener.
    pub async fn serve_internal(self: Arc<Self>, arrival: Arrival) {
        self.serve(arrival, Face::Internal).await;
    }

    async fn serve(self: Arc<Self>, arrival: Arrival, face: Face) {
        let Arrival { stream, peer, slot } = arrival;
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(e) => return tracing::warn!(%peer, error = %e, "cannot take a connection"),
        };
        let http = Arc::clone(&self);
        let service = service_fn(move |request| {
            let http = Arc::clone(&http);
            async move { Ok::<_, Infallible>(http.route(face, request, peer).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.settings.header_timeout);
        builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
        let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(STOP_TIMEOUT, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(e) = ended {
            tracing::debug!(%peer, error = %e, "HTTP connection ended");
        }
        // Held until here: whoever is upgraded or gone makes room for the next.
        drop(slot);
    }

    async fn route(&self, face: Face, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answer = match face {
            Face::Client => self.route_client(request, peer),
            Face::Internal => self.route_internal(request).await,
        };
        // Never the query string: tokens are in there.
        tracing::debug!(%peer, %method, path, status = answer.status().as_u16(), "request");
        answer
    }

    fn route_client(&self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/v1/connect" if *request.method() != Method::GET => respond::method_not_allowed("GET"),
            "/" | "/healthz" | "/readyz" if !is_get => respond::method_not_allowed("GET, HEAD"),
            "/v1/connect" => self.upgrade(request, peer),
            "/" => respond::text(
                StatusCode::OK,
                format!("This is a Switchboard node, for clients. It has:\n\n{CLIENT_PATHS}"),
            ),
            "/healthz" => ops::health(),
            "/readyz" => ops::ready_status(&*self.door),
            path => match path.strip_prefix("/docs").filter(|rest| rest.is_empty() || rest.starts_with('/')) {
                Some(_) if !is_get => respond::method_not_allowed("GET, HEAD"),
                Some(rest) => docs(rest.strip_prefix('/').unwrap_or(rest)),
                None => respond::text(
                    StatusCode::NOT_FOUND,
                    format!("Nothing is here. This listener has:\n\n{CLIENT_PATHS}"),
                ),
            },
        }
    }

    async fn route_internal(&self, request: Request<Incoming>) -> Answer {
        let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            path if path.starts_with("/v1/") => api::route(self, request).await,
            "/" | "/healthz" | "/readyz" | "/metrics" if !is_get => respond::method_not_allowed("GET, HEAD"),
            "/" => {
                let text =
                    format!("This is a Switchboard node, for back ends and operators. It has:\n\n{INTERNAL_PATHS}");
                respond::text(StatusCode::OK, text)
            }
            "/healthz" => ops::health(),
            "/readyz" => ops::ready_reason(&*self.door),
            "/metrics" => ops::metrics(&*self.door),
            _ => {
                respond::text(StatusCode::NOT_FOUND, format!("Nothing is here. This listener has:\n\n{INTERNAL_PATHS}"))
            }
        }
    }
}

/// What a code means; without one, or with one that is none, which there are.
fn docs(code: &str) -> Answer {
    if let Some(page) = doc_page(code) {
        return respond::text(StatusCode::OK, page);
    }
    let status = if code.is_empty() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let mut text = "Codes that have a page here:\n\n".to_owned();
    for code in ErrorCode::ALL {
        text.push_str(&format!("/docs/{}\n", code.as_str()));
    }
    for code in CloseCode::ALL {
        text.push_str(&format!("/docs/{}  {}\n", code.number(), code.as_str()));
    }
    respond::text(status, text)
}
