//! What was asked for and has no answer yet: in which order it goes out, when it is tried again, when it is given up.
//!
//! Pure bookkeeping: which answer means what is decided in [`crate::core`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use protocol::{Millis, UnixMillis};

use crate::body::Body;

mod ask;

pub use ask::{Ask, AskRequest, Whom};

/// Both clocks at one moment. Ages are the larger of the two, because a monotonic clock stands still while a machine
/// sleeps, and a wall clock is set back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub monotonic: Millis,
    pub wall: UnixMillis,
}

impl Now {
    /// Milliseconds since `earlier`, by the clock that says more.
    pub fn since(self, earlier: Self) -> u64 {
        let wall_ms = self.wall.0.saturating_sub(earlier.wall.0);
        self.monotonic.since(earlier.monotonic).max(wall_ms)
    }
}

/// A message to be sent, with everything that a retry needs.
#[derive(Clone, Debug)]
pub struct SendRequest {
    pub id: String,
    pub to: String,
    pub body: Body,
    pub ephemeral: bool,
    pub echo: bool,
    pub expires_ms: Option<u64>,
    /// This id has been tried before, so many milliseconds ago.
    pub retry_age_ms: Option<u64>,
    /// The answer comes when a replica of the backplane has it, too.
    pub replicated: bool,
}

/// A look into the past of a stream.
#[derive(Clone, Debug)]
pub struct HistoryRequest {
    pub id: String,
    pub of: String,
    pub with: Option<String>,
    /// Only what is older than this cursor; `None`: from the newest on.
    pub before: Option<String>,
    /// 1 to 200; the server's default is 50.
    pub limit: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Send(SendRequest),
    History(HistoryRequest),
    Ask(AskRequest),
}

impl Kind {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Send(send) => &send.id,
            Self::History(history) => &history.id,
            Self::Ask(ask) => &ask.id,
        }
    }

    /// Kept nowhere by the server, so never sent twice.
    pub(crate) fn is_ephemeral(&self) -> bool {
        matches!(self, Self::Send(SendRequest { ephemeral: true, .. }))
    }
}

/// In the order in which they were asked for.
pub(crate) type Number = u64;

#[derive(Debug)]
pub(crate) struct Request<T> {
    /// Whom the answer is for; `None`: the session itself.
    pub(crate) handle: Option<T>,
    pub(crate) kind: Kind,
    /// When it was written first; its age counts from here.
    pub(crate) first_write: Option<Now>,
    /// A try is out, or was, whose outcome is not known: the next one is marked `retry`.
    pub(crate) maybe_done: bool,
    state: State,
    expires: Millis,
}

impl<T> Request<T> {
    /// A try may have been executed.
    pub(crate) fn is_out(&self) -> bool {
        self.maybe_done || self.state == State::Written
    }

    /// `age_ms` of the next try, if it is not the first.
    pub(crate) fn retry_age_ms(&self, now: Now) -> Option<u64> {
        let Kind::Send(send) = &self.kind else { return None };
        if !self.maybe_done {
            return None;
        }
        let own_ms = self.first_write.map_or(0, |first| now.since(first));
        Some(own_ms.saturating_add(send.retry_age_ms.unwrap_or_default()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Delayed(Millis),
    Written,
}

/// All requests without an answer, with an index for each question that is asked often.
#[derive(Debug)]
pub(crate) struct Requests<T> {
    all: BTreeMap<Number, Request<T>>,
    by_id: HashMap<String, Number>,
    ready: BTreeSet<Number>,
    delayed: BTreeSet<(Millis, Number)>,
    written: BTreeSet<Number>,
    expiries: BTreeSet<(Millis, Number)>,
    next: Number,
}

impl<T> Requests<T> {
    pub(crate) fn new() -> Self {
        Self {
            all: BTreeMap::new(),
            by_id: HashMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            written: BTreeSet::new(),
            expiries: BTreeSet::new(),
            next: 0,
        }
    }

    /// Takes a request; gives it back if one with the same id waits already.
    pub(crate) fn push(&mut self, handle: Option<T>, kind: Kind, expires: Millis) -> Result<Number, Option<T>> {
        if self.by_id.contains_key(kind.id()) {
            return Err(handle);
        }
        let number = self.next;
        self.next += 1;
        self.by_id.insert(kind.id().to_owned(), number);
        self.ready.insert(number);
        self.expiries.insert((expires, number));
        let maybe_done = matches!(&kind, Kind::Send(send) if send.retry_age_ms.is_some());
        let request = Request { handle, kind, first_write: None, maybe_done, state: State::Ready, expires };
        self.all.insert(number, request);
        Ok(number)
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn written_count(&self) -> usize {
        self.written.len()
    }

    /// The oldest that may be written now.
    pub(crate) fn first_ready(&self) -> Option<Number> {
        self.ready.first().copied()
    }

    /// The oldest of all.
    pub(crate) fn first(&self) -> Option<Number> {
        self.all.first_key_value().map(|(number, _)| *number)
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<Number> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn get(&self, number: Number) -> Option<&Request<T>> {
        self.all.get(&number)
    }

    pub(crate) fn get_mut(&mut self, number: Number) -> Option<&mut Request<T>> {
        self.all.get_mut(&number)
    }

    pub(crate) fn mark_written(&mut self, number: Number, now: Now) {
        self.set(number, State::Written);
        if let Some(request) = self.all.get_mut(&number) {
            request.first_write.get_or_insert(now);
        }
    }

    /// Not before `until`.
    pub(crate) fn delay(&mut self, number: Number, until: Millis) {
        self.set(number, State::Delayed(until));
    }

    /// What was delayed until now is ready.
    pub(crate) fn wake(&mut self, now: Millis) {
        while let Some(&(_, number)) = self.delayed.first().filter(|(until, _)| *until <= now) {
            self.set(number, State::Ready);
        }
    }

    /// Those whose deadline has come.
    pub(crate) fn expired(&self, now: Millis) -> Vec<Number> {
        self.expiries.iter().take_while(|(at, _)| *at <= now).map(|(_, number)| *number).collect()
    }

    /// Those that are out without an answer, in order.
    pub(crate) fn written(&self) -> Vec<Number> {
        self.written.iter().copied().collect()
    }

    /// The connection is gone: what was written may be written again.
    pub(crate) fn make_ready(&mut self, number: Number) {
        self.set(number, State::Ready);
    }

    pub(crate) fn remove(&mut self, number: Number) -> Option<Request<T>> {
        let request = self.all.remove(&number)?;
        self.unindex(number, request.state);
        self.by_id.remove(request.kind.id());
        self.expiries.remove(&(request.expires, number));
        Some(request)
    }

    pub(crate) fn numbers(&self) -> Vec<Number> {
        self.all.keys().copied().collect()
    }

    /// When the next one expires or is due.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        let due = self.delayed.first().map(|(at, _)| *at);
        let expiry = self.expiries.first().map(|(at, _)| *at);
        [due, expiry].into_iter().flatten().min()
    }

    fn set(&mut self, number: Number, state: State) {
        let Some(request) = self.all.get_mut(&number) else { return };
        let old = std::mem::replace(&mut request.state, state);
        self.unindex(number, old);
        match state {
            State::Ready => self.ready.insert(number),
            State::Delayed(until) => self.delayed.insert((until, number)),
            State::Written => self.written.insert(number),
        };
    }

    fn unindex(&mut self, number: Number, state: State) {
        match state {
            State::Ready => self.ready.remove(&number),
            State::Delayed(until) => self.delayed.remove(&(until, number)),
            State::Written => self.written.remove(&number),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { monotonic: Millis(ms), wall: UnixMillis(1_000_000 + ms) }
    }

    fn send(id: &str) -> Kind {
        Kind::Send(SendRequest {
            id: id.into(),
            to: "user:b".into(),
            body: Body::from("x"),
            ephemeral: false,
            echo: false,
            expires_ms: None,
            retry_age_ms: None,
            replicated: false,
        })
    }

    #[test]
    fn a_delayed_request_comes_back_to_its_old_place() {
        let mut requests = Requests::new();
        let [a, b] = ["a", "b"].map(|id| requests.push(Some(()), send(id), Millis(100)).unwrap());
        requests.mark_written(a, at(0));
        requests.delay(a, Millis(5));
        assert_eq!(requests.first_ready(), Some(b));
        assert_eq!(requests.deadline(), Some(Millis(5)));
        requests.wake(Millis(5));
        assert_eq!(requests.first_ready(), Some(a), "what was asked first goes out first");
        assert_eq!(requests.expired(Millis(100)), [a, b]);
        requests.remove(a);
        requests.remove(b);
        assert_eq!((requests.len(), requests.deadline(), requests.by_id("a")), (0, None, None));
    }

    #[test]
    fn one_id_waits_once() {
        let mut requests = Requests::new();
        requests.push(Some(1), send("a"), Millis(1)).unwrap();
        assert_eq!(requests.push(Some(2), send("a"), Millis(1)), Err(Some(2)));
    }

    /// A laptop that slept for an hour: the monotonic clock saw two seconds, the wall clock all of it.
    #[test]
    fn the_age_is_that_of_the_clock_that_says_more() {
        let mut requests = Requests::new();
        let number = requests.push(Some(()), send("a"), Millis(u64::MAX)).unwrap();
        requests.mark_written(number, at(0));
        let later = Now { monotonic: Millis(2_000), wall: UnixMillis(1_000_000 + 3_600_000) };
        assert_eq!(requests.get(number).unwrap().retry_age_ms(later), None, "the first try is no retry");
        requests.get_mut(number).unwrap().maybe_done = true;
        assert_eq!(requests.get(number).unwrap().retry_age_ms(later), Some(3_600_000));
        let set_back = Now { monotonic: Millis(2_000), wall: UnixMillis(5) };
        assert_eq!(requests.get(number).unwrap().retry_age_ms(set_back), Some(2_000));
    }
}
