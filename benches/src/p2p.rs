//! Pairs across two nodes: CPU of the gateways a message, saturated.

use std::time::Duration;

use anyhow::ensure;
use load::{Common, P2pOptions, P2pReport, Traffic};

use crate::Cli;
use crate::fleet::Fleet;
use crate::page::{median, range};

const PAIRS: usize = 200;
const BODY_BYTES: usize = 100;
const WINDOW: usize = 16;

/// What is asked of a side.
#[derive(Clone, Copy)]
struct Load {
    traffic: Traffic,
    ephemeral: bool,
    replicated_every: Option<u64>,
}

const SATURATED: Load =
    Load { traffic: Traffic::Saturate { window: WINDOW }, ephemeral: false, replicated_every: None };

/// Messages a second, where a delay is measured.
const STEADY_PER_S: f64 = 3_000.0;
const STEADY: Load = Load { traffic: Traffic::Rate { per_second: STEADY_PER_S }, ..SATURATED };

async fn measure(cli: &Cli, fleet: &Fleet, load: Load) -> anyhow::Result<P2pReport> {
    let options = P2pOptions {
        from_url: fleet.urls[0].clone(),
        to_url: fleet.urls[1].clone(),
        pairs: PAIRS,
        body_bytes: BODY_BYTES,
        traffic: load.traffic,
        ephemeral: load.ephemeral,
        replicated_every: load.replicated_every,
        warmup: Duration::from_secs(2),
        measure: Duration::from_secs(cli.seconds),
        drain: Duration::from_secs(10),
        // One frame a WebSocket message for everybody: the peer knows no arrays.
        common: Common { pids: fleet.pids.clone(), batch: false, ..Common::default() },
    };
    let report = load::p2p(options).await?;
    ensure!(
        report.pairs_opened == PAIRS,
        "only {} of {PAIRS} pairs opened: {:?}",
        report.pairs_opened,
        report.failures
    );
    let verified = &report.verified;
    ensure!(
        verified.missing == 0 && verified.duplicates == 0 && verified.reordered == 0,
        "the promise broke: {verified:?}"
    );
    Ok(report)
}

struct Side {
    name: &'static str,
    reports: Vec<P2pReport>,
    redis_us: Vec<f64>,
}

impl Side {
    fn new(name: &'static str) -> Self {
        Self { name, reports: Vec::new(), redis_us: Vec::new() }
    }

    fn push(&mut self, report: P2pReport, redis_us: f64) {
        eprintln!(
            "{}: {:.1} us CPU a message, {:.0}/s",
            self.name,
            report.cpu_us_per_message.unwrap_or(f64::NAN),
            report.delivered_per_s
        );
        self.redis_us.push(redis_us);
        self.reports.push(report);
    }

    fn cpu(&self) -> Vec<f64> {
        self.reports.iter().filter_map(|r| r.cpu_us_per_message).collect()
    }

    fn row(&self) -> String {
        let all = |get: &dyn Fn(&P2pReport) -> f64| range(&self.reports.iter().map(get).collect::<Vec<_>>());
        let verified: Vec<_> = self.reports.iter().map(|r| &r.verified).collect();
        let sum = |get: &dyn Fn(&load::Verified) -> u64| verified.iter().map(|v| get(v)).sum::<u64>();
        format!(
            "| {} | {} | {} | {} | {} | {} | {}/{}/{} |\n",
            self.name,
            range(&self.cpu()),
            range(&self.redis_us),
            all(&|r| r.delivered_per_s),
            all(&|r| r.latency.p50_us as f64 / 1e3),
            all(&|r| r.latency.p99_us as f64 / 1e3),
            sum(&|v| v.missing),
            sum(&|v| v.duplicates),
            sum(&|v| v.reordered),
        )
    }
}

const TABLE: &str = "| side | gateway CPU, us a message | Redis CPU, us a message | delivered/s | p50 ms | p99 ms | missing/twice/out of \
order |\n|---|---|---|---|---|---|---|\n";

/// CPU that a Redis has used so far, in microseconds.
pub(crate) fn redis_cpu_us(fleet: &Fleet) -> f64 {
    (fleet.info("cpu", "used_cpu_sys:") + fleet.info("cpu", "used_cpu_user:")) * 1e6
}

async fn one_run(cli: &Cli, side: &mut Side, fleet: Fleet, load: Load) -> anyhow::Result<()> {
    let before = redis_cpu_us(&fleet);
    let report = measure(cli, &fleet, load).await?;
    // Over the whole run, warm-up and drain included: every message of it is counted too.
    let redis_us = (redis_cpu_us(&fleet) - before) / report.verified.written.max(1) as f64;
    side.push(report, redis_us);
    Ok(())
}

pub(crate) async fn against_node(cli: &Cli) -> anyhow::Result<String> {
    let mut durable = Side::new("Switchboard, durable");
    let mut ephemeral = Side::new("Switchboard, ephemeral");
    let mut peer = Side::new("Node.js (ws, ioredis), stores nothing");
    for _ in 0..cli.runs {
        one_run(cli, &mut durable, Fleet::product(&cli.binary, 2, &[]).await?, SATURATED).await?;
        one_run(cli, &mut peer, Fleet::peers()?, SATURATED).await?;
        let load = Load { ephemeral: true, ..SATURATED };
        one_run(cli, &mut ephemeral, Fleet::product(&cli.binary, 2, &[]).await?, load).await?;
    }
    let ratio = median(&durable.cpu()) / median(&peer.cpu());
    let light = median(&ephemeral.cpu()) / median(&peer.cpu());
    Ok(format!(
        "{PAIRS} pairs, sender on one node and receiver on the other, bodies of {BODY_BYTES} bytes, {WINDOW} messages without an \
         answer a sender, one frame a WebSocket message, {} s a run, {} runs of each side in turn: median (least–most). Gateway \
         CPU is user and system time of both nodes in the measured window, over the messages delivered in it.\n\n{TABLE}{}{}{}\n\
         Gateway CPU against the peer's: durable **{ratio:.2}**, ephemeral **{light:.2}**. The goal for durable was at most \
         0.75.\n",
        cli.seconds,
        cli.runs,
        durable.row(),
        ephemeral.row(),
        peer.row(),
    ))
}

pub(crate) async fn scheduler(cli: &Cli) -> anyhow::Result<String> {
    let mut pinned = Side::new("pinned: a runtime a worker");
    let mut shared = Side::new("shared: one work-stealing runtime");
    for _ in 0..cli.runs {
        one_run(cli, &mut pinned, Fleet::product(&cli.binary, 2, &["--scheduler", "pinned"]).await?, SATURATED).await?;
        one_run(cli, &mut shared, Fleet::product(&cli.binary, 2, &["--scheduler", "shared"]).await?, SATURATED).await?;
    }
    let ratio = median(&pinned.cpu()) / median(&shared.cpu());
    Ok(format!(
        "The load of the first table, durable, {} s a run, {} runs of each side in turn.\n\n{TABLE}{}{}\nGateway CPU, pinned \
         against shared: **{ratio:.2}**. The cheaper one is the default of the hidden flag `--scheduler`.\n",
        cli.seconds,
        cli.runs,
        pinned.row(),
        shared.row(),
    ))
}

/// The delay of a message at a steady rate, against the peer's.
pub(crate) async fn latency(cli: &Cli) -> anyhow::Result<String> {
    let mut durable = Side::new("Switchboard, durable");
    let mut peer = Side::new("Node.js (ws, ioredis), stores nothing");
    for _ in 0..cli.runs {
        one_run(cli, &mut durable, Fleet::product(&cli.binary, 2, &[]).await?, STEADY).await?;
        one_run(cli, &mut peer, Fleet::peers()?, STEADY).await?;
    }
    let p50 = |side: &Side| median(&side.reports.iter().map(|r| r.latency.p50_us as f64).collect::<Vec<_>>());
    Ok(format!(
        "{STEADY_PER_S:.0} messages a second by a schedule, over {PAIRS} pairs across two nodes, {} s a run, {} runs of each \
         side in turn. A delay counts from when a message was due to its receipt.\n\n{TABLE}{}{}\nThe median delay against \
         the peer's: **{:.2}**. The goal was at most 1.2.\n",
        cli.seconds,
        cli.runs,
        durable.row(),
        peer.row(),
        p50(&durable) / p50(&peer),
    ))
}

/// What `stored` costs while others wait for a replica that stands still.
pub(crate) async fn replicated(cli: &Cli) -> anyhow::Result<String> {
    let (mut plain, mut beside) = (Vec::new(), Vec::new());
    let mut refused = 0;
    for _ in 0..cli.runs {
        for (side, replicated_every) in [(&mut plain, None), (&mut beside, Some(10))] {
            let fleet = Fleet::product(&cli.binary, 2, &[]).await?;
            let replica = fleet.stopped_replica().await?;
            let report = measure(cli, &fleet, Load { replicated_every, ..STEADY }).await?;
            drop(replica);
            refused += report.errors.get("unknown_outcome").copied().unwrap_or(0);
            eprintln!("every tenth `replicated`: {}: p99 {} us", replicated_every.is_some(), report.ack_latency.p99_us);
            side.push(report.ack_latency.p99_us as f64 / 1e3);
        }
    }
    ensure!(refused > 0, "the replica did not stand still: nobody waited for it");
    Ok(format!(
        "{STEADY_PER_S:.0} messages a second over {PAIRS} pairs across two nodes, one replica that is stopped, {} s a run, {} \
         runs of each side in turn. The delay is that of `sent` for those that ask for `stored`.\n\n| side | p99 of `stored`, \
         ms |\n|---|---|\n| all ask for `stored` | {} |\n| every tenth asks for `replicated` | {} |\n\n{refused} messages were \
         told `unknown_outcome`. The median p99 with them against without: **{:.2}**. The goal was at most 1.5.\n",
        cli.seconds,
        cli.runs,
        range(&plain),
        range(&beside),
        median(&beside) / median(&plain),
    ))
}
