//! One node: what its parts share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use backplane::SharedNode;
use connection::{Counts, Joined, Message, Person, PullCause, SendFault, Settings};
use delivery::{Kind, Place, Reason};
use protocol::{Address, ErrorCode, GroupId, UserId};
use tokio::sync::{oneshot, watch};

use crate::agreement::Agreement;
use crate::asker::Asker;
use crate::auth::Authenticator;
use crate::clock::Clock;
use crate::current::Current;
use crate::departures::Departures;
use crate::door::{BoxFuture, Door, MembersPage, OutgoingMessage, SendAnswer, Socket};
use crate::driver::Errands;
use crate::heads::Heads;
use crate::joins::Joins;
use crate::keeper::Keeper;
use crate::metrics::{DropReason, MessageKind, Metrics};
use crate::publisher::{Outgoing, Publisher, Reply};
use crate::questions::{self, Questions};
use crate::registry::Registry;
use crate::suspects::Suspects;
use crate::watches::Watches;

/// The shared handles of one node.
#[derive(Debug)]
pub struct Node {
    /// Its name and incarnation; the incarnation changes if others declare it dead.
    pub(crate) id: SharedNode,
    /// Changes with the incarnation.
    pub(crate) renamed: watch::Sender<()>,
    pub(crate) name: String,
    /// Heartbeats so far.
    pub(crate) beats: AtomicU64,
    pub(crate) settings: Arc<Settings>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) heads: Heads,
    pub(crate) current: Arc<Current>,
    pub(crate) agreement: Agreement,
    pub(crate) suspects: Arc<Suspects>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) asker: Arc<Asker>,
    pub(crate) joins: Arc<Joins>,
    pub(crate) questions: Questions,
    pub(crate) watches: Arc<Watches>,
    pub(crate) errands: Errands,
    pub(crate) departures: Arc<Departures>,
    pub(crate) authenticator: Authenticator,
    /// The number of the next registration.
    pub(crate) registrations: AtomicU64,
    pub(crate) is_draining: AtomicBool,
    /// Connections whose task has not ended, their closing included.
    pub(crate) open: AtomicUsize,
}

impl Node {
    /// Adds what a connection counted to the metrics.
    pub(crate) fn book(&self, counts: &Counts) {
        let add = |counter: &metrics::Counter, n: u64| {
            if n > 0 {
                counter.increment(n);
            }
        };
        let m = &self.metrics;
        add(m.messages_received.of(MessageKind::Durable), counts.sends_durable);
        add(m.messages_received.of(MessageKind::Ephemeral), counts.sends_ephemeral);
        add(m.messages_delivered.of(MessageKind::Durable), counts.delivered_durable);
        add(m.messages_delivered.of(MessageKind::Ephemeral), counts.delivered_ephemeral);
        add(m.messages_dropped.of(DropReason::QueueFull), counts.dropped_ephemeral);
        add(m.messages_dropped.of(DropReason::ChangeQueueFull), counts.dropped_changes);
        add(m.messages_dropped.of(DropReason::Expired), counts.expired);
        PullCause::ALL.into_iter().zip(counts.pulls).for_each(|(cause, n)| add(m.pulls.of(cause), n));
        Reason::ALL.into_iter().zip(counts.resets).for_each(|(reason, n)| add(m.resets.of(reason), n));
        if let Some(us) = counts.delay_us {
            m.delivery_seconds.record(std::time::Duration::from_micros(us).as_secs_f64());
        }
    }

    /// Ends a membership; how many members are left is only asked then.
    async fn remove_one(&self, group: GroupId, user: UserId) -> Result<Option<u64>, SendFault> {
        self.joins.remove(user, group.clone()).await?;
        Ok(questions::count_members(self, &group).await.ok())
    }

    async fn send_one(&self, message: OutgoingMessage) -> Result<SendAnswer, SendFault> {
        let OutgoingMessage { to, from, id, body, ephemeral, retry_age_ms, expires_ms, replicated } = message;
        if matches!(to, Address::Service(_)) {
            let message = format!(
                "`to`: expected user:ID, user:ID/DEVICE, group:ID or all, got {to}; this version delivers to clients"
            );
            return Err(SendFault { code: ErrorCode::BadRequest, message, retry_ms: None, is_final: false });
        }
        let (kind, counted) =
            if ephemeral { (Kind::Ephemeral, MessageKind::Ephemeral) } else { (Kind::Durable, MessageKind::Durable) };
        self.metrics.messages_received.of(counted).increment(1);
        let message = Message { id, to, from, body, expires_ms };
        let (reply, answer) = oneshot::channel();
        let outgoing = Outgoing::new(message, kind, retry_age_ms, self.clock.now(), Reply::Api(reply));
        let record = outgoing.record.clone();
        self.publisher.submit(Outgoing { replicated, ..outgoing });
        let gone = |_| SendFault {
            code: ErrorCode::UnknownOutcome,
            message: "the node is being stopped".to_owned(),
            retry_ms: None,
            is_final: false,
        };
        let placed = answer.await.map_err(gone)??;
        let reference = match placed.place {
            Place::Stored(cursor) | Place::Found(cursor) => Some(cursor.to_ref(&record)),
            Place::Published => None,
            Place::Unprovable => {
                let message =
                    "the search for the first try reached its bound; nothing was stored by this one".to_owned();
                return Err(SendFault { code: ErrorCode::UnknownOutcome, message, retry_ms: None, is_final: true });
            }
        };
        Ok(SendAnswer { reference, at: placed.at, online: Some(placed.online) })
    }
}

impl Door for Node {
    fn readiness(&self) -> Result<(), String> {
        if self.is_draining.load(Ordering::Relaxed) {
            return Err("the node is being stopped".to_owned());
        }
        if !self.current.is_ready() {
            return Err("the backplane cannot be reached".to_owned());
        }
        if self.agreement.is_disputed() {
            return Err("the fleet holds to other settings than this node".to_owned());
        }
        Ok(())
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn open(self: Arc<Self>, socket: Socket, opening: connection::Opening, peer: SocketAddr) -> BoxFuture<'static, ()> {
        crate::driver::open(self, socket, opening, peer)
    }

    fn send(&self, message: OutgoingMessage) -> BoxFuture<'_, Result<SendAnswer, SendFault>> {
        Box::pin(self.send_one(message))
    }

    fn join(&self, group: GroupId, user: UserId) -> BoxFuture<'_, Result<Joined, SendFault>> {
        Box::pin(self.joins.add(user, group))
    }

    fn remove(&self, group: GroupId, user: UserId) -> BoxFuture<'_, Result<Option<u64>, SendFault>> {
        Box::pin(self.remove_one(group, user))
    }

    fn members(
        &self,
        group: GroupId,
        after: Option<String>,
        limit: u64,
    ) -> BoxFuture<'_, Result<MembersPage, SendFault>> {
        Box::pin(async move { questions::page_of(self, &group, after.as_deref(), limit).await })
    }

    fn presence(&self, users: Vec<UserId>) -> BoxFuture<'_, Result<Vec<Person>, SendFault>> {
        Box::pin(async move { questions::persons(self, &users).await })
    }
}
