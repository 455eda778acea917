//! One group with members on two nodes: CPU of the gateways a delivery, against a room of Socket.IO with its Redis adapter.
//!
//! Both sides get the same members, bodies, rate and time from the same load generator, and every delivery is counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use load::{Common, Dialect, FanoutOptions, FanoutReport, Hook, Traffic};

use crate::Cli;
use crate::fleet::Fleet;
use crate::p2p::redis_cpu_us;
use crate::page::{median, range};

const MEMBERS: usize = 1_000;
const BODY_BYTES: usize = 200;

/// Messages a second of a room that talks: 20,000 deliveries, which neither side takes for an overload on two cores.
const PER_SECOND: f64 = 20.0;
/// Messages on their way to everybody, where each side gets as many as it takes.
const WINDOW: usize = 64;

/// Figures of one side, a value a run.
struct Side {
    name: &'static str,
    dialect: Dialect,
    traffic: Traffic,
    reports: Vec<FanoutReport>,
    redis_us: Vec<f64>,
    publishes: Vec<f64>,
}

impl Side {
    fn new(name: &'static str, dialect: Dialect, traffic: Traffic) -> Self {
        Self { name, dialect, traffic, reports: Vec::new(), redis_us: Vec::new(), publishes: Vec::new() }
    }

    async fn run(&mut self, cli: &Cli, fleet: Fleet) -> anyhow::Result<()> {
        let fleet = Arc::new(fleet);
        // Joins are not in it.
        let before: Arc<Mutex<(f64, f64)>> = Arc::default();
        let joined = {
            let (fleet, before) = (fleet.clone(), before.clone());
            Hook(Some(Arc::new(move || {
                *before.lock().unwrap_or_else(PoisonError::into_inner) = (redis_cpu_us(&fleet), fleet.publishes())
            })))
        };
        let options = FanoutOptions {
            urls: fleet.urls.clone(),
            dialect: self.dialect,
            members: MEMBERS,
            body_bytes: BODY_BYTES,
            traffic: self.traffic,
            joined,
            warmup: Duration::from_secs(2),
            measure: Duration::from_secs(cli.seconds),
            drain: Duration::from_secs(10),
            // One frame a WebSocket message for everybody: Socket.IO knows no arrays.
            common: Common { pids: fleet.pids.clone(), batch: false, ..Common::default() },
        };
        let report = load::fanout(options).await?;
        ensure!(report.is_ok() && report.errors.is_empty(), "{}: the promise broke:\n{report}", self.name);
        ensure!(report.received == report.written * MEMBERS as u64, "{}: not everybody got everything", self.name);
        // Of all messages, warm-up included.
        let messages = report.written as f64;
        let (redis_us, publishes) = *before.lock().unwrap_or_else(PoisonError::into_inner);
        self.redis_us.push((redis_cpu_us(&fleet) - redis_us) / messages);
        self.publishes.push((fleet.publishes() - publishes) / messages);
        eprintln!("{}:\n{report}", self.name);
        self.reports.push(report);
        Ok(())
    }

    fn of(&self, figure: impl Fn(&FanoutReport) -> f64) -> Vec<f64> {
        self.reports.iter().map(figure).collect()
    }

    fn cpu(&self) -> Vec<f64> {
        self.of(|report| report.cpu_us_per_delivery.unwrap_or(f64::NAN))
    }

    fn row(&self) -> String {
        format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            self.name,
            range(&self.cpu()),
            range(&self.redis_us),
            range(&self.publishes),
            range(&self.of(|report| report.delivered_per_s)),
            range(&self.of(|report| report.latency.p50_us as f64 / 1e3)),
            range(&self.of(|report| report.latency.p99_us as f64 / 1e3)),
        )
    }
}

/// Both sides under one load, in turn.
struct Pair {
    product: Side,
    peer: Side,
}

impl Pair {
    async fn run(cli: &Cli, traffic: Traffic) -> anyhow::Result<Self> {
        let mut pair = Self {
            product: Side::new("Switchboard, durable, members for good", Dialect::Switchboard, traffic),
            peer: Side::new("Socket.IO with its Redis adapter, stores nothing", Dialect::SocketIo, traffic),
        };
        for _ in 0..cli.runs {
            pair.product.run(cli, Fleet::product(&cli.binary, 2, &[]).await?).await?;
            pair.peer.run(cli, Fleet::socket_io()?).await?;
        }
        Ok(pair)
    }

    fn ratio(&self) -> f64 {
        median(&self.product.cpu()) / median(&self.peer.cpu())
    }

    fn table(&self) -> String {
        format!(
            "| side | gateway CPU, us a delivery | Redis CPU, us a message | PUBLISH a message | delivered/s | p50 ms | p99 ms \
             |\n|---|---|---|---|---|---|---|\n{}{}",
            self.product.row(),
            self.peer.row()
        )
    }
}

pub(crate) async fn run(cli: &Cli) -> anyhow::Result<String> {
    let full = Pair::run(cli, Traffic::Saturate { window: WINDOW }).await?;
    let paced = Pair::run(cli, Traffic::Rate { per_second: PER_SECOND }).await?;
    let a_node = median(&paced.product.publishes) / 2.0;
    Ok(format!(
        "One group of {MEMBERS} members, half of them on each of two nodes, one sender at each node, bodies of {BODY_BYTES} bytes, \
         one frame a WebSocket message, {} s a run, {} runs of each side in turn: median (least–most). Gateway CPU is user and \
         system time of both processes in the measured window, over the deliveries in it; Redis and the load generator are not in \
         it. Redis\' figures are of all messages after the joins. Every member got every message, once and in order.\n\nAs many \
         messages as each side takes, {WINDOW} on their way to everybody:\n\n{}\nGateway CPU a delivery against the peer\'s: \
         **{:.2}**. The goal was at most 0.25.\n\nA room that talks, {PER_SECOND:.0} messages a second by a schedule, so that each \
         delivery is a write to a socket of its own on both sides:\n\n{}\nGateway CPU a delivery against the peer\'s: \
         **{:.2}**. PUBLISH a message and node: **{a_node:.2}**; the goal was one.\n",
        cli.seconds,
        cli.runs,
        full.table(),
        full.ratio(),
        paced.table(),
        paced.ratio(),
    ))
}
