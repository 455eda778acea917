//! Pure decisions: which partition, slot group, lane, keys and channel an address has; what goes to which node.
//!
//! Nothing else in the code builds a key or a channel name, and nothing here asks anybody: (address, topology) decides.

pub mod fanout;
pub mod hash;
pub mod keys;
pub mod partition;
pub mod topology;

pub use keys::{Channel, Keys, RecordKeys};
pub use topology::{Lane, Layout, Partition, Settings, SettingsError, SlotGroup, Topology};
