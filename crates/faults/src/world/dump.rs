//! What the inboxes hold at the end, read from Redis itself and past every node.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use protocol::node::{Envelope, Stored};
use protocol::{Cursor, Epoch, Stamp};
use testkit::Redis;

use super::Servers;
use crate::history::MessageNo;

/// One inbox.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// The place of its newest entry.
    pub(crate) end: Cursor,
    pub(crate) trimmed: u64,
    pub(crate) messages: Vec<MessageNo>,
}

/// The head of a record's meta: version, epoch, number of the base, newest stamp. See docs/delivery.md.
const META_BYTES_MIN: usize = 25;

/// Reads all inboxes of recipients, by their numbers.
///
/// # Errors
/// A server does not answer, or holds what docs/delivery.md does not describe.
pub(crate) fn dump(servers: &Servers) -> Result<BTreeMap<u32, Inbox>> {
    let mut inboxes = BTreeMap::new();
    for master in servers.masters()? {
        let server = &servers.all()[master];
        let keys = server.try_cli(&["KEYS", "sb:*:i:user:r*"])?;
        for key in keys.lines().filter(|key| !key.is_empty()) {
            let recipient = key.rsplit_once(":r").and_then(|(_, r)| r.parse().ok());
            let recipient = recipient.with_context(|| format!("the key {key}"))?;
            inboxes.insert(recipient, read(server, key)?);
        }
    }
    Ok(inboxes)
}

fn read(server: &Redis, key: &str) -> Result<Inbox> {
    let meta = server.try_bytes(&["GET", &key.replacen(":i:", ":m:", 1)])?.pop().unwrap_or_default();
    ensure!(meta.len() >= META_BYTES_MIN, "{key} has no meta");
    let epoch = Epoch(meta[1..9].try_into()?);
    let base = u64::from_be_bytes(meta[9..17].try_into()?);
    let entries = server.try_bytes(&["LRANGE", key, "0", "-1"])?;
    let mut messages = Vec::with_capacity(entries.len());
    let mut stamp = Stamp::default();
    for (n, entry) in entries.into_iter().enumerate() {
        let entry = Bytes::from(entry);
        stamp = Stored::stamp_of(&entry);
        // The base is there to be compared, and is no message.
        if n > 0 {
            messages.push(message(&entry).with_context(|| format!("{key} at {n}"))?);
        }
    }
    let end = Cursor { epoch, seq: base + messages.len() as u64, stamp };
    Ok(Inbox { end, trimmed: base, messages })
}

fn message(entry: &Bytes) -> Result<MessageNo> {
    let envelope = Envelope::decode(&Stored::decode(entry)?.envelope)?;
    let (sender, count) = envelope.id.split_once(':').context("an id of somebody else")?;
    Ok(MessageNo { sender: sender.parse()?, count: count.parse()? })
}
