//! The faults: what there is, for which topologies, and how each is inflicted. Every one undoes what it did and comes back
//! with a proof that it bit, or with an error.

mod client;
mod clock;
mod cluster;
mod failover;
mod network;
mod node;
mod refusal;
mod server;
mod table;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use testkit::{Proxy, Redis};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

pub(crate) use self::table::{FAULTS, Fault, Part, find};
use crate::history::What;
use crate::load::Shared;
use crate::world::{Servers, World};

/// Connections that make a node worth hurting.
const CROWD_MIN: usize = 20;

const CROWD_WITHIN: Duration = Duration::from_secs(15);

/// Where faults happen: one world and its clients.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) load: Arc<Shared>,
    /// One fault at a time for each part; faults of different parts overlap.
    parts: [Mutex<()>; Part::COUNT],
    chance: std::sync::Mutex<StdRng>,
}

impl Stage {
    pub(crate) fn new(world: World, load: Arc<Shared>, seed: u64) -> Self {
        let chance = std::sync::Mutex::new(StdRng::seed_from_u64(seed));
        Self { world, load, parts: Default::default(), chance }
    }

    /// Waits for the parts that the fault touches, inflicts it, and records it from its beginning to its end.
    ///
    /// # Errors
    /// It did not bite, or could not be undone.
    pub(crate) async fn inflict(&self, fault: &Fault, hold: Duration) -> Result<String> {
        let mut held = Vec::new();
        // Always in the same order, so that no two wait for each other.
        for part in Part::ALL.into_iter().filter(|part| fault.touches.contains(part)) {
            held.push(self.parts[part as usize].lock().await);
        }
        let name = fault.title();
        let record = |begins, proof: &str| {
            self.load.recorder.record(What::Fault { name: name.clone(), begins, proof: proof.to_owned() });
        };
        record(true, "");
        let bitten = Box::pin(table::inflict(self, fault.number, hold)).await;
        // An end without a proof is what the judge rejects.
        record(false, bitten.as_deref().unwrap_or_default());
        bitten.with_context(|| format!("fault {name} on {}", self.world.topology.name()))
    }

    fn below(&self, bound: usize) -> usize {
        let mut chance = self.chance.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        chance.random_range(0..bound.max(1))
    }

    /// A master, by chance where there are several.
    fn some_master(&self) -> Result<usize> {
        let masters = self.servers(|servers| servers.masters())?;
        masters.get(self.below(masters.len())).copied().context("no master")
    }

    fn servers<T>(&self, work: impl FnOnce(&mut Servers) -> T) -> T {
        self.world.with_servers(work)
    }

    fn server<T>(&self, n: usize, work: impl FnOnce(&Redis) -> T) -> T {
        self.servers(|servers| work(&servers.all()[n]))
    }

    /// A sum over all servers that answer.
    fn sum(&self, of: impl Fn(&Redis) -> Result<u64>) -> u64 {
        self.servers(|servers| servers.all().iter().filter_map(|server| of(server).ok()).sum())
    }

    /// A sum over both nodes; those that do not answer count nothing.
    async fn node_sum(&self, metric: &str) -> f64 {
        let mut sum = 0.0;
        for seat in &self.world.seats {
            sum += seat.metric(metric).await.unwrap_or_default();
        }
        sum
    }

    /// Behind another fault of a node its clients are still on their way back; a fault without clients bites nobody. Says
    /// how many there are.
    async fn wait_for_crowd(&self, front: &Proxy) -> usize {
        let end = Instant::now() + CROWD_WITHIN;
        while front.open_count() < CROWD_MIN && Instant::now() < end {
            sleep(Duration::from_millis(50)).await;
        }
        front.open_count()
    }

    /// # Errors
    /// The topology does not come to rest.
    fn wait_well(&self) -> Result<()> {
        self.servers(|servers| servers.wait_well())
    }
}
