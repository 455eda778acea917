//! A place in an inbox: epoch, number, and the stamp that names the stored entry and no other.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::limits::NUMBER_MAX;
use crate::time::UnixMillis;

/// Which life of an inbox: 8 random bytes from the node that began it, compared for equality only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub [u8; 8]);

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({:016x})", u64::from_be_bytes(self.0))
    }
}

/// Names one stored entry and no other: the backplane's clock in microseconds when it was stored, plus its place in the
/// batch. A message that is stored again after a failover gets another stamp, and so cannot pass for its old self.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Stamp(pub u64);

impl Stamp {
    /// When the entry was stored, by the backplane's clock.
    pub fn at(self) -> UnixMillis {
        UnixMillis(self.0 / 1_000)
    }
}

/// Hash of sender and message id; only retries look at it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Tag(pub u64);

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({:016x})", self.0)
    }
}

/// A place in one inbox: the last entry that was taken. To clients one opaque text of 32 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Cursor {
    pub epoch: Epoch,
    /// Dense within the epoch, below 2^53.
    pub seq: u64,
    pub stamp: Stamp,
}

/// What the opaque text is: a place to go on from, or the name of a stored message. Told apart so that one cannot be
/// given for the other.
const CURSOR_VERSION: u8 = 1;
const REF_VERSION: u8 = 2;

impl Cursor {
    /// The opaque text that clients keep.
    pub fn to_text(self) -> String {
        self.pack(CURSOR_VERSION)
    }

    /// Reads what [`Cursor::to_text`] wrote; `None` for anything else.
    pub fn from_text(text: &str) -> Option<Self> {
        Self::unpack(text, CURSOR_VERSION)
    }

    /// The name of a stored message, `ref` in `sent`: its place and the address whose inbox it is in.
    pub fn to_ref(self, record: &str) -> String {
        let mut text = self.pack(REF_VERSION);
        text.push('@');
        text.push_str(record);
        text
    }

    /// Reads what [`Cursor::to_ref`] wrote: the place and the address text.
    pub fn from_ref(text: &str) -> Option<(Self, &str)> {
        let (place, record) = text.split_once('@')?;
        Some((Self::unpack(place, REF_VERSION)?, record))
    }

    /// True if an entry at this cursor is the direct successor of `before` by epoch and number; its link says the rest.
    pub fn follows(&self, before: &Self) -> bool {
        self.epoch == before.epoch && self.seq == before.seq + 1
    }

    fn pack(self, version: u8) -> String {
        let mut raw = [0u8; 24];
        raw[0] = version;
        raw[1..9].copy_from_slice(&self.epoch.0);
        raw[9..16].copy_from_slice(&self.seq.to_be_bytes()[1..]);
        raw[16..24].copy_from_slice(&self.stamp.0.to_be_bytes());
        URL_SAFE_NO_PAD.encode(raw)
    }

    fn unpack(text: &str, version: u8) -> Option<Self> {
        if text.len() != 32 {
            return None;
        }
        let mut raw = [0u8; 24];
        let n = URL_SAFE_NO_PAD.decode_slice(text, &mut raw).ok()?;
        if n != raw.len() || raw[0] != version {
            return None;
        }
        let eight = |from: usize| {
            let mut bytes = [0u8; 8];
            bytes.copy_from_slice(&raw[from..from + 8]);
            bytes
        };
        // The number has 7 bytes: the eighth, before it, belongs to the epoch.
        let seq = u64::from_be_bytes(eight(8)) & ((1 << 56) - 1);
        let stamp = u64::from_be_bytes(eight(16));
        (seq < NUMBER_MAX && stamp < NUMBER_MAX).then_some(Self { epoch: Epoch(eight(1)), seq, stamp: Stamp(stamp) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(seq: u64) -> Cursor {
        Cursor { epoch: Epoch(*b"\xffpoch-12"), seq, stamp: Stamp(1_760_000_000_123_456) }
    }

    #[test]
    fn a_cursor_is_read_back_from_its_text_of_at_most_36_characters() {
        for seq in [0, 1, 255, 1 << 32, NUMBER_MAX - 1] {
            let text = cursor(seq).to_text();
            assert!(text.len() <= 36);
            assert_eq!(Cursor::from_text(&text), Some(cursor(seq)));
        }
    }

    #[test]
    fn what_nobody_wrote_is_no_cursor() {
        assert_eq!(Cursor::from_text(&cursor(NUMBER_MAX).to_text()), None, "a number Lua cannot hold");
        assert_eq!(Cursor::from_text(""), None);
        assert_eq!(Cursor::from_text(&"A".repeat(32)), None);
        assert_eq!(Cursor::from_text(&"🦀".repeat(8)), None);
        let name = cursor(7).to_ref("user:bob");
        assert_eq!(Cursor::from_text(&name), None);
        assert_eq!(Cursor::from_text(&name[..32]), None, "a ref is no cursor");
        assert_eq!(Cursor::from_ref(&name), Some((cursor(7), "user:bob")));
        assert_eq!(Cursor::from_ref(&cursor(7).to_text()), None);
    }
}
