//! From the upgrade to `welcome`: hello, credentials, the first page of the own inbox.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use delivery::{Attached, Claim, OfUser, Start};
use protocol::client::{ClientFrame, FrameError, From, Hello, ServerFrame, StreamStatus, Welcome};
use protocol::limits::GROUPS_MAX;
use protocol::{Address, CloseCode, Cursor, DeviceId, ErrorCode, GroupId, Millis, UserId};

use crate::connection::{Connection, Phase};
use crate::counts::PullCause;
use crate::following::status_of;
use crate::inbox::Inbox;
use crate::io::{Credential, Identity, Now, Opening, Refused, Unavailable};
use crate::output::{Attach, Request};
use crate::pulls::count_reset;
use crate::rights::Rights;
use crate::session::Session;
use crate::stream::{Beginning, How, Stream};

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
    rights: Rights,
    /// Where `hello` wants streams to start that have no cursor.
    from: Option<From>,
    /// Of everybody's stream.
    all: Vec<Option<Cursor>>,
    groups: Vec<(GroupId, Vec<Option<Cursor>>)>,
    /// Groups that the token names.
    named: Vec<GroupId>,
    deferred: Deferred,
    /// Streams that were named and are not this user's.
    foreign: Vec<Address>,
    /// The generation ended meanwhile: ask the next one.
    pub(crate) again: bool,
    /// A live message came meanwhile: one more pull behind the first page.
    pub(crate) dirty: bool,
    /// The version of the user's set of groups that came with it.
    pub(crate) version: Option<u64>,
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
        let (mut cursors, mut all, mut groups, mut foreign) =
            (Vec::from_iter(cursor), Vec::new(), Vec::new(), Vec::new());
        for (of, list) in hello.cursors {
            match of {
                of if of == own => cursors = list,
                Address::All => all = list,
                Address::Group(group) => groups.push((group, list)),
                of => foreign.push(of),
            }
        }
        // Without a name of its own a device has no others; and who wants to be the only one replaces the one it names, too.
        let exclusive = (hello.exclusive && device.is_some()).then_some(Claim::Exclusive);
        let claim = exclusive.or(hello.takes_over.map(Claim::TakesOver));
        let (groups_known, profile) = (Some(0), identity.profile);
        let attach = Attach { of: own, device: device.clone(), cursors, from, groups_known, claim, profile };
        self.request(Request::Attach(attach.clone()));
        let attaching = Attaching {
            user: identity.user,
            device,
            attach,
            rights: identity.rights,
            from: hello.from,
            all,
            groups,
            named: identity.groups,
            deferred,
            foreign,
            again: false,
            dirty: false,
            version: None,
        };
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
        self.open(*state, &attached, now);
    }

    fn open(&mut self, state: Attaching, attached: &Attached, now: Now) {
        let Attaching { user, device, attach, all, groups, deferred, foreign, dirty, version, .. } = state;
        let OfUser { groups: set, all: stored } = attached.user.clone().unwrap_or_default();
        let mut inbox = Inbox::new(now.at);
        inbox.routed = attached.routed;
        if let Start::Reset { reason, .. } = attached.start {
            inbox.again_to = attached.head;
            count_reset(&mut self.counts, reason);
        }
        self.welcome(&user, device.as_ref(), &attach.of, attached, &set);
        self.phase = Phase::Open(Box::new(Session {
            user,
            device,
            rights: state.rights,
            profile: attach.profile.map(Box::new),
            named: state.named.clone().into_boxed_slice(),
            from: state.from,
            inbox,
            all: Stream::new(None),
            groups: Vec::with_capacity(set.len().max(state.named.len())),
            set_known: attached.version,
            is_asking_set: false,
            questions: 0,
            pages: 0,
            waiting: 0,
            busy: None,
            is_paused: false,
            due: None,
        }));
        for of in foreign {
            self.answer_error(None, ErrorCode::Forbidden, &format!("`cursors`: {of} is not yours to read"), None);
        }
        self.take_page(attached, now);
        // The first check comes at a moment of this connection's own, so that a fleet's checks are spread.
        let period = self.settings.position_check_ms;
        if let Phase::Open(session) = &mut self.phase
            && session.inbox.routed
        {
            session.inbox.check_at = now.at.plus(period / 2 + self.id.0 % (period / 2).max(1));
        }
        if dirty {
            self.on_doubt(PullCause::Dirty);
        }
        let all = if all.is_empty() { Vec::from_iter(stored.map(Some)) } else { all };
        self.follow(&Address::All, Beginning::new(How::Everybody, all, state.from.unwrap_or(From::Now)));
        self.follow_groups(&set, groups, state.named, state.from);
        if let Some(version) = version {
            self.on_version(version);
        }
        self.on_frames(deferred, now);
    }

    /// The groups that the user is a member of, then those that his token names, then those that he has a cursor for.
    fn follow_groups(
        &mut self,
        set: &[GroupId],
        cursors: Vec<(GroupId, Vec<Option<Cursor>>)>,
        named: Vec<GroupId>,
        from: Option<From>,
    ) {
        let mut cursors: BTreeMap<GroupId, Vec<Option<Cursor>>> = cursors.into_iter().collect();
        let of_set = set.iter().cloned().map(|group| (group, How::Set));
        let mut begin: Vec<(GroupId, How)> = of_set.chain(named.into_iter().map(|group| (group, How::Guest))).collect();
        let known: BTreeSet<GroupId> = begin.iter().map(|(group, _)| group.clone()).collect();
        begin.extend(cursors.keys().filter(|group| !known.contains(*group)).cloned().map(|group| (group, How::Cursor)));
        for (group, how) in begin {
            let Phase::Open(session) = &self.phase else { return };
            if session.group(group.as_str()).is_some() {
                continue;
            }
            if how != How::Set && !session.has_room_for_a_group() {
                let message = format!("{group} is left out: a connection has at most {GROUPS_MAX} groups");
                self.answer_error(None, ErrorCode::Forbidden, &message, None);
                continue;
            }
            let from = if how == How::Guest { from.unwrap_or(From::Now) } else { session.members_start() };
            let cursors = cursors.remove(&group).unwrap_or_default();
            self.follow(&Address::Group(group), Beginning::new(how, cursors, from));
        }
    }

    fn welcome(
        &mut self,
        user: &UserId,
        device: Option<&DeviceId>,
        of: &Address,
        attached: &Attached,
        groups: &[GroupId],
    ) {
        let (status, lost) = status_of(attached.start);
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
            groups: groups.iter().map(GroupId::as_str).collect(),
        }));
    }
}
