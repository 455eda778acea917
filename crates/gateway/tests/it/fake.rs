//! Listeners in front of a node that is none: it notes what it is asked, and answers as the test says.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use connection::{Joined, Member, Opening, Person, SendFault};
use delivery::PresenceOf;
use futures_util::{SinkExt, StreamExt};
use gateway::config::{Origins, Secret};
use gateway::door::{BoxFuture, Door, MembersPage, OutgoingMessage, SendAnswer, Socket};
use gateway::listener::{Http, HttpSettings, accept, bind};
use gateway::metrics::Metrics;
use parking_lot::Mutex;
use protocol::{Address, ErrorCode, GroupId, UnixMillis, UserId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long the fixture waits for headers and bodies; tests that wait for an end wait this long.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(300);

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct FakeNode {
    pub(crate) is_ready: AtomicBool,
    metrics: Metrics,
    openings: mpsc::UnboundedSender<Opening>,
    /// In the order of their first polls.
    pub(crate) sent: Mutex<Vec<OutgoingMessage>>,
    /// Calls about people, as text.
    pub(crate) asked: Mutex<Vec<String>>,
}

impl FakeNode {
    /// Notes a call about a group; `full` takes nobody, and `away` is with a master that cannot be asked.
    fn about(&self, call: String, group: &GroupId) -> Result<(), SendFault> {
        self.asked.lock().push(call);
        let (code, retry_ms) = match group.as_str() {
            "full" => (ErrorCode::Forbidden, None),
            "away" => (ErrorCode::Unavailable, Some(800)),
            _ => return Ok(()),
        };
        Err(SendFault { code, message: "as the test says".to_owned(), retry_ms, is_final: false })
    }
}

impl Door for FakeNode {
    fn readiness(&self) -> Result<(), String> {
        if self.is_ready.load(Ordering::Relaxed) { Ok(()) } else { Err("the backplane is away".to_owned()) }
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Sends back what comes.
    fn open(self: Arc<Self>, mut socket: Socket, opening: Opening, _peer: SocketAddr) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _ = self.openings.send(opening);
            while let Some(Ok(message)) = socket.next().await {
                if message.is_close() || socket.send(message).await.is_err() {
                    break;
                }
            }
        })
    }

    /// Notes the message at the first poll, answers later. `user:busy` and `user:lost` are answered with faults.
    fn send(&self, message: OutgoingMessage) -> BoxFuture<'_, Result<SendAnswer, SendFault>> {
        Box::pin(async move {
            let place = {
                let mut sent = self.sent.lock();
                sent.push(message.clone());
                sent.len()
            };
            tokio::time::sleep(Duration::from_millis(5)).await;
            let fault = |code, retry_ms, is_final| {
                Err(SendFault { code, message: "as the test says".to_owned(), retry_ms, is_final })
            };
            match &message.to {
                Address::User(user) if user.as_str() == "busy" => fault(ErrorCode::Overloaded, Some(1_200), false),
                Address::User(user) if user.as_str() == "lost" => fault(ErrorCode::UnknownOutcome, None, true),
                _ => Ok(SendAnswer {
                    reference: (!message.ephemeral).then(|| format!("ref-{place}")),
                    at: UnixMillis(1_700_000_000_000),
                    online: (!message.ephemeral).then_some(true),
                }),
            }
        })
    }

    fn join(&self, group: GroupId, user: UserId) -> BoxFuture<'_, Result<Joined, SendFault>> {
        let result = self.about(format!("join {group} {user}"), &group);
        Box::pin(async move { result.map(|()| Joined { mseq: 17, members: 3 }) })
    }

    fn remove(&self, group: GroupId, user: UserId) -> BoxFuture<'_, Result<Option<u64>, SendFault>> {
        let result = self.about(format!("remove {group} {user}"), &group);
        Box::pin(async move { result.map(|()| (group.as_str() != "unknown").then_some(2)) })
    }

    /// Two parts: the first ends at `here`.
    fn members(
        &self,
        group: GroupId,
        after: Option<String>,
        limit: u64,
    ) -> BoxFuture<'_, Result<MembersPage, SendFault>> {
        let result = self.about(format!("members {group} {after:?} {limit}"), &group);
        let member = |user: &str, profile: Option<&str>| Member {
            user: UserId::parse(user).unwrap(),
            profile: profile.map(Into::into),
        };
        let page = match after {
            None => MembersPage {
                members: vec![member("alice", Some(r#"{"name":"Alice"}"#)), member("bob", None)],
                total: 3,
                next: Some("here".into()),
            },
            Some(_) => MembersPage { members: vec![member("carol", None)], total: 3, next: None },
        };
        Box::pin(async move { result.map(|()| page) })
    }

    /// Everybody but `nobody` has a phone.
    fn presence(&self, users: Vec<UserId>) -> BoxFuture<'_, Result<Vec<Person>, SendFault>> {
        self.asked.lock().push(format!("presence of {}", users.len()));
        let person = |user: UserId| {
            let is_known = user.as_str() != "nobody";
            let presence = PresenceOf {
                version: 5,
                is_online: true,
                at: UnixMillis(7),
                devices: vec![("phone".into(), UnixMillis(6))],
                profile: Some(r#"{"name":"A"}"#.into()),
            };
            Person { user, presence: if is_known { presence } else { PresenceOf::default() } }
        };
        Box::pin(async move { Ok(users.into_iter().map(person).collect()) })
    }
}

/// Both listeners of a fake node.
pub(crate) struct Fixture {
    pub(crate) node: Arc<FakeNode>,
    pub(crate) client: SocketAddr,
    pub(crate) internal: SocketAddr,
    pub(crate) openings: mpsc::UnboundedReceiver<Opening>,
    _stop: DropGuard,
}

pub(crate) fn settings() -> HttpSettings {
    HttpSettings {
        origins: Origins::SameHost,
        takes_users: true,
        max_bytes: 65_536,
        api_key: None,
        header_timeout: TIMEOUT,
        body_timeout: TIMEOUT,
    }
}

pub(crate) fn with_key(key: &str) -> HttpSettings {
    HttpSettings { api_key: Some(Secret::new(key)), ..settings() }
}

impl Fixture {
    pub(crate) async fn start(settings: HttpSettings) -> Self {
        let (sender, openings) = mpsc::unbounded_channel();
        let node = Arc::new(FakeNode {
            is_ready: AtomicBool::new(true),
            metrics: Metrics::new(),
            openings: sender,
            sent: Mutex::default(),
            asked: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let http = Arc::new(Http::new(Arc::clone(&node) as Arc<dyn Door>, settings, stop.clone()));
        let listen = || bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let (client, internal) = (listen(), listen());
        let addresses = (client.local_addr().unwrap(), internal.local_addr().unwrap());
        let refused = || metrics::Counter::noop();
        let side = Arc::clone(&http);
        let spawn = move |arrival| drop(tokio::spawn(Arc::clone(&side).serve_client(arrival)));
        tokio::spawn(accept::run(client, accept::PENDING_MAX, refused(), stop.clone(), spawn));
        let spawn = move |arrival| drop(tokio::spawn(Arc::clone(&http).serve_internal(arrival)));
        tokio::spawn(accept::run(internal, accept::PENDING_MAX, refused(), stop.clone(), spawn));
        Self { node, client: addresses.0, internal: addresses.1, openings, _stop: stop.drop_guard() }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        request(self.client, &format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.client)).await
    }

    pub(crate) async fn get_internal(&self, path: &str) -> Reply {
        request(self.internal, &format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.internal)).await
    }

    /// `POST /v1/send` with more headers, each with its line end.
    pub(crate) async fn post(&self, headers: &str, body: &str) -> Reply {
        let (host, length) = (self.internal, body.len());
        let head = format!("POST /v1/send HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{headers}\r\n");
        request(self.internal, &(head + body)).await
    }

    /// The value of a line of `/metrics`.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let page = self.node.metrics.render();
        let found = page.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {line} in\n{page}")).parse().unwrap()
    }
}

/// An answer, taken apart.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The value of a header, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Writes a request and reads until the answer is whole or the connection ends.
pub(crate) async fn request(to: SocketAddr, text: &str) -> Reply {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // The server may answer and close before all is written.
    let _ = stream.write_all(text.as_bytes()).await;
    let mut got = Vec::new();
    let read = async {
        loop {
            let text = String::from_utf8_lossy(&got).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
                if head.starts_with("http/1.1 101") || length.is_some_and(|length| body.len() >= length) {
                    return text;
                }
            }
            let mut piece = [0; 4_096];
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return text,
                Ok(count) => got.extend_from_slice(&piece[..count]),
            }
        }
    };
    Reply::parse(&tokio::time::timeout(PATIENCE, read).await.expect("an answer in time"))
}

/// Waits until the other side closes, and says what it wrote before. `None`: it did not within the patience.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> Option<io::Result<Vec<u8>>> {
    let mut got = Vec::new();
    let read = stream.read_to_end(&mut got);
    let result = tokio::time::timeout(PATIENCE, read).await.ok()?;
    Some(result.map(|_| got))
}
