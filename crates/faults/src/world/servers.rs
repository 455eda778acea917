//! The Redis servers of a topology under one name, and what is asked of them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use testkit::{Cluster, Redis, Sentinel};
use tokio::time::Instant;

use super::Topology;

/// For a topology that has been healed: a failover, a full synchronisation.
const WELL_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) enum Servers {
    Single(Box<Redis>),
    Sentinel(Sentinel),
    Cluster(Cluster),
}

impl Servers {
    /// # Errors
    /// A server does not start.
    pub(crate) fn start(topology: Topology) -> Result<Self> {
        Ok(match topology {
            Topology::Single => Self::Single(Box::new(Redis::start()?)),
            Topology::Sentinel => Self::Sentinel(Sentinel::start()?),
            Topology::Cluster => Self::Cluster(Cluster::start()?),
        })
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Single(redis) => redis.url(),
            Self::Sentinel(sentinel) => sentinel.url(),
            Self::Cluster(cluster) => cluster.url(),
        }
    }

    pub(crate) fn all(&self) -> &[Redis] {
        match self {
            Self::Single(redis) => std::slice::from_ref(redis),
            Self::Sentinel(sentinel) => &sentinel.servers,
            Self::Cluster(cluster) => &cluster.servers,
        }
    }

    pub(crate) fn get_mut(&mut self, n: usize) -> &mut Redis {
        match self {
            Self::Single(redis) => redis,
            Self::Sentinel(sentinel) => &mut sentinel.servers[n],
            Self::Cluster(cluster) => &mut cluster.servers[n],
        }
    }

    pub(crate) fn cluster(&self) -> Result<&Cluster> {
        match self {
            Self::Cluster(cluster) => Ok(cluster),
            _ => bail!("this topology is no cluster"),
        }
    }

    /// The masters, by index; those of a cluster that have slots.
    ///
    /// # Errors
    /// Nobody knows them.
    pub(crate) fn masters(&self) -> Result<Vec<usize>> {
        match self {
            Self::Single(_) => Ok(vec![0]),
            Self::Sentinel(sentinel) => {
                let port = sentinel.master()?.port();
                Ok(sentinel.servers.iter().position(|server| server.port() == port).into_iter().collect())
            }
            Self::Cluster(cluster) => {
                // One slot of each third: slots move one by one here, never by thirds.
                let mut masters: Vec<usize> =
                    [1, 6_000, 16_000].map(|slot| cluster.master_of(slot)).into_iter().collect::<Result<_>>()?;
                masters.sort_unstable();
                masters.dedup();
                Ok(masters)
            }
        }
    }

    /// The replica of a master.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn replica_of(&self, master: usize) -> Result<usize> {
        match self {
            Self::Single(_) => bail!("there is no replica"),
            Self::Sentinel(_) => Ok(1 - master),
            Self::Cluster(cluster) => cluster.replica_of(master),
        }
    }

    /// Waits until there are masters, and every replica follows one.
    ///
    /// # Errors
    /// Not within 30 s; the error says what is missing.
    pub(crate) fn wait_well(&self) -> Result<()> {
        let end = Instant::now() + WELL_WITHIN;
        if let Self::Cluster(cluster) = self {
            cluster.wait_well(WELL_WITHIN)?;
        }
        loop {
            let state = self.is_well();
            if state.is_ok() || Instant::now() >= end {
                return state;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_well(&self) -> Result<()> {
        let masters = self.masters()?;
        for (n, server) in self.all().iter().enumerate() {
            let info = server.try_cli(&["INFO", "replication"])?;
            let is_master = info.contains("role:master");
            if is_master != masters.contains(&n) {
                bail!("server {n}: {info}");
            }
            if !is_master && !info.contains("master_link_status:up") {
                bail!("server {n} does not follow: {info}");
            }
        }
        Ok(())
    }
}

/// One number of INFO; 0 if it is not there.
///
/// # Errors
/// No answer.
pub(crate) fn info_number(server: &Redis, section: &str, name: &str) -> Result<u64> {
    Ok(info_text(server, section, name)?.parse().unwrap_or_default())
}

/// # Errors
/// No answer.
pub(crate) fn info_text(server: &Redis, section: &str, name: &str) -> Result<String> {
    let info = server.try_cli(&["INFO", section])?;
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.unwrap_or_default().trim().to_owned())
}

/// How often a server has answered with this error since its start.
///
/// # Errors
/// No answer.
pub(crate) fn error_count(server: &Redis, error: &str) -> Result<u64> {
    let text = info_text(server, "errorstats", &format!("errorstat_{error}"))?;
    Ok(text.strip_prefix("count=").and_then(|count| count.parse().ok()).unwrap_or_default())
}

/// Changes one setting while it runs and gives back what it was.
///
/// # Errors
/// No answer, or it is refused.
pub(crate) fn config(server: &Redis, name: &str, value: &str) -> Result<String> {
    let before = server.try_cli(&["CONFIG", "GET", name])?;
    server.try_cli(&["CONFIG", "SET", name, value])?;
    // An empty value has no line.
    let value = before.strip_prefix(name).with_context(|| format!("there is no setting {name}"))?;
    Ok(value.trim().to_owned())
}
