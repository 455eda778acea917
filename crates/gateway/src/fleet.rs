//! This node among the others: it counts, watches who counts no more, and cleans up after the dead.
//!
//! Rule 9 of docs/delivery.md ("On the node"); who is dead is decided by `delivery::death`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backplane::{Commands, Loss};
use delivery::death::Observer;
use protocol::NodeId;
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// A node that is killed is seen 15 s after its last count was, which is read as often: within 20 s.
const BEAT_EVERY: Duration = Duration::from_secs(3);

/// The dead are looked after at once and again: an attach of theirs may have been on its way.
const REAP_AFTER: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(60), Duration::from_secs(600), Duration::from_secs(3_600)];

/// Counts and watches for one generation. Ends only if others have declared this node dead: then it has a new name, under
/// which the next generation registers everything again.
pub(crate) async fn run(node: &Arc<Node>, commands: &Commands, stop: &CancellationToken) -> Loss {
    let mut observer = Observer::default();
    let mut is_counting = true;
    loop {
        // The count goes on through all generations: one that began anew would look like one that stands still.
        let beat = node.beats.fetch_add(1, Ordering::Relaxed);
        let counter = format!("{beat} {} {}", node.registry.count(), env!("CARGO_PKG_VERSION"));
        match commands.heartbeat(&counter).await {
            Ok(pulse) if pulse.is_dead => {
                rename(node);
                return Loss::Buried;
            }
            Ok(pulse) => {
                is_counting = true;
                for (dead, counter) in observer.on_pulse(&pulse.nodes, &node.id.get(), node.clock.now()) {
                    bury(node, commands, dead, &counter, stop).await;
                }
                let gone = node.suspects.gone(&pulse.nodes, &node.id.get());
                if !gone.is_empty() {
                    reap_beside(node, gone, &[Duration::ZERO], stop);
                }
            }
            // Whoever could not count himself cannot say that others did not.
            Err(error) => {
                observer = Observer::default();
                if std::mem::take(&mut is_counting) {
                    tracing::warn!(%error, "this node cannot count itself, and does not see who dies");
                }
            }
        }
        tokio::time::sleep(BEAT_EVERY).await;
    }
}

/// Death is final: the old name is never used again.
fn rename(node: &Node) {
    let old = node.id.get();
    match NodeId::new(&node.name, rand::random()) {
        Ok(new) => {
            tracing::error!(%old, %new, "others declared this node dead: it goes on under a new name");
            node.id.set(new);
            node.renamed.send_replace(());
        }
        Err(error) => tracing::error!(%error, "no new name"),
    }
}

async fn bury(node: &Arc<Node>, commands: &Commands, dead: NodeId, counter: &str, stop: &CancellationToken) {
    // One of all observers gets to do it.
    if !matches!(commands.bury(&dead, counter).await, Ok(true)) {
        return;
    }
    node.metrics.nodes_buried.increment(1);
    reap_beside(node, vec![dead], &REAP_AFTER, stop);
}

/// Cleans up beside the heartbeats: at a slow master it takes longer than others wait for a count. And it is done when the
/// generation that found the dead has ended.
fn reap_beside(node: &Arc<Node>, dead: Vec<NodeId>, after: &'static [Duration], stop: &CancellationToken) {
    let (node, stop) = (node.clone(), stop.clone());
    tokio::spawn(async move {
        for wait in after {
            if stop.run_until_cancelled(tokio::time::sleep(*wait)).await.is_none() {
                return;
            }
            for dead in &dead {
                reap(&node, dead).await;
            }
        }
    });
}

/// In a cluster each master has a part of what the dead node left.
async fn reap(node: &Node, dead: &NodeId) {
    for commands in node.current.all() {
        match commands.reap(dead).await {
            Ok(cleaned) => tracing::warn!(%dead, cleaned, "a dead node's locations are removed"),
            Err(error) => tracing::warn!(%dead, %error, "a dead node's locations stay until the next time"),
        }
    }
}
