//! What one device received: nothing twice, and everything in the order of the log.

use std::collections::HashMap;

use super::Rules;
use super::story::{Delivery, Device, Fate, Story};
use super::verdict::{Class, Example, Verdict, name};
use crate::history::To;

/// What a device has, by message: the delivery that counts, which is the last one that was allowed to come.
pub(super) struct Received {
    counted: HashMap<u32, usize>,
}

impl Received {
    pub(super) fn has(&self, message: u32) -> bool {
        self.counted.contains_key(&message)
    }

    /// True for the delivery that counts: the message did not come again later.
    pub(super) fn counts(&self, device: &Device, index: usize) -> bool {
        self.counted.get(&device.deliveries[index].message) == Some(&index)
    }
}

/// Takes a device's deliveries one after the other. Finds what came twice, what nobody sent, and what was for others; none
/// of those counts for any further judgement.
pub(super) fn received(story: &Story, device: &Device, rules: &Rules, verdict: &mut Verdict) -> Received {
    let mut counted: HashMap<u32, usize> = HashMap::with_capacity(device.deliveries.len());
    // A start as `new` remembers nothing: what came before it may come again.
    let mut remembered = 0;
    for (number, segment) in device.segments.iter().enumerate() {
        if segment.is_new {
            remembered = segment.first;
        }
        for index in device.of_segment(number) {
            let delivery = &device.deliveries[index];
            if is_odd(story, device, delivery, verdict) || is_outsider(story, device, delivery, verdict) {
                continue;
            }
            let before = counted.get(&delivery.message).copied().filter(|&before| before >= remembered);
            let was_reset = before.is_some_and(|before| before < segment.first);
            match before {
                Some(before) if !was_reset || !(delivery.again || rules.redis_may_lose) => {
                    verdict.add(Class::Duplicated, || twice(story, device, delivery, before));
                    continue;
                }
                Some(_) => verdict.numbers.restored += u64::from(!delivery.again),
                None => note_stall(story, device, delivery, verdict),
            }
            counted.insert(delivery.message, index);
        }
    }
    for delivery in &device.late {
        if is_odd(story, device, delivery, verdict) || is_outsider(story, device, delivery, verdict) {
            continue;
        }
        // The device has moved on, and that session is judged by itself.
        let before = counted.get(&delivery.message).copied();
        if let Some(before) = before.filter(|&before| device.deliveries[before].session == delivery.session) {
            verdict.add(Class::Duplicated, || twice(story, device, delivery, before));
        }
    }
    Received { counted }
}

/// Never sent, or not sent to this device's user.
fn is_odd(story: &Story, device: &Device, delivery: &Delivery, verdict: &mut Verdict) -> bool {
    let message = story.message(delivery);
    let (class, says) = if message.is_unexpected() {
        let why = if message.is_refused { "its sender was told that nothing was stored" } else { "nobody sent it" };
        (Class::Unexpected, why.to_owned())
    } else if message.recipient != device.of {
        (Class::WrongRecipient, format!("it was sent to {}", message.recipient))
    } else {
        return false;
    };
    verdict.add(class, || example(story, device, delivery, says));
    true
}

/// Stored when its user was no member. Who named a place in the stream may go on there as a guest, and is not judged. Nor is
/// anybody where Redis may lose: what a node appends again is stored then, and for who has joined meanwhile.
fn is_outsider(story: &Story, device: &Device, delivery: &Delivery, verdict: &mut Verdict) -> bool {
    let is_judged = !delivery.is_named && !verdict.may_redis_lose();
    let is_out = is_judged && story.is_forbidden(device, delivery.message);
    if is_out {
        let says = "no member when it was stored: before his join, or after he had left".to_owned();
        verdict.add(Class::Outsider, || example(story, device, delivery, says));
    }
    is_out
}

/// How long an acknowledged message took to a session that was there all that time.
fn note_stall(story: &Story, device: &Device, delivery: &Delivery, verdict: &mut Verdict) {
    if let Some(acked_us) = story.message(delivery).acked_us {
        let since_us = acked_us.max(story.attached_us(delivery.session, device.of));
        let stall_ms = delivery.at_us.saturating_sub(since_us) / 1_000;
        verdict.numbers.longest_stall_ms = verdict.numbers.longest_stall_ms.max(stall_ms);
    }
}

/// Deliveries that stand in another order than their places in the final log, from one reset to the next and over all
/// sessions that resumed. Only what did not come again later is compared: Redis may have lost the end of its log, and what
/// was stored anew has another place than it had when it came first. So where Redis may lose, what came before the last start
/// as `new` is not compared: nothing of it comes again. Where nothing can be lost, what was trimmed comes before everything
/// that is kept.
pub(super) fn inversions(story: &Story, device: &Device, received: &Received, verdict: &mut Verdict) {
    let last_start = device.segments.iter().rposition(|segment| segment.is_new).unwrap_or_default();
    let first = if verdict.may_redis_lose() { last_start } else { 0 };
    for segment in first..device.segments.len() {
        let mut highest: Option<(u32, usize)> = None;
        for index in device.of_segment(segment).filter(|&index| received.counts(device, index)) {
            let delivery = &device.deliveries[index];
            let place = match story.message(delivery).fate {
                Fate::Kept(place) => place,
                Fate::Trimmed if !verdict.may_redis_lose() => 0,
                Fate::Trimmed | Fate::Gone => continue,
            };
            match highest {
                Some((most, before)) if place < most => verdict.add(Class::Reordered, || {
                    let before = &device.deliveries[before];
                    let says = format!(
                        "place {place} of the log came behind {}, which has place {most} and came at {} us",
                        name(story.no(before.message)),
                        before.at_us
                    );
                    example(story, device, delivery, says)
                }),
                _ => highest = Some((place, index)),
            }
        }
    }
}

fn twice(story: &Story, device: &Device, delivery: &Delivery, before: usize) -> Example {
    let first = &device.deliveries[before];
    let behind = device.deliveries.get(before + 1);
    let next = behind.map_or_else(String::new, |next| format!(", before {}", name(story.no(next.message))));
    let mark = if delivery.again { " (again)" } else { "" };
    let says = format!("a second time{mark}; first at {} us in session {}{next}", first.at_us, first.session);
    example(story, device, delivery, says)
}

pub(super) fn example(story: &Story, device: &Device, delivery: &Delivery, says: String) -> Example {
    Example {
        at_us: delivery.at_us,
        session: Some(delivery.session),
        recipient: Some(device.user),
        of: device.of.group().map(To::Group),
        message: Some(story.no(delivery.message)),
        says,
    }
}
