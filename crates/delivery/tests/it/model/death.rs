//! Told, not explored: who is declared dead. The observer is the shipped one; around it is what the gateway's shell does.

use delivery::death::{Observer, Patience};
use protocol::{Millis, NodeId};

const BEAT_MS: u64 = 5_000;

/// What is taken away of the rule.
#[derive(Clone, Copy, Debug, Default)]
struct Shell {
    patience: Patience,
    /// Mutant: an own heartbeat that failed changes nothing.
    forgets_nothing: bool,
}

/// One heartbeat: the counters of the others, as it read them; `None`: it failed.
type Beat<'a> = Option<&'a [u64]>;

/// How many nodes are declared dead within a history.
fn dead(shell: Shell, history: &[Beat<'_>]) -> usize {
    let node = |n: usize| NodeId::new(&format!("n{n}"), 1).expect("a plain name");
    let mut observer = Observer::new(shell.patience);
    let mut dead = Vec::new();
    for (at, beat) in (0..).map(|n| n * BEAT_MS).zip(history) {
        match beat {
            Some(counters) => {
                let counters = counters.iter().enumerate().map(|(n, counter)| (node(n + 1), counter.to_string()));
                let all: Vec<_> = counters.chain([(node(0), at.to_string())]).collect();
                dead.extend(observer.on_pulse(&all, &node(0), Millis(at)).into_iter().map(|(node, _)| node));
            }
            None if shell.forgets_nothing => {}
            None => observer = Observer::new(shell.patience),
        }
    }
    dead.sort();
    dead.dedup();
    dead.len()
}

/// The backplane is away for twenty seconds: nobody could count.
const OUTAGE: [Beat<'_>; 7] = [Some(&[1, 1]), None, None, None, None, Some(&[1, 1]), Some(&[2, 2])];
/// All four others stand still for half a minute.
const PARTITION: [Beat<'_>; 7] = [Some(&[1, 1, 1, 1]); 7];
/// One of two has died.
const CRASH: [Beat<'_>; 5] = [Some(&[7]); 5];

#[test]
fn a_crash_is_a_death_and_neither_an_outage_nor_a_partition_is() {
    assert_eq!(dead(Shell::default(), &OUTAGE), 0);
    assert_eq!(dead(Shell::default(), &PARTITION), 0);
    assert_eq!(dead(Shell::default(), &CRASH), 1);
}

#[test]
fn mutant_own_failures_count() {
    assert_eq!(dead(Shell { forgets_nothing: true, ..Shell::default() }, &OUTAGE), 2);
}

#[test]
fn mutant_many_at_once() {
    let patience = Patience { many_wait_ms: 0, ..Patience::default() };
    assert_eq!(dead(Shell { patience, ..Shell::default() }, &PARTITION), 4);
}

/// In a small fleet every death would wait.
#[test]
fn mutant_one_is_many() {
    let patience = Patience { many_min: 1, ..Patience::default() };
    assert_eq!(dead(Shell { patience, ..Shell::default() }, &CRASH), 0);
}

#[test]
fn mutant_one_missed_beat() {
    let patience = Patience { dead_after_ms: BEAT_MS, ..Patience::default() };
    // It counts at every other beat of the observer only.
    let slow: [Beat<'_>; 5] = [Some(&[1]), Some(&[1]), Some(&[2]), Some(&[2]), Some(&[3])];
    assert_eq!((dead(Shell::default(), &slow), dead(Shell { patience, ..Shell::default() }, &slow)), (0, 1));
}
