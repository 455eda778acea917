//! What an open connection may ask, and its answers: every `id` is answered exactly once.

use delivery::sabotage::{self, Rule};
use delivery::{Place, Placed};
use protocol::client::{ClientFrame, ErrorFrame, FrameError, HistoryFrame, Send, ServerFrame};
use protocol::{Address, CloseCode, Cursor, ErrorCode, MessageId, UnixMillis};

use crate::connection::{Connection, Phase};
use crate::io::{HistoryFault, Listing, Message, Now, Request, SendFault};
use crate::rate::Verdict;

/// Histories in flight: each may be 256 KiB, and more in the other encoding.
const HISTORIES_MAX: usize = 2;
/// When to send again what found a full queue.
const OVERLOADED_RETRY_MS: u64 = 200;
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
            Ok(ClientFrame::History { id, of, before, limit }) => self.on_ask_history(id, of, before, limit),
            Ok(ClientFrame::Ping { id }) => {
                self.outbox.push(&ServerFrame::Pong { id: id.as_ref().map(MessageId::as_str) });
            }
        }
    }

    fn on_send(&mut self, send: Send) {
        let Phase::Open(session) = &self.phase else { return };
        let from = Address::User(session.user.clone());
        if !matches!(send.to, Address::User(_) | Address::Device(..)) {
            let message =
                format!("`to`: expected user:ID or user:ID/DEVICE, got {}; this version delivers to users", send.to);
            return self.answer_error(Some(&send.id), ErrorCode::BadRequest, &message, None);
        }
        if !self.begin_request(&send.id) {
            return;
        }
        let Send { id, to, body, ephemeral, retry_age_ms, expires_ms, replicated } = send;
        let message = Message { id, to, from, body, expires_ms };
        let retry_age_ms = retry_age_ms.filter(|_| !sabotage::is_off(Rule::Duplicated));
        let replicated = replicated && !sabotage::is_off(Rule::LostReplicated);
        if ephemeral {
            self.counts.sends_ephemeral += 1;
            self.request(Request::Publish(message));
        } else {
            self.counts.sends_durable += 1;
            let late_ms = self.heartbeat.late_ms().filter(|_| !sabotage::is_off(Rule::Duplicated));
            self.request(Request::Append { message, retry_age_ms, late_ms, replicated });
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
                self.outbox.push(&ServerFrame::Sent { id: id.as_str(), reference, at, online: Some(online) });
            }
            Err(fault) if sabotage::is_off(Rule::RedisLost) && fault.code == ErrorCode::UnknownOutcome => {
                let (id, at) = (id.as_str(), UnixMillis(0));
                self.outbox.push(&ServerFrame::Sent { id, reference: None, at, online: None });
            }
            Err(fault) if sabotage::is_off(Rule::Unexpected) && fault.code == ErrorCode::UnknownOutcome => {
                self.push_error(Some(id), ErrorCode::Unavailable, &fault.message, fault.retry_ms, true);
            }
            Err(fault) => self.push_error(Some(id), fault.code, &fault.message, fault.retry_ms, fault.is_final),
        }
    }

    fn on_ack(&mut self, of: &Address, cursor: Cursor, now: Now) {
        let due = now.at.plus(self.settings.ack_ms);
        let Phase::Open(session) = &mut self.phase else { return };
        let has_device = session.device.is_some();
        let Some(stream) = session.by_address(of) else {
            let message = format!("`of`: {of} is no stream of this connection");
            return self.answer_error(None, ErrorCode::Forbidden, &message, None);
        };
        // Without a device there is nobody to keep it for; one that was handed on already says nothing new.
        if has_device && stream.acked != Some(cursor) {
            // The last wins, but none goes back: tabs of one device may acknowledge out of order.
            let held = stream.ack.filter(|(held, _)| held.epoch == cursor.epoch && held.seq >= cursor.seq);
            let due = stream.ack.map_or(due, |(_, first)| first);
            stream.ack = Some((held.map_or(cursor, |(held, _)| held), due));
        }
    }

    fn on_ask_history(&mut self, id: MessageId, of: Address, before: Option<Cursor>, limit: u64) {
        let Phase::Open(session) = &mut self.phase else { return };
        if session.by_address(&of).is_none() {
            let message = format!("`of`: {of} is not yours to read");
            return self.answer_error(Some(&id), ErrorCode::Forbidden, &message, None);
        }
        // A history may be large: as many as are asked for at once would be more than any queue.
        if self.histories >= HISTORIES_MAX || self.outbox.is_full() {
            let message = "a history of this connection is on its way already";
            return self.answer_error(Some(&id), ErrorCode::Overloaded, message, Some(OVERLOADED_RETRY_MS));
        }
        if self.begin_request(&id) {
            self.histories += 1;
            self.request(Request::History { id, of, before, limit });
        }
    }

    pub(crate) fn on_history(&mut self, id: &MessageId, result: Result<Listing, HistoryFault>, now: Now) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.histories = self.histories.saturating_sub(1);
        match result {
            Ok(Listing { mut entries, more }) => {
                entries.retain(|entry| !entry.envelope.is_expired(entry.at(), now.wall()));
                self.outbox.push(&ServerFrame::History(HistoryFrame { id: id.as_str(), messages: &entries, more }));
            }
            Err(HistoryFault::Before) => {
                let message = "`before`: expected a cursor of this stream";
                self.answer_error(Some(id), ErrorCode::BadRequest, message, None);
            }
            Err(HistoryFault::Unavailable) => {
                let message = "the backplane cannot be reached";
                self.answer_error(Some(id), ErrorCode::Unavailable, message, Some(UNAVAILABLE_RETRY_MS));
            }
        }
    }

    /// Books a request that will be answered later; one too many is answered now.
    fn begin_request(&mut self, id: &MessageId) -> bool {
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
        ClientFrame::History { id, .. } => Some(id),
        ClientFrame::Ping { id } => id.as_ref(),
        ClientFrame::Hello(hello) => hello.id.as_ref(),
        ClientFrame::Ack { .. } => None,
    }
}
