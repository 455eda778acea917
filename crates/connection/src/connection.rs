//! The connection itself: phases, inputs, deadlines, and the way of a message to the socket.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use protocol::client::{Bye, Codec, ServerFrame, WireFrame};
use protocol::{Address, CloseCode, ConnectionId, DeviceId, Encoding, HandOver, Millis, UserId};

use crate::counts::{Counts, PullCause};
use crate::heartbeat::{Beat, Heartbeat};
use crate::io::{Input, Now, Opening, Settings};
use crate::opening::{Attaching, Authenticating, Greeting};
use crate::outbox::Outbox;
use crate::output::{Output, Request};
use crate::rate::RateLimiter;
use crate::session::Session;

/// What goes to the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    Frame(WireFrame),
    /// A WebSocket ping.
    Ping,
}

/// One connection. After every [`Connection::handle`] and every [`Connection::poll_transmit`]: drain
/// [`Connection::poll_output`], then sleep until [`Connection::deadline`].
#[derive(Debug)]
pub struct Connection {
    pub(crate) settings: Arc<Settings>,
    pub(crate) id: ConnectionId,
    pub(crate) codec: Codec,
    pub(crate) phase: Phase,
    pub(crate) outbox: Outbox,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) rate: RateLimiter,
    /// Requests with an id that are not answered yet.
    pub(crate) in_flight: usize,
    /// Histories among them.
    pub(crate) histories: usize,
    pub(crate) counts: Counts,
    ping_due: bool,
    /// Since when the client takes less than it gets.
    full_since: Option<Millis>,
}

#[derive(Debug)]
pub(crate) enum Phase {
    /// Waiting for `hello`.
    Greeting(Box<Greeting>),
    /// The credentials are being checked.
    Authenticating(Box<Authenticating>),
    /// The own inbox is being attached.
    Attaching(Box<Attaching>),
    Open(Box<Session>),
    Closed,
}

impl Connection {
    /// A connection whose upgrade has just been answered.
    pub fn new(settings: Arc<Settings>, id: ConnectionId, opening: Opening, now: Now) -> Self {
        let codec = opening.codec;
        let mut connection = Self {
            id,
            codec,
            outbox: Outbox::new(codec, settings.queue_bytes),
            outputs: VecDeque::new(),
            heartbeat: Heartbeat::new(settings.heartbeat_ms, now.at),
            rate: RateLimiter::new(settings.rate, now.at),
            in_flight: 0,
            histories: 0,
            counts: Counts::default(),
            ping_due: false,
            full_since: None,
            phase: Phase::Closed,
            settings,
        };
        connection.greet(opening, now);
        connection
    }

    /// Takes one input. Never waits.
    pub fn handle(&mut self, input: Input, now: Now) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        match input {
            Input::Text(bytes) => self.on_message(Encoding::Json, &bytes, now),
            Input::Binary(bytes) => self.on_message(Encoding::MessagePack, &bytes, now),
            Input::Activity => self.heartbeat.hear(now.at),
            Input::Broken(code) => self.close(code, code.as_str()),
            Input::Gone => self.end(),
            Input::Authenticated(result) => self.on_authenticated(result),
            Input::Attached { of, result } => match (&self.phase, &of) {
                (Phase::Attaching(_), _) => self.on_first_page(result, now),
                (_, Address::User(_)) => self.on_attached(result, now),
                _ => self.on_stream_page(&of, result, now),
            },
            Input::Verified { result, .. } => self.on_verified(result, now),
            Input::Seated { of, result } => self.on_seated(&of, result, now),
            Input::HeadAt { of, cursor } => self.on_head_at(&of, cursor),
            Input::Doubt { of } => self.on_record_doubt(&of),
            Input::Ended { of, mseq } => self.on_ended(&of, mseq, now.at),
            Input::Shared(shared) => self.on_shared(&shared, now),
            Input::Joined { id, group, result } => self.on_joined(id, group, result),
            Input::Left { id, group, result } => self.on_left(&id, group, result),
            Input::Groups { result } => self.on_groups(result, now),
            Input::Answered { id, result } => self.on_answered(&id, result),
            Input::Marked { of, with, cursor, result } => self.on_marked(&of, with, cursor, result),
            Input::Presence { user, version, is_online, at } => self.on_presence(user, version, is_online, at),
            Input::HandOver(why) => self.on_hand_over(why),
            Input::Appended { id, to, result } => self.on_appended(&id, &to, result),
            Input::History { id, result } => self.on_history(&id, result, now),
            Input::Live { record, version, live } => self.on_live(&record, version, &live, now),
            Input::Dirty => self.on_doubt(PullCause::Dirty),
            Input::Generation => self.on_generation(),
            Input::TooMany => self.close(CloseCode::TooManyConnections, "this user has too many connections"),
            Input::Drain { reconnect_ms } => {
                self.close_with(CloseCode::Draining, "the node is being stopped", Some(reconnect_ms))
            }
            Input::Timer => self.on_timer(now),
        }
        self.ask_pages();
        if self.outbox.is_full() {
            self.full_since.get_or_insert(now.at);
        }
    }

    /// The next thing for the shell to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next thing for the socket; to be asked for only while the socket takes it.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if std::mem::take(&mut self.ping_due) {
            return Some(Transmit::Ping);
        }
        let frame = self.outbox.pop()?;
        if self.outbox.has_room() {
            self.full_since = None;
            self.resume();
        }
        Some(Transmit::Frame(frame))
    }

    /// When [`Input::Timer`] is due.
    pub fn deadline(&self) -> Option<Millis> {
        let own = match &self.phase {
            Phase::Closed => return None,
            Phase::Greeting(greeting) => greeting.deadline,
            Phase::Authenticating(_) | Phase::Attaching(_) => self.heartbeat.deadline(),
            Phase::Open(session) => {
                let inbox = session.inbox.deadline();
                session.due.map_or(inbox, |due| due.min(inbox))
            }
        };
        let stuck = self.full_since.map_or(own, |since| since.plus(self.settings.stuck_ms));
        Some(own.min(stuck).min(self.heartbeat.deadline()))
    }

    /// False while the client has to wait: during the opening, with too many requests in flight, and while it does not
    /// read what it gets. The shell then leaves its bytes in the socket.
    pub fn wants_input(&self) -> bool {
        let is_open = matches!(self.phase, Phase::Greeting(_) | Phase::Open(_));
        is_open && !self.outbox.is_full() && self.in_flight < self.settings.requests_max
    }

    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The user and device, once they are known.
    pub fn who(&self) -> Option<(&UserId, Option<&DeviceId>)> {
        match &self.phase {
            Phase::Attaching(attaching) => Some((&attaching.user, attaching.device.as_ref())),
            Phase::Open(session) => Some((&session.user, session.device.as_ref())),
            _ => None,
        }
    }

    /// Bytes that wait for the socket.
    pub fn queued_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// Takes what has happened since the last time.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    pub(crate) fn request(&mut self, request: Request) {
        self.outputs.push_back(Output::Request(request));
    }

    /// Says goodbye and closes.
    pub(crate) fn close(&mut self, code: CloseCode, reason: &str) {
        // Spread by the connection's random id, so that those who are closed together do not come back together.
        let reconnect_ms = code.is_retryable().then_some(500 + self.id.0 % 1_500);
        self.close_with(code, reason, reconnect_ms);
    }

    fn close_with(&mut self, code: CloseCode, reason: &str, reconnect_ms: Option<u64>) {
        self.outbox.push(&ServerFrame::Bye(Bye { code, reason, reconnect_ms }));
        self.hand_on_acks();
        self.outputs.push_back(Output::Close(Some(code)));
        self.phase = Phase::Closed;
    }

    /// The socket is gone.
    fn end(&mut self) {
        self.hand_on_acks();
        self.outputs.push_back(Output::Close(None));
        self.phase = Phase::Closed;
    }

    /// Another connection has this one's place, and has what follows.
    pub(crate) fn on_hand_over(&mut self, why: HandOver) {
        match why {
            // Its client is on the other one already: there is nobody who has to come back.
            HandOver::TakenOver => self.close_with(CloseCode::Normal, "another connection took this one's place", None),
            HandOver::Exclusive => self.close(CloseCode::Replaced, "the same device connected elsewhere"),
        }
    }

    fn on_message(&mut self, encoding: Encoding, bytes: &Bytes, now: Now) {
        self.heartbeat.hear(now.at);
        if encoding != self.codec.0 {
            return self.close(CloseCode::Unsupported, "this connection speaks the other encoding");
        }
        match self.codec.decode(bytes) {
            Err(malformed) => self.close(CloseCode::BadFrame, &malformed.to_string()),
            Ok(frames) => self.on_frames(frames.into(), now),
        }
    }

    fn on_timer(&mut self, now: Now) {
        if let Phase::Greeting(greeting) = &self.phase
            && greeting.deadline <= now.at
        {
            return self.close(CloseCode::HelloTimeout, "no hello came in time");
        }
        match self.heartbeat.check(now.at) {
            Beat::Dead => return self.close(CloseCode::HeartbeatTimeout, "nothing came for two heartbeats"),
            Beat::Ping => self.ping_due = true,
            Beat::Quiet => {}
        }
        if self.full_since.is_some_and(|since| now.at.since(since) >= self.settings.stuck_ms) {
            return self.close(CloseCode::SlowConsumer, "the client does not read what it gets");
        }
        self.on_inbox_timer(now);
        self.on_stream_timers(now);
    }
}
