//! What all nodes of a fleet have to hold to: whoever would look for keys elsewhere finds nobody, so he does not start.

use std::sync::atomic::{AtomicBool, Ordering};

use backplane::{BackplaneError, Commands};
use routing::{Layout, Topology};
use tokio::sync::watch;

/// The version of keys and records.
const FORMAT: u32 = 1;

/// This node's side of it.
#[derive(Debug)]
pub(crate) struct Agreement {
    own: String,
    prefix: String,
    is_settled: AtomicBool,
    settled: watch::Sender<bool>,
    refused: watch::Sender<Option<String>>,
}

impl Agreement {
    pub(crate) fn new(topology: &Topology) -> Self {
        let layout = match topology.layout() {
            Layout::Whole => "whole",
            Layout::Cluster => "cluster",
        };
        let (partitions, tags) = (topology.partitions(), topology.tag_table());
        let own = format!("format={FORMAT} layout={layout} partitions={partitions} tags={tags:016x}");
        let prefix = topology.prefix().to_owned();
        let (settled, refused) = (watch::Sender::new(false), watch::Sender::new(None));
        Self { own, prefix, is_settled: AtomicBool::new(false), settled, refused }
    }

    /// Compares with what the fleet said, or says it first. A generation that does not reach the fleet's keys waits until
    /// one that does has.
    ///
    /// # Errors
    /// The fleet holds to something else, or could not be asked: the generation is of no use.
    pub(crate) async fn hold_to(&self, commands: &Commands) -> Result<(), BackplaneError> {
        if !commands.is_home() {
            // Ours to keep, so it does not close.
            let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
            return Ok(());
        }
        let said = commands.agree(&self.own).await?;
        if said == self.own {
            self.is_settled.store(true, Ordering::Relaxed);
            self.settled.send_replace(true);
            return Ok(());
        }
        let why = format!(
            "the fleet at this backplane was set up with `{said}`, and this node has `{}`: give it the same \
             --partitions, or another --redis-prefix than {:?}",
            self.own, self.prefix
        );
        // A node that runs is not ended by a newcomer who was first after somebody had emptied Redis.
        if !self.is_settled.load(Ordering::Relaxed) {
            self.refused.send_replace(Some(why.clone()));
        }
        Err(BackplaneError::NotRun(why))
    }

    /// Ends when the fleet refuses this node at its start.
    pub(crate) async fn refused(&self) -> String {
        let mut refused = self.refused.subscribe();
        match refused.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}
