//! From `GET /v1/connect` to a WebSocket.
//!
//! Refused before the upgrade: what is no handshake, what cannot be understood, and pages of other origins. Credentials
//! are taken along but not looked at: the connection does that after the upgrade, because browsers and mini-programs
//! cannot see why an upgrade was refused.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use connection::{Credential, Opening};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use protocol::client::Codec;
use protocol::limits::HISTORY_BYTES_MAX;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::http::Http;
use super::query::Query;
use super::respond::{self, Answer};
use crate::config::{Origins, is_this_machine};
use crate::door::Door;
use crate::driver::Counted;
use crate::metrics::UpgradeRefusal;

/// Bytes that are read from a socket at once. Allocated for every connection and held while it is idle, so it is small;
/// a larger frame grows the buffer for itself.
const READ_BUFFER_BYTES: usize = 1_024;

/// Bytes of frames collected before they are written without being asked to.
const WRITE_BUFFER_BYTES: usize = 4 * 1_024;

/// How much a body can grow when it is translated: a control character is one byte in MessagePack and six in JSON.
const GROWTH_MAX: usize = 8;

/// A request that does not become a WebSocket.
struct Refusal {
    why: UpgradeRefusal,
    status: StatusCode,
    text: String,
}

impl Http {
    /// Answers `GET /v1/connect`; if it is 101, the connection goes on in a task of its own.
    pub(super) fn upgrade(&self, mut request: Request<Incoming>, peer: SocketAddr) -> Answer {
        match self.handshake(&request) {
            Ok((opening, answer)) => {
                let on_upgrade = hyper::upgrade::on(&mut request);
                let config = web_socket_config(self.settings.max_bytes);
                tokio::spawn(hand_over(on_upgrade, config, Arc::clone(&self.door), opening, peer));
                answer
            }
            Err(refusal) => {
                self.door.metrics().upgrades_refused.of(refusal.why).increment(1);
                let answer = respond::text(refusal.status, refusal.text);
                if refusal.status != StatusCode::UPGRADE_REQUIRED {
                    return answer;
                }
                let answer = respond::with(answer, UPGRADE, HeaderValue::from_static("websocket"));
                respond::with(answer, SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
            }
        }
    }

    fn handshake(&self, request: &Request<Incoming>) -> Result<(Opening, Answer), Refusal> {
        let headers = request.headers();
        check_origin(&self.settings.origins, headers, self.settings.takes_users)?;
        let says = |name: HeaderName, text: &str| {
            headers.get(name).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(text.as_bytes()))
        };
        if !says(UPGRADE, "websocket") || !says(SEC_WEBSOCKET_VERSION, "13") {
            return Err(Refusal {
                why: UpgradeRefusal::NotUpgrade,
                status: StatusCode::UPGRADE_REQUIRED,
                text: "This path takes WebSockets (RFC 6455, version 13) only.".to_owned(),
            });
        }
        let empty = || Full::new(Bytes::new());
        let mut answer = create_response_with_body(request, empty).map_err(|e| Refusal {
            why: UpgradeRefusal::Handshake,
            status: StatusCode::BAD_REQUEST,
            text: format!("This is no WebSocket handshake: {e}."),
        })?;
        let opening = self.opening(request).map_err(|text| Refusal {
            why: UpgradeRefusal::Query,
            status: StatusCode::BAD_REQUEST,
            text,
        })?;
        let (opening, is_offered) = opening;
        // A client that offered nothing must not get an answer to it: it would have to fail the handshake.
        if is_offered {
            let name = HeaderValue::from_static(opening.codec.subprotocol());
            answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
        }
        Ok((opening, answer))
    }

    /// What the request says, and whether its subprotocol is to be echoed.
    fn opening(&self, request: &Request<Incoming>) -> Result<(Opening, bool), String> {
        let headers = request.headers();
        let query = Query::parse(request.uri().query().unwrap_or_default())?;
        let format = match query.format.as_deref() {
            None => None,
            Some(name @ ("json" | "msgpack")) => Codec::from_name(name),
            Some(_) => return Err("`format` has another value: expected json or msgpack.".to_owned()),
        };
        let auto = match query.auto.as_deref() {
            None | Some("0") => false,
            Some("1") => true,
            Some(_) => return Err("`auto` has another value: expected 1 or 0.".to_owned()),
        };
        let offered = offered_codec(headers);
        // Where users are taken at their word; else a token is what counts, and `hello` may still bring one.
        let user = query.user.filter(|_| self.settings.takes_users).map(Credential::User);
        let token = bearer(headers).or(query.token).map(Credential::Token);
        let opening = Opening {
            codec: offered.or(format).unwrap_or(Codec::JSON),
            credential: token.or(user),
            auto,
            cursor: query.cursor,
        };
        Ok((opening, offered.is_some()))
    }
}

fn check_origin(origins: &Origins, headers: &HeaderMap, takes_users: bool) -> Result<(), Refusal> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    // Two of them are as good as none that can be believed.
    let is_one = headers.get_all(ORIGIN).iter().count() == 1;
    // Where nobody has to show who he is, the page's own host has to be this machine, not a name that points at it.
    let is_home = !takes_users || matches!(origins, Origins::List(_)) || host.is_some_and(is_this_machine);
    if is_one && is_home && origin.to_str().is_ok_and(|origin| origins.allow(origin, host)) {
        return Ok(());
    }
    Err(Refusal {
        why: UpgradeRefusal::Origin,
        status: StatusCode::FORBIDDEN,
        text:
            "Pages of this origin may not connect. The node's setting `origins` lists those that may; by default it is \
               the page's own host."
                .to_owned(),
    })
}

/// The first offered subprotocol that we speak.
fn offered_codec(headers: &HeaderMap) -> Option<Codec> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(str::trim);
    // The short names are for `?format=` only.
    names.filter_map(|name| Codec::from_name(name).filter(|codec| codec.subprotocol() == name)).next()
}

/// The token of `Authorization: Bearer TOKEN`; other schemes are somebody else's.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = String::from_utf8_lossy(headers.get(AUTHORIZATION)?.as_bytes());
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

fn web_socket_config(max_bytes: u64) -> WebSocketConfig {
    let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
    // Only a bound: nothing is allocated for it. It must hold the largest single frame that we ever write, a `history`
    // answer with one body more than it should have, or that frame could not be written at all.
    let written_max = GROWTH_MAX * HISTORY_BYTES_MAX.saturating_add(max_bytes);
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(written_max)
        .max_message_size(Some(max_bytes))
        .max_frame_size(Some(max_bytes))
}

/// Takes the socket back from hyper, with what was read too far, and gives it to the node. The connection runs in
/// another task, so that of all this nothing is held while it lives.
async fn hand_over(
    on_upgrade: OnUpgrade,
    config: WebSocketConfig,
    door: Arc<dyn Door>,
    opening: Opening,
    peer: SocketAddr,
) {
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        Err(e) => return tracing::debug!(%peer, error = %e, "the peer left during the upgrade"),
    };
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        return tracing::error!("an upgraded connection is no TCP socket");
    };
    let (stream, early) = (parts.io.into_inner(), parts.read_buf.to_vec());
    let stream = Counted::new(stream);
    let socket = WebSocketStream::from_partially_read(stream, early, Role::Server, Some(config)).await;
    tokio::spawn(door.open(socket, opening, peer));
}
