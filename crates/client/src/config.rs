//! What a client is told at its start.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use protocol::Encoding;

use crate::core::Settings;
use crate::wire::write::StartFrom;

/// Gives a token, now and whenever the last one has expired.
pub type TokenSource = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> + Send + Sync>;

/// Who the client is.
#[derive(Clone, Default)]
pub enum Credentials {
    /// The URL says it all, for example a ticket in `?token=`.
    #[default]
    Url,
    /// A user's bare name, for a node with `--auth none` (development).
    User(String),
    /// One token. When it has expired the client stops.
    Token(String),
    /// Asked for the first connection, and again when the server says that the token has expired (4002).
    Source(TokenSource),
}

impl Credentials {
    /// Credentials that are fetched. `fetch` gives the token, or why there is none.
    pub fn source<F, Answer>(fetch: F) -> Self
    where
        F: Fn() -> Answer + Send + Sync + 'static,
        Answer: Future<Output = Result<String, String>> + Send + 'static,
    {
        Self::Source(Arc::new(move || Box::pin(fetch())))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url => f.write_str("Url"),
            Self::User(user) => write!(f, "User({user:?})"),
            Self::Token(token) => write!(f, "Token({} bytes)", token.len()),
            Self::Source(_) => f.write_str("Source"),
        }
    }
}

/// How a client connects. [`Config::new`] has what almost everybody wants; the fields are public to change.
#[derive(Clone, Debug)]
pub struct Config {
    /// `ws://HOST:PORT`; `wss://` is not supported yet. It may carry a ticket, so `Debug` does not show its query.
    pub url: Url,
    pub credentials: Credentials,
    /// A name of this device that stays the same: cursors that are acknowledged are kept by the server under it. Without
    /// one the server keeps nothing.
    pub device: Option<String>,
    /// Where streams start for which there is no cursor; the server's default depends on the device and the stream.
    pub from: Option<StartFrom>,
    /// Where streams go on: what a [`crate::CursorTrail`] gave when the last process ended.
    pub cursors: Vec<(String, Vec<String>)>,
    pub encoding: Encoding,
    /// Be the only connection of this device: the others are closed with 4004, and so is this one by the next.
    pub exclusive: bool,
    /// Take arrays of frames: fewer, larger WebSocket messages.
    pub batch: bool,
    /// Read buffer of the socket, in bytes.
    pub read_buffer_bytes: usize,
    /// The largest message taken from the server, in bytes. A message may be larger than what a client may send, and a
    /// `history` answer holds up to 256 KiB of bodies.
    pub message_bytes_max: usize,
    /// Events that wait for the application, in bytes. When it is reached the socket is not read any more, and the
    /// server holds the messages back. Four times as much while a request waits for its answer, so that an application
    /// that sends before it takes the next event does not wait for itself.
    pub events_bytes_max: usize,
    /// For TCP and handshake, and again for `welcome`, in milliseconds.
    pub open_timeout_ms: u64,
    /// The first pause before coming back is below this, in milliseconds; each further one may be twice as long.
    pub backoff_base_ms: u64,
    /// No pause is longer.
    pub backoff_cap_ms: u64,
    /// Requests that are out without an answer; more wait in the client.
    pub in_flight_max: usize,
}

/// A URL whose `Debug` hides the query: tickets travel there.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(pub String);

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.split('?').next().unwrap_or_default();
        fmt::Debug::fmt(shown, f)
    }
}

impl Config {
    pub fn new(url: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            url: Url(url.into()),
            credentials,
            device: None,
            from: None,
            cursors: Vec::new(),
            exclusive: false,
            encoding: Encoding::Json,
            batch: true,
            read_buffer_bytes: 4 * 1024,
            message_bytes_max: 4 * 1024 * 1024,
            events_bytes_max: 1024 * 1024,
            open_timeout_ms: 10_000,
            backoff_base_ms: 250,
            backoff_cap_ms: 20_000,
            in_flight_max: 64,
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            encoding: self.encoding,
            device: self.device.clone(),
            renews_token: matches!(self.credentials, Credentials::Source(_)),
            from: self.from,
            exclusive: self.exclusive,
            batch: self.batch,
            cursors: self.cursors.clone(),
            open_timeout_ms: self.open_timeout_ms,
            backoff_base_ms: self.backoff_base_ms,
            backoff_cap_ms: self.backoff_cap_ms,
            in_flight_max: self.in_flight_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_credentials() {
        let mut config = Config::new("ws://h:1/?token=geheim", Credentials::Token("geheim".into()));
        assert!(!format!("{config:?}").contains("geheim"));
        config.credentials = Credentials::source(|| async { Ok("geheim".to_owned()) });
        assert!(!format!("{config:?}").contains("geheim"));
    }
}
