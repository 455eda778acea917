//! The client on tokio: handles for the application, and the task that owns the socket.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};

use crate::body::Body;
use crate::config::Config;
use crate::core::Answer;
use crate::endpoint::Endpoint;
use crate::error::{RequestError, SendError, UrlError};
use crate::event::Event;
use crate::requests::{AskRequest, HistoryRequest, SendRequest};
use crate::wire::{History, Message, Sent};

mod clock;
mod people;
mod run;

pub use people::JoinOptions;

/// How long a request waits for its answer where the caller does not say, over all reconnects.
const DEADLINE_DEFAULT_MS: u64 = 30_000;

/// Commands on their way to the task; more make their callers wait.
const COMMANDS_MAX: usize = 64;

/// Events handed over and not yet taken. The bound that counts is [`Config::events_bytes_max`], before this one.
const EVENTS_HANDED_MAX: usize = 16;

/// A handle to one user's connection; clones are handles to the same one. It comes back by itself and resumes where it
/// was. The task ends, and closes the connection, when it was told to stop, or when all handles and the events are gone.
#[derive(Clone, Debug)]
pub struct Client {
    requests: mpsc::Sender<Request>,
    controls: mpsc::Sender<Control>,
}

/// What happens, in order. Dropping it means that the application wants none of it: messages are then thrown away.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
}

/// How a message is sent, where the defaults do not do.
#[derive(Clone, Debug, Default)]
pub struct SendOptions {
    /// At most once, to those who are connected now; nothing is kept.
    pub ephemeral: bool,
    /// A copy goes into the own inbox, for the user's other devices and for the history of the conversation. Only for
    /// `user:` addresses. Off unless it is asked for.
    pub echo: bool,
    /// What this message is called; random by default. An id is used for one message only.
    pub id: Option<String>,
    /// Milliseconds after which the message is not delivered any more.
    pub expires_ms: Option<u64>,
    /// The id was tried before, so many milliseconds ago, for example by a process that has ended since.
    pub retry_age_ms: Option<u64>,
    /// The answer comes when a replica of the backplane has it, too.
    pub replicated: bool,
    /// Milliseconds to wait for the answer, over all retries and reconnects; 30 s by default.
    pub deadline_ms: Option<u64>,
}

/// Which part of a stream's past.
#[derive(Clone, Debug, Default)]
pub struct HistoryOptions {
    /// One conversation of the own inbox: the other side's address.
    pub with: Option<String>,
    /// Only what is older than this cursor; by default from the newest on.
    pub before: Option<String>,
    /// 1 to 200 messages.
    pub limit: Option<u64>,
    /// Milliseconds to wait for the answer; 30 s by default.
    pub deadline_ms: Option<u64>,
}

#[derive(Debug)]
struct Request {
    what: What,
    deadline_ms: u64,
    reply: Reply,
}

#[derive(Debug)]
enum What {
    Send(SendRequest),
    History(HistoryRequest),
    Ask(AskRequest),
}

#[derive(Debug)]
enum Control {
    Ack { of: String, cursor: String },
    AckMessage(Box<Message>),
    Close(oneshot::Sender<()>),
}

/// Whom an answer is for.
type Reply = oneshot::Sender<Result<Answer, RequestError>>;

impl Client {
    /// Starts a client: a task on the present tokio runtime that connects, comes back, and resumes until it is told to
    /// stop. Returns at once; the first [`Event::Welcome`] says that it is connected.
    ///
    /// # Errors
    /// [`UrlError`], when the URL can never work.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect(config: Config) -> Result<(Self, Events), UrlError> {
        let endpoint = Endpoint::parse(&config.url.0)?;
        let (requests, request_receiver) = mpsc::channel(COMMANDS_MAX);
        let (controls, control_receiver) = mpsc::channel(COMMANDS_MAX);
        let (events, receiver) = mpsc::channel(EVENTS_HANDED_MAX);
        let driver = run::Driver::new(config, endpoint, request_receiver, control_receiver, Outbox::new(events));
        // Owned by the handles and the events: it ends when they are gone, or when the session has stopped.
        tokio::spawn(driver.run());
        Ok((Self { requests, controls }, Events { receiver }))
    }

    /// Sends a durable message to an address (`user:ID`, `group:ID`, `all`) and waits until it is stored.
    ///
    /// While there is no connection it waits for one. A try whose outcome is not known is repeated with the same id, so
    /// the message is stored once. Messages that are sent one after the other, each after the answer to the one before,
    /// arrive in this order; those that are sent side by side may change places when one has to be tried again.
    ///
    /// # Errors
    /// [`SendError`] says what to do.
    ///
    /// # Cancellation
    /// Dropping the future takes nothing back: the message may still be sent until its deadline.
    pub async fn send(&self, to: &str, body: impl Into<Body>) -> Result<Sent, SendError> {
        self.send_with(to, body, SendOptions::default()).await
    }

    /// As [`Client::send`], with options.
    ///
    /// # Errors
    /// [`SendError`] says what to do.
    pub async fn send_with(&self, to: &str, body: impl Into<Body>, options: SendOptions) -> Result<Sent, SendError> {
        let request = SendRequest {
            id: options.id.unwrap_or_else(new_id),
            to: to.to_owned(),
            body: body.into(),
            ephemeral: options.ephemeral,
            echo: options.echo,
            expires_ms: options.expires_ms,
            retry_age_ms: options.retry_age_ms,
            replicated: options.replicated,
        };
        match self.ask(What::Send(request), options.deadline_ms).await? {
            Answer::Sent(sent) => Ok(sent),
            _ => Err(mixed()),
        }
    }

    /// Asks for the past of a stream, newest first.
    ///
    /// # Errors
    /// [`RequestError`] says what to do.
    ///
    /// # Cancellation
    /// The answer is thrown away when it comes.
    pub async fn history(&self, of: &str, options: HistoryOptions) -> Result<History, RequestError> {
        let request = HistoryRequest {
            id: new_id(),
            of: of.to_owned(),
            with: options.with,
            before: options.before,
            limit: options.limit,
        };
        match self.ask(What::History(request), options.deadline_ms).await? {
            Answer::History(history) => Ok(history),
            _ => Err(mixed()),
        }
    }

    async fn ask(&self, what: What, deadline_ms: Option<u64>) -> Result<Answer, RequestError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { what, deadline_ms: deadline_ms.unwrap_or(DEADLINE_DEFAULT_MS), reply };
        self.requests.send(request).await.map_err(|_| RequestError::Stopped)?;
        answer.await.unwrap_or(Err(RequestError::Stopped))
    }

    /// The application has handled this message and all before it on its stream: with a [`Config::device`], the server
    /// starts behind it next time. Acknowledge in order. There is no answer; what did not arrive is said again after a
    /// reconnect. Ephemeral messages have no place and are left out.
    pub async fn ack(&self, message: &Message) {
        // A stopped client has nothing to tell anybody.
        let _ = self.controls.send(Control::AckMessage(Box::new(message.clone()))).await;
    }

    /// As [`Client::ack`], for a stream and a cursor that were kept without their message.
    pub async fn ack_at(&self, of: &str, cursor: &str) {
        let _ = self.controls.send(Control::Ack { of: of.to_owned(), cursor: cursor.to_owned() }).await;
    }

    /// Closes the connection for good, and returns when it is closed, after at most 2 s. Requests without an answer get
    /// [`RequestError::Stopped`].
    pub async fn close(&self) {
        let (done, is_done) = oneshot::channel();
        if self.controls.send(Control::Close(done)).await.is_ok() {
            // An error means that the task has ended, which is what was asked for.
            let _ = is_done.await;
        }
    }
}

impl Events {
    /// The next event; `None` after [`Event::Stopped`].
    ///
    /// As long as events are not taken, messages wait in the client ([`Config::events_bytes_max`]), then in the socket,
    /// then at the server, which after a while closes with 4502; the client comes back and resumes. Nothing is dropped.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }
}

/// A server that answers a `send` with a `history`, or the like.
fn mixed() -> RequestError {
    RequestError::Rejected { code: "mixed".to_owned(), message: "the answer is of another type".to_owned() }
}

/// Events that wait for the application, bounded by whoever looks at [`Outbox::bytes`] before it reads on.
#[derive(Debug)]
struct Outbox {
    sender: mpsc::Sender<Event>,
    waiting: VecDeque<Event>,
    bytes: usize,
}

impl Outbox {
    fn new(sender: mpsc::Sender<Event>) -> Self {
        Self { sender, waiting: VecDeque::new(), bytes: 0 }
    }

    fn push(&mut self, event: Event) {
        if !self.sender.is_closed() {
            self.bytes += event.weight_bytes();
            self.waiting.push_back(event);
        }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Hands one event over as soon as there is room. Cancel-safe: it is taken from the queue when it goes.
    async fn hand_over(&mut self) {
        match self.sender.reserve().await {
            Ok(permit) => {
                if let Some(event) = self.waiting.pop_front() {
                    self.bytes -= event.weight_bytes();
                    permit.send(event);
                }
            }
            // The application wants no events any more.
            Err(_) => {
                self.waiting.clear();
                self.bytes = 0;
            }
        }
    }
}

fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
