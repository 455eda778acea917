//! The task of one connection: the shell around [`connection::Connection`]. Nothing else touches its socket, and nothing
//! here waits for the backplane: answers come back through the mailbox.

mod counted;
mod errands;
mod perform;
mod socket;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use connection::{Connection, Counts, Input, Now, Opening, Output};
use protocol::{CloseCode, ConnectionId, Millis};
use tokio::time::Sleep;

use crate::door::BoxFuture;
use crate::mailbox::{MailboxReceiver, mailbox};
use crate::node::Node;

pub use counted::Counted;
pub(crate) use errands::Errands;
pub use socket::Socket;
use socket::Wire;
#[doc(hidden)]
pub use socket::{close, close_code};

/// Inputs that are taken before the socket is flushed and others have their turn.
const INPUTS_PER_TURN: usize = 64;

struct Driver {
    node: Arc<Node>,
    connection: Connection,
    wire: Wire,
    mailbox: MailboxReceiver,
    desk: perform::Desk,
    counts: Counts,
    queued_bytes: usize,
    close: Option<Option<CloseCode>>,
    has_left: bool,
    /// One timer for all deadlines. It is moved only forward in time: one that fires too early costs a look.
    sleep: Pin<Box<Sleep>>,
    armed: Millis,
}

/// Opens one connection; the future runs it until it is closed.
///
/// Everything is moved into its place before the future is made, and what only the end needs is put on the heap then: an
/// `async fn` would keep a slot for each of its arguments and for the linger buffer, 8 KB a connection.
pub(crate) fn open(node: Arc<Node>, socket: Socket, opening: Opening, peer: SocketAddr) -> BoxFuture<'static, ()> {
    let started = node.clock.now();
    let mut driver = Driver::new(node, socket, opening, started);
    Box::pin(async move {
        let code = std::future::poll_fn(|cx| driver.poll(cx)).await;
        Box::pin(driver.finish(code, peer, started)).await;
    })
}

impl Driver {
    fn new(node: Arc<Node>, socket: Socket, opening: Opening, started: Millis) -> Self {
        let id = ConnectionId(rand::random());
        let (sender, mailbox) = mailbox();
        node.metrics.connections_opened.increment(1);
        node.metrics.connections.increment(1.0);
        node.open.fetch_add(1, Ordering::Relaxed);
        node.registry.open(id, sender.clone());
        mailbox.mark_active(started);
        Self {
            wire: Wire::new(socket, node.settings.max_bytes),
            mailbox,
            desk: perform::Desk::new(id, sender),
            counts: Counts::default(),
            queued_bytes: 0,
            close: None,
            has_left: false,
            sleep: Box::pin(tokio::time::sleep_until(node.clock.instant(started))),
            armed: started,
            connection: Connection::new(node.settings.clone(), id, opening, node.now()),
            node,
        }
    }

    /// Turns until the connection says how it ends.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<CloseCode>> {
        for _ in 0..INPUTS_PER_TURN {
            self.drain();
            if let Some(code) = self.close {
                self.book();
                return Poll::Ready(code);
            }
            match self.poll_input(cx) {
                Poll::Ready(input) => {
                    let now = self.node.now();
                    if matches!(input, Input::Text(_) | Input::Binary(_) | Input::Live { .. }) {
                        self.mailbox.mark_active(now.at);
                    }
                    self.connection.handle(input, now);
                }
                Poll::Pending => {
                    // Everything was taken: now what came of it goes out, as one write.
                    let was_reading = self.connection.wants_input();
                    match self.wire.poll_write(cx, &mut self.connection) {
                        // The queue has room again: the socket has to be asked, or nobody wakes this task for it.
                        Ok(()) if !was_reading && self.connection.wants_input() => continue,
                        Ok(()) => {}
                        Err(input) => {
                            self.connection.handle(input, self.node.now());
                            continue;
                        }
                    }
                    // Writing made room: a paused delivery may have something to ask.
                    if self.drain() {
                        continue;
                    }
                    if self.arm(cx).is_ready() {
                        self.connection.handle(Input::Timer, self.node.now());
                        continue;
                    }
                    self.book();
                    return Poll::Pending;
                }
            }
        }
        // A busy connection lets others have their turn, but first writes what it has.
        if let Err(input) = self.wire.poll_write(cx, &mut self.connection) {
            self.connection.handle(input, self.node.now());
        }
        self.book();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Input> {
        if let Poll::Ready(input) = self.mailbox.poll(cx) {
            return Poll::Ready(input);
        }
        if self.connection.wants_input() { self.wire.poll_read(cx) } else { Poll::Pending }
    }

    /// Performs what the connection wants done; true if there was anything.
    fn drain(&mut self) -> bool {
        let mut any = false;
        while let Some(output) = self.connection.poll_output() {
            any = true;
            match output {
                Output::Request(request) => {
                    if let Some(input) = self.desk.perform(&self.node, request) {
                        self.connection.handle(input, self.node.now());
                    }
                }
                Output::Close(code) => self.close = Some(code),
            }
        }
        any
    }

    /// Sleeps until the next deadline; ready if it has come.
    fn arm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.connection.deadline() else { return Poll::Pending };
        loop {
            if deadline < self.armed || self.sleep.is_elapsed() {
                self.armed = deadline;
                self.sleep.as_mut().reset(self.node.clock.instant(deadline));
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.node.clock.now() >= deadline {
                return Poll::Ready(());
            }
        }
    }

    /// Books what has happened since the last time.
    fn book(&mut self) {
        let counts = self.connection.take_counts();
        if counts != Counts::default() {
            self.node.book(&counts);
            self.counts.add(&counts);
        }
        let queued = self.connection.queued_bytes();
        if queued != self.queued_bytes {
            #[allow(clippy::cast_precision_loss, reason = "bytes of one connection's queue are far below 2^52")]
            self.node.metrics.queue_bytes.increment(queued as f64 - self.queued_bytes as f64);
            self.queued_bytes = queued;
        }
    }

    async fn finish(mut self, code: Option<CloseCode>, peer: SocketAddr, started: Millis) {
        self.leave();
        match code {
            Some(code) => self.wire.close(code, &mut self.connection).await,
            None => self.wire.answer_close().await,
        }
        self.book();
        self.node.metrics.connections_closed.of(crate::metrics::Closed(code)).increment(1);
        let open_ms = self.node.clock.now().since(started);
        tracing::debug!(
            connection = %self.connection.id(),
            %peer,
            open_ms,
            code = code.map_or(0, CloseCode::number),
            frames_in = self.counts.frames_in,
            delivered = self.counts.delivered_durable + self.counts.delivered_ephemeral,
            dropped = self.counts.dropped_ephemeral,
            "connection closed"
        );
    }

    /// Nobody finds this connection any more.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.has_left, true) {
            self.desk.leave(&self.node);
            self.node.metrics.connections.decrement(1.0);
        }
    }
}

/// However a connection ends, by a panic too: no location, no gauge and no count of it stays.
impl Drop for Driver {
    fn drop(&mut self) {
        self.leave();
        #[allow(clippy::cast_precision_loss, reason = "bytes of one connection's queue are far below 2^52")]
        self.node.metrics.queue_bytes.decrement(self.queued_bytes as f64);
        self.node.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Node {
    /// What a connection is told about the time.
    pub(crate) fn now(&self) -> Now {
        Now { at: self.clock.now(), backplane_us: self.current.now_us().unwrap_or_else(crate::clock::wall_us) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle connection's memory is a promise (docs/performance.md); its largest part must not grow unnoticed.
    #[test]
    fn the_state_of_a_connection_stays_small() {
        assert!(size_of::<Driver>() <= 1_280, "{} bytes", size_of::<Driver>());
    }
}
