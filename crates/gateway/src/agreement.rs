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
    is_disputed: AtomicBool,
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
        let (is_settled, is_disputed) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { own, prefix, is_settled, is_disputed, settled, refused }
    }

    /// Compares with what the fleet said, or says it first. A generation that does not reach the fleet's keys waits until
    /// one that does has.
    ///
    /// # Errors
    /// The fleet holds to something else, or could not be asked before it ever was: the generation is of no use.
    pub(crate) async fn hold_to(&self, commands: &Commands) -> Result<(), BackplaneError> {
        if !commands.is_home() {
            // Ours to keep, so it does not close.
            let _ = self.settled.subscribe().wait_for(|settled| *settled).await;
            return Ok(());
        }
        let said = match commands.agree(&self.own).await {
            Ok(said) => said,
            // The fleet's key may be on its way to another master, for as long as somebody leaves it there.
            Err(error) if self.is_settled.load(Ordering::Relaxed) && !self.is_disputed() => {
                tracing::debug!(%error, "what the fleet holds to could not be asked again");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.is_disputed.store(said != self.own, Ordering::Relaxed);
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

    /// True if the fleet held to something else when it was asked last.
    pub(crate) fn is_disputed(&self) -> bool {
        self.is_disputed.load(Ordering::Relaxed)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asker::tests::fake::{Fake, Mode};
    use routing::{Settings, SlotGroup};
    use std::sync::Arc;

    fn home(mode: Mode, said: Option<&str>) -> Commands {
        Arc::new(Fake { is_home: true, said: said.map(str::to_owned), ..Fake::of([SlotGroup(0)], mode) })
    }

    /// In a cluster the other masters' generations go on, so the node looked ready while its home master refused it.
    #[tokio::test]
    async fn a_fleet_that_changes_its_mind_is_a_dispute_and_ends_nobody() {
        let agreement = Agreement::new(&Topology::new(Settings::default()).unwrap());
        agreement.hold_to(&home(Mode::Answers, None)).await.unwrap();
        assert!(!agreement.is_disputed());
        agreement.hold_to(&home(Mode::Answers, Some("format=1 partitions=128"))).await.unwrap_err();
        assert!(agreement.is_disputed() && agreement.refused.borrow().is_none());
        agreement.hold_to(&home(Mode::Answers, None)).await.unwrap();
        assert!(!agreement.is_disputed());
    }

    /// The slot of the fleet's keys is on its way: that master's own slots are served meanwhile.
    #[tokio::test]
    async fn who_has_agreed_goes_on_where_nobody_can_be_asked() {
        let agreement = Agreement::new(&Topology::new(Settings::default()).unwrap());
        agreement.hold_to(&home(Mode::Moved, None)).await.unwrap_err();
        agreement.hold_to(&home(Mode::Answers, None)).await.unwrap();
        agreement.hold_to(&home(Mode::Moved, None)).await.unwrap();
    }
}
