//! The arguments of the other scripts and their replies.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use delivery::record::{self, Whose};
use delivery::{Attached, Claim, OfUser, Reason, Registered, Standing, Start, Verified};
use fred::types::Value;
use protocol::client::From;
use protocol::limits::{HISTORY_BYTES_MAX, NUMBER_MAX, PAGE_BYTES_MAX, PAGE_MESSAGES_MAX};
use protocol::{ConnectionId, Cursor, Epoch, GroupId, HandOver, NodeId, Page, Stamp, Text};
use routing::Keys;

use super::RedisSettings;
use super::append::publish_command;
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

/// How a script tells nodes something: the command, and what their channels begin with. What one call names is of one slot
/// group.
pub(super) fn channel_args(settings: &RedisSettings, of: Option<&str>) -> [Value; 2] {
    let topology = &settings.topology;
    let prefix = of.map(|of| topology.channel_prefix(topology.group(of))).unwrap_or_default();
    [text(publish_command(topology.layout())), text(&prefix)]
}

/// Presence and watchers of a user; meta stands for them where it is no user's record.
fn presence_keys(names: &Keys<'_>, of: &str, meta: &str) -> [String; 2] {
    match Whose::of(of) {
        Whose::User => [names.presence(of), names.watchers(of)],
        Whose::Group | Whose::Other => [meta.to_owned(), meta.to_owned()],
    }
}

/// A page's limits, and what stands before the requests.
fn attach_head(settings: &RedisSettings, of: Option<&str>) -> Vec<Value> {
    let limits = [settings.limits.retention_ms, PAGE_MESSAGES_MAX as u64, PAGE_BYTES_MAX as u64].map(number);
    limits.into_iter().chain(channel_args(settings, of)).collect()
}

/// What is known of a member before the script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The script looks.
    Nothing,
    /// The number of his join.
    Joined(Option<u64>),
}

/// Keys of an attach, by their places in the script.
pub(super) const ATTACH_KEYS: usize = 7;

pub(super) fn attach_call(settings: &RedisSettings, requests: &[AttachRequest], known: Known) -> Call {
    let names = settings.topology.keys();
    let first = requests.first().map(|request| request.of.as_str());
    let (mut keys, mut args) = (Vec::with_capacity(ATTACH_KEYS * requests.len()), attach_head(settings, first));
    for AttachRequest { of, epoch, request } in requests {
        let record = names.record(of);
        let (whose, registration) = (Whose::of(of), request.registration.as_ref());
        let meta = || record.meta.clone();
        let located = registration.map_or_else(meta, |r| names.located(of, &r.node));
        let members = if whose == Whose::Other { meta() } else { names.members(of) };
        let [presence, watchers] = presence_keys(&names, of, &record.meta);
        keys.extend([meta(), record.inbox.clone(), record.cursors.clone(), located, members, presence, watchers]);
        args.push(text(of));
        args.push(Value::Bytes(Bytes::copy_from_slice(&epoch.0)));
        args.push(text(registration.map_or("", |r| r.node.as_str())));
        args.push(connection(registration.map_or(ConnectionId::NODE, |r| r.connection)));
        args.push(number(registration.map_or(0, |r| r.reg)));
        args.push(text(registration.and_then(|r| r.device.as_ref()).map_or("", |d| d.as_str())));
        args.push(text(if request.from == From::Oldest { "o" } else { "n" }));
        args.push(text(request.stored.as_deref().unwrap_or_default()));
        args.push(member(request, whose, known));
        let groups_known = request.groups_known.filter(|_| whose == Whose::User);
        args.push(groups_known.map_or_else(|| text(""), number));
        args.push(claim(request.claim));
        args.push(text(request.profile.as_deref().unwrap_or_default()));
        args.push(number(request.cursors.len() as u64));
        args.extend(request.cursors.iter().map(|c| cursor(c.as_ref())));
    }
    (keys, args)
}

fn member(request: &record::AttachRequest, whose: Whose, known: Known) -> Value {
    let tagged = |tag: u8, rest: &[u8]| Value::Bytes(Bytes::from([&[tag], rest].concat()));
    match (&request.member, known) {
        (None, _) => text(""),
        (Some(_), Known::Joined(Some(joined))) => tagged(b'j', &joined.to_be_bytes()),
        (Some(user), Known::Nothing) if whose == Whose::Group => tagged(b'u', user.as_str().as_bytes()),
        (Some(_), _) => text("n"),
    }
}

fn claim(claim: Option<Claim>) -> Value {
    match claim {
        None => text(""),
        Some(Claim::TakesOver(other)) => Value::Bytes(Bytes::from([&b"t"[..], &other.0.to_be_bytes()].concat())),
        Some(Claim::Exclusive) => text("x"),
    }
}

pub(super) fn read_call(settings: &RedisSettings, request: &ReadRequest) -> Call {
    let record = settings.topology.keys().record(&request.of);
    // Behind the cursors come keys for what a read neither writes nor asks for.
    let mut keys = vec![record.meta.clone(), record.inbox, record.cursors];
    keys.resize(ATTACH_KEYS, record.meta);
    let mut args = attach_head(settings, Some(&request.of));
    args.extend([text(&request.of), text(""), text(""), text(""), number(0), text(""), text("o")]);
    args.extend([text(""), text(""), text(""), text(""), text("")]);
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
    attached_head(&mut head, &rows).map(Some).ok_or_else(odd)
}

fn attached_head(head: &mut Bytes, rows: &[Bytes]) -> Option<Attached> {
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
    let cursor = Cursor { epoch, seq: number_of(head)?, stamp: Stamp(head.try_get_u64().ok()?) };
    let head_seq = number_of(head)?;
    let (more, routed) = (head.try_get_u8().ok()? != 0, head.try_get_u8().ok()? != 0);
    let version = number_of(head)?;
    let (is_member, joined) = (head.try_get_u8().ok()? != 0, number_of(head)?);
    let user = if head.try_get_u8().ok()? == 0 { None } else { Some(of_user(head)?) };
    Some(Attached {
        start,
        cursor,
        head: head_seq,
        page: Page::decode(cursor, rows, more),
        routed,
        registered: registered(head),
        version,
        joined: is_member.then_some(joined),
        user,
    })
}

/// What an attach says besides the messages of a user.
fn of_user(head: &mut Bytes) -> Option<OfUser> {
    let all = match head.try_get_u8().ok()? {
        0 => None,
        _ if head.len() < 24 => return None,
        _ => cursor_of(&head.split_to(24)),
    };
    let count = head.try_get_u16().ok()?;
    let mut groups = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let length = usize::from(head.try_get_u8().ok()?);
        let name = (length <= head.len()).then(|| head.split_to(length))?;
        groups.extend(group_of(name));
    }
    Some(OfUser { groups, all })
}

/// A name in a user's set; one that is no group's is left out.
pub(super) fn group_of(name: Bytes) -> Option<GroupId> {
    GroupId::parse(&Text::from_bytes(name)?).ok()
}

/// A cursor as hashes hold it.
pub(super) fn cursor_of(raw: &[u8]) -> Option<Cursor> {
    let (epoch, rest) = raw.split_first_chunk::<8>()?;
    let (seq, stamp) = rest.split_first_chunk::<8>()?;
    let stamp = stamp.first_chunk::<8>()?;
    Some(Cursor { epoch: Epoch(*epoch), seq: u64::from_be_bytes(*seq), stamp: Stamp(u64::from_be_bytes(*stamp)) })
}

/// A number is counted on from: it has to be far from where numbers end.
fn number_of(head: &mut Bytes) -> Option<u64> {
    head.try_get_u64().ok().filter(|number| *number < NUMBER_MAX)
}

pub(super) fn reason(code: u8) -> Option<Reason> {
    Some(match code {
        1 => Reason::Retention,
        2 => Reason::Epoch,
        3 => Reason::Ahead,
        4 => Reason::Fork,
        _ => return None,
    })
}

fn registered(bytes: &mut Bytes) -> Vec<Registered> {
    let mut list = Vec::with_capacity(bytes.len() / 17);
    while let (Ok(connection), Ok(reg), Ok(flags)) = (bytes.try_get_u64(), bytes.try_get_u64(), bytes.try_get_u8()) {
        list.push(Registered { connection: ConnectionId(connection), reg, hand_over: HandOver::from_code(flags) });
    }
    list
}

pub(super) fn verify_call(settings: &RedisSettings, requests: &[VerifyRequest]) -> Call {
    let names = settings.topology.keys();
    let mut keys = Vec::with_capacity(6 * requests.len());
    let mut args = vec![number(settings.limits.retention_ms)];
    args.extend(channel_args(settings, requests.first().map(|request| request.of.as_str())));
    for request in requests {
        let record = names.record(&request.of);
        let registration = &request.registration;
        let people = presence_keys(&names, &request.of, &record.meta);
        keys.extend([record.meta, record.inbox, record.cursors, names.located(&request.of, &registration.node)]);
        keys.extend(people);
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
    let mut keys = Vec::with_capacity(4 * requests.len());
    let mut args = Vec::from(channel_args(settings, requests.first().map(|request| request.of.as_str())));
    for DetachRequest { of, connection: id, reg } in requests {
        let meta = names.record(of).meta;
        let people = presence_keys(&names, of, &meta);
        keys.extend([meta, names.located(of, node)].into_iter().chain(people));
        args.extend([text(of), text(node.as_str()), connection(*id), number(*reg)]);
    }
    (keys, args)
}

/// Removes what a dead node has left at some addresses, of which it had a list.
pub(super) fn reap_call(settings: &RedisSettings, node: &NodeId, located: &str, some: &[String]) -> Call {
    let names = settings.topology.keys();
    let mut keys = vec![located.to_owned()];
    let mut args = vec![text(node.as_str())];
    args.extend(channel_args(settings, some.first().map(String::as_str)));
    for of in some {
        let meta = names.record(of).meta;
        let people = presence_keys(&names, of, &meta);
        keys.push(meta);
        keys.extend(people);
        args.push(text(of));
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
    let version = number_of(&mut bytes).ok_or_else(odd)?;
    Ok(Verified { standing, registered: registered(&mut bytes), version })
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
        let seq = number_of(&mut head)?;
        let stamp = Stamp(head.try_get_u64().ok()?);
        let more = head.try_get_u8().ok()? != 0;
        Some((Page::decode(Cursor { epoch, seq, stamp }, &rows, false), more))
    })();
    parsed.ok_or_else(|| odd().into())
}

pub(super) fn odd() -> BackplaneError {
    BackplaneError::Unknown("the reply of a script has another form".to_owned())
}

/// What read and history say where there is no record.
pub(super) fn no_record() -> Value {
    Value::Array(vec![text("G")])
}

/// What verify says there.
pub(super) fn gone() -> Value {
    Value::Bytes(Bytes::from_static(&[2, 0, 0, 0, 0, 0, 0, 0, 0]))
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
            head.put_slice(&[0; 20]);
            Value::Array(vec![Value::Bytes(head.freeze()), text("no entry")])
        };
        assert!(matches!(attached(answer(5)), Ok(Some(attached)) if attached.page.end.seq == 6));
        assert!(matches!(attached(answer(u64::MAX)), Err(BackplaneError::Unknown(_))));
        assert!(attached(Value::Null).is_err(), "nothing is not `no record`");
    }
}
