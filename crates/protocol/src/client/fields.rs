//! A frame taken apart: names and the raw bytes of their values, in either encoding.

use std::borrow::Cow;

use super::raw::json_text;
use super::{json, msgpack};
use crate::limits::{BATCH_FRAMES_MAX, DEPTH_MAX};
use crate::node::Encoding;

pub use super::raw::{Raw, Refusal};

/// Why a frame cannot be read at all: the connection is closed with 4000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the frame ends in the middle of a value")]
    Truncated,
    #[error("the frame is not valid in the connection's encoding")]
    Syntax,
    #[error("the frame is nested deeper than 32")]
    Depth,
    #[error("a text is not UTF-8")]
    NotUtf8,
    #[error("there are bytes behind the end of the frame")]
    Trailing,
    #[error("a frame is a map, or an array of maps")]
    Shape,
    #[error("a batch has at most 2048 frames")]
    Batch,
}

/// The fields of one map. A name that comes twice has its last value, as in JavaScript.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a> {
    list: Vec<(Cow<'a, str>, Raw<'a>)>,
}

impl<'a> Fields<'a> {
    pub fn get(&self, name: &str) -> Option<Raw<'a>> {
        self.list.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| *raw)
    }

    /// A field that is there and not null.
    pub fn present(&self, name: &str) -> Option<Raw<'a>> {
        self.get(name).filter(|raw| !raw.is_null())
    }

    /// A text, if the field is there.
    ///
    /// # Errors
    /// The field, what was expected, and what came; so do the others.
    pub fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, String> {
        self.present(name).map(|raw| raw.text().ok_or_else(|| unexpected(name, "a text", &raw))).transpose()
    }

    /// A flag; false if the field is not there.
    ///
    /// # Errors
    /// See [`Fields::text`].
    pub fn bool(&self, name: &str) -> Result<bool, String> {
        self.present(name).map_or(Ok(false), |raw| raw.bool().ok_or_else(|| unexpected(name, "true or false", &raw)))
    }

    /// A whole number from 0 on, if the field is there.
    ///
    /// # Errors
    /// See [`Fields::text`].
    pub fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let number = |raw: Raw<'_>| raw.u64().ok_or_else(|| unexpected(name, "a whole number from 0 on", &raw));
        self.present(name).map(number).transpose()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Raw<'a>)> {
        self.list.iter().map(|(key, raw)| (&**key, *raw))
    }
}

/// The sentence for a value of another kind: the field, what was expected, and what came.
pub(crate) fn unexpected(name: &str, expected: &str, raw: &Raw<'_>) -> String {
    format!("`{name}`: expected {expected}, got {}", raw.kind())
}

/// Takes a frame apart: one map, or an array of maps in order.
///
/// # Errors
/// [`Malformed`]: nothing of the frame is used.
pub fn split(encoding: Encoding, frame: &[u8]) -> Result<Vec<Fields<'_>>, Malformed> {
    split_deep(encoding, frame, DEPTH_MAX)
}

/// Takes a frame of the server apart: a `history` answer holds bodies two levels deeper than they were sent.
///
/// # Errors
/// See [`split`].
pub fn split_server(encoding: Encoding, frame: &[u8]) -> Result<Vec<Fields<'_>>, Malformed> {
    split_deep(encoding, frame, DEPTH_MAX + 2)
}

fn split_deep(encoding: Encoding, frame: &[u8], depth_max: u32) -> Result<Vec<Fields<'_>>, Malformed> {
    let walker = Walker { encoding, bytes: frame };
    let at = walker.skip_space(0);
    let mut frames = Vec::with_capacity(1);
    let mut end = at;
    match walker.shape(at)? {
        Shape::Map => end = walker.map(at, depth_max, &mut frames)?,
        Shape::Array => {
            walker
                .array(at, &mut |at| {
                    if frames.len() >= BATCH_FRAMES_MAX {
                        return Err(Malformed::Batch);
                    }
                    end = match walker.shape(at)? {
                        Shape::Map => walker.map(at, depth_max, &mut frames)?,
                        _ => return Err(Malformed::Shape),
                    };
                    Ok(end)
                })
                .map(|after| end = after)?;
        }
        Shape::Other => {
            // Say what is wrong with it, if it is wrong in itself.
            walker.value(at, depth_max)?;
            return Err(Malformed::Shape);
        }
    }
    if walker.skip_space(end) != frame.len() { Err(Malformed::Trailing) } else { Ok(frames) }
}

pub(super) enum Shape {
    Map,
    Array,
    Other,
}

pub(super) struct Walker<'a> {
    pub(super) encoding: Encoding,
    pub(super) bytes: &'a [u8],
}

impl<'a> Walker<'a> {
    fn skip_space(&self, at: usize) -> usize {
        match self.encoding {
            Encoding::Json => json::skip_space(self.bytes, at),
            Encoding::MessagePack => at,
        }
    }

    pub(super) fn shape(&self, at: usize) -> Result<Shape, Malformed> {
        let first = *self.bytes.get(at).ok_or(Malformed::Truncated)?;
        Ok(match (self.encoding, first) {
            (Encoding::Json, b'{') | (Encoding::MessagePack, 0x80..=0x8f | 0xde | 0xdf) => Shape::Map,
            (Encoding::Json, b'[') | (Encoding::MessagePack, 0x90..=0x9f | 0xdc | 0xdd) => Shape::Array,
            _ => Shape::Other,
        })
    }

    /// One value; returns it and the index after it.
    pub(super) fn value(&self, at: usize, depth_max: u32) -> Result<(Raw<'a>, usize), Malformed> {
        let scan = match self.encoding {
            Encoding::Json => json::skip_value(self.bytes, at, depth_max)?,
            Encoding::MessagePack => msgpack::skip_value(self.bytes, at, depth_max)?,
        };
        let raw = Raw { encoding: self.encoding, bytes: &self.bytes[at..scan.end], refusal: scan.refusal };
        Ok((raw, scan.end))
    }

    /// The map that starts at `at`; returns the index after it.
    pub(super) fn map(&self, at: usize, depth_max: u32, out: &mut Vec<Fields<'a>>) -> Result<usize, Malformed> {
        let mut list = Vec::with_capacity(8);
        let end = match self.encoding {
            Encoding::Json => self.json_items(at, b'}', &mut |at| {
                let key_end = if self.bytes.get(at) == Some(&b'"') {
                    json::skip_string(self.bytes, at)?
                } else {
                    return Err(Malformed::Syntax);
                };
                let key = json_text(&self.bytes[at..key_end]).ok_or(Malformed::Syntax)?;
                let colon = self.skip_space(key_end);
                if self.bytes.get(colon) != Some(&b':') {
                    return Err(Malformed::Syntax);
                }
                let (raw, end) = self.value(self.skip_space(colon + 1), depth_max - 1)?;
                list.push((key, raw));
                Ok(end)
            })?,
            Encoding::MessagePack => {
                let head = msgpack::header(self.bytes, at)?;
                let msgpack::Kind::Container { items, .. } = head.kind else { return Err(Malformed::Shape) };
                let mut end = head.end;
                for _ in 0..items / 2 {
                    let (key, after) = self.value(end, depth_max - 1)?;
                    let (raw, after) = self.value(after, depth_max - 1)?;
                    // A field whose name is no text is one that nobody knows.
                    if let Some(key) = key.text() {
                        list.push((key, raw));
                    }
                    end = after;
                }
                end
            }
        };
        out.push(Fields { list });
        Ok(end)
    }

    pub(super) fn array(
        &self,
        at: usize,
        item: &mut dyn FnMut(usize) -> Result<usize, Malformed>,
    ) -> Result<usize, Malformed> {
        match self.encoding {
            Encoding::Json => self.json_items(at, b']', item),
            Encoding::MessagePack => {
                let head = msgpack::header(self.bytes, at)?;
                let msgpack::Kind::Container { items, .. } = head.kind else { return Err(Malformed::Shape) };
                let mut end = head.end;
                for _ in 0..items {
                    end = item(end)?;
                }
                Ok(end)
            }
        }
    }

    /// Items between the bracket at `at` and `close`, with their commas.
    fn json_items(
        &self,
        at: usize,
        close: u8,
        item: &mut dyn FnMut(usize) -> Result<usize, Malformed>,
    ) -> Result<usize, Malformed> {
        let mut at = self.skip_space(at + 1);
        if self.bytes.get(at) == Some(&close) {
            return Ok(at + 1);
        }
        loop {
            at = self.skip_space(item(at)?);
            match self.bytes.get(at) {
                Some(b',') => at = self.skip_space(at + 1),
                Some(&b) if b == close => return Ok(at + 1),
                Some(_) => return Err(Malformed::Syntax),
                None => return Err(Malformed::Truncated),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_map_or_an_array_of_maps_and_nothing_behind_it() {
        let json = |text: &str| split(Encoding::Json, text.as_bytes()).map(|frames| frames.len());
        assert_eq!(json(" {\"a\":1} "), Ok(1));
        assert_eq!(json("[]"), Ok(0));
        assert_eq!(json("[{}, {\"a\":[1,2]}]"), Ok(2));
        assert_eq!(json("{} {}"), Err(Malformed::Trailing));
        assert_eq!(json("[{},1]"), Err(Malformed::Shape));
        assert_eq!(json("1"), Err(Malformed::Shape));
        assert_eq!(json("x"), Err(Malformed::Syntax));
        assert_eq!(json(""), Err(Malformed::Truncated));
        assert_eq!(json("{\"a\":1"), Err(Malformed::Truncated));
        let pack = |bytes: &[u8]| split(Encoding::MessagePack, bytes).map(|frames| frames.len());
        assert_eq!(pack(b"\x81\xa1a\x01"), Ok(1));
        assert_eq!(pack(b"\x92\x80\x81\xa1a\x90"), Ok(2));
        assert_eq!(pack(b"\x80\x80"), Err(Malformed::Trailing));
        assert_eq!(pack(b"\x91\x01"), Err(Malformed::Shape));
        assert_eq!(pack(b"\xc0"), Err(Malformed::Shape));
        assert_eq!(pack(b"\x82\xa1a\x01"), Err(Malformed::Truncated));
    }

    #[test]
    fn depth_32_counts_from_the_frame() {
        let frame = |n: usize| format!("{{\"body\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(split(Encoding::Json, frame(31).as_bytes()).is_ok());
        assert_eq!(split(Encoding::Json, frame(32).as_bytes()).unwrap_err(), Malformed::Depth);
        let pack = |n: usize| [&b"\x81\xa4body"[..], &vec![0x91; n - 1], b"\x90"].concat();
        assert!(split(Encoding::MessagePack, &pack(31)).is_ok());
        assert_eq!(split(Encoding::MessagePack, &pack(32)).unwrap_err(), Malformed::Depth);
    }

    #[test]
    fn a_body_of_the_greatest_depth_can_be_read_in_a_history_too() {
        let body = format!("{}{}", "[".repeat(31), "]".repeat(31));
        assert!(split(Encoding::Json, format!("{{\"body\":{body}}}").as_bytes()).is_ok());
        let history = format!("{{\"messages\":[{{\"body\":{body}}}]}}");
        let frames = split_server(Encoding::Json, history.as_bytes()).unwrap();
        let messages = frames[0].get("messages").unwrap().array().unwrap();
        assert_eq!(messages[0].map().unwrap().get("body").unwrap().bytes, body.as_bytes());
    }

    #[test]
    fn values_are_read_in_both_encodings() {
        let json =
            split(Encoding::Json, br#"{"t\u0079pe":"a\"b","n":7,"b":true,"z":null,"m":{"k":["x"]},"n":8}"#).unwrap();
        let pack = split(
            Encoding::MessagePack,
            b"\x86\xa4type\xa3a\"b\xa1n\x07\xa1b\xc3\xa1z\xc0\xa1m\x81\xa1k\x91\xa1x\xa1n\xcd\x00\x08",
        )
        .unwrap();
        for fields in [&json[0], &pack[0]] {
            assert_eq!(fields.get("type").unwrap().text().unwrap(), "a\"b");
            assert_eq!(fields.get("n").unwrap().u64(), Some(8), "the last one counts");
            assert_eq!(fields.get("b").unwrap().bool(), Some(true));
            assert!(fields.get("z").unwrap().is_null());
            let list = fields.get("m").unwrap().map().unwrap().get("k").unwrap().array().unwrap();
            assert_eq!(list[0].text().unwrap(), "x");
            assert!(fields.get("absent").is_none());
            assert!(fields.get("n").unwrap().text().is_none());
        }
    }
}
