//! Scenario `joins`: connections that join and leave groups without pause.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use switchboard_client::Ask;
use switchboard_client::socket::{Incoming, Socket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::clock::Clock;
use crate::fanout::dialect::{Dialect, Said, ask};
use crate::idle::{Opening, user_prefix};
use crate::latency::{Latencies, LatencyReport};
use crate::link::{BUNDLE_FRAMES, Target};
use crate::machine::{ProcessReport, Watch, check_files};
use crate::options::Common;
use crate::p2p::receiver::disconnect;
use crate::report::{counts, per, row};

const READ_BUFFER_BYTES: usize = 4 * 1_024;

#[derive(Clone, Debug)]
pub struct JoinsOptions {
    pub url: String,
    /// Each with a user of its own.
    pub connections: usize,
    /// Different groups; each connection uses `window` of them.
    pub groups: usize,
    /// Requests without an answer, a connection, each about another group.
    pub window: usize,
    pub warmup: Duration,
    pub measure: Duration,
    pub common: Common,
}

/// Names carry their units.
#[derive(Clone, Debug, Serialize)]
pub struct JoinsReport {
    pub scenario: &'static str,
    pub connections: usize,
    pub groups: usize,
    pub window: usize,
    pub measure_s: f64,
    /// Answered `ok` during the measured time.
    pub joined: u64,
    pub left: u64,
    /// Both together.
    pub changes_per_s: f64,
    pub latency: LatencyReport,
    /// Over the whole run, by code.
    pub errors: BTreeMap<String, u64>,
    pub disconnects: BTreeMap<String, u64>,
    pub cpu_us_per_change: Option<f64>,
    pub processes: Vec<ProcessReport>,
}

struct Run {
    clock: Clock,
    measure_from_ns: u64,
    measure_to_ns: u64,
    joined: AtomicU64,
    left: AtomicU64,
    latency: Latencies,
}

/// Joins and leaves until the time is over.
///
/// # Errors
/// When it cannot run at all, or not every connection can be opened.
pub async fn joins(options: JoinsOptions) -> anyhow::Result<JoinsReport> {
    ensure!(options.connections > 0, "--connections: expected at least 1, got 0");
    ensure!(options.window > 0, "--window: expected at least 1, got 0");
    ensure!(options.groups >= options.window, "--groups: expected at least --window, {}", options.window);
    ensure!(!options.measure.is_zero(), "--seconds: expected more than 0");
    check_files(options.connections)?;
    let mut watch = Watch::start(&options.common.pids)?;
    let clock = Clock::start();
    let prefix = user_prefix(&options.common);
    let sockets = open(&options, clock, &prefix).await?;
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let measure_from_ns = clock.now_ns() + nanos(options.warmup);
    let run = Arc::new(Run {
        clock,
        measure_from_ns,
        measure_to_ns: measure_from_ns + nanos(options.measure),
        joined: AtomicU64::new(0),
        left: AtomicU64::new(0),
        latency: Latencies::new()?,
    });
    let mut tasks = JoinSet::new();
    for (index, socket) in sockets.into_iter().enumerate() {
        let groups = (0..options.window).map(|slot| (index * options.window + slot) % options.groups);
        let groups = groups.map(|group| format!("{prefix}-{group}")).collect();
        tasks.spawn(Member::new(Arc::clone(&run), index, groups).run(socket));
    }
    tokio::time::sleep_until(clock.instant(run.measure_from_ns)).await;
    watch.begin()?;
    tokio::time::sleep_until(clock.instant(run.measure_to_ns)).await;
    let processes = watch.end()?;
    let (mut errors, mut disconnects) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    while let Some(done) = tasks.join_next().await {
        let (refused, end) = done.context("a member has panicked")?;
        refused.into_iter().for_each(|(code, count)| *errors.entry(code).or_default() += count);
        end.into_iter().for_each(|reason| *disconnects.entry(reason).or_default() += 1);
    }
    let (joined, left) = (run.joined.load(Ordering::Relaxed), run.left.load(Ordering::Relaxed));
    let changes = (joined + left) as f64;
    let cpu_us = processes.iter().map(|process| process.cpu_us as f64).sum::<f64>();
    Ok(JoinsReport {
        scenario: "joins",
        connections: options.connections,
        groups: options.groups,
        window: options.window,
        measure_s: options.measure.as_secs_f64(),
        joined,
        left,
        changes_per_s: per(changes, options.measure.as_secs_f64()),
        latency: run.latency.report(),
        errors,
        disconnects,
        cpu_us_per_change: (!processes.is_empty()).then(|| per(cpu_us, changes)),
        processes,
    })
}

async fn open(options: &JoinsOptions, clock: Clock, prefix: &str) -> anyhow::Result<Vec<Socket>> {
    let target = Target::resolve(&options.url, &options.common, READ_BUFFER_BYTES).await?;
    let opening = Opening {
        clock,
        welcome: Arc::new(Latencies::new()?),
        permits: Arc::new(Semaphore::new(options.common.opening_max.max(1))),
    };
    let mut tasks = JoinSet::new();
    for index in 0..options.connections {
        let (target, opening, user) = (target.clone(), opening.clone(), format!("{prefix}-u{index}"));
        tasks.spawn(async move { opening.open(&target, &user, index).await });
    }
    let mut sockets = Vec::with_capacity(options.connections);
    while let Some(opened) = tasks.join_next().await {
        let opened = opened.context("a task that opened a connection has panicked")?;
        sockets.push(opened.map_err(|reason| anyhow::anyhow!("not every connection could be opened: {reason}"))?);
    }
    Ok(sockets)
}

/// One connection. Each of its groups is joined, left, joined …, and has one request under way.
struct Member {
    run: Arc<Run>,
    index: usize,
    groups: Vec<Place>,
    errors: BTreeMap<String, u64>,
    disconnect: Option<String>,
}

struct Place {
    group: String,
    is_in: bool,
    asked_ns: u64,
}

impl Member {
    fn new(run: Arc<Run>, index: usize, groups: Vec<String>) -> Self {
        let place = |group| Place { group, is_in: false, asked_ns: 0 };
        let groups = groups.into_iter().map(place).collect();
        Self { run, index, groups, errors: BTreeMap::new(), disconnect: None }
    }

    async fn run(mut self, mut socket: Socket) -> (BTreeMap<String, u64>, Option<String>) {
        let mut bundle = Vec::new();
        let mut over = pin!(sleep_until(self.run.clock.instant(self.run.measure_to_ns)));
        (0..self.groups.len()).for_each(|slot| self.ask(slot, &mut socket));
        while self.disconnect.is_none() {
            tokio::select! {
                () = socket.drive_bundle(BUNDLE_FRAMES, &mut bundle) => {
                    bundle.drain(..).for_each(|incoming| self.on(incoming, &mut socket));
                }
                () = &mut over => break,
            }
        }
        (self.errors, self.disconnect)
    }

    /// The number of the slot is the request's id: it has one under way.
    fn ask(&mut self, slot: usize, socket: &mut Socket) {
        let place = &mut self.groups[slot];
        place.asked_ns = self.run.clock.now_ns();
        let group = place.group.clone();
        let request = match place.is_in {
            true => Ask::Leave { group },
            false => Ask::Join { group, until_disconnect: false, cursor: None },
        };
        if let Err(reason) = socket.queue(ask(&slot.to_string(), &request)) {
            self.disconnect = Some(disconnect("member", None, &reason));
        }
    }

    fn on(&mut self, incoming: Incoming, socket: &mut Socket) {
        let frame = match incoming {
            Incoming::Alive => return,
            Incoming::Closed { code, reason } => {
                self.disconnect = Some(disconnect("member", code, &reason));
                return;
            }
            Incoming::Frame(frame) => frame,
        };
        Dialect::Switchboard.read(&frame, |said| match said {
            Said::Answered(slot) => self.on_done(slot, socket),
            Said::Refused { id, code } => {
                *self.errors.entry(code).or_default() += 1;
                if let Some(slot) = id.and_then(|id| usize::try_from(id).ok()).filter(|slot| *slot < self.groups.len())
                {
                    self.ask(slot, socket);
                }
            }
            _ => {}
        });
    }

    fn on_done(&mut self, slot: u64, socket: &mut Socket) {
        let now_ns = self.run.clock.now_ns();
        let Some(place) = usize::try_from(slot).ok().and_then(|slot| self.groups.get_mut(slot)) else { return };
        place.is_in = !place.is_in;
        if (self.run.measure_from_ns..self.run.measure_to_ns).contains(&now_ns) {
            let count = if place.is_in { &self.run.joined } else { &self.run.left };
            count.fetch_add(1, Ordering::Relaxed);
            self.run.latency.record(self.index, now_ns - place.asked_ns);
        }
        self.ask(slot as usize, socket);
    }
}

impl JoinsReport {
    /// Nothing was refused, and nobody was cut off.
    pub fn is_ok(&self) -> bool {
        self.errors.is_empty() && self.disconnects.is_empty()
    }
}

impl fmt::Display for JoinsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (window, groups) = (self.window, self.groups);
        row(f, "connections", format_args!("{}, {window} requests under way each, {groups} groups", self.connections))?;
        row(
            f,
            "changes",
            format_args!("{:.0} a second ({} joined, {} left)", self.changes_per_s, self.joined, self.left),
        )?;
        row(f, "latency", format_args!("{}", self.latency))?;
        counts(f, "error", &self.errors)?;
        counts(f, "disconnected", &self.disconnects)?;
        match self.cpu_us_per_change {
            Some(cpu_us) => row(f, "CPU", format_args!("{cpu_us:.1} us a change")),
            None => Ok(()),
        }
    }
}
