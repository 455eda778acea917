//! What the inboxes hold at the end, and whom the groups' records name, read from Redis itself and past every node.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use protocol::node::{Envelope, Stored};
use protocol::{Cursor, Epoch, Stamp};
use testkit::Redis;

use super::Servers;
use crate::history::{Change, MessageNo, To};

/// One inbox.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// The place of its newest entry.
    pub(crate) end: Cursor,
    pub(crate) trimmed: u64,
    pub(crate) messages: Vec<MessageNo>,
    /// Of a group: the number of the membership change before each.
    pub(crate) mseqs: Vec<u64>,
}

impl Inbox {
    /// Whether there is nothing behind this place that is for a member with this join: what is older is not.
    pub(crate) fn has_nothing_behind(&self, place: Cursor, joined: u64) -> bool {
        let behind = place.seq.saturating_sub(self.trimmed);
        let behind = self.mseqs.iter().skip(usize::try_from(behind).unwrap_or(usize::MAX));
        place.epoch == self.end.epoch && behind.into_iter().all(|mseq| *mseq < joined)
    }
}

/// Whom a group has, and the changes that led there.
#[derive(Debug, Default)]
pub(crate) struct Membership {
    /// With the number of each one's join.
    pub(crate) members: BTreeMap<u32, u64>,
    pub(crate) changes: Vec<Change>,
}

/// The head of a record's meta: version, epoch, number of the base, newest stamp. See docs/delivery.md.
const META_BYTES_MIN: usize = 25;

/// Reads all inboxes that the load sends to.
///
/// # Errors
/// A server does not answer, or holds what docs/delivery.md does not describe.
pub(crate) fn dump(servers: &Servers) -> Result<BTreeMap<To, Inbox>> {
    let mut inboxes = BTreeMap::new();
    each_key(servers, &["i:user:r*", "i:group:f*", "i:all"], |server, key| {
        inboxes.insert(named(key, ":i:")?, read(server, key)?);
        Ok(())
    })?;
    Ok(inboxes)
}

/// Reads the members of all groups of the load.
///
/// # Errors
/// As [`dump`].
pub(crate) fn members(servers: &Servers) -> Result<BTreeMap<u32, Membership>> {
    let mut groups: BTreeMap<u32, Membership> = BTreeMap::new();
    each_key(servers, &["g:group:f*"], |server, key| {
        let group = named(key, ":g:")?.group().with_context(|| format!("the key {key}"))?;
        let fields = server.try_bytes(&["HGETALL", key])?;
        let member = |pair: &[Vec<u8>]| {
            Ok((user_of(std::str::from_utf8(&pair[0])?)?, u64::from_be_bytes(pair[1].as_slice().try_into()?)))
        };
        let members = fields.chunks_exact(2).map(member).collect::<Result<_>>();
        groups.entry(group).or_default().members = members.with_context(|| format!("the key {key}"))?;
        Ok(())
    })?;
    each_key(servers, &["j:group:f*"], |server, key| {
        let group = named(key, ":j:")?.group().with_context(|| format!("the key {key}"))?;
        let rows = server.try_bytes(&["LRANGE", key, "0", "-1"])?;
        let changes = rows.iter().map(|row| change(row)).collect::<Result<_>>();
        groups.entry(group).or_default().changes = changes.with_context(|| format!("the key {key}"))?;
        Ok(())
    })?;
    Ok(groups)
}

/// Every key of these patterns, on the master that has it.
fn each_key(servers: &Servers, patterns: &[&str], mut each: impl FnMut(&Redis, &str) -> Result<()>) -> Result<()> {
    for master in servers.masters()? {
        let server = &servers.all()[master];
        for pattern in patterns {
            let keys = server.try_cli(&["KEYS", &format!("sb:*:{pattern}")])?;
            keys.lines().filter(|key| !key.is_empty()).try_for_each(|key| each(server, key))?;
        }
    }
    Ok(())
}

fn named(key: &str, kind: &str) -> Result<To> {
    let to = key.split_once(kind).map_or(To::NOBODY, |(_, address)| To::of_address(address));
    ensure!(to != To::NOBODY, "the key {key}");
    Ok(to)
}

fn user_of(name: &str) -> Result<u32> {
    let number = name.strip_prefix('r').and_then(|number| number.parse().ok());
    number.with_context(|| format!("a member {name}"))
}

/// `| mseq 8 | joined 1 | n 1 | user n |`, and behind it the first number of one that was asked again.
fn change(row: &[u8]) -> Result<Change> {
    ensure!(row.len() > 10, "a change of {} bytes", row.len());
    let (mseq, joined) = (u64::from_be_bytes(row[..8].try_into()?), row[8] == 1);
    let user = row.get(10..10 + usize::from(row[9])).context("a change that is too short")?;
    Ok(Change { mseq, joined, user: user_of(std::str::from_utf8(user)?)? })
}

fn read(server: &Redis, key: &str) -> Result<Inbox> {
    let meta = server.try_bytes(&["GET", &key.replacen(":i:", ":m:", 1)])?.pop().unwrap_or_default();
    ensure!(meta.len() >= META_BYTES_MIN, "{key} has no meta");
    let epoch = Epoch(meta[1..9].try_into()?);
    let base = u64::from_be_bytes(meta[9..17].try_into()?);
    let entries = server.try_bytes(&["LRANGE", key, "0", "-1"])?;
    let (mut messages, mut mseqs) = (Vec::with_capacity(entries.len()), Vec::new());
    let mut stamp = Stamp::default();
    for (n, entry) in entries.into_iter().enumerate() {
        let entry = Bytes::from(entry);
        stamp = Stored::stamp_of(&entry);
        // The base is there to be compared, and is no message.
        if n > 0 {
            messages.push(message(&entry).with_context(|| format!("{key} at {n}"))?);
            mseqs.extend(Stored::decode(&entry)?.mseq);
        }
    }
    let end = Cursor { epoch, seq: base + messages.len() as u64, stamp };
    Ok(Inbox { end, trimmed: base, messages, mseqs })
}

fn message(entry: &Bytes) -> Result<MessageNo> {
    let envelope = Envelope::decode(&Stored::decode(entry)?.envelope)?;
    let (sender, count) = envelope.id.split_once(':').context("an id of somebody else")?;
    Ok(MessageNo { sender: sender.parse()?, count: count.parse()? })
}
