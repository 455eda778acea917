//! What is due at a moment of its own: acks that were held back, what failed and is asked again, position checks; and what
//! goes on when the client takes messages again.

use delivery::Step;
use delivery::sabotage::{self, Rule};
use protocol::Address;

use crate::connection::{Connection, Phase};
use crate::counts::PullCause;
use crate::io::Now;
use crate::output::{Output, Request};

impl Connection {
    pub(crate) fn on_inbox_timer(&mut self, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        let of = session.own();
        let inbox = &mut session.inbox;
        if let (Some((cursor, due)), Some(device)) = (inbox.ack, &session.device)
            && due <= now.at
        {
            inbox.ack = None;
            inbox.acked = Some(cursor);
            let ack = Request::Ack { of, user: session.user.clone(), device: device.clone(), cursor };
            self.outputs.push_back(Output::Request(ack));
        }
        if inbox.retry_at.is_some_and(|at| at <= now.at) {
            inbox.retry_at = None;
            if inbox.consumer.on_doubt() == Step::Pull {
                self.pull(PullCause::Retry);
            }
        }
        let Phase::Open(session) = &mut self.phase else { return };
        let inbox = &mut session.inbox;
        if inbox.check_at <= now.at {
            inbox.postpone_check(now.at, self.settings.position_check_ms);
            if inbox.consumer.is_live() && !inbox.verifying && !sabotage::is_off(Rule::Stuck) {
                self.verify();
            }
        }
    }

    pub(crate) fn on_stream_timers(&mut self, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        if session.due.is_none_or(|due| due > now.at) {
            return;
        }
        session.due = None;
        let (user, device) = (session.user.clone(), session.device.clone());
        let set_retry_at = session.busy.as_ref().and_then(|busy| busy.set_retry_at);
        let is_set_due = set_retry_at.is_some_and(|at| at <= now.at);
        let mut retries: Vec<Address> = Vec::new();
        let mut next = set_retry_at.filter(|_| !is_set_due);
        for stream in session.streams_mut() {
            if let (Some((cursor, due)), Some(device)) = (stream.ack(), &device)
                && due <= now.at
            {
                stream.take_ack();
                let ack = Request::Ack { of: stream.of(), user: user.clone(), device: device.clone(), cursor };
                self.outputs.push_back(Output::Request(ack));
            }
            if stream.is_retry_due(now.at) {
                retries.push(stream.of());
            }
            next = next.into_iter().chain(stream.due()).min();
        }
        if let Some(next) = next {
            session.wake(next);
        }
        if is_set_due {
            self.ask_groups();
        }
        for of in retries {
            self.on_stream_retry(&of);
        }
    }

    /// The client takes messages again: what was paused goes on from where it stands.
    pub(crate) fn resume(&mut self) {
        let Phase::Open(session) = &mut self.phase else { return };
        if std::mem::take(&mut session.is_paused) {
            let is_due = session.inbox.consumer.resume() == Step::Pull;
            let behind = session.streams_mut().filter_map(|s| (s.consumer.resume() == Step::Pull).then(|| s.of()));
            let behind: Vec<Address> = behind.collect();
            if is_due {
                self.pull(PullCause::Resume);
            }
            for of in behind {
                self.want_page(&of, Some(PullCause::Resume));
            }
            self.tell_presence();
        }
        self.ask_pages();
    }

    /// Acks are held back to coalesce; what is held at the end is handed on then.
    pub(crate) fn hand_on_acks(&mut self) {
        let Phase::Open(session) = &mut self.phase else { return };
        let (user, Some(device)) = (session.user.clone(), session.device.clone()) else { return };
        let own = session.inbox.ack.take().map(|(cursor, _)| (session.own(), cursor));
        let streams = session.streams_mut().filter_map(|s| s.take_ack().map(|(cursor, _)| (s.of(), cursor)));
        for (of, cursor) in own.into_iter().chain(streams) {
            let ack = Request::Ack { of, user: user.clone(), device: device.clone(), cursor };
            self.outputs.push_back(Output::Request(ack));
        }
    }
}
