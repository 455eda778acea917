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

/// Groups of one user: as many as one `hello` can name, besides the own inbox and `all`.
pub const GROUPS_MAX: u64 = 256;

/// Members of one group.
pub const MEMBERS_MAX: u64 = 100_000;

/// Changes that a group's log keeps. A node that missed more reads who of its own users is a member.
pub const CHANGES_MAX: usize = 4_096;

/// Above so many members a group says numbers instead of names: changes, presence and receipts.
pub const NAMED_MEMBERS_MAX: u64 = 1_000;

/// Places that one record keeps of a user: his devices' in the own inbox and in `all`, and read marks.
pub const FIELDS_MAX: u64 = 1_024;

/// The same of a group: a few devices of each member, and read marks. The names are the clients' own, so their number needs an
/// end.
pub const GROUP_FIELDS_MAX: u64 = 4 * MEMBERS_MAX;

/// Users of one `presence` or `watch`, and all that one connection may watch.
pub const WATCHED_MAX: usize = 1_000;

/// Members that one `members` asks for at most.
pub const MEMBERS_LIMIT_MAX: u64 = 1_000;

/// Entries that one part of a count looks at, and that one `history` of a conversation goes through.
pub const COUNT_ENTRIES_MAX: u64 = 1_000;
pub const SCAN_ENTRIES_MAX: usize = 2_000;
