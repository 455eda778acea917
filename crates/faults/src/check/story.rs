//! A history, told by message and by device instead of by time. Only collects; judges nothing.

use std::collections::{BTreeMap, HashMap};

use super::Rules;
use super::fate::tell_trimmed_from_gone;
use super::verdict::{Numbers, name};
use crate::history::{Event, Level, MessageNo, What};

#[derive(Debug)]
pub(super) struct Story {
    pub(super) messages: Vec<Message>,
    pub(super) devices: Vec<Device>,
    pub(super) logs: BTreeMap<u32, Log>,
    /// What sessions said about the end of their streams: session, when, and how long it took.
    pub(super) rests: Vec<(u32, u64, Option<u64>)>,
    /// Queues beyond their bound: when, the node, bytes, bound.
    pub(super) full: Vec<(u64, String, u64, u64)>,
    /// Messages that somebody else got: session, message, to, when.
    pub(super) strayed: Vec<(u32, MessageNo, u32, u64)>,
    /// Messages that stand in a log a second time, and whose log it is.
    pub(super) stored_twice: Vec<(u32, u32)>,
    pub(super) numbers: Numbers,
    pub(super) problems: Vec<String>,
    /// When all faults were over; from then on whoever left comes back.
    pub(super) healed_us: Option<u64>,
    sessions: HashMap<u32, Session>,
}

/// What is known of a message.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) no: MessageNo,
    pub(super) recipient: u32,
    /// `None`: nobody asked for it.
    pub(super) invoked_us: Option<u64>,
    pub(super) acked_us: Option<u64>,
    pub(super) level: Option<Level>,
    pub(super) is_refused: bool,
    pub(super) is_given_up: bool,
    pub(super) is_delivered: bool,
    pub(super) fate: Fate,
}

/// Where a message is at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// In the final log, at this place from 1.
    Kept(u32),
    /// Not there, and old enough to be among those that were trimmed.
    Trimmed,
    /// Not there, and it should be if it was ever stored.
    Gone,
}

impl Message {
    /// Nobody sent it, or its sender knows that it was not stored.
    pub(super) fn is_unexpected(&self) -> bool {
        self.invoked_us.is_none() || self.is_refused
    }

    pub(super) fn place(&self) -> Option<u32> {
        if let Fate::Kept(place) = self.fate { Some(place) } else { None }
    }
}

/// A device of a recipient, over all its sessions.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) recipient: u32,
    /// Where its stream began anew: the first attach, each start as `new`, each reset.
    pub(super) segments: Vec<Segment>,
    pub(super) deliveries: Vec<Delivery>,
    /// What sessions received after the device had already gone on in another one.
    pub(super) late: Vec<Delivery>,
    /// The newest session, and whether it still stands.
    pub(super) session: u32,
    pub(super) is_live: bool,
    /// When that session reached the end of its stream for the last time; the inner `None`: it never did.
    rest: Option<(u64, Option<u64>)>,
}

#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// A start as `new`, which remembers nothing; else it was told as a reset.
    pub(super) is_new: bool,
    pub(super) at_us: u64,
    /// Its first delivery.
    pub(super) first: usize,
    /// Messages that the node said were trimmed before they could be delivered; `None`: it could not know how many.
    pub(super) lost: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    pub(super) message: u32,
    pub(super) session: u32,
    pub(super) at_us: u64,
    pub(super) again: bool,
}

/// The final log of one recipient.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) trimmed: u64,
    /// The one at place 1 first.
    pub(super) messages: Vec<u32>,
    /// Acknowledged ones that were trimmed, as far as that can be told.
    pub(super) acked_and_trimmed: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    device: usize,
    attached_us: u64,
}

impl Device {
    /// It was there at the end, and had everything.
    pub(super) fn has_caught_up(&self) -> bool {
        self.rest_us().is_some()
    }

    /// When it said that it had everything.
    pub(super) fn rest_us(&self) -> Option<u64> {
        self.rest.and_then(|(at_us, ms)| ms.map(|_| at_us))
    }

    /// It stands, and nobody said whether it reached the end.
    pub(super) fn is_unasked(&self) -> bool {
        self.is_live && self.rest.is_none()
    }

    /// It did not come back, or nobody asked it.
    pub(super) fn is_away(&self) -> bool {
        self.rest.is_none()
    }

    /// The deliveries of a segment.
    pub(super) fn of_segment(&self, segment: usize) -> std::ops::Range<usize> {
        let end = self.segments.get(segment + 1).map_or(self.deliveries.len(), |next| next.first);
        self.segments[segment].first..end
    }
}

impl Story {
    pub(super) fn read(events: &[Event], rules: &Rules) -> Self {
        let mut reader = Reader::default();
        if events.is_sorted_by_key(|event| event.at_us) {
            events.iter().for_each(|event| reader.on_event(event));
        } else {
            let mut order: Vec<&Event> = events.iter().collect();
            order.sort_by_key(|event| event.at_us);
            order.into_iter().for_each(|event| reader.on_event(event));
        }
        reader.finish(rules)
    }

    pub(super) fn recipient_of(&self, session: u32) -> Option<u32> {
        self.sessions.get(&session).map(|session| self.devices[session.device].recipient)
    }

    pub(super) fn attached_us(&self, session: u32) -> u64 {
        self.sessions.get(&session).map_or(0, |session| session.attached_us)
    }

    pub(super) fn no(&self, message: u32) -> MessageNo {
        self.messages[message as usize].no
    }

    pub(super) fn message(&self, delivery: &Delivery) -> &Message {
        &self.messages[delivery.message as usize]
    }
}

/// Collects a story.
#[derive(Default)]
struct Reader {
    index: HashMap<MessageNo, u32>,
    by_device: HashMap<(u32, u32), usize>,
    messages: Vec<Message>,
    devices: Vec<Device>,
    sessions: HashMap<u32, Session>,
    logs: BTreeMap<u32, Log>,
    rests: Vec<(u32, u64, Option<u64>)>,
    full: Vec<(u64, String, u64, u64)>,
    strayed: Vec<(u32, MessageNo, u32, u64)>,
    stored_twice: Vec<(u32, u32)>,
    numbers: Numbers,
    problems: Vec<String>,
    healed_us: Option<u64>,
    /// Faults that have begun and not ended.
    open: BTreeMap<String, u64>,
}

impl Reader {
    fn on_event(&mut self, event: &Event) {
        let at_us = event.at_us;
        match &event.what {
            What::Invoke { message, recipient, .. } => {
                let one = self.message(*message);
                one.recipient = *recipient;
                one.invoked_us.get_or_insert(at_us);
            }
            What::Acked { message, level } => {
                let one = self.message(*message);
                one.acked_us.get_or_insert(at_us);
                let is_higher = *level == Level::Replicated || one.level.is_none();
                one.level = if is_higher { Some(*level) } else { one.level };
            }
            What::Refused { message } => self.message(*message).is_refused = true,
            What::GivenUp { message } => self.message(*message).is_given_up = true,
            What::Attached { session, recipient, device, start, lost } => {
                self.on_attached(at_us, *session, (*recipient, *device), start, *lost);
            }
            What::Reset { session, reason, lost } => self.on_reset(at_us, *session, reason, *lost),
            What::Delivered { session, message, to, again } => {
                self.on_delivered(at_us, *session, *message, *to, *again);
            }
            What::Detached { session } => {
                if let Some(device) = self.current(*session) {
                    device.is_live = false;
                }
            }
            What::Fault { name, begins, proof } => self.on_fault(name, *begins, proof),
            What::Healed => self.healed_us = Some(at_us),
            What::CaughtUp { session, ms } => {
                self.rests.push((*session, at_us, *ms));
                self.numbers.catch_up_ms = self.numbers.catch_up_ms.max(ms.unwrap_or(0));
                if let Some(device) = self.current(*session) {
                    device.rest = Some((at_us, *ms));
                }
            }
            What::Queue { node, bytes, cap } => {
                self.numbers.queue_bytes = self.numbers.queue_bytes.max(*bytes);
                if bytes > cap {
                    self.full.push((at_us, node.clone(), *bytes, *cap));
                }
            }
            What::Log { recipient, trimmed, messages } => self.on_log(*recipient, *trimmed, messages),
        }
    }

    fn number(&mut self, no: MessageNo) -> u32 {
        let messages = &mut self.messages;
        *self.index.entry(no).or_insert_with(|| {
            messages.push(Message {
                no,
                recipient: u32::MAX,
                invoked_us: None,
                acked_us: None,
                level: None,
                is_refused: false,
                is_given_up: false,
                is_delivered: false,
                fate: Fate::Gone,
            });
            u32::try_from(messages.len() - 1).unwrap_or(u32::MAX)
        })
    }

    fn message(&mut self, no: MessageNo) -> &mut Message {
        let number = self.number(no);
        &mut self.messages[number as usize]
    }

    /// The device whose newest session this is.
    fn current(&mut self, session: u32) -> Option<&mut Device> {
        let device = self.sessions.get(&session)?.device;
        self.devices.get_mut(device).filter(|device| device.session == session)
    }

    fn on_attached(&mut self, at_us: u64, session: u32, name: (u32, u32), start: &str, lost: Option<u64>) {
        let is_reset = !matches!(start, "new" | "resumed");
        let next = self.devices.len();
        let device = *self.by_device.entry(name).or_insert(next);
        if device == next {
            let (recipient, segments, deliveries, late) = (name.0, Vec::new(), Vec::new(), Vec::new());
            self.devices.push(Device { recipient, segments, deliveries, late, session, is_live: true, rest: None });
        }
        let device_there = &mut self.devices[device];
        (device_there.session, device_there.is_live) = (session, true);
        // Once nothing new is sent, the end stays where it was reached.
        let healed_us = self.healed_us.unwrap_or(u64::MAX);
        device_there.rest = device_there.rest.filter(|(rest_us, _)| *rest_us >= healed_us);
        // A history may begin in the middle: then nothing is known of what came before.
        let is_first = device_there.segments.is_empty();
        if is_first || start != "resumed" {
            let first = device_there.deliveries.len();
            device_there.segments.push(Segment { is_new: is_first || !is_reset, at_us, first, lost });
        }
        if self.sessions.insert(session, Session { device, attached_us: at_us }).is_some() {
            self.problems.push(format!("session {session} attached twice"));
        }
        self.numbers.sessions += 1;
        if is_reset {
            *self.numbers.resets.entry(start.to_owned()).or_default() += 1;
        }
    }

    fn on_reset(&mut self, at_us: u64, session: u32, reason: &str, lost: Option<u64>) {
        *self.numbers.resets.entry(reason.to_owned()).or_default() += 1;
        if let Some(device) = self.current(session) {
            let first = device.deliveries.len();
            device.segments.push(Segment { is_new: false, at_us, first, lost });
        }
    }

    fn on_delivered(&mut self, at_us: u64, session: u32, no: MessageNo, to: u32, again: bool) {
        self.numbers.deliveries += 1;
        self.numbers.again += u64::from(again);
        let Some(&Session { device, .. }) = self.sessions.get(&session) else {
            self.problems.push(format!("session {session} received {} and was never attached", name(no)));
            return;
        };
        if to != self.devices[device].recipient {
            self.strayed.push((session, no, to, at_us));
            return;
        }
        let message = self.number(no);
        self.messages[message as usize].is_delivered = true;
        let delivery = Delivery { message, session, at_us, again };
        let device = &mut self.devices[device];
        let list = if device.session == session { &mut device.deliveries } else { &mut device.late };
        list.push(delivery);
    }

    fn on_fault(&mut self, name: &str, begins: bool, proof: &str) {
        let open = self.open.entry(name.to_owned()).or_default();
        if begins {
            *open += 1;
            return;
        }
        if proof.trim().is_empty() {
            self.problems.push(format!("the fault {name} ended and nothing proves that it bit"));
        }
        match open.checked_sub(1) {
            Some(left) => *open = left,
            None => self.problems.push(format!("the fault {name} ended and never began")),
        }
    }

    fn on_log(&mut self, recipient: u32, trimmed: u64, messages: &[MessageNo]) {
        self.numbers.trimmed += trimmed;
        self.numbers.retained += messages.len() as u64;
        let mut log = Log { trimmed, ..Log::default() };
        for (place, no) in (1..).zip(messages) {
            let message = self.number(*no);
            let one = &mut self.messages[message as usize];
            if one.place().is_some() {
                self.stored_twice.push((recipient, message));
            } else {
                one.fate = Fate::Kept(place);
            }
            log.messages.push(message);
        }
        if self.logs.insert(recipient, log).is_some() {
            self.problems.push(format!("the log of recipient {recipient} was read twice"));
        }
    }

    fn finish(mut self, rules: &Rules) -> Story {
        let left = self.open.iter().filter(|(_, open)| **open > 0);
        self.problems.extend(left.map(|(name, _)| format!("the fault {name} began and never ended")));
        tell_trimmed_from_gone(&mut self.messages, &mut self.logs, rules.redis_may_lose);
        Story {
            messages: self.messages,
            devices: self.devices,
            logs: self.logs,
            rests: self.rests,
            full: self.full,
            strayed: self.strayed,
            stored_twice: self.stored_twice,
            numbers: self.numbers,
            problems: self.problems,
            healed_us: self.healed_us,
            sessions: self.sessions,
        }
    }
}
