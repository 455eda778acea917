//! Start order, and the end: ready, unready, goodbye, stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use backplane::redis::COMMAND_TIMEOUT;
use backplane::{Backplane, Embedded, RedisBackplane, RedisSettings, SharedNode};
use delivery::Limits;
use protocol::NodeId;
use routing::Topology;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agreement::Agreement;
use crate::asker::{self, Asker, Measures};
use crate::auth::Authenticator;
use crate::clock::{Clock, wall_us};
use crate::config::{Config, Scheduler};
use crate::current::Current;
use crate::departures::{self, Departures};
use crate::door::Door;
use crate::driver::Errands;
use crate::heads::Heads;
use crate::joins::{self, Joins};
use crate::keeper::Keeper;
use crate::listener::{Http, HttpSettings, accept};
use crate::metrics::{Metrics, run_upkeep};
use crate::node::Node;
use crate::publisher::Publisher;
use crate::questions::Questions;
use crate::registry::Registry;
use crate::suspects::Suspects;
use crate::watches::Watches;
use crate::workers::Workers;
use crate::{doctor, generation, mailbox, watches};

/// How long a client is told to wait after a drain, spread over this.
const RECONNECT_SPREAD_MS: u64 = 3_000;

/// How long a node that leaves waits for replicas: they are asked every second.
const SETTLE_WITHIN: Duration = Duration::from_secs(3);

/// How a running node is told to end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Say goodbye, then end.
    pub drain: CancellationToken,
    /// End now.
    pub now: CancellationToken,
}

/// The addresses that a node listens at: with port 0 in the configuration, which ones it got.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub listen: std::net::SocketAddr,
    pub internal: std::net::SocketAddr,
}

/// Runs a node on a runtime of its own until the process is told to stop: SIGTERM or SIGINT say goodbye first, a second
/// one ends at once.
///
/// # Errors
/// The node could not start: an address is taken, the configuration does not fit together.
pub fn run_blocking(config: Config, ready: impl FnOnce(Addresses) + Send) -> anyhow::Result<()> {
    let mut builder = match config.scheduler {
        Scheduler::Shared => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(config.workers);
            builder
        }
        // The connections have workers of their own; this one thread is for the backplane and for accepting.
        Scheduler::Pinned => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build().context("no runtime")?;
    runtime.block_on(async move {
        let shutdown = Shutdown::default();
        let signals = tokio::spawn(listen_for_signals(shutdown.clone())?);
        let result = run(config, shutdown, ready).await;
        signals.abort();
        result
    })
}

fn listen_for_signals(shutdown: Shutdown) -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("no signal handler")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no signal handler")?;
    Ok(async move {
        for token in [shutdown.drain, shutdown.now] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    })
}

/// Runs a node until `shutdown`. `ready` is called once it listens.
///
/// # Errors
/// See [`run_blocking`].
pub async fn run(config: Config, shutdown: Shutdown, ready: impl FnOnce(Addresses)) -> anyhow::Result<()> {
    let id = SharedNode::new(NodeId::new(&config.node_name, rand::random()).context("node-name")?);
    let topology = topology(&config)?;
    let backplane = backplane(&config, &id, &topology)?;
    if let Some(url) = config.redis.as_ref().filter(|_| config.strict) {
        // Before anybody can connect: a node that refuses was never there.
        match shutdown.drain.run_until_cancelled(doctor::require(url)).await {
            Some(checked) => checked?,
            None => return Ok(()),
        }
    }
    let client_listener = accept::bind(config.listen).context("listen")?;
    let internal_listener = accept::bind(config.internal).context("internal")?;
    let addresses = Addresses { listen: client_listener.local_addr()?, internal: internal_listener.local_addr()? };

    let node = node(&config, id, topology.clone());
    // Two ends: connections stop first, then those who hand on what they leave.
    let (stop, stop_backplane) = (CancellationToken::new(), CancellationToken::new());
    let tasks = TaskTracker::new();
    tasks.spawn(generation::run_all(node.clone(), backplane.clone(), stop_backplane.clone()));
    if let Some(url) = config.redis.clone().filter(|_| !config.strict) {
        tasks.spawn(doctor::report(node.clone(), url, stop_backplane.clone()));
    }
    let lanes = TaskTracker::new();
    for lane in topology.lanes() {
        lanes.spawn(node.publisher.clone().run_lane(lane, stop.clone()));
    }
    lanes.spawn(departures::run(node.departures.clone(), stop.clone()));
    lanes.spawn(joins::run(node.joins.clone(), stop.clone()));
    lanes.spawn(asker::run(node.asker.clone(), stop.clone()));
    tasks.spawn(watches::run(node.watches.clone(), stop_backplane.clone()));
    tasks.spawn(run_upkeep(node.metrics.clone(), stop_backplane.clone()));

    let workers = match config.scheduler {
        Scheduler::Shared => Workers::shared(),
        Scheduler::Pinned => Workers::pinned(config.workers).context("workers")?,
    };
    let workers = Arc::new(workers);
    let door: Arc<dyn Door> = node.clone();
    let http = Arc::new(Http::new(door.clone(), HttpSettings::new(&config), stop.clone()));
    // Back ends are answered to the end: unready, and `unavailable`.
    let internal_http = Arc::new(Http::new(door, HttpSettings::new(&config), stop_backplane.clone()));
    let refused = node.metrics.upgrades_refused.of(crate::metrics::UpgradeRefusal::TooMany).clone();
    let (serve, on) = (http, workers.clone());
    let clients = move |arrival| drop(on.pick().spawn(serve.clone().serve_client(arrival)));
    tasks.spawn(accept::run(client_listener, accept::PENDING_MAX, refused.clone(), stop.clone(), clients));
    let internal = move |arrival| drop(tokio::spawn(internal_http.clone().serve_internal(arrival)));
    tasks.spawn(accept::run(internal_listener, accept::PENDING_MAX, refused, stop_backplane.clone(), internal));

    tracing::info!(node = %node.id.get(), listen = %addresses.listen, internal = %addresses.internal, "listening");
    ready(addresses);
    let refused = tokio::select! {
        () = shutdown.drain.cancelled() => None,
        why = node.agreement.refused() => Some(why),
    };
    if let Some(why) = refused {
        anyhow::bail!("{why}");
    }
    let drained = drain(&node, &config);
    let _ = shutdown.now.run_until_cancelled(drained).await;
    node.departures.end();
    node.heads.end(&node);
    stop.cancel();
    lanes.close();
    // What connections left behind is handed on, within a command or two.
    let _ = tokio::time::timeout(COMMAND_TIMEOUT * 2, lanes.wait()).await;
    let settled = tokio::time::timeout(SETTLE_WITHIN, node.keeper.settle());
    let _ = shutdown.now.run_until_cancelled(settled).await;
    stop_backplane.cancel();
    tasks.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), tasks.wait()).await;
    if let Ok(workers) = Arc::try_unwrap(workers) {
        workers.stop();
    }
    tracing::info!("stopped");
    Ok(())
}

/// Unready first, so that load balancers notice while everything still works; then everybody is told to come back
/// elsewhere; then the node waits for them to go.
async fn drain(node: &Node, config: &Config) {
    node.is_draining.store(true, Ordering::Relaxed);
    tracing::info!(connections = node.registry.count(), "draining");
    tokio::time::sleep(Duration::from_millis(config.drain_delay_ms)).await;
    let end = tokio::time::Instant::now() + Duration::from_millis(config.drain_ms);
    // Connections that were upgraded during the delay are told in the next round.
    while node.registry.count() > 0 && tokio::time::Instant::now() < end {
        for mailbox in node.registry.mailboxes() {
            mailbox::Mailbox::notify_drain(&mailbox, 500 + rand::random_range(0..RECONNECT_SPREAD_MS));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Closing frames that are still on their way.
    while node.open.load(Ordering::Relaxed) > 0 && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Who came back elsewhere was never away.
    let _ = tokio::time::timeout_at(end, node.departures.settle()).await;
}

fn topology(config: &Config) -> anyhow::Result<Topology> {
    Topology::new(config.routing()).map_err(|e| anyhow::anyhow!("the topology does not fit: {e:?}"))
}

fn backplane(config: &Config, id: &SharedNode, topology: &Topology) -> anyhow::Result<Arc<dyn Backplane>> {
    let retry_young_us = u64::try_from(COMMAND_TIMEOUT.as_micros()).unwrap_or(u64::MAX) * 4;
    let limits = Limits {
        retention_ms: config.retention_ms,
        inbox_max: config.inbox_max,
        inbox_bytes: config.inbox_bytes,
        retry_young_us,
    };
    let Some(url) = &config.redis else {
        return Ok(Arc::new(Embedded::new(id.get(), limits, config.embedded_bytes, Arc::new(wall_us))));
    };
    let settings = RedisSettings {
        url: url.reveal().to_owned(),
        node: id.clone(),
        topology: topology.clone(),
        limits,
        process: rand::random(),
        command_timeout: COMMAND_TIMEOUT,
        connect_timeout: Duration::from_secs(3),
    };
    Ok(Arc::new(RedisBackplane::new(settings).map_err(|e| anyhow::anyhow!("redis: {e}"))?))
}

pub(crate) fn node(config: &Config, id: SharedNode, topology: Topology) -> Arc<Node> {
    let clock = Clock::start();
    let metrics = Arc::new(Metrics::new());
    let current = Arc::new(Current::new(topology.clone()));
    let histograms = (metrics.append_seconds.clone(), metrics.append_batch_size.clone());
    let again = (metrics.appended_again.clone(), metrics.unconfirmed.clone());
    let keeper = Arc::new(Keeper::new(topology.clone(), current.clone(), clock, again));
    let agreement = Agreement::new(&topology);
    let suspects = Arc::new(Suspects::default());
    let kept = (keeper.clone(), suspects.clone());
    let joins = Joins::new(topology.clone(), current.clone(), keeper.clone(), clock, COMMAND_TIMEOUT, metrics.clone());
    let publisher = Publisher::new(topology, current.clone(), kept, clock, COMMAND_TIMEOUT, histograms);
    let settings = Arc::new(config.connection(id.get().as_str()));
    let registry = Arc::new(Registry::default());
    let measures = Measures {
        waiting: metrics.backplane_waiting.clone(),
        late_checks: metrics.checks_late.clone(),
        late_ms: settings.position_check_ms,
    };
    let asker = Asker::new(current.clone(), registry.clone(), clock, measures);
    let asker = Arc::new(asker);
    let departures = Departures::new(asker.clone(), current.clone(), clock, config.presence_delay_ms);
    let watches = Watches::new(current.clone(), clock, &metrics);
    let node = Node {
        settings,
        clock,
        metrics,
        heads: Heads::new(registry.clone()),
        registry,
        current,
        agreement,
        suspects,
        keeper,
        publisher: Arc::new(publisher),
        asker,
        joins: Arc::new(joins),
        questions: Questions::new(config.inbox_max, config.inbox_bytes),
        watches: Arc::new(watches),
        errands: Errands::default(),
        departures: Arc::new(departures),
        authenticator: Authenticator::new(config),
        registrations: AtomicU64::new(1),
        is_draining: AtomicBool::new(false),
        open: AtomicUsize::new(0),
        id,
        renamed: watch::Sender::new(()),
        name: config.node_name.clone(),
        beats: AtomicU64::new(1),
    };
    Arc::new(node)
}
