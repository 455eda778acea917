//! What an open connection may ask, and its answers: every `id` is answered exactly once.

use delivery::sabotage::{self, Rule};
use delivery::{Place, Placed};
use protocol::client::{ClientFrame, ErrorFrame, FrameError, Send, ServerFrame};
use protocol::{Address, CloseCode, Cursor, ErrorCode, MessageId, UnixMillis};

use crate::connection::{Connection, Phase};
use crate::io::{Now, SendFault};
use crate::output::{Message, Request};
use crate::rate::Verdict;

/// When to send again what found a full queue.
pub(crate) const OVERLOADED_RETRY_MS: u64 = 200;
/// When to ask again what found nobody.
pub(crate) const UNAVAILABLE_RETRY_MS: u64 = 1_000;

impl Connection {
    pub(crate) fn on_frame(&mut self, frame: Result<ClientFrame, FrameError>, now: Now) {
        self.counts.frames_in += 1;
        match self.rate.take(now.at) {
            Verdict::Pass => {}
            Verdict::Over { retry_ms } => {
                self.counts.rate_limited += 1;
                let id = frame.as_ref().map_or_else(|e| e.id.as_ref(), id_of).cloned();
                return self.answer_error(
                    id.as_ref(),
                    ErrorCode::RateLimited,
                    "more frames than allowed",
                    Some(retry_ms),
                );
            }
            Verdict::Exhausted => {
                return self.close(CloseCode::RateLimited, "more frames than allowed for 10 seconds without a pause");
            }
        }
        match frame {
            Err(FrameError { id, message, .. }) => {
                self.answer_error(id.as_ref(), ErrorCode::BadRequest, &message, None)
            }
            Ok(ClientFrame::Hello(hello)) => {
                let message = "`type`: hello was said already; it is the first frame only";
                self.answer_error(hello.id.as_ref(), ErrorCode::BadRequest, message, None);
            }
            Ok(ClientFrame::Send(send)) => self.on_send(send),
            Ok(ClientFrame::Ack { of, cursor }) => self.on_ack(&of, cursor, now),
            Ok(ClientFrame::Read { id, of, with, cursor }) => self.on_read(id, of, with, cursor),
            Ok(ClientFrame::Join(join)) => self.on_join(join),
            Ok(ClientFrame::Leave { id, group }) => self.on_leave(id, group),
            Ok(ClientFrame::History(history)) => self.on_ask_history(history),
            Ok(ClientFrame::Counts { id, of, with }) => self.on_ask_counts(id, of, with),
            Ok(ClientFrame::Receipts { id, reference }) => self.on_ask_receipts(id, reference),
            Ok(ClientFrame::Presence { id, whom }) => self.on_ask_presence(id, whom),
            Ok(ClientFrame::Watch { id, whom }) => self.on_watch(id, whom),
            Ok(ClientFrame::Unwatch { id, whom }) => self.on_unwatch(id, whom),
            Ok(ClientFrame::Members { id, group, after, limit }) => self.on_ask_members(id, group, after, limit),
            Ok(ClientFrame::Ping { id }) => {
                self.outbox.push(&ServerFrame::Pong { id: id.as_ref().map(MessageId::as_str) });
            }
        }
    }

    fn on_send(&mut self, send: Send) {
        let Phase::Open(session) = &self.phase else { return };
        if matches!(send.to, Address::Service(_)) {
            let message = format!(
                "`to`: expected user:ID, user:ID/DEVICE, group:ID or all, got {}; no service is here yet",
                send.to
            );
            return self.answer_error(Some(&send.id), ErrorCode::BadRequest, &message, None);
        }
        if !session.may_send(&send.to) {
            let message = format!("`to`: {} is not yours to send to", send.to);
            return self.answer_error(Some(&send.id), ErrorCode::Forbidden, &message, None);
        }
        let from = session.own();
        if !self.begin_request(&send.id) {
            return;
        }
        let Send { id, to, body, ephemeral, retry_age_ms, expires_ms, replicated, echo } = send;
        let message = Message { id, to, from, body, expires_ms };
        let retry_age_ms = retry_age_ms.filter(|_| !sabotage::is_off(Rule::Duplicated));
        let replicated = replicated && !sabotage::is_off(Rule::LostReplicated);
        if ephemeral {
            self.counts.sends_ephemeral += 1;
            self.request(Request::Publish { message, echo });
        } else {
            self.counts.sends_durable += 1;
            let late_ms = self.heartbeat.late_ms().filter(|_| !sabotage::is_off(Rule::Duplicated));
            self.request(Request::Append { message, retry_age_ms, late_ms, replicated, echo });
        }
    }

    pub(crate) fn on_appended(&mut self, id: &MessageId, to: &Address, result: Result<Placed, SendFault>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match result {
            Ok(Placed { place: Place::Unprovable, .. }) => {
                let message = "the search for the first try reached its bound; nothing was stored by this one";
                self.push_error(Some(id), ErrorCode::UnknownOutcome, message, None, true);
            }
            Ok(Placed { place, at, online }) => {
                let reference = place.cursor().map(|cursor| cursor.to_ref(&to.record().to_string()));
                let online = self.may_know_of(to).then_some(online);
                self.outbox.push(&ServerFrame::Sent { id: id.as_str(), reference, at, online });
            }
            Err(fault) if sabotage::is_off(Rule::RedisLost) && fault.code == ErrorCode::UnknownOutcome => {
                let (id, at) = (id.as_str(), UnixMillis(0));
                self.outbox.push(&ServerFrame::Sent { id, reference: None, at, online: None });
            }
            Err(fault) if sabotage::is_off(Rule::Unexpected) && fault.code == ErrorCode::UnknownOutcome => {
                self.push_error(Some(id), ErrorCode::Unavailable, &fault.message, fault.retry_ms, true);
            }
            Err(fault) => self.push_fault(id, &fault),
        }
    }

    /// Whether a sender is told that the recipient is there: of users, where he may look at them.
    fn may_know_of(&self, to: &Address) -> bool {
        let Phase::Open(session) = &self.phase else { return false };
        matches!(to, Address::User(user) | Address::Device(user, _) if session.may_look_at(user))
    }

    fn on_ack(&mut self, of: &Address, cursor: Cursor, now: Now) {
        let due = now.at.plus(self.settings.ack_ms);
        let Phase::Open(session) = &mut self.phase else { return };
        let has_device = session.device.is_some();
        // The last wins, but none goes back: tabs of one device may acknowledge out of order.
        let merge = |held: Option<(Cursor, protocol::Millis)>| match held {
            Some((held, due)) if held.epoch == cursor.epoch && held.seq >= cursor.seq => (held, due),
            held => (cursor, held.map_or(due, |(_, due)| due)),
        };
        if session.is_own_inbox(of) {
            // Without a device there is nobody to keep it for; one that was handed on already says nothing new.
            if has_device && session.inbox.acked != Some(cursor) {
                session.inbox.ack = Some(merge(session.inbox.ack));
            }
            return;
        }
        let Some(stream) = session.stream(of).filter(|stream| stream.is_alive()) else {
            let message = format!("`of`: {of} is no stream of this connection");
            return self.answer_error(None, ErrorCode::Forbidden, &message, None);
        };
        if has_device {
            let (cursor, due) = merge(stream.ack());
            stream.hold_ack(cursor, due);
            session.wake(due);
        }
    }

    /// Books a request that will be answered later; one too many is answered now.
    pub(crate) fn begin_request(&mut self, id: &MessageId) -> bool {
        if self.in_flight >= self.settings.requests_max {
            let message = "too many requests of this connection are in flight";
            self.answer_error(Some(id), ErrorCode::Overloaded, message, Some(OVERLOADED_RETRY_MS));
            return false;
        }
        self.in_flight += 1;
        true
    }

    pub(crate) fn answer_error(
        &mut self,
        id: Option<&MessageId>,
        code: ErrorCode,
        message: &str,
        retry_ms: Option<u64>,
    ) {
        self.push_error(id, code, message, retry_ms, false);
    }

    pub(crate) fn push_fault(&mut self, id: &MessageId, fault: &SendFault) {
        self.push_error(Some(id), fault.code, &fault.message, fault.retry_ms, fault.is_final);
    }

    fn push_error(
        &mut self,
        id: Option<&MessageId>,
        code: ErrorCode,
        message: &str,
        retry_ms: Option<u64>,
        is_final: bool,
    ) {
        let id = id.map(MessageId::as_str);
        self.outbox.push(&ServerFrame::Error(ErrorFrame { id, code, message, retry_ms, is_final }));
    }
}

/// The `id` of a frame that asks for an answer.
fn id_of(frame: &ClientFrame) -> Option<&MessageId> {
    match frame {
        ClientFrame::Send(send) => Some(&send.id),
        ClientFrame::Join(join) => Some(&join.id),
        ClientFrame::History(history) => Some(&history.id),
        ClientFrame::Leave { id, .. }
        | ClientFrame::Counts { id, .. }
        | ClientFrame::Receipts { id, .. }
        | ClientFrame::Presence { id, .. }
        | ClientFrame::Watch { id, .. }
        | ClientFrame::Unwatch { id, .. }
        | ClientFrame::Members { id, .. } => Some(id),
        ClientFrame::Read { id, .. } | ClientFrame::Ping { id } => id.as_ref(),
        ClientFrame::Hello(hello) => hello.id.as_ref(),
        ClientFrame::Ack { .. } => None,
    }
}
