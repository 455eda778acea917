//! The rules, one function each, in the order in which an operator looks.

use super::Checked::{self, Fine, Found, Quiet, Unknown};
use super::Severity::{Loses, Note, Risk};
use super::{Facts, Finding, Severity};

/// The oldest Redis that the scripts are tested with.
const VERSION_MIN: (u64, u64) = (7, 0);

/// A node and its Redis belong into one data centre: there a round trip takes a fraction of this.
const LATENCY_US_MAX: u64 = 5_000;

/// Machines with NTP differ by milliseconds.
const CLOCK_OFFSET_US_MAX: u64 = 1_000_000;

/// Redis' own default for subscribers, hard and soft. Below it even a short pause of a node cuts it off.
const PUBSUB_DEFAULT: [u64; 2] = [32 << 20, 8 << 20];

/// From this hard limit on nothing is said.
const PUBSUB_HARD_ENOUGH: u64 = 64 << 20;

pub(super) const ALL: [fn(&Facts) -> Checked; 13] = [
    version,
    cluster,
    role,
    min_replicas,
    loading,
    eviction,
    memory,
    persistence,
    aof_writes,
    snapshot_writes,
    output_buffer,
    latency,
    clock,
];

fn found(severity: Severity, what: impl Into<String>, why: &'static str, how: &'static str) -> Checked {
    Found(Finding { severity, what: what.into(), why, how })
}

fn version(facts: &Facts) -> Checked {
    match facts.version {
        None => Unknown("its version"),
        Some(version) if version >= VERSION_MIN => Fine(facts.server().to_owned()),
        Some(_) => found(
            Loses,
            format!("{} is older than 7.0", facts.server()),
            "the scripts that store messages are tested with 7.0 and later only: earlier versions report a script's errors \
             differently, so a message may be answered `sent` that was not stored",
            "upgrade to Redis 7.0 or later, or to Valkey",
        ),
    }
}

fn cluster(facts: &Facts) -> Checked {
    match (facts.is_cluster, facts.is_named_as_cluster) {
        (false, false) => Fine("no cluster".to_owned()),
        (true, true) => Fine("a cluster".to_owned()),
        (true, false) => found(
            Loses,
            "it is a node of a Redis Cluster, and the URL names a single Redis",
            "a node that takes it for a single Redis does not use it: most keys are on other masters, and no message can be \
             stored",
            "begin the URL with `redis-cluster://` and name some of its servers, or use a Redis with `cluster-enabled no`",
        ),
        (false, true) => found(
            Loses,
            "it is no node of a Redis Cluster, and the URL names one",
            "it does not know who has which slots, so that nodes have no backplane: no message can be stored",
            "begin the URL with `redis://`",
        ),
    }
}

fn role(facts: &Facts) -> Checked {
    match facts.role.as_deref() {
        None => Unknown("its role"),
        Some("master") => Fine("a master".to_owned()),
        Some(_) => found(
            Loses,
            "it is a replica",
            "a replica takes no writes: no message can be stored",
            "give `--redis` the address of the master, or promote this one with `REPLICAOF NO ONE`",
        ),
    }
}

fn min_replicas(facts: &Facts) -> Checked {
    // What a replica says about its own replicas is no answer to this.
    if facts.role.as_deref() != Some("master") {
        return Quiet;
    }
    match facts.min_replicas {
        None | Some(0) if facts.replicas > 0 || facts.is_behind_sentinels => found(
            Risk,
            "it has replicas or sentinels, and min-replicas-to-write is 0",
            "a master that is cut off from its replicas goes on answering `sent` while another is promoted; what it stored \
             meanwhile is lost when it comes back, but for the newest, which nodes keep for a few minutes",
            "on each of them `CONFIG SET min-replicas-to-write 1`, and the same in its configuration file; have two replicas, \
             or the loss of one stops every write",
        ),
        None | Some(0) => Quiet,
        Some(required) if facts.good_replicas >= required => Fine("enough replicas to write".to_owned()),
        Some(required) => found(
            Loses,
            format!(
                "min-replicas-to-write asks for {required} or more, and {} are connected and close enough",
                facts.good_replicas
            ),
            "it refuses every write (NOREPLICAS): no message can be stored",
            "bring the replicas back, or accept writes without them: `CONFIG SET min-replicas-to-write 0`",
        ),
    }
}

fn loading(facts: &Facts) -> Checked {
    if !facts.is_loading {
        return Quiet;
    }
    found(
        Risk,
        "it is loading its files",
        "until it is done it answers nothing, and nodes have no backplane",
        "wait until INFO says `loading:0`",
    )
}

fn eviction(facts: &Facts) -> Checked {
    const HOW: &str = "`CONFIG SET maxmemory-policy noeviction`, and the same in its configuration file; give caches a Redis \
                       of their own";
    match (facts.maxmemory_policy.as_deref(), facts.maxmemory) {
        (None, _) => Unknown("its eviction policy"),
        (Some("noeviction"), _) => Fine("evicts nothing".to_owned()),
        (Some(policy), Some(0)) => found(
            Risk,
            format!("it would evict: maxmemory-policy is {policy}, and only maxmemory 0 keeps it from that"),
            "as soon as somebody sets maxmemory, inboxes disappear in silence",
            HOW,
        ),
        (Some(policy), _) => found(
            Loses,
            format!("it evicts: maxmemory-policy is {policy}"),
            "when its memory is full it deletes whole inboxes, with messages that were answered `sent`, in silence",
            HOW,
        ),
    }
}

fn memory(facts: &Facts) -> Checked {
    match (facts.maxmemory, facts.used_memory) {
        (None, _) => Quiet,
        (Some(0), _) => found(
            Note,
            "its memory has no limit: maxmemory is 0",
            "when the machine is out of memory the system kills Redis, instead of Redis refusing new messages",
            "`CONFIG SET maxmemory`, to about three quarters of what the machine or the container has",
        ),
        (Some(limit), Some(used)) if used > limit / 10 * 9 => found(
            Risk,
            format!("{} % of its memory is used: {used} of {limit} bytes", u128::from(used) * 100 / u128::from(limit)),
            "when it is full it refuses new messages (or evicts, where its policy says so)",
            "raise `maxmemory`, or keep less: `--retention`, `--inbox-max`, `--inbox-bytes`",
        ),
        _ => Fine("enough memory".to_owned()),
    }
}

fn persistence(facts: &Facts) -> Checked {
    const HOW: &str = "`CONFIG SET appendonly yes`, and the same in its configuration file";
    match (facts.has_aof, facts.has_snapshots) {
        (None, _) => Unknown("its persistence"),
        (Some(false), Some(false)) => found(
            Loses,
            "it keeps nothing on disk: no append-only file and no snapshots",
            "a restart loses every inbox",
            HOW,
        ),
        (Some(false), Some(true)) => found(
            Loses,
            "it takes snapshots only: the append-only file is off",
            "a restart loses the messages of the minutes since the last snapshot, although they were answered `sent`",
            HOW,
        ),
        (Some(false), None) => found(
            Loses,
            "its append-only file is off",
            "a restart loses the messages since the last snapshot, or all of them if it takes none",
            HOW,
        ),
        (Some(true), _) => fsync(facts.appendfsync.as_deref()),
    }
}

fn fsync(how_often: Option<&str>) -> Checked {
    match how_often {
        Some("everysec") => found(
            Note,
            "its append-only file is flushed every second",
            "a power failure or a lost machine loses about the last second; a crash of Redis alone loses nothing",
            "leave it, or pay for every write with `CONFIG SET appendfsync always`",
        ),
        Some("no") => found(
            Risk,
            "its append-only file is flushed when the system likes: appendfsync is no",
            "a power failure or a lost machine loses about the last half minute",
            "`CONFIG SET appendfsync everysec`, and the same in its configuration file",
        ),
        Some(_) => Fine("every write is flushed to disk".to_owned()),
        None => Fine("an append-only file".to_owned()),
    }
}

fn aof_writes(facts: &Facts) -> Checked {
    if facts.is_aof_write_ok {
        return Quiet;
    }
    found(
        Loses,
        "it cannot write its append-only file: aof_last_write_status is err",
        "it refuses every write (MISCONF), and what it took last may not be on disk",
        "look at its log and its disk: full, read-only, or without permission",
    )
}

fn snapshot_writes(facts: &Facts) -> Checked {
    if facts.is_bgsave_ok {
        return Quiet;
    }
    found(
        Loses,
        "its last snapshot failed: rdb_last_bgsave_status is err",
        "with `stop-writes-on-bgsave-error yes`, the default, it refuses every write (MISCONF); without, a restart finds an \
         old snapshot",
        "look at its log, its disk and its memory (`vm.overcommit_memory`); then `BGSAVE`, or `CONFIG SET save \"\"` if the \
         append-only file is on",
    )
}

fn output_buffer(facts: &Facts) -> Checked {
    const HOW: &str =
        "`CONFIG SET client-output-buffer-limit \"pubsub 64mb 16mb 30\"`, and the same in its configuration file";
    let Some([hard, soft, seconds]) = facts.pubsub_limit else { return Quiet };
    let shown = || format!("its output buffer limit for subscribers is {} {} {seconds}", mib(hard), mib(soft));
    // 0 is no limit.
    let is_below = |limit: u64, other: u64| limit != 0 && limit < other;
    if is_below(hard, PUBSUB_DEFAULT[0]) || is_below(soft, PUBSUB_DEFAULT[1]) {
        return found(
            Risk,
            format!("{}, below the default", shown()),
            "a node that is slow for a moment is cut off: what is stored arrives later, ephemeral messages are gone",
            HOW,
        );
    }
    if is_below(hard, PUBSUB_HARD_ENOUGH) {
        return found(
            Note,
            shown(),
            "a node that stands still under a flood is cut off: what is stored arrives later, ephemeral messages are gone",
            HOW,
        );
    }
    Fine("room for slow subscribers".to_owned())
}

fn mib(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) { format!("{}mb", bytes >> 20) } else { bytes.to_string() }
}

fn latency(facts: &Facts) -> Checked {
    let shown = ms(facts.measured.latency_us);
    if facts.measured.latency_us <= LATENCY_US_MAX {
        return Fine(format!("{shown} away"));
    }
    found(
        Risk,
        format!("a round trip takes {shown}"),
        "every message waits for at least one, and timeouts come nearer",
        "run nodes and Redis in one data centre; look for a busy Redis (`SLOWLOG GET`) and a machine without free cores",
    )
}

fn clock(facts: &Facts) -> Checked {
    let offset = facts.measured.clock_offset_us;
    if offset.unsigned_abs() <= CLOCK_OFFSET_US_MAX {
        return Fine("the same time".to_owned());
    }
    let direction = if offset > 0 { "ahead of" } else { "behind" };
    found(
        Note,
        format!("its clock is {} {direction} this machine's", ms(offset.unsigned_abs())),
        "messages are stamped and expire by its clock, tokens by this machine's; a jump of its clock can end messages early",
        "run NTP on both machines",
    )
}

fn ms(us: u64) -> String {
    format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10)
}
