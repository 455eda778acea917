//! Generations at fake masters of a cluster: what ends one, and what ends all.

use std::sync::atomic::Ordering;

use backplane::{Answer, SharedNode};
use parking_lot::Mutex;
use protocol::NodeId;
use routing::{Layout, Settings, Topology};
use tokio::sync::watch;

use super::*;
use crate::asker::tests::fake::{Fake, Mode};
use crate::config::{Config, RawConfig};

/// Two masters; one of them has the fleet's keys.
#[derive(Debug)]
struct Masters {
    id: SharedNode,
    home: Mutex<Source>,
    moved: watch::Sender<()>,
    sources: watch::Sender<Vec<Source>>,
    /// How the first one answers.
    mode: Mutex<Mode>,
    /// Which were opened, and as whom.
    opened: Mutex<Vec<(Source, NodeId)>>,
    is_dead: Mutex<bool>,
}

/// Ends when the fleet's keys move, as a real one does.
struct Ends(watch::Receiver<()>);

impl Subscription for Ends {
    fn next(&mut self) -> Answer<'_, Result<Bundle, Loss>> {
        Box::pin(async {
            let _ = self.0.changed().await;
            Err(Loss::Slots)
        })
    }
}

impl Backplane for Masters {
    fn sources(&self) -> watch::Receiver<Vec<Source>> {
        self.sources.subscribe()
    }

    fn open<'a>(&'a self, source: &'a Source) -> Answer<'a, Opened> {
        self.opened.lock().push((source.clone(), self.id.get()));
        let (is_first, is_home) = (source.0 == "first", *self.home.lock() == *source);
        let mode = if is_first { *self.mode.lock() } else { Mode::Answers };
        let fake = Fake { is_home, ..Fake::of([SlotGroup(u16::from(!is_first))], mode) };
        fake.is_dead.store(is_home && std::mem::take(&mut *self.is_dead.lock()), Ordering::Relaxed);
        let commands: Commands = Arc::new(fake);
        let subscription: Box<dyn Subscription> = Box::new(Ends(self.moved.subscribe()));
        Box::pin(std::future::ready(Ok((commands, subscription))))
    }
}

fn start(home: &str, mode: Mode, is_dead: bool) -> (Arc<Node>, Arc<Masters>) {
    let config = Config::load(RawConfig::default()).unwrap();
    let id = SharedNode::new(NodeId::new("n", 1).unwrap());
    let settings = Settings { partitions: 2, layout: Layout::Cluster, ..Settings::default() };
    let node = crate::lifecycle::node(&config, id.clone(), Topology::new(settings).unwrap());
    let all = ["first", "second"].map(|name| Source(name.to_owned()));
    let masters = Arc::new(Masters {
        id,
        home: Mutex::new(Source(home.to_owned())),
        moved: watch::Sender::new(()),
        sources: watch::Sender::new(all.to_vec()),
        mode: Mutex::new(mode),
        opened: Mutex::default(),
        is_dead: Mutex::new(is_dead),
    });
    tokio::spawn(run_all(node.clone(), masters.clone(), CancellationToken::new()));
    (node, masters)
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..500 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// Only the generation of the home master hears of it. The other one went on listening under the dead name, while
/// connections registered there under the new one: nothing was heard until the position check.
#[tokio::test]
async fn a_node_that_was_declared_dead_begins_again_at_every_master_under_its_new_name() {
    // The first waits for what the second brings, which is this too.
    let (node, masters) = start("second", Mode::Answers, true);
    let dead = NodeId::new("n", 1).unwrap();
    until("a new name", || node.id.get() != dead).await;
    let name = node.id.get();
    let is_open = |source: &str| masters.opened.lock().iter().any(|(at, as_whom)| at.0 == source && *as_whom == name);
    until("both under it", || is_open("first") && is_open("second")).await;
    until("both in use", || node.current.is_ready() && (node.current.share_up() - 1.0).abs() < 0.01).await;
}

/// The master that had the fleet's keys did not answer when the node started, and they were given to the other one. Its
/// generation waited for an agreement that nobody else could bring any more.
#[tokio::test]
async fn a_generation_that_waits_for_the_home_master_ends_when_it_becomes_that_itself() {
    let (node, masters) = start("first", Mode::Hangs, false);
    until("both asked", || masters.opened.lock().len() >= 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!node.current.is_up(), "nothing is agreed");
    *masters.home.lock() = Source("second".to_owned());
    *masters.mode.lock() = Mode::Answers;
    masters.moved.send_replace(());
    until("ready", || node.current.is_ready()).await;
}
