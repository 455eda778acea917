//! What must hold of every history, as functions: the conformance suite and the checkers of the tests ask these.

use std::collections::HashSet;

use protocol::Cursor;

/// One durable message that reached a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub at: Cursor,
    pub from: String,
    pub id: String,
    /// It followed a reset, and said so.
    pub again: bool,
}

/// What a history breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// The same (`from`, `id`) twice, outside `again`.
    Duplicate { index: usize },
    /// A message of the same epoch with a number that is not higher, outside `again`.
    Disorder { index: usize },
    /// Answered `sent`, retained, and never received.
    Lost { from: String, id: String },
    /// Received, and nobody sent it.
    Unexpected { index: usize },
}

/// Checks what one recipient received, in order, against what was answered `sent` and what was sent at all.
pub fn check(received: &[Received], answered: &[(String, String)], sent: &[(String, String)]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut seen = HashSet::new();
    let sent: HashSet<(&str, &str)> = sent.iter().map(|(from, id)| (from.as_str(), id.as_str())).collect();
    let mut last: Option<Cursor> = None;
    for (index, one) in received.iter().enumerate() {
        if !seen.insert((one.from.as_str(), one.id.as_str())) && !one.again {
            breaches.push(Breach::Duplicate { index });
        }
        if !one.again && last.is_some_and(|last| last.epoch == one.at.epoch && one.at.seq <= last.seq) {
            breaches.push(Breach::Disorder { index });
        }
        if !sent.contains(&(one.from.as_str(), one.id.as_str())) {
            breaches.push(Breach::Unexpected { index });
        }
        last = Some(one.at);
    }
    let lost = answered.iter().filter(|(from, id)| !seen.contains(&(from.as_str(), id.as_str())));
    breaches.extend(lost.map(|(from, id)| Breach::Lost { from: from.clone(), id: id.clone() }));
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Epoch, Stamp};

    fn one(seq: u64, id: &str, again: bool) -> Received {
        let at = Cursor { epoch: Epoch([0; 8]), seq, stamp: Stamp(seq) };
        Received { at, from: "user:a".to_owned(), id: id.to_owned(), again }
    }

    fn ids(list: &[&str]) -> Vec<(String, String)> {
        list.iter().map(|id| ("user:a".to_owned(), (*id).to_owned())).collect()
    }

    #[test]
    fn a_good_history_passes_and_every_breach_is_found() {
        let sent = ids(&["1", "2", "3"]);
        assert_eq!(check(&[one(1, "1", false), one(2, "2", false), one(5, "3", false)], &sent, &sent), []);
        assert_eq!(check(&[one(1, "1", false), one(2, "2", false), one(1, "1", true)], &sent[..2], &sent), []);
        let duplicate = check(&[one(1, "1", false), one(2, "1", false)], &[], &sent);
        assert_eq!(duplicate, [Breach::Duplicate { index: 1 }]);
        let disorder = check(&[one(2, "2", false), one(1, "1", false)], &[], &sent);
        assert_eq!(disorder, [Breach::Disorder { index: 1 }]);
        let lost = check(&[one(1, "1", false)], &sent[..2], &sent);
        assert_eq!(lost, [Breach::Lost { from: "user:a".to_owned(), id: "2".to_owned() }]);
        assert_eq!(check(&[one(1, "9", false)], &[], &sent), [Breach::Unexpected { index: 0 }]);
    }
}
