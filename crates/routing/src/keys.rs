//! The only place that spells a Redis key.
//!
//! `PREFIX:{TAG}:KIND:ADDRESS`, where the braces hold the partition's tag, so that all keys of one address are in one
//! slot. Addresses are percent-encoded: none can steer a slot, end a key early, or leave the prefix.

use std::fmt;

use protocol::NodeId;

use crate::topology::{Lane, Layout, SlotGroup, Topology};

/// The name of a Redis channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Channel(pub String);

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The keys of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordKeys {
    /// The record's meta: epoch, base, locations.
    pub meta: String,
    /// Base and entries.
    pub inbox: String,
    /// The devices' cursors.
    pub cursors: String,
}

/// Spells keys for one topology.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'t> {
    pub(crate) prefix: &'t str,
    pub(crate) tags: &'t [String],
    pub(crate) topology: &'t Topology,
}

impl Keys<'_> {
    pub fn record(&self, record: &str) -> RecordKeys {
        let tag = self.tag(record);
        let address = escape(record);
        let key = |kind: &str| format!("{}:{{{tag}}}:{kind}:{address}", self.prefix);
        RecordKeys { meta: key("m"), inbox: key("i"), cursors: key("c") }
    }

    /// A group's members, or a user's groups.
    pub fn members(&self, record: &str) -> String {
        self.of_record("g", record)
    }

    /// The newest changes of a group's members.
    pub fn changes(&self, record: &str) -> String {
        self.of_record("j", record)
    }

    /// Whether a user is online, since when, and his profile.
    pub fn presence(&self, record: &str) -> String {
        self.of_record("p", record)
    }

    /// The nodes where somebody watches a user.
    pub fn watchers(&self, record: &str) -> String {
        self.of_record("w", record)
    }

    fn of_record(&self, kind: &str, record: &str) -> String {
        format!("{}:{{{}}}:{kind}:{}", self.prefix, self.tag(record), escape(record))
    }

    /// The addresses of one partition (that of `record`) that are located at a node, to clean up after a crash.
    pub fn located(&self, record: &str, node: &NodeId) -> String {
        format!("{}:{{{}}}:at:{node}", self.prefix, self.tag(record))
    }

    /// Number and reply of a lane's last batch. `process` outlives an incarnation of the node.
    pub fn ledger(&self, process: u64, lane: Lane) -> String {
        let tag = &self.tags[usize::from(lane.0) % self.tags.len()];
        format!("{}:{{{tag}}}:l:{process:016x}:{}", self.prefix, lane.0)
    }

    /// What a node writes before it asks how many replicas have everything up to that write.
    pub fn wait(&self, node: &NodeId, group: SlotGroup) -> String {
        format!("{}:{{{}}}:wait:{node}", self.prefix, self.tags[usize::from(group.0)])
    }

    /// The heartbeats of all nodes.
    pub fn nodes(&self) -> String {
        self.of_fleet("nodes")
    }

    /// Nodes that were declared dead.
    pub fn dead(&self) -> String {
        self.of_fleet("dead")
    }

    /// What all nodes of a fleet agree on.
    pub fn fleet(&self) -> String {
        self.of_fleet("fleet")
    }

    /// One script reads several of these: in a Cluster they share a slot.
    fn of_fleet(&self, name: &str) -> String {
        match self.topology.layout() {
            Layout::Whole => format!("{}:{name}", self.prefix),
            Layout::Cluster => format!("{{{}}}:{name}", self.prefix),
        }
    }

    /// What [`Keys::located`] is in every partition of some groups.
    pub fn located_in(&self, node: &NodeId, groups: &[SlotGroup]) -> Vec<String> {
        let all = |tag: &String| format!("{}:{{{tag}}}:at:{node}", self.prefix);
        match self.topology.layout() {
            Layout::Whole => self.tags.iter().map(all).collect(),
            Layout::Cluster => groups.iter().map(|group| all(&self.tags[usize::from(group.0)])).collect(),
        }
    }

    fn tag(&self, record: &str) -> &str {
        &self.tags[usize::from(self.topology.partition(record).0)]
    }
}

/// Percent-encodes everything but letters, digits and `- . _ ~ @ :`. A colon is safe: what follows the kind is all
/// address.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Settings;

    #[test]
    fn no_id_can_steer_a_slot_or_leave_the_prefix() {
        let topology = Topology::new(Settings::default()).unwrap();
        for id in ["a}{b", "*", "a b", "{p0}", "ä", "%7B", "a:m:b"] {
            let record = format!("user:{id}");
            let keys = topology.keys().record(&record);
            for key in [&keys.meta, &keys.inbox, &keys.cursors] {
                assert!(key.starts_with("sb:{p"), "{key}");
                assert_eq!(key.matches(['{', '}']).count(), 2, "{key}");
                assert!(key.bytes().all(|b| b.is_ascii_graphic() && b != b'*'), "{key}");
            }
        }
        let one = topology.keys().record("user:%7B").meta;
        let other = topology.keys().record("user:{").meta;
        assert_ne!(one.rsplit(':').next(), other.rsplit(':').next());
    }
}
