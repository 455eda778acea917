//! One generation after the other: open, tell every connection, hand out what comes, until it ends.

use std::sync::Arc;
use std::time::Duration;

use backplane::{Backplane, Loss, Source, Subscription};
use protocol::{Bundle, Live};
use tokio_util::sync::CancellationToken;

use crate::fleet;
use crate::metrics::{Begun, DropReason};
use crate::node::Node;

/// Waits between failed openings: doubled up to the second, with jitter.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// After a new generation connections register again, so many every few milliseconds, so that a slow backplane is not
/// pulled down by its own nodes.
const SPREAD_CONNECTIONS: usize = 200;
const SPREAD_PAUSE: Duration = Duration::from_millis(5);

/// Keeps a generation of one source open until `stop`.
pub(crate) async fn run(node: Arc<Node>, backplane: Arc<dyn Backplane>, source: Source, stop: CancellationToken) {
    let mut cause = None;
    while let Some(mut subscription) = open(&node, &*backplane, source, &stop).await {
        node.metrics.generations.of(Begun(cause)).increment(1);
        node.metrics.backplane_up.set(1.0);
        tracing::info!(cause = cause.map_or("start", Loss::as_str), "the backplane is connected");
        // Nobody else takes the commands away: they are there until `clear`.
        let Some(commands) = node.current.get() else { continue };
        let tell = tokio::spawn(tell_connections(node.clone()));
        let over = stop.child_token();
        let keep = tokio::spawn({
            let (node, commands, over) = (node.clone(), commands.clone(), over.clone());
            async move { node.keeper.watch(commands, over).await }
        });
        let loss = tokio::select! {
            loss = dispatch(&node, &mut *subscription) => loss,
            loss = fleet::run(&node, &commands, &stop) => loss,
            () = stop.cancelled() => break,
        };
        tell.abort();
        over.cancel();
        drop(keep);
        node.current.clear();
        node.metrics.backplane_up.set(0.0);
        tracing::warn!(cause = loss.as_str(), "the backplane is lost; connecting again");
        cause = Some(loss);
    }
}

/// Opens the next generation; `None` when the node stops.
async fn open(
    node: &Node,
    backplane: &dyn Backplane,
    source: Source,
    stop: &CancellationToken,
) -> Option<Box<dyn Subscription>> {
    let mut wait = BACK_OFF_MIN;
    loop {
        match stop.run_until_cancelled(backplane.open(source)).await? {
            Ok((commands, subscription)) => match node.keeper.restore(&commands).await {
                Ok(()) => {
                    node.current.set(commands);
                    return Some(subscription);
                }
                Err(error) => tracing::warn!(%error, "what the backplane may lack could not be appended again"),
            },
            Err(error) => {
                tracing::warn!(%error, "the backplane cannot be reached; trying again");
            }
        }
        let jittered = wait.mul_f64(rand::random_range(0.5..1.0));
        stop.run_until_cancelled(tokio::time::sleep(jittered)).await?;
        wait = (wait * 2).min(BACK_OFF_MAX);
    }
}

/// Every location is written again in a new generation, and every cursor checked.
async fn tell_connections(node: Arc<Node>) {
    for some in node.registry.mailboxes().chunks(SPREAD_CONNECTIONS) {
        some.iter().for_each(crate::mailbox::Mailbox::notify_generation);
        tokio::time::sleep(SPREAD_PAUSE).await;
    }
}

async fn dispatch(node: &Node, subscription: &mut dyn Subscription) -> Loss {
    let mut turns = 0u32;
    loop {
        match subscription.next().await {
            Ok(bundle) => on_bundle(node, &bundle),
            Err(loss) => return loss,
        }
        // A flood must not starve the connections that share this thread.
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(64) {
            tokio::task::yield_now().await;
        }
    }
}

fn on_bundle(node: &Node, bundle: &Bundle) {
    for item in &bundle.items {
        let delivered = node.registry.deliver(&item.record, &item.live);
        if delivered.full > 0 && matches!(item.live, Live::Ephemeral(_)) {
            node.metrics.messages_dropped.of(DropReason::MailboxFull).increment(delivered.full as u64);
        }
    }
}
