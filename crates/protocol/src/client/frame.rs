//! What clients say.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use super::fields::{Fields, Raw, unexpected};
use crate::address::Address;
use crate::cursor::Cursor;
use crate::ids::{DeviceId, MessageId};
use crate::limits::{CURSORS_MAX, HISTORY_LIMIT_MAX, STREAMS_MAX};
use crate::node::Encoding;

/// One frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame {
    Hello(Hello),
    Send(Send),
    /// The device has everything up to `cursor` (`None`: one that cannot be read).
    Ack {
        of: Address,
        cursor: Cursor,
    },
    History {
        id: MessageId,
        of: Address,
        before: Option<Cursor>,
        limit: u64,
    },
    Ping {
        id: Option<MessageId>,
    },
}

/// The first frame.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// Only named where the hello is refused: its answer is `welcome`.
    pub id: Option<MessageId>,
    pub token: Option<String>,
    pub device: Option<DeviceId>,
    /// By stream; newest first. `None` stands for a cursor that cannot be read.
    pub cursors: Vec<StreamCursors>,
    pub from: Option<From>,
    /// The client takes arrays of frames.
    pub batch: bool,
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token_bytes = self.token.as_ref().map(String::len);
        f.debug_struct("Hello")
            .field("id", &self.id)
            .field("token_bytes", &token_bytes)
            .field("device", &self.device)
            .field("cursors", &self.cursors)
            .field("from", &self.from)
            .field("batch", &self.batch)
            .finish()
    }
}

/// A stream and its cursors.
pub type StreamCursors = (Address, Vec<Option<Cursor>>);

/// Where a stream starts that has no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Oldest,
    Now,
}

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    pub id: MessageId,
    pub to: Address,
    pub body: Body,
    pub ephemeral: bool,
    /// Milliseconds since the first try, if this is not the first.
    pub retry_age_ms: Option<u64>,
    pub expires_ms: Option<u64>,
    /// `ack: "replicated"`: `sent` waits until a replica has it.
    pub replicated: bool,
}

/// A body as it came, unparsed. `Debug` prints its length only.
#[derive(Clone, PartialEq, Eq)]
pub struct Body {
    pub encoding: Encoding,
    pub bytes: Bytes,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({:?}, {} bytes)", self.encoding, self.bytes.len())
    }
}

/// Why one frame cannot be executed; answered with `bad_request`, and the connection stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameError {
    /// The frame's `id`, where it could be read.
    pub id: Option<MessageId>,
    /// The field, what was expected, and what came.
    pub message: String,
    /// It was meant to be a `hello`: before the session is open anything else ends the connection.
    pub is_hello: bool,
}

impl ClientFrame {
    /// Reads the fields of one map. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`FrameError`] names the field and what was expected.
    pub fn read(frame: &Bytes, fields: &Fields<'_>) -> Result<Self, FrameError> {
        let reader = FieldReader { fields };
        reader.frame(frame).map_err(|message| {
            let id = fields.get("id").and_then(|raw| raw.text()).and_then(|text| MessageId::parse(&text).ok());
            let is_hello = fields.get("type").and_then(|raw| raw.text()).is_some_and(|kind| kind == "hello");
            FrameError { id, message, is_hello }
        })
    }
}

/// Reads fields with errors that say which field, what was expected and what came.
struct FieldReader<'f, 'a> {
    fields: &'f Fields<'a>,
}

const TYPES: &str = "hello, send, ack, history or ping";

impl<'a> FieldReader<'_, 'a> {
    fn frame(&self, frame: &Bytes) -> Result<ClientFrame, String> {
        let kind = self.fields.text("type")?.ok_or_else(|| format!("`type` is missing: expected {TYPES}"))?;
        match &*kind {
            "send" => self.send(frame).map(ClientFrame::Send),
            "hello" => self.hello().map(ClientFrame::Hello),
            "ack" => Ok(ClientFrame::Ack {
                of: self.address("of")?,
                cursor: self.cursor("cursor")?.ok_or_else(|| missing("cursor", "a cursor"))?,
            }),
            "history" => self.history(),
            "ping" => Ok(ClientFrame::Ping { id: self.fields.text("id")?.map(|text| parse_id(&text)).transpose()? }),
            other => Err(format!("`type` {} is none of this protocol: expected {TYPES}", shown(other))),
        }
    }

    fn hello(&self) -> Result<Hello, String> {
        let device = self
            .fields
            .text("device")?
            .map(|text| DeviceId::parse(&text).map_err(|e| format!("`device`: {e}")))
            .transpose()?;
        let from = match self.fields.text("from")?.as_deref() {
            None => None,
            Some("oldest") => Some(From::Oldest),
            Some("now") => Some(From::Now),
            Some(other) => return Err(format!("`from`: expected \"oldest\" or \"now\", got {}", shown(other))),
        };
        Ok(Hello {
            id: self.fields.text("id")?.map(|text| parse_id(&text)).transpose()?,
            token: self.fields.text("token")?.map(Cow::into_owned),
            device,
            cursors: self.cursors()?,
            from,
            batch: self.fields.bool("batch")?,
        })
    }

    fn cursors(&self) -> Result<Vec<StreamCursors>, String> {
        const EXPECTED: &str = "a map from stream to a cursor or an array of cursors";
        let Some(raw) = self.fields.present("cursors") else { return Ok(Vec::new()) };
        let map = raw.map().ok_or_else(|| unexpected("cursors", EXPECTED, &raw))?;
        let mut streams = Vec::new();
        for (key, value) in map.iter() {
            let of = Address::parse(key).map_err(|e| format!("`cursors`: {} is no stream: {e}", shown(key)))?;
            let one = |raw: &Raw<'_>| {
                raw.text().map(|t| Cursor::from_text(&t)).ok_or_else(|| unexpected("cursors", EXPECTED, raw))
            };
            let list = match value.array() {
                Some(list) => list.iter().map(one).collect::<Result<Vec<_>, _>>()?,
                None => vec![one(&value)?],
            };
            if list.len() > CURSORS_MAX {
                return Err(format!(
                    "`cursors`: expected at most {CURSORS_MAX} cursors of a stream, got {}",
                    list.len()
                ));
            }
            // An empty list says nothing about the stream.
            if !list.is_empty() {
                streams.push((of, list));
            }
            if streams.len() > STREAMS_MAX {
                return Err(format!("`cursors`: expected at most {STREAMS_MAX} streams"));
            }
        }
        Ok(streams)
    }

    fn send(&self, frame: &Bytes) -> Result<Send, String> {
        let id = self.id()?;
        let to = self.address("to")?;
        let raw = self.fields.get("body").ok_or_else(|| missing("body", "any value"))?;
        if let Some(refusal) = raw.refusal {
            return Err(format!("`body`: {refusal}"));
        }
        let ephemeral = self.fields.bool("ephemeral")?;
        let retry = self.fields.bool("retry")?;
        if ephemeral && retry {
            return Err("`retry`: an ephemeral message is kept nowhere, so there is nothing to find again".to_owned());
        }
        let age_ms = self.fields.number("age_ms")?;
        let retry_age_ms = match (retry, age_ms) {
            (false, _) => None,
            (true, Some(age)) => Some(age),
            (true, None) => return Err(missing("age_ms", "the milliseconds since the first try")),
        };
        let replicated = match self.fields.text("ack")?.as_deref() {
            None | Some("stored") => false,
            Some("replicated") if ephemeral => {
                return Err("`ack`: an ephemeral message is kept nowhere, so no replica can have it".to_owned());
            }
            Some("replicated") => true,
            Some(other) => {
                return Err(format!("`ack`: expected \"stored\" or \"replicated\", got {}", shown(other)));
            }
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
        let body = Body { encoding: raw.encoding, bytes: frame.slice_ref(raw.bytes) };
        Ok(Send { id, to, body, ephemeral, retry_age_ms, expires_ms, replicated })
    }

    fn history(&self) -> Result<ClientFrame, String> {
        let limit = self.fields.number("limit")?.unwrap_or(HISTORY_LIMIT_MAX / 4);
        if !(1..=HISTORY_LIMIT_MAX).contains(&limit) {
            return Err(format!("`limit`: expected 1 to {HISTORY_LIMIT_MAX}, got {limit}"));
        }
        Ok(ClientFrame::History { id: self.id()?, of: self.address("of")?, before: self.cursor("before")?, limit })
    }

    fn id(&self) -> Result<MessageId, String> {
        let text = self.fields.text("id")?.ok_or_else(|| missing("id", "an ID that names this frame"))?;
        parse_id(&text)
    }

    fn address(&self, name: &str) -> Result<Address, String> {
        let text = self.fields.text(name)?.ok_or_else(|| missing(name, "an address"))?;
        Address::parse(&text).map_err(|e| format!("`{name}`: {} is no address: {e}", shown(&text)))
    }

    fn cursor(&self, name: &str) -> Result<Option<Cursor>, String> {
        let read = |text: Cow<'_, str>| {
            Cursor::from_text(&text).ok_or_else(|| format!("`{name}`: expected a cursor as a message carries it"))
        };
        self.fields.text(name)?.map(read).transpose()
    }
}

fn parse_id(text: &str) -> Result<MessageId, String> {
    MessageId::parse(text).map_err(|e| format!("`id`: {e}"))
}

fn missing(name: &str, expected: &str) -> String {
    format!("`{name}` is missing: expected {expected}")
}

/// A client's text in a message: quoted, and no longer than a line.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
}
