//! What INFO, CONFIG GET and a clock say, as values. A field that is missing stays unknown; nothing is guessed.

use std::collections::HashMap;

/// What was measured by asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The median of some round trips.
    pub latency_us: u64,
    /// The server's clock minus this machine's.
    pub clock_offset_us: i64,
}

/// What is known about one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Name and version as people know it: `Valkey 8.0.1`.
    server: Option<String>,
    /// Major and minor of the Redis whose commands it has: Valkey 8 says 7.2 here.
    pub(super) version: Option<(u64, u64)>,
    pub(super) maxmemory: Option<u64>,
    pub(super) maxmemory_policy: Option<String>,
    pub(super) used_memory: Option<u64>,
    pub(super) has_aof: Option<bool>,
    pub(super) appendfsync: Option<String>,
    /// Whether snapshots are taken by themselves.
    pub(super) has_snapshots: Option<bool>,
    pub(super) is_bgsave_ok: bool,
    pub(super) is_aof_write_ok: bool,
    pub(super) is_loading: bool,
    pub(super) is_cluster: bool,
    pub(super) role: Option<String>,
    pub(super) min_replicas: Option<u64>,
    /// Replicas that are connected, however far behind.
    pub(super) replicas: u64,
    /// Somebody may promote one of its replicas.
    pub(super) is_behind_sentinels: bool,
    /// The URL says that it is of a cluster.
    pub(super) is_named_as_cluster: bool,
    /// Replicas that count for `min-replicas-to-write`.
    pub(super) good_replicas: u64,
    /// Hard limit, soft limit and seconds of the soft one, for subscribers.
    pub(super) pubsub_limit: Option<[u64; 3]>,
    pub(super) is_config_readable: bool,
    pub(super) measured: Measured,
}

impl Facts {
    /// The settings that are asked for with CONFIG GET.
    pub const CONFIG_KEYS: [&str; 4] = ["save", "appendfsync", "min-replicas-to-write", "client-output-buffer-limit"];

    /// Reads the text of INFO and the answers to CONFIG GET; none of these where the server refuses the command.
    #[must_use]
    pub fn parse(info: &str, config: &[(String, String)], measured: Measured) -> Self {
        let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let text = |key: &str| fields.get(key).copied();
        let number = |key: &str| text(key).and_then(|text| text.parse::<u64>().ok());
        let flag = |key: &str| number(key).map(|number| number != 0);
        let set = |key: &str| config.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        // Only with `min-replicas-to-write` does INFO count those that are close enough; 0 of them is one too few.
        let good = number("min_slaves_good_slaves");
        let required = set("min-replicas-to-write").and_then(|text| text.parse().ok());
        Self {
            server: server(text("redis_version"), text("valkey_version")),
            version: text("redis_version").and_then(version),
            maxmemory: number("maxmemory"),
            maxmemory_policy: text("maxmemory_policy").map(str::to_owned),
            used_memory: number("used_memory"),
            has_aof: flag("aof_enabled"),
            appendfsync: set("appendfsync").map(str::to_owned),
            has_snapshots: set("save").map(|points| !points.trim().is_empty()),
            is_bgsave_ok: text("rdb_last_bgsave_status") != Some("err"),
            is_aof_write_ok: text("aof_last_write_status") != Some("err"),
            is_loading: flag("loading").unwrap_or(false),
            is_cluster: flag("cluster_enabled").unwrap_or(false),
            role: text("role").map(str::to_owned),
            min_replicas: required.or_else(|| good.map(|_| 1)),
            replicas: number("connected_slaves").unwrap_or(0),
            is_behind_sentinels: false,
            is_named_as_cluster: false,
            good_replicas: good.or_else(|| number("connected_slaves")).unwrap_or(0),
            pubsub_limit: set("client-output-buffer-limit").and_then(pubsub_limit),
            is_config_readable: !config.is_empty(),
            measured,
        }
    }

    /// Whether sentinels named this server, which it does not know of itself.
    #[must_use]
    pub fn behind_sentinels(self, is_behind_sentinels: bool) -> Self {
        Self { is_behind_sentinels, ..self }
    }

    /// Whether it was asked for as a server of a cluster.
    #[must_use]
    pub fn named_as_cluster(self, is_named_as_cluster: bool) -> Self {
        Self { is_named_as_cluster, ..self }
    }

    /// Name and version as people know it: `Redis 7.4.1`, `Valkey 8.0.1`.
    #[must_use]
    pub fn server(&self) -> &str {
        self.server.as_deref().unwrap_or("a server that does not say its version")
    }
}

fn server(redis: Option<&str>, valkey: Option<&str>) -> Option<String> {
    valkey.map(|version| format!("Valkey {version}")).or_else(|| redis.map(|version| format!("Redis {version}")))
}

/// Major and minor. A minor that is no number, as of a build from a branch, counts as 0.
fn version(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.split('.');
    let major = parts.next()?.parse().ok()?;
    Some((major, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

/// From `normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60`.
fn pubsub_limit(text: &str) -> Option<[u64; 3]> {
    let mut words = text.split_whitespace().skip_while(|word| *word != "pubsub").skip(1);
    let mut next = || words.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}
