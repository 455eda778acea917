//! What became of a message that the final log does not have.

use std::collections::BTreeMap;

use super::story::{Fate, Log, Message};
use crate::history::To;

/// Which of the messages that a log does not have can have been trimmed: those that were asked for before its oldest
/// entry was acknowledged, for what is trimmed was stored before. Where Redis may lose, an oldest entry that was lost and
/// stored anew draws that line too early, so the count has a word too: if no more are missing than were trimmed, all were.
pub(super) fn tell_trimmed_from_gone(messages: &mut [Message], logs: &mut BTreeMap<To, Log>, redis_may_lose: bool) {
    let mut missing: BTreeMap<To, u64> = BTreeMap::new();
    let was_stored = |m: &Message| m.acked_us.is_some() || m.is_delivered;
    for message in messages.iter().filter(|m| m.fate == Fate::Gone && was_stored(m)) {
        *missing.entry(message.recipient).or_default() += 1;
    }
    let line = |recipient: To, log: &Log| {
        if log.trimmed == 0 {
            return (recipient, 0);
        }
        let acked_us = log.messages.iter().find_map(|&m| messages[m as usize].acked_us);
        let all = redis_may_lose && missing.get(&recipient).is_none_or(|&missing| missing <= log.trimmed);
        (recipient, if all { u64::MAX } else { acked_us.unwrap_or(u64::MAX) })
    };
    let lines: BTreeMap<To, u64> = logs.iter().map(|(&recipient, log)| line(recipient, log)).collect();
    for (number, message) in (0..).zip(messages.iter_mut()) {
        let line_us = lines.get(&message.recipient).copied().unwrap_or(0);
        if message.fate == Fate::Gone && message.invoked_us.is_some_and(|at_us| at_us < line_us) {
            message.fate = Fate::Trimmed;
            if message.acked_us.is_some()
                && let Some(log) = logs.get_mut(&message.recipient)
            {
                log.acked_and_trimmed.push(number);
            }
        }
    }
}
