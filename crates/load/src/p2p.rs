//! Scenario `p2p`: pairs of a sender on one node and a receiver on another.
//!
//! Both are in this process and share a clock, so the time on the way is measured without comparing clocks. The body
//! carries a counter and the moment from which the latency counts.

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
use crate::options::{P2pOptions, Traffic};
use crate::pacer::{self, Schedule};
use crate::report::{P2pReport, Verified, per, resident_per};

mod bits;
pub(crate) mod receiver;
mod sender;
pub(crate) mod stamp;

use receiver::{Received, Receiver};
use sender::{Sender, Written};

/// A busy connection takes more with each read than an idle one.
const READ_BUFFER_BYTES: usize = 4 * 1_024;

/// Between everything being open and the first message, so that all senders begin together.
const SETTLE: Duration = Duration::from_millis(200);

/// What all tasks of a run know.
#[derive(Debug)]
pub(crate) struct Run {
    clock: Clock,
    /// The measured time.
    measure_from_ns: u64,
    measure_to_ns: u64,
    /// When an unfinished sender gives up.
    drain_to_ns: u64,
    body_bytes: usize,
    ephemeral: bool,
    replicated_every: Option<u64>,
    latency: Latencies,
    ack_latency: Latencies,
    /// Messages received within the measured time.
    delivered: AtomicU64,
    /// Answers within the measured time.
    acked: AtomicU64,
}

impl Run {
    fn is_measured(&self, at_ns: u64) -> bool {
        (self.measure_from_ns..self.measure_to_ns).contains(&at_ns)
    }
}

/// What one pair knows of itself while it runs.
#[derive(Debug, Default)]
struct Progress {
    acked: AtomicU64,
    received: AtomicU64,
    /// The receiver's connection has ended: nothing more comes.
    deaf: AtomicU64,
}

/// Sends, receives, and compares.
///
/// # Errors
/// When it cannot run at all: a URL, an option that makes no sense, the limit of open files, a process that is not there,
/// or not one pair that could be opened. Everything else is in the report.
pub async fn p2p(options: P2pOptions) -> anyhow::Result<P2pReport> {
    check(&options)?;
    let mut watch = Watch::start(&options.common.pids)?;
    let clock = Clock::start();
    let (pairs, failures) = open(&options, clock).await?;
    ensure!(!pairs.is_empty(), "not one of {} pairs could be opened: {failures:?}", options.pairs);
    let pairs_opened = pairs.len();
    let open_s = Duration::from_nanos(clock.now_ns()).as_secs_f64();

    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let start_ns = clock.now_ns() + nanos(SETTLE);
    let measure_from_ns = start_ns + nanos(options.warmup);
    let measure_to_ns = measure_from_ns + nanos(options.measure);
    let run = Arc::new(Run {
        clock,
        measure_from_ns,
        measure_to_ns,
        drain_to_ns: measure_to_ns + nanos(options.drain),
        body_bytes: options.body_bytes,
        ephemeral: options.ephemeral,
        replicated_every: options.replicated_every.filter(|every| *every > 0),
        latency: Latencies::new()?,
        ack_latency: Latencies::new()?,
        delivered: AtomicU64::new(0),
        acked: AtomicU64::new(0),
    });
    let mut own = Watch::start(&[std::process::id()])?;
    let mut tasks = Tasks::start(&run, start_ns, options.traffic, pairs);

    tokio::time::sleep_until(clock.instant(measure_from_ns)).await;
    watch.begin()?;
    own.begin()?;
    tokio::time::sleep_until(clock.instant(measure_to_ns)).await;
    let processes = watch.end()?;
    let own = own.end()?;
    let outcomes = tasks.finish(&run).await?;

    let (acked, delivered) = (run.acked.load(Ordering::Relaxed), run.delivered.load(Ordering::Relaxed));
    let measure_s = options.measure.as_secs_f64();
    let cpu_us = |processes: &[crate::ProcessReport]| processes.iter().map(|p| p.cpu_us as f64).sum::<f64>();
    let (window, target_per_s, mode) = match options.traffic {
        Traffic::Saturate { window } => (Some(window), None, "saturate"),
        Traffic::Rate { per_second } => (None, Some(per_second), "rate"),
    };
    Ok(P2pReport {
        scenario: "p2p",
        pairs: options.pairs,
        pairs_opened,
        failures,
        mode,
        window,
        target_per_s,
        is_ephemeral: options.ephemeral,
        body_bytes: options.body_bytes,
        batch: options.common.batch,
        open_s,
        warmup_s: options.warmup.as_secs_f64(),
        measure_s,
        acked,
        acked_per_s: per(acked as f64, measure_s),
        delivered,
        delivered_per_s: per(delivered as f64, measure_s),
        errors: outcomes.errors,
        unsent: outcomes.unsent,
        latency: run.latency.report(),
        ack_latency: run.ack_latency.report(),
        verified: outcomes.verified,
        disconnects: outcomes.disconnects,
        cpu_us_per_message: (!processes.is_empty()).then(|| per(cpu_us(&processes), delivered as f64)),
        load_cpu_us_per_message: per(cpu_us(&own), delivered as f64),
        resident_bytes_per_connection: resident_per(&processes, pairs_opened * 2),
        processes,
    })
}

fn check(options: &P2pOptions) -> anyhow::Result<()> {
    ensure!(options.pairs > 0, "--pairs: expected at least 1, got 0");
    ensure!(!options.measure.is_zero(), "--seconds: expected more than 0");
    let least = stamp::BYTES_MIN;
    ensure!(options.body_bytes >= least, "--body: expected at least {least} bytes, got {}", options.body_bytes);
    match options.traffic {
        Traffic::Saturate { window } => ensure!(window > 0, "--window: expected at least 1, got 0"),
        Traffic::Rate { per_second } => {
            ensure!(per_second.is_finite() && per_second > 0.0, "--rate: expected more than 0, got {per_second}");
        }
    }
    check_files(options.pairs * 2)
}

/// A pair that is open: its receiver, its sender, and whom the sender writes to.
struct Pair {
    receiver: Socket,
    sender: Socket,
    to: String,
}

/// Opens both connections of every pair. Why some could not be opened, and how often.
async fn open(options: &P2pOptions, clock: Clock) -> anyhow::Result<(Vec<Pair>, BTreeMap<String, u64>)> {
    let from = Target::resolve(&options.from_url, &options.common, READ_BUFFER_BYTES).await?;
    let to = Target::resolve(&options.to_url, &options.common, READ_BUFFER_BYTES).await?;
    let opening = Opening {
        clock,
        welcome: Arc::new(Latencies::new()?),
        permits: Arc::new(Semaphore::new(options.common.opening_max.max(1))),
    };
    let prefix = user_prefix(&options.common);
    let mut tasks = JoinSet::new();
    for index in 0..options.pairs {
        let (from, to, opening) = (from.clone(), to.clone(), opening.clone());
        let (reads, writes) = (format!("{prefix}-r{index}"), format!("{prefix}-s{index}"));
        tasks.spawn(async move {
            // The receiver first: an ephemeral message to nobody is gone.
            let receiver = opening.open(&to, &reads, 2 * index).await?;
            let sender = opening.open(&from, &writes, 2 * index + 1).await?;
            Ok::<_, String>(Pair { receiver, sender, to: format!("user:{reads}") })
        });
    }
    let mut failures: BTreeMap<String, u64> = BTreeMap::new();
    let mut pairs = Vec::with_capacity(options.pairs);
    while let Some(opened) = tasks.join_next().await {
        match opened.context("a task that opened a pair has panicked")? {
            Ok(pair) => pairs.push(pair),
            Err(reason) => *failures.entry(reason).or_default() += 1,
        }
    }
    Ok((pairs, failures))
}

/// The running tasks. Dropping it ends them, and with them their connections.
struct Tasks {
    senders: JoinSet<(usize, Written)>,
    receivers: JoinSet<(usize, Received)>,
    progress: Vec<Arc<Progress>>,
    /// Tells the receivers that nothing more is expected.
    enough: CancellationToken,
}

/// What all pairs together came to.
#[derive(Default)]
struct Outcomes {
    verified: Verified,
    errors: BTreeMap<String, u64>,
    disconnects: BTreeMap<String, u64>,
    unsent: u64,
}

/// How often the end of the run is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// After everything has come: a message that comes twice comes later than that.
const LINGER: Duration = Duration::from_millis(200);

impl Tasks {
    fn start(run: &Arc<Run>, start_ns: u64, traffic: Traffic, pairs: Vec<Pair>) -> Self {
        let mut tasks = Self {
            senders: JoinSet::new(),
            receivers: JoinSet::new(),
            progress: pairs.iter().map(|_| Arc::default()).collect(),
            enough: CancellationToken::new(),
        };
        let mut turns = Vec::with_capacity(pairs.len());
        for (index, pair) in pairs.into_iter().enumerate() {
            let progress = &tasks.progress[index];
            let receiver = Receiver::new(Arc::clone(run), index, Arc::clone(progress));
            let enough = tasks.enough.clone();
            tasks.receivers.spawn(async move { (index, receiver.run(pair.receiver, enough).await) });
            let sender = Sender::new(Arc::clone(run), index, Arc::clone(progress), pair.to);
            match traffic {
                Traffic::Saturate { window } => {
                    tasks.senders.spawn(async move { (index, sender.saturate(pair.sender, start_ns, window).await) });
                }
                Traffic::Rate { .. } => {
                    let (turn, due) = mpsc::unbounded_channel();
                    turns.push(turn);
                    tasks.senders.spawn(async move { (index, sender.follow(pair.sender, due).await) });
                }
            }
        }
        if let Traffic::Rate { per_second } = traffic {
            // The thread ends with its schedule; the senders notice that by their channels.
            drop(pacer::start(run.clock, Schedule { start_ns, end_ns: run.measure_to_ns, per_second }, turns));
        }
        tasks
    }

    /// Waits until all is answered and received, or the time for that is over, and compares.
    async fn finish(&mut self, run: &Run) -> anyhow::Result<Outcomes> {
        let mut written: Vec<Option<Written>> = self.progress.iter().map(|_| None).collect();
        while let Some(done) = self.senders.join_next().await {
            let (index, result) = done.context("a sender has panicked")?;
            written[index] = Some(result);
        }
        while run.clock.now_ns() < run.drain_to_ns && !self.progress.iter().all(|progress| progress.is_done()) {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(LINGER).await;
        self.enough.cancel();
        let mut outcomes = Outcomes::default();
        while let Some(done) = self.receivers.join_next().await {
            let (index, received) = done.context("a receiver has panicked")?;
            if let Some(written) = written[index].take() {
                outcomes.add(written, received);
            }
        }
        Ok(outcomes)
    }
}

impl Progress {
    /// Nothing more can come, as far as counting tells; which messages they are is compared later.
    fn is_done(&self) -> bool {
        self.deaf.load(Ordering::Relaxed) > 0
            || self.received.load(Ordering::Relaxed) >= self.acked.load(Ordering::Relaxed)
    }
}

impl Outcomes {
    fn add(&mut self, written: Written, received: Received) {
        let verified = &mut self.verified;
        verified.written += written.count;
        verified.acked += written.acked.count();
        verified.received += received.seen.count();
        verified.missing += written.acked.count_without(&received.seen);
        verified.refused_but_received += written.refused.count_with(&received.seen);
        verified.duplicates += received.duplicates;
        verified.reordered += received.reordered;
        verified.resets += received.resets;
        verified.again += received.again;
        verified.foreign += received.foreign;
        self.unsent += written.unsent;
        for (code, count) in written.errors {
            *self.errors.entry(code).or_default() += count;
        }
        for reason in written.disconnect.into_iter().chain(received.disconnect) {
            *self.disconnects.entry(reason).or_default() += 1;
        }
    }
}
