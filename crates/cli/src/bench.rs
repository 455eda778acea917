//! `switchboard bench`: the load generator. A table for people on stderr, one line of JSON on stdout.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use load::{Common, Dialect, FanoutOptions, IdleOptions, JoinsOptions, P2pOptions, Traffic};
use serde_json::Value;

/// Every sender of `--saturate` waits with so many messages without an answer.
const WINDOW_DEFAULT: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    scenario: Scenario,
}

/// Users are made up, so nobody signs tokens for them.
const NEEDS: &str = "The nodes run with `--auth none`, and for anything but `idle` with `--rate-limit off`.";

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Open connections and hold them: opening rate, time to `welcome`, memory a connection
    Idle(IdleArgs),
    /// Pairs of a sender and a receiver: throughput or latency, and whether the promise was kept
    P2p(P2pArgs),
    /// One group with many members: CPU a delivery, and whether everybody got everything
    Fanout(FanoutArgs),
    /// Join and leave groups without pause: changes a second
    Joins(JoinsArgs),
}

#[derive(Debug, Args)]
#[command(after_help = NEEDS)]
struct IdleArgs {
    /// A node's listener for clients; with several, connections go to them in turn
    #[arg(long, env = "SWITCHBOARD_URL", default_value = "ws://127.0.0.1:8080", value_delimiter = ',')]
    url: Vec<String>,
    /// Connections, each with a user of its own
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    /// How long all of them are held
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    seconds: Duration,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(after_help = NEEDS)]
struct P2pArgs {
    /// Where senders connect
    #[arg(long, env = "SWITCHBOARD_URL", default_value = "ws://127.0.0.1:8080")]
    url: String,
    /// Where receivers connect: another node, to measure the way between nodes [default: --url]
    #[arg(long, value_name = "URL")]
    to_url: Option<String>,
    /// Pairs of a sender and a receiver
    #[arg(long, default_value_t = 100)]
    pairs: usize,
    /// Bytes of a body as JSON, quotes included
    #[arg(long, default_value_t = 200, value_name = "BYTES")]
    body: usize,
    /// Send as fast as answers come; shows throughput [default, unless --rate is given]
    #[arg(long, conflicts_with = "rate")]
    saturate: bool,
    /// With --saturate: messages without an answer, a sender [default: 16]
    #[arg(long, conflicts_with = "rate", value_name = "MESSAGES")]
    window: Option<usize>,
    /// Send by a schedule: messages a second, all senders together; shows latency, counted from when each was due
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Send messages that are kept nowhere
    #[arg(long)]
    ephemeral: bool,
    /// Each so-manieth message of a sender asks that a replica of Redis has it, too
    #[arg(long, conflicts_with = "ephemeral", value_name = "MESSAGES")]
    replicated_every: Option<u64>,
    #[command(flatten)]
    times: TimesArgs,
    /// How long to wait for what is still on its way at the end
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    drain: Duration,
    #[command(flatten)]
    common: CommonArgs,
}

/// How long a scenario runs.
#[derive(Debug, Args)]
struct TimesArgs {
    /// Before measuring
    #[arg(long, default_value = "2", value_parser = seconds, value_name = "SECONDS")]
    warmup: Duration,
    /// Measured time
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    seconds: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = NEEDS)]
struct FanoutArgs {
    /// Where members connect; with several, they go to them in turn, and each has a sender
    #[arg(long, env = "SWITCHBOARD_URL", default_value = "ws://127.0.0.1:8080", value_delimiter = ',')]
    url: Vec<String>,
    /// Members of the group
    #[arg(long, default_value_t = 1_000)]
    members: usize,
    /// Bytes of a body as JSON, quotes included
    #[arg(long, default_value_t = 200, value_name = "BYTES")]
    body: usize,
    /// Messages a second, all senders together; shows latency, counted from when each was due
    #[arg(long, default_value_t = 10.0, value_name = "PER_SECOND")]
    rate: f64,
    /// Instead of a rate: so many messages of all senders on their way to everybody; shows throughput
    #[arg(long, conflicts_with = "rate", value_name = "MESSAGES")]
    window: Option<usize>,
    #[command(flatten)]
    times: TimesArgs,
    /// How long to wait for what is still on its way at the end
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    drain: Duration,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(after_help = NEEDS)]
struct JoinsArgs {
    /// Where members connect
    #[arg(long, env = "SWITCHBOARD_URL", default_value = "ws://127.0.0.1:8080")]
    url: String,
    /// Connections, each with a user of its own
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Different groups
    #[arg(long, default_value_t = 1_000)]
    groups: usize,
    /// Requests without an answer, a connection, each about another group
    #[arg(long, default_value_t = 8, value_name = "REQUESTS")]
    window: usize,
    #[command(flatten)]
    times: TimesArgs,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
struct CommonArgs {
    /// Print only the line of JSON
    #[arg(long)]
    json: bool,
    /// Threads of the load generator [default: one a core]
    #[arg(long)]
    threads: Option<usize>,
    /// A process on this machine whose CPU time and memory are measured, such as a node; may be given several times.
    /// Memory also grows by what a process stores, so it says something of connections only for `idle`, or beside Redis
    #[arg(long = "pid", value_name = "PID")]
    pids: Vec<u32>,
    /// Connections that are being opened at one moment
    #[arg(long, default_value_t = 256, value_name = "CONNECTIONS")]
    opening: usize,
    /// For opening one connection, up to its `welcome`
    #[arg(long, default_value = "30", value_parser = seconds, value_name = "SECONDS")]
    open_timeout: Duration,
    /// Take one frame a WebSocket message only
    #[arg(long)]
    no_batch: bool,
    /// What the names of this run's users begin with [default: random]
    #[arg(long, value_name = "PREFIX")]
    user_prefix: Option<String>,
}

impl CommonArgs {
    fn options(&self) -> Common {
        Common {
            opening_max: self.opening,
            open_timeout: self.open_timeout,
            batch: !self.no_batch,
            pids: self.pids.clone(),
            user_prefix: self.user_prefix.clone(),
        }
    }
}

/// Why the command fails although it measured something.
const NOT_CLEAN: &str = "the run was not clean: connections failed, or the promise was not kept; the report says which";

pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<()> {
    match args.scenario {
        Scenario::Idle(args) => {
            let (json, threads) = (args.common.json, args.common.threads);
            let report = on_threads(threads, load::idle(args.into_options())).await?;
            print(&report, &serde_json::to_value(&report)?, json)?;
            if !report.is_ok() {
                bail!("{} connections failed, {} were lost while held", report.failed, report.lost_while_held);
            }
        }
        Scenario::P2p(args) => {
            let (json, threads) = (args.common.json, args.common.threads);
            let report = on_threads(threads, load::p2p(args.into_options())).await?;
            print(&report, &serde_json::to_value(&report)?, json)?;
            if !report.is_ok() {
                bail!(NOT_CLEAN);
            }
        }
        Scenario::Fanout(args) => {
            let (json, threads) = (args.common.json, args.common.threads);
            let report = on_threads(threads, load::fanout(args.into_options())).await?;
            print(&report, &serde_json::to_value(&report)?, json)?;
            if !report.is_ok() {
                bail!(NOT_CLEAN);
            }
        }
        Scenario::Joins(args) => {
            let (json, threads) = (args.common.json, args.common.threads);
            let report = on_threads(threads, load::joins(args.into_options())).await?;
            print(&report, &serde_json::to_value(&report)?, json)?;
            if !report.is_ok() {
                bail!(NOT_CLEAN);
            }
        }
    }
    Ok(())
}

/// The scenario on threads of its own: the command's runtime has one, and is waited for here.
async fn on_threads<R: Send + 'static>(
    threads: Option<usize>,
    scenario: impl Future<Output = anyhow::Result<R>> + Send + 'static,
) -> anyhow::Result<R> {
    tokio::task::spawn_blocking(move || load::on_threads(threads, scenario)).await.context("the run has panicked")??
}

fn print(report: &impl Display, line: &Value, only_json: bool) -> anyhow::Result<()> {
    if !only_json {
        eprint!("{report}");
    }
    println!("{line}");
    Ok(())
}

impl IdleArgs {
    fn into_options(self) -> IdleOptions {
        let common = self.common.options();
        IdleOptions { urls: self.url, connections: self.connections, hold: self.seconds, common }
    }
}

impl P2pArgs {
    fn into_options(self) -> P2pOptions {
        P2pOptions {
            common: self.common.options(),
            to_url: self.to_url.unwrap_or_else(|| self.url.clone()),
            from_url: self.url,
            pairs: self.pairs,
            body_bytes: self.body,
            traffic: match self.rate {
                Some(per_second) => Traffic::Rate { per_second },
                None => Traffic::Saturate { window: self.window.unwrap_or(WINDOW_DEFAULT) },
            },
            ephemeral: self.ephemeral,
            replicated_every: self.replicated_every,
            warmup: self.times.warmup,
            measure: self.times.seconds,
            drain: self.drain,
        }
    }
}

impl FanoutArgs {
    fn into_options(self) -> FanoutOptions {
        FanoutOptions {
            common: self.common.options(),
            urls: self.url,
            dialect: Dialect::Switchboard,
            members: self.members,
            body_bytes: self.body,
            traffic: match self.window {
                Some(window) => Traffic::Saturate { window },
                None => Traffic::Rate { per_second: self.rate },
            },
            joined: load::Hook::default(),
            warmup: self.times.warmup,
            measure: self.times.seconds,
            drain: self.drain,
        }
    }
}

impl JoinsArgs {
    fn into_options(self) -> JoinsOptions {
        JoinsOptions {
            common: self.common.options(),
            url: self.url,
            connections: self.connections,
            groups: self.groups,
            window: self.window,
            warmup: self.times.warmup,
            measure: self.times.seconds,
        }
    }
}

fn seconds(text: &str) -> anyhow::Result<Duration> {
    let expected = || anyhow!("expected seconds, such as 10 or 0.5");
    let seconds: f64 = text.trim_end_matches('s').parse().map_err(|_| expected())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| expected())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn p2p(flags: &[&str]) -> Result<P2pOptions, clap::Error> {
        let line = Line::try_parse_from([&["bench", "p2p"], flags].concat())?;
        let Scenario::P2p(args) = line.args.scenario else { panic!("no p2p") };
        Ok(args.into_options())
    }

    #[test]
    fn flags_become_options() {
        let plain = p2p(&["--url", "ws://a"]).unwrap();
        assert_eq!((&*plain.from_url, &*plain.to_url), ("ws://a", "ws://a"));
        assert_eq!(plain.traffic, Traffic::Saturate { window: 16 });
        let flags =
            ["--url", "ws://a", "--to-url", "ws://b", "--rate", "500", "--seconds", "0.5", "--pid", "1", "--no-batch"];
        let rate = p2p(&flags).unwrap();
        assert_eq!((&*rate.to_url, rate.traffic), ("ws://b", Traffic::Rate { per_second: 500.0 }));
        assert_eq!(
            (rate.measure, &*rate.common.pids, rate.common.batch),
            (Duration::from_millis(500), &[1][..], false)
        );
        for flags in [&["--rate", "1", "--window", "2"][..], &["--seconds", "-1"], &["--seconds", "x"]] {
            assert!(p2p(flags).is_err(), "{flags:?}");
        }
    }
}
