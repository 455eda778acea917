//! What every backplane answers. `Commands` is the handle of one generation: what is asked of it is answered by that
//! master, or not at all.

mod batch;
pub mod groups;
pub mod marks;
pub mod presence;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use delivery::record;
use parking_lot::RwLock;
use tokio::sync::watch;

use delivery::{Ack, Attached, Registration, Replication, Verified};
use protocol::{Address, Bundle, Cursor, Epoch, NodeId, Page};
use protocol::{ConnectionId, Text};
use routing::SlotGroup;

pub use batch::{Batch, BatchAnswer, BatchBuilder, BatchResult, Group, Slot};
pub use groups::{ChangeRequest, ChangeResult, Changed, Changes, Groups, MembersPage, Memberships, Op, RegroupRequest};
pub use marks::{CountRequest, FieldsPage, MarkRequest, Marks};
pub use presence::Presence;

use crate::error::{BackplaneError, HistoryError, Loss};

/// A boxed future, one per call: calls are batches, so the box is not what costs.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A place that generations are opened at: the one Redis, or a master of a Cluster by its address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(pub String);

/// What a heartbeat reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// Others have declared this node dead: it goes on under a new name.
    pub is_dead: bool,
    pub nodes: Vec<(NodeId, String)>,
}

/// The name of this node, which changes when it is declared dead. What was asked before is answered under the old one.
#[derive(Clone, Debug)]
pub struct SharedNode(Arc<RwLock<NodeId>>);

impl SharedNode {
    pub fn new(node: NodeId) -> Self {
        Self(Arc::new(RwLock::new(node)))
    }

    pub fn get(&self) -> NodeId {
        self.0.read().clone()
    }

    pub fn set(&self, node: NodeId) {
        *self.0.write() = node;
    }
}

/// One attach: a registration and the cursors to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    pub of: Text,
    /// Of a new life of the inbox, if one begins: random.
    pub epoch: Epoch,
    pub request: record::AttachRequest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    pub of: Text,
    /// Newest first; each is checked for itself.
    pub after: Vec<Cursor>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyRequest {
    pub of: Text,
    pub registration: Registration,
    pub cursor: Cursor,
}

/// Exactly one registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachRequest {
    pub of: Text,
    pub connection: ConnectionId,
    pub reg: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRequest {
    pub of: Text,
    pub before: Option<Cursor>,
    pub limit: usize,
}

/// The inboxes, as one generation of one node reaches them. Source of the rules: docs/delivery.md. What one call names is
/// of one slot group, and of one that this generation has.
///
/// # Cancellation
/// Dropping an answer does not take the call back.
pub trait Log: Send + Sync + std::fmt::Debug {
    /// Appends one batch and publishes each message to the nodes where its address is: one lane, one round trip. After an
    /// answer, whoever attaches later reads the entry: append and attach are scripts on one slot. The same number twice is
    /// stored once.
    ///
    /// # Errors
    /// Of the whole call; a fault of one address is in the answer.
    fn append<'a>(&'a self, batch: &'a Batch) -> Answer<'a, Result<BatchResult, BackplaneError>>;

    /// Publishes one bundle to one node; answers how many subscribers heard it.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn publish<'a>(&'a self, node: &'a NodeId, bundle: &'a Bundle) -> Answer<'a, Result<u64, BackplaneError>>;

    /// Registers connections and reads their first pages. Answers in order.
    ///
    /// # Errors
    /// Of the whole call, or of one request.
    fn attach<'a>(
        &'a self,
        requests: &'a [AttachRequest],
    ) -> Answer<'a, Result<Vec<Result<Attached, BackplaneError>>, BackplaneError>>;

    /// Reads from the newest cursor that holds; `None` where there is no record.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn read<'a>(&'a self, request: &'a ReadRequest) -> Answer<'a, Result<Option<Attached>, BackplaneError>>;

    /// Says where cursors stand, and puts locations back that were lost.
    ///
    /// # Errors
    /// Of the whole call, or of one request.
    fn verify<'a>(
        &'a self,
        requests: &'a [VerifyRequest],
    ) -> Answer<'a, Result<Vec<Result<Verified, BackplaneError>>, BackplaneError>>;

    /// Removes exactly these registrations of this node.
    ///
    /// # Errors
    /// See [`BackplaneError`]. What was not removed is found by the next attach or verify of the address.
    fn detach<'a>(&'a self, requests: &'a [DetachRequest]) -> Answer<'a, Result<(), BackplaneError>>;

    /// Entries before a place, newest last, and whether there are older ones.
    ///
    /// # Errors
    /// See [`HistoryError`].
    fn history<'a>(&'a self, request: &'a HistoryRequest) -> Answer<'a, Result<(Page, bool), HistoryError>>;

    /// Devices have everything up to these cursors.
    ///
    /// # Errors
    /// See [`BackplaneError`]: the acks are lost then, and come again with the next message.
    fn ack<'a>(&'a self, acks: &'a [Ack]) -> Answer<'a, Result<(), BackplaneError>>;

    /// Waits until a replica has everything that this generation's master has stored so far.
    ///
    /// # Errors
    /// No replica confirmed it in time, or there is none: whether it survives a failover is not known.
    fn replicated(&self) -> Answer<'_, Result<(), BackplaneError>>;

    /// Counts for this node, and reads the counters of all.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn heartbeat<'a>(&'a self, counter: &'a str) -> Answer<'a, Result<Pulse, BackplaneError>>;

    /// Declares a node dead, unless its counter has moved; true if it is dead by this call.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn bury<'a>(&'a self, node: &'a NodeId, counter: &'a str) -> Answer<'a, Result<bool, BackplaneError>>;

    /// What the fleet agreed on: `own`, if nobody said anything before.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn agree<'a>(&'a self, own: &'a str) -> Answer<'a, Result<String, BackplaneError>>;

    /// Whether entries are where they were stored, or were trimmed there. One that cannot be looked at is not.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn holds<'a>(&'a self, entries: &'a [(Text, Cursor)]) -> Answer<'a, Result<Vec<bool>, BackplaneError>>;

    /// Removes every location of a dead node from the records of this generation; answers how many had one.
    ///
    /// # Errors
    /// See [`BackplaneError`]: what is left is found by the next time.
    fn reap<'a>(&'a self, node: &'a NodeId) -> Answer<'a, Result<u64, BackplaneError>>;

    /// The slot groups whose records this generation reaches.
    fn groups(&self) -> &[SlotGroup];

    /// Whether this generation reaches what the fleet shares: heartbeats, the dead, and what was agreed on.
    fn is_home(&self) -> bool;

    /// Which history of writes this master has: another one after a failover or a restart, which may have lost a tail.
    /// `None`: this backplane cannot lose what it answered while the node lives.
    fn lineage(&self) -> Option<&str>;

    /// How far the replicas are.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn replication(&self) -> Answer<'_, Result<Replication, BackplaneError>>;

    /// The backplane's clock in microseconds, estimated without asking.
    fn now_us(&self) -> u64;
}

/// Everything that a generation answers.
pub trait Generation: Log + Groups + Presence + Marks {}

impl<T: Log + Groups + Presence + Marks> Generation for T {}

/// The handle of one generation.
pub type Commands = Arc<dyn Generation>;

/// The receiving half of one generation: bounded, ends once, says why, never resumes.
pub trait Subscription: Send {
    /// The next bundle for this node.
    ///
    /// # Errors
    /// [`Loss`]: the generation has ended. Every later call says so again.
    ///
    /// # Cancellation
    /// Safe: a dropped call loses nothing.
    fn next(&mut self) -> Answer<'_, Result<Bundle, Loss>>;
}

/// One generation: its two halves.
pub type Opened = Result<(Commands, Box<dyn Subscription>), BackplaneError>;

/// A backplane for one node.
pub trait Backplane: Send + Sync {
    /// Where generations are to be open; changes when masters come and go. To be called within a runtime.
    fn sources(&self) -> watch::Receiver<Vec<Source>>;

    /// Opens one generation: subscribed, probed, and answered by a master. Never resumes by itself.
    ///
    /// # Errors
    /// [`BackplaneError`]: try again after a while.
    fn open<'a>(&'a self, source: &'a Source) -> Answer<'a, Opened>;
}

/// The text that names the record of an address.
pub fn record_of(address: &Address) -> Text {
    Text::from(address.record().to_string())
}
