//! Requests: when they go out, what their answers mean, when they are tried again.

use protocol::{Address, ErrorCode, GroupId, MessageId, Millis, UserId};

use super::{Answer, Core, Output, Phase, encode};
use crate::error::RequestError;
use crate::event::Event;
use crate::requests::{Ask, AskRequest, HistoryRequest, Kind, Now, Number, SendRequest, Whom};
use crate::wire::ErrorAnswer;
use crate::wire::people::Done;
use crate::wire::write::{ClientFrame, Send};

/// The pause before the next try where the server names none.
const RETRY_DEFAULT_MS: u64 = 500;

impl<T> Core<T> {
    /// Sends a message. The answer comes as an output, at once where the request makes no sense, at the latest after
    /// `deadline_ms`.
    pub fn send(&mut self, handle: T, request: SendRequest, deadline_ms: u64, now: Now) {
        match self.check_send(&request) {
            Err(error) => self.outputs.push_back(Output::Answer(handle, Err(error))),
            Ok(()) => self.take(handle, Kind::Send(request), deadline_ms, now),
        }
    }

    /// Asks for history. It changes nothing, so after a reconnect it is simply asked again.
    pub fn history(&mut self, handle: T, request: HistoryRequest, deadline_ms: u64, now: Now) {
        match check_history(&request) {
            Err(error) => self.outputs.push_back(Output::Answer(handle, Err(error))),
            Ok(()) => self.take(handle, Kind::History(request), deadline_ms, now),
        }
    }

    /// Asks for anything else. After a reconnect it is asked again: a second time changes nothing.
    pub fn ask(&mut self, handle: T, request: AskRequest, deadline_ms: u64, now: Now) {
        match check_ask(&request) {
            Err(error) => self.outputs.push_back(Output::Answer(handle, Err(error))),
            Ok(()) => self.take(handle, Kind::Ask(request), deadline_ms, now),
        }
    }

    /// Requests without an answer.
    pub fn request_count(&self) -> usize {
        self.requests.len()
    }

    fn check_send(&self, request: &SendRequest) -> Result<(), RequestError> {
        check_id(&request.id)?;
        let to = check_address(&request.to)?;
        request.body.check()?;
        if request.expires_ms == Some(0) {
            return Err(RequestError::Invalid("expires_ms: expected at least 1, got 0".to_owned()));
        }
        if !request.ephemeral {
            return match to {
                Address::Device(..) => Err(RequestError::Invalid(
                    "one device takes ephemeral messages only: expected user:ID, or an ephemeral message".to_owned(),
                )),
                _ => Ok(()),
            };
        }
        if request.retry_age_ms.is_some() {
            return Err(RequestError::Invalid("an ephemeral message is kept nowhere, so it has no retry".to_owned()));
        }
        match self.phase {
            Phase::Open(_) if self.bye.is_none() => Ok(()),
            Phase::Stopped => Err(RequestError::Stopped),
            _ => Err(RequestError::NotConnected),
        }
    }

    fn take(&mut self, handle: T, kind: Kind, deadline_ms: u64, now: Now) {
        if self.leaving || self.phase == Phase::Stopped {
            self.outputs.push_back(Output::Answer(handle, Err(RequestError::Stopped)));
            return;
        }
        let id = kind.id().to_owned();
        match self.requests.push(Some(handle), kind, now.monotonic.plus(deadline_ms)) {
            Ok(_) => self.pump(now),
            Err(handle) => {
                let error = RequestError::Invalid(format!("a request with the id {id:?} has no answer yet"));
                self.outputs.extend(handle.map(|handle| Output::Answer(handle, Err(error))));
            }
        }
    }

    /// A new connection watches nobody. How those are who were watched is told as an event, because they may have come
    /// and gone meanwhile.
    pub(super) fn watch_again(&mut self) {
        for (number, whom) in self.watches.all().into_iter().enumerate() {
            let request = AskRequest { id: format!("watch again {number}"), ask: Ask::Watch(whom) };
            // It waits as long as the connection lives; an equal one of the connection before was dropped with it.
            let _ = self.requests.push(None, Kind::Ask(request), Millis(u64::MAX));
        }
    }

    /// Writes what may be written, oldest first.
    pub(super) fn pump(&mut self, now: Now) {
        self.requests.wake(now.monotonic);
        let Phase::Open(session) = &self.phase else { return };
        let bytes_max = session.bytes_max;
        match self.hold_until {
            Some(until) if until > now.monotonic => return,
            _ => self.hold_until = None,
        }
        // What is written behind a goodbye is thrown away by the other side.
        if self.bye.is_some() || self.leaving || self.given_up {
            return;
        }
        while self.requests.written_count() < self.in_flight_max()
            && let Some(number) = self.requests.first_ready()
        {
            self.write(number, bytes_max, now);
        }
    }

    /// One at a time while the culprit for an ended connection is among the oldest.
    fn in_flight_max(&mut self) -> usize {
        match (self.careful_until, self.requests.first()) {
            (Some(until), Some(first)) if first <= until => 1,
            _ => {
                self.careful_until = None;
                self.settings.in_flight_max.max(1)
            }
        }
    }

    fn write(&mut self, number: Number, bytes_max: u64, now: Now) {
        let Some(request) = self.requests.get(number) else { return };
        let frame = match &request.kind {
            Kind::Send(send) => ClientFrame::Send(Send {
                id: &send.id,
                to: &send.to,
                body: &send.body,
                ephemeral: send.ephemeral,
                echo: send.echo,
                expires_ms: send.expires_ms,
                retry_age_ms: request.retry_age_ms(now),
                replicated: send.replicated,
            }),
            Kind::History(ask) => ClientFrame::History {
                id: &ask.id,
                of: &ask.of,
                with: ask.with.as_deref(),
                before: ask.before.as_deref(),
                limit: ask.limit,
            },
            Kind::Ask(request) => ClientFrame::Ask { id: &request.id, ask: &request.ask },
        };
        let frame = encode(self.settings.encoding, &frame);
        let bytes = frame.len() as u64;
        if bytes > bytes_max {
            // The server would close with 1009, and everything else on this connection would suffer for it.
            self.answer(number, Err(RequestError::TooLarge { bytes, bytes_max }));
            return;
        }
        self.requests.mark_written(number, now);
        self.outputs.push_back(Output::Write(frame));
    }

    pub(super) fn on_answer(&mut self, id: &str, answer: Answer) {
        if let Some(number) = self.requests.by_id(id) {
            self.answer(number, Ok(answer));
        }
    }

    pub(super) fn on_done(&mut self, done: Done) {
        let Some(number) = self.requests.by_id(&done.id) else { return };
        if let Some(Kind::Ask(request)) = self.requests.get(number).map(|request| &request.kind) {
            match request.ask.clone() {
                Ask::Join { group, .. } => {
                    if let Some(cursor) = &done.cursor {
                        self.streams.begin(&format!("group:{group}"), cursor);
                    }
                }
                Ask::Leave { group } => self.end_stream(&group),
                Ask::Watch(whom) => self.watches.add(&whom),
                Ask::Unwatch(whom) => self.watches.remove(&whom),
                _ => {}
            }
        }
        self.answer(number, Ok(Answer::Done(done)));
    }

    pub(super) fn on_error(&mut self, error: ErrorAnswer, now: Now) {
        let Some(number) = error.id.as_deref().and_then(|id| self.requests.by_id(id)) else {
            self.outputs.push_back(Output::Deliver(Event::Error(error)));
            return;
        };
        let is_ephemeral = self.requests.get(number).is_some_and(|request| request.kind.is_ephemeral());
        let until = now.monotonic.plus(error.retry_ms.unwrap_or(RETRY_DEFAULT_MS));
        let ErrorAnswer { code, message, is_final, .. } = error;
        match ErrorCode::from_name(&code) {
            // It left at the first asking, whose answer was lost with its connection.
            Some(ErrorCode::NotFound) if self.was_leaving(number) => {
                let id = self.requests.get(number).map(|request| request.kind.id().to_owned()).unwrap_or_default();
                self.on_done(Done { id, cursor: None, online: None });
            }
            Some(ErrorCode::UnknownOutcome) if is_ephemeral => self.answer(number, Err(RequestError::Lost)),
            Some(ErrorCode::UnknownOutcome) if is_final => {
                self.answer(number, Err(RequestError::UnknownOutcome { message }));
            }
            Some(ErrorCode::RateLimited) if !is_ephemeral => {
                // Not executed, so what was a first try stays one. Others would only meet the same limit.
                self.requests.delay(number, until);
                self.hold_until = Some(until.max(self.hold_until.unwrap_or_default()));
            }
            Some(ErrorCode::Overloaded | ErrorCode::Unavailable | ErrorCode::UnknownOutcome) if !is_ephemeral => {
                if let Some(request) = self.requests.get_mut(number) {
                    request.maybe_done = true;
                }
                self.requests.delay(number, until);
            }
            _ => self.answer(number, Err(RequestError::Rejected { code, message })),
        }
    }

    fn was_leaving(&self, number: Number) -> bool {
        let request = self.requests.get(number);
        request.is_some_and(|request| {
            request.maybe_done && matches!(&request.kind, Kind::Ask(AskRequest { ask: Ask::Leave { .. }, .. }))
        })
    }

    /// The connection is gone. What was out is asked again on the next one, as a retry; but ephemeral messages are never
    /// sent twice, and the frame that `blamed` is about is never sent again.
    pub(super) fn take_back(&mut self, blamed: Option<u16>) {
        self.drop_own();
        let written = self.requests.written();
        match (blamed, &*written) {
            (Some(close_code), [one]) => {
                self.answer(*one, Err(RequestError::Refused { close_code }));
                return self.drop_ephemeral();
            }
            // It is one of these, and nothing says which. Sent one at a time, the next such close tells.
            (Some(_), [_, .., last]) => self.careful_until = Some(*last),
            _ => {}
        }
        for number in written {
            if let Some(request) = self.requests.get_mut(number)
                && !request.kind.is_ephemeral()
            {
                request.maybe_done = true;
                self.requests.make_ready(number);
            } else {
                self.answer(number, Err(RequestError::Lost));
            }
        }
        self.drop_ephemeral();
    }

    /// What the session asked for itself belongs to the connection.
    fn drop_own(&mut self) {
        let is_own = |number: &Number| self.requests.get(*number).is_some_and(|request| request.handle.is_none());
        let numbers: Vec<Number> = self.requests.numbers().into_iter().filter(is_own).collect();
        numbers.into_iter().for_each(|number| drop(self.requests.remove(number)));
    }

    /// What was never written and is not kept for later.
    fn drop_ephemeral(&mut self) {
        let is_ephemeral = |number: &Number| self.requests.get(*number).is_some_and(|r| r.kind.is_ephemeral());
        let numbers: Vec<Number> = self.requests.numbers().into_iter().filter(is_ephemeral).collect();
        for number in numbers {
            self.answer(number, Err(RequestError::NotConnected));
        }
    }

    pub(super) fn expire(&mut self, now: Now) {
        for number in self.requests.expired(now.monotonic) {
            let is_out = self.requests.get(number).is_some_and(|request| request.is_out());
            self.answer(number, Err(RequestError::Deadline { maybe_stored: is_out }));
        }
    }

    pub(super) fn answer(&mut self, number: Number, result: Result<Answer, RequestError>) {
        let Some(request) = self.requests.remove(number) else { return };
        match (request.handle, result) {
            (Some(handle), result) => self.outputs.push_back(Output::Answer(handle, result)),
            (None, Ok(Answer::Done(Done { online: Some(online), .. }))) => self.deliver(Event::Presence(online)),
            (None, Err(RequestError::Rejected { code, message })) => {
                // Not allowed any more: it will not be next time either.
                if let Kind::Ask(AskRequest { ask: Ask::Watch(whom), .. }) = &request.kind {
                    self.watches.remove(whom);
                }
                self.deliver(Event::Error(ErrorAnswer { id: None, code, message, retry_ms: None, is_final: false }));
            }
            (None, _) => {}
        }
    }
}

fn check_history(request: &HistoryRequest) -> Result<(), RequestError> {
    check_id(&request.id)?;
    check_address(&request.of)?;
    request.with.as_deref().map_or(Ok(()), |with| check_address(with).map(drop))
}

fn check_ask(request: &AskRequest) -> Result<(), RequestError> {
    check_id(&request.id)?;
    match &request.ask {
        Ask::Join { group, .. } | Ask::Leave { group } | Ask::Members { group, .. } => check_group(group),
        Ask::Counts { of, with } | Ask::Read { of, with, .. } => {
            check_address(of)?;
            with.as_deref().map_or(Ok(()), |with| check_address(with).map(drop))
        }
        Ask::Receipts { .. } => Ok(()),
        Ask::Presence(whom) | Ask::Watch(whom) | Ask::Unwatch(whom) => match whom {
            Whom::Group(group) => check_group(group),
            Whom::Users(users) => users.iter().try_for_each(|user| {
                let checked = UserId::parse(user).map(drop);
                checked.map_err(|e| RequestError::Invalid(format!("{user:?} is no user: {e}")))
            }),
        },
    }
}

fn check_group(group: &str) -> Result<(), RequestError> {
    GroupId::parse(group).map(drop).map_err(|e| RequestError::Invalid(format!("{group:?} is no group: {e}")))
}

fn check_id(id: &str) -> Result<(), RequestError> {
    MessageId::parse(id).map(drop).map_err(|e| RequestError::Invalid(format!("{id:?} is no id: {e}")))
}

fn check_address(text: &str) -> Result<Address, RequestError> {
    Address::parse(text).map_err(|e| RequestError::Invalid(format!("{text:?} is no address: {e}")))
}
