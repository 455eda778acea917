//! Joins and leaves that last: in batches, one call in flight for a slot group and kind, each job answered once.
//!
//! A membership is in two records, which may lie with two masters: the group's, which decides, and the set of the user's
//! groups, which says where to look. The set is written first on a join and last on a leave, so that a crash between the
//! two leaves a name too many, and never a member who does not know. Rule: docs/delivery.md, On the node, 7.

mod calls;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use connection::{Input, Joined, SendFault};
use parking_lot::Mutex;
use protocol::limits::{GROUPS_MAX, MEMBERS_MAX};
use protocol::{Address, ErrorCode, GroupId, MessageId, Millis, UserId};
use routing::Topology;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::current::Current;
use crate::keeper::Keeper;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::publisher::reply::{jittered, overloaded, unavailable};

pub(crate) use queue::{CALL_MAX, Wish};
use queue::{Job, Queue, Step};

/// How often those are looked after whose master is away.
const TICK: Duration = Duration::from_millis(100);

/// Who is told.
#[derive(Debug)]
pub(crate) enum Reply {
    Connection(MessageId, Mailbox),
    Api(oneshot::Sender<Result<Joined, SendFault>>),
    Nobody,
}

/// The joins and leaves of one node.
#[derive(Debug)]
pub(crate) struct Joins {
    topology: Topology,
    current: Arc<Current>,
    keeper: Arc<Keeper>,
    clock: Clock,
    timeout: Duration,
    metrics: Arc<Metrics>,
    queue: Mutex<Queue>,
    wake: Notify,
}

impl Joins {
    pub(crate) fn new(
        topology: Topology,
        current: Arc<Current>,
        keeper: Arc<Keeper>,
        clock: Clock,
        timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { topology, current, keeper, clock, timeout, metrics, queue: Mutex::default(), wake: Notify::new() }
    }

    /// Makes somebody a member.
    ///
    /// # Errors
    /// As a sender is told. Dropping the future does not take it back.
    pub(crate) async fn add(&self, user: UserId, group: GroupId) -> Result<Joined, SendFault> {
        let (reply, answer) = oneshot::channel();
        self.submit(Wish::Join, user, group, Reply::Api(reply));
        answer.await.unwrap_or_else(|_| Err(unknown()))
    }

    /// Ends somebody's membership, and whatever he has of the group for the life of a connection.
    ///
    /// # Errors
    /// As a sender is told. Dropping the future does not take it back.
    pub(crate) async fn remove(&self, user: UserId, group: GroupId) -> Result<(), SendFault> {
        let (reply, answer) = oneshot::channel();
        self.submit(Wish::Remove, user, group, Reply::Api(reply));
        answer.await.unwrap_or_else(|_| Err(unknown())).map(|_| ())
    }

    /// Puts a join or leave in line. Its answer comes by its `reply`, always.
    pub(crate) fn submit(&self, wish: Wish, user: UserId, group: GroupId, reply: Reply) {
        let record = backplane::api::record_of(&Address::Group(group.clone()));
        let group_at = self.topology.group(&record);
        let user_at = self.topology.group(&backplane::api::record_of(&Address::User(user.clone())));
        let step = match wish {
            Wish::Join => Step::SetIn,
            Wish::Leave | Wish::Remove => Step::Change,
            Wish::Repair => Step::Look,
        };
        let (since, held, reply, left) = (self.clock.now(), Millis(0), Some(reply), None);
        let mut job = Job { wish, user, group, record, user_at, group_at, step, since, held, left, reply };
        if !self.current.is_near(job.line().0) {
            return job.tell(Err(unavailable("the backplane cannot be reached")));
        }
        let taken = self.queue.lock().submit(job);
        match taken {
            Ok(()) => self.wake.notify_one(),
            Err(mut job) => job.tell(Err(overloaded())),
        }
    }

    /// Starts every call that may begin.
    fn turn(self: &Arc<Self>) {
        loop {
            let begun = self.queue.lock().begin();
            let Some((line, jobs)) = begun else { break };
            tokio::spawn(calls::run(self.clone(), line, jobs));
        }
    }

    /// What was never asked was not done, and says so after one timeout.
    fn expire(self: &Arc<Self>) {
        let now = self.clock.now();
        let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        let mut expired = self.queue.lock().expire(now, timeout_ms);
        for job in &mut expired {
            job.give_up(unavailable("the backplane does not answer"));
        }
        let (held, done): (Vec<_>, Vec<_>) = expired.into_iter().partition(|job| job.held > now);
        done.iter().for_each(|job| self.queue.lock().release(&job.key(), now));
        if !held.is_empty() {
            tokio::spawn(self.clone().release_held(held));
        }
    }

    /// What comes behind a job waits until no copy of an asking of it can run any more.
    async fn release_held(self: Arc<Self>, held: Vec<Job>) {
        let Some(until) = held.iter().map(|job| job.held).max() else { return };
        tokio::time::sleep_until(self.clock.instant(until)).await;
        let now = self.clock.now();
        held.iter().for_each(|job| self.queue.lock().release(&job.key(), now));
        self.wake.notify_one();
    }
}

impl Job {
    /// Nothing more is asked of it. Who has left already is told so.
    fn give_up(&mut self, fault: SendFault) {
        let result = match self.left {
            Some(true) => Ok(Joined { mseq: 0, members: 0 }),
            Some(false) => Err(no_member()),
            None => Err(fault),
        };
        self.tell(result);
    }

    /// Answers whoever waits; once.
    fn tell(&mut self, result: Result<Joined, SendFault>) {
        match self.reply.take() {
            Some(Reply::Connection(id, mailbox)) => {
                let group = self.group.clone();
                mailbox.answer(match self.wish {
                    Wish::Join => Input::Joined { id, group, result },
                    _ => Input::Left { id, group, result: result.map(|_| ()) },
                });
            }
            // A caller that went away does not wait for it.
            Some(Reply::Api(sender)) => drop(sender.send(result)),
            Some(Reply::Nobody) | None => {}
        }
    }
}

/// Runs until `stop`, and then what is still under way.
pub(crate) async fn run(joins: Arc<Joins>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_stopping = false;
    loop {
        joins.turn();
        let is_idle = joins.queue.lock().is_idle();
        if is_stopping && is_idle {
            return;
        }
        tokio::select! {
            () = joins.wake.notified() => {}
            _ = tick.tick(), if !is_idle => joins.expire(),
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                joins.queue.lock().stop();
            }
        }
    }
}

fn forbidden(message: String) -> SendFault {
    SendFault { code: ErrorCode::Forbidden, message, retry_ms: None, is_final: false }
}

fn too_many_groups() -> SendFault {
    forbidden(format!("the user is in {GROUPS_MAX} groups, and that is how many there may be"))
}

fn too_many_members() -> SendFault {
    forbidden(format!("the group has {MEMBERS_MAX} members, and that is how many there may be"))
}

fn no_member() -> SendFault {
    let message = "the user is no member of this group".to_owned();
    SendFault { code: ErrorCode::NotFound, message, retry_ms: None, is_final: false }
}

fn unknown() -> SendFault {
    let message = "the backplane did not answer in time; asked again it is done once".to_owned();
    SendFault { code: ErrorCode::UnknownOutcome, message, retry_ms: Some(jittered(1_000)), is_final: false }
}

#[cfg(test)]
mod tests;
