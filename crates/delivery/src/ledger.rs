//! What a batch is that arrives at its ledger: new, asked before, or too late.
//!
//! append.lua does the same, in the same order: a number equal to the ledger's, then a lower one, then the deadline. A
//! batch that the node gave up on can still lie in a socket or a proxy and arrive after its successor.

use crate::batch::BatchNumber;

/// What becomes of one asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// It runs, and its number and reply go into the ledger.
    Run,
    /// It ran: the stored reply is the answer.
    Repeat,
    /// It did not run and never will: nothing is done.
    Stale,
}

/// Decides what becomes of an asking. `held` is the number in the ledger of this lane of this process, if there is one;
/// the deadline is that of the first asking, on the backplane's clock.
pub fn decide(held: Option<BatchNumber>, number: BatchNumber, deadline_us: u64, now_us: u64) -> Ask {
    match held {
        // Before the deadline is looked at: an answer that is there is given.
        Some(held) if held == number => Ask::Repeat,
        Some(held) if held > number => Ask::Stale,
        _ if now_us > deadline_us => Ask::Stale,
        _ => Ask::Run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_runs_once_and_in_its_time() {
        let ask = |held: Option<u64>, number, now_us| decide(held.map(BatchNumber), BatchNumber(number), 100, now_us);
        assert_eq!(ask(None, 1, 100), Ask::Run);
        assert_eq!(ask(Some(1), 2, 100), Ask::Run);
        assert_eq!(ask(None, 1, 101), Ask::Stale, "too late");
        assert_eq!(ask(Some(2), 2, 50), Ask::Repeat);
        assert_eq!(ask(Some(2), 2, 101), Ask::Repeat, "an answer that is there is given, however late");
        assert_eq!(ask(Some(3), 2, 50), Ask::Stale, "its successor ran");
    }
}
