//! The way of messages to a member, and to everybody: what the node hands to all of them, and pages where that does not
//! follow the own place.

use std::sync::Arc;

use delivery::sabotage::{self, Rule};
use delivery::{Attached, Reason, Start, Step};
use protocol::client::{From, ServerFrame};
use protocol::{Address, Cursor, DeviceId, Entry, Ephemeral, Text, UserId};

use crate::connection::{Connection, Phase};
use crate::counts::PullCause;
use crate::inbox::RETRY_MS;
use crate::io::{Now, Unavailable};
use crate::output::{Enter, Output, Request};
use crate::pulls::{count_pull, count_reset, delay_us, deliver};
use crate::session::Session;
use crate::shared::{Shared, What};
use crate::stream::{Check, Stage, Stream};

/// Pages of groups that a connection asks for at once: each has up to 64 KiB, and after a pause all of 257 streams may be
/// behind.
const PAGES_MAX: u16 = 8;

impl Connection {
    pub(crate) fn on_shared(&mut self, shared: &Arc<Shared>, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        let is_full = self.outbox.is_full();
        let is_own_leave =
            matches!(&shared.what, What::Members { who: Some((user, false)), .. } if *user == session.user);
        let Some(stream) = session.by_record(&shared.of) else { return };
        match &shared.what {
            What::Entry(entry) => match stream.on_entry(entry, is_full) {
                Step::Ignore => session.is_paused |= is_full,
                Step::Pull => {
                    let of = stream.of();
                    self.want_page(&of, Some(PullCause::Gap));
                }
                Step::Deliver if !stream.is_for_him(entry) => {}
                Step::Deliver => self.deliver_shared(shared, entry, now),
            },
            What::Ephemeral(one) if stream.is_running() => self.deliver_shared_ephemeral(shared, one, now),
            // Of his own leave the end of the stream tells.
            What::Members { .. } | What::Read { .. } if stream.is_running() && !is_own_leave => {
                if is_full {
                    self.counts.dropped_changes += 1;
                } else {
                    self.outbox.push_written(shared.frame(self.codec));
                }
            }
            What::Ephemeral(_) | What::Members { .. } | What::Read { .. } => {}
        }
    }

    fn deliver_shared(&mut self, shared: &Shared, entry: &Entry, now: Now) {
        self.counts.delay_us = Some(delay_us(entry, now));
        if entry.envelope.is_expired(entry.at(), now.wall()) {
            self.counts.expired += 1;
        } else {
            self.outbox.push_written(shared.frame(self.codec));
            self.counts.delivered_durable += 1;
        }
    }

    fn deliver_shared_ephemeral(&mut self, shared: &Shared, one: &Ephemeral, now: Now) {
        if one.envelope.is_expired(one.at, now.wall()) {
            self.counts.expired += 1;
        } else if self.outbox.is_full() {
            self.counts.dropped_ephemeral += 1;
        } else {
            self.outbox.push_written(shared.frame(self.codec));
            self.counts.delivered_ephemeral += 1;
        }
    }

    /// The node's place in a new generation holds: whose place is another one reads.
    pub(crate) fn on_head_at(&mut self, record: &Text, cursor: Cursor) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.by_record(record).filter(|stream| stream.consumer.cursor() != cursor) else {
            return;
        };
        let of = stream.of();
        self.on_stream_doubt(&of, PullCause::Generation);
    }

    pub(crate) fn on_record_doubt(&mut self, record: &Text) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(of) = session.by_record(record).map(|stream| stream.of()) else { return };
        self.on_stream_doubt(&of, PullCause::Dirty);
    }

    pub(crate) fn on_stream_doubt(&mut self, of: &Address, cause: PullCause) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.stream(of).filter(|stream| stream.stage != Stage::Gone) else { return };
        if stream.consumer.on_doubt() == Step::Pull {
            self.want_page(of, Some(cause));
        }
    }

    /// The stream asks for its page as soon as it is its turn.
    pub(crate) fn want_page(&mut self, of: &Address, cause: Option<PullCause>) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.stream(of).filter(|stream| stream.stage != Stage::Gone) else { return };
        if !std::mem::replace(&mut stream.is_waiting, true) {
            session.waiting += 1;
        }
        if let Some(cause) = cause {
            count_pull(&mut self.counts, cause);
        }
    }

    /// Asks for pages of those that wait, as many as there is room for.
    pub(crate) fn ask_pages(&mut self) {
        let Phase::Open(session) = &mut self.phase else { return };
        if session.waiting == 0 || self.outbox.is_full() {
            return;
        }
        let Session { user, device, all, groups, waiting, pages, .. } = &mut **session;
        let groups = groups.iter_mut().map(|stream| &mut **stream);
        for stream in std::iter::once(all).chain(groups).filter(|stream| stream.is_waiting) {
            if *pages >= PAGES_MAX {
                break;
            }
            (*waiting, *pages) = (*waiting - 1, *pages + 1);
            self.outputs.push_back(Output::Request(stream.ask(user, device.as_ref())));
        }
    }

    /// The answer to a page.
    pub(crate) fn on_stream_page(&mut self, of: &Address, result: Result<Option<Attached>, Unavailable>, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        session.pages = session.pages.saturating_sub(1);
        let Some(stream) = session.stream(of) else { return };
        stream.is_asking = false;
        match stream.stage {
            Stage::Gone => self.settle(of),
            Stage::Seating => {}
            Stage::Entering => self.on_entered(of, result, now),
            Stage::Running => self.on_stream_read(of, result, now),
        }
    }

    fn on_stream_read(&mut self, of: &Address, result: Result<Option<Attached>, Unavailable>, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        let user = session.user.clone();
        let Some(stream) = session.stream(of) else { return };
        let checking = std::mem::replace(&mut stream.checking, Check::No);
        let asked_all = std::mem::take(&mut stream.is_asking_all);
        let Ok(Some(attached)) = result else {
            if stream.check == Check::No {
                stream.check = checking;
            }
            stream.consumer.on_failed();
            return self.retry_stream(of, now.at.plus(RETRY_MS));
        };
        match (checking, attached.joined) {
            (Check::No, _) | (Check::Named, None) => {}
            (Check::Unnamed, None) => return self.end_stream(of, None),
            (Check::Named | Check::Unnamed, Some(joined)) => {
                stream.is_lasting = true;
                stream.joined = joined;
                self.sit_down(of);
                if let (Check::Unnamed, Address::Group(group)) = (checking, of) {
                    self.request(Request::Repair { group: group.clone(), user, is_in: true });
                }
            }
        }
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.stream(of) else { return };
        if let Start::Reset { reason, lost } = attached.start {
            // The log forked under the cursor. Before everything is replayed, the places that the head knows are asked about.
            if matches!(reason, Reason::Fork | Reason::Ahead) && !asked_all {
                stream.is_asking_all = true;
                return self.want_page(of, None);
            }
            stream.set_again_to(attached.head);
            count_reset(&mut self.counts, reason);
            if !sabotage::is_off(Rule::MissingReset) {
                self.outbox.push(&ServerFrame::Reset { of, reason: reason.as_str(), cursor: attached.cursor, lost });
            }
        }
        self.take_stream_page(of, &attached, now);
    }

    pub(crate) fn take_stream_page(&mut self, of: &Address, attached: &Attached, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.stream(of) else { return };
        let (page, again_to) = (&attached.page, stream.again_to());
        for entry in sabotage::in_order(&page.entries).filter(|entry| stream.is_for_him(entry)) {
            deliver(&mut self.outbox, &mut self.counts, entry, entry.cursor.seq <= again_to, now);
        }
        let is_full = self.outbox.is_full();
        if is_full {
            stream.consumer.pause();
        }
        if page.end.seq >= again_to {
            stream.set_again_to(0);
        }
        let places = page.entries.iter().map(|entry| entry.cursor);
        let mut step = stream.consumer.on_page(attached.cursor, places, page.end, page.more);
        if stream.check != Check::No && step == Step::Ignore {
            step = stream.consumer.on_doubt();
        }
        session.is_paused |= is_full;
        if step == Step::Pull {
            self.want_page(of, Some(PullCause::More));
        }
    }
}

impl Stream {
    fn on_entry(&mut self, entry: &Entry, is_full: bool) -> Step {
        if self.stage == Stage::Gone {
            return Step::Ignore;
        }
        if is_full {
            self.consumer.pause();
        }
        self.consumer.on_live(entry.cursor, entry.link)
    }

    /// It was stored behind his join; a guest has none.
    fn is_for_him(&self, entry: &Entry) -> bool {
        !self.is_filtered || entry.mseq.unwrap_or(0) >= self.joined || sabotage::is_off(Rule::Outsider)
    }

    /// Its page: the first one, or what follows its place.
    fn ask(&mut self, user: &UserId, device: Option<&DeviceId>) -> Request {
        (self.is_waiting, self.is_asking) = (false, true);
        let (of, user) = (self.of(), user.clone());
        if let Some(beginning) = self.beginning() {
            // What a device has of everybody's stream is kept with its user, and is among the cursors.
            let device = device.filter(|_| self.group.is_some()).cloned();
            let (cursors, from) = (beginning.cursors.clone(), beginning.from);
            return Request::Enter(Enter { of, user, device, cursors, from });
        }
        let cursor = self.consumer.cursor();
        if self.is_asking_all {
            return Request::Read { of, after: vec![cursor], with_head: true };
        }
        self.checking = std::mem::replace(&mut self.check, Check::No);
        match self.checking {
            Check::No => Request::Read { of, after: vec![cursor], with_head: false },
            Check::Named | Check::Unnamed => {
                let (device, cursors, from) = (None, vec![Some(cursor)], From::Oldest);
                Request::Enter(Enter { of, user, device, cursors, from })
            }
        }
    }
}
