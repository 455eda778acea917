//! One sender: writes each message when it is due, and counts the answers.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use switchboard_client::socket::{Incoming, Socket};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::sleep_until;

use super::Run;
use super::dialect::Said;
use crate::link::BUNDLE_FRAMES;
use crate::p2p::receiver::disconnect;
use crate::p2p::stamp;

/// Messages of one sender: the number of a body is the sender's place and his own count.
const COUNT_BITS: u32 = 40;

/// Sender and count of a body's number.
pub(super) fn number_of(number: u64) -> (usize, u64) {
    (usize::try_from(number >> COUNT_BITS).unwrap_or(usize::MAX), number & ((1 << COUNT_BITS) - 1))
}

pub(super) struct Sender {
    run: Arc<Run>,
    unanswered: u64,
    body: Vec<u8>,
    written: Written,
}

/// What one sender has to tell.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) sender: usize,
    pub(super) count: u64,
    pub(super) acked: u64,
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) disconnect: Option<String>,
}

impl Sender {
    pub(super) fn new(run: Arc<Run>, sender: usize) -> Self {
        Self { run, unanswered: 0, body: Vec::new(), written: Written { sender, ..Written::default() } }
    }

    /// Until the schedule has ended and all is answered, or the time for that is over.
    pub(super) async fn follow(mut self, mut socket: Socket, mut due: UnboundedReceiver<u64>) -> Written {
        let mut bundle = Vec::new();
        let mut is_over = false;
        let mut give_up = pin!(sleep_until(self.run.clock.instant(self.run.drain_to_ns)));
        while self.written.disconnect.is_none() && !(is_over && self.unanswered == 0) {
            tokio::select! {
                () = socket.drive_bundle(BUNDLE_FRAMES, &mut bundle) => {
                    bundle.drain(..).for_each(|incoming| self.on(incoming, &mut socket));
                }
                turn = due.recv(), if !is_over => match turn {
                    Some(due_ns) => self.write(&mut socket, due_ns),
                    None => is_over = true,
                },
                () = &mut give_up => break,
            }
        }
        self.written
    }

    fn write(&mut self, socket: &mut Socket, due_ns: u64) {
        let n = self.written.count;
        let number = (self.written.sender as u64) << COUNT_BITS | n;
        stamp::write(number, due_ns, self.run.body_bytes, &mut self.body);
        self.written.count += 1;
        self.unanswered += 1;
        let frame = self.run.dialect.send(n, &self.run.group, &self.body);
        if let Err(reason) = socket.queue(frame) {
            self.written.disconnect = Some(disconnect("sender", None, &reason));
        }
    }

    fn on(&mut self, incoming: Incoming, socket: &mut Socket) {
        let frame = match incoming {
            Incoming::Alive => return,
            Incoming::Closed { code, reason } => {
                self.written.disconnect = Some(disconnect("sender", code, &reason));
                return;
            }
            Incoming::Frame(frame) => frame,
        };
        let dialect = self.run.dialect;
        dialect.read(&frame, |said| match said {
            Said::Answered(_) => {
                self.written.acked += 1;
                self.unanswered = self.unanswered.saturating_sub(1);
                self.run.acked.fetch_add(1, Ordering::Relaxed);
            }
            Said::Refused { id, code } => {
                self.unanswered = self.unanswered.saturating_sub(u64::from(id.is_some()));
                *self.written.errors.entry(code).or_default() += 1;
            }
            Said::Reply(reply) => {
                if let Err(reason) = socket.queue(reply) {
                    self.written.disconnect = Some(disconnect("sender", None, &reason));
                }
            }
            Said::Message(_) | Said::Malformed => {
                *self.written.errors.entry("unexpected frame".to_owned()).or_default() += 1;
            }
        });
    }
}
