//! A connection without a socket: the test is the client, the backplane and the clock.

use std::sync::Arc;

use bytes::Bytes;
use connection::{Connection, Credential, Identity, Input, Now, Opening, Output, Request, Settings, Transmit};
use delivery::{Attached, Start};
use protocol::client::Codec;
use protocol::{
    Address, CloseCode, ConnectionId, Cursor, Encoding, Entry, Envelope, Epoch, Live, Millis, Page, Stamp, Tag, Text,
    UserId,
};
use serde_json::Value;

pub(crate) const EPOCH: Epoch = Epoch([3; 8]);

pub(crate) struct Harness {
    pub(crate) connection: Connection,
    pub(crate) ms: u64,
    pub(crate) closed: Option<Option<CloseCode>>,
    requests: std::collections::VecDeque<Request>,
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
    Entry { cursor: at(seq), link: at(seq - 1).stamp, tag: Tag(seq), envelope: Arc::new(envelope) }
}

/// A page of the entries after `after` up to `to`.
pub(crate) fn page(start: Start, after: u64, to: u64, head: u64) -> Attached {
    let entries = (after + 1..=to).map(entry).collect();
    let page = Page { entries, end: at(to), more: to < head };
    Attached { start, cursor: at(after), head, page, routed: true, registered: Vec::new() }
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
        Self { connection, ms: 0, closed: None, requests: Default::default() }
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

    pub(crate) fn input(&mut self, input: Input) {
        self.connection.handle(input, Now { at: Millis(self.ms), backplane_us: self.ms * 1_000 });
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.connection.poll_output() {
            match output {
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
        let user = UserId::parse("bob").unwrap();
        self.input(Input::Authenticated(Ok(Identity { user, device: None, expires: None })));
    }

    pub(crate) fn give(&mut self, result: Result<Option<Attached>, connection::Unavailable>) {
        self.input(Input::Attached { of: own(), result });
    }

    pub(crate) fn live(&mut self, seq: u64) {
        self.input(Input::Live { record: Text::from("user:bob"), live: Live::Entry(entry(seq)) });
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

    /// Everything for the socket, as JSON; a ping is `"ping"`.
    pub(crate) fn get(&mut self) -> Vec<Value> {
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
