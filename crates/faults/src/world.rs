//! What is broken: a Redis topology and two nodes, real processes all of them, each node behind a proxy that stays where it
//! is when the node is started anew.

pub(crate) mod dump;
pub(crate) mod seat;
pub(crate) mod servers;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub(crate) use self::seat::Seat;
pub(crate) use self::servers::Servers;

/// Nodes of a run.
pub(crate) const NODES: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Topology {
    Single,
    Sentinel,
    Cluster,
}

impl Topology {
    pub(crate) const ALL: [Self; 3] = [Self::Single, Self::Sentinel, Self::Cluster];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Sentinel => "sentinel",
            Self::Cluster => "cluster",
        }
    }

    pub(crate) const fn has_replicas(self) -> bool {
        !matches!(self, Self::Single)
    }
}

/// One topology with its nodes. Everything ends with it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) topology: Topology,
    servers: Mutex<Servers>,
    pub(crate) seats: Vec<Seat>,
}

/// What a world is started with.
#[derive(Clone, Debug)]
pub(crate) struct WorldOptions {
    pub(crate) topology: Topology,
    pub(crate) binary: PathBuf,
    /// Arguments of the nodes after the usual ones.
    pub(crate) args: Vec<String>,
}

impl World {
    /// # Errors
    /// A process does not start; the error has its log.
    pub(crate) async fn start(options: &WorldOptions) -> Result<Self> {
        let topology = options.topology;
        let servers = tokio::task::spawn_blocking(move || Servers::start(topology)).await??;
        let url = servers.url();
        let mut seats = Vec::new();
        for n in 0..NODES {
            seats.push(Seat::start(&format!("n{n}"), options, &url).await?);
        }
        Ok(Self { topology, servers: Mutex::new(servers), seats })
    }

    /// Works on the Redis servers. It blocks: runtime threads are told so.
    pub(crate) fn with_servers<T>(&self, work: impl FnOnce(&mut Servers) -> T) -> T {
        tokio::task::block_in_place(|| work(&mut self.lock()))
    }

    fn lock(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
