//! A connection without a socket: the test is the client, the backplane and the clock.

use std::sync::Arc;

use bytes::Bytes;
use connection::{
    Connection, Credential, Identity, Input, Now, Opening, Output, Request, Rights, Seat, Seated, Settings, Shared,
    Transmit, What,
};
use delivery::{Attached, OfUser, Start};
use protocol::client::Codec;
use protocol::{
    Address, CloseCode, ConnectionId, Cursor, Encoding, Entry, Envelope, Ephemeral, Epoch, GroupId, Live, Millis, Page,
    Stamp, Tag, Text, UnixMillis, UserId,
};
use serde_json::Value;

pub(crate) const EPOCH: Epoch = Epoch([3; 8]);

pub(crate) struct Harness {
    pub(crate) connection: Connection,
    pub(crate) ms: u64,
    pub(crate) closed: Option<Option<CloseCode>>,
    requests: std::collections::VecDeque<Request>,
    /// Who is let in.
    pub(crate) identity: Identity,
}

pub(crate) fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

pub(crate) fn group(id: &str) -> GroupId {
    GroupId::parse(id).unwrap()
}

pub(crate) fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

pub(crate) fn own() -> Address {
    Address::parse("user:bob").unwrap()
}

pub(crate) fn at(seq: u64) -> Cursor {
    Cursor { epoch: EPOCH, seq, stamp: Stamp(seq * 1_000) }
}

pub(crate) fn entry(seq: u64) -> Entry {
    let envelope = Envelope {
        to: "user:bob".into(),
        from: "user:alice".into(),
        id: format!("m{seq}").into(),
        encoding: Encoding::Json,
        body: Bytes::from_static(b"1"),
        expires_ms: None,
        traceparent: None,
        flags: 0,
    };
    Entry { cursor: at(seq), link: at(seq - 1).stamp, tag: Tag(seq), mseq: None, envelope: Arc::new(envelope) }
}

/// A page of the entries after `after` up to `to`.
pub(crate) fn page(start: Start, after: u64, to: u64, head: u64) -> Attached {
    let entries = (after + 1..=to).map(entry).collect();
    let page = Page { entries, end: at(to), more: to < head };
    let user = Some(OfUser::default());
    Attached {
        start,
        cursor: at(after),
        head,
        page,
        routed: true,
        registered: Vec::new(),
        version: 0,
        joined: None,
        user,
    }
}

/// An entry of a group that was stored behind the membership change with this number.
pub(crate) fn group_entry(of: &str, seq: u64, mseq: u64) -> Entry {
    let mut entry = entry(seq);
    entry.mseq = Some(mseq);
    entry.envelope = Arc::new(Envelope { to: of.into(), ..(*entry.envelope).clone() });
    entry
}

/// The answer to `Enter`: a member since the change with this number, and the entries after `after` up to `to`.
pub(crate) fn entered(of: &str, joined: Option<u64>, start: Start, after: u64, to: u64) -> Attached {
    let entries = (after + 1..=to).map(|seq| group_entry(of, seq, joined.unwrap_or(9))).collect();
    let page = Page { entries, end: at(to), more: false };
    Attached { page, head: to, joined, user: None, ..self::page(start, after, after, to) }
}

impl Harness {
    pub(crate) fn new(settings: Settings) -> Self {
        let opening =
            Opening { codec: Codec::JSON, credential: Some(Credential::User("bob".into())), auto: false, cursor: None };
        Self::with(settings, opening)
    }

    pub(crate) fn with(settings: Settings, opening: Opening) -> Self {
        let now = Now { at: Millis(0), backplane_us: 0 };
        let connection = Connection::new(Arc::new(settings), ConnectionId(7), opening, now);
        let identity = Identity {
            user: user("bob"),
            device: None,
            expires: None,
            groups: Vec::new(),
            rights: Rights::all(),
            profile: None,
        };
        Self { connection, ms: 0, closed: None, requests: Default::default(), identity }
    }

    /// An open session whose own inbox stands at `head`.
    pub(crate) fn open(settings: Settings, head: u64) -> Self {
        let mut harness = Self::new(settings);
        harness.say(r#"{"type":"hello","device":"phone"}"#);
        harness.let_in();
        let Request::Attach(_) = harness.asked() else { panic!("attach") };
        harness.give(Ok(Some(page(Start::Resumed, head, head, head))));
        assert_eq!(harness.get()[0]["type"], "welcome");
        harness
    }

    /// An open session of a named device whose user is in these groups.
    pub(crate) fn in_groups(groups: &[&str], hello: &str) -> Self {
        Self::with_identity(groups, hello, |_| {})
    }

    pub(crate) fn with_identity(groups: &[&str], hello: &str, change: impl FnOnce(&mut Identity)) -> Self {
        let mut harness = Self::new(Settings::default());
        change(&mut harness.identity);
        harness.say(hello);
        harness.let_in();
        let Request::Attach(_) = harness.asked() else { panic!("attach") };
        let of_user = OfUser { groups: groups.iter().map(|id| group(id)).collect(), all: None };
        let first = Attached { user: Some(of_user), version: 5, ..page(Start::Resumed, 0, 0, 0) };
        harness.give(Ok(Some(first)));
        harness
    }

    pub(crate) fn seated(&mut self, of: &str, seq: u64, version: u64) {
        let seated = Seated { cursor: at(seq), version };
        self.input(Input::Seated { of: address(of), result: Ok(seated) });
    }

    /// Answers the next request, which is for a seat in this group.
    pub(crate) fn seat(&mut self, of: &str, seq: u64, version: u64) -> Seat {
        let Request::Seat(seat) = self.asked() else { panic!("a seat") };
        assert_eq!(seat.of, address(of));
        self.seated(of, seq, version);
        seat
    }

    /// What the node is told of one who has a seat; nothing is answered.
    pub(crate) fn told(&mut self) -> Seat {
        let Request::Seat(seat) = self.asked() else { panic!("a seat") };
        seat
    }

    pub(crate) fn page(&mut self, of: &str, attached: Attached) {
        self.input(Input::Attached { of: address(of), result: Ok(Some(attached)) });
    }

    pub(crate) fn shared(&mut self, of: &str, what: What) {
        self.input(Input::Shared(Arc::new(Shared::new(of.into(), what))));
    }

    /// A live message of a group.
    pub(crate) fn said(&mut self, of: &str, seq: u64, mseq: u64) {
        self.shared(of, What::Entry(group_entry(of, seq, mseq)));
    }

    pub(crate) fn whispered(&mut self, of: &str) {
        let one = Ephemeral { at: UnixMillis(1), envelope: group_entry(of, 1, 0).envelope };
        self.shared(of, What::Ephemeral(one));
    }

    /// A member of the group since change 3, whose stream runs at number 7.
    pub(crate) fn member() -> Self {
        let mut bob = Self::in_groups(&["den"], r#"{"type":"hello","device":"phone"}"#);
        bob.seat("group:den", 7, 3);
        let Request::Enter(_) = bob.asked() else { panic!("enter") };
        bob.page("group:den", entered("group:den", Some(3), Start::Resumed, 7, 7));
        bob.told();
        bob.get();
        bob
    }

    pub(crate) fn input(&mut self, input: Input) {
        self.connection.handle(input, Now { at: Millis(self.ms), backplane_us: self.ms * 1_000 });
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.connection.poll_output() {
            match output {
                // Everybody has everybody's stream: the tests that are about it ask for it.
                Output::Request(Request::Seat(Seat { of: Address::All, .. })) => {
                    let result = Ok(Seated { cursor: at(0), version: 0 });
                    self.input(Input::Seated { of: Address::All, result });
                }
                Output::Request(request) => self.requests.push_back(request),
                Output::Close(code) => self.closed = Some(code),
            }
        }
    }

    pub(crate) fn say(&mut self, frame: &str) {
        self.input(Input::Text(Bytes::copy_from_slice(frame.as_bytes())));
    }

    /// Answers the request for authentication.
    pub(crate) fn let_in(&mut self) {
        let Request::Authenticate(_) = self.asked() else { panic!("authenticate") };
        self.input(Input::Authenticated(Ok(self.identity.clone())));
    }

    pub(crate) fn give(&mut self, result: Result<Option<Attached>, connection::Unavailable>) {
        self.input(Input::Attached { of: own(), result });
    }

    pub(crate) fn live(&mut self, seq: u64) {
        self.live_with(Live::Entry(entry(seq)), 0);
    }

    pub(crate) fn live_with(&mut self, live: Live, version: u64) {
        self.input(Input::Live { record: Text::from("user:bob"), version, live });
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.ms += ms;
        self.input(Input::Timer);
    }

    pub(crate) fn asked(&mut self) -> Request {
        self.requests.pop_front().expect("something is asked")
    }

    pub(crate) fn asked_nothing(&self) -> bool {
        self.requests.is_empty()
    }

    /// Everything for the socket, as JSON; a ping is `"ping"`. That everybody's stream has started is left out.
    pub(crate) fn get(&mut self) -> Vec<Value> {
        let mut frames = self.get_all();
        frames.retain(|frame| frame["type"] != "stream" || frame["of"] != "all");
        frames
    }

    pub(crate) fn get_all(&mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        while let Some(transmit) = self.connection.poll_transmit() {
            frames.push(match transmit {
                Transmit::Frame(frame) => serde_json::from_slice(&frame.bytes).unwrap(),
                Transmit::Ping => Value::from("ping"),
            });
            self.drain();
        }
        frames
    }

    pub(crate) fn ids(&mut self) -> Vec<String> {
        let messages = self.get().into_iter().filter(|f| f["type"] == "message");
        messages.map(|f| f["id"].as_str().unwrap().to_owned()).collect()
    }
}
