//! Generations of both backplanes, and messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backplane::redis::COMMAND_TIMEOUT;
use backplane::{
    Backplane, Batch, BatchBuilder, Commands, Embedded, RedisBackplane, RedisSettings, SharedNode, Source, Subscription,
};
use bytes::Bytes;
use delivery::{Ack, BatchNumber, Kind, Limits, NewMessage, Registered, Registration};
use protocol::{ConnectionId, Cursor, DeviceId, Encoding, Envelope, Epoch, NodeId, Text};
use routing::{Settings, Topology, hash};
use testkit::Redis;

pub(crate) const LIMITS: Limits =
    Limits { retention_ms: 604_800_000, inbox_max: 10_000, inbox_bytes: 16 << 20, retry_young_us: 6_000_000 };

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name, 1).unwrap()
}

pub(crate) fn topology(prefix: &str) -> Topology {
    Topology::new(Settings { prefix: prefix.to_owned(), ..Settings::default() }).unwrap()
}

pub(crate) struct Generation {
    pub(crate) commands: Commands,
    pub(crate) subscription: Box<dyn Subscription>,
}

pub(crate) fn redis_settings(url: String, prefix: &str, limits: Limits) -> RedisSettings {
    RedisSettings {
        url,
        node: SharedNode::new(node("a")),
        topology: topology(prefix),
        limits,
        process: 7,
        command_timeout: COMMAND_TIMEOUT,
        connect_timeout: Duration::from_secs(3),
    }
}

pub(crate) async fn open(backplane: &dyn Backplane) -> Generation {
    let (commands, subscription) = backplane.open(&Source::default()).await.unwrap();
    Generation { commands, subscription }
}

pub(crate) async fn open_redis(url: String, prefix: &str, limits: Limits) -> Generation {
    open(&RedisBackplane::new(redis_settings(url, prefix, limits)).unwrap()).await
}

/// An embedded backplane whose clock is turned by the test.
pub(crate) fn embedded(limits: Limits) -> (Embedded, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(1));
    let clock = now.clone();
    let clock = Arc::new(move || clock.load(Ordering::Relaxed));
    (Embedded::new(node("a"), limits, 1 << 30, clock), now)
}

pub(crate) fn message(id: &str) -> NewMessage {
    let envelope = Envelope {
        to: "user:b".into(),
        from: "user:a".into(),
        id: id.into(),
        encoding: Encoding::Json,
        body: Bytes::from(format!("\"{}\"", "x".repeat(id.len() * 7 % 90))),
        expires_ms: None,
        traceparent: None,
        flags: 0,
    };
    let tag = hash::tag("user:a", id);
    NewMessage { kind: Kind::Durable, tag, envelope: Bytes::from(envelope.encode()), search_us: None }
}

pub(crate) fn retry(id: &str) -> NewMessage {
    NewMessage { search_us: Some(70_000_000), ..message(id) }
}

/// A batch of messages to one address.
pub(crate) fn batch(of: &str, number: Option<u64>, deadline_us: u64, messages: &[NewMessage]) -> Batch {
    let mut builder = BatchBuilder::default();
    for message in messages {
        builder.push(&Text::from(of), message.clone(), || epoch(of));
    }
    builder.finish(topology("sb").lane(of), number.map(BatchNumber), deadline_us)
}

pub(crate) fn epoch(seed: &str) -> Epoch {
    Epoch(hash::hash(seed.as_bytes()).to_be_bytes())
}

pub(crate) fn registration(name: &str, connection: u64, reg: u64, device: Option<&str>) -> Registration {
    let device = device.map(|d| DeviceId::parse(d).unwrap());
    Registration { node: node(name), connection: ConnectionId(connection), reg, device }
}

/// What a record says of a connection that has its place.
pub(crate) fn registered(connection: u64, reg: u64) -> Registered {
    Registered { connection: ConnectionId(connection), reg, hand_over: None }
}

/// A device has everything up to a cursor.
pub(crate) fn acked(of: &str, field: &str, cursor: Cursor) -> Ack {
    Ack { of: Text::from(of), field: Text::from(field), cursor }
}

/// A replica that follows.
pub(crate) async fn replica_of(redis: &Redis) -> Redis {
    redis.cli(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &redis.port().to_string()]).unwrap();
    testkit::eventually("the replica is there", Duration::from_secs(10), async || {
        redis.cli(&["INFO", "replication"]).contains("state=online").then_some(())
    })
    .await
    .unwrap();
    replica
}
