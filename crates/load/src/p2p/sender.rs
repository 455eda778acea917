//! The sending half of a pair: as fast as answers come, or by the schedule.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use protocol::Encoding;
use protocol::client::fields::{self, Fields};
use switchboard_client::Body;
use switchboard_client::socket::{Incoming, Socket};
use switchboard_client::wire::ServerEvent;
use switchboard_client::wire::write::{ClientFrame, Send};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::sleep_until;

use super::bits::Bits;
use super::receiver::disconnect;
use super::{Progress, Run, stamp};
use crate::link::BUNDLE_FRAMES;

/// Messages without an answer, of a sender that follows a schedule. Only a server that has stopped answering gets there;
/// what is due meanwhile is written later, and its latency counts from when it was due.
const OPEN_LOOP_MAX: usize = 4_096;

/// Turns taken from the schedule at once.
const TURNS: usize = 64;

pub(super) struct Sender {
    run: Arc<Run>,
    index: usize,
    progress: Arc<Progress>,
    to: String,
    /// When each message was written, by its number.
    written_ns: Vec<u64>,
    unanswered: usize,
    body: Vec<u8>,
    result: Written,
}

/// What one sender has to tell.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) count: u64,
    pub(super) acked: Bits,
    /// Told to be refused; an unknown outcome is not among them.
    pub(super) refused: Bits,
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) unsent: u64,
    pub(super) disconnect: Option<String>,
}

impl Sender {
    pub(super) fn new(run: Arc<Run>, index: usize, progress: Arc<Progress>, to: String) -> Self {
        let result = Written::default();
        Self { run, index, progress, to, written_ns: Vec::new(), unanswered: 0, body: Vec::new(), result }
    }

    /// Keeps `window` messages without an answer until the measured time is over, then waits for the answers.
    pub(super) async fn saturate(mut self, mut socket: Socket, start_ns: u64, window: usize) -> Written {
        sleep_until(self.run.clock.instant(start_ns)).await;
        let mut bundle = Vec::new();
        let mut is_over = false;
        // First the end of the measured time, then the end of waiting for answers.
        let mut limit = pin!(sleep_until(self.run.clock.instant(self.run.measure_to_ns)));
        loop {
            while !is_over && self.unanswered < window && self.result.disconnect.is_none() {
                self.write(&mut socket, None);
            }
            if self.result.disconnect.is_some() || (is_over && self.unanswered == 0) {
                return self.result;
            }
            tokio::select! {
                () = socket.drive_bundle(BUNDLE_FRAMES, &mut bundle) => bundle.drain(..).for_each(|incoming| self.on(incoming)),
                () = &mut limit => {
                    if is_over {
                        return self.result;
                    }
                    is_over = true;
                    limit.as_mut().reset(self.run.clock.instant(self.run.drain_to_ns));
                }
            }
        }
    }

    /// Writes each message when its turn comes, until the schedule ends; then waits for the answers.
    pub(super) async fn follow(mut self, mut socket: Socket, mut due: UnboundedReceiver<u64>) -> Written {
        let mut bundle = Vec::new();
        let mut turns = Vec::with_capacity(TURNS);
        let mut waiting: VecDeque<u64> = VecDeque::new();
        let mut is_over = false;
        let mut give_up = pin!(sleep_until(self.run.clock.instant(self.run.drain_to_ns)));
        loop {
            while self.unanswered < OPEN_LOOP_MAX
                && self.result.disconnect.is_none()
                && let Some(due_ns) = waiting.pop_front()
            {
                self.write(&mut socket, Some(due_ns));
            }
            let is_done = is_over && waiting.is_empty() && self.unanswered == 0;
            if is_done || self.result.disconnect.is_some() {
                break;
            }
            tokio::select! {
                () = socket.drive_bundle(BUNDLE_FRAMES, &mut bundle) => bundle.drain(..).for_each(|incoming| self.on(incoming)),
                count = due.recv_many(&mut turns, TURNS), if !is_over => {
                    is_over = count == 0;
                    waiting.extend(turns.drain(..));
                }
                () = &mut give_up => break,
            }
        }
        // For a connection that ended early, the rest of the schedule is unsent too; it ends with the measured time.
        self.result.unsent = waiting.len() as u64;
        while due.recv().await.is_some() {
            self.result.unsent += 1;
        }
        self.result
    }

    fn write(&mut self, socket: &mut Socket, due_ns: Option<u64>) {
        let now_ns = self.run.clock.now_ns();
        let n = self.result.count;
        stamp::write(n, due_ns.unwrap_or(now_ns), self.run.body_bytes, &mut self.body);
        let body = Body::encoded(Encoding::Json, Bytes::copy_from_slice(&self.body));
        let id = n.to_string();
        let send = Send {
            id: &id,
            to: &self.to,
            body: &body,
            ephemeral: self.run.ephemeral,
            echo: false,
            expires_ms: None,
            retry_age_ms: None,
            replicated: self.run.replicated_every.is_some_and(|every| n.is_multiple_of(every)),
        };
        let mut frame = Vec::with_capacity(self.body.len() + 96);
        ClientFrame::Send(send).encode(Encoding::Json, &mut frame);
        self.result.count += 1;
        self.written_ns.push(now_ns);
        self.unanswered += 1;
        if let Err(reason) = socket.queue(frame) {
            self.result.disconnect = Some(disconnect("sender", None, &reason));
        }
    }

    fn on(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Alive => {}
            Incoming::Closed { code, reason } => {
                self.result.disconnect = Some(disconnect("sender", code, &reason));
            }
            Incoming::Frame(frame) => match fields::split(Encoding::Json, &frame) {
                Ok(frames) => frames.iter().for_each(|fields| self.on_frame(fields)),
                Err(_) => self.count_error("malformed frame"),
            },
        }
    }

    fn on_frame(&mut self, fields: &Fields<'_>) {
        // The usual case without building an owned event, as in the receiver.
        if fields.get("type").and_then(|kind| kind.text()).as_deref() == Some("sent") {
            let id = fields.get("id").and_then(|raw| raw.text());
            return match id.and_then(|id| self.number(&id)) {
                Some(n) => self.on_sent(n),
                None => self.count_error("answer to nothing"),
            };
        }
        if let ServerEvent::Error(error) = ServerEvent::from_fields(fields) {
            self.count_error(&error.code);
            if let Some(n) = error.id.and_then(|id| self.number(&id)) {
                self.unanswered = self.unanswered.saturating_sub(1);
                if error.code != "unknown_outcome" {
                    self.result.refused.set(n);
                }
            }
        }
    }

    /// The number that an id stands for, if it was written.
    fn number(&self, id: &str) -> Option<u64> {
        id.parse().ok().filter(|n| *n < self.result.count)
    }

    fn on_sent(&mut self, n: u64) {
        if !self.result.acked.set(n) {
            self.count_error("answered twice");
            return;
        }
        self.unanswered = self.unanswered.saturating_sub(1);
        self.progress.acked.fetch_add(1, Ordering::Relaxed);
        let now_ns = self.run.clock.now_ns();
        if self.run.is_measured(now_ns) {
            self.run.acked.fetch_add(1, Ordering::Relaxed);
        }
        let written_ns = self.written_ns[n as usize];
        if self.run.is_measured(written_ns) {
            self.run.ack_latency.record(self.index, now_ns - written_ns);
        }
    }

    fn count_error(&mut self, code: &str) {
        match self.result.errors.get_mut(code) {
            Some(count) => *count += 1,
            None => drop(self.result.errors.insert(code.to_owned(), 1)),
        }
    }
}
