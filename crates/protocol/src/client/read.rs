//! Reads what clients say, with errors that name the field.

use std::borrow::Cow;

use bytes::Bytes;

use super::fields::{Fields, Raw, unexpected};
use super::frame::{Body, ClientFrame, From, Hello, History, Join, Named, Send, StreamCursors};
use crate::address::Address;
use crate::cursor::Cursor;
use crate::ids::{ConnectionId, DeviceId, GroupId, MessageId, UserId};
use crate::limits::{CURSORS_MAX, HISTORY_LIMIT_MAX, MEMBERS_LIMIT_MAX, STREAMS_MAX, WATCHED_MAX};

/// Reads fields with errors that say which field, what was expected and what came.
pub(super) struct FieldReader<'f, 'a> {
    pub(super) fields: &'f Fields<'a>,
}

const TYPES: &str = "hello, send, ack, read, join, leave, history, counts, receipts, presence, watch, unwatch, members \
                     or ping";

impl<'a> FieldReader<'_, 'a> {
    pub(super) fn frame(&self, frame: &Bytes) -> Result<ClientFrame, String> {
        let kind = self.fields.text("type")?.ok_or_else(|| format!("`type` is missing: expected {TYPES}"))?;
        match &*kind {
            "send" => self.send(frame).map(ClientFrame::Send),
            "hello" => self.hello().map(ClientFrame::Hello),
            "ack" => Ok(ClientFrame::Ack {
                of: self.address("of")?,
                cursor: self.cursor("cursor")?.ok_or_else(|| missing("cursor", "a cursor"))?,
            }),
            "read" => self.read(),
            "join" => self.join().map(ClientFrame::Join),
            "leave" => Ok(ClientFrame::Leave { id: self.id()?, group: self.group()? }),
            "history" => self.history().map(ClientFrame::History),
            "counts" => self.counts(),
            "receipts" => self.receipts(),
            "presence" => Ok(ClientFrame::Presence { id: self.id()?, whom: self.named()? }),
            "watch" => Ok(ClientFrame::Watch { id: self.id()?, whom: self.named()? }),
            "unwatch" => Ok(ClientFrame::Unwatch { id: self.id()?, whom: self.named()? }),
            "members" => self.members(),
            "ping" => Ok(ClientFrame::Ping { id: self.id_if_any()? }),
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
        let takes_over = match self.fields.text("takes_over")? {
            None => None,
            Some(text) => Some(ConnectionId::parse(&text).ok_or_else(|| {
                format!(
                    "`takes_over`: expected the `connection` of a welcome, 16 hexadecimal digits, got {}",
                    shown(&text)
                )
            })?),
        };
        Ok(Hello {
            id: self.id_if_any()?,
            token: self.fields.text("token")?.map(Cow::into_owned),
            device,
            cursors: self.cursors()?,
            from,
            takes_over,
            exclusive: self.fields.bool("exclusive")?,
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
        let echo = self.fields.bool("echo")?;
        if echo && !matches!(to, Address::User(_) | Address::Device(..)) {
            return Err(format!(
                "`echo`: a copy is kept of what goes to a user; expected `to` to be user:ID, got {}",
                shown_address(&to)
            ));
        }
        let body = Body { encoding: raw.encoding, bytes: frame.slice_ref(raw.bytes) };
        Ok(Send { id, to, body, ephemeral, retry_age_ms, expires_ms, replicated, echo })
    }

    fn read(&self) -> Result<ClientFrame, String> {
        let (of, with) = self.stream()?;
        let cursor = self.cursor("cursor")?.ok_or_else(|| missing("cursor", "a cursor"))?;
        Ok(ClientFrame::Read { id: self.id_if_any()?, of, with, cursor })
    }

    fn join(&self) -> Result<Join, String> {
        let until_disconnect = match self.fields.text("until")?.as_deref() {
            None | Some("leave") => false,
            Some("disconnect") => true,
            Some(other) => {
                return Err(format!("`until`: expected \"leave\" or \"disconnect\", got {}", shown(other)));
            }
        };
        let cursor = self.fields.text("cursor")?.map(|text| Cursor::from_text(&text));
        Ok(Join { id: self.id()?, group: self.group()?, until_disconnect, cursors: Vec::from_iter(cursor) })
    }

    fn history(&self) -> Result<History, String> {
        let limit = self.limit(HISTORY_LIMIT_MAX / 4, HISTORY_LIMIT_MAX)?;
        let (of, with) = self.stream()?;
        Ok(History { id: self.id()?, of, with, before: self.cursor("before")?, limit })
    }

    fn counts(&self) -> Result<ClientFrame, String> {
        let (of, with) = self.stream()?;
        Ok(ClientFrame::Counts { id: self.id()?, of, with })
    }

    fn receipts(&self) -> Result<ClientFrame, String> {
        const EXPECTED: &str = "the `ref` of a sent";
        let reference = self.fields.text("ref")?.ok_or_else(|| missing("ref", EXPECTED))?;
        if Cursor::from_ref(&reference).is_none() {
            return Err(format!("`ref`: expected {EXPECTED}, got {}", shown(&reference)));
        }
        Ok(ClientFrame::Receipts { id: self.id()?, reference: reference.into_owned() })
    }

    fn members(&self) -> Result<ClientFrame, String> {
        let after = self.fields.text("after")?.map(Cow::into_owned);
        let limit = self.limit(MEMBERS_LIMIT_MAX / 10, MEMBERS_LIMIT_MAX)?;
        Ok(ClientFrame::Members { id: self.id()?, group: self.group()?, after, limit })
    }

    /// `users` or `group`, exactly one of them.
    fn named(&self) -> Result<Named, String> {
        match (self.fields.present("users"), self.fields.present("group")) {
            (Some(users), None) => self.users(&users).map(Named::Users),
            (None, Some(_)) => self.group().map(Named::Group),
            (None, None) => Err("`users` or `group` is missing: expected one of them".to_owned()),
            (Some(_), Some(_)) => Err("`users`, `group`: expected one of them, got both".to_owned()),
        }
    }

    fn users(&self, raw: &Raw<'_>) -> Result<Vec<UserId>, String> {
        const EXPECTED: &str = "an array of IDs of users";
        let list = raw.array().ok_or_else(|| unexpected("users", EXPECTED, raw))?;
        if !(1..=WATCHED_MAX).contains(&list.len()) {
            return Err(format!("`users`: expected 1 to {WATCHED_MAX} users, got {}", list.len()));
        }
        let one = |raw: &Raw<'_>| {
            let text = raw.text().ok_or_else(|| unexpected("users", EXPECTED, raw))?;
            UserId::parse(&text).map_err(|e| format!("`users`: {}: {e}", shown(&text)))
        };
        list.iter().map(one).collect()
    }

    /// `of`, and `with` where one conversation of an inbox is meant.
    fn stream(&self) -> Result<(Address, Option<UserId>), String> {
        let of = self.address("of")?;
        let with = match self.fields.present("with") {
            None => return Ok((of, None)),
            Some(_) => self.address("with")?,
        };
        match (&of, with) {
            (Address::User(_), Address::User(with)) => Ok((of, Some(with))),
            (Address::User(_), with) => Err(format!("`with`: expected user:ID, got {}", shown_address(&with))),
            (of, _) => Err(format!(
                "`with`: only an inbox has conversations; expected `of` to be user:ID, got {}",
                shown_address(of)
            )),
        }
    }

    fn limit(&self, default: u64, max: u64) -> Result<u64, String> {
        let limit = self.fields.number("limit")?.unwrap_or(default);
        if (1..=max).contains(&limit) { Ok(limit) } else { Err(format!("`limit`: expected 1 to {max}, got {limit}")) }
    }

    fn group(&self) -> Result<GroupId, String> {
        let text = self.fields.text("group")?.ok_or_else(|| missing("group", "the ID of a group"))?;
        GroupId::parse(&text).map_err(|e| format!("`group`: {e}"))
    }

    fn id_if_any(&self) -> Result<Option<MessageId>, String> {
        self.fields.text("id")?.map(|text| parse_id(&text)).transpose()
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

fn shown_address(address: &Address) -> String {
    shown(&address.to_string())
}
