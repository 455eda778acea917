//! What a channel carries: all that one call has for one node.
//!
//! `| 1 |`, then items `| kind 1 | n 2 | address n | epoch 8 | seq 8 | link 8 | version 8 | m 4 | body m |`; the body is an
//! entry (kinds 1 durable, 2 ephemeral) or a notice (3). Numbers are big-endian. The scripts write the same bytes.

use std::sync::Arc;

use bytes::{BufMut, Bytes};

use crate::cursor::{Cursor, Epoch, Stamp, Tag};
use crate::node::{Entry, Envelope, Ephemeral, NodeError, Reader, Stored};
use crate::notice::Notice;
use crate::text::Text;

const BUNDLE_VERSION: u8 = 1;
const ITEM_DURABLE: u8 = 1;
const ITEM_EPHEMERAL: u8 = 2;
const ITEM_NOTICE: u8 = 3;

/// What a channel brings for one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Live {
    Entry(Entry),
    Ephemeral(Ephemeral),
    /// Not a message: something about the address has changed.
    Notice(Notice),
}

impl Live {
    /// The message, if it is one.
    pub fn envelope(&self) -> Option<&Arc<Envelope>> {
        match self {
            Self::Entry(entry) => Some(&entry.envelope),
            Self::Ephemeral(ephemeral) => Some(&ephemeral.envelope),
            Self::Notice(_) => None,
        }
    }

    /// Bytes that it costs a queue.
    pub fn weight(&self) -> usize {
        match self {
            Self::Entry(entry) => entry.envelope.weight(),
            Self::Ephemeral(ephemeral) => ephemeral.envelope.weight(),
            Self::Notice(notice) => notice.weight(),
        }
    }
}

/// One payload of a channel: for each item the address whose record it is in, the membership or group-set version at
/// that moment (0 before there is one), and the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    pub items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub record: Text,
    pub version: u64,
    pub live: Live,
}

impl Bundle {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![BUNDLE_VERSION];
        for Item { record, version, live } in &self.items {
            let message = |tag, stamp, mseq, envelope: &Envelope| {
                Stored { tag, stamp, mseq, envelope: Bytes::from(envelope.encode()) }.encode()
            };
            let (kind, cursor, link, body) = match live {
                Live::Entry(e) => (ITEM_DURABLE, e.cursor, e.link, message(e.tag, e.cursor.stamp, e.mseq, &e.envelope)),
                Live::Ephemeral(one) => {
                    let body = message(Tag::default(), Stamp(one.at.0 * 1_000), None, &one.envelope);
                    (ITEM_EPHEMERAL, Cursor::default(), Stamp::default(), body)
                }
                Live::Notice(notice) => (ITEM_NOTICE, Cursor::default(), Stamp::default(), notice.encode()),
            };
            out.put_u8(kind);
            out.put_u16(u16::try_from(record.len()).unwrap_or(u16::MAX));
            out.put_slice(record.as_bytes());
            out.put_slice(&cursor.epoch.0);
            out.put_u64(cursor.seq);
            out.put_u64(link.0);
            out.put_u64(*version);
            out.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
            out.put_slice(&body);
        }
        out
    }

    /// Reads a payload; what is in it shares the buffer.
    ///
    /// # Errors
    /// [`NodeError`]: nothing of a payload that does not parse is used, for a gap heals by itself and a guess does not.
    pub fn decode(bytes: &Bytes) -> Result<Self, NodeError> {
        let mut reader = Reader { bytes, at: 0 };
        match reader.u8()? {
            BUNDLE_VERSION => {}
            other => return Err(NodeError::Version(other)),
        }
        let mut items = Vec::new();
        while reader.at < bytes.len() {
            let kind = reader.u8()?;
            let length = usize::from(reader.u16()?);
            let record = Text::from_bytes(reader.take(length)?).ok_or(NodeError::Malformed)?;
            let epoch = Epoch(reader.array()?);
            let seq = reader.number()?;
            let link = Stamp(reader.number()?);
            let version = reader.number()?;
            let length = reader.u32()? as usize;
            let body = reader.take(length)?;
            let live = match kind {
                ITEM_NOTICE => Live::Notice(Notice::decode(&body)?),
                ITEM_DURABLE | ITEM_EPHEMERAL => {
                    let Stored { tag, stamp, mseq, envelope } = Stored::decode(&body)?;
                    let envelope = Arc::new(Envelope::decode(&envelope)?);
                    match kind {
                        ITEM_DURABLE => {
                            let cursor = Cursor { epoch, seq, stamp };
                            Live::Entry(Entry { cursor, link, tag, mseq, envelope })
                        }
                        _ => Live::Ephemeral(Ephemeral { at: stamp.at(), envelope }),
                    }
                }
                other => return Err(NodeError::Version(other)),
            };
            items.push(Item { record, version, live });
        }
        Ok(Self { items })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ConnectionId, UserId};
    use crate::node::Encoding;
    use crate::notice::{Change, HandOver};
    use crate::time::UnixMillis;

    fn bundle() -> Bundle {
        let envelope = Arc::new(Envelope {
            to: "group:den".into(),
            from: "user:alice".into(),
            id: "m1".into(),
            encoding: Encoding::Json,
            body: Bytes::from_static(b"{\"a\":1}"),
            expires_ms: Some(5),
            traceparent: None,
            flags: 0,
        });
        let cursor = Cursor { epoch: Epoch(*b"01234567"), seq: 9, stamp: Stamp(1_000_123) };
        let tag = Tag(u64::MAX);
        let user = UserId::parse("bob").unwrap();
        let entry = |mseq| Live::Entry(Entry { cursor, link: Stamp(999), tag, mseq, envelope: envelope.clone() });
        let notices = [
            Notice::Members {
                before: 4,
                count: 2,
                changes: vec![
                    Change { mseq: 5, user: user.clone(), is_join: true },
                    Change { mseq: 7, user: user.clone(), is_join: false },
                ],
            },
            Notice::Groups,
            Notice::HandOver { connection: ConnectionId(7), why: HandOver::Exclusive },
            Notice::Presence { version: 9, is_online: true, at: UnixMillis(5) },
            Notice::Read { of: "user:bob".into(), with: Some("user:alice".into()), user, cursor },
        ];
        let mut lives = vec![entry(None), entry(Some(4))];
        lives.push(Live::Ephemeral(Ephemeral { at: UnixMillis(77), envelope: envelope.clone() }));
        lives.extend(notices.map(Live::Notice));
        let items = lives.into_iter().map(|live| Item { record: "group:den".into(), version: 3, live });
        Bundle { items: items.collect() }
    }

    #[test]
    fn a_bundle_is_read_back() {
        assert_eq!(Bundle::decode(&Bytes::from(bundle().encode())), Ok(bundle()));
    }

    /// What is cut at the end of an item is a shorter bundle; anything else is refused, and nothing panics.
    #[test]
    fn a_bundle_cut_anywhere_or_changed_anywhere_never_panics() {
        let whole = bundle().encode();
        for cut in 0..whole.len() {
            let result = Bundle::decode(&Bytes::from(whole[..cut].to_vec()));
            assert!(result.is_err() || result.is_ok_and(|b| b.items.len() < bundle().items.len()));
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let _ = Bundle::decode(&Bytes::from(bytes));
        }
    }

    #[test]
    fn a_form_from_the_future_is_named_as_such() {
        assert_eq!(Bundle::decode(&Bytes::from_static(b"\x09")), Err(NodeError::Version(9)));
    }
}
