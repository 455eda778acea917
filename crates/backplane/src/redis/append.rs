//! The arguments of `append.lua` and its reply.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use delivery::{Kind, Limits, Place, Placed};
use fred::types::Value;
use protocol::{Cursor, Epoch, NodeId, Stamp};

use super::RedisSettings;
use super::requests::{number, text};
use crate::api::{Batch, BatchAnswer, BatchResult};
use crate::error::BackplaneError;
use routing::SlotGroup;

/// Keys and arguments for one batch.
pub(super) fn call(settings: &RedisSettings, batch: &Batch) -> (Vec<String>, Vec<Value>) {
    let Limits { retention_ms, inbox_max, inbox_bytes, retry_young_us } = settings.limits;
    let names = settings.topology.keys();
    let mut keys = Vec::with_capacity(1 + 3 * batch.groups.len());
    keys.push(names.ledger(settings.process, batch.lane));
    let mut args = Vec::with_capacity(8 + 5 * batch.groups.len());
    args.push(batch.number.map_or_else(|| text(""), |n| number(n.0)));
    args.extend([batch.deadline_us, retention_ms, inbox_max, inbox_bytes, retry_young_us].map(number));
    args.push(text(&settings.topology.channel_prefix(SlotGroup(0))));
    args.push(text("PUBLISH"));
    for group in &batch.groups {
        let record = names.record(&group.record);
        keys.extend([record.meta, record.inbox, record.cursors]);
        args.push(text(&group.record));
        args.push(Value::Bytes(Bytes::copy_from_slice(&group.epoch.0)));
        args.push(number(group.messages.len() as u64));
        for message in &group.messages {
            let mut head = BytesMut::with_capacity(24);
            head.put_u8(if message.kind == Kind::Ephemeral { b'e' } else { b'd' });
            head.put_u64(message.tag.0);
            if let Some(us) = message.search_us {
                head.extend_from_slice(us.to_string().as_bytes());
            }
            args.push(Value::Bytes(head.freeze()));
            args.push(Value::Bytes(message.envelope.clone()));
        }
    }
    (keys, args)
}

/// Reads the reply; also what Redis' clock said.
pub(super) fn answer(batch: &Batch, mut reply: Bytes) -> Result<(BatchResult, Option<u64>), BackplaneError> {
    let is_new = match reply.try_get_u8() {
        Ok(b'S') => return Ok((BatchResult::Stale, reply.try_get_u64().ok())),
        Ok(kind @ (b'R' | b'P')) => kind == b'R',
        _ => return Err(odd()),
    };
    let now_us = reply.try_get_u64().map_err(|_| odd())?;
    let mut groups = Vec::with_capacity(batch.groups.len());
    for group in &batch.groups {
        groups.push(one_group(&mut reply, group.messages.len()).ok_or_else(odd)?);
    }
    let mut receivers = Vec::new();
    while reply.has_remaining() {
        receivers.push(one_receiver(&mut reply).ok_or_else(odd)?);
    }
    Ok((BatchResult::Answered(BatchAnswer { groups, receivers }), is_new.then_some(now_us)))
}

fn one_group(reply: &mut Bytes, count: usize) -> Option<Result<Vec<Placed>, String>> {
    if reply.try_get_u8().ok()? != 0 {
        let length = usize::from(reply.try_get_u16().ok()?);
        let why = (length <= reply.len()).then(|| reply.split_to(length))?;
        return Some(Err(String::from_utf8_lossy(&why).into_owned()));
    }
    let mut epoch = Epoch::default();
    reply.try_copy_to_slice(&mut epoch.0).ok()?;
    let online = reply.try_get_u8().ok()? != 0;
    let mut placed = Vec::with_capacity(count);
    for _ in 0..count {
        let code = reply.try_get_u8().ok()?;
        let seq = reply.try_get_u64().ok()?;
        let stamp = Stamp(reply.try_get_u64().ok()?);
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
