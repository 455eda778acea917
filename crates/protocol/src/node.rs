//! What nodes say to each other: what an inbox holds and what a channel carries.
//!
//! Every form begins with its version. These bytes are kept in Redis: after the first release they change only with a
//! new version and a way to read the old one. The Lua scripts of the backplane write the same bytes, and a conformance
//! test compares them.
//!
//! - **entry**: version 1 `| 1 | tag 8 | stamp 8 | envelope |`, version 2 (groups) `| 2 | tag 8 | stamp 8 | mseq 8 | envelope |`
//! - **envelope**: a MessagePack array `[to, from, id, encoding, body, expires_ms, traceparent, flags]`
//! - **bundle**: see [`crate::bundle`]
//!
//! Numbers are big-endian.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};

use crate::cursor::{Cursor, Stamp, Tag};
use crate::limits::NUMBER_MAX;
use crate::text::Text;
use crate::time::UnixMillis;

/// An entry of a user's inbox.
pub const ENTRY_PLAIN: u8 = 1;
/// An entry of a group's inbox: it carries the number of the membership change before it.
pub const ENTRY_MEMBERS: u8 = 2;

/// How a body is written. It passes through unparsed to whoever speaks the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    Json = 0,
    MessagePack = 1,
}

/// A message as its sender gave it. `Debug` prints the body's length only.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The address that the sender named.
    pub to: Text,
    pub from: Text,
    pub id: Text,
    pub encoding: Encoding,
    pub body: Bytes,
    /// Milliseconds from `at` after which it is skipped.
    pub expires_ms: Option<u64>,
    pub traceparent: Option<Text>,
    /// Reserved: 0.
    pub flags: u32,
}

/// The array, as it lies in an inbox.
#[derive(Serialize, Deserialize)]
struct Row<'a>(
    &'a str,
    &'a str,
    &'a str,
    u8,
    #[serde(with = "serde_bytes", borrow)] &'a [u8],
    Option<u64>,
    Option<&'a str>,
    u32,
);

/// Why bytes from the backplane are not what they should be. Never a client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("the form has version {0}, which this node does not know; is a newer node in the fleet?")]
    Version(u8),
    #[error("the bytes end early or do not parse")]
    Malformed,
}

impl Envelope {
    /// The bytes that an entry ends with.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.to.len() + self.from.len() + self.id.len() + self.body.len() + 32);
        let row = Row(
            &self.to,
            &self.from,
            &self.id,
            self.encoding as u8,
            &self.body,
            self.expires_ms,
            self.traceparent.as_deref(),
            self.flags,
        );
        // Writing to memory cannot fail, and the row holds nothing that MessagePack cannot say.
        let _ = rmp_serde::encode::write(&mut out, &row);
        out
    }

    /// Reads an envelope; its parts share the buffer.
    ///
    /// # Errors
    /// [`NodeError::Malformed`].
    pub fn decode(bytes: &Bytes) -> Result<Self, NodeError> {
        let Row(to, from, id, encoding, body, expires_ms, traceparent, flags) =
            rmp_serde::from_slice(bytes).map_err(|_| NodeError::Malformed)?;
        let text = |s: &str| Text::from_bytes(bytes.slice_ref(s.as_bytes())).unwrap_or_default();
        Ok(Self {
            to: text(to),
            from: text(from),
            id: text(id),
            encoding: if encoding == Encoding::Json as u8 { Encoding::Json } else { Encoding::MessagePack },
            body: bytes.slice_ref(body),
            expires_ms,
            traceparent: traceparent.map(text),
            flags,
        })
    }

    /// Bytes that this message costs a queue.
    pub fn weight(&self) -> usize {
        self.to.len() + self.from.len() + self.id.len() + self.body.len() + 128
    }

    /// True once the message is past its `expires_ms`, counted from `at`.
    pub fn is_expired(&self, at: UnixMillis, now: UnixMillis) -> bool {
        self.expires_ms.is_some_and(|ms| at.0.saturating_add(ms) <= now.0)
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("to", &self.to)
            .field("from", &self.from)
            .field("id", &self.id)
            .field("encoding", &self.encoding)
            .field("body_bytes", &self.body.len())
            .field("expires_ms", &self.expires_ms)
            .finish_non_exhaustive()
    }
}

/// What an inbox holds at one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub tag: Tag,
    pub stamp: Stamp,
    /// Of a group's entry: the membership change before it.
    pub mseq: Option<u64>,
    /// Empty in the stub at the start of an epoch.
    pub envelope: Bytes,
}

impl Stored {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(25 + self.envelope.len());
        out.put_u8(if self.mseq.is_some() { ENTRY_MEMBERS } else { ENTRY_PLAIN });
        out.put_u64(self.tag.0);
        out.put_u64(self.stamp.0);
        if let Some(mseq) = self.mseq {
            out.put_u64(mseq);
        }
        out.put_slice(&self.envelope);
        out
    }

    /// The stamp of an entry of any version: it always stands behind the tag. Bytes that end before it have none.
    pub fn stamp_of(bytes: &[u8]) -> Stamp {
        let raw = bytes.get(9..17).and_then(|raw| raw.try_into().ok()).unwrap_or_default();
        Stamp(u64::from_be_bytes(raw))
    }

    /// # Errors
    /// [`NodeError`] for a version from the future and for bytes that end early.
    pub fn decode(bytes: &Bytes) -> Result<Self, NodeError> {
        let mut reader = Reader { bytes, at: 0 };
        let mseq = match reader.u8()? {
            ENTRY_PLAIN => false,
            ENTRY_MEMBERS => true,
            other => return Err(NodeError::Version(other)),
        };
        let tag = Tag(reader.u64()?);
        let stamp = Stamp(reader.number()?);
        let mseq = if mseq { Some(reader.number()?) } else { None };
        Ok(Self { tag, stamp, mseq, envelope: bytes.slice(reader.at..) })
    }
}

/// A durable message at its place in an inbox. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub cursor: Cursor,
    /// The stamp of the entry before it.
    pub link: Stamp,
    pub tag: Tag,
    /// Of a group's entry: the number of the membership change before it.
    pub mseq: Option<u64>,
    pub envelope: Arc<Envelope>,
}

impl Entry {
    pub fn at(&self) -> UnixMillis {
        self.cursor.stamp.at()
    }
}

/// A message that is kept nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ephemeral {
    pub at: UnixMillis,
    pub envelope: Arc<Envelope>,
}

/// A piece of an inbox, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// The last place that was read. An entry that this version cannot read is left out of `entries`, not of this.
    pub end: Cursor,
    /// There is more after it.
    pub more: bool,
}

impl Page {
    /// Reads what an inbox holds after `start`, as stored bytes in order.
    pub fn decode(start: Cursor, rows: &[Bytes], more: bool) -> Self {
        let mut page = Self { entries: Vec::with_capacity(rows.len()), end: start, more };
        for row in rows {
            let link = page.end.stamp;
            page.end = Cursor { epoch: start.epoch, seq: page.end.seq + 1, stamp: Stored::stamp_of(row) };
            let stored = Stored::decode(row).and_then(|s| Envelope::decode(&s.envelope).map(|e| (s.tag, s.mseq, e)));
            if let Ok((tag, mseq, envelope)) = stored {
                page.entries.push(Entry { cursor: page.end, link, tag, mseq, envelope: Arc::new(envelope) });
            }
        }
        page
    }
}

/// Reads fixed-size numbers off a shared buffer; every end is checked.
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a Bytes,
    pub(crate) at: usize,
}

impl Reader<'_> {
    pub(crate) fn take(&mut self, length: usize) -> Result<Bytes, NodeError> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len()).ok_or(NodeError::Malformed)?;
        let piece = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(piece)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], NodeError> {
        let end = self.at + N;
        let piece = self.bytes.get(self.at..end).ok_or(NodeError::Malformed)?;
        self.at = end;
        piece.try_into().map_err(|_| NodeError::Malformed)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, NodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, NodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, NodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, NodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A number that Lua wrote: below 2^53.
    pub(crate) fn number(&mut self) -> Result<u64, NodeError> {
        self.u64().and_then(|n| if n < NUMBER_MAX { Ok(n) } else { Err(NodeError::Malformed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Epoch;

    fn envelope() -> Envelope {
        Envelope {
            to: "user:bob".into(),
            from: "user:alice".into(),
            id: "m1".into(),
            encoding: Encoding::Json,
            body: Bytes::from_static(b"{\"a\":1}"),
            expires_ms: Some(5),
            traceparent: None,
            flags: 0,
        }
    }

    #[test]
    fn an_envelope_and_an_entry_are_read_back() {
        assert_eq!(Envelope::decode(&Bytes::from(envelope().encode())), Ok(envelope()));
        for mseq in [None, Some(4)] {
            let stored = Stored { tag: Tag(1), stamp: Stamp(2), mseq, envelope: Bytes::from_static(b"x") };
            assert_eq!(Stored::decode(&Bytes::from(stored.encode())), Ok(stored));
        }
    }

    #[test]
    fn a_form_from_the_future_is_named_as_such() {
        assert_eq!(Stored::decode(&Bytes::from_static(b"\x07")), Err(NodeError::Version(7)));
    }

    /// Its stamp was taken from the entry before: a cursor on it looked like a fork for ever.
    #[test]
    fn an_entry_of_a_future_version_is_stepped_over_with_its_own_stamp() {
        let known = Stored { tag: Tag(1), stamp: Stamp(5), mseq: None, envelope: envelope().encode().into() };
        let mut future = Stored { stamp: Stamp(6), ..known.clone() }.encode();
        future[0] = 9;
        let start = Cursor { epoch: Epoch([1; 8]), seq: 3, stamp: Stamp(4) };
        let page = Page::decode(start, &[known.encode().into(), future.into()], false);
        assert_eq!(page.entries.len(), 1);
        assert_eq!(page.end, Cursor { seq: 5, stamp: Stamp(6), ..start });
    }

    #[test]
    fn debug_shows_no_payload() {
        let text = format!("{:?}", envelope());
        assert!(!text.contains("\"a\"") && text.contains("body_bytes: 7"), "{text}");
    }
}
