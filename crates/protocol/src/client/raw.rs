//! One value of a frame, still as bytes, and what it can be read as.

use std::borrow::Cow;

use super::fields::{Fields, Shape, Walker};
use super::msgpack;
use crate::limits::DEPTH_MAX;
use crate::node::Encoding;

/// Why a body cannot be passed on: the other encoding cannot say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("numbers must be finite")]
    NotFinite,
    #[error("MessagePack ext types are not taken; put bytes in a bin")]
    Ext,
    #[error("the keys of a map must be texts")]
    Key,
}

/// One value, still as bytes. Its grammar, depth and lengths have been checked.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    pub encoding: Encoding,
    pub bytes: &'a [u8],
    pub refusal: Option<Refusal>,
}

/// A JSON string with its quotes as text; borrowed where it has no escapes.
pub(super) fn json_text(quoted: &[u8]) -> Option<Cow<'_, str>> {
    let inner = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inner.contains(&b'\\') {
        serde_json::from_slice::<String>(quoted).ok().map(Cow::Owned)
    } else {
        std::str::from_utf8(inner).ok().map(Cow::Borrowed)
    }
}

impl<'a> Raw<'a> {
    pub fn text(&self) -> Option<Cow<'a, str>> {
        match self.encoding {
            Encoding::Json => json_text(self.bytes),
            Encoding::MessagePack => {
                let head = msgpack::header(self.bytes, 0).ok()?;
                let content = &self.bytes[head.start..head.end];
                (head.kind == msgpack::Kind::Text)
                    .then(|| std::str::from_utf8(content).ok().map(Cow::Borrowed))
                    .flatten()
            }
        }
    }

    pub fn bool(&self) -> Option<bool> {
        match (self.encoding, self.bytes) {
            (Encoding::Json, b"true") | (Encoding::MessagePack, [0xc3]) => Some(true),
            (Encoding::Json, b"false") | (Encoding::MessagePack, [0xc2]) => Some(false),
            _ => None,
        }
    }

    /// A whole number from 0 on.
    pub fn u64(&self) -> Option<u64> {
        match self.encoding {
            Encoding::Json => serde_json::from_slice(self.bytes).ok(),
            Encoding::MessagePack => rmp_serde::from_slice(self.bytes).ok(),
        }
    }

    pub fn is_null(&self) -> bool {
        matches!((self.encoding, self.bytes), (Encoding::Json, b"null") | (Encoding::MessagePack, [0xc0]))
    }

    pub fn map(&self) -> Option<Fields<'a>> {
        let walker = Walker { encoding: self.encoding, bytes: self.bytes };
        let mut out = Vec::with_capacity(1);
        matches!(walker.shape(0), Ok(Shape::Map)).then(|| walker.map(0, DEPTH_MAX + 1, &mut out).ok())??;
        out.pop()
    }

    pub fn array(&self) -> Option<Vec<Raw<'a>>> {
        let walker = Walker { encoding: self.encoding, bytes: self.bytes };
        let mut out = Vec::new();
        let item = &mut |at| {
            let (raw, end) = walker.value(at, DEPTH_MAX)?;
            out.push(raw);
            Ok(end)
        };
        matches!(walker.shape(0), Ok(Shape::Array)).then(|| walker.array(0, item).ok())??;
        Some(out)
    }

    /// What kind of value this is, for an error that says what came.
    pub fn kind(&self) -> &'static str {
        let first = self.bytes.first().copied().unwrap_or_default();
        match (self.encoding, first) {
            (Encoding::Json, b'{') | (Encoding::MessagePack, 0x80..=0x8f | 0xde | 0xdf) => "a map",
            (Encoding::Json, b'[') | (Encoding::MessagePack, 0x90..=0x9f | 0xdc | 0xdd) => "an array",
            (Encoding::Json, b'"') | (Encoding::MessagePack, 0xa0..=0xbf | 0xd9..=0xdb) => "a text",
            (Encoding::Json, b't' | b'f') | (Encoding::MessagePack, 0xc2 | 0xc3) => "a boolean",
            (Encoding::Json, b'n') | (Encoding::MessagePack, 0xc0) => "null",
            (Encoding::MessagePack, 0xc4..=0xc6) => "bytes",
            (Encoding::MessagePack, 0xc7..=0xc9 | 0xd4..=0xd8) => "an ext",
            _ => "a number",
        }
    }
}
