//! A real Redis Cluster, three masters and three replicas, which a test may break, fail over and reshard.

mod nodes;

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::time::Instant;

use self::nodes::{nodes, view};
use crate::ports::free_port;
use crate::redis::{Redis, ask};
use crate::wait::PAUSE;

/// Masters; each has one replica.
const MASTERS: usize = 3;

/// All hash slots of a cluster.
pub const SLOTS: u16 = 16_384;

/// How long a server has to be silent before the others hold it for down.
pub const NODE_TIMEOUT: Duration = Duration::from_millis(2_000);

const START_WITHIN: Duration = Duration::from_secs(30);

/// For one question to a server that may be frozen.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// How long a failover that a test asks for may take.
const FAILOVER_WITHIN: Duration = Duration::from_secs(15);

/// For one MIGRATE, in milliseconds.
const MIGRATE_MS: &str = "5000";

/// Keys that one MIGRATE takes along.
const MIGRATE_KEYS: usize = 100;

/// Another process may take a port between the look and the bind.
const START_TRIES: usize = 4;

/// What a cluster is started with.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterOptions {
    /// `cluster-require-full-coverage`: with it all slots refuse when one has no master.
    pub full_coverage: bool,
}

/// Three masters and three replicas on ports of their own. Killed when dropped.
///
/// `servers[0..3]` are masters at the start, and `servers[n + 3]` is the replica of `servers[n]`.
#[derive(Debug)]
pub struct Cluster {
    pub servers: Vec<Redis>,
    ids: Vec<String>,
}

/// A slot that is on its way from one master to another. Until [`Cluster::finish_migration`] its old master answers ASK
/// for keys that it does not have, and the new one takes only what was ASKED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    pub slot: u16,
    pub from: usize,
    pub to: usize,
}

impl Cluster {
    /// Starts six servers that serve what they have even when a slot has no master.
    ///
    /// # Errors
    /// As [`Cluster::start_with`].
    pub fn start() -> Result<Self> {
        Self::start_with(ClusterOptions::default())
    }

    /// Starts six servers, joins them, and waits until all of them say that the cluster is well.
    ///
    /// # Errors
    /// One of them does not start, or they do not agree within 30 s.
    pub fn start_with(options: ClusterOptions) -> Result<Self> {
        let servers: Vec<Redis> = (0..2 * MASTERS).map(|_| start_server(options)).collect::<Result<_>>()?;
        let ids = servers.iter().map(|server| server.try_cli(&["CLUSTER", "MYID"])).collect::<Result<_>>()?;
        let this = Self { servers, ids };
        this.join()?;
        Ok(this)
    }

    fn join(&self) -> Result<()> {
        let share = SLOTS / MASTERS as u16;
        for (n, server) in self.servers.iter().enumerate() {
            // Different epochs from the start: equal ones are only sorted out by collisions, which takes seconds.
            server.try_cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()])?;
            if n < MASTERS {
                let first = share * n as u16;
                let last = if n + 1 == MASTERS { SLOTS - 1 } else { first + share - 1 };
                server.try_cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()])?;
            }
        }
        // Everybody meets everybody, so that nobody waits for gossip.
        for (n, server) in self.servers.iter().enumerate() {
            for other in &self.servers[n + 1..] {
                let (port, bus) = (other.port().to_string(), bus_port(other)?);
                server.try_cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
            }
        }
        self.wait_until("all six know each other", |server| {
            let lines = nodes(server)?;
            let is_known = |id: &String| lines.iter().any(|line| line.id == *id && !line.flags.contains("handshake"));
            Ok(lines.len() == self.servers.len() && self.ids.iter().all(is_known))
        })?;
        for n in 0..MASTERS {
            self.servers[n + MASTERS].try_cli(&["CLUSTER", "REPLICATE", &self.ids[n]])?;
        }
        self.wait_until("the cluster is well and its replicas follow", |server| {
            let replicas = nodes(server)?.iter().filter(|line| line.flags.contains("slave")).count();
            let replication = ask(server.port(), &["INFO", "replication"], ANSWER_WITHIN)?;
            let follows = replication.contains("role:master") || replication.contains("master_link_status:up");
            let is_ok = ask(server.port(), &["CLUSTER", "INFO"], ANSWER_WITHIN)?.contains("cluster_state:ok");
            Ok(is_ok && follows && replicas == MASTERS)
        })
    }

    /// `redis-cluster://…`, with all six.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.servers.iter().map(|server| server.address().to_string()).collect();
        format!("redis-cluster://{}", hosts.join(","))
    }

    /// The server that has this slot: of those that answer and claim it, the one with the newest claim. What an index
    /// stands for stays over every failover and restart.
    ///
    /// # Errors
    /// Nobody who answers claims it.
    pub fn master_of(&self, slot: u16) -> Result<usize> {
        let claims = self.servers.iter().enumerate().filter_map(|(n, server)| {
            let own = nodes(server).ok()?.into_iter().find(|line| line.flags.contains("myself"))?;
            let has_it = own.slots.iter().any(|&(first, last)| (first..=last).contains(&slot));
            (has_it && own.flags.contains("master")).then_some((own.epoch, n))
        });
        claims.max().map(|(_, n)| n).with_context(|| format!("nobody has slot {slot}"))
    }

    /// The replica of a master, as most of the others see it.
    ///
    /// # Errors
    /// It has none, or nobody answers.
    pub fn replica_of(&self, master: usize) -> Result<usize> {
        let id = &self.ids[master];
        let found = self.servers.iter().find_map(|server| {
            let line = nodes(server).ok()?.into_iter().find(|line| line.master == *id)?;
            self.ids.iter().position(|id| *id == line.id)
        });
        found.with_context(|| format!("server {master} has no replica"))
    }

    /// The slot of a key, its hash tag taken into account.
    ///
    /// # Errors
    /// No server answers.
    pub fn slot_of(&self, key: &str) -> Result<u16> {
        let answers =
            self.servers.iter().filter_map(|s| ask(s.port(), &["CLUSTER", "KEYSLOT", key], ANSWER_WITHIN).ok());
        answers.filter_map(|slot| slot.parse().ok()).next().context("no server answers")
    }

    /// Runs one command on one server; it answers MOVED for what it does not have.
    ///
    /// # Errors
    /// As [`Redis::try_cli`].
    pub fn cli(&self, server: usize, command: &[&str]) -> Result<String> {
        self.servers[server].try_cli(command)
    }

    /// Starts one server again with its files; the others find it by themselves.
    ///
    /// # Errors
    /// As [`Redis::restart`].
    pub fn restart(&mut self, server: usize) -> Result<()> {
        self.servers[server].restart()
    }

    /// The whole way of a slot to another master, as `redis-cli --cluster reshard` goes it.
    ///
    /// # Errors
    /// A step is refused. The slot may then be half way: ask `CLUSTER NODES`.
    pub fn migrate_slot(&self, slot: u16, to: usize) -> Result<()> {
        let migration = self.begin_migration(slot, to)?;
        while self.move_keys(migration, MIGRATE_KEYS)? > 0 {}
        self.finish_migration(migration)
    }

    /// Opens the slot on both sides and moves nothing: from here on there are ASK and TRYAGAIN.
    ///
    /// # Errors
    /// A step is refused, or `to` has the slot already.
    pub fn begin_migration(&self, slot: u16, to: usize) -> Result<Migration> {
        let from = self.master_of(slot)?;
        ensure!(from != to, "server {to} has slot {slot} already");
        let text = slot.to_string();
        self.cli(to, &["CLUSTER", "SETSLOT", &text, "IMPORTING", &self.ids[from]])?;
        self.cli(from, &["CLUSTER", "SETSLOT", &text, "MIGRATING", &self.ids[to]])?;
        Ok(Migration { slot, from, to })
    }

    /// Moves at most `count` keys and says how many; what is written meanwhile may need another round.
    ///
    /// # Errors
    /// A key is refused by the new master.
    pub fn move_keys(&self, migration: Migration, count: usize) -> Result<usize> {
        let Migration { slot, from, to } = migration;
        let keys = self.cli(from, &["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &count.to_string()])?;
        let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
        if keys.is_empty() {
            return Ok(0);
        }
        let port = self.servers[to].port().to_string();
        let command = [&["MIGRATE", "127.0.0.1", &port, "", "0", MIGRATE_MS, "KEYS"][..], &keys].concat();
        self.cli(from, &command)?;
        Ok(keys.len())
    }

    /// Gives the slot to its new master; everybody who is there is told, the new one first.
    ///
    /// # Errors
    /// The old master still has keys of it, or one of the two does not answer.
    pub fn finish_migration(&self, migration: Migration) -> Result<()> {
        let Migration { slot, from, to } = migration;
        let command = ["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &self.ids[to]];
        self.cli(to, &command)?;
        self.cli(from, &command)?;
        for (n, server) in self.servers.iter().enumerate() {
            if n != from && n != to {
                // A replica refuses it, a dead one does not answer: gossip tells them.
                let _ = ask(server.port(), &command, ANSWER_WITHIN);
            }
        }
        Ok(())
    }

    /// Takes a migration back before any key was moved.
    ///
    /// # Errors
    /// One of the two does not answer.
    pub fn cancel_migration(&self, migration: Migration) -> Result<()> {
        let command = ["CLUSTER", "SETSLOT", &migration.slot.to_string(), "STABLE"];
        self.cli(migration.from, &command)?;
        self.cli(migration.to, &command).map(drop)
    }

    /// The failover that an operator asks for: master and replica agree, nothing is lost. Over when the replica says that
    /// it is the master.
    ///
    /// # Errors
    /// Refused, or not over within 15 s.
    pub fn failover(&self, replica: usize) -> Result<()> {
        self.cli(replica, &["CLUSTER", "FAILOVER"])?;
        self.wait_for_role(replica, "master", FAILOVER_WITHIN)
    }

    /// Waits until a server says that this is its role: `master` or `slave`.
    ///
    /// # Errors
    /// Not within that time.
    pub fn wait_for_role(&self, server: usize, role: &str, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        let port = self.servers[server].port();
        while !ask(port, &["ROLE"], ANSWER_WITHIN).is_ok_and(|answer| answer.lines().next() == Some(role)) {
            if Instant::now() >= end {
                bail!("server {server} is not {role} within {within:?}\n{}", self.servers[server].process().story());
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Waits until everybody who answers says that the cluster is well, and every slot has one master for all of them.
    ///
    /// # Errors
    /// Not within that time.
    pub fn wait_well(&self, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        loop {
            let views: Vec<Vec<(u16, u16, String)>> =
                self.servers.iter().filter_map(|server| nodes(server).ok()).map(|lines| view(&lines)).collect();
            let covers = |view: &[(u16, u16, String)]| view.iter().map(|(a, b, _)| u32::from(b - a) + 1).sum::<u32>();
            let agree = views.iter().all(|view| covers(view) == u32::from(SLOTS) && *view == views[0]);
            let is_ok = |server: &Redis| match ask(server.port(), &["CLUSTER", "INFO"], ANSWER_WITHIN) {
                Ok(info) => info.contains("cluster_state:ok"),
                Err(_) => true,
            };
            if !views.is_empty() && agree && self.servers.iter().all(is_ok) {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!("the cluster is not well within {within:?}: {views:?}");
            }
            std::thread::sleep(PAUSE * 5);
        }
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&Redis) -> Result<bool>) -> Result<()> {
        let end = Instant::now() + START_WITHIN;
        loop {
            if self.servers.iter().all(|server| holds(server).unwrap_or(false)) {
                return Ok(());
            }
            if Instant::now() >= end {
                let stories: Vec<String> = self.servers.iter().map(|server| server.process().story()).collect();
                bail!("it does not come true that {what}\n{}", stories.join("\n"));
            }
            std::thread::sleep(PAUSE * 2);
        }
    }
}

fn start_server(options: ClusterOptions) -> Result<Redis> {
    let mut last = anyhow!("never tried");
    for _ in 0..START_TRIES {
        let bus = free_port()?.to_string();
        let started = Redis::start_with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-config-file",
            "nodes.conf",
            // The usual bus port is the port plus 10,000, which may be anybody's.
            "--cluster-port",
            &bus,
            "--cluster-node-timeout",
            &NODE_TIMEOUT.as_millis().to_string(),
            "--cluster-require-full-coverage",
            if options.full_coverage { "yes" } else { "no" },
            // Who is whose replica stays as it was, except by failovers.
            "--cluster-allow-replica-migration",
            "no",
            "--repl-diskless-sync-delay",
            "0",
        ]);
        match started {
            Ok(server) => return Ok(server),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bus_port(server: &Redis) -> Result<String> {
    let answer = server.try_cli(&["CONFIG", "GET", "cluster-port"])?;
    answer.lines().nth(1).map(str::to_owned).context("no cluster-port")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One cluster for all that can be looked at without breaking it: its start takes seconds.
    #[test]
    fn a_cluster_starts_migrates_a_slot_and_fails_over() {
        let mut cluster = Cluster::start().unwrap();
        assert_eq!(cluster.url().matches("127.0.0.1:").count(), 6);
        assert_eq!([0, 5_461, 16_383].map(|slot| cluster.master_of(slot).unwrap()), [0, 1, 2]);
        assert_eq!(cluster.replica_of(1).unwrap(), 4);
        let slot = cluster.slot_of("{a}1").unwrap();
        let (from, keys) = (cluster.master_of(slot).unwrap(), ["{a}1", "{a}2", "{a}3"]);
        let to = (from + 1) % MASTERS;
        for key in keys {
            cluster.cli(from, &["SET", key, "x"]).unwrap();
        }
        // Half way: one key is gone, so that both of them are nowhere together.
        let migration = cluster.begin_migration(slot, to).unwrap();
        assert_eq!(cluster.move_keys(migration, 1).unwrap(), 1);
        let gone = keys.iter().find(|&&key| cluster.cli(from, &["GET", key]).is_err()).unwrap();
        let ask = cluster.cli(from, &["GET", gone]).unwrap_err();
        assert!(format!("{ask:#}").contains("ASK "), "{ask:#}");
        let again = cluster.cli(from, &[&["MGET"][..], &keys].concat()).unwrap_err();
        assert!(format!("{again:#}").contains("TRYAGAIN"), "{again:#}");
        assert_eq!(cluster.move_keys(migration, 10).unwrap(), 2);
        cluster.finish_migration(migration).unwrap();
        assert_eq!(cluster.master_of(slot).unwrap(), to);
        assert_eq!(cluster.cli(to, &["GET", "{a}1"]).unwrap(), "x");
        cluster.migrate_slot(slot, from).unwrap();
        cluster.wait_well(START_WITHIN).unwrap();
        assert_eq!(cluster.cli(from, &["GET", "{a}2"]).unwrap(), "x");

        cluster.failover(from + MASTERS).unwrap();
        cluster.wait_well(START_WITHIN).unwrap();
        assert_eq!(cluster.master_of(slot).unwrap(), from + MASTERS);
        cluster.servers[from + MASTERS].kill();
        cluster.wait_for_role(from, "master", START_WITHIN).unwrap();
        cluster.restart(from + MASTERS).unwrap();
        cluster.wait_for_role(from + MASTERS, "slave", START_WITHIN).unwrap();
        cluster.wait_well(START_WITHIN).unwrap();
        assert_eq!(cluster.replica_of(from).unwrap(), from + MASTERS);
        assert_eq!(cluster.cli(from, &["GET", "{a}3"]).unwrap(), "x");
    }
}
