//! Scenario `idle`: many connections that do nothing, each with a user of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use switchboard_client::socket::{Incoming, Socket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::latency::Latencies;
use crate::link::Target;
use crate::machine::{Watch, check_files};
use crate::options::{Common, IdleOptions};
use crate::report::{IdleReport, per};

/// Allocated for every connection; a ping and a short message fit.
const READ_BUFFER_BYTES: usize = 1_024;

/// Opens connections, holds them, counts what happens to them.
///
/// # Errors
/// When it cannot run at all: a URL, the limit of open files, a process that is not there. Connections that fail are in
/// the report.
pub async fn idle(options: IdleOptions) -> anyhow::Result<IdleReport> {
    ensure!(options.connections > 0, "--connections: expected at least 1, got 0");
    ensure!(!options.urls.is_empty(), "--url: expected at least one node");
    check_files(options.connections)?;
    let mut targets = Vec::with_capacity(options.urls.len());
    for url in &options.urls {
        targets.push(Target::resolve(url, &options.common, READ_BUFFER_BYTES).await?);
    }
    let mut watch = Watch::start(&options.common.pids)?;
    let clock = Clock::start();
    let welcome = Arc::new(Latencies::new()?);
    let opening = Opening {
        clock,
        welcome: Arc::clone(&welcome),
        permits: Arc::new(Semaphore::new(options.common.opening_max.max(1))),
    };
    let alive = Arc::new(AtomicUsize::new(0));
    let prefix = user_prefix(&options.common);
    // Sent once a connection: what became of its opening.
    let (tell, mut told) = mpsc::unbounded_channel();
    // Owned here: dropping the set drops the connections.
    let mut tasks = JoinSet::new();
    for index in 0..options.connections {
        let target = targets[index % targets.len()].clone();
        let user = format!("{prefix}-{index}");
        let opening = opening.clone();
        let (tell, alive) = (tell.clone(), Arc::clone(&alive));
        tasks.spawn(async move {
            // Boxed, so that a task that holds a connection has only the size of holding.
            match Box::pin(opening.open(&target, &user, index)).await {
                Err(reason) => drop(tell.send(Err(reason))),
                Ok(socket) => {
                    alive.fetch_add(1, Ordering::Relaxed);
                    drop(tell.send(Ok(())));
                    drop((tell, target, user, opening));
                    hold(socket).await;
                    alive.fetch_sub(1, Ordering::Relaxed);
                }
            }
        });
    }
    drop((tell, opening));
    let mut failures: BTreeMap<String, u64> = BTreeMap::new();
    let mut opened = 0;
    while let Some(result) = told.recv().await {
        match result {
            Ok(()) => opened += 1,
            Err(reason) => *failures.entry(reason).or_default() += 1,
        }
    }
    let open_s = Duration::from_nanos(clock.now_ns()).as_secs_f64();
    watch.begin()?;
    tokio::time::sleep(options.hold).await;
    let processes = watch.end()?;
    let alive = alive.load(Ordering::Relaxed);
    tasks.shutdown().await;
    let hold_s = options.hold.as_secs_f64();
    let cpu_us: u64 = processes.iter().map(|process| process.cpu_us).sum();
    Ok(IdleReport {
        scenario: "idle",
        connections: options.connections,
        opened,
        failed: failures.values().sum::<u64>() as usize,
        failures,
        lost_while_held: opened.saturating_sub(alive),
        open_s,
        opened_per_s: per(opened as f64, open_s),
        welcome: welcome.report(),
        hold_s,
        resident_bytes_per_connection: crate::report::resident_per(&processes, opened),
        cpu_us_per_connection_s: (!processes.is_empty()).then(|| per(cpu_us as f64, opened as f64 * hold_s)),
        processes,
    })
}

/// How connections are opened: not all at once.
#[derive(Clone)]
pub(crate) struct Opening {
    pub(crate) clock: Clock,
    pub(crate) welcome: Arc<Latencies>,
    pub(crate) permits: Arc<Semaphore>,
}

impl Opening {
    /// Waits for its turn, then opens; the time to `welcome` counts from the turn.
    pub(crate) async fn open(&self, target: &Target, user: &str, index: usize) -> Result<Socket, String> {
        // The semaphore is never closed.
        let _turn = self.permits.acquire().await.map_err(|e| e.to_string())?;
        let from_ns = self.clock.now_ns();
        let socket = target.open(user, index).await?;
        self.welcome.record(index, self.clock.now_ns() - from_ns);
        Ok(socket)
    }
}

impl Opening {
    /// As [`Opening::open`], of a Socket.IO server.
    pub(crate) async fn open_socket_io(&self, target: &Target, index: usize) -> Result<Socket, String> {
        let _turn = self.permits.acquire().await.map_err(|e| e.to_string())?;
        let from_ns = self.clock.now_ns();
        let socket = target.open_socket_io(index).await?;
        self.welcome.record(index, self.clock.now_ns() - from_ns);
        Ok(socket)
    }
}

/// Reads, which answers pings, until the connection ends.
async fn hold(mut socket: Socket) {
    while !matches!(socket.drive(true).await, Incoming::Closed { .. }) {}
}

/// What the names of this run's users begin with.
pub(crate) fn user_prefix(common: &Common) -> String {
    common.user_prefix.clone().unwrap_or_else(|| format!("load-{:08x}", rand::random::<u32>()))
}
