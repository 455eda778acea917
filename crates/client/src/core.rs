//! The rules of one client session over all its connections, without a socket, a clock, a runtime or chance.
//!
//! How to drive it: call the method for what happened (`on_*`, or a command of the application), then take every
//! [`Core::poll_output`], then wait until [`Core::deadline`] at most and call [`Core::on_timer`]. `T` is whatever names the
//! asker of a request; it comes back with the answer, exactly once.
//!
//! The rules are docs/protocol.md: "Opening" for cursors and resets, "Liveness and leaving" for everything about ends.

use std::collections::VecDeque;

use protocol::{Encoding, Millis};

use crate::acks::Acks;
use crate::backoff::Backoff;
use crate::error::{RequestError, StopReason};
use crate::event::Event;
use crate::leaving::{Verdict, blames_frame, judge};
use crate::requests::{Now, Number, Requests};
use crate::wire::people::{Counts, Done, Members, Presence, Receipts};
use crate::wire::write::{ClientFrame, Hello, StartFrom};
use crate::wire::{self, Bye, History, Message, Sent, ServerEvent, Welcome};

mod asking;
mod following;
mod session;
mod streams;
mod watches;

use session::{Session, Silence};
use streams::Streams;
use watches::Watches;

/// A connection that lasted so long has proven itself: the next pause is a short one again. Below that, a server that
/// welcomes and closes at once would be asked without pause.
const STABLE_MS: u64 = 5_000;

/// What a session is made of. Times in milliseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    pub encoding: Encoding,
    pub device: Option<String>,
    /// There is a source of new tokens; without one an expired token ends the session.
    pub renews_token: bool,
    pub from: Option<StartFrom>,
    /// Close other connections of the same device.
    pub exclusive: bool,
    /// Take arrays of frames.
    pub batch: bool,
    /// Where each stream goes on, newest first.
    pub cursors: Vec<(String, Vec<String>)>,
    /// From the opened socket to `welcome`.
    pub open_timeout_ms: u64,
    pub backoff_base_ms: u64,
    pub backoff_cap_ms: u64,
    /// Requests that are out without an answer; more wait here.
    pub in_flight_max: usize,
}

/// What the driver does next.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an output that is thrown away is a lost message or answer"]
pub enum Output<T> {
    /// Write this frame to the socket.
    Write(Vec<u8>),
    /// Write a WebSocket ping: a server that lives answers it.
    Ping,
    /// Hand this to the application; never drop it.
    Deliver(Event),
    /// Hand this to the asker.
    Answer(T, Result<Answer, RequestError>),
    /// The connection is worth nothing any more: drop the socket, and call [`Core::on_close`] with this reason.
    GiveUp { reason: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Sent(Sent),
    History(History),
    Done(Done),
    Counts(Counts),
    Receipts(Receipts),
    Presence(Presence),
    Members(Members),
}

/// How a connection, or the attempt at one, ended as far as the socket tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// The code of the server's close frame.
    pub code: Option<u16>,
    pub reason: String,
}

/// What follows the end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Stop(StopReason),
    /// Open the next connection after `after_ms`; with a new token, if `new_token`.
    Again {
        after_ms: u64,
        new_token: bool,
    },
}

#[derive(Debug)]
pub struct Core<T> {
    settings: Settings,
    phase: Phase,
    /// The own user's ID, known since the first welcome.
    user: String,
    streams: Streams,
    /// Who is watched; a new connection knows nothing of it.
    watches: Watches,
    acks: Acks,
    requests: Requests<T>,
    /// The server asked for a pause: no request goes out before.
    hold_until: Option<Millis>,
    /// Requests up to this one go out one at a time, because one of them ended a connection.
    careful_until: Option<Number>,
    backoff: Backoff,
    /// The server has announced its close.
    bye: Option<Bye>,
    /// [`Output::GiveUp`] is out: nothing of this connection counts any more.
    given_up: bool,
    /// This side has announced its close.
    leaving: bool,
    /// The connection before this one, if it ended without a word: its remains on the server are to be replaced.
    takes_over: Option<String>,
    outputs: VecDeque<Output<T>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// No connection.
    Away,
    /// `hello` is out.
    Opening {
        give_up: Millis,
    },
    Open(Session),
    /// Never again.
    Stopped,
}

impl<T> Core<T> {
    pub fn new(settings: Settings) -> Self {
        Self {
            streams: Streams::kept(&settings.cursors),
            backoff: Backoff::new(settings.backoff_base_ms, settings.backoff_cap_ms),
            settings,
            phase: Phase::Away,
            user: String::new(),
            watches: Watches::default(),
            acks: Acks::default(),
            requests: Requests::new(),
            hold_until: None,
            careful_until: None,
            bye: None,
            given_up: false,
            leaving: false,
            takes_over: None,
            outputs: VecDeque::new(),
        }
    }

    pub fn poll_output(&mut self) -> Option<Output<T>> {
        self.outputs.pop_front()
    }

    /// The WebSocket is open: says `hello`.
    pub fn on_open(&mut self, token: Option<&str>, now: Now) {
        self.bye = None;
        self.given_up = false;
        self.phase = Phase::Opening { give_up: now.monotonic.plus(self.settings.open_timeout_ms) };
        let hello = Hello {
            token,
            device: self.settings.device.as_deref(),
            cursors: self.streams.cursors(),
            from: self.settings.from,
            takes_over: self.takes_over.as_deref(),
            exclusive: self.settings.exclusive,
            batch: self.settings.batch,
        };
        let frame = encode(self.settings.encoding, &ClientFrame::Hello(hello));
        self.outputs.push_back(Output::Write(frame));
    }

    /// Something that is no frame came: a ping or a pong.
    pub fn on_traffic(&mut self, now: Now) {
        if let Phase::Open(session) = &mut self.phase {
            session.on_traffic(now.monotonic);
        }
    }

    /// Whether the socket is read at all. While it is not, silence counts for nothing.
    pub fn on_reading(&mut self, reading: bool, now: Now) {
        if let Phase::Open(session) = &mut self.phase {
            session.on_reading(reading, now.monotonic);
        }
    }

    /// One WebSocket message came.
    pub fn on_frame(&mut self, frame: &[u8], now: Now) {
        if self.given_up {
            return;
        }
        self.on_traffic(now);
        match wire::read(self.settings.encoding, frame) {
            Ok(events) => events.into_iter().for_each(|event| self.on_event(event, now)),
            Err(e) => self.give_up(format!("what the server sent is no frame: {e}")),
        }
        self.pump(now);
    }

    fn on_event(&mut self, event: ServerEvent, now: Now) {
        match event {
            ServerEvent::Welcome(welcome) => self.on_welcome(welcome, now),
            ServerEvent::Stream(stream) => {
                self.start_stream(&stream);
                self.deliver(Event::Stream(stream));
            }
            ServerEvent::Message(message) => self.on_message(message),
            ServerEvent::Reset(reset) => self.on_reset(reset),
            ServerEvent::Sent(sent) => self.on_answer(&sent.id.clone(), Answer::Sent(sent)),
            ServerEvent::History(history) => self.on_answer(&history.id.clone(), Answer::History(history)),
            ServerEvent::Done(done) => self.on_done(done),
            ServerEvent::Counts(counts) => self.on_answer(&counts.id.clone(), Answer::Counts(counts)),
            ServerEvent::Receipts(receipts) => self.on_answer(&receipts.id.clone(), Answer::Receipts(receipts)),
            ServerEvent::Presence(presence) => self.on_answer(&presence.id.clone(), Answer::Presence(presence)),
            ServerEvent::Members(members) => self.on_answer(&members.id.clone(), Answer::Members(members)),
            ServerEvent::PresenceChange(change) => self.deliver(Event::PresenceChange(change)),
            ServerEvent::MemberChange(change) => self.on_member_change(change),
            ServerEvent::ReadChange(change) => self.deliver(Event::ReadChange(change)),
            ServerEvent::Error(error) => self.on_error(error, now),
            ServerEvent::Bye(bye) => self.bye = Some(bye),
            // A pong has done its work by coming; what is unknown is for a newer client.
            ServerEvent::Pong { .. } | ServerEvent::Unknown { .. } => {}
        }
    }

    fn on_welcome(&mut self, welcome: Welcome, now: Now) {
        self.user.clone_from(&welcome.user);
        self.takes_over = None;
        self.phase = Phase::Open(Session::new(&welcome, now.monotonic));
        welcome.streams.iter().for_each(|stream| self.start_stream(stream));
        self.deliver(Event::Welcome(welcome));
        self.watch_again();
        self.acks.say_again();
        self.flush_acks(now);
    }

    /// The connection has ended, or could not be made. `chance` is drawn evenly from 0 to 1.
    pub fn on_close(&mut self, ending: Ending, now: Now, chance: f64) -> Next {
        let bye = self.bye.take();
        let bye_code = bye.as_ref().map(|bye| bye.code);
        if let Phase::Open(session) = &self.phase {
            if session.age_ms(now) >= STABLE_MS {
                self.backoff.reset();
            }
            let is_silent = bye_code.or(ending.code).is_none() && !session.connection.is_empty();
            self.takes_over = is_silent.then(|| session.connection.clone());
        }
        self.phase = Phase::Away;
        self.hold_until = None;
        self.take_back(blames_frame(bye_code, ending.code));
        let (reason, reconnect_ms) = match bye {
            Some(bye) => (bye.reason, bye.reconnect_ms),
            None => (ending.reason, None),
        };
        let new_token = match judge(bye_code, ending.code) {
            _ if self.leaving => return self.stop(StopReason::Own),
            Verdict::Stop { code } => return self.stop(StopReason::Closed { code, reason }),
            Verdict::Again { new_token: true } if !self.settings.renews_token => {
                return self.stop(StopReason::NoToken("the server says that it has expired".to_owned()));
            }
            Verdict::Again { new_token } => new_token,
        };
        let after_ms = reconnect_ms.unwrap_or_else(|| self.backoff.next_ms(chance));
        self.deliver(Event::Disconnected { code: bye_code.or(ending.code), reason, again_ms: after_ms });
        Next::Again { after_ms, new_token }
    }

    /// The application closes: no new request is taken, what is unanswered is answered [`RequestError::Stopped`] when
    /// the connection has ended. The driver closes the socket after the outputs.
    pub fn leave(&mut self) {
        self.leaving = true;
        if matches!(self.phase, Phase::Open(_)) {
            self.write_acks();
        }
    }

    /// Ends the session for good.
    pub fn stop(&mut self, reason: StopReason) -> Next {
        self.phase = Phase::Stopped;
        for number in self.requests.numbers() {
            self.answer(number, Err(RequestError::Stopped));
        }
        self.deliver(Event::Stopped(reason.clone()));
        Next::Stop(reason)
    }

    /// Everything up to `cursor` of stream `of` has been handled.
    pub fn ack(&mut self, of: &str, cursor: &str, now: Now) {
        self.acks.set(of, cursor);
        self.flush_acks(now);
    }

    /// As [`Core::ack`], for a message; an ephemeral one has no place to acknowledge.
    pub fn ack_message(&mut self, message: &Message, now: Now) {
        if let Some(cursor) = &message.cursor {
            self.ack(&message.stream(&self.user), cursor, now);
        }
    }

    fn flush_acks(&mut self, now: Now) {
        if matches!(self.phase, Phase::Open(_)) && self.acks.due().is_some_and(|due| due <= now.monotonic) {
            self.write_acks();
            self.acks.written(now.monotonic);
        }
    }

    fn write_acks(&mut self) {
        for (of, cursor) in self.acks.take() {
            let frame = encode(self.settings.encoding, &ClientFrame::Ack { of: &of, cursor: &cursor });
            self.outputs.push_back(Output::Write(frame));
        }
    }

    /// When [`Core::on_timer`] is due; `None`: whenever something else happens.
    pub fn deadline(&self) -> Option<Millis> {
        let session = match &self.phase {
            _ if self.given_up => None,
            Phase::Open(session) => session.deadline(),
            Phase::Opening { give_up } => Some(*give_up),
            Phase::Away | Phase::Stopped => None,
        };
        let is_open = matches!(self.phase, Phase::Open(_));
        let acks = if is_open { self.acks.due() } else { None };
        let hold = if is_open { self.hold_until } else { None };
        [session, acks, hold, self.requests.deadline()].into_iter().flatten().min()
    }

    pub fn on_timer(&mut self, now: Now) {
        if !self.given_up {
            self.check_silence(now.monotonic);
        }
        self.flush_acks(now);
        self.expire(now);
        self.pump(now);
    }

    fn check_silence(&mut self, now: Millis) {
        match &mut self.phase {
            Phase::Opening { give_up } if *give_up <= now => {
                let reason = format!("no welcome within {} ms", self.settings.open_timeout_ms);
                self.give_up(reason);
            }
            Phase::Open(session) => match session.silence(now) {
                Silence::Normal => {}
                Silence::Ask => self.outputs.push_back(Output::Ping),
                Silence::Dead { silent_ms } => {
                    self.give_up(format!("nothing came for {silent_ms} ms, which is two heartbeats"));
                }
            },
            _ => {}
        }
    }

    fn give_up(&mut self, reason: String) {
        self.given_up = true;
        self.outputs.push_back(Output::GiveUp { reason });
    }

    fn deliver(&mut self, event: Event) {
        self.outputs.push_back(Output::Deliver(event));
    }
}

fn encode(encoding: Encoding, frame: &ClientFrame<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    frame.encode(encoding, &mut out);
    out
}

#[cfg(test)]
mod tests;
