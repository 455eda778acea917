//! Why a request has no answer, why the client stopped, and why an address is none. Every variant says what the caller
//! may do next.

/// Why a request was not answered with what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Never sent: an address, ID or body that no server takes. Correct it.
    #[error("{0}")]
    Invalid(String),
    /// Never sent: the frame has more bytes than the server takes. Send less.
    #[error("the frame has {bytes} bytes, and the server takes at most {bytes_max}")]
    TooLarge { bytes: u64, bytes_max: u64 },
    /// The server said no. Sending it again unchanged gives the same answer. `code` is one of the protocol's error
    /// codes, for example `forbidden`.
    #[error("the server answered {code}: {message}")]
    Rejected { code: String, message: String },
    /// The server searched for an earlier try of this message up to its bound, and cannot tell whether it was stored.
    /// Nothing was stored by the last try. Asking again cannot tell more.
    #[error("whether the message was stored cannot be found out any more: {message}")]
    UnknownOutcome { message: String },
    /// The connection was closed because of this frame (1002, 1003, 1007 or 1009). It has failed and is not sent again.
    #[error("the connection was closed with {close_code} because of this frame")]
    Refused { close_code: u16 },
    /// No answer came until the deadline. With `maybe_stored` a try is out whose outcome is not known: sending the same
    /// id again, with [`crate::SendOptions::retry_age_ms`], stores it once.
    #[error("no answer came until the deadline")]
    Deadline { maybe_stored: bool },
    /// Ephemeral messages only: there is no connection at this moment, and they are not kept for later.
    #[error("not connected, and an ephemeral message is not kept for later")]
    NotConnected,
    /// Ephemeral messages only: the connection ended before the answer. It may have arrived; it is never sent twice.
    #[error("the connection ended before the answer came")]
    Lost,
    /// The client has stopped; nothing is sent any more. Why is the last event, [`crate::Event::Stopped`].
    #[error("the client has stopped")]
    Stopped,
}

/// The error of [`crate::Client::send`].
pub type SendError = RequestError;

/// Why a client does not come back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// [`crate::Client::close`] was called, or nobody holds a handle or the events any more.
    #[error("closed by this side")]
    Own,
    /// The server closed with a code that says not to come back unchanged (4000-4499).
    #[error("the server closed with {code}: {reason}")]
    Closed { code: u16, reason: String },
    /// The token has expired, and there is no source for a new one, or the source failed.
    #[error("no new token: {0}")]
    NoToken(String),
}

/// Why a URL cannot be connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("{0:?} is no URL of a gateway: expected ws://HOST:PORT")]
    Syntax(String),
    #[error(
        "wss:// is not supported by this client yet: expected ws://HOST:PORT; end TLS in a proxy beside the client, or \
         use a network that is private"
    )]
    Tls,
    #[error("{0:?} is not a scheme of a gateway: expected ws://HOST:PORT")]
    Scheme(String),
}

/// Why a socket could not be opened. Every one of them is worth another try after a pause.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{host} could not be resolved: {error}")]
    Resolve { host: String, error: std::io::Error },
    #[error("no TCP connection to {address}: {error}")]
    Connect { address: std::net::SocketAddr, error: std::io::Error },
    #[error("the server refused the WebSocket with HTTP status {status}")]
    Http { status: u16 },
    #[error("the WebSocket handshake failed: {0}")]
    Handshake(String),
    #[error("no WebSocket within {0} ms")]
    Timeout(u64),
}
