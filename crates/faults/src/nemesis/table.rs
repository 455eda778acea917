//! Which faults there are. The numbers are those of docs/faults.md.

use std::time::Duration;

use anyhow::{Result, bail};

use super::{Stage, client, cluster, failover, network, node, refusal, server};
use crate::world::Topology;
use Part::{Clients, NodeA, NodeB, Redis};
use Topology::{Cluster, Sentinel, Single};

/// What a fault lays hands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Redis,
    NodeA,
    NodeB,
    Clients,
}

impl Part {
    pub(crate) const COUNT: usize = 4;
    pub(crate) const ALL: [Self; Self::COUNT] = [Redis, NodeA, NodeB, Clients];
}

#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) number: u8,
    pub(crate) name: &'static str,
    pub(crate) on: &'static [Topology],
    /// Of these, where Redis may forget what it acknowledged.
    pub(crate) forgets_on: &'static [Topology],
    pub(crate) touches: &'static [Part],
    /// How long it lasts, in seconds, unless it ends by itself.
    pub(crate) hold_s: u64,
    /// Where it may be part of a schedule: it fits into a period, and what it does can be told from what others do.
    pub(crate) scheduled_on: &'static [Topology],
    /// How it is inflicted; or why it is not, or not everywhere.
    pub(crate) how: &'static str,
}

impl Fault {
    /// Number and name, as the history says it.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.number, self.name)
    }

    pub(crate) fn hold(&self) -> Duration {
        Duration::from_secs(self.hold_s)
    }

    pub(crate) fn is_scheduled_on(&self, topology: Topology) -> bool {
        self.scheduled_on.contains(&topology)
    }

    pub(crate) fn runs_on(&self, topology: Topology) -> bool {
        self.on.contains(&topology)
    }
}

pub(crate) fn find(number: u8) -> Option<&'static Fault> {
    FAULTS.iter().find(|fault| fault.number == number)
}

const EVERYWHERE: &[Topology] = &[Single, Sentinel, Cluster];
const REPLICATED: &[Topology] = &[Sentinel, Cluster];
const NOWHERE: &[Topology] = &[];

#[expect(clippy::too_many_arguments, reason = "one row of the table below, in the order of its columns")]
const fn row(
    number: u8,
    name: &'static str,
    on: &'static [Topology],
    forgets_on: &'static [Topology],
    touches: &'static [Part],
    hold_s: u64,
    scheduled_on: &'static [Topology],
    how: &'static str,
) -> Fault {
    Fault { number, name, on, forgets_on, touches, hold_s, scheduled_on, how }
}

/// A fault that this program does not inflict, with the reason.
const fn not_here(number: u8, name: &'static str, why: &'static str) -> Fault {
    row(number, name, NOWHERE, NOWHERE, &[], 0, NOWHERE, why)
}

#[rustfmt::skip]
pub(crate) const FAULTS: &[Fault] = &[
    row(1, "redis killed and restarted", EVERYWHERE, NOWHERE, &[Redis], 3, EVERYWHERE, "SIGKILL of a master and the same files again; with sentinels or a cluster at once, before anybody fails over"),
    row(2, "append-only file cut", EVERYWHERE, EVERYWHERE, &[Redis], 1, &[Single], "SIGKILL of a master, the last 8 KiB of its file cut off, or so much that messages are in it, start; no failover in between, so that a replica forgets the same. In a schedule on a single Redis only: beside the death of a node it takes what was `replicated`"),
    row(3, "failover with a lost tail", REPLICATED, REPLICATED, &[Redis], 2, REPLICATED, "the replica may not synchronise (ACL), messages are stored, the master is killed, the replica takes over. Needs a replica"),
    row(4, "replication stalled", REPLICATED, NOWHERE, &[Redis], 6, REPLICATED, "SIGSTOP of every replica: nothing may be answered `replicated`. Needs a replica"),
    row(5, "too few replicas to write", EVERYWHERE, NOWHERE, &[Redis], 4, EVERYWHERE, "min-replicas-to-write above what there is: NOREPLICAS"),
    row(6, "memory full", EVERYWHERE, NOWHERE, &[Redis], 4, EVERYWHERE, "maxmemory below what is used, noeviction: OOM"),
    row(7, "eviction", EVERYWHERE, EVERYWHERE, &[Redis], 4, NOWHERE, "maxmemory below what is used, allkeys-lru: inboxes vanish, on replicas too, and begin a new epoch; nobody asks for `replicated`"),
    row(8, "subscriptions killed", EVERYWHERE, NOWHERE, &[Redis], 8, EVERYWHERE, "CLIENT KILL TYPE pubsub every two seconds"),
    row(9, "subscriber too slow", EVERYWHERE, NOWHERE, &[Redis, NodeB], 12, NOWHERE, "a small client-output-buffer-limit, a frozen node, large messages: Redis cuts its subscription"),
    not_here(10, "lag inside the process", "the subscription's queue is fixed in the binary (16,384 messages) and filled by nothing from outside; `a_generation_ends…` in crates/backplane covers `lagged`"),
    row(11, "redis frozen and thawed", EVERYWHERE, REPLICATED, &[Redis], 5, EVERYWHERE, "SIGSTOP and SIGCONT of a master; with sentinels or a cluster long enough that another takes over, and the old one thaws with commands in its sockets"),
    row(12, "failover", EVERYWHERE, REPLICATED, &[Redis], 1, EVERYWHERE, "SIGKILL of a master until its replica has taken over, then SCRIPT FLUSH; on a single Redis SCRIPT FLUSH alone"),
    row(13, "slots migrate", &[Cluster], NOWHERE, &[Redis], 2, &[Cluster], "slots of inboxes go to another master key by key under load, with a stop half way. Needs a cluster"),
    row(14, "the server of a subscription dies", &[Cluster], &[Cluster], &[Redis], 1, &[Cluster], "SIGKILL of a server that nodes are subscribed at; needs a cluster, elsewhere it is fault 12"),
    row(15, "publish refused", EVERYWHERE, NOWHERE, &[Redis], 6, EVERYWHERE, "ACL SETUSER default -publish: the append stands, its PUBLISH fails"),
    row(16, "writes refused", EVERYWHERE, NOWHERE, &[Redis], 4, EVERYWHERE, "a snapshot that cannot be written: MISCONF"),
    row(17, "node killed", EVERYWHERE, NOWHERE, &[NodeA], 3, EVERYWHERE, "SIGKILL, a new process three seconds later"),
    row(18, "node drained", EVERYWHERE, NOWHERE, &[NodeB], 1, EVERYWHERE, "SIGTERM, to its end, which has to be exit status 0"),
    row(19, "node killed while it drains", EVERYWHERE, NOWHERE, &[NodeB], 2, EVERYWHERE, "SIGTERM, then SIGKILL while connections are left"),
    row(20, "node frozen until it is buried", EVERYWHERE, NOWHERE, &[NodeA], 24, EVERYWHERE, "SIGSTOP until another node has declared it dead, then SIGCONT"),
    row(21, "double location", EVERYWHERE, NOWHERE, &[NodeA, Clients], 12, EVERYWHERE, "the network in front of a node stops; impatient clients go to the other node while their sockets are half open; then it moves on"),
    row(22, "registration lost in a failover", REPLICATED, REPLICATED, &[Redis, Clients], 2, REPLICATED, "as 3, and all clients attach anew while the replica does not hear of it. Needs a replica"),
    not_here(23, "publisher dies between append and publish", "there is no such moment: append.lua stores and publishes in one script"),
    row(24, "two nodes with one name", EVERYWHERE, NOWHERE, &[NodeA, NodeB, Clients], 6, EVERYWHERE, "a second process with the name of a node, and half of the clients go to it"),
    row(25, "clock of a node jumps", EVERYWHERE, NOWHERE, &[NodeA], 8, NOWHERE, "a node whose wall clock is one hour behind, then ahead, then behind"),
    row(26, "clock of redis jumps", &[Sentinel], &[Sentinel], &[Redis], 4, NOWHERE, "a replica whose wall clock is 30 s behind is made the master, and then the old one again. Inflicted with sentinels only: a cluster fails over by the same code of the gateway"),
    row(27, "reconnect storm", EVERYWHERE, NOWHERE, &[Clients], 3, EVERYWHERE, "every client connection is reset, and new ones are refused for a while"),
    row(28, "hot recipient", EVERYWHERE, NOWHERE, &[Clients], 8, EVERYWHERE, "seven of ten messages go to one recipient"),
    row(29, "no file descriptors", EVERYWHERE, NOWHERE, &[NodeB, Clients], 5, EVERYWHERE, "prlimit --nofile just above what a node has open, then a crowd of connections. A memory limit is not inflicted: it needs a writable memory cgroup"),
    row(30, "clients stop reading", EVERYWHERE, NOWHERE, &[NodeB, Clients], 42, NOWHERE, "connections that never read, large messages for them, until they are closed with 4502"),
    row(31, "half-open connections", EVERYWHERE, NOWHERE, &[NodeB, Clients], 56, NOWHERE, "the network in front of a node swallows everything until the node closes with 4501"),
    row(32, "slow network in small pieces", EVERYWHERE, NOWHERE, &[NodeA, NodeB, Clients], 8, EVERYWHERE, "200 ms each way, twenty bytes a segment, in front of both nodes. Loss of packets is not inflicted: on loopback it would need a rule in the kernel's filter for everybody"),
    row(33, "handshakes that never end", EVERYWHERE, NOWHERE, &[NodeA, Clients], 14, EVERYWHERE, "half a request head, and upgrades without a hello: closed within 10 s, the latter with 4506"),
    row(34, "bad cursors", EVERYWHERE, NOWHERE, &[Clients], 1, EVERYWHERE, "cursors of another epoch, beyond the end, of another entry, of somebody else, and garbage: each starts with a `reset`"),
    row(41, "first tries behind their retries", EVERYWHERE, NOWHERE, &[NodeA, Clients], 12, NOWHERE, "the network in front of a node stops; impatient senders try again at the other node; ten seconds later their first tries arrive"),
];

/// # Errors
/// It did not bite, could not be undone, or is none that is inflicted here.
pub(super) async fn inflict(stage: &Stage, number: u8, hold: Duration) -> Result<String> {
    match number {
        1 => server::killed(stage, hold).await,
        2 => server::cut_tail(stage).await,
        3 => failover::lost_tail(stage, hold).await,
        4 => failover::stalled(stage, hold).await,
        5 => refusal::too_few_replicas(stage, hold).await,
        6 => refusal::memory_full(stage, hold).await,
        7 => refusal::eviction(stage, hold).await,
        8 => server::subscriptions_killed(stage, hold).await,
        9 => server::subscriber_too_slow(stage, hold).await,
        11 => server::frozen(stage, hold).await,
        12 => failover::failover(stage).await,
        13 => cluster::slots_migrate(stage, hold).await,
        14 => cluster::subscription_dies(stage).await,
        15 => refusal::publish(stage, hold).await,
        16 => refusal::writes(stage, hold).await,
        17 => node::killed(stage, hold).await,
        18 => node::drained(stage).await,
        19 => node::killed_in_drain(stage).await,
        20 => node::frozen(stage, hold).await,
        21 => network::double_location(stage, hold).await,
        22 => failover::lost_registration(stage, hold).await,
        24 => node::twins(stage, hold).await,
        25 => node::clock_jumps(stage, hold).await,
        26 => failover::clock_jumps(stage, hold).await,
        27 => network::storm(stage, hold).await,
        28 => client::hot_recipient(stage, hold).await,
        29 => node::no_descriptors(stage, hold).await,
        30 => client::stops_reading(stage, hold).await,
        31 => network::half_open(stage, hold).await,
        32 => network::slow(stage, hold).await,
        33 => client::endless_handshakes(stage, hold).await,
        34 => client::bad_cursors(stage).await,
        41 => network::overtaken(stage, hold).await,
        other => bail!("fault {other} is not inflicted here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_there_once_and_says_how_or_why_not() {
        let numbers: Vec<u8> = FAULTS.iter().map(|fault| fault.number).collect();
        assert_eq!(numbers, (1..=34).chain([41]).collect::<Vec<u8>>(), "35 to 40 are bad input: tests/clients");
        for fault in FAULTS {
            assert!(!fault.how.is_empty() && fault.on.is_empty() == fault.touches.is_empty(), "{fault:?}");
            assert!(fault.forgets_on.iter().all(|topology| fault.runs_on(*topology)), "{fault:?}");
            assert!(fault.scheduled_on.is_empty() || fault.hold_s < 25, "a period has 30 seconds: {fault:?}");
        }
    }
}
