//! From the upgrade to `welcome`: hello, credentials, the first page of the own inbox.

use std::collections::VecDeque;

use delivery::sabotage::{self, Rule};
use delivery::{Attached, Start};
use protocol::client::{ClientFrame, FrameError, From, Hello, ServerFrame, Status, StreamStatus, Welcome};
use protocol::{Address, CloseCode, Cursor, DeviceId, ErrorCode, Millis, UserId};

use crate::connection::{Connection, Phase, Session};
use crate::io::{Attach, Credential, Identity, Now, Opening, PullCause, Refused, Request, Unavailable};
use crate::pulls::count_reset;
use crate::stream::Stream;

/// Frames that came in one batch with `hello`: they wait for `welcome`.
type Deferred = VecDeque<Result<ClientFrame, FrameError>>;

#[derive(Debug)]
pub(crate) struct Greeting {
    pub(crate) deadline: Millis,
    credential: Option<Credential>,
}

#[derive(Debug)]
pub(crate) struct Authenticating {
    hello: Hello,
    /// `?cursor=`: of the own inbox, whose name is not known yet.
    cursor: Option<Option<Cursor>>,
    deferred: Deferred,
}

#[derive(Debug)]
pub(crate) struct Attaching {
    pub(crate) user: UserId,
    pub(crate) device: Option<DeviceId>,
    attach: Attach,
    deferred: Deferred,
    /// Streams that were named and are not this user's.
    foreign: Vec<Address>,
    /// The generation ended meanwhile: ask the next one.
    pub(crate) again: bool,
    /// A live message came meanwhile: one more pull behind the first page.
    pub(crate) dirty: bool,
}

impl Connection {
    /// The upgrade has been answered: wait for `hello`, or with `?auto=1` go on at once.
    pub(crate) fn greet(&mut self, opening: Opening, now: Now) {
        let deadline = now.at.plus(self.settings.hello_ms);
        match opening.credential {
            Some(credential) if opening.auto => {
                let cursor = opening.cursor.map(|text| Cursor::from_text(&text));
                let (hello, deferred) = (Hello::default(), Deferred::new());
                self.phase = Phase::Authenticating(Box::new(Authenticating { hello, cursor, deferred }));
                self.request(Request::Authenticate(credential));
            }
            credential => self.phase = Phase::Greeting(Box::new(Greeting { deadline, credential })),
        }
    }

    /// Frames in order; those behind a `hello` wait until the session is open.
    pub(crate) fn on_frames(&mut self, mut frames: Deferred, now: Now) {
        while let Some(frame) = frames.pop_front() {
            match &self.phase {
                Phase::Open(_) => self.on_frame(frame, now),
                Phase::Greeting(_) => {
                    self.counts.frames_in += 1;
                    self.on_greeting(frame);
                }
                Phase::Authenticating(_) | Phase::Attaching(_) | Phase::Closed => {
                    frames.push_front(frame);
                    break;
                }
            }
        }
        match &mut self.phase {
            Phase::Authenticating(state) => state.deferred.append(&mut frames),
            Phase::Attaching(state) => state.deferred.append(&mut frames),
            _ => {}
        }
    }

    fn on_greeting(&mut self, frame: Result<ClientFrame, FrameError>) {
        let Phase::Greeting(greeting) = &mut self.phase else { return };
        match frame {
            Ok(ClientFrame::Hello(mut hello)) => {
                let token = hello.token.take().map(Credential::Token);
                let Some(credential) = greeting.credential.take().or(token) else {
                    return self.close(CloseCode::Unauthorized, "no credentials came with the request or with hello");
                };
                self.outbox.batch = hello.batch;
                self.phase =
                    Phase::Authenticating(Box::new(Authenticating { hello, cursor: None, deferred: Deferred::new() }));
                self.request(Request::Authenticate(credential));
            }
            // It can be said again, correctly, until the time for it is up.
            Err(error) if error.is_hello => {
                self.answer_error(error.id.as_ref(), ErrorCode::BadRequest, &error.message, None)
            }
            Ok(_) | Err(_) => self.close(CloseCode::BadFrame, "the first frame has to be a hello"),
        }
    }

    pub(crate) fn on_authenticated(&mut self, result: Result<Identity, Refused>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Closed);
        let Phase::Authenticating(state) = phase else {
            self.phase = phase;
            return;
        };
        let identity = match result {
            Ok(identity) => identity,
            Err(refused) => {
                let (code, reason) = match refused {
                    Refused::Unauthorized(reason) => (CloseCode::Unauthorized, reason),
                    Refused::Expired => (CloseCode::TokenExpired, "the token has expired".to_owned()),
                };
                return self.close(code, &reason);
            }
        };
        let Authenticating { hello, cursor, deferred } = *state;
        let own = Address::User(identity.user.clone());
        let device = identity.device.or(hello.device);
        // A named device that comes for the first time gets what is there; one without a name starts now.
        let from = hello.from.unwrap_or(if device.is_some() { From::Oldest } else { From::Now });
        let (mut cursors, mut foreign) = (Vec::from_iter(cursor), Vec::new());
        for (of, list) in hello.cursors {
            match of {
                of if of == own => cursors = list,
                // Streams that a client may keep cursors of and that this version does not have.
                Address::All | Address::Group(_) => {}
                of => foreign.push(of),
            }
        }
        let attach = Attach { of: own, device: device.clone(), cursors, from };
        self.request(Request::Attach(attach.clone()));
        let attaching =
            Attaching { user: identity.user, device, attach, deferred, foreign, again: false, dirty: false };
        self.phase = Phase::Attaching(Box::new(attaching));
    }

    pub(crate) fn on_first_page(&mut self, result: Result<Option<Attached>, Unavailable>, now: Now) {
        let phase = std::mem::replace(&mut self.phase, Phase::Closed);
        let Phase::Attaching(mut state) = phase else {
            self.phase = phase;
            return;
        };
        if std::mem::take(&mut state.again) {
            self.request(Request::Attach(state.attach.clone()));
            self.phase = Phase::Attaching(state);
            return;
        }
        let Ok(Some(attached)) = result else {
            return self.close(CloseCode::BackplaneUnavailable, "the backplane cannot be reached");
        };
        let Attaching { user, device, attach, deferred, foreign, dirty, .. } = *state;
        let period = self.settings.position_check_ms;
        let mut stream = Stream::new(attach.of.clone(), now.at);
        stream.is_asking = false;
        stream.routed = attached.routed;
        if let Start::Reset { reason, .. } = attached.start {
            stream.again_to = attached.head;
            count_reset(&mut self.counts, reason);
        }
        self.welcome(&user, device.as_ref(), &attach.of, &attached);
        self.phase = Phase::Open(Session { user, device: device.clone(), streams: vec![stream] });
        for of in foreign {
            self.answer_error(None, ErrorCode::Forbidden, &format!("`cursors`: {of} is not yours to read"), None);
        }
        self.take_page(&attach.of, &attached, device.as_ref(), now);
        // The first check comes at a moment of this connection's own, so that a fleet's checks are spread.
        if let Phase::Open(session) = &mut self.phase
            && let Some(stream) = session.streams.first_mut()
            && stream.routed
        {
            stream.check_at = now.at.plus(period / 2 + self.id.0 % (period / 2).max(1));
        }
        if dirty {
            self.on_doubt(PullCause::Dirty);
        }
        self.on_frames(deferred, now);
    }

    fn welcome(&mut self, user: &UserId, device: Option<&DeviceId>, of: &Address, attached: &Attached) {
        let (status, lost) = match attached.start {
            Start::New => (Status::New, None),
            Start::Resumed => (Status::Resumed, None),
            Start::Reset { .. } if sabotage::is_off(Rule::MissingReset) => (Status::Resumed, None),
            Start::Reset { reason, lost } => (Status::Reset(reason.as_str()), lost),
        };
        let connection = self.id.to_string();
        let replay = attached.head.saturating_sub(attached.cursor.seq);
        let stream =
            StreamStatus { of: of.clone(), status, cursor: attached.cursor, head: attached.head, replay, lost };
        let settings = self.settings.clone();
        self.outbox.push(&ServerFrame::Welcome(Welcome {
            user: user.as_str(),
            device: device.map_or(&connection, DeviceId::as_str),
            connection: &connection,
            node: &settings.node,
            heartbeat_ms: settings.heartbeat_ms,
            max_bytes: settings.max_bytes,
            streams: vec![stream],
        }));
    }
}
