//! What others hand to a connection: live messages, answers, and notices. Bounded in bytes.
//!
//! All that a stream says is in one queue, in the order in which it was said: a seat, what comes to it, and its end.
//!
//! An idle mailbox is about 100 bytes: a channel of tokio would be 1.5 KB a connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use connection::{Input, Shared, What};
use parking_lot::Mutex;
use protocol::{HandOver, Live, Millis, Text};

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

/// Something of a stream.
#[derive(Debug)]
enum Said {
    Live {
        record: Text,
        version: u64,
        live: Live,
    },
    Shared(Arc<Shared>),
    /// A seat, its end, a page for a member: no more of them than a connection has streams and requests.
    Other(Box<Input>),
}

impl Said {
    /// Bytes that it costs the queue.
    fn weight(&self) -> usize {
        match self {
            Self::Live { live, .. } => live.weight(),
            Self::Shared(shared) => shared.weight(),
            Self::Other(_) => 0,
        }
    }

    fn input(self) -> Input {
        match self {
            Self::Live { record, version, live } => Input::Live { record, version, live },
            Self::Shared(shared) => Input::Shared(shared),
            Self::Other(input) => *input,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    said: VecDeque<Said>,
    said_bytes: usize,
    /// Streams of which something was dropped, or may have been.
    doubts: Vec<Text>,
    /// Bounded by the requests that a connection may have in flight.
    answers: VecDeque<Input>,
    is_dirty: bool,
    generation: bool,
    hand_over: Option<HandOver>,
    drain: Option<u64>,
    waker: Option<Waker>,
    is_closed: bool,
}

impl State {
    fn doubt(&mut self, of: &Text) {
        if !self.doubts.contains(of) {
            self.doubts.push(of.clone());
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// When the connection last had something to do, by the node's clock.
    active_ms: AtomicU64,
}

/// The handle that others hold.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox(Arc<Inner>);

/// The one that the connection's task holds; dropping it closes the mailbox.
#[derive(Debug)]
pub(crate) struct MailboxReceiver(Mailbox);

pub(crate) fn mailbox() -> (Mailbox, MailboxReceiver) {
    let mailbox = Mailbox(Arc::default());
    (mailbox.clone(), MailboxReceiver(mailbox))
}

impl Mailbox {
    /// Hands over a live message of the own inbox.
    pub(crate) fn offer(&self, record: &Text, version: u64, live: &Live) -> Offer {
        let said = || Said::Live { record: record.clone(), version, live: live.clone() };
        self.say(live.weight(), said, |state| state.is_dirty |= matches!(live, Live::Entry(_)))
    }

    /// Hands over what many get. A durable message that finds no room is read from the inbox later.
    pub(crate) fn offer_shared(&self, shared: &Arc<Shared>) -> Offer {
        self.say(
            shared.weight(),
            || Said::Shared(shared.clone()),
            |state| {
                if matches!(shared.what, What::Entry(_)) {
                    state.doubt(&shared.of);
                }
            },
        )
    }

    fn say(&self, weight: usize, said: impl FnOnce() -> Said, refuse: impl FnOnce(&mut State)) -> Offer {
        self.change(|state| {
            if state.said_bytes + weight > LIVE_BYTES_MAX && state.said_bytes > 0 {
                refuse(state);
                return Offer::Full;
            }
            state.said_bytes += weight;
            state.said.push_back(said());
            Offer::Taken
        })
        .unwrap_or(Offer::Gone)
    }

    /// Hands over something else of a stream, behind all that was said of it before.
    pub(crate) fn say_other(&self, input: Input) {
        self.change(|state| state.said.push_back(Said::Other(Box::new(input))));
    }

    /// Something of this stream may be missing: said once, behind what was taken.
    pub(crate) fn doubt(&self, of: &Text) {
        self.change(|state| state.doubt(of));
    }

    /// Another connection took this one's place.
    pub(crate) fn hand_over(&self, why: HandOver) {
        self.change(|state| state.hand_over = Some(why));
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
        if let Some(why) = state.hand_over.take() {
            return Poll::Ready(Input::HandOver(why));
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
        if let Some(said) = state.said.pop_front() {
            state.said_bytes -= said.weight();
            if state.said.is_empty() {
                // An idle connection holds no buffer of its last burst.
                state.said = VecDeque::new();
            }
            return Poll::Ready(said.input());
        }
        // Behind the messages that were taken: the pull then starts where they end.
        if std::mem::take(&mut state.is_dirty) {
            return Poll::Ready(Input::Dirty);
        }
        if let Some(of) = state.doubts.pop() {
            if state.doubts.is_empty() {
                state.doubts = Vec::new();
            }
            return Poll::Ready(Input::Doubt { of });
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
        Live::Entry(Entry {
            cursor: Cursor::default(),
            link: Stamp(0),
            tag: Tag(0),
            mseq: None,
            envelope: envelope.into(),
        })
    }

    fn poll(receiver: &mut MailboxReceiver) -> Poll<Input> {
        receiver.poll(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_full_mailbox_takes_no_more_and_says_so_behind_what_it_took() {
        let (mailbox, mut receiver) = mailbox();
        let record = Text::from("user:b");
        let taken = (0..100).filter(|_| mailbox.offer(&record, 0, &live(16_000)) == Offer::Taken).count();
        assert!((10..20).contains(&taken), "{taken}");
        for _ in 0..taken {
            assert!(matches!(poll(&mut receiver), Poll::Ready(Input::Live { .. })));
        }
        assert!(matches!(poll(&mut receiver), Poll::Ready(Input::Dirty)));
        assert!(poll(&mut receiver).is_pending());
        assert_eq!(mailbox.offer(&record, 0, &live(10)), Offer::Taken);
    }

    #[test]
    fn one_message_larger_than_the_mailbox_is_taken() {
        let (mailbox, _receiver) = mailbox();
        assert_eq!(mailbox.offer(&Text::from("user:b"), 0, &live(LIVE_BYTES_MAX)), Offer::Taken);
    }

    #[test]
    fn a_mailbox_whose_connection_ended_is_gone() {
        let (mailbox, receiver) = mailbox();
        drop(receiver);
        assert_eq!(mailbox.offer(&Text::from("user:b"), 0, &live(1)), Offer::Gone);
    }

    fn shared(of: &str, id: u64, bytes: usize) -> Arc<Shared> {
        let Live::Entry(entry) = live(bytes) else { unreachable!("it is an entry") };
        let cursor = Cursor { seq: id, ..Cursor::default() };
        Arc::new(Shared::new(of.into(), What::Entry(Entry { cursor, ..entry })))
    }

    /// A seat, what comes to it, and its end, whatever of it is an answer.
    #[test]
    fn what_a_stream_says_comes_in_its_order() {
        let (mailbox, mut receiver) = mailbox();
        let of = Text::from("group:den");
        mailbox.say_other(Input::HeadAt { of: of.clone(), cursor: Cursor::default() });
        assert_eq!(mailbox.offer_shared(&shared("group:den", 7, 10)), Offer::Taken);
        mailbox.say_other(Input::Ended { of: of.clone(), mseq: 5 });
        assert!(matches!(poll(&mut receiver), Poll::Ready(Input::HeadAt { .. })));
        assert!(matches!(poll(&mut receiver), Poll::Ready(Input::Shared(_))));
        assert!(matches!(poll(&mut receiver), Poll::Ready(Input::Ended { mseq: 5, .. })));
        assert!(poll(&mut receiver).is_pending());
    }

    #[test]
    fn a_stream_of_which_something_found_no_room_is_doubted_once_and_behind_what_was_taken() {
        let (mailbox, mut receiver) = mailbox();
        let offer =
            |n: u64| mailbox.offer_shared(&shared(if n.is_multiple_of(2) { "group:a" } else { "group:b" }, n, 16_000));
        let taken = (0..100).filter(|n| offer(*n) == Offer::Taken).count();
        assert!((10..20).contains(&taken), "{taken}");
        for _ in 0..taken {
            assert!(matches!(poll(&mut receiver), Poll::Ready(Input::Shared(_))));
        }
        for _ in 0..2 {
            assert!(matches!(poll(&mut receiver), Poll::Ready(Input::Doubt { .. })));
        }
        assert!(poll(&mut receiver).is_pending(), "and nobody else's inbox");
    }
}
