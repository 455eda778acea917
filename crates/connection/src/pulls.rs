//! The way of messages to one connection: live ones, pulls and their pages, and where a stream stands.

use std::collections::VecDeque;

use delivery::sabotage::{self, Rule};
use delivery::{Attached, Reason, Standing, Start, Step};
use protocol::client::{MessageFrame, ServerFrame};
use protocol::{Address, DeviceId, Entry, Ephemeral, Live, Text};

use crate::connection::{Connection, Phase};
use crate::io::{Attach, Counts, Now, Output, PullCause, Request, Unavailable};
use crate::outbox::Outbox;
use crate::stream::{RETRY_MS, Stream};

impl Connection {
    pub(crate) fn on_live(&mut self, record: &Text, live: &Live, now: Now) {
        if let Phase::Attaching(attaching) = &mut self.phase {
            // Stored right behind the attach, or before it: the first page may not have it.
            attaching.dirty |= matches!(live, Live::Entry(_));
        }
        if sabotage::is_off_now(Rule::Stuck) {
            return;
        }
        let Phase::Open(session) = &mut self.phase else { return };
        let device = session.device.clone();
        let Some(stream) = session.by_record(record) else { return };
        match live {
            Live::Ephemeral(one) => self.deliver_ephemeral(one, device.as_ref(), now),
            Live::Entry(entry) => {
                if self.outbox.is_full() {
                    stream.consumer.pause();
                }
                match stream.consumer.on_live(entry.cursor, entry.link) {
                    Step::Ignore => {}
                    Step::Pull => pull(&mut self.outputs, &mut self.counts, device.as_ref(), stream, PullCause::Gap),
                    Step::Deliver => {
                        stream.postpone_check(now.at, self.settings.position_check_ms);
                        self.counts.delay_us = Some(now.backplane_us.saturating_sub(entry.cursor.stamp.0));
                        deliver(&mut self.outbox, &mut self.counts, entry, false, now);
                    }
                }
            }
        }
    }

    fn deliver_ephemeral(&mut self, one: &Ephemeral, device: Option<&DeviceId>, now: Now) {
        // `user:ID/DEVICE` is in the record of the user: it is for one device of his.
        if let Ok(Address::Device(_, for_device)) = Address::parse(&one.envelope.to)
            && device != Some(&for_device)
        {
            return;
        }
        if one.envelope.is_expired(one.at, now.wall()) {
            self.counts.expired += 1;
        } else if self.outbox.is_full() {
            self.counts.dropped_ephemeral += 1;
        } else {
            self.outbox.push(&ServerFrame::Message(MessageFrame::ephemeral(one)));
            self.counts.delivered_ephemeral += 1;
        }
    }

    pub(crate) fn on_doubt(&mut self, cause: PullCause) {
        if let Phase::Attaching(attaching) = &mut self.phase {
            attaching.dirty = true;
        }
        let Phase::Open(session) = &mut self.phase else { return };
        for stream in &mut session.streams {
            if stream.consumer.on_doubt() == Step::Pull {
                pull(&mut self.outputs, &mut self.counts, session.device.as_ref(), stream, cause);
            }
        }
    }

    /// Every location is written again in a new generation, and every cursor checked.
    pub(crate) fn on_generation(&mut self) {
        match &mut self.phase {
            // The attach in flight was asked of the generation that ended: its answer does not count.
            Phase::Attaching(attaching) => attaching.again = true,
            Phase::Open(session) => session.streams.iter_mut().for_each(|s| s.reattach = true),
            _ => {}
        }
        self.on_doubt(PullCause::Generation);
    }

    /// The answer to a pull.
    pub(crate) fn on_attached(&mut self, of: &Address, result: Result<Option<Attached>, Unavailable>, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        let device = session.device.clone();
        let Some(stream) = session.by_address(of) else { return };
        stream.is_asking = false;
        let was_attach = std::mem::take(&mut stream.is_attaching);
        match result {
            Ok(Some(attached)) => {
                if was_attach {
                    stream.routed = attached.routed;
                }
                // The log forked under the cursor. Before everything is replayed, the places before it are asked about.
                let is_fork = matches!(attached.start, Start::Reset { reason: Reason::Fork | Reason::Ahead, .. });
                let asked_all = std::mem::take(&mut stream.is_asking_all);
                let places = stream.consumer.places();
                if is_fork && !asked_all && places.len() > 1 {
                    stream.is_asking = true;
                    stream.is_asking_all = true;
                    let read = Request::Read { of: stream.of.clone(), after: places };
                    self.outputs.push_back(Output::Request(read));
                    return;
                }
                self.on_page(of, &attached, device.as_ref(), now);
            }
            answer => {
                // What was not registered has still to be.
                stream.reattach |= was_attach;
                stream.is_asking_all = false;
                // No record: attach begins one, and says `reset`. Nobody to ask: asked again soon.
                stream.reattach |= answer.is_ok();
                stream.consumer.on_failed();
                stream.retry_at = Some(now.at.plus(if answer.is_ok() { 0 } else { RETRY_MS }));
            }
        }
    }

    /// Delivers a page; where it does not follow the cursor, `reset` comes before it.
    pub(crate) fn on_page(&mut self, of: &Address, attached: &Attached, device: Option<&DeviceId>, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.by_address(of) else { return };
        if let Start::Reset { reason, lost } = attached.start {
            stream.again_to = attached.head;
            count_reset(&mut self.counts, reason);
            if !sabotage::is_off(Rule::MissingReset) {
                self.outbox.push(&ServerFrame::Reset { of, reason: reason.as_str(), cursor: attached.cursor, lost });
            }
        }
        self.take_page(of, attached, device, now);
    }

    pub(crate) fn take_page(&mut self, of: &Address, attached: &Attached, device: Option<&DeviceId>, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.by_address(of) else { return };
        let page = &attached.page;
        for entry in sabotage::in_order(&page.entries) {
            deliver(&mut self.outbox, &mut self.counts, entry, entry.cursor.seq <= stream.again_to, now);
        }
        if self.outbox.is_full() {
            stream.consumer.pause();
        }
        stream.postpone_check(now.at, self.settings.position_check_ms);
        let places = page.entries.iter().map(|e| e.cursor);
        if stream.consumer.on_page(attached.cursor, places, page.end, page.more) == Step::Pull {
            pull(&mut self.outputs, &mut self.counts, device, stream, PullCause::More);
        } else if stream.reattach && stream.consumer.on_doubt() == Step::Pull {
            pull(&mut self.outputs, &mut self.counts, device, stream, PullCause::Generation);
        }
    }

    pub(crate) fn on_verified(&mut self, of: &Address, result: Result<Standing, Unavailable>, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        let device = session.device.clone();
        let Some(stream) = session.by_address(of) else { return };
        stream.verifying = false;
        stream.postpone_check(now.at, self.settings.position_check_ms);
        let Ok(standing) = result else { return };
        stream.reattach |= standing == Standing::Gone;
        if standing != Standing::Current && stream.consumer.on_doubt() == Step::Pull {
            pull(&mut self.outputs, &mut self.counts, device.as_ref(), stream, PullCause::Check);
        }
    }
}

pub(crate) fn count_reset(counts: &mut Counts, reason: Reason) {
    counts.resets[Reason::ALL.iter().position(|r| *r == reason).unwrap_or(0)] += 1;
}

/// Queues a durable message; one that has expired is skipped, and the cursor moves over it.
fn deliver(outbox: &mut Outbox, counts: &mut Counts, entry: &Entry, again: bool, now: Now) {
    if entry.envelope.is_expired(entry.at(), now.wall()) {
        counts.expired += 1;
        return;
    }
    outbox.push(&ServerFrame::Message(MessageFrame::durable(entry, again)));
    counts.delivered_durable += 1;
}

/// Asks for what follows the cursor; where the location has to be written again, by an attach.
pub(crate) fn pull(
    outputs: &mut VecDeque<Output>,
    counts: &mut Counts,
    device: Option<&DeviceId>,
    stream: &mut Stream,
    cause: PullCause,
) {
    debug_assert!(!stream.is_asking, "one pull at a time");
    stream.is_asking = true;
    stream.retry_at = None;
    counts.pulls[PullCause::ALL.iter().position(|c| *c == cause).unwrap_or(0)] += 1;
    let cursor = stream.consumer.cursor();
    stream.is_attaching = std::mem::take(&mut stream.reattach);
    let request = if stream.is_attaching {
        let device = device.cloned();
        let from = protocol::client::From::Oldest;
        Request::Attach(Attach { of: stream.of.clone(), device, cursors: vec![Some(cursor)], from })
    } else {
        Request::Read { of: stream.of.clone(), after: vec![cursor] }
    };
    outputs.push_back(Output::Request(request));
}
