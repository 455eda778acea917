//! The arguments of `append.lua` and its reply.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use delivery::record::Whose;
use delivery::{Kind, Limits, NewMessage, Place, Placed};
use fred::types::Value;
use protocol::limits::NUMBER_MAX;
use protocol::node::{ENTRY_MEMBERS, ENTRY_PLAIN};
use protocol::{Cursor, Epoch, NodeId, Stamp};

use super::RedisSettings;
use super::requests::{number, text};
use crate::api::{Batch, BatchAnswer, BatchResult};
use crate::error::BackplaneError;
use routing::Layout;

/// A durable item of a bundle, as `protocol::node` reads it.
const ITEM_DURABLE: u8 = 1;

/// Keys and arguments for one batch.
pub(super) fn call(settings: &RedisSettings, batch: &Batch) -> (Vec<String>, Vec<Value>) {
    let Limits { retention_ms, inbox_max, inbox_bytes, retry_young_us } = settings.limits;
    let names = settings.topology.keys();
    let records: Vec<_> = batch.groups.iter().map(|group| names.record(&group.record)).collect();
    let mut keys = Vec::with_capacity(1 + 3 * records.len());
    keys.push(names.ledger(settings.process, batch.lane));
    keys.extend(records.iter().map(|record| record.meta.clone()));
    keys.extend(records.iter().map(|record| record.inbox.clone()));
    keys.extend(records.into_iter().map(|record| record.cursors));
    let mut args = Vec::with_capacity(10 + 3 * batch.groups.len());
    args.push(batch.number.map_or_else(|| text(""), |n| number(n.0)));
    args.extend([batch.deadline_us, retention_ms, inbox_max, inbox_bytes, retry_young_us].map(number));
    let group = settings.topology.group_of_lane(batch.lane);
    args.push(text(&settings.topology.channel_prefix(group)));
    args.push(text(publish_command(settings.topology.layout())));
    args.push(Value::Bytes(Bytes::copy_from_slice(&batch.epoch.0)));
    args.push(text(&settings.topology.everybody(group).0));
    for group in &batch.groups {
        args.push(Value::Bytes(heads(Whose::of(&group.record), &group.messages)));
        args.push(Value::Bytes(item(&group.record)));
        args.extend(group.messages.iter().map(|message| Value::Bytes(message.envelope.clone())));
    }
    (keys, args)
}

/// One string for all messages of an address: Redis pays for each string that a script is given. First tries are what
/// entries begin with, so that the script has nothing to make of them.
fn heads(whose: Whose, messages: &[NewMessage]) -> Bytes {
    let form = if whose == Whose::Group { ENTRY_MEMBERS } else { ENTRY_PLAIN };
    let is_first_try = |one: &NewMessage| one.kind == Kind::Durable && one.search_us.is_none();
    let are_first_tries = messages.iter().all(is_first_try);
    let mut heads = BytesMut::with_capacity(17 * messages.len());
    for one in messages {
        if are_first_tries {
            heads.put_u8(form);
            heads.put_u64(one.tag.0);
        } else {
            heads.put_u8(match (one.kind, one.search_us) {
                (Kind::Ephemeral, _) => b'e',
                (Kind::Durable, None) => b'd',
                (Kind::Durable, Some(_)) => b'r',
                (Kind::Late, _) => b'l',
            });
            heads.put_u64(one.tag.0);
            heads.put_u64(one.search_us.unwrap_or_default());
        }
    }
    heads.freeze()
}

/// How the part of an address in a bundle begins, up to its epoch.
fn item(record: &str) -> Bytes {
    let mut item = BytesMut::with_capacity(3 + record.len());
    item.put_u8(ITEM_DURABLE);
    item.put_u16(u16::try_from(record.len()).unwrap_or(u16::MAX));
    item.put_slice(record.as_bytes());
    item.freeze()
}

/// In a Cluster a channel has a slot, and its messages stay on that master.
pub(super) fn publish_command(layout: Layout) -> &'static str {
    match layout {
        Layout::Whole => "PUBLISH",
        Layout::Cluster => "SPUBLISH",
    }
}

/// Reads the reply; also what Redis' clock said.
pub(super) fn answer(batch: &Batch, mut reply: Bytes) -> Result<(BatchResult, Option<u64>), BackplaneError> {
    let is_new = match reply.try_get_u8() {
        Ok(b'S') => return Ok((BatchResult::Stale, clock(&mut reply))),
        Ok(kind @ (b'R' | b'P')) => kind == b'R',
        _ => return Err(odd()),
    };
    let now_us = clock(&mut reply).ok_or_else(odd)?;
    let mut groups = Vec::with_capacity(batch.groups.len());
    // The stamp of what was stored is not said: it is the time and the place in the batch.
    let mut stamp = now_us;
    for group in &batch.groups {
        let count = group.messages.len();
        groups.push(one_group(&mut reply, count, stamp).ok_or_else(odd)?);
        stamp += count as u64;
    }
    let mut receivers = Vec::new();
    while reply.has_remaining() {
        receivers.push(one_receiver(&mut reply).ok_or_else(odd)?);
    }
    Ok((BatchResult::Answered(BatchAnswer { groups, receivers, is_elsewhere: false }), is_new.then_some(now_us)))
}

/// What Redis' clock said, which is reckoned with.
fn clock(reply: &mut Bytes) -> Option<u64> {
    reply.try_get_u64().ok().filter(|us| *us < NUMBER_MAX)
}

fn one_group(reply: &mut Bytes, count: usize, first: u64) -> Option<Result<Vec<Placed>, String>> {
    if reply.try_get_u8().ok()? != 1 {
        let length = usize::from(reply.try_get_u16().ok()?);
        let why = (length <= reply.len()).then(|| reply.split_to(length))?;
        return Some(Err(String::from_utf8_lossy(&why).into_owned()));
    }
    let mut epoch = Epoch::default();
    reply.try_copy_to_slice(&mut epoch.0).ok()?;
    let online = reply.try_get_u8().ok()? != 0;
    let mut placed = Vec::with_capacity(count);
    for place in 0..count as u64 {
        let code = reply.try_get_u8().ok()?;
        let seq = reply.try_get_u64().ok()?;
        let stamp = Stamp(if code == 1 { first + place } else { reply.try_get_u64().ok()? });
        let cursor = Cursor { epoch, seq, stamp };
        let place = match code {
            1 => Place::Stored(cursor),
            2 => Place::Found(cursor),
            3 => Place::Published,
            4 => Place::Unprovable,
            _ => return None,
        };
        placed.push(Placed { place, at: stamp.at(), online });
    }
    Some(Ok(placed))
}

fn one_receiver(reply: &mut Bytes) -> Option<(NodeId, u64)> {
    let heard = reply.try_get_u16().ok()?;
    let length = usize::from(reply.try_get_u8().ok()?);
    let node = (length <= reply.len()).then(|| reply.split_to(length))?;
    Some((NodeId::parse(std::str::from_utf8(&node).ok()?).ok()?, u64::from(heard)))
}

fn odd() -> BackplaneError {
    BackplaneError::Unknown("the reply of append.lua has another form".to_owned())
}
