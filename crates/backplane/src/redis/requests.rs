//! The arguments of the other scripts and their replies.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use delivery::{Attached, Reason, Standing, Start, Verified};
use fred::types::Value;
use protocol::client::From;
use protocol::limits::{HISTORY_BYTES_MAX, NUMBER_MAX, PAGE_BYTES_MAX, PAGE_MESSAGES_MAX};
use protocol::{ConnectionId, Cursor, Epoch, NodeId, Page, Stamp, Text};

use super::RedisSettings;
use super::scripts::{bytes_of, items_of};
use crate::api::{AttachRequest, DetachRequest, HistoryRequest, ReadRequest, VerifyRequest};
use crate::error::{BackplaneError, HistoryError};

type Call = (Vec<String>, Vec<Value>);

pub(super) fn text(text: &str) -> Value {
    Value::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

pub(super) fn number(number: u64) -> Value {
    Value::Bytes(Bytes::from(number.to_string()))
}

pub(super) fn connection(id: ConnectionId) -> Value {
    Value::Bytes(Bytes::copy_from_slice(&id.0.to_be_bytes()))
}

pub(super) fn cursor(cursor: Option<&Cursor>) -> Value {
    let mut raw = BytesMut::with_capacity(24);
    if let Some(cursor) = cursor {
        raw.put_slice(&cursor.epoch.0);
        raw.put_u64(cursor.seq);
        raw.put_u64(cursor.stamp.0);
    }
    Value::Bytes(raw.freeze())
}

/// A page's limits, and what stands before the requests.
fn attach_head(settings: &RedisSettings) -> Vec<Value> {
    [settings.limits.retention_ms, PAGE_MESSAGES_MAX as u64, PAGE_BYTES_MAX as u64].map(number).into()
}

pub(super) fn attach_call(settings: &RedisSettings, requests: &[AttachRequest]) -> Call {
    let names = settings.topology.keys();
    let (mut keys, mut args) = (Vec::with_capacity(4 * requests.len()), attach_head(settings));
    for AttachRequest { of, epoch, request } in requests {
        let record = names.record(of);
        let registration = &request.registration;
        keys.extend([record.meta, record.inbox, record.cursors, names.located(of, &registration.node)]);
        args.push(text(of));
        args.push(Value::Bytes(Bytes::copy_from_slice(&epoch.0)));
        args.push(text(registration.node.as_str()));
        args.push(connection(registration.connection));
        args.push(number(registration.reg));
        args.push(text(registration.device.as_ref().map_or("", |d| d.as_str())));
        args.push(text(if request.from == From::Oldest { "o" } else { "n" }));
        args.push(number(request.cursors.len() as u64));
        args.extend(request.cursors.iter().map(|c| cursor(c.as_ref())));
    }
    (keys, args)
}

pub(super) fn read_call(settings: &RedisSettings, request: &ReadRequest) -> Call {
    let record = settings.topology.keys().record(&request.of);
    // The fourth key is for a location: a read writes none.
    let keys = vec![record.meta.clone(), record.inbox, record.cursors, record.meta];
    let mut args = attach_head(settings);
    args.extend([text(&request.of), text(""), text(""), text(""), number(0), text(""), text("o")]);
    args.push(number(request.after.len() as u64));
    args.extend(request.after.iter().map(|c| cursor(Some(c))));
    (keys, args)
}

/// One answer of `attach.lua`; `None`: there is no record.
pub(super) fn attached(answer: Value) -> Result<Option<Attached>, BackplaneError> {
    let mut items = items_of(answer).into_iter();
    let mut head = items.next().map(bytes_of).unwrap_or_default();
    match head.try_get_u8() {
        Ok(b'A') => {}
        Ok(b'G') => return Ok(None),
        _ => return Err(refused(&head)),
    }
    let rows: Vec<Bytes> = items.map(bytes_of).collect();
    let parsed = attached_head(&mut head).map(|(start, cursor, head_seq, more, routed)| Attached {
        start,
        cursor,
        head: head_seq,
        page: Page::decode(cursor, &rows, more),
        routed,
        registered: registered(head),
    });
    parsed.map(Some).ok_or_else(odd)
}

fn attached_head(head: &mut Bytes) -> Option<(Start, Cursor, u64, bool, bool)> {
    let (start, why, lost) = (head.try_get_u8().ok()?, head.try_get_u8().ok()?, head.try_get_u64().ok()?);
    let start = match start {
        0 => Start::New,
        1 => Start::Resumed,
        _ => {
            let reason = reason(why)?;
            Start::Reset { reason, lost: (reason == Reason::Retention).then_some(lost) }
        }
    };
    let mut epoch = Epoch::default();
    head.try_copy_to_slice(&mut epoch.0).ok()?;
    let seq = seq_of(head)?;
    let stamp = Stamp(head.try_get_u64().ok()?);
    let head_seq = seq_of(head)?;
    let (more, routed) = (head.try_get_u8().ok()? != 0, head.try_get_u8().ok()? != 0);
    Some((start, Cursor { epoch, seq, stamp }, head_seq, more, routed))
}

/// A number is counted on from: it has to be far from where numbers end.
fn seq_of(head: &mut Bytes) -> Option<u64> {
    head.try_get_u64().ok().filter(|seq| *seq < NUMBER_MAX)
}

fn reason(code: u8) -> Option<Reason> {
    Some(match code {
        1 => Reason::Retention,
        2 => Reason::Epoch,
        3 => Reason::Ahead,
        4 => Reason::Fork,
        _ => return None,
    })
}

fn registered(mut bytes: Bytes) -> Vec<(ConnectionId, u64)> {
    let mut list = Vec::with_capacity(bytes.len() / 16);
    while let (Ok(connection), Ok(reg)) = (bytes.try_get_u64(), bytes.try_get_u64()) {
        list.push((ConnectionId(connection), reg));
    }
    list
}

pub(super) fn verify_call(settings: &RedisSettings, requests: &[VerifyRequest]) -> Call {
    let names = settings.topology.keys();
    let mut keys = Vec::with_capacity(4 * requests.len());
    let mut args = vec![number(settings.limits.retention_ms)];
    for request in requests {
        let record = names.record(&request.of);
        let registration = &request.registration;
        keys.extend([record.meta, record.inbox, record.cursors, names.located(&request.of, &registration.node)]);
        args.push(text(&request.of));
        args.push(text(registration.node.as_str()));
        args.push(connection(registration.connection));
        args.push(number(registration.reg));
        args.push(text(registration.device.as_ref().map_or("", |d| d.as_str())));
        args.push(cursor(Some(&request.cursor)));
    }
    (keys, args)
}

pub(super) fn holds_call(settings: &RedisSettings, entries: &[(Text, Cursor)]) -> Call {
    let names = settings.topology.keys();
    let keys = entries.iter().map(|(of, _)| names.record(of)).flat_map(|record| [record.meta, record.inbox]).collect();
    (keys, entries.iter().map(|(_, at)| cursor(Some(at))).collect())
}

pub(super) fn detach_call(settings: &RedisSettings, node: &NodeId, requests: &[DetachRequest]) -> Call {
    let names = settings.topology.keys();
    let (mut keys, mut args) = (Vec::with_capacity(2 * requests.len()), Vec::with_capacity(4 * requests.len()));
    for DetachRequest { of, connection: id, reg } in requests {
        keys.extend([names.record(of).meta, names.located(of, node)]);
        args.extend([text(of), text(node.as_str()), connection(*id), number(*reg)]);
    }
    (keys, args)
}

pub(super) fn verified(answer: Value) -> Result<Verified, BackplaneError> {
    let mut bytes = bytes_of(answer);
    let standing = match bytes.try_get_u8() {
        Ok(0) => Standing::Current,
        Ok(1) => Standing::Behind,
        Ok(2) => Standing::Gone,
        Ok(255) => return Err(refused(&bytes)),
        Ok(code) => Standing::Forked(reason(code.wrapping_sub(10)).ok_or_else(odd)?),
        Err(_) => return Err(odd()),
    };
    Ok(Verified { standing, registered: registered(bytes) })
}

pub(super) fn history_call(settings: &RedisSettings, request: &HistoryRequest) -> Call {
    let record = settings.topology.keys().record(&request.of);
    let args = vec![cursor(request.before.as_ref()), number(request.limit as u64), number(HISTORY_BYTES_MAX as u64)];
    (vec![record.meta, record.inbox], args)
}

pub(super) fn history(answer: Value) -> Result<(Page, bool), HistoryError> {
    let mut items = items_of(answer).into_iter();
    let mut head = items.next().map(bytes_of).unwrap_or_default();
    match head.try_get_u8() {
        Ok(b'H') => {}
        Ok(b'G') => return Ok((Page::default(), false)),
        Ok(b'B') => return Err(HistoryError::Before),
        _ => return Err(odd().into()),
    }
    let rows: Vec<Bytes> = items.map(bytes_of).collect();
    let parsed = (|| {
        let mut epoch = Epoch::default();
        head.try_copy_to_slice(&mut epoch.0).ok()?;
        let seq = seq_of(&mut head)?;
        let stamp = Stamp(head.try_get_u64().ok()?);
        let more = head.try_get_u8().ok()? != 0;
        Some((Page::decode(Cursor { epoch, seq, stamp }, &rows, false), more))
    })();
    parsed.ok_or_else(|| odd().into())
}

fn odd() -> BackplaneError {
    BackplaneError::Unknown("the reply of a script has another form".to_owned())
}

/// What read and history say where there is no record.
pub(super) fn no_record() -> Value {
    Value::Array(vec![text("G")])
}

/// What verify says there.
pub(super) fn gone() -> Value {
    Value::Bytes(Bytes::from_static(&[2]))
}

/// What a script caught: nothing was written for that address.
pub(super) fn refused(why: &[u8]) -> BackplaneError {
    BackplaneError::NotRun(String::from_utf8_lossy(why).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A meta that somebody else wrote may say anything.
    #[test]
    fn a_number_behind_the_last_is_another_form() {
        let answer = |seq: u64| {
            let mut head = BytesMut::from(&b"A\0\0"[..]);
            head.put_u64(0);
            head.put_slice(b"an epoch");
            [seq, 7, seq].into_iter().for_each(|number| head.put_u64(number));
            head.put_slice(&[0, 1]);
            Value::Array(vec![Value::Bytes(head.freeze()), text("no entry")])
        };
        assert!(matches!(attached(answer(5)), Ok(Some(attached)) if attached.page.end.seq == 6));
        assert!(matches!(attached(answer(u64::MAX)), Err(BackplaneError::Unknown(_))));
        assert!(attached(Value::Null).is_err(), "nothing is not `no record`");
    }
}
