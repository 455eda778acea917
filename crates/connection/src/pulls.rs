//! The way of messages of the own inbox to one connection: live ones, pulls and their pages, and where it stands.

use delivery::sabotage::{self, Rule};
use delivery::{Attached, Reason, Standing, Start, Step};
use protocol::client::{From, MessageFrame, ReadChange, ServerFrame};
use protocol::{Address, DeviceId, Entry, Ephemeral, Live, Notice, Text};

use crate::connection::{Connection, Phase};
use crate::counts::{Counts, PullCause};
use crate::inbox::RETRY_MS;
use crate::io::{Now, Unavailable};
use crate::outbox::Outbox;
use crate::output::{Attach, Output, Request};

impl Connection {
    pub(crate) fn on_live(&mut self, record: &Text, version: u64, live: &Live, now: Now) {
        if let Live::Notice(Notice::HandOver { connection, why }) = live {
            if *connection == self.id {
                self.on_hand_over(*why);
            }
            return;
        }
        if let Phase::Attaching(attaching) = &mut self.phase {
            // Stored right behind the attach, or before it: the first page may not have it.
            attaching.dirty |= matches!(live, Live::Entry(_));
            attaching.version = Some(version);
        }
        if sabotage::is_off_now(Rule::Stuck) {
            return;
        }
        let Phase::Open(session) = &mut self.phase else { return };
        if record.strip_prefix("user:") != Some(session.user.as_str()) {
            return;
        }
        match live {
            Live::Ephemeral(one) => self.deliver_ephemeral(one, now),
            Live::Entry(entry) => self.on_live_entry(entry, now),
            Live::Notice(notice) => self.on_notice(notice),
        }
        self.on_version(version);
    }

    fn on_live_entry(&mut self, entry: &Entry, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        if self.outbox.is_full() {
            session.inbox.consumer.pause();
            session.is_paused = true;
        }
        match session.inbox.consumer.on_live(entry.cursor, entry.link) {
            Step::Ignore => {}
            Step::Pull => self.pull(PullCause::Gap),
            Step::Deliver => {
                session.inbox.postpone_check(now.at, self.settings.position_check_ms);
                self.counts.delay_us = Some(delay_us(entry, now));
                deliver(&mut self.outbox, &mut self.counts, entry, false, now);
            }
        }
    }

    fn deliver_ephemeral(&mut self, one: &Ephemeral, now: Now) {
        let Phase::Open(session) = &self.phase else { return };
        // `user:ID/DEVICE` is in the record of the user: it is for one device of his. An echo is for all of them.
        if let Ok(Address::Device(user, for_device)) = Address::parse(&one.envelope.to)
            && user == session.user
            && session.device.as_ref() != Some(&for_device)
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

    fn on_notice(&mut self, notice: &Notice) {
        match notice {
            Notice::Read { .. } if self.outbox.is_full() => self.counts.dropped_changes += 1,
            Notice::Read { of, with, user, cursor } => {
                let (with, user, cursor) = (with.as_deref(), user.as_str(), *cursor);
                self.outbox.push(&ServerFrame::ReadChange(ReadChange { of, with, user, cursor }));
            }
            // Its version says that there is something to be read; the others are for the node.
            Notice::Groups | Notice::Members { .. } | Notice::HandOver { .. } | Notice::Presence { .. } => {}
        }
    }

    /// Something may have been missed: the inbox is read again.
    pub(crate) fn on_doubt(&mut self, cause: PullCause) {
        if let Phase::Attaching(attaching) = &mut self.phase {
            attaching.dirty = true;
        }
        let Phase::Open(session) = &mut self.phase else { return };
        if session.inbox.consumer.on_doubt() == Step::Pull {
            self.pull(cause);
        }
    }

    /// Every location is written again in a new generation, and every cursor checked. What is followed on this node the node
    /// checks itself.
    pub(crate) fn on_generation(&mut self) {
        match &mut self.phase {
            // The attach in flight was asked of the generation that ended: its answer does not count.
            Phase::Attaching(attaching) => attaching.again = true,
            Phase::Open(session) => session.inbox.reattach = true,
            _ => {}
        }
        self.on_doubt(PullCause::Generation);
    }

    /// The answer to a pull.
    pub(crate) fn on_attached(&mut self, result: Result<Option<Attached>, Unavailable>, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        let of = session.own();
        let inbox = &mut session.inbox;
        inbox.is_asking = false;
        let was_attach = std::mem::take(&mut inbox.is_attaching);
        match result {
            Ok(Some(attached)) => {
                if was_attach {
                    inbox.routed = attached.routed;
                }
                // The log forked under the cursor. Before everything is replayed, the places before it are asked about.
                let is_fork = matches!(attached.start, Start::Reset { reason: Reason::Fork | Reason::Ahead, .. });
                let asked_all = std::mem::take(&mut inbox.is_asking_all);
                let places = inbox.consumer.places();
                if is_fork && !asked_all && places.len() > 1 {
                    inbox.is_asking = true;
                    inbox.is_asking_all = true;
                    self.request(Request::Read { of, after: places, with_head: false });
                } else {
                    self.on_page(&of, &attached, now);
                }
                self.on_set_version(attached.version, attached.user.map(|user| user.groups));
            }
            answer => {
                // What was not registered has still to be.
                inbox.reattach |= was_attach;
                inbox.is_asking_all = false;
                // No record: attach begins one, and says `reset`. Nobody to ask: asked again soon.
                inbox.reattach |= answer.is_ok();
                inbox.consumer.on_failed();
                inbox.retry_at = Some(now.at.plus(if answer.is_ok() { 0 } else { RETRY_MS }));
            }
        }
    }

    /// Delivers a page; where it does not follow the cursor, `reset` comes before it.
    fn on_page(&mut self, of: &Address, attached: &Attached, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        if let Start::Reset { reason, lost } = attached.start {
            session.inbox.again_to = attached.head;
            count_reset(&mut self.counts, reason);
            if !sabotage::is_off(Rule::MissingReset) {
                self.outbox.push(&ServerFrame::Reset { of, reason: reason.as_str(), cursor: attached.cursor, lost });
            }
        }
        self.take_page(attached, now);
    }

    pub(crate) fn take_page(&mut self, attached: &Attached, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        let inbox = &mut session.inbox;
        let page = &attached.page;
        for entry in sabotage::in_order(&page.entries) {
            deliver(&mut self.outbox, &mut self.counts, entry, entry.cursor.seq <= inbox.again_to, now);
        }
        if self.outbox.is_full() {
            inbox.consumer.pause();
            session.is_paused = true;
        }
        inbox.postpone_check(now.at, self.settings.position_check_ms);
        let places = page.entries.iter().map(|e| e.cursor);
        if inbox.consumer.on_page(attached.cursor, places, page.end, page.more) == Step::Pull {
            self.pull(PullCause::More);
        } else if inbox.reattach && inbox.consumer.on_doubt() == Step::Pull {
            self.pull(PullCause::Generation);
        }
    }

    pub(crate) fn on_verified(&mut self, result: Result<(Standing, u64), Unavailable>, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        let inbox = &mut session.inbox;
        inbox.verifying = false;
        inbox.postpone_check(now.at, self.settings.position_check_ms);
        let Ok((standing, version)) = result else { return };
        inbox.reattach |= standing == Standing::Gone;
        if standing != Standing::Current && inbox.consumer.on_doubt() == Step::Pull {
            self.pull(PullCause::Check);
        }
        // Without a record nobody knows a version; attach begins one, and tells.
        if standing != Standing::Gone {
            self.on_version(version);
        }
    }

    /// Asks for what follows the cursor; where the location has to be written again, by an attach.
    pub(crate) fn pull(&mut self, cause: PullCause) {
        let Phase::Open(session) = &mut self.phase else { return };
        let of = session.own();
        let inbox = &mut session.inbox;
        debug_assert!(!inbox.is_asking, "one pull at a time");
        inbox.is_asking = true;
        inbox.retry_at = None;
        count_pull(&mut self.counts, cause);
        let cursor = inbox.consumer.cursor();
        inbox.is_attaching = std::mem::take(&mut inbox.reattach);
        let request = if inbox.is_attaching {
            Request::Attach(Attach {
                of,
                device: session.device.clone(),
                cursors: vec![Some(cursor)],
                from: From::Oldest,
                groups_known: Some(session.set_known),
                claim: None,
                profile: session.profile.as_deref().cloned(),
            })
        } else {
            Request::Read { of, after: vec![cursor], with_head: false }
        };
        self.outputs.push_back(Output::Request(request));
    }

    /// Asks whether the cursor is the end.
    pub(crate) fn verify(&mut self) {
        let Phase::Open(session) = &mut self.phase else { return };
        session.inbox.verifying = true;
        let (of, cursor, device): (_, _, Option<DeviceId>) =
            (session.own(), session.inbox.consumer.cursor(), session.device.clone());
        self.request(Request::Verify { of, cursor, device });
    }
}

pub(crate) fn count_reset(counts: &mut Counts, reason: Reason) {
    counts.resets[Reason::ALL.iter().position(|r| *r == reason).unwrap_or(0)] += 1;
}

pub(crate) fn count_pull(counts: &mut Counts, cause: PullCause) {
    counts.pulls[PullCause::ALL.iter().position(|c| *c == cause).unwrap_or(0)] += 1;
}

pub(crate) fn delay_us(entry: &Entry, now: Now) -> u64 {
    now.backplane_us.saturating_sub(entry.cursor.stamp.0)
}

/// Queues a durable message; one that has expired is skipped, and the cursor moves over it.
pub(crate) fn deliver(outbox: &mut Outbox, counts: &mut Counts, entry: &Entry, again: bool, now: Now) {
    if entry.envelope.is_expired(entry.at(), now.wall()) {
        counts.expired += 1;
        return;
    }
    outbox.push(&ServerFrame::Message(MessageFrame::durable(entry, again)));
    counts.delivered_durable += 1;
}
