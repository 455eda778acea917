//! What others hand to a connection: live messages, answers, and notices. Bounded in bytes.
//!
//! An idle mailbox is about 100 bytes: a channel of tokio would be 1.5 KB a connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use connection::Input;
use parking_lot::Mutex;
use protocol::{Live, Millis, Text};

/// Bytes of live messages that wait for one connection's task. The task empties it at every turn, so this is only
/// reached while the task does not run; a full mailbox costs one more read of the inbox.
const LIVE_BYTES_MAX: usize = 256 * 1024;

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Offer {
    Taken,
    /// Not taken: a durable message is read from the inbox later, an ephemeral one is lost and counted.
    Full,
    /// Nobody is there any more.
    Gone,
}

#[derive(Debug, Default)]
struct State {
    live: VecDeque<(Text, Live)>,
    live_bytes: usize,
    /// Bounded by the requests that a connection may have in flight.
    answers: VecDeque<Input>,
    is_dirty: bool,
    generation: bool,
    drain: Option<u64>,
    waker: Option<Waker>,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// When the connection last had something to do, by the node's clock.
    active_ms: AtomicU64,
}

/// The handle that others hold.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox(Arc<Shared>);

/// The one that the connection's task holds; dropping it closes the mailbox.
#[derive(Debug)]
pub(crate) struct MailboxReceiver(Mailbox);

pub(crate) fn mailbox() -> (Mailbox, MailboxReceiver) {
    let mailbox = Mailbox(Arc::default());
    (mailbox.clone(), MailboxReceiver(mailbox))
}

impl Mailbox {
    /// Hands over a live message.
    pub(crate) fn offer(&self, record: &Text, live: &Live) -> Offer {
        let weight = live.envelope().weight();
        self.change(|state| {
            if state.live_bytes + weight > LIVE_BYTES_MAX && !state.live.is_empty() {
                state.is_dirty |= matches!(live, Live::Entry(_));
                return Offer::Full;
            }
            state.live_bytes += weight;
            state.live.push_back((record.clone(), live.clone()));
            Offer::Taken
        })
        .unwrap_or(Offer::Gone)
    }

    /// Hands over an answer that the connection asked for.
    pub(crate) fn answer(&self, input: Input) {
        self.change(|state| state.answers.push_back(input));
    }

    /// A new generation began.
    pub(crate) fn notify_generation(&self) {
        self.change(|state| state.generation = true);
    }

    /// The node is being stopped.
    pub(crate) fn notify_drain(&self, reconnect_ms: u64) {
        self.change(|state| state.drain = Some(reconnect_ms));
    }

    /// When a message last came from the client or was handed to it. Pings count for nothing: everybody has them.
    pub(crate) fn active_at(&self) -> Millis {
        Millis(self.0.active_ms.load(Ordering::Relaxed))
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> Option<R> {
        let mut state = self.0.state.lock();
        if state.is_closed {
            return None;
        }
        let result = change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(result)
    }
}

impl MailboxReceiver {
    /// The connection has something to do.
    pub(crate) fn mark_active(&self, now: Millis) {
        self.0.0.active_ms.store(now.0, Ordering::Relaxed);
    }

    /// The next input. Answers first: a pull's answer makes room for what comes behind it.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Input> {
        let mut state = self.0.0.state.lock();
        if let Some(reconnect_ms) = state.drain.take() {
            return Poll::Ready(Input::Drain { reconnect_ms });
        }
        if std::mem::take(&mut state.generation) {
            return Poll::Ready(Input::Generation);
        }
        if let Some(answer) = state.answers.pop_front() {
            if state.answers.is_empty() {
                state.answers = VecDeque::new();
            }
            return Poll::Ready(answer);
        }
        if let Some((record, live)) = state.live.pop_front() {
            state.live_bytes -= live.envelope().weight();
            if state.live.is_empty() {
                // An idle connection holds no buffer of its last burst.
                state.live = VecDeque::new();
            }
            return Poll::Ready(Input::Live { record, live });
        }
        // Behind the messages that were taken: the pull then starts where they end.
        if std::mem::take(&mut state.is_dirty) {
            return Poll::Ready(Input::Dirty);
        }
        if !state.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for MailboxReceiver {
    fn drop(&mut self) {
        *self.0.0.state.lock() = State { is_closed: true, ..State::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use protocol::{Cursor, Encoding, Entry, Envelope, Stamp, Tag};

    fn live(bytes: usize) -> Live {
        let envelope = Envelope {
            to: "user:b".into(),
            from: "user:a".into(),
            id: "1".into(),
            encoding: Encoding::Json,
            body: Bytes::from(vec![b'1'; bytes]),
            expires_ms: None,
            traceparent: None,
            flags: 0,
        };
        Live::Entry(Entry { cursor: Cursor::default(), link: Stamp(0), tag: Tag(0), envelope: envelope.into() })
    }

    fn poll(receiver: &mut MailboxReceiver) -> Poll<Input> {
        receiver.poll(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_full_mailbox_takes_no_more_and_says_so_behind_what_it_took() {
        let (mailbox, mut receiver) = mailbox();
        let record = Text::from("user:b");
        let taken = (0..100).filter(|_| mailbox.offer(&record, &live(16_000)) == Offer::Taken).count();
        assert!((10..20).contains(&taken), "{taken}");
        for _ in 0..taken {
            assert!(matches!(poll(&mut receiver), Poll::Ready(Input::Live { .. })));
        }
        assert!(matches!(poll(&mut receiver), Poll::Ready(Input::Dirty)));
        assert!(poll(&mut receiver).is_pending());
        assert_eq!(mailbox.offer(&record, &live(10)), Offer::Taken);
    }

    #[test]
    fn one_message_larger_than_the_mailbox_is_taken() {
        let (mailbox, _receiver) = mailbox();
        assert_eq!(mailbox.offer(&Text::from("user:b"), &live(LIVE_BYTES_MAX)), Offer::Taken);
    }

    #[test]
    fn a_mailbox_whose_connection_ended_is_gone() {
        let (mailbox, receiver) = mailbox();
        drop(receiver);
        assert_eq!(mailbox.offer(&Text::from("user:b"), &live(1)), Offer::Gone);
    }
}
