//! Takes the events of a history one after the other, and makes the story of them.

use std::collections::{BTreeMap, HashMap};

use super::{Delivery, Device, Fate, Followed, Log, Message, Segment, Session, Story};
use crate::check::Rules;
use crate::check::fate::tell_trimmed_from_gone;
use crate::check::membership::Memberships;
use crate::check::presence::{Presence, Told};
use crate::check::verdict::{Numbers, name};
use crate::history::{Event, Level, MessageNo, Step, To, What};

/// How a stream starts.
#[derive(Clone, Copy)]
struct Start<'a> {
    how: &'a str,
    lost: Option<u64>,
    is_named: bool,
}

/// Collects a story.
#[derive(Default)]
pub(super) struct Reader {
    index: HashMap<MessageNo, u32>,
    by_device: HashMap<(u32, u32, To), usize>,
    messages: Vec<Message>,
    devices: Vec<Device>,
    sessions: HashMap<u32, Session>,
    logs: BTreeMap<To, Log>,
    rests: Vec<(u32, To, u64, Option<u64>)>,
    full: Vec<(u64, String, u64, u64)>,
    strayed: Vec<(u32, MessageNo, To, u64)>,
    stored_twice: Vec<(To, u32)>,
    memberships: Memberships,
    presence: Presence,
    numbers: Numbers,
    problems: Vec<String>,
    healed_us: Option<u64>,
    first_fault_us: Option<u64>,
    end_us: u64,
    /// Faults that have begun and not ended.
    open: BTreeMap<String, u64>,
}

impl Reader {
    pub(super) fn on_event(&mut self, event: &Event) {
        let at_us = event.at_us;
        self.end_us = at_us;
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
            What::Stream { session, of, start, lost, is_named } => {
                self.on_stream(at_us, *session, *of, Start { how: start, lost: *lost, is_named: *is_named });
            }
            What::StreamEnded { session, of } => self.on_stream_ended(*session, *of),
            What::Reset { session, of, reason, lost } => self.on_reset(at_us, (*session, *of), reason, *lost),
            What::Delivered { session, message, to, again } => {
                self.on_delivered(at_us, *session, *message, *to, *again);
            }
            What::Membership { user, group, step, is_guest } => {
                self.numbers.joins += u64::from(*step == Step::Joined);
                self.numbers.leaves += u64::from(*step == Step::Left);
                self.memberships.on_step(at_us, (*user, *group), *step, *is_guest);
            }
            What::Watches { watcher, session } => {
                self.presence.watching.insert(*watcher, (*session, at_us));
            }
            &What::Told { watcher, session, visitor, online, version, is_answer } => {
                self.numbers.told += 1;
                self.presence.told.push(Told { at_us, watcher, session, visitor, online, version, is_answer });
            }
            What::Here { visitor, online } => {
                self.presence.here.insert(*visitor, (at_us, *online));
            }
            What::Detached { session } => self.on_detached(*session),
            What::Fault { name, begins, proof } => {
                self.first_fault_us.get_or_insert(at_us);
                self.on_fault(name, *begins, proof);
            }
            What::Healed => self.healed_us = Some(at_us),
            What::CaughtUp { session, of, ms } => {
                let of = self.stream_of(*session, *of);
                self.rests.push((*session, of, at_us, *ms));
                self.numbers.catch_up_ms = self.numbers.catch_up_ms.max(ms.unwrap_or(0));
                if let Some(device) = self.current(*session, of) {
                    device.rest = Some((at_us, *ms));
                }
            }
            What::Queue { node, bytes, cap } => {
                self.numbers.queue_bytes = self.numbers.queue_bytes.max(*bytes);
                if bytes > cap {
                    self.full.push((at_us, node.clone(), *bytes, *cap));
                }
            }
            What::Log { recipient, trimmed, messages, mseqs } => {
                self.on_log(*recipient, *trimmed, messages);
                for (message, mseq) in messages.iter().zip(mseqs) {
                    let number = self.number(*message);
                    self.memberships.on_entry(number, *mseq);
                }
            }
            What::Members { group, members, changes } => self.memberships.on_members(*group, members, changes),
        }
    }

    fn number(&mut self, no: MessageNo) -> u32 {
        let messages = &mut self.messages;
        *self.index.entry(no).or_insert_with(|| {
            messages.push(Message {
                no,
                recipient: To::NOBODY,
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

    /// `None` stands for the own inbox.
    fn stream_of(&self, session: u32, of: Option<To>) -> To {
        of.unwrap_or_else(|| self.sessions.get(&session).map_or(To::NOBODY, |session| To::User(session.user)))
    }

    /// The device whose newest session this is.
    fn current(&mut self, session: u32, of: To) -> Option<&mut Device> {
        let device = self.sessions.get(&session)?.streams.get(&of)?.device;
        self.devices.get_mut(device).filter(|device| device.session == session)
    }

    fn on_attached(&mut self, at_us: u64, session: u32, (user, device): (u32, u32), how: &str, lost: Option<u64>) {
        if self.sessions.insert(session, Session { user, device, streams: HashMap::new() }).is_some() {
            self.problems.push(format!("session {session} attached twice"));
        }
        self.numbers.sessions += 1;
        self.on_stream(at_us, session, To::User(user), Start { how, lost, is_named: false });
    }

    fn on_stream(&mut self, at_us: u64, session: u32, of: To, start: Start<'_>) {
        let next = self.devices.len();
        let Some(there) = self.sessions.get_mut(&session) else {
            return self.problems.push(format!("session {session} has a stream and was never attached"));
        };
        let (user, number) = (there.user, there.device);
        let device = *self.by_device.entry((user, number, of)).or_insert(next);
        there.streams.insert(of, Followed { device, since_us: at_us, is_named: start.is_named, is_over: false });
        if device == next {
            let (segments, deliveries, late) = (Vec::new(), Vec::new(), Vec::new());
            let (is_live, is_over, rest) = (true, false, None);
            self.devices.push(Device {
                user,
                device: number,
                of,
                segments,
                deliveries,
                late,
                session,
                is_live,
                is_over,
                rest,
            });
        }
        let device = &mut self.devices[device];
        (device.session, device.is_live) = (session, true);
        // Once nothing new is sent, the end stays where it was reached.
        let healed_us = self.healed_us.unwrap_or(u64::MAX);
        device.rest = device.rest.filter(|(rest_us, _)| *rest_us >= healed_us);
        let is_reset = !matches!(start.how, "new" | "resumed");
        // A history may begin in the middle: then nothing is known of what came before. Nor after a membership that ended.
        let is_first = device.segments.is_empty() || std::mem::take(&mut device.is_over);
        if is_first || start.how != "resumed" {
            let (first, is_new) = (device.deliveries.len(), is_first || !is_reset);
            device.segments.push(Segment { is_new, at_us, first, lost: start.lost });
        }
        if is_reset {
            *self.numbers.resets.entry(start.how.to_owned()).or_default() += 1;
        }
    }

    fn on_stream_ended(&mut self, session: u32, of: To) {
        let Some(there) = self.sessions.get_mut(&session) else { return };
        if let Some(followed) = there.streams.get_mut(&of) {
            followed.is_over = true;
        }
        let name = (there.user, there.device, of);
        if let Some(&device) = self.by_device.get(&name) {
            let device = &mut self.devices[device];
            (device.is_live, device.is_over) = (false, true);
        }
    }

    fn on_detached(&mut self, session: u32) {
        let Some(there) = self.sessions.get(&session) else { return };
        for followed in there.streams.values() {
            let device = &mut self.devices[followed.device];
            device.is_live &= device.session != session;
        }
    }

    fn on_reset(&mut self, at_us: u64, (session, of): (u32, Option<To>), reason: &str, lost: Option<u64>) {
        *self.numbers.resets.entry(reason.to_owned()).or_default() += 1;
        let of = self.stream_of(session, of);
        if let Some(device) = self.current(session, of) {
            let first = device.deliveries.len();
            device.segments.push(Segment { is_new: false, at_us, first, lost });
        }
    }

    fn on_delivered(&mut self, at_us: u64, session: u32, no: MessageNo, to: To, again: bool) {
        self.numbers.deliveries += 1;
        self.numbers.again += u64::from(again);
        self.numbers.group_deliveries += u64::from(to.group().is_some());
        let Some(there) = self.sessions.get(&session) else {
            self.problems.push(format!("session {session} received {} and was never attached", name(no)));
            return;
        };
        let followed = there.streams.get(&to).filter(|followed| !followed.is_over);
        let Some(&Followed { device, is_named, .. }) = followed else {
            return self.strayed.push((session, no, to, at_us));
        };
        let message = self.number(no);
        self.messages[message as usize].is_delivered = true;
        let delivery = Delivery { message, session, at_us, again, is_named };
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

    fn on_log(&mut self, recipient: To, trimmed: u64, messages: &[MessageNo]) {
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
            self.problems.push(format!("the log of {recipient} was read twice"));
        }
    }

    pub(super) fn finish(mut self, rules: &Rules) -> Story {
        let left = self.open.iter().filter(|(_, open)| **open > 0);
        self.problems.extend(left.map(|(name, _)| format!("the fault {name} began and never ended")));
        self.memberships.finish();
        tell_trimmed_from_gone(&mut self.messages, &mut self.logs, rules.redis_may_lose);
        Story {
            messages: self.messages,
            devices: self.devices,
            logs: self.logs,
            rests: self.rests,
            full: self.full,
            strayed: self.strayed,
            stored_twice: self.stored_twice,
            memberships: self.memberships,
            presence: self.presence,
            numbers: self.numbers,
            problems: self.problems,
            healed_us: self.healed_us,
            end_us: self.end_us,
            first_fault_us: self.first_fault_us.unwrap_or(u64::MAX),
            sessions: self.sessions,
        }
    }
}
