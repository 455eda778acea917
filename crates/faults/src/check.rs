//! Judges a history: what was promised to whom, and what became of it. Pure; it reads events and says numbers, and
//! knows nothing of nodes, Redis or clocks. What each class means is written at [`Class`]; what is judged by which
//! evidence, in the file of each judgement.

mod fate;
mod membership;
mod order;
mod presence;
mod promise;
#[cfg(test)]
mod recorded;
mod story;
#[cfg(test)]
mod tests;
mod verdict;

use crate::history::Event;

use story::Story;
pub(crate) use verdict::{Class, Verdict};

/// What the faults of a run excuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Redis may forget what it acknowledged as `stored`: a failover with a replica that lags, a cut append-only file.
    /// Without it every acknowledged message has to be in the final log, and nothing is ever delivered twice.
    pub(crate) redis_may_lose: bool,
    /// It throws keys away, also those that nobody has touched since before the first fault.
    pub(crate) redis_may_evict: bool,
    /// How long a live session may take to reach the end of its stream after the last fault.
    pub(crate) stall_ms_max: u64,
    /// How long watchers may not know that somebody came or went when all faults are over.
    pub(crate) presence_ms_max: u64,
}

/// A position check every 30 s, a read behind it, and what a new generation takes to attach everybody.
const STALL_MS_MAX: u64 = 45_000;

/// A connection that ended counts as there for 5 s, and a node that died for 15.
const PRESENCE_MS_MAX: u64 = 20_000;

impl Default for Rules {
    fn default() -> Self {
        Self {
            redis_may_lose: false,
            redis_may_evict: false,
            stall_ms_max: STALL_MS_MAX,
            presence_ms_max: PRESENCE_MS_MAX,
        }
    }
}

/// Judges a whole history. Events may come in any order; those of one session and one microsecond stay as they are.
///
/// A history is valid if every class is empty (`redis_lost` may have entries where the rules allow it), something was
/// delivered, somebody caught up, and every fault that began has ended and proves that it bit.
///
/// # What may come twice
///
/// On one device, counting all its sessions until one starts as `new`:
/// - without a reset in between never, whatever `again` says;
/// - behind a reset, marked `again`: always, that is what the mark is for;
/// - behind a reset and not marked: only where Redis may lose. The device had the message from a log whose end was lost,
///   and its sender's retry was stored behind the end of the replay, which no gateway can know (docs/model.md). Such
///   messages are counted as `restored`, and a person should wonder if they are many.
///
/// # What is not judged
///
/// - Messages that expire: a run sends none. A log says how many it trimmed, but not which: a message that is not in
///   the final log counts as trimmed if it was asked for before the oldest one that is kept was acknowledged.
/// - Where Redis may lose and a device left for good, its order and gaps: what it had last may have been stored anew, at
///   another place, after it left. The same for a stream that ended and began as `new`.
/// - Where Redis may lose, the order of what a device received again after a reset: only its last coming has a place in
///   the final log.
pub(crate) fn judge(events: &[Event], rules: &Rules) -> Verdict {
    let story = Story::read(events, rules);
    let mut verdict = Verdict::begin(&story, rules);
    let mut unseen = promise::Unseen::default();
    for device in &story.devices {
        let received = order::received(&story, device, rules, &mut verdict);
        if !rules.redis_may_lose || device.has_caught_up() {
            order::inversions(&story, device, &received, &mut verdict);
            promise::missing_reset(&story, device, &received, &mut verdict);
        }
        promise::lost(&story, device, &received, rules, &mut verdict, &mut unseen);
    }
    promise::forgotten(&story, &unseen, &mut verdict);
    promise::never_asked(&story, &mut verdict);
    promise::at_rest(&story, rules, &mut verdict);
    membership::forgotten(&story.memberships, story.first_fault_us, rules.redis_may_evict, &mut verdict);
    presence::only_grows(&story.presence, rules, &mut verdict);
    presence::is_right_at_the_end(&story.presence, story.healed_us, rules, &mut verdict);
    verdict
}
