//! Scenario `fanout`: one group with members on all nodes, one sender at each node, messages by a schedule.
//!
//! Every member has to receive every message that was answered, once and in each sender's order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use switchboard_client::socket::Socket;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::idle::{Opening, user_prefix};
use crate::latency::Latencies;
use crate::link::Target;
use crate::machine::{Watch, check_files};
use crate::options::{Common, Traffic};
use crate::p2p::stamp;
use crate::pacer::{self, Schedule};

pub(crate) mod dialect;
mod member;
mod report;
mod sender;

pub use dialect::Dialect;
pub use report::FanoutReport;

use member::{Heard, Member};
use sender::{Sender, Written};

/// Between the last join and the first message: what the joins told the members has to be over.
const SETTLE: Duration = Duration::from_secs(1);
const READ_BUFFER_BYTES: usize = 4 * 1_024;

/// How often the end is looked for, and how long a message that comes twice is waited for.
const LOOK: Duration = Duration::from_millis(20);
const LINGER: Duration = Duration::from_millis(200);

/// One group.
#[derive(Clone, Debug)]
pub struct FanoutOptions {
    /// The nodes: members are spread over them in turn, and each has one sender, who is no member.
    pub urls: Vec<String>,
    pub dialect: Dialect,
    pub members: usize,
    /// Bytes of a body as JSON, quotes included; at least 34.
    pub body_bytes: usize,
    /// By a schedule, or as many as everybody takes.
    pub traffic: Traffic,
    /// Called when everybody has joined, right before the first message: for measurements that joins are not in.
    pub joined: Hook,
    /// Not counted.
    pub warmup: Duration,
    /// Counted.
    pub measure: Duration,
    /// How long messages are waited for at the end.
    pub drain: Duration,
    pub common: Common,
}

/// Something to be called once.
#[derive(Clone, Default)]
pub struct Hook(pub Option<Arc<dyn Fn() + Send + Sync>>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hook").field(&self.0.is_some()).finish()
    }
}

/// What all tasks of a run know.
#[derive(Debug)]
struct Run {
    clock: Clock,
    dialect: Dialect,
    group: String,
    senders: usize,
    body_bytes: usize,
    measure_from_ns: u64,
    measure_to_ns: u64,
    drain_to_ns: u64,
    latency: Latencies,
    /// Over the whole run: what was answered, and what all members received.
    acked: AtomicU64,
    received: AtomicU64,
    /// Received within the measured time.
    delivered: AtomicU64,
}

impl Run {
    fn is_measured(&self, at_ns: u64) -> bool {
        (self.measure_from_ns..self.measure_to_ns).contains(&at_ns)
    }
}

/// Opens, joins, sends, receives, and compares.
///
/// # Errors
/// When it cannot run at all, or not everybody could be opened and join. Everything else is in the report.
pub async fn fanout(options: FanoutOptions) -> anyhow::Result<FanoutReport> {
    check(&options)?;
    let mut watch = Watch::start(&options.common.pids)?;
    let clock = Clock::start();
    let prefix = user_prefix(&options.common);
    let group = format!("{prefix}-group");
    let (members, senders) = open(&options, clock, &prefix, &group).await?;
    let open_s = Duration::from_nanos(clock.now_ns()).as_secs_f64();

    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    tokio::time::sleep(SETTLE).await;
    if let Some(joined) = &options.joined.0 {
        joined();
    }
    let start_ns = clock.now_ns();
    let measure_from_ns = start_ns + nanos(options.warmup);
    let measure_to_ns = measure_from_ns + nanos(options.measure);
    let run = Arc::new(Run {
        clock,
        dialect: options.dialect,
        group,
        senders: senders.len(),
        body_bytes: options.body_bytes,
        measure_from_ns,
        measure_to_ns,
        drain_to_ns: measure_to_ns + nanos(options.drain),
        latency: Latencies::new()?,
        acked: AtomicU64::new(0),
        received: AtomicU64::new(0),
        delivered: AtomicU64::new(0),
    });
    let mut own = Watch::start(&[std::process::id()])?;
    let mut tasks = Tasks::start(&run, members, senders, (options.traffic, start_ns));
    tokio::time::sleep_until(clock.instant(measure_from_ns)).await;
    watch.begin()?;
    own.begin()?;
    tokio::time::sleep_until(clock.instant(measure_to_ns)).await;
    let (processes, own) = (watch.end()?, own.end()?);
    let (written, heard) = tasks.finish(&run, options.members).await?;
    Ok(FanoutReport::new(&options, &run, open_s, &written, &heard, processes, &own))
}

fn check(options: &FanoutOptions) -> anyhow::Result<()> {
    ensure!(!options.urls.is_empty(), "--url: expected at least one node");
    ensure!(options.members > 0, "--members: expected at least 1, got 0");
    ensure!(!options.measure.is_zero(), "--seconds: expected more than 0");
    let least = stamp::BYTES_MIN;
    match options.traffic {
        Traffic::Rate { per_second: rate } => {
            ensure!(rate.is_finite() && rate > 0.0, "--rate: expected more than 0, got {rate}");
        }
        Traffic::Saturate { window } => ensure!(window > 0, "--window: expected at least 1, got 0"),
    }
    ensure!(options.body_bytes >= least, "--body: expected at least {least} bytes, got {}", options.body_bytes);
    check_files(options.members + options.urls.len())
}

/// All members, joined, and a sender for each node.
async fn open(
    options: &FanoutOptions,
    clock: Clock,
    prefix: &str,
    group: &str,
) -> anyhow::Result<(Vec<Socket>, Vec<Socket>)> {
    let mut targets = Vec::with_capacity(options.urls.len());
    for url in &options.urls {
        targets.push(Target::resolve(url, &options.common, READ_BUFFER_BYTES).await?);
    }
    let opening = Opening {
        clock,
        welcome: Arc::new(Latencies::new()?),
        permits: Arc::new(Semaphore::new(options.common.opening_max.max(1))),
    };
    let dialect = options.dialect;
    let mut tasks = JoinSet::new();
    for index in 0..options.members {
        let (target, opening) = (targets[index % targets.len()].clone(), opening.clone());
        let (user, group) = (format!("{prefix}-m{index}"), group.to_owned());
        tasks.spawn(async move {
            let mut socket = dialect.open(&opening, &target, &user, index).await?;
            dialect.join(&mut socket, &group).await.map(|()| socket)
        });
    }
    let mut failures: BTreeMap<String, u64> = BTreeMap::new();
    let mut members = Vec::with_capacity(options.members);
    while let Some(opened) = tasks.join_next().await {
        match opened.context("a task that opened a member has panicked")? {
            Ok(socket) => members.push(socket),
            Err(reason) => *failures.entry(reason).or_default() += 1,
        }
    }
    ensure!(failures.is_empty(), "only {} of {} members joined: {failures:?}", members.len(), options.members);
    let mut senders = Vec::with_capacity(targets.len());
    for (index, target) in targets.iter().enumerate() {
        let opened = dialect.open(&opening, target, &format!("{prefix}-s{index}"), options.members + index).await;
        senders.push(opened.map_err(|reason| anyhow::anyhow!("a sender could not be opened: {reason}"))?);
    }
    Ok((members, senders))
}

/// Keeps so many messages of all senders on their way to everybody: the next one is due when all members have one more.
async fn saturate(run: Arc<Run>, turns: Vec<mpsc::UnboundedSender<u64>>, window: u64, members: u64) {
    let mut due = 0;
    let mut next = turns.iter().cycle();
    loop {
        let now_ns = run.clock.now_ns();
        if now_ns >= run.measure_to_ns {
            return;
        }
        let everywhere = run.received.load(Ordering::Relaxed) / members;
        while due < everywhere + window {
            let Some(turn) = next.next() else { return };
            let _ = turn.send(now_ns);
            due += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The running tasks. Dropping it ends them, and with them their connections.
struct Tasks {
    senders: JoinSet<Written>,
    members: JoinSet<Heard>,
    enough: CancellationToken,
}

impl Tasks {
    fn start(run: &Arc<Run>, members: Vec<Socket>, senders: Vec<Socket>, (traffic, start_ns): (Traffic, u64)) -> Self {
        let count = members.len() as u64;
        let mut tasks = Self { senders: JoinSet::new(), members: JoinSet::new(), enough: CancellationToken::new() };
        for (index, socket) in members.into_iter().enumerate() {
            let member = Member::new(Arc::clone(run), index);
            tasks.members.spawn(member.run(socket, tasks.enough.clone()));
        }
        let mut turns = Vec::with_capacity(senders.len());
        for (index, socket) in senders.into_iter().enumerate() {
            let (turn, due) = mpsc::unbounded_channel();
            turns.push(turn);
            tasks.senders.spawn(Sender::new(Arc::clone(run), index).follow(socket, due));
        }
        // Either ends with the measured time; the senders notice that by their channels.
        match traffic {
            Traffic::Rate { per_second } => {
                let schedule = Schedule { start_ns, end_ns: run.measure_to_ns, per_second };
                drop(pacer::start(run.clock, schedule, turns));
            }
            Traffic::Saturate { window } => drop(tokio::spawn(saturate(run.clone(), turns, window as u64, count))),
        }
        tasks
    }

    /// Waits until all is answered and received, or the time for that is over.
    async fn finish(&mut self, run: &Run, members: usize) -> anyhow::Result<(Vec<Written>, Vec<Heard>)> {
        let (mut written, mut heard) = (Vec::new(), Vec::new());
        while let Some(done) = self.senders.join_next().await {
            written.push(done.context("a sender has panicked")?);
        }
        let wanted = run.acked.load(Ordering::Relaxed) * members as u64;
        while run.clock.now_ns() < run.drain_to_ns && run.received.load(Ordering::Relaxed) < wanted {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(LINGER).await;
        self.enough.cancel();
        while let Some(done) = self.members.join_next().await {
            heard.push(done.context("a member has panicked")?);
        }
        written.sort_by_key(|written| written.sender);
        Ok((written, heard))
    }
}
