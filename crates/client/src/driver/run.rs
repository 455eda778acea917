//! The task of one client: connects, asks the core what to do, does it. No rule of the protocol is decided here.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use protocol::{CloseCode, Encoding};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, sleep_until};

use super::clock::Clock;
use super::{Control, Outbox, Reply, Request, What};
use crate::config::{Config, Credentials};
use crate::core::{Answer, Core, Ending, Next, Output};
use crate::endpoint::Endpoint;
use crate::error::{OpenError, RequestError, StopReason};
use crate::socket::{Incoming, Socket, SocketOptions};

/// Requests without an answer in the core; above that their callers wait.
const REQUESTS_MAX: usize = 1_024;

/// How much more may wait for the application while a request is out: its answer is behind the messages in the socket.
const ROOM_FOR_ANSWERS: usize = 4;

/// For the goodbye of the other side.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Driver {
    config: Config,
    endpoint: Endpoint,
    core: Core<Reply>,
    clock: Clock,
    requests: mpsc::Receiver<Request>,
    controls: mpsc::Receiver<Control>,
    /// Somebody holds a [`super::Client`], or something of it still waits in this channel.
    has_requests: bool,
    has_controls: bool,
    outbox: Outbox,
    token: Option<String>,
    leaving: bool,
    closers: Vec<oneshot::Sender<()>>,
}

/// What may happen with or without a connection.
enum Stimulus {
    Request(Request),
    Control(Control),
    /// The last handle was dropped, and this channel is empty.
    NoRequests,
    NoControls,
    /// Neither handles nor events are held by anybody.
    NoOwner,
    HandedOver,
    Timer,
}

impl Driver {
    pub(super) fn new(
        config: Config,
        endpoint: Endpoint,
        requests: mpsc::Receiver<Request>,
        controls: mpsc::Receiver<Control>,
        outbox: Outbox,
    ) -> Self {
        let token = match &config.credentials {
            Credentials::Token(token) => Some(token.clone()),
            Credentials::Url | Credentials::User(_) | Credentials::Source(_) => None,
        };
        Self {
            core: Core::new(config.settings()),
            config,
            endpoint,
            clock: Clock::new(),
            requests,
            controls,
            has_requests: true,
            has_controls: true,
            outbox,
            token,
            leaving: false,
            closers: Vec::new(),
        }
    }

    /// Runs until the session has stopped, then hands the last events over.
    pub(super) async fn run(mut self) {
        while let Some((after_ms, new_token)) = self.connection().await {
            if new_token {
                self.token = None;
            }
            // When the application leaves meanwhile, the next `connection` sees it first.
            let _ = self.meanwhile(sleep(Duration::from_millis(after_ms))).await;
        }
        self.requests.close();
        self.controls.close();
        for closer in self.closers.drain(..) {
            // Nobody waits for it any more.
            let _ = closer.send(());
        }
        while !self.outbox.is_empty() {
            self.outbox.hand_over().await;
        }
    }

    /// One connection from its token to its end. `None`: it was the last; else the pause before the next one, and
    /// whether that needs a new token.
    async fn connection(&mut self) -> Option<(u64, bool)> {
        let ending = match self.open().await {
            Ok(Some(socket)) => Box::pin(self.session(socket)).await,
            Ok(None) => Ending::default(),
            Err(Failure::Open(error)) => Ending { code: None, reason: error.to_string() },
            Err(Failure::NoToken(reason)) => {
                let _ = self.core.stop(StopReason::NoToken(reason));
                self.settle();
                return None;
            }
        };
        let next = self.core.on_close(ending, self.clock.now(), rand::random());
        self.settle();
        match next {
            Next::Stop(_) => None,
            Next::Again { after_ms, new_token } => Some((after_ms, new_token)),
        }
    }

    /// A socket; `None` when the application left meanwhile.
    async fn open(&mut self) -> Result<Option<Socket>, Failure> {
        // Not before there is room for what it will bring: an unread welcome looks like a server that does not answer.
        while self.is_full() && !self.leaving {
            let stimulus = self.stimulus().await;
            self.on_stimulus(stimulus);
            self.settle();
        }
        if self.leaving {
            return Ok(None);
        }
        if self.token.is_none()
            && let Credentials::Source(source) = self.config.credentials.clone()
        {
            match self.meanwhile(source()).await {
                None => return Ok(None),
                Some(Err(reason)) => return Err(Failure::NoToken(reason)),
                Some(Ok(token)) => self.token = Some(token),
            }
        }
        let options = SocketOptions {
            encoding: self.config.encoding,
            read_buffer_bytes: self.config.read_buffer_bytes,
            message_bytes_max: self.config.message_bytes_max,
            open_timeout_ms: self.config.open_timeout_ms,
            source: None,
        };
        let opening = open_any(self.endpoint.clone(), self.url(), options);
        match self.meanwhile(opening).await {
            None => Ok(None),
            Some(opened) => opened.map(Some).map_err(Failure::Open),
        }
    }

    fn url(&self) -> String {
        let mut parameters = Vec::new();
        if let Credentials::User(user) = &self.config.credentials {
            parameters.push(("user", &**user));
        }
        if self.config.encoding == Encoding::MessagePack {
            parameters.push(("format", "msgpack"));
        }
        self.endpoint.url(&parameters)
    }

    /// One open socket until it ends.
    async fn session(&mut self, mut socket: Socket) -> Ending {
        self.core.on_open(self.token.as_deref(), self.clock.now());
        loop {
            while let Some(output) = self.core.poll_output() {
                let done = match output {
                    Output::Write(frame) => socket.queue(frame),
                    Output::Ping => socket.ping(),
                    Output::GiveUp { reason } => Err(reason),
                    Output::Deliver(event) => {
                        self.outbox.push(event);
                        Ok(())
                    }
                    Output::Answer(reply, result) => {
                        give(reply, result);
                        Ok(())
                    }
                };
                if let Err(reason) = done {
                    return Ending { code: None, reason };
                }
            }
            if self.leaving {
                socket.close(CloseCode::Normal.number(), CLOSE_PATIENCE).await;
                return Ending::default();
            }
            let reading = !self.is_full();
            self.core.on_reading(reading, self.clock.now());
            // No `biased`: a busy server must not starve the application, nor the other way round. A branch that loses
            // the race loses no data.
            tokio::select! {
                incoming = socket.drive(reading) => match incoming {
                    Incoming::Frame(frame) => self.core.on_frame(&frame, self.clock.now()),
                    Incoming::Alive => self.core.on_traffic(self.clock.now()),
                    Incoming::Closed { code, reason } => return Ending { code, reason },
                },
                stimulus = self.stimulus() => self.on_stimulus(stimulus),
            }
        }
    }

    /// Waits for `future` and serves everybody else meanwhile. `None`: the application left first.
    async fn meanwhile<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            if self.leaving {
                return None;
            }
            tokio::select! {
                output = &mut future => return Some(output),
                stimulus = self.stimulus() => self.on_stimulus(stimulus),
            }
            self.settle();
        }
    }

    /// Outputs without a connection: there is nothing to write to.
    fn settle(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Deliver(event) => self.outbox.push(event),
                Output::Answer(reply, result) => give(reply, result),
                // Of the connection that has just ended.
                Output::Write(_) | Output::Ping | Output::GiveUp { .. } => {}
            }
        }
    }

    fn is_full(&self) -> bool {
        let factor = if self.core.request_count() > 0 { ROOM_FOR_ANSWERS } else { 1 };
        self.outbox.bytes() >= self.config.events_bytes_max.saturating_mul(factor)
    }

    async fn stimulus(&mut self) -> Stimulus {
        let deadline = self.core.deadline().map(|at| self.clock.instant(at));
        let timer = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let takes_requests = self.has_requests && self.core.request_count() < REQUESTS_MAX;
        let has_handles = self.has_requests || self.has_controls;
        let events = self.outbox.sender.clone();
        tokio::select! {
            request = self.requests.recv(), if takes_requests => request.map_or(Stimulus::NoRequests, Stimulus::Request),
            control = self.controls.recv(), if self.has_controls => control.map_or(Stimulus::NoControls, Stimulus::Control),
            () = self.outbox.hand_over(), if !self.outbox.is_empty() => Stimulus::HandedOver,
            () = events.closed(), if !has_handles => Stimulus::NoOwner,
            () = timer => Stimulus::Timer,
        }
    }

    fn on_stimulus(&mut self, stimulus: Stimulus) {
        let now = self.clock.now();
        match stimulus {
            Stimulus::Request(Request { what, deadline_ms, reply }) => match what {
                What::Send(request) => self.core.send(reply, request, deadline_ms, now),
                What::History(request) => self.core.history(reply, request, deadline_ms, now),
                What::Ask(request) => self.core.ask(reply, request, deadline_ms, now),
            },
            Stimulus::Control(Control::Ack { of, cursor }) => self.core.ack(&of, &cursor, now),
            Stimulus::Control(Control::AckMessage(message)) => self.core.ack_message(&message, now),
            Stimulus::Control(Control::Close(closer)) => {
                self.closers.push(closer);
                self.leave();
            }
            Stimulus::NoRequests => self.has_requests = false,
            Stimulus::NoControls => self.has_controls = false,
            Stimulus::NoOwner => self.leave(),
            Stimulus::HandedOver => {}
            Stimulus::Timer => self.core.on_timer(now),
        }
    }

    fn leave(&mut self) {
        self.leaving = true;
        self.core.leave();
    }
}

/// Hands an answer over; whoever dropped its future was told what that means.
fn give(reply: Reply, result: Result<Answer, RequestError>) {
    drop(reply.send(result));
}

/// Why there is no socket.
enum Failure {
    Open(OpenError),
    NoToken(String),
}

/// Tries every address of the host, in the resolver's order.
async fn open_any(endpoint: Endpoint, url: String, options: SocketOptions) -> Result<Socket, OpenError> {
    let mut last = None;
    for address in endpoint.resolve().await? {
        match Socket::open(address, &url, options).await {
            Ok(socket) => return Ok(socket),
            Err(error) => last = Some(error),
        }
    }
    // `resolve` gives at least one address.
    Err(last.unwrap_or(OpenError::Timeout(options.open_timeout_ms)))
}
