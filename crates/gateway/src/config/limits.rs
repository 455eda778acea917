//! What an operator may choose: defaults and bounds, each with its unit and reason. Wire limits: `protocol::limits`.

use std::ops::RangeInclusive;

/// Partitions of the fleet, fixed at its first start. 64 spreads slots over any Cluster that one fleet can use; above
/// 1,024 a Cluster node would subscribe to more channels than it has connections to fill them.
pub(super) const PARTITIONS: u16 = 64;
pub(super) const PARTITIONS_RANGE: RangeInclusive<u64> = 1..=1_024;

/// Append batches in flight on a single Redis. 8 keep it busy while each still collects a batch; more only make batches
/// smaller, and above 64 nothing is left to collect.
pub(super) const LANES: u16 = 8;
pub(super) const LANES_RANGE: RangeInclusive<u64> = 1..=64;

/// Threads that run connections. The default is the number of cores.
pub(super) const WORKERS_RANGE: RangeInclusive<u64> = 1..=1_024;

/// Milliseconds that a message is kept. The week is what people expect of a chat after a holiday; a year is where an
/// inbox has become an archive, which it is not.
pub(super) const RETENTION_MS: u64 = 7 * 86_400_000;
pub(super) const RETENTION_MS_RANGE: RangeInclusive<u64> = 1_000..=366 * 86_400_000;

/// Messages of one inbox.
pub(super) const INBOX_MAX: u64 = 10_000;
pub(super) const INBOX_MAX_RANGE: RangeInclusive<u64> = 1..=1_000_000;

/// Bytes of one inbox. The upper bound keeps one address from filling a Redis.
pub(super) const INBOX_BYTES: u64 = 16 << 20;
pub(super) const INBOX_BYTES_RANGE: RangeInclusive<u64> = 64 << 10..=1 << 30;

/// Bytes of all inboxes of the embedded backplane: the process' own memory.
pub(super) const EMBEDDED_BYTES: u64 = 1 << 30;
pub(super) const EMBEDDED_BYTES_RANGE: RangeInclusive<u64> = 1 << 20..=1 << 40;

/// Bytes of one frame of a client. Below 1 KiB a `hello` with a token does not fit; above 1 MiB one frame holds up
/// everything behind it, here and in Redis.
pub(super) const MAX_BYTES: u64 = 64 << 10;
pub(super) const MAX_BYTES_RANGE: RangeInclusive<u64> = 1 << 10..=1 << 20;

/// Milliseconds between SIGTERM and the first goodbye, and those over which the goodbyes are spread. An hour is the
/// longest that an orchestrator waits.
pub(super) const DRAIN_DELAY_MS: u64 = 5_000;
pub(super) const DRAIN_MS: u64 = 30_000;
pub(super) const DRAIN_MS_RANGE: RangeInclusive<u64> = 0..=3_600_000;

/// Milliseconds between the end of a connection and the end of its location. A client is back within a second or two; after
/// a minute who is not back is away, whatever he would say.
pub(super) const PRESENCE_DELAY_MS: u64 = 5_000;
pub(super) const PRESENCE_DELAY_MS_RANGE: RangeInclusive<u64> = 0..=60_000;

/// What users may do whose tokens say nothing of it: write to anybody, and to their own groups; be in groups that somebody
/// else put them in; see who is in there with them.
pub(super) const CAN_SEND: &str = "user:*,own";
pub(super) const CAN_JOIN: &str = "own";
pub(super) const CAN_LOOK: &str = "own";

/// Addresses of one right, so that asking stays cheap.
pub(super) const PATTERNS_MAX: usize = 256;

/// Bytes of an HS256 secret: as many as the hash has, below which guessing the secret is cheaper than the hash
/// (RFC 7518, 3.2).
pub(super) const JWT_SECRET_BYTES_MIN: usize = 32;

/// Bytes of a key prefix: it stands in every key.
pub(super) const REDIS_PREFIX_BYTES_MAX: usize = 32;
