//! The open-loop schedule: says when each message is due, whatever became of those before.
//!
//! A thread of its own, because tokio's timers are precise to a millisecond, and the latencies to be measured are below
//! that. It sleeps between messages, so it is late by what the kernel's timers are late (about 60 us), never early.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::clock::Clock;

/// When the schedule begins, how dense it is, when it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) per_second: f64,
}

impl Schedule {
    /// When message number `n` of all senders is due; `None` after the end.
    fn due_ns(&self, n: u64) -> Option<u64> {
        let after_ns = (n as f64 * 1e9 / self.per_second) as u64;
        Some(self.start_ns.saturating_add(after_ns)).filter(|due| *due < self.end_ns)
    }
}

/// Starts the schedule; the senders take turns. What waits in a channel is bounded by the length of the run. Ends after
/// the last message, or when a sender is gone.
pub(crate) fn start(clock: Clock, schedule: Schedule, senders: Vec<UnboundedSender<u64>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for (n, sender) in (0..).zip(senders.iter().cycle()) {
            let Some(due_ns) = schedule.due_ns(n) else { return };
            let ahead_ns = due_ns.saturating_sub(clock.now_ns());
            if ahead_ns > 0 {
                thread::sleep(Duration::from_nanos(ahead_ns));
            }
            // A sender whose connection is gone misses its turns; that is told where connections are counted.
            let _ = sender.send(due_ns);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_is_even_and_ends() {
        let schedule = Schedule { start_ns: 1_000, end_ns: 1_000 + 1_000_000_000, per_second: 1_000.0 };
        assert_eq!(schedule.due_ns(0), Some(1_000));
        assert_eq!(schedule.due_ns(1), Some(1_001_000));
        assert_eq!(schedule.due_ns(999), Some(999_001_000));
        assert_eq!(schedule.due_ns(1_000), None);
    }

    /// Goal: nothing is due too early, and a late thread catches up instead of shifting the schedule.
    #[test]
    fn senders_take_turns_on_time() {
        let clock = Clock::start();
        let start_ns = clock.now_ns();
        let schedule = Schedule { start_ns, end_ns: start_ns + 50_000_000, per_second: 1_000.0 };
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..2).map(|_| tokio::sync::mpsc::unbounded_channel()).unzip();
        start(clock, schedule, senders).join().unwrap();
        assert!(clock.now_ns() >= start_ns + 49_000_000);
        for (turn, mut receiver) in receivers.into_iter().enumerate() {
            let due: Vec<u64> = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
            assert_eq!(due.len(), 25);
            assert!(due.iter().zip(0..).all(|(due, n)| *due == start_ns + (2 * n + turn as u64) * 1_000_000));
        }
    }
}
