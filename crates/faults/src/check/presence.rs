//! What watchers were told: versions only grow, and at the end everybody knows who is there.

use std::collections::{BTreeMap, HashMap};

use super::Rules;
use super::verdict::{Class, Example, Verdict};

/// One thing that a watcher was told of a visitor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) at_us: u64,
    pub(super) watcher: u32,
    pub(super) session: u32,
    pub(super) visitor: u32,
    pub(super) online: bool,
    pub(super) version: u64,
    pub(super) is_answer: bool,
}

#[derive(Debug, Default)]
pub(super) struct Presence {
    /// In the order in which they came.
    pub(super) told: Vec<Told>,
    /// When each visitor came or went for the last time, and which.
    pub(super) here: BTreeMap<u32, (u64, bool)>,
    /// The last connection of each watcher, and since when it watches.
    pub(super) watching: BTreeMap<u32, (u32, u64)>,
}

/// Within a connection each change has a greater version than all that was told before. An answer in a new connection is no
/// older than what the same watcher knew, and one version means one thing, except where Redis may have forgotten versions.
pub(super) fn only_grows(all: &Presence, rules: &Rules, verdict: &mut Verdict) {
    let mut in_session: HashMap<(u32, u32), u64> = HashMap::new();
    let mut ever: HashMap<(u32, u32), u64> = HashMap::new();
    let mut meaning: HashMap<(u32, u64), bool> = HashMap::new();
    for told in &all.told {
        let known = in_session.entry((told.session, told.visitor)).or_default();
        let before = ever.entry((told.watcher, told.visitor)).or_default();
        let is_old_change = !told.is_answer && told.version <= *known;
        let is_old_answer = told.is_answer && told.version < *before && !rules.redis_may_lose;
        let other = *meaning.entry((told.visitor, told.version)).or_insert(told.online) != told.online;
        let says = if is_old_change {
            format!("version {} behind {known} on one connection", told.version)
        } else if is_old_answer {
            format!("the answer has version {}, and the watcher knew {before}", told.version)
        } else if other && !rules.redis_may_lose {
            format!("version {} said that he was here, and that he was not", told.version)
        } else {
            (*known, *before) = (told.version.max(*known), told.version.max(*before));
            continue;
        };
        verdict.add(Class::PresenceBack, || example(told.at_us, told.session, told.visitor, &says));
    }
}

/// When nobody comes or goes any more, everybody who watches knows it soon: what has the greatest version of what he was told
/// on his last connection is so.
pub(super) fn is_right_at_the_end(all: &Presence, healed_us: Option<u64>, rules: &Rules, verdict: &mut Verdict) {
    let Some(healed_us) = healed_us else { return };
    let limit_us = rules.presence_ms_max * 1_000;
    for &(session, since_us) in all.watching.values() {
        let mut known: BTreeMap<u32, Told> = BTreeMap::new();
        for told in all.told.iter().filter(|told| told.session == session) {
            let last = known.entry(told.visitor).or_insert(*told);
            // Told the same again: he knew it already.
            if told.version >= last.version && told.online != last.online {
                *last = *told;
            }
            last.version = last.version.max(told.version);
        }
        for (&visitor, &(here_us, is_here)) in &all.here {
            let due_us = healed_us.max(here_us).max(since_us) + limit_us;
            let word = if is_here { "he is here" } else { "he is gone" };
            let says = match known.get(&visitor) {
                None => format!("{word}, and the watcher was told nothing"),
                Some(told) if told.online != is_here => {
                    format!("{word} since {here_us} us, and the last word is another one, version {}", told.version)
                }
                Some(told) if told.at_us > due_us => {
                    format!("{word} since {here_us} us, and that was told at {} us", told.at_us)
                }
                Some(_) => continue,
            };
            verdict.add(Class::PresenceWrong, || example(due_us, session, visitor, &says));
        }
    }
}

fn example(at_us: u64, session: u32, visitor: u32, says: &str) -> Example {
    Example { at_us, session: Some(session), says: format!("visitor {visitor}: {says}"), ..Example::default() }
}
