//! What was promised: that what Redis keeps reaches everybody who was there, that what is acknowledged is kept, that a
//! loss is told, and that everybody comes to the end.

use std::collections::BTreeSet;

use super::Rules;
use super::order::{Received, example};
use super::story::{Device, Fate, Log, Story};
use super::verdict::{Class, Example, Verdict, name};
use crate::history::{Level, To};

/// Acknowledged messages that some device has not had, where it cannot be told whether they were trimmed unseen or lost
/// by Redis.
pub(super) type Unseen = BTreeSet<u32>;

/// From one start as `new` to the next: what a device remembers as one stream.
struct Chain {
    at_us: u64,
    deliveries: std::ops::Range<usize>,
    /// What resets in it have named as trimmed; `None`: one that could not know.
    told: Option<u64>,
    is_last: bool,
}

fn chains(device: &Device) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    for (number, segment) in device.segments.iter().enumerate() {
        let deliveries = device.of_segment(number);
        match chains.last_mut() {
            Some(chain) if !segment.is_new => {
                chain.deliveries.end = deliveries.end;
                chain.told = chain.told.zip(segment.lost).map(|(told, lost)| told + lost);
            }
            _ => chains.push(Chain { at_us: segment.at_us, deliveries, told: Some(0), is_last: false }),
        }
    }
    if let Some(chain) = chains.last_mut() {
        chain.is_last = true;
    }
    chains
}

/// What is in the log and never came.
///
/// A device that was there at the end has to have everything that was asked for after it first came, and everything
/// behind the first place that it received: where a stream starts is the client's choice, that it goes on is the promise.
/// Of what was not acknowledged only what lies before something that came counts, for it may have been stored after the
/// session was asked whether it has everything. A device that left, or is stuck, has to have what lies between its first
/// and last place, unless Redis may have moved them.
pub(super) fn lost(
    story: &Story,
    device: &Device,
    received: &Received,
    rules: &Rules,
    verdict: &mut Verdict,
    unseen: &mut Unseen,
) {
    let Some(log) = story.logs.get(&device.of) else { return };
    for chain in chains(device) {
        let places = || {
            let counted = chain.deliveries.clone().filter(|&index| received.counts(device, index));
            counted.filter_map(|index| story.message(&device.deliveries[index]).place())
        };
        let (first, last) = (places().min().unwrap_or(u32::MAX), places().max().unwrap_or(0));
        let rest_us = device.rest_us().filter(|_| chain.is_last);
        if rest_us.is_none() && rules.redis_may_lose {
            continue;
        }
        for (place, &number) in (1..).zip(&log.messages) {
            let message = &story.messages[number as usize];
            if message.place() != Some(place) || message.is_unexpected() || received.has(number) {
                continue;
            }
            if !story.is_owed(device, number, rules.redis_may_lose) {
                continue;
            }
            let is_due = match rest_us {
                Some(rest_us) => {
                    let is_entitled = place > first || message.invoked_us.is_some_and(|at_us| at_us > chain.at_us);
                    is_entitled && (place < last || message.acked_us.is_some_and(|at_us| at_us <= rest_us))
                }
                None => place > first && place < last,
            };
            if is_due {
                verdict.add(Class::Lost, || skipped(story, device, received, log, place));
            }
        }
        if rest_us.is_some() {
            trimmed_unseen(story, device, received, (log, &chain), verdict, unseen);
        }
    }
}

/// Acknowledged, trimmed, asked for while the device was there, never received, and no reset told of so many.
fn trimmed_unseen(
    story: &Story,
    device: &Device,
    received: &Received,
    (log, chain): (&Log, &Chain),
    verdict: &mut Verdict,
    unseen: &mut Unseen,
) {
    let Some(told) = chain.told else { return };
    let was_there = |m: &u32| story.messages[*m as usize].invoked_us.is_some_and(|at_us| at_us > chain.at_us);
    let is_owed = |m: &u32| was_there(m) && story.is_owed(device, *m, verdict.may_redis_lose());
    let missing = log.acked_and_trimmed.iter().copied().filter(|&m| !received.has(m)).filter(is_owed);
    let missing: Vec<u32> = missing.collect();
    for number in missing.into_iter().skip(usize::try_from(told).unwrap_or(usize::MAX)) {
        if verdict.may_redis_lose() {
            unseen.insert(number);
            continue;
        }
        verdict.add(Class::Lost, || Example {
            at_us: story.messages[number as usize].acked_us.unwrap_or(0),
            session: Some(device.session),
            recipient: Some(device.user),
            of: Some(device.of),
            message: Some(story.no(number)),
            says: format!("acknowledged and trimmed before it came; resets told of {told} such messages"),
        });
    }
}

/// An entry of the log that never came, with the entries beside it.
fn skipped(story: &Story, device: &Device, received: &Received, log: &Log, place: u32) -> Example {
    let number = log.messages[place as usize - 1];
    let message = &story.messages[number as usize];
    let beside = |place: Option<u32>| {
        let number = place.and_then(|place| log.messages.get(place as usize - 1));
        number.map_or_else(
            || "nothing".to_owned(),
            |&n| format!("{} ({})", name(story.no(n)), if received.has(n) { "came" } else { "did not come" }),
        )
    };
    let acked = message.acked_us.map_or_else(|| "never".to_owned(), |at_us| format!("at {at_us} us"));
    Example {
        at_us: message.invoked_us.unwrap_or(0),
        session: Some(device.session),
        recipient: Some(device.user),
        of: Some(device.of),
        message: Some(message.no),
        says: format!(
            "place {place} of {} in the log, acked {acked}, never came; before it {}, behind it {}",
            log.messages.len(),
            beside(place.checked_sub(1).filter(|&place| place > 0)),
            beside(place.checked_add(1)),
        ),
    }
}

/// A device had what Redis lost, and nobody told it.
///
/// Found where such a message is followed, before the next reset, by an entry of the final log that did not come again
/// later: so that entry was stored after the loss, and the stream went on over it. Found as well where the device was
/// there at the end and no reset ever came. An entry that did come again was lost with the message, and stored anew. Of
/// inboxes only: a group's stream may begin anew while its members are read, and what came before is then another stream's.
pub(super) fn missing_reset(story: &Story, device: &Device, received: &Received, verdict: &mut Verdict) {
    if matches!(device.of, To::Group(_)) {
        return;
    }
    for (number, segment) in device.segments.iter().enumerate() {
        let counted = || device.of_segment(number).filter(|&index| received.counts(device, index));
        let fate = |index: usize| story.message(&device.deliveries[index]).fate;
        let Some(gone) = counted().find(|&index| fate(index) == Fate::Gone) else { continue };
        let next = device.segments.get(number + 1);
        if next.is_some_and(|next| next.is_new) {
            // The device forgot where it was, so it need not be told.
            continue;
        }
        let later = counted().find(|&index| index > gone && matches!(fate(index), Fate::Kept(_)));
        let ends_untold = next.is_none() && device.has_caught_up();
        if later.is_none() && !ends_untold {
            continue;
        }
        verdict.add(Class::MissingReset, || {
            let what = later.map_or_else(
                || "the session stayed to the end".to_owned(),
                |index| {
                    let later = &device.deliveries[index];
                    format!("{} came at {} us", name(story.no(later.message)), later.at_us)
                },
            );
            let says = format!(
                "Redis lost it, and {what} without a reset (this part of the stream began at {} us)",
                segment.at_us
            );
            example(story, device, &device.deliveries[gone], says)
        });
    }
}

/// What was acknowledged and is not in the final log, by the level that was answered.
pub(super) fn forgotten(story: &Story, unseen: &Unseen, verdict: &mut Verdict) {
    for (number, message) in (0..).zip(&story.messages) {
        let (Some(acked_us), Some(level)) = (message.acked_us, message.level) else { continue };
        let is_unseen = unseen.contains(&number);
        if message.invoked_us.is_none() {
            verdict.problems.push(format!("{} was acknowledged and never asked for", name(message.no)));
            continue;
        }
        if message.fate != Fate::Gone && !is_unseen {
            continue;
        }
        let class = if level == Level::Replicated { Class::LostReplicated } else { Class::RedisLost };
        verdict.add(class, || {
            let came = if message.is_delivered { "it was delivered before" } else { "nobody received it" };
            let why = if is_unseen { "somebody who was there did not get it, and the log is trimmed" } else { came };
            Example {
                at_us: acked_us,
                of: Some(message.recipient),
                recipient: user_of(message.recipient),
                message: Some(message.no),
                says: format!("acknowledged as {level:?}, and not in the final log; {why}").to_lowercase(),
                ..Example::default()
            }
        });
    }
}

/// Stored though nobody sent it or its sender was told otherwise, stored twice, or handed to somebody else.
pub(super) fn never_asked(story: &Story, verdict: &mut Verdict) {
    let stored = story.messages.iter().filter(|m| m.is_unexpected() && !m.is_delivered);
    for message in stored {
        let Some(place) = message.place() else { continue };
        let why = if message.is_refused { "its sender was told that nothing was stored" } else { "nobody sent it" };
        verdict.add(Class::Unexpected, || Example {
            at_us: message.invoked_us.unwrap_or(0),
            message: Some(message.no),
            says: format!("at place {place} of a log, and {why}"),
            ..Example::default()
        });
    }
    for &(recipient, message) in &story.stored_twice {
        verdict.add(Class::Duplicated, || Example {
            at_us: story.messages[message as usize].invoked_us.unwrap_or(0),
            of: Some(recipient),
            recipient: user_of(recipient),
            message: Some(story.no(message)),
            says: "stored twice: it stands in the log a second time".to_owned(),
            ..Example::default()
        });
    }
    for &(session, message, to, at_us) in &story.strayed {
        let (class, why) = match to {
            To::Group(_) => (Class::Outsider, "and this session does not follow it, or not any more"),
            To::User(_) | To::All => (Class::WrongRecipient, "and this is somebody else's session"),
        };
        verdict.add(class, || Example {
            at_us,
            session: Some(session),
            of: Some(to),
            recipient: story.user_of(session),
            message: Some(message),
            says: format!("the frame says that it is for {to}, {why}"),
        });
    }
}

/// Devices of members that are there at the end, and follow their inbox but not the group.
fn without_their_groups(story: &Story, rules: &Rules, stuck: &mut impl FnMut((u32, To), u64, String)) {
    let Some(healed_us) = story.healed_us else { return };
    let follows: BTreeSet<(u32, u32, To)> =
        story.devices.iter().filter(|d| d.is_live && !d.is_over).map(|d| (d.user, d.device, d.of)).collect();
    for (user, group, joined_us) in story.memberships.in_the_end() {
        let inboxes = story.devices.iter().filter(|d| d.of == To::User(user) && d.is_live && d.has_caught_up());
        for device in inboxes {
            let of = To::Group(group);
            let since_us = joined_us.max(healed_us).max(story.attached_us(device.session, device.of));
            let is_late = since_us + rules.stall_ms_max * 1_000 < story.end_us;
            if is_late && !follows.contains(&(user, device.device, of)) {
                stuck((device.session, of), joined_us, "he is a member, and this device has no such stream".to_owned());
            }
        }
    }
}

fn user_of(to: To) -> Option<u32> {
    if let To::User(user) = to { Some(user) } else { None }
}

/// Whether everybody came to the end, and no queue grew beyond its bound.
pub(super) fn at_rest(story: &Story, rules: &Rules, verdict: &mut Verdict) {
    let mut stuck = |(session, of): (u32, To), at_us: u64, says: String| {
        let recipient = story.user_of(session);
        let example = Example { at_us, session: Some(session), of: Some(of), recipient, message: None, says };
        verdict.add(Class::Stuck, || example);
    };
    for &(session, of, at_us, ms) in &story.rests {
        let session = (session, of);
        match ms {
            None => stuck(session, at_us, "it never reached the end of its stream".to_owned()),
            Some(ms) if ms > rules.stall_ms_max => {
                stuck(
                    session,
                    at_us,
                    format!("it took {ms} ms to the end of its stream, more than {} ms", rules.stall_ms_max),
                );
            }
            Some(_) => {}
        }
    }
    for device in &story.devices {
        if device.is_unasked() {
            stuck(
                (device.session, device.of),
                0,
                "it stands at the end, and nobody says whether it has everything".to_owned(),
            );
        } else if story.healed_us.is_some() && device.is_away() {
            stuck((device.session, device.of), 0, "its device did not come back when everything was healed".to_owned());
        }
    }
    without_their_groups(story, rules, &mut stuck);
    for (at_us, node, bytes, cap) in &story.full {
        let says = format!("{node} held {bytes} bytes for one connection, and its bound is {cap}");
        verdict.add(Class::QueueOverCap, || Example { at_us: *at_us, says, ..Example::default() });
    }
}
