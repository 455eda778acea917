//! The receiving half of a pair: what came, in which order, how late.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use protocol::Encoding;
use protocol::client::fields::{self, Fields};
use switchboard_client::Status;
use switchboard_client::socket::{Incoming, Socket};
use switchboard_client::wire::ServerEvent;
use tokio_util::sync::CancellationToken;

use super::bits::Bits;
use super::{Progress, Run, stamp};
use crate::link::BUNDLE_FRAMES;

pub(super) struct Receiver {
    run: Arc<Run>,
    index: usize,
    progress: Arc<Progress>,
    /// The highest number so far, plus one.
    next: u64,
    received: Received,
}

/// What one receiver has to tell.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) seen: Bits,
    pub(super) duplicates: u64,
    pub(super) reordered: u64,
    pub(super) resets: u64,
    pub(super) again: u64,
    pub(super) foreign: u64,
    pub(super) disconnect: Option<String>,
}

impl Receiver {
    pub(super) fn new(run: Arc<Run>, index: usize, progress: Arc<Progress>) -> Self {
        Self { run, index, progress, next: 0, received: Received::default() }
    }

    pub(super) async fn run(mut self, mut socket: Socket, enough: CancellationToken) -> Received {
        let mut enough = pin!(enough.cancelled());
        let mut bundle = Vec::new();
        while self.received.disconnect.is_none() {
            tokio::select! {
                () = socket.drive_bundle(BUNDLE_FRAMES, &mut bundle) => bundle.drain(..).for_each(|incoming| self.on(incoming)),
                () = &mut enough => break,
            }
        }
        if self.received.disconnect.is_some() {
            self.progress.deaf.store(1, Ordering::Relaxed);
        }
        self.received
    }

    fn on(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Alive => {}
            Incoming::Closed { code, reason } => {
                self.received.disconnect = Some(disconnect("receiver", code, &reason));
            }
            Incoming::Frame(frame) => match fields::split(Encoding::Json, &frame) {
                Ok(frames) => frames.iter().for_each(|fields| self.on_frame(fields)),
                Err(_) => self.received.foreign += 1,
            },
        }
    }

    fn on_frame(&mut self, fields: &Fields<'_>) {
        // The usual case without building an owned event: this loop must cost less than the server it measures.
        if fields.get("type").and_then(|kind| kind.text()).as_deref() == Some("message") {
            let again = fields.get("again").and_then(|raw| raw.bool()).unwrap_or_default();
            let stamp = fields.get("body").and_then(|body| stamp::read(body.bytes));
            return self.on_message(stamp, again);
        }
        match ServerEvent::from_fields(fields) {
            ServerEvent::Reset(_) => self.received.resets += 1,
            ServerEvent::Stream(stream) if stream.status == Status::Reset => self.received.resets += 1,
            _ => {}
        }
    }

    fn on_message(&mut self, stamp: Option<(u64, u64)>, again: bool) {
        let now_ns = self.run.clock.now_ns();
        // A number that no sender can have reached would also be a bitmap without bound.
        let Some((n, at_ns)) = stamp.filter(|(n, at_ns)| *n < u64::from(u32::MAX) && *at_ns <= now_ns) else {
            self.received.foreign += 1;
            return;
        };
        if !self.received.seen.set(n) {
            *(if again { &mut self.received.again } else { &mut self.received.duplicates }) += 1;
            return;
        }
        if n < self.next {
            self.received.reordered += 1;
        }
        self.next = self.next.max(n + 1);
        self.progress.received.fetch_add(1, Ordering::Relaxed);
        if self.run.is_measured(now_ns) {
            self.run.delivered.fetch_add(1, Ordering::Relaxed);
        }
        if self.run.is_measured(at_ns) {
            self.run.latency.record(self.index, now_ns - at_ns);
        }
    }
}

/// For the report: how a connection ended that should not have.
pub(crate) fn disconnect(who: &str, code: Option<u16>, reason: &str) -> String {
    match code {
        Some(code) => format!("{who}: closed with {code} {reason}"),
        None => format!("{who}: {reason}"),
    }
}
