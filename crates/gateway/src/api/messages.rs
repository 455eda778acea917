//! `POST /v1/send`: one message, or an array of them.
//!
//! A body passes unparsed, as the bytes that came. The messages of one call are sent in their order and are under way
//! together; each is answered for itself.

use std::task::Poll;

use bytes::Bytes;
use connection::SendFault;
use futures_util::future::join_all;
use futures_util::poll;
use hyper::header::HeaderMap;
use protocol::client::Body;
use protocol::client::fields::{Fields, split};
use protocol::node::Encoding;
use protocol::{Address, ErrorCode, MessageId, ServiceName};

use super::answer::{Outcome, error};
use crate::door::{BoxFuture, Door, OutgoingMessage, SendAnswer};
use crate::listener::respond::Answer;

/// Messages of one call: about as many as one append batch takes.
const MESSAGES_MAX: usize = 1_000;

const FIELDS: [&str; 9] = ["to", "body", "id", "retry", "age_ms", "from", "ephemeral", "expires_ms", "ack"];

/// A header of RFC draft-ietf-httpapi-idempotency-key-header, and of everybody's habit: the message's id.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Executes one call.
pub(super) async fn send(door: &dyn Door, headers: &HeaderMap, body: &Bytes) -> Answer {
    let maps = match split(Encoding::Json, body) {
        Ok(maps) => maps,
        Err(e) => {
            return error(ErrorCode::BadRequest, &format!("the body: expected a JSON map, or an array of maps ({e})"));
        }
    };
    let key = match headers
        .get(IDEMPOTENCY_KEY)
        .map(|value| value.to_str().ok().and_then(|text| MessageId::parse(text).ok()))
    {
        Some(None) => return error(ErrorCode::BadRequest, "`Idempotency-Key`: expected an ID of 1-128 bytes"),
        Some(key) => key,
        None => None,
    };
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        let Some(fields) = maps.first() else { return error(ErrorCode::BadRequest, "the body is empty") };
        return match (Reader { whole: body, fields }).message(key) {
            Err(outcome) => outcome.into_answer(),
            Ok(message) => {
                let id = Some(message.id.to_string());
                Outcome { id, result: door.send(message).await }.into_answer()
            }
        };
    }
    if key.is_some() {
        return error(ErrorCode::BadRequest, "`Idempotency-Key` names one message: in an array, give each its `id`");
    }
    if maps.len() > MESSAGES_MAX {
        return error(ErrorCode::TooLarge, &format!("expected at most {MESSAGES_MAX} messages, got {}", maps.len()));
    }
    let read = |fields: &Fields<'_>| Reader { whole: body, fields }.message(None);
    Outcome::list(&send_all(door, maps.iter().map(read).collect()).await)
}

/// A message of an array after its first poll.
enum Step<'d> {
    Done(Outcome),
    UnderWay(Option<String>, BoxFuture<'d, Result<SendAnswer, SendFault>>),
}

impl Step<'_> {
    async fn end(self) -> Outcome {
        match self {
            Self::Done(outcome) => outcome,
            Self::UnderWay(id, sending) => Outcome { id, result: sending.await },
        }
    }
}

/// Sends those that can be sent. Each is polled once in its order, which puts it in line; then all are waited for.
async fn send_all(door: &dyn Door, messages: Vec<Result<OutgoingMessage, Outcome>>) -> Vec<Outcome> {
    let mut steps = Vec::with_capacity(messages.len());
    for message in messages {
        steps.push(match message {
            Err(outcome) => Step::Done(outcome),
            Ok(message) => {
                let id = Some(message.id.to_string());
                let mut sending = door.send(message);
                match poll!(&mut sending) {
                    Poll::Ready(result) => Step::Done(Outcome { id, result }),
                    Poll::Pending => Step::UnderWay(id, sending),
                }
            }
        });
    }
    join_all(steps.into_iter().map(Step::end)).await
}

/// Reads the fields of one map, with errors that say which field, what was expected and what came.
struct Reader<'f, 'a> {
    whole: &'f Bytes,
    fields: &'f Fields<'a>,
}

impl<'a> Reader<'_, 'a> {
    /// The message, or the answer to what is none.
    fn message(&self, key: Option<MessageId>) -> Result<OutgoingMessage, Outcome> {
        let refuse = |id: Option<&MessageId>, code, message| {
            let fault = SendFault { code, message, retry_ms: None, is_final: false };
            Outcome { id: id.map(ToString::to_string), result: Err(fault) }
        };
        let own = self.id().map_err(|message| refuse(key.as_ref(), ErrorCode::BadRequest, message))?;
        if own.is_some() && key.is_some() && own != key {
            let message = "`Idempotency-Key` and `id` differ: give one of them, or the same twice".to_owned();
            return Err(refuse(own.as_ref(), ErrorCode::Conflict, message));
        }
        let id = own.or(key);
        self.read(id.clone()).map_err(|message| refuse(id.as_ref(), ErrorCode::BadRequest, message))
    }

    fn read(&self, id: Option<MessageId>) -> Result<OutgoingMessage, String> {
        if let Some((name, _)) = self.fields.iter().find(|(name, _)| !FIELDS.contains(name)) {
            let name: String = name.chars().take(40).collect();
            return Err(format!("`{name}` is no field of a message: expected {}", FIELDS.join(", ")));
        }
        let to = self.address("to")?.ok_or("`to` is missing: expected an address")?;
        let raw = self.fields.get("body").ok_or("`body` is missing: expected any value")?;
        if let Some(refusal) = raw.refusal {
            return Err(format!("`body`: {refusal}"));
        }
        let (ephemeral, retry) = (self.fields.bool("ephemeral")?, self.fields.bool("retry")?);
        if ephemeral && retry {
            return Err("`retry`: an ephemeral message is kept nowhere, so there is nothing to find again".to_owned());
        }
        let retry_age_ms = match (retry, self.fields.number("age_ms")?) {
            (false, _) => None,
            (true, None) => return Err("`age_ms` is missing: expected the milliseconds since the first try".to_owned()),
            (true, age) => age,
        };
        if matches!(to, Address::Device(..)) && !ephemeral {
            return Err(
                "`to`: one device takes ephemeral messages only; expected user:ID, or `ephemeral: true`".to_owned()
            );
        }
        let expires_ms = self.fields.number("expires_ms")?;
        if expires_ms == Some(0) {
            return Err("`expires_ms`: expected at least 1 millisecond, got 0".to_owned());
        }
        let replicated = match self.fields.text("ack")?.as_deref() {
            None | Some("stored") => false,
            Some("replicated") if ephemeral => {
                return Err("`ack`: an ephemeral message is kept nowhere, so no replica can have it".to_owned());
            }
            Some("replicated") => true,
            Some(other) => {
                let other: String = other.chars().take(40).collect();
                return Err(format!("`ack`: expected \"stored\" or \"replicated\", got {other:?}"));
            }
        };
        let from = match self.address("from")? {
            Some(from) => from,
            None => Address::Service(ServiceName::parse("api").map_err(|e| e.to_string())?),
        };
        let id = match id {
            Some(id) => id,
            None => MessageId::parse(&format!("{:032x}", rand::random::<u128>())).map_err(|e| e.to_string())?,
        };
        let body = Body { encoding: Encoding::Json, bytes: self.whole.slice_ref(raw.bytes) };
        Ok(OutgoingMessage { to, from, id, body, ephemeral, retry_age_ms, expires_ms, replicated })
    }

    fn id(&self) -> Result<Option<MessageId>, String> {
        self.fields.text("id")?.map(|text| MessageId::parse(&text).map_err(|e| format!("`id`: {e}"))).transpose()
    }

    fn address(&self, name: &str) -> Result<Option<Address>, String> {
        self.fields.text(name)?.map(|text| Address::parse(&text).map_err(|e| format!("`{name}`: {e}"))).transpose()
    }
}
