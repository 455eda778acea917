//! Bytes queued for the socket, bounded. Durable messages are not dropped here: their delivery pauses, and the inbox is
//! the buffer.

use std::collections::VecDeque;

use bytes::Bytes;
use delivery::sabotage::{self, Rule};
use protocol::client::{Codec, ServerFrame, WireFrame};

/// What a joined batch may hold.
const BATCH_BYTES: usize = 32 * 1024;
const BATCH_FRAMES: usize = 256;

#[derive(Debug)]
pub(crate) struct Outbox {
    codec: Codec,
    frames: VecDeque<Bytes>,
    bytes: usize,
    bytes_max: usize,
    /// The client takes arrays of frames.
    pub(crate) batch: bool,
}

impl Outbox {
    pub(crate) fn new(codec: Codec, bytes_max: usize) -> Self {
        Self { codec, frames: VecDeque::new(), bytes: 0, bytes_max, batch: false }
    }

    /// Queues a frame. Answers and byes always fit: a client that does not read is not read from.
    pub(crate) fn push(&mut self, frame: &ServerFrame<'_>) {
        self.push_written(self.codec.encode(frame));
    }

    /// Queues a frame that is written already, in this connection's encoding.
    pub(crate) fn push_written(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max && !sabotage::is_off(Rule::QueueOverCap)
    }

    /// Drained far enough for a paused delivery to go on.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes <= self.bytes_max / 2
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the next WebSocket message: one frame, or an array of what waits.
    pub(crate) fn pop(&mut self) -> Option<WireFrame> {
        let first = self.frames.pop_front()?;
        self.bytes -= first.len();
        if !self.batch || self.frames.is_empty() {
            self.shrink();
            return Some(self.codec.join(std::slice::from_ref(&first)));
        }
        let mut size = first.len();
        let mut list = vec![first];
        while let Some(next) = self.frames.front() {
            if list.len() >= BATCH_FRAMES || size + next.len() > BATCH_BYTES {
                break;
            }
            size += next.len();
            self.bytes -= next.len();
            list.extend(self.frames.pop_front());
        }
        self.shrink();
        Some(self.codec.join(&list))
    }

    /// An idle connection holds no buffer of its last burst.
    fn shrink(&mut self) {
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
        }
    }
}
