//! Limits of the wire, each with its unit and reason. What an operator can change is in the gateway's configuration.

/// Bytes of an ID. Long enough for a UUID pair or an e-mail address, short enough for a Redis key.
pub const ID_BYTES_MAX: usize = 128;

/// Containers within containers, counted from the frame itself. Far above what people nest, far below what a recursive
/// decoder on a 2 MiB stack survives.
pub const DEPTH_MAX: u32 = 32;

/// Frames in one batch. A batch of the smallest requests that fills 64 KiB has about 2,000 of them; each counts for the rate.
pub const BATCH_FRAMES_MAX: usize = 2_048;

/// Cursors that a client may name for one stream, newest first (its last message, and those of about 8, 64, 512 ago).
pub const CURSORS_MAX: usize = 4;

/// Streams that a `hello` may name: 256 groups, the own inbox and `all`.
pub const STREAMS_MAX: usize = 258;

/// Sequence numbers and stamps stay below 2^53, where Lua's numbers are exact.
pub const NUMBER_MAX: u64 = 1 << 53;

/// Messages that one `history` asks for at most.
pub const HISTORY_LIMIT_MAX: u64 = 200;

/// Bytes of bodies after which a `history` answer stops.
pub const HISTORY_BYTES_MAX: usize = 256 * 1024;

/// Devices of a user whose cursors are kept: the names are the clients' own, so their number needs an end.
pub const DEVICES_MAX: usize = 256;

/// Messages in one append batch: far below what Lua can unpack, and a few milliseconds of Redis at the most.
pub const BATCH_MESSAGES_MAX: usize = 1_000;

/// Bytes of envelopes in one append batch.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Messages and bytes of one page of an inbox: what one pull brings.
pub const PAGE_MESSAGES_MAX: usize = 128;
pub const PAGE_BYTES_MAX: usize = 64 * 1024;

/// How far back a retry is searched for: entries and bytes. A search of 4,096 costs 5 ms of Redis.
pub const SEARCH_ENTRIES_MAX: usize = 4_096;
pub const SEARCH_BYTES_MAX: usize = 512 * 1024;
