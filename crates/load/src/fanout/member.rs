//! One member: counts what comes of each sender, and finds gaps, repeats and what is out of order.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use switchboard_client::socket::{Incoming, Socket};
use tokio_util::sync::CancellationToken;

use super::Run;
use super::dialect::Said;
use super::sender::number_of;
use crate::link::BUNDLE_FRAMES;
use crate::p2p::receiver::disconnect;
use crate::p2p::stamp;

pub(super) struct Member {
    run: Arc<Run>,
    index: usize,
    heard: Heard,
}

/// What one member has to tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// By sender.
    pub(super) of: Vec<FromOne>,
    pub(super) foreign: u64,
    pub(super) disconnect: Option<String>,
}

/// A sender numbers his messages from 0 on, so one number says what has to come next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FromOne {
    pub(super) count: u64,
    next: u64,
    /// Came after one that was sent later, or once more.
    pub(super) late: u64,
}

impl Member {
    pub(super) fn new(run: Arc<Run>, index: usize) -> Self {
        let heard = Heard { of: vec![FromOne::default(); run.senders], ..Heard::default() };
        Self { run, index, heard }
    }

    pub(super) async fn run(mut self, mut socket: Socket, enough: CancellationToken) -> Heard {
        let mut enough = pin!(enough.cancelled());
        let mut bundle = Vec::new();
        while self.heard.disconnect.is_none() {
            tokio::select! {
                () = socket.drive_bundle(BUNDLE_FRAMES, &mut bundle) => {
                    bundle.drain(..).for_each(|incoming| self.on(incoming, &mut socket));
                }
                () = &mut enough => break,
            }
        }
        self.heard
    }

    fn on(&mut self, incoming: Incoming, socket: &mut Socket) {
        match incoming {
            Incoming::Alive => {}
            Incoming::Closed { code, reason } => self.heard.disconnect = Some(disconnect("member", code, &reason)),
            Incoming::Frame(frame) => {
                let dialect = self.run.dialect;
                dialect.read(&frame, |said| match said {
                    Said::Message(body) => self.on_message(body),
                    Said::Reply(reply) => {
                        if let Err(reason) = socket.queue(reply) {
                            self.heard.disconnect = Some(disconnect("member", None, &reason));
                        }
                    }
                    Said::Answered(_) | Said::Refused { .. } | Said::Malformed => self.heard.foreign += 1,
                });
            }
        }
    }

    fn on_message(&mut self, body: &[u8]) {
        let now_ns = self.run.clock.now_ns();
        let Some((number, at_ns)) = stamp::read(body).filter(|(_, at_ns)| *at_ns <= now_ns) else {
            self.heard.foreign += 1;
            return;
        };
        let (sender, n) = number_of(number);
        let Some(of) = self.heard.of.get_mut(sender) else {
            self.heard.foreign += 1;
            return;
        };
        if n < of.next {
            of.late += 1;
            return;
        }
        of.count += 1;
        of.next = n + 1;
        self.run.received.fetch_add(1, Ordering::Relaxed);
        if self.run.is_measured(now_ns) {
            self.run.delivered.fetch_add(1, Ordering::Relaxed);
        }
        if self.run.is_measured(at_ns) {
            self.run.latency.record(self.index, now_ns - at_ns);
        }
    }
}
