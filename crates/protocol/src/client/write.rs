//! Writes a map in either encoding, straight into the buffer that goes out.

use crate::client::transcode;
use crate::node::Encoding;

/// Fields that a map of this protocol may have: they fit MessagePack's one-byte header.
const FIELDS_MAX: u8 = 15;

/// One map under way. [`MapWriter::finish`] has to be called; until then the buffer holds half a map.
#[derive(Debug)]
#[must_use = "a map that is not finished is no frame"]
pub struct MapWriter<'a> {
    encoding: Encoding,
    out: &'a mut Vec<u8>,
    /// Where the header lies, for MessagePack's count.
    head: usize,
    count: u8,
}

impl<'a> MapWriter<'a> {
    pub fn begin(encoding: Encoding, out: &'a mut Vec<u8>) -> Self {
        let head = out.len();
        out.push(match encoding {
            Encoding::Json => b'{',
            Encoding::MessagePack => 0x80,
        });
        Self { encoding, out, head, count: 0 }
    }

    pub fn finish(self) {
        match self.encoding {
            Encoding::Json => self.out.push(b'}'),
            Encoding::MessagePack => self.out[self.head] = 0x80 | self.count,
        }
    }

    fn key(&mut self, key: &str) {
        debug_assert!(self.count < FIELDS_MAX, "a map of this protocol has at most 15 fields");
        match self.encoding {
            Encoding::Json => {
                if self.count > 0 {
                    self.out.push(b',');
                }
                write_text(self.encoding, self.out, key);
                self.out.push(b':');
            }
            Encoding::MessagePack => write_text(self.encoding, self.out, key),
        }
        self.count += 1;
    }

    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        write_text(self.encoding, self.out, value);
        self
    }

    pub fn number(&mut self, key: &str, value: u64) -> &mut Self {
        self.key(key);
        write_number(self.encoding, self.out, value);
        self
    }

    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key);
        match (self.encoding, value) {
            (Encoding::Json, true) => self.out.extend_from_slice(b"true"),
            (Encoding::Json, false) => self.out.extend_from_slice(b"false"),
            (Encoding::MessagePack, value) => self.out.push(0xc2 | u8::from(value)),
        }
        self
    }

    /// A body: as it is where it speaks this map's encoding, else translated.
    pub fn body(&mut self, key: &str, encoding: Encoding, bytes: &[u8]) -> &mut Self {
        self.key(key);
        match (encoding, self.encoding) {
            (Encoding::Json, Encoding::MessagePack) => transcode::json_to_msgpack(bytes, self.out),
            (Encoding::MessagePack, Encoding::Json) => transcode::msgpack_to_json(bytes, self.out),
            _ => self.out.extend_from_slice(bytes),
        }
        self
    }

    /// A map as a value.
    pub fn map(&mut self, key: &str, fill: impl FnOnce(&mut MapWriter<'_>)) -> &mut Self {
        self.key(key);
        write_map(self.encoding, self.out, fill);
        self
    }

    /// An array of texts as a value.
    pub fn texts<'t>(&mut self, key: &str, items: impl ExactSizeIterator<Item = &'t str>) -> &mut Self {
        self.key(key);
        write_texts(self.encoding, self.out, items);
        self
    }

    /// An array of maps as a value.
    pub fn maps<T>(
        &mut self,
        key: &str,
        items: impl ExactSizeIterator<Item = T>,
        mut fill: impl FnMut(&mut MapWriter<'_>, T),
    ) -> &mut Self {
        self.key(key);
        let encoding = self.encoding;
        write_array(encoding, self.out, items, |out, item| write_map(encoding, out, |map| fill(map, item)));
        self
    }

    /// A map from names that are not known before, as many as there are.
    pub fn named<'t, T>(
        &mut self,
        key: &str,
        items: impl ExactSizeIterator<Item = (&'t str, T)>,
        mut write: impl FnMut(Encoding, &mut Vec<u8>, T),
    ) -> &mut Self {
        self.key(key);
        let encoding = self.encoding;
        match encoding {
            Encoding::Json => self.out.push(b'{'),
            Encoding::MessagePack => {
                let _ = rmp::encode::write_map_len(self.out, u32::try_from(items.len()).unwrap_or(u32::MAX));
            }
        }
        for (index, (name, value)) in items.enumerate() {
            if index > 0 {
                separate(encoding, self.out);
            }
            write_text(encoding, self.out, name);
            if encoding == Encoding::Json {
                self.out.push(b':');
            }
            write(encoding, self.out, value);
        }
        if encoding == Encoding::Json {
            self.out.push(b'}');
        }
        self
    }
}

pub(super) fn write_number(encoding: Encoding, out: &mut Vec<u8>, value: u64) {
    match encoding {
        Encoding::Json => out.extend_from_slice(itoa(value, &mut [0; 20])),
        Encoding::MessagePack => {
            // Writing to memory cannot fail.
            let _ = rmp::encode::write_uint(out, value);
        }
    }
}

pub(super) fn write_texts<'t>(encoding: Encoding, out: &mut Vec<u8>, items: impl ExactSizeIterator<Item = &'t str>) {
    write_array(encoding, out, items, |out, text| write_text(encoding, out, text));
}

pub(super) fn write_map(encoding: Encoding, out: &mut Vec<u8>, fill: impl FnOnce(&mut MapWriter<'_>)) {
    let mut map = MapWriter::begin(encoding, out);
    fill(&mut map);
    map.finish();
}

/// The header of an array; JSON needs [`end_array`] behind the last item and commas between.
pub fn begin_array(encoding: Encoding, out: &mut Vec<u8>, count: usize) {
    match encoding {
        Encoding::Json => out.push(b'['),
        Encoding::MessagePack => {
            let _ = rmp::encode::write_array_len(out, u32::try_from(count).unwrap_or(u32::MAX));
        }
    }
}

/// What stands before every item of an array but the first.
pub fn separate(encoding: Encoding, out: &mut Vec<u8>) {
    if encoding == Encoding::Json {
        out.push(b',');
    }
}

pub fn end_array(encoding: Encoding, out: &mut Vec<u8>) {
    if encoding == Encoding::Json {
        out.push(b']');
    }
}

fn write_array<T>(
    encoding: Encoding,
    out: &mut Vec<u8>,
    items: impl ExactSizeIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    begin_array(encoding, out, items.len());
    for (index, item) in items.enumerate() {
        if index > 0 {
            separate(encoding, out);
        }
        write(out, item);
    }
    end_array(encoding, out);
}

fn write_text(encoding: Encoding, out: &mut Vec<u8>, text: &str) {
    match encoding {
        Encoding::Json => {
            if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
                out.push(b'"');
                out.extend_from_slice(text.as_bytes());
                out.push(b'"');
            } else {
                // Writing a text to memory cannot fail.
                let _ = serde_json::to_writer(out, text);
            }
        }
        Encoding::MessagePack => {
            let _ = rmp::encode::write_str(out, text);
        }
    }
}

fn itoa(mut value: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(encoding: Encoding) -> Vec<u8> {
        let mut out = Vec::new();
        let mut map = MapWriter::begin(encoding, &mut out);
        map.text("a", "x\"y\n").number("n", u64::MAX).bool("t", true).bool("f", false);
        map.map("m", |m| {
            m.number("zero", 0);
        });
        map.texts("l", ["p", "q"].into_iter());
        map.maps("ms", [1u64, 2].into_iter(), |m, n| {
            m.number("n", n);
        });
        map.finish();
        out
    }

    #[test]
    fn both_encodings_say_the_same() {
        let json: serde_json::Value = serde_json::from_slice(&sample(Encoding::Json)).unwrap();
        let pack: serde_json::Value = rmp_serde::from_slice(&sample(Encoding::MessagePack)).unwrap();
        assert_eq!(json, pack);
        assert_eq!(json["a"], "x\"y\n");
        assert_eq!(json["n"], u64::MAX);
        assert_eq!(json["ms"][1]["n"], 2);
    }
}
