//! Where an address lives, and what a fleet agrees on.

use std::sync::Arc;

use protocol::NodeId;

use crate::hash::hash;
use crate::keys::{Channel, Keys};
use crate::partition;

/// A share of all addresses, and the hash tag of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(pub u16);

/// The partitions whose keys one script may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotGroup(pub u16);

/// A slice of a slot group with at most one append batch in flight. One address is always in one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(pub u16);

/// What all nodes of a fleet have to agree on, and this node's number of lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What every key and channel begins with.
    pub prefix: String,
    /// 1 to 1,024.
    pub partitions: u16,
    /// Append batches in flight at once, 1 to 64.
    pub lanes: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { prefix: "sb".to_owned(), partitions: 64, lanes: 8 }
    }
}

/// Why settings make no topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingsError {
    Partitions,
    Lanes,
    /// A prefix has 1 to 32 of `A-Z a-z 0-9 . _ -`: nothing that could steer a slot.
    Prefix,
}

/// One Redis (or Sentinel, or the embedded backplane): all partitions in one slot group.
#[derive(Clone, Debug)]
pub struct Topology {
    settings: Arc<Settings>,
    tags: Arc<[String]>,
}

impl Topology {
    /// # Errors
    /// [`SettingsError`] names the setting that is out of range.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !(1..=1024).contains(&settings.partitions) {
            return Err(SettingsError::Partitions);
        }
        if !(1..=64).contains(&settings.lanes) {
            return Err(SettingsError::Lanes);
        }
        if !(1..=32).contains(&settings.prefix.len()) || !settings.prefix.bytes().all(plain) {
            return Err(SettingsError::Prefix);
        }
        let tags = partition::tags(settings.partitions).into();
        Ok(Self { settings: Arc::new(settings), tags })
    }

    pub fn partition(&self, record: &str) -> Partition {
        // The remainder is below 1,024.
        Partition((hash(record.as_bytes()) % u64::from(self.settings.partitions)) as u16)
    }

    /// One address, one lane: order is kept.
    pub fn lane(&self, record: &str) -> Lane {
        Lane(self.partition(record).0 % self.settings.lanes)
    }

    pub fn lanes(&self) -> impl Iterator<Item = Lane> + use<> {
        (0..self.settings.lanes).map(Lane)
    }

    /// The keys of one record. An address text is taken as [`protocol::Address`] writes it.
    pub fn keys(&self) -> Keys<'_> {
        Keys { prefix: &self.settings.prefix, tags: &self.tags, topology: self }
    }

    /// Where bundles for a node are published.
    pub fn channel(&self, node: &NodeId, _group: SlotGroup) -> Channel {
        Channel(format!("{}{node}", self.channel_prefix(SlotGroup(0))))
    }

    /// What stands before a node's id in its channel's name: the append script joins them.
    pub fn channel_prefix(&self, _group: SlotGroup) -> String {
        format!("{}:node:", self.settings.prefix)
    }

    /// All that a node subscribes to: its own channel, and everybody's.
    pub fn own_channels(&self, node: &NodeId) -> Vec<Channel> {
        vec![self.channel(node, SlotGroup(0)), Channel(format!("{}:all", self.settings.prefix))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        Topology::new(Settings::default()).unwrap()
    }

    #[test]
    fn an_address_is_always_in_one_lane_and_lanes_are_used_alike() {
        let topology = topology();
        let mut used = [0; 8];
        for n in 0..8_000 {
            let record = format!("user:{n}");
            assert_eq!(topology.lane(&record), topology.lane(&record));
            used[usize::from(topology.lane(&record).0)] += 1;
        }
        assert!(used.iter().all(|&n| (850..1_150).contains(&n)), "{used:?}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let with = |partitions, lanes, prefix: &str| {
            Topology::new(Settings { prefix: prefix.to_owned(), partitions, lanes }).map(drop)
        };
        assert_eq!(with(0, 8, "sb"), Err(SettingsError::Partitions));
        assert_eq!(with(1025, 8, "sb"), Err(SettingsError::Partitions));
        assert_eq!(with(64, 0, "sb"), Err(SettingsError::Lanes));
        assert_eq!(with(64, 8, ""), Err(SettingsError::Prefix));
        assert_eq!(with(64, 8, "a{b}"), Err(SettingsError::Prefix));
        assert_eq!(with(64, 8, "my-app.1"), Ok(()));
    }
}
