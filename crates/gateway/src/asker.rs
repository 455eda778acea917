//! What a node asks the backplane for its connections and heads, other than appends: attaches, reads, membership changes,
//! verifies, histories, acks and detaches, in one queue. This file owns it; the order is in `queue.rs`, the calls themselves are in `calls.rs`.
//!
//! Nobody waits here: the answer comes through the mailbox. Who finds the queue full is answered at once, and asks again
//! later. Rule: docs/delivery.md, On the node, 3 to 5.

mod calls;
mod coalesce;
mod line;
mod load;
mod queue;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use backplane::{AttachRequest, Commands, DetachRequest, HistoryRequest, ReadRequest, VerifyRequest};
use connection::{HistoryFault, Input, Unavailable};
use delivery::{Ack, Attached, Registered, Standing};
use metrics::Counter;
use parking_lot::Mutex;
use protocol::{Address, MessageId, Millis, Text, UserId};
use routing::SlotGroup;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::current::Current;
use crate::heads::{HeadMailbox, Order};
use crate::mailbox::Mailbox;
use crate::metrics::Gauges;
use crate::registry::Registry;

use coalesce::{Question, Reads};
pub use line::Class;
use line::Line;
use load::Master;
use queue::{Full, Queue};

/// How often those are looked after whose master is away.
const TICK: Duration = Duration::from_millis(50);

/// One who waits for an answer about an address.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) of: Address,
    pub(crate) mailbox: Mailbox,
}

/// Whoever gets an answer.
#[derive(Clone, Debug)]
pub(crate) enum Asking {
    Connection(Who),
    /// This node's head of the group.
    Head(HeadMailbox),
}

impl From<Who> for Asking {
    fn from(who: Who) -> Self {
        Self::Connection(who)
    }
}

impl From<HeadMailbox> for Asking {
    fn from(head: HeadMailbox) -> Self {
        Self::Head(head)
    }
}

/// Why a connection attaches: how long it can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It is opening.
    Opening,
    /// It is open, and had something to do lately.
    Active,
    /// It is open, and had not.
    Quiet,
}

/// Something to ask.
#[derive(Debug)]
enum What {
    Attach(AttachRequest, Asking),
    Verify(VerifyRequest, Asking),
    /// Who waits for it is in [`State::reads`].
    Read(ReadRequest),
    History(HistoryRequest, MessageId, Mailbox),
    /// The changes of a group behind a number, for its head.
    Changes(Text, u64, HeadMailbox),
    /// Which of these users are members.
    Memberships(Text, Vec<UserId>, HeadMailbox),
    Ack(Ack),
    Detach(DetachRequest),
}

#[derive(Debug)]
struct Request {
    what: What,
    since: Millis,
    /// How often it was asked in vain.
    tries: u32,
}

/// One who reads, and how often that was asked in vain.
#[derive(Debug)]
struct Reader {
    asking: Asking,
    tries: u32,
}

#[derive(Debug)]
struct State {
    queue: Queue<Request>,
    reads: Reads<Reader>,
}

/// What is measured of the queue.
#[derive(Clone, Debug)]
pub(crate) struct Measures {
    pub(crate) waiting: Gauges<Class>,
    pub(crate) late_checks: Counter,
    /// How long a check may wait before it counts as late: the period of checks.
    pub(crate) late_ms: u64,
}

/// The queue of one node.
#[derive(Debug)]
pub(crate) struct Asker {
    state: Mutex<State>,
    wake: Notify,
    current: Arc<Current>,
    registry: Arc<Registry>,
    clock: Clock,
    measures: Measures,
}

impl Asker {
    pub(crate) fn new(current: Arc<Current>, registry: Arc<Registry>, clock: Clock, measures: Measures) -> Self {
        let state = State { queue: Queue::new(current.group_count()), reads: Reads::new() };
        Self { state: Mutex::new(state), wake: Notify::new(), current, registry, clock, measures }
    }

    pub(crate) fn attach(&self, request: AttachRequest, asking: impl Into<Asking>, cause: Cause) {
        let line = match cause {
            Cause::Opening => Line::Opening,
            Cause::Active => Line::Again,
            Cause::Quiet => Line::Quiet,
        };
        self.submit(line, self.request(What::Attach(request, asking.into())));
    }

    pub(crate) fn verify(&self, request: VerifyRequest, asking: impl Into<Asking>) {
        self.submit(Line::Verify, self.request(What::Verify(request, asking.into())));
    }

    pub(crate) fn changes(&self, of: Text, after: u64, head: HeadMailbox) {
        self.submit(Line::Changes, self.request(What::Changes(of, after, head)));
    }

    pub(crate) fn memberships(&self, of: Text, users: Vec<UserId>, head: HeadMailbox) {
        self.submit(Line::Changes, self.request(What::Memberships(of, users, head)));
    }

    pub(crate) fn history(&self, id: MessageId, request: HistoryRequest, mailbox: Mailbox) {
        self.submit(Line::History, self.request(What::History(request, id, mailbox)));
    }

    /// An ack that finds no room is lost: the next one says more.
    pub(crate) fn ack(&self, ack: Ack) {
        self.submit(Line::Ack, self.request(What::Ack(ack)));
    }

    /// A detach that finds no room is found by the next attach or verify of the address.
    pub(crate) fn detach(&self, request: DetachRequest) {
        self.submit(Line::Detach, self.request(What::Detach(request)));
    }

    /// Reads one page, together with others that wait to read after the very same places.
    pub(crate) fn read(&self, request: ReadRequest, asking: impl Into<Asking>) {
        let group = self.current.group(&request.of);
        let reader = Reader { asking: asking.into(), tries: 0 };
        let refused = if self.is_gone(group) { Some(reader) } else { self.share(group, request, reader) };
        match refused {
            Some(reader) => reader.asking.attached(Err(Unavailable)),
            None => self.wake.notify_one(),
        }
    }

    /// Queues a read, or joins one that waits already; gives the reader back if there is no room.
    fn share(&self, group: SlotGroup, request: ReadRequest, reader: Reader) -> Option<Reader> {
        let question = Question::of(&request);
        let mut state = self.state.lock();
        let is_full = if state.reads.is_waiting(&question) {
            state.queue.join().is_err()
        } else {
            let at = self.at(group);
            state.queue.push(group, Line::Read, self.request(What::Read(request)), at).is_err()
        };
        if is_full {
            return Some(reader);
        }
        state.reads.add(question, reader);
        None
    }

    fn request(&self, what: What) -> Request {
        Request { what, since: self.clock.now(), tries: 0 }
    }

    fn submit(&self, line: Line, request: Request) {
        let group = self.current.group(request.what.record());
        if line != Line::Detach && self.is_gone(group) {
            return request.what.refuse();
        }
        let taken = {
            let mut state = self.state.lock();
            let at = self.at(group);
            state.queue.push(group, line, request, at)
        };
        match taken {
            Ok(()) => self.wake.notify_one(),
            Err(Full(request)) => request.what.refuse(),
        }
    }

    /// Nobody can be asked, and nobody is expected within a moment.
    fn is_gone(&self, group: SlotGroup) -> bool {
        !self.current.is_near(group)
    }

    fn at(&self, group: SlotGroup) -> Option<Master> {
        self.current.get(group).as_ref().map(master_of)
    }

    /// Starts every call that may begin.
    fn turn(self: &Arc<Self>) {
        loop {
            // The commands that were looked at last are those of the call.
            let found: RefCell<Option<Commands>> = RefCell::new(None);
            let mut state = self.state.lock();
            let call = state.queue.next(|group| {
                let commands = self.current.get(group);
                let master = commands.as_ref().map(master_of);
                found.replace(commands);
                master
            });
            let readers = match &call {
                Some(call) => state.readers(&call.items),
                None => Vec::new(),
            };
            drop(state);
            let (Some(call), Some(commands)) = (call, found.into_inner()) else { break };
            calls::start(self, call, readers, commands);
        }
        self.measure();
    }

    fn measure(&self) {
        let state = self.state.lock();
        for class in Class::ALL {
            #[allow(clippy::cast_precision_loss, reason = "the queue is bounded far below 2^52")]
            self.measures.waiting.of(class).set(state.queue.waiting(class) as f64);
        }
    }

    /// Those who wait for a master that does not come back at once are told.
    fn give_up(&self) {
        let (gone, readers) = {
            let mut state = self.state.lock();
            state.queue.place_all(|group| self.at(group));
            let gone = state.queue.abandon(|group| self.is_gone(group));
            let readers = state.readers(&gone);
            (gone, readers)
        };
        readers.into_iter().for_each(|reader| reader.asking.attached(Err(Unavailable)));
        gone.into_iter().for_each(|request| request.what.refuse());
    }

    /// From now on only what nobody waits for.
    fn stop(&self) {
        let (rest, readers) = {
            let mut state = self.state.lock();
            // A generation may just have begun: what is left behind is for it.
            state.queue.place_all(|group| self.at(group));
            let rest = state.queue.stop();
            let readers = state.readers(&rest);
            (rest, readers)
        };
        readers.into_iter().for_each(|reader| reader.asking.attached(Err(Unavailable)));
        rest.into_iter().for_each(|request| request.what.refuse());
    }
}

impl State {
    /// All who wait for these reads: they are asked now, or never.
    fn readers(&mut self, items: &[Request]) -> Vec<Reader> {
        let mut all = Vec::new();
        for item in items {
            if let What::Read(request) = &item.what {
                let readers = self.reads.take(&Question::of(request));
                self.queue.part(readers.len().saturating_sub(1));
                all.extend(readers);
            }
        }
        all
    }
}

impl What {
    fn record(&self) -> &Text {
        match self {
            Self::Attach(request, _) => &request.of,
            Self::Verify(request, _) => &request.of,
            Self::Read(request) => &request.of,
            Self::History(request, ..) => &request.of,
            Self::Changes(of, ..) | Self::Memberships(of, ..) => of,
            Self::Ack(ack) => &ack.of,
            Self::Detach(request) => &request.of,
        }
    }

    /// Tells whoever waits that the backplane cannot be asked now.
    fn refuse(self) {
        match self {
            Self::Attach(_, asking) => asking.attached(Err(Unavailable)),
            Self::Verify(_, asking) => asking.verified(Err(Unavailable)),
            Self::Changes(_, _, head) => head.order(Order::Changes(None)),
            Self::Memberships(_, _, head) => head.order(Order::Memberships(None)),
            Self::History(_, id, mailbox) => {
                mailbox.answer(Input::History { id, result: Err(HistoryFault::Unavailable) });
            }
            // Readers are told by whoever took them from the list; behind acks and detaches nobody waits.
            Self::Read(_) | Self::Ack(..) | Self::Detach(_) => {}
        }
    }
}

impl Asking {
    fn attached(self, result: Result<Option<Attached>, Unavailable>) {
        match self {
            Self::Connection(Who { of, mailbox }) => mailbox.answer(Input::Attached { of, result }),
            Self::Head(head) => head.order(Order::Attached(result.ok().map(|found| found.map(Box::new)))),
        }
    }

    fn verified(self, result: Result<(Standing, u64), Unavailable>) {
        match self {
            Self::Connection(Who { of, mailbox }) => mailbox.answer(Input::Verified { of, result }),
            Self::Head(head) => head.order(Order::Verified(result.ok())),
        }
    }
}

/// No two generations that are in use have the same: whoever has a call in flight holds its commands.
fn master_of(commands: &Commands) -> Master {
    Master(Arc::as_ptr(commands).cast::<()>() as usize)
}

/// Registrations of this node that it does not know are left over from connections that ended. One whose place was taken by
/// another connection may not have heard of it.
fn compare_registered(asker: &Asker, of: &Text, registered: &[Registered]) {
    for &Registered { connection, reg, hand_over } in registered {
        if !asker.registry.contains(of, connection) {
            asker.detach(DetachRequest { of: of.clone(), connection, reg });
        } else if let Some(why) = hand_over {
            asker.registry.hand_over(connection, why);
        }
    }
}

/// Starts calls until `stop`; then acks and detaches that are there are handed on first, those of calls in flight too.
pub(crate) async fn run(asker: Arc<Asker>, stop: CancellationToken) {
    let mut began = asker.current.began();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_stopping = false;
    loop {
        asker.turn();
        let (is_idle, is_empty) = {
            let state = asker.state.lock();
            (state.queue.is_idle(), state.queue.len() == 0)
        };
        if is_stopping && is_idle {
            return;
        }
        tokio::select! {
            () = asker.wake.notified() => {}
            _ = began.changed() => asker.give_up(),
            _ = tick.tick(), if !is_empty => asker.give_up(),
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                asker.stop();
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
