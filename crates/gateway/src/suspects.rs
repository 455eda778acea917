//! Nodes that did not hear what was published to them: a hint that they are gone, and their locations still there.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use protocol::NodeId;

/// More would be a fleet that is down, which heartbeats find.
const SUSPECTS_MAX: usize = 64;

/// Filled by appends, looked at with each heartbeat.
#[derive(Debug, Default)]
pub(crate) struct Suspects(Mutex<BTreeSet<NodeId>>);

impl Suspects {
    pub(crate) fn suspect(&self, node: &NodeId) {
        let mut nodes = self.0.lock();
        if nodes.len() < SUSPECTS_MAX && !nodes.contains(node) {
            nodes.insert(node.clone());
        }
    }

    /// Those that do not count themselves among the living: nobody will ever hear what is published to them. One that
    /// does has only lost its subscription for a moment.
    pub(crate) fn gone(&self, living: &[(NodeId, String)], own: &NodeId) -> Vec<NodeId> {
        let suspected = std::mem::take(&mut *self.0.lock());
        suspected.into_iter().filter(|s| s != own && !living.iter().any(|(node, _)| node == s)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_does_not_count_himself_is_gone() {
        let suspects = Suspects::default();
        let node = |name: &str| NodeId::new(name, 1).unwrap();
        for name in ["own", "alive", "gone"] {
            suspects.suspect(&node(name));
        }
        let living = [(node("alive"), "7".to_owned()), (node("own"), "3".to_owned())];
        assert_eq!(suspects.gone(&living, &node("own")), [node("gone")]);
        assert!(suspects.gone(&[], &node("own")).is_empty(), "each hint is followed once");
        (0..1_000).for_each(|n| suspects.suspect(&node(&format!("n{n}"))));
        assert_eq!(suspects.gone(&[], &node("own")).len(), SUSPECTS_MAX);
    }
}
