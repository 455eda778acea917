//! Where an address lives, and what a fleet agrees on.

use std::sync::Arc;

use protocol::NodeId;

use crate::hash::hash;
use crate::keys::{Channel, Keys};
use crate::partition;

/// A share of all addresses, and the hash tag of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(pub u16);

/// The partitions whose keys one script may touch: all of them on a single Redis or behind Sentinel, one in a Cluster.
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
    /// Append batches in flight at once, 1 to 64. In a Cluster each partition is a lane, and this says nothing.
    pub lanes: u16,
    /// What holds the keys.
    pub layout: Layout,
}

/// How the keys are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// One server has all: a single Redis, Sentinel, or the embedded backplane.
    #[default]
    Whole,
    /// A Redis Cluster: a script may touch the keys of one partition.
    Cluster,
}

impl Default for Settings {
    fn default() -> Self {
        Self { prefix: "sb".to_owned(), partitions: 64, lanes: 8, layout: Layout::Whole }
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

/// Answers every question about places.
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
        match self.settings.layout {
            Layout::Whole => Lane(self.partition(record).0 % self.settings.lanes),
            Layout::Cluster => Lane(self.partition(record).0),
        }
    }

    pub fn lanes(&self) -> impl Iterator<Item = Lane> + use<> {
        let count = match self.settings.layout {
            Layout::Whole => self.settings.lanes,
            Layout::Cluster => self.settings.partitions,
        };
        (0..count).map(Lane)
    }

    /// Whose scripts touch this record.
    pub fn group(&self, record: &str) -> SlotGroup {
        self.group_of(self.partition(record))
    }

    fn group_of(&self, partition: Partition) -> SlotGroup {
        match self.settings.layout {
            Layout::Whole => SlotGroup(0),
            Layout::Cluster => SlotGroup(partition.0),
        }
    }

    /// Whose scripts a lane's batches run.
    pub fn group_of_lane(&self, lane: Lane) -> SlotGroup {
        match self.settings.layout {
            Layout::Whole => SlotGroup(0),
            Layout::Cluster => SlotGroup(lane.0),
        }
    }

    pub fn groups(&self) -> impl Iterator<Item = SlotGroup> + use<> {
        let count = match self.settings.layout {
            Layout::Whole => 1,
            Layout::Cluster => self.settings.partitions,
        };
        (0..count).map(SlotGroup)
    }

    pub fn layout(&self) -> Layout {
        self.settings.layout
    }

    pub fn prefix(&self) -> &str {
        &self.settings.prefix
    }

    pub fn partitions(&self) -> u16 {
        self.settings.partitions
    }

    /// One number for the whole table of tags: nodes with another one look for keys elsewhere.
    pub fn tag_table(&self) -> u64 {
        hash(self.tags.join(" ").as_bytes())
    }

    /// The Cluster slot of a group's keys and channels.
    pub fn slot(&self, group: SlotGroup) -> u16 {
        partition::slot(self.tags[usize::from(group.0)].as_bytes())
    }

    /// The Cluster slot of the fleet's own keys.
    pub fn fleet_slot(&self) -> u16 {
        partition::slot(self.settings.prefix.as_bytes())
    }

    /// The keys of one record. An address text is taken as [`protocol::Address`] writes it.
    pub fn keys(&self) -> Keys<'_> {
        Keys { prefix: &self.settings.prefix, tags: &self.tags, topology: self }
    }

    /// Where a group's bundles for a node are published.
    pub fn channel(&self, node: &NodeId, group: SlotGroup) -> Channel {
        Channel(format!("{}{node}", self.channel_prefix(group)))
    }

    /// What stands before a node's id in its channel's name: the append script joins them.
    pub fn channel_prefix(&self, group: SlotGroup) -> String {
        format!("{}:node:", self.channel_base(group))
    }

    /// All that a node subscribes to for a group: its own channel, and everybody's.
    pub fn own_channels(&self, node: &NodeId, group: SlotGroup) -> [Channel; 2] {
        [self.channel(node, group), self.everybody(group)]
    }

    /// Where all nodes hear what is published.
    pub fn everybody(&self, group: SlotGroup) -> Channel {
        Channel(format!("{}:all", self.channel_base(group)))
    }

    /// In a Cluster a channel has a slot, as a key has: that of its partition.
    fn channel_base(&self, group: SlotGroup) -> String {
        let prefix = &self.settings.prefix;
        match self.settings.layout {
            Layout::Whole => prefix.clone(),
            Layout::Cluster => format!("{prefix}:{{{}}}", self.tags[usize::from(group.0)]),
        }
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
            Topology::new(Settings { prefix: prefix.to_owned(), partitions, lanes, ..Settings::default() }).map(drop)
        };
        assert_eq!(with(0, 8, "sb"), Err(SettingsError::Partitions));
        assert_eq!(with(1025, 8, "sb"), Err(SettingsError::Partitions));
        assert_eq!(with(64, 0, "sb"), Err(SettingsError::Lanes));
        assert_eq!(with(64, 8, ""), Err(SettingsError::Prefix));
        assert_eq!(with(64, 8, "a{b}"), Err(SettingsError::Prefix));
        assert_eq!(with(64, 8, "my-app.1"), Ok(()));
    }

    #[test]
    fn in_a_cluster_a_partition_is_a_lane_a_group_and_a_channel_of_its_own() {
        let topology = Topology::new(Settings { layout: Layout::Cluster, ..Settings::default() }).unwrap();
        assert_eq!((topology.lanes().count(), topology.groups().count()), (64, 64));
        let (node, record) = (NodeId::parse("a.0000000000000001").unwrap(), "user:bob");
        let group = topology.group(record);
        assert_eq!(topology.group_of_lane(topology.lane(record)), group);
        // A channel in a script has to be in the slot of its keys.
        let tag = |text: &str| text[text.find('{').unwrap() + 1..text.find('}').unwrap()].to_owned();
        let keys = topology.keys();
        for text in [keys.record(record).meta, topology.channel(&node, group).0, keys.ledger(7, topology.lane(record))]
        {
            assert_eq!(partition::slot(tag(&text).as_bytes()), topology.slot(group), "{text}");
        }
        assert_ne!(topology.channel(&node, SlotGroup(0)), topology.channel(&node, SlotGroup(1)));
    }
}
