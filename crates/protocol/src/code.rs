//! Codes that clients see, each with its retry rule and its paragraph at `/docs/CODE`.

/// The code of an `error` frame. An error answers one frame and never closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    RateLimited,
    Overloaded,
    Unavailable,
    UnknownOutcome,
    TooLarge,
    Conflict,
}

impl ErrorCode {
    pub const ALL: [Self; 10] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::RateLimited,
        Self::Overloaded,
        Self::Unavailable,
        Self::UnknownOutcome,
        Self::TooLarge,
        Self::Conflict,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::UnknownOutcome => "unknown_outcome",
            Self::TooLarge => "too_large",
            Self::Conflict => "conflict",
        }
    }

    /// The status of the server API's answer.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::RateLimited => 429,
            Self::Overloaded | Self::Unavailable | Self::UnknownOutcome => 503,
        }
    }

    /// What it means and what to do: one paragraph, shown at `/docs/CODE`.
    pub const fn doc(self) -> &'static str {
        match self {
            Self::BadRequest => {
                "The frame could be read, but a field is missing, has another type, or holds what is no ID, address or \
                 number in range. The message names the field, what was expected and what came. Nothing was executed. \
                 Correct the frame; sending it again unchanged gives the same answer."
            }
            Self::Unauthorized => {
                "No credentials came, or they are not valid: a token that is malformed, signed with another key, not yet \
                 valid, or an API key that is not the configured one. Nothing was executed. Get a new token; a token is \
                 made for development with `switchboard token --user USER`."
            }
            Self::Forbidden => {
                "The credentials are valid, but do not allow this: to send to, join or look at that address. Nothing was \
                 executed. What a token allows is in its claims `can` and `groups`; what a token without `can` allows is \
                 the node's configuration."
            }
            Self::NotFound => "There is nothing by that name. Nothing was executed.",
            Self::RateLimited => {
                "More frames came than this connection may send (by default 100 a second, 200 at once). The frame was not \
                 executed; send it again after `retry_ms`. A client that goes on for 10 seconds without a pause is closed \
                 with 4504."
            }
            Self::Overloaded => {
                "A queue of this node is full. Nothing was stored. Send the frame again after `retry_ms`, with the same id."
            }
            Self::Unavailable => {
                "The node cannot reach its backplane (Redis), or the backplane refuses to write. Nothing was stored. Send \
                 the frame again after `retry_ms`, with the same id. Connections stay open meanwhile, and `/readyz` of the \
                 node says why."
            }
            Self::UnknownOutcome => {
                "The node does not know whether the message was stored: its backplane did not answer in time. Send it \
                 again with the same id, `retry: true` and `age_ms`, the time since the first try: it is stored once, \
                 whatever became of the first. With `final: true` the search for the first try reached its bound, and \
                 asking again cannot tell more."
            }
            Self::TooLarge => "The request is larger than the limit that the message names. Nothing was executed.",
            Self::Conflict => {
                "Two fields that must agree do not, for example the header `Idempotency-Key` and the field `id`. Nothing \
                 was executed."
            }
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }
}

/// Why a connection ends, as the WebSocket close code and in `bye`. 4000-4499: do not come back unchanged;
/// 4500-4999: come back, with the cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    Normal,
    GoingAway,
    Protocol,
    Unsupported,
    NotUtf8,
    TooBig,
    Internal,
    BadFrame,
    Unauthorized,
    TokenExpired,
    Forbidden,
    Replaced,
    Kicked,
    TooManyConnections,
    Draining,
    HeartbeatTimeout,
    SlowConsumer,
    BackplaneUnavailable,
    RateLimited,
    Rebalance,
    HelloTimeout,
}

impl CloseCode {
    pub const ALL: [Self; 21] = [
        Self::Normal,
        Self::GoingAway,
        Self::Protocol,
        Self::Unsupported,
        Self::NotUtf8,
        Self::TooBig,
        Self::Internal,
        Self::BadFrame,
        Self::Unauthorized,
        Self::TokenExpired,
        Self::Forbidden,
        Self::Replaced,
        Self::Kicked,
        Self::TooManyConnections,
        Self::Draining,
        Self::HeartbeatTimeout,
        Self::SlowConsumer,
        Self::BackplaneUnavailable,
        Self::RateLimited,
        Self::Rebalance,
        Self::HelloTimeout,
    ];

    pub const fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::NotUtf8 => 1007,
            Self::TooBig => 1009,
            Self::Internal => 1011,
            Self::BadFrame => 4000,
            Self::Unauthorized => 4001,
            Self::TokenExpired => 4002,
            Self::Forbidden => 4003,
            Self::Replaced => 4004,
            Self::Kicked => 4005,
            Self::TooManyConnections => 4006,
            Self::Draining => 4500,
            Self::HeartbeatTimeout => 4501,
            Self::SlowConsumer => 4502,
            Self::BackplaneUnavailable => 4503,
            Self::RateLimited => 4504,
            Self::Rebalance => 4505,
            Self::HelloTimeout => 4506,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::GoingAway => "going_away",
            Self::Protocol => "protocol_error",
            Self::Unsupported => "unsupported_data",
            Self::NotUtf8 => "not_utf8",
            Self::TooBig => "too_big",
            Self::Internal => "internal",
            Self::BadFrame => "bad_frame",
            Self::Unauthorized => "unauthorized",
            Self::TokenExpired => "token_expired",
            Self::Forbidden => "forbidden",
            Self::Replaced => "replaced",
            Self::Kicked => "kicked",
            Self::TooManyConnections => "too_many_connections",
            Self::Draining => "draining",
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::SlowConsumer => "slow_consumer",
            Self::BackplaneUnavailable => "backplane_unavailable",
            Self::RateLimited => "rate_limited",
            Self::Rebalance => "rebalance",
            Self::HelloTimeout => "hello_timeout",
        }
    }

    /// What it means and what to do: one paragraph, shown at `/docs/CODE`.
    pub const fn doc(self) -> &'static str {
        match self {
            Self::Normal => "The connection ended as one of both sides wished.",
            Self::GoingAway => "The other side went away, for example a page that was left.",
            Self::Protocol => {
                "The bytes break RFC 6455. A client library or something between does not speak WebSocket as it should. \
                 The message being sent has failed and is not sent again."
            }
            Self::Unsupported => {
                "A text frame came on a connection that speaks MessagePack, or a binary frame on one that speaks JSON. \
                 Choose the encoding by subprotocol (`switchboard.v1.json`, `switchboard.v1.msgpack`) or `?format=`."
            }
            Self::NotUtf8 => "A text frame is not UTF-8.",
            Self::TooBig => "A frame or message has more bytes than `max_bytes` in `welcome` allows.",
            Self::Internal => "The node met a fault of its own. Come back, with the cursors.",
            Self::BadFrame => {
                "A frame is not JSON or MessagePack, has bytes behind its end, is no map or array of maps, is nested deeper \
                 than 32, or the first frame was no `hello`. The client has to be corrected before it comes back."
            }
            Self::Unauthorized => {
                "The credentials are missing or not valid. The upgrade was completed all the same, because browsers and \
                 mini-programs cannot see a refused one. Come back with a valid token."
            }
            Self::TokenExpired => "The token has expired. Come back with a new token, with the cursors.",
            Self::Forbidden => "The credentials are valid, but this user may not connect here.",
            Self::Replaced => "The same device connected elsewhere and asked to be the only one.",
            Self::Kicked => "The operator or the application's back end closed this connection.",
            Self::TooManyConnections => "This user has as many connections as are allowed.",
            Self::Draining => {
                "The node is being stopped, for example for an update. Come back with the cursors after `reconnect_ms`; \
                 nothing is lost."
            }
            Self::HeartbeatTimeout => {
                "Nothing at all came from the client for two heartbeats, not even the pong that every WebSocket library \
                 sends by itself. The network is gone or the client was suspended. Come back, with the cursors."
            }
            Self::SlowConsumer => {
                "The client did not read what was sent to it. Nothing durable is lost: come back, with the cursors."
            }
            Self::BackplaneUnavailable => {
                "The node cannot reach its backplane (Redis) and cannot open a session. Come back after `reconnect_ms`, \
                 with the cursors."
            }
            Self::RateLimited => {
                "The client sent more frames than it may for 10 seconds without a pause. Come back, and send less."
            }
            Self::Rebalance => "The fleet has grown, and this connection moves. Come back, with the cursors.",
            Self::HelloTimeout => {
                "No `hello` came within 8 seconds after the upgrade. It is always the first frame, unless the request had \
                 credentials and `?auto=1`."
            }
        }
    }

    /// True if a client comes back with what it has; false if something has to change first.
    pub const fn is_retryable(self) -> bool {
        !matches!(self.number(), 4000..=4499) || matches!(self, Self::TokenExpired)
    }

    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }
}

/// The paragraph for what stands behind `/docs/`: an error code's name, or a close code's number or name.
pub fn doc_page(code: &str) -> Option<String> {
    let close = CloseCode::ALL.into_iter().find(|c| c.number().to_string() == code || c.as_str() == code);
    let error = ErrorCode::from_name(code);
    let mut page = String::new();
    if let Some(error) = error {
        page.push_str(&format!("error {}\n\n{}\n", error.as_str(), error.doc()));
    }
    if let Some(close) = close {
        let gap = if page.is_empty() { "" } else { "\n" };
        page.push_str(&format!("{gap}close {} {}\n\n{}\n", close.number(), close.as_str(), close.doc()));
    }
    (!page.is_empty()).then_some(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_name_number_and_page() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_name(code.as_str()), Some(code));
            assert!(doc_page(code.as_str()).unwrap().contains(code.doc()));
        }
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_number(code.number()), Some(code));
            assert!(doc_page(&code.number().to_string()).unwrap().contains(code.doc()));
            assert!(doc_page(code.as_str()).is_some());
        }
        assert_eq!(doc_page("nothing"), None);
    }

    #[test]
    fn the_range_of_a_close_code_says_whether_to_come_back() {
        for code in CloseCode::ALL {
            let expected = match code.number() {
                4002 => true,
                4000..=4499 => false,
                _ => true,
            };
            assert_eq!(code.is_retryable(), expected, "{code:?}");
        }
    }
}
