//! When a node is dead: its heartbeat counter has not changed for 15 s of the observer's own monotonic time, while the
//! observer's own heartbeats succeeded. No clock of anybody else, no lease that a slow Redis could let run out.
//!
//! Rule 9 of docs/delivery.md ("On the node"). Pure: the shell asks the backplane and hands the answers in.

use std::collections::BTreeMap;

use protocol::{Millis, NodeId};

/// Unchanged for this long: three heartbeats and a spare.
pub const DEAD_AFTER_MS: u64 = 15_000;

/// How long a silence may be.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub dead_after_ms: u64,
    /// So much longer where many fall silent at once: more likely a fault of the network or of the observer.
    pub many_wait_ms: u64,
    /// More than a third of the fleet, and at least so many.
    pub many_min: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self { dead_after_ms: DEAD_AFTER_MS, many_wait_ms: 60_000, many_min: 3 }
    }
}

/// What one node has seen of the others, on one master.
#[derive(Debug, Default)]
pub struct Observer {
    seen: BTreeMap<NodeId, Seen>,
    patience: Patience,
}

#[derive(Debug)]
struct Seen {
    counter: String,
    since: Millis,
}

impl Observer {
    pub fn new(patience: Patience) -> Self {
        Self { seen: BTreeMap::new(), patience }
    }

    /// Takes the counters as one of the own heartbeats read them; answers who is dead, with the counter that did not move.
    /// After a heartbeat that failed the observer has to be begun anew: nobody knows what was missed.
    pub fn on_pulse(&mut self, nodes: &[(NodeId, String)], own: &NodeId, now: Millis) -> Vec<(NodeId, String)> {
        self.seen.retain(|node, _| nodes.iter().any(|(there, _)| there == node));
        for (node, counter) in nodes.iter().filter(|(node, _)| node != own) {
            match self.seen.get_mut(node) {
                Some(seen) if seen.counter == *counter => {}
                Some(seen) => *seen = Seen { counter: counter.clone(), since: now },
                None => drop(self.seen.insert(node.clone(), Seen { counter: counter.clone(), since: now })),
            }
        }
        let Patience { dead_after_ms, many_wait_ms, many_min } = self.patience;
        let silent: Vec<_> = self.seen.iter().filter(|(_, s)| now.since(s.since) >= dead_after_ms).collect();
        let is_many = silent.len() >= many_min && silent.len() * 3 > nodes.len();
        let patience = if is_many { dead_after_ms + many_wait_ms } else { dead_after_ms };
        let dead = silent.into_iter().filter(|(_, s)| now.since(s.since) >= patience);
        dead.map(|(node, s)| (node.clone(), s.counter.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name, 1).unwrap()
    }

    fn pulse(observer: &mut Observer, names: &[(&str, u64)], at: u64) -> Vec<String> {
        let nodes: Vec<_> = names.iter().map(|(name, n)| (node(name), n.to_string())).collect();
        let dead = observer.on_pulse(&nodes, &node("own"), Millis(at));
        dead.into_iter().map(|(node, _)| node.to_string()).collect()
    }

    #[test]
    fn a_counter_that_stands_still_for_fifteen_seconds_is_a_death_and_one_that_moves_is_not() {
        let mut observer = Observer::default();
        for at in [0, 5_000, 10_000, 14_999] {
            assert!(pulse(&mut observer, &[("own", 1), ("a", 7), ("b", at)], at).is_empty());
        }
        assert_eq!(pulse(&mut observer, &[("own", 1), ("a", 7), ("b", 9)], 15_000), [node("a").to_string()]);
        assert!(pulse(&mut observer, &[("own", 1), ("b", 10)], 40_000).is_empty(), "the dead one is gone");
    }

    #[test]
    fn a_node_is_never_dead_to_itself() {
        let mut observer = Observer::default();
        assert!(pulse(&mut observer, &[("own", 1)], 0).is_empty());
        assert!(pulse(&mut observer, &[("own", 1)], 100_000).is_empty());
    }

    #[test]
    fn many_that_fall_silent_at_once_are_given_another_minute() {
        let mut observer = Observer::default();
        let fleet = [("own", 1), ("a", 1), ("b", 1), ("c", 1), ("d", 1)];
        pulse(&mut observer, &fleet, 0);
        assert!(pulse(&mut observer, &fleet, 20_000).is_empty());
        assert_eq!(pulse(&mut observer, &fleet, 75_000).len(), 4);
    }
}
