//! A history, told by message and by device instead of by time. Only collects; judges nothing.

mod reader;

use std::collections::{BTreeMap, HashMap};

use super::Rules;
use super::membership::Memberships;
use super::presence::Presence;
use super::verdict::Numbers;
use crate::history::{Event, Level, MessageNo, To};

use reader::Reader;

#[derive(Debug)]
pub(super) struct Story {
    pub(super) messages: Vec<Message>,
    pub(super) devices: Vec<Device>,
    pub(super) logs: BTreeMap<To, Log>,
    /// What sessions said about the end of their streams: session, which stream, when, and how long it took.
    pub(super) rests: Vec<(u32, To, u64, Option<u64>)>,
    /// Queues beyond their bound: when, the node, bytes, bound.
    pub(super) full: Vec<(u64, String, u64, u64)>,
    /// Messages that came to a session that has no such stream: session, message, to, when.
    pub(super) strayed: Vec<(u32, MessageNo, To, u64)>,
    /// Messages that stand in a log a second time, and whose log it is.
    pub(super) stored_twice: Vec<(To, u32)>,
    pub(super) memberships: Memberships,
    pub(super) presence: Presence,
    pub(super) numbers: Numbers,
    pub(super) problems: Vec<String>,
    /// When all faults were over; from then on whoever left comes back.
    pub(super) healed_us: Option<u64>,
    /// The last event.
    pub(super) end_us: u64,
    /// When the first fault began.
    pub(super) first_fault_us: u64,
    sessions: HashMap<u32, Session>,
}

/// What is known of a message.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) no: MessageNo,
    pub(super) recipient: To,
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

/// One stream of one device of a user, over all its sessions.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) user: u32,
    /// Which of his.
    pub(super) device: u32,
    pub(super) of: To,
    /// Where its stream began anew: the first attach, each start as `new`, each reset.
    pub(super) segments: Vec<Segment>,
    pub(super) deliveries: Vec<Delivery>,
    /// What sessions received after the device had already gone on in another one.
    pub(super) late: Vec<Delivery>,
    /// The newest session, and whether it still stands.
    pub(super) session: u32,
    pub(super) is_live: bool,
    /// The membership ended, and did not begin again.
    pub(super) is_over: bool,
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
    /// On a stream that went on, in this session, at a place that the opening named.
    pub(super) is_named: bool,
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

#[derive(Debug)]
struct Session {
    user: u32,
    device: u32,
    streams: HashMap<To, Followed>,
}

/// A stream of a session.
#[derive(Clone, Copy, Debug)]
struct Followed {
    device: usize,
    since_us: u64,
    is_named: bool,
    /// The membership ended.
    is_over: bool,
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
        self.rest.is_none() && !self.is_over
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

    pub(super) fn user_of(&self, session: u32) -> Option<u32> {
        self.sessions.get(&session).map(|session| session.user)
    }

    /// When this stream began in this session.
    pub(super) fn attached_us(&self, session: u32, of: To) -> u64 {
        self.sessions.get(&session).and_then(|session| session.streams.get(&of)).map_or(0, |there| there.since_us)
    }

    /// Whether a device that follows its stream has to get this message, as far as membership goes.
    pub(super) fn is_owed(&self, device: &Device, message: u32, may_redis_lose: bool) -> bool {
        let of_message = (message, &self.messages[message as usize]);
        let owes = |group| self.memberships.owes(device.user, group, of_message, may_redis_lose);
        device.of.group().is_none_or(owes)
    }

    /// Whether it must not get it, because its user was no member.
    pub(super) fn is_forbidden(&self, device: &Device, message: u32) -> bool {
        let forbids = |group| self.memberships.forbids(device.user, group, &self.messages[message as usize]);
        device.of.group().is_some_and(forbids)
    }

    pub(super) fn no(&self, message: u32) -> MessageNo {
        self.messages[message as usize].no
    }

    pub(super) fn message(&self, delivery: &Delivery) -> &Message {
        &self.messages[delivery.message as usize]
    }
}
