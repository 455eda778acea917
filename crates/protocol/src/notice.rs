//! What nodes tell each other besides messages. A notice is only a hint: whatever was said can be read again from the
//! backplane, and a version tells whoever missed it that there is something to read.
//!
//! The body of a bundle's item of kind 3, by its first byte:
//! - `m` members `| m | before 8 | count 8 |`, then `| mseq 8 | join 1 | n 1 | user n |` for each change, in order
//! - `g` groups `| g |`: the set of the user's groups has the version that the item carries
//! - `h` hand over `| h | connection 8 | why 1 |`
//! - `p` presence `| p | version 8 | online 1 | at 8 |`
//! - `r` read `| r | epoch 8 | seq 8 | stamp 8 | n 2 | of n | n 2 | with n | n 1 | user n |`

use bytes::{BufMut, Bytes};

use crate::cursor::{Cursor, Epoch, Stamp};
use crate::ids::{ConnectionId, UserId};
use crate::node::{NodeError, Reader};
use crate::text::Text;
use crate::time::UnixMillis;

/// Something about an address has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A group has other members.
    Members {
        /// The number of the change before these.
        before: u64,
        /// Members behind the last of these.
        count: u64,
        changes: Vec<Change>,
    },
    /// A user is in other groups.
    Groups,
    /// A connection's place was taken by another one.
    HandOver { connection: ConnectionId, why: HandOver },
    /// A user came or went.
    Presence { version: u64, is_online: bool, at: UnixMillis },
    /// A user has read a stream up to a place: one of his own devices said so, or the other side of a conversation.
    Read { of: Text, with: Option<Text>, user: UserId, cursor: Cursor },
}

/// One change of a group's members.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// Its number: only grows, and is no smaller than the backplane's clock in microseconds was.
    pub mseq: u64,
    pub user: UserId,
    pub is_join: bool,
}

/// Why a connection leaves its place to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandOver {
    /// The other one named it: `takes_over`.
    TakenOver = 1,
    /// The other one wants to be the only one of its device: `exclusive`.
    Exclusive = 2,
}

impl HandOver {
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::TakenOver),
            2 => Some(Self::Exclusive),
            _ => None,
        }
    }
}

impl Notice {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Members { before, count, changes } => {
                out.put_u8(b'm');
                out.put_u64(*before);
                out.put_u64(*count);
                changes.iter().for_each(|change| change.encode(&mut out));
            }
            Self::Groups => out.put_u8(b'g'),
            Self::HandOver { connection, why } => {
                out.put_u8(b'h');
                out.put_u64(connection.0);
                out.put_u8(*why as u8);
            }
            Self::Presence { version, is_online, at } => {
                out.put_u8(b'p');
                out.put_u64(*version);
                out.put_u8(u8::from(*is_online));
                out.put_u64(at.0);
            }
            Self::Read { of, with, user, cursor } => {
                out.put_u8(b'r');
                out.put_slice(&cursor.epoch.0);
                out.put_u64(cursor.seq);
                out.put_u64(cursor.stamp.0);
                for text in [of.as_str(), with.as_deref().unwrap_or_default()] {
                    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
                    out.put_slice(text.as_bytes());
                }
                put_user(&mut out, user);
            }
        }
        out
    }

    /// # Errors
    /// [`NodeError`]: a kind from the future, or bytes that are none.
    pub fn decode(bytes: &Bytes) -> Result<Self, NodeError> {
        let mut reader = Reader { bytes, at: 0 };
        let notice = match reader.u8()? {
            b'm' => {
                let (before, count) = (reader.number()?, reader.number()?);
                let mut changes = Vec::new();
                while reader.at < bytes.len() {
                    changes.push(Change::read(&mut reader)?);
                }
                Self::Members { before, count, changes }
            }
            b'g' => Self::Groups,
            b'h' => {
                let connection = ConnectionId(reader.u64()?);
                Self::HandOver { connection, why: HandOver::from_code(reader.u8()?).ok_or(NodeError::Malformed)? }
            }
            b'p' => {
                let (version, is_online) = (reader.number()?, reader.u8()? != 0);
                Self::Presence { version, is_online, at: UnixMillis(reader.number()?) }
            }
            b'r' => {
                let epoch = Epoch(reader.array()?);
                let cursor = Cursor { epoch, seq: reader.number()?, stamp: Stamp(reader.number()?) };
                let of = take_text(&mut reader)?;
                let with = Some(take_text(&mut reader)?).filter(|with| !with.is_empty());
                Self::Read { of, with, user: take_user(&mut reader)?, cursor }
            }
            other => return Err(NodeError::Version(other)),
        };
        if reader.at == bytes.len() { Ok(notice) } else { Err(NodeError::Malformed) }
    }

    /// Bytes that it costs a queue.
    pub fn weight(&self) -> usize {
        match self {
            Self::Members { changes, .. } => 64 + 64 * changes.len(),
            _ => 256,
        }
    }
}

impl Change {
    /// `| mseq 8 | join 1 | n 1 | user n |`, as a group's log keeps it too.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.mseq);
        out.put_u8(u8::from(self.is_join));
        put_user(out, &self.user);
    }

    /// # Errors
    /// [`NodeError::Malformed`].
    pub fn decode(bytes: &Bytes) -> Result<Self, NodeError> {
        let mut reader = Reader { bytes, at: 0 };
        let change = Self::read(&mut reader)?;
        if reader.at == bytes.len() { Ok(change) } else { Err(NodeError::Malformed) }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, NodeError> {
        let (mseq, is_join) = (reader.number()?, reader.u8()? != 0);
        Ok(Self { mseq, user: take_user(reader)?, is_join })
    }
}

/// An ID has at most 128 bytes.
fn put_user(out: &mut Vec<u8>, user: &UserId) {
    out.put_u8(u8::try_from(user.as_str().len()).unwrap_or(u8::MAX));
    out.put_slice(user.as_str().as_bytes());
}

fn take_user(reader: &mut Reader<'_>) -> Result<UserId, NodeError> {
    let length = usize::from(reader.u8()?);
    let text = Text::from_bytes(reader.take(length)?).ok_or(NodeError::Malformed)?;
    UserId::parse(&text).map_err(|_| NodeError::Malformed)
}

fn take_text(reader: &mut Reader<'_>) -> Result<Text, NodeError> {
    let length = usize::from(reader.u16()?);
    Text::from_bytes(reader.take(length)?).ok_or(NodeError::Malformed)
}
