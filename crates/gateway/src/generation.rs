//! One generation after the other: open, tell every connection, hand out what comes, until it ends.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use backplane::{Backplane, BackplaneError, Commands, Loss, Opened, Source, Subscription};
use protocol::bundle::Item;
use protocol::{Bundle, Live, Millis, Notice, Text};
use routing::SlotGroup;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::{Begun, DropReason};
use crate::node::Node;
use crate::{fleet, heads};

/// Waits between failed openings: doubled up to the second, with jitter.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// What is the same as the last time is said so seldom while nothing can be opened.
const SAY_EVERY_MS: u64 = 60_000;

/// After a new generation connections register again, so many every few milliseconds, so that a slow backplane is not
/// pulled down by its own nodes.
const SPREAD_CONNECTIONS: usize = 200;
const SPREAD_PAUSE: Duration = Duration::from_millis(5);
/// Each generation that ends sooner than this doubles the pause of the next, unless the topology changed.
const LASTING_MS: u64 = 300_000;
/// The longest that all connections together take.
const SPREAD_MAX: Duration = Duration::from_secs(300);

/// Keeps generations open at every source there is, until `stop`.
pub(crate) async fn run_all(node: Arc<Node>, backplane: Arc<dyn Backplane>, stop: CancellationToken) {
    let mut sources = backplane.sources();
    let mut running: HashMap<Source, CancellationToken> = HashMap::new();
    let tasks = TaskTracker::new();
    loop {
        let wanted = sources.borrow_and_update().clone();
        running.retain(|source, stop| {
            let stays = wanted.contains(source);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for source in wanted {
            let (node, backplane, parent) = (&node, &backplane, &stop);
            running.entry(source).or_insert_with_key(|source| {
                let stop = parent.child_token();
                tasks.spawn(run(node.clone(), backplane.clone(), source.clone(), stop.clone()));
                stop
            });
        }
        // A list that never changes again has no sender.
        match stop.run_until_cancelled(sources.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) => stop.cancelled().await,
            None => {}
        }
        if stop.is_cancelled() {
            tasks.close();
            return tasks.wait().await;
        }
    }
}

/// Keeps a generation of one source open until `stop`.
async fn run(node: Arc<Node>, backplane: Arc<dyn Backplane>, source: Source, stop: CancellationToken) {
    let mut cause = None;
    let mut spread = Spread::default();
    loop {
        // Before it is opened: one that was opened under a name which is dead meanwhile is of no use.
        let mut renamed = node.renamed.subscribe();
        let Some((commands, mut subscription)) = open(&node, &*backplane, &source, &stop).await else { break };
        let began = node.clock.now();
        node.current.set(&commands);
        node.metrics.generations.of(Begun(cause)).increment(1);
        node.metrics.backplane_up.set(node.current.share_up());
        tracing::info!(master = source.0, cause = cause.map_or("start", Loss::as_str), "the backplane is connected");
        node.watches.on_generation(&commands);
        let tell = tokio::spawn(tell_connections(node.clone(), commands.clone(), spread.pause()));
        let over = stop.child_token();
        let keep = tokio::spawn({
            let (node, commands, over) = (node.clone(), commands.clone(), over.clone());
            async move { node.keeper.watch(commands, over).await }
        });
        let home = async {
            match commands.is_home() {
                true => fleet::run(&node, &commands, &stop).await,
                false => std::future::pending().await,
            }
        };
        let loss = tokio::select! {
            loss = dispatch(&node, &mut *subscription) => Some(loss),
            loss = home => Some(loss),
            // In a cluster only one generation hears of it, and all of them listen under the old name.
            _ = renamed.changed() => Some(Loss::Buried),
            () = stop.cancelled() => None,
        };
        tell.abort();
        over.cancel();
        drop(keep);
        node.current.clear(&commands);
        node.metrics.backplane_up.set(node.current.share_up());
        let Some(loss) = loss else { break };
        tracing::warn!(master = source.0, cause = loss.as_str(), "the backplane is lost; connecting again");
        spread.on_end(loss, node.clock.now().since(began));
        cause = Some(loss);
    }
}

/// How slowly connections register again: a generation that ended soon may have ended under their load.
#[derive(Debug, Default)]
struct Spread {
    doublings: u32,
}

impl Spread {
    fn on_end(&mut self, loss: Loss, lasted_ms: u64) {
        if lasted_ms >= LASTING_MS {
            self.doublings = 0;
        } else if !loss.is_of_topology() {
            self.doublings = (self.doublings + 1).min(16);
        }
    }

    /// Between two portions of connections.
    fn pause(&self) -> Duration {
        SPREAD_PAUSE * (1 << self.doublings)
    }
}

/// Opens the next generation; `None` when the node stops.
async fn open(
    node: &Node,
    backplane: &dyn Backplane,
    source: &Source,
    stop: &CancellationToken,
) -> Option<(Commands, Box<dyn Subscription>)> {
    let mut wait = BACK_OFF_MIN;
    let mut said: Option<(BackplaneError, Millis)> = None;
    loop {
        let error = match stop.run_until_cancelled(begin(node, backplane, source)).await? {
            Ok(generation) => return Some(generation),
            Err(error) => error,
        };
        let now = node.clock.now();
        if said.as_ref().is_none_or(|(last, at)| *last != error || now.since(*at) >= SAY_EVERY_MS) {
            tracing::warn!(master = source.0, %error, "the backplane cannot be used; trying again");
            said = Some((error, now));
        }
        let jittered = wait.mul_f64(rand::random_range(0.5..1.0));
        stop.run_until_cancelled(tokio::time::sleep(jittered)).await?;
        wait = (wait * 2).min(BACK_OFF_MAX);
    }
}

async fn begin(node: &Node, backplane: &dyn Backplane, source: &Source) -> Opened {
    let (commands, mut subscription) = backplane.open(source).await?;
    let prepare = async {
        node.agreement.hold_to(&commands).await?;
        node.keeper.restore(&commands).await
    };
    // Either may take long. A generation that ends meanwhile must not be waited for: the slots that the fleet's keys are in
    // may have come to this very master, and only a new generation of it knows.
    let prepared = tokio::select! {
        prepared = prepare => prepared,
        loss = dispatch(node, &mut *subscription) => {
            Err(BackplaneError::NotRun(format!("the generation ended before it began: {}", loss.as_str())))
        }
    };
    prepared.map(|()| (commands, subscription))
}

/// Every location of these slot groups is written again in a new generation, and every cursor checked; those that had
/// something to do last come first.
pub(crate) async fn tell_connections(node: Arc<Node>, commands: Commands, pause: Duration) {
    let groups: HashSet<SlotGroup> = commands.groups().iter().copied().collect();
    let is_of = |record: &Text| groups.contains(&node.current.group(record));
    // What reaches a group reaches everybody there.
    node.registry.heads.iter().filter(|head| is_of(head.key())).for_each(|head| head.notify_generation());
    let here = node.registry.mailboxes_of(is_of);
    // However slow, within this.
    let portions = u32::try_from(here.len().div_ceil(SPREAD_CONNECTIONS)).unwrap_or(u32::MAX).max(1);
    let pause = pause.min(SPREAD_MAX / portions);
    for some in here.chunks(SPREAD_CONNECTIONS) {
        some.iter().for_each(crate::mailbox::Mailbox::notify_generation);
        tokio::time::sleep(pause).await;
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

pub(crate) fn on_bundle(node: &Node, bundle: &Bundle) {
    for item in &bundle.items {
        let lost = on_item(node, item);
        if lost > 0 && matches!(item.live, Live::Ephemeral(_)) {
            node.metrics.messages_dropped.of(DropReason::MailboxFull).increment(lost as u64);
        }
    }
}

/// Hands one item to whom it is for; answers how many had no room for it.
fn on_item(node: &Node, Item { record, version, live }: &Item) -> usize {
    match live {
        Live::Notice(Notice::HandOver { connection, why }) => node.registry.hand_over(*connection, *why),
        Live::Notice(Notice::Presence { version, is_online, at }) => {
            node.watches.on_presence(record, *version, *is_online, *at);
        }
        _ if heads::is_headed(record) => {
            let taken = node.registry.heads.get(record).is_none_or(|head| head.offer(*version, live));
            return usize::from(!taken);
        }
        _ => return node.registry.deliver(record, *version, live).full,
    }
    0
}

#[cfg(test)]
mod tests;
