//! The server API on the internal listener: who may call, and what there is to call.

mod answer;
mod messages;
mod people;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use hyper::{Method, Request};
use protocol::ErrorCode;

use crate::config::{Origins, Secret, is_this_machine};
use crate::listener::bearer;
use crate::listener::http::Http;
use crate::listener::respond::{self, Answer};
use crate::metrics::Status;
use answer::{error, error_with_status};

/// Bytes of a request's body: a thousand messages of 1 KB.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Bytes that are read and thrown away beyond that, because a client that is still writing does not read the answer.
const IGNORED_BYTES_MAX: usize = 8 << 20;

const NOTHING_HERE: &str = "nothing is here: this version has POST /v1/send, PUT and DELETE \
                            /v1/groups/GROUP/members/USER, GET /v1/groups/GROUP/members, and GET /v1/presence";

/// Answers whatever begins with `/v1/`, and counts it.
pub(crate) async fn route(http: &Http, request: Request<Incoming>) -> Answer {
    let answer = call(http, request).await;
    http.door.metrics().api_requests.of(Status(answer.status().as_u16())).increment(1);
    answer
}

async fn call(http: &Http, request: Request<Incoming>) -> Answer {
    // Before anything else, so that who has no key does not learn what there is.
    if let Some(refusal) = refuse_caller(http.settings.api_key.as_ref(), request.headers()) {
        return refusal;
    }
    let (head, body) = request.into_parts();
    let call = match Call::read(&head.method, head.uri.path(), head.uri.query()) {
        Ok(call) => call,
        Err(Refused::Nothing) => return error(ErrorCode::NotFound, NOTHING_HERE),
        Err(Refused::Method(allowed)) => return not_allowed(allowed),
        Err(Refused::Input(message)) => return error(ErrorCode::BadRequest, &message),
    };
    let body = match tokio::time::timeout(http.settings.body_timeout, read(&head.headers, body)).await {
        Err(_) => return error_with_status(408, ErrorCode::BadRequest, "the body did not come within 10 seconds"),
        Ok(Err(answer)) => return answer,
        Ok(Ok(body)) => body,
    };
    match call {
        Call::Send => messages::send(&*http.door, &head.headers, &body).await,
        Call::People(_) if !body.is_empty() => error(ErrorCode::BadRequest, "this call takes no body"),
        Call::People(call) => people::answer(&*http.door, call).await,
    }
}

/// What there is to call.
enum Call {
    Send,
    People(people::Call),
}

/// Why nothing is called.
enum Refused {
    /// There is no such path.
    Nothing,
    /// The path takes these methods only.
    Method(&'static str),
    /// What is wrong with the path or its query.
    Input(String),
}

impl Call {
    /// Which one is meant, or why none is.
    fn read(method: &Method, path: &str, query: Option<&str>) -> Result<Self, Refused> {
        if path == "/v1/send" {
            return if *method == Method::POST { Ok(Self::Send) } else { Err(Refused::Method("POST")) };
        }
        people::Call::read(method, path, query).unwrap_or(Err(Refused::Nothing)).map(Self::People)
    }
}

/// The path exists, the method does not.
fn not_allowed(allowed: &'static str) -> Answer {
    let answer = error_with_status(405, ErrorCode::BadRequest, &format!("this path takes {allowed} only"));
    respond::with(answer, ALLOW, HeaderValue::from_static(allowed))
}

/// The whole body, or 413.
async fn read(headers: &HeaderMap, mut body: Incoming) -> Result<Bytes, Answer> {
    let too_large = || {
        let text = format!("the body is larger than {BODY_BYTES_MAX} bytes: send fewer messages a call");
        error(ErrorCode::TooLarge, &text)
    };
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    // Who asks first is told before he sends.
    if headers.contains_key(EXPECT) && length.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let mut whole = Vec::with_capacity(length.unwrap_or_default().min(BODY_BYTES_MAX));
    let mut count = 0usize;
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|_| error(ErrorCode::BadRequest, "the body ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        count += data.len();
        if count <= BODY_BYTES_MAX {
            whole.extend_from_slice(&data);
        } else if count > BODY_BYTES_MAX + IGNORED_BYTES_MAX {
            break;
        }
    }
    if count > BODY_BYTES_MAX { Err(too_large()) } else { Ok(Bytes::from(whole)) }
}

/// Asks for the key, and refuses pages of elsewhere: a browser on the operator's machine reaches loopback, too.
fn refuse_caller(key: Option<&Secret>, headers: &HeaderMap) -> Option<Answer> {
    if let Some(origin) = headers.get(ORIGIN) {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        // Without a key a name that points at this machine would be enough.
        let is_home = key.is_some() || host.is_some_and(is_this_machine);
        if !is_home || !origin.to_str().is_ok_and(|origin| Origins::SameHost.allow(origin, host)) {
            return Some(error(ErrorCode::Forbidden, "pages of other origins may not call the server API"));
        }
    }
    let key = key?.reveal().as_bytes();
    if bearer(headers).is_some_and(|given| is_equal(given.as_bytes(), key)) {
        return None;
    }
    let text = "expected `Authorization: Bearer API_KEY` with the node's `api-key`";
    Some(respond::with(error(ErrorCode::Unauthorized, text), WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
}

/// Compares without telling by its time how many bytes were right; only the length shows.
fn is_equal(given: &[u8], expected: &[u8]) -> bool {
    let differing = given.iter().zip(expected).fold(0, |differing, (a, b)| std::hint::black_box(differing | (a ^ b)));
    given.len() == expected.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_is_equal() {
        assert!(is_equal(b"key", b"key"));
        for wrong in [&b""[..], b"ke", b"keyx", b"kex", b"Key"] {
            assert!(!is_equal(wrong, b"key"), "{wrong:?}");
        }
    }
}
