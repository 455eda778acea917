//! What the models run: the shipped functions, each in a place of its own, so that a mutant can replace exactly one.

use std::sync::LazyLock;

use bytes::Bytes;
use delivery::record::{self, Appended, AttachRequest, Beside, Record, Whose};
use delivery::{Attached, Consumer, Kind, Limits, NewMessage, Registration, Step, Verified};
use protocol::{ConnectionId, Cursor, Encoding, Envelope, Epoch, NodeId, Stamp, Tag};

type Append = fn(&mut Option<Record>, Epoch, u64, u64, &[NewMessage], &Limits) -> Appended;
type Attach = fn(&mut Option<Record>, Epoch, u64, &AttachRequest, &Limits) -> Attached;
type Verify = fn(&mut Option<Record>, u64, &Registration, Cursor, &Limits) -> Verified;

#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) on_live: fn(&mut Consumer, Cursor, Stamp) -> Step,
    pub(super) pause: fn(&mut Consumer),
    /// What a fork under a running stream is compared with, newest first.
    pub(super) places: fn(&Consumer) -> Vec<Cursor>,
    pub(super) append: Append,
    pub(super) attach: Attach,
    pub(super) read: fn(Option<&Record>, u64, &[Cursor]) -> Option<Attached>,
    pub(super) verify: Verify,
    pub(super) detach: fn(&mut Record, &NodeId, ConnectionId, u64),
    /// What `hello` names of the cursors that a client keeps, newest first.
    pub(super) names: fn(&[Cursor]) -> Vec<Cursor>,
    /// Whether a client hands a message on: `known` is one that it has had, `again` is what the gateway says of it.
    pub(super) is_new: fn(known: bool, again: bool) -> bool,
}

/// No rule replaced.
pub(super) const SHIPPED: Rules = Rules {
    on_live: Consumer::on_live,
    pause: Consumer::pause,
    places: Consumer::places,
    append,
    attach,
    read: record::read,
    verify: record::verify,
    detach: Record::detach,
    names: <[Cursor]>::to_vec,
    is_new: |known, _| !known,
};

/// Appends to a user's inbox.
pub(super) fn append(
    record: &mut Option<Record>,
    epoch: Epoch,
    now_us: u64,
    first: u64,
    messages: &[NewMessage],
    limits: &Limits,
) -> Appended {
    record::append(record, Whose::User, epoch, now_us, first, messages, limits)
}

/// Attaches a user's connection, which begins his record where there is none.
pub(super) fn attach(
    record: &mut Option<Record>,
    epoch: Epoch,
    now_us: u64,
    request: &AttachRequest,
    limits: &Limits,
) -> Attached {
    record::attach(record, epoch, now_us, request, &Beside::default(), limits).expect("it registers")
}

/// Nothing expires within a model, and every retry is young: what is older was refused by its deadline.
pub(super) const fn limits(inbox_max: u64) -> Limits {
    Limits { retention_ms: 1 << 40, inbox_max, inbox_bytes: 1 << 20, retry_young_us: 1 << 40 }
}

/// When a model begins: so late that a record without a retry mark has none that could be young.
pub(super) const START_US: u64 = 1 << 42;

/// Two gateway nodes.
pub(super) static NODES: LazyLock<[NodeId; 2]> =
    LazyLock::new(|| ["a", "b"].map(|name| NodeId::new(name, 1).expect("a plain name")));

static ENVELOPES: LazyLock<Vec<Bytes>> = LazyLock::new(|| (0..8).map(envelope).collect());

fn envelope(number: u64) -> Bytes {
    let envelope = Envelope {
        to: "user:b".into(),
        from: "user:a".into(),
        id: number.to_string().into(),
        encoding: Encoding::Json,
        body: Bytes::from_static(b"1"),
        expires_ms: None,
        traceparent: None,
        flags: 0,
    };
    envelope.encode().into()
}

/// A message on its way to an inbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Post {
    pub(super) m: u8,
    pub(super) is_retry: bool,
    pub(super) is_ephemeral: bool,
}

impl Post {
    pub(super) const fn first(m: u8) -> Self {
        Self { m, is_retry: false, is_ephemeral: false }
    }

    pub(super) const fn retry(m: u8) -> Self {
        Self { is_retry: true, ..Self::first(m) }
    }
}

/// Message `m`. Its tag is `m + 1`: a stub has tag 0.
pub(super) fn message(Post { m, is_retry, is_ephemeral }: Post) -> NewMessage {
    NewMessage {
        kind: if is_ephemeral { Kind::Ephemeral } else { Kind::Durable },
        tag: Tag(u64::from(m) + 1),
        envelope: ENVELOPES[usize::from(m)].clone(),
        search_us: is_retry.then_some(1 << 40),
    }
}

/// The bit of a message in a set.
pub(super) fn bit(tag: Tag) -> u8 {
    1 << (tag.0 - 1)
}

pub(super) fn registration(node: usize, connection: u8, reg: u8) -> Registration {
    let connection = ConnectionId(u64::from(connection));
    Registration { node: NODES[node].clone(), connection, reg: u64::from(reg), device: None }
}
