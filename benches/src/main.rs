//! Measures the product against what it is compared to, in one run, and writes docs/performance.md.
//!
//! Machines are noisy, so nothing is compared across runs: each comparison alternates the two sides three times, and its
//! ratio is made of the medians of one run. Not a test: nothing here passes or fails.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod fanout;
mod fleet;
mod idle;
mod joins;
mod meta;
mod p2p;
mod page;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Measure, and write docs/performance.md
#[derive(Debug, Parser)]
struct Cli {
    /// The node to measure
    #[arg(long, default_value = "target/release/switchboard")]
    binary: PathBuf,
    /// Runs of each side
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds of each run
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum What {
    /// Redis CPU of an append, with meta as one packed string and as a hash, beside a plain RPUSH
    Meta,
    /// One work-stealing runtime against one runtime a worker
    Scheduler,
    /// Two nodes, pairs across them, against the Node.js peer
    P2p,
    /// The delay of a message at 3,000 a second, against the Node.js peer
    Latency,
    /// The delay of `stored` while others ask for `replicated` and the replica stands still
    Replicated,
    /// A group of 1,000 members on two nodes, against a room of Socket.IO with its Redis adapter
    Fanout,
    /// Joins and leaves a second, and what a member costs in memory
    Joins,
    /// Memory of idle connections
    Idle {
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
    },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (name, text) = runtime.block_on(async {
        Ok::<_, anyhow::Error>(match cli.what {
            What::Meta => ("meta", meta::run(cli.runs).await?),
            What::Scheduler => ("scheduler", p2p::scheduler(&cli).await?),
            What::P2p => ("p2p", p2p::against_node(&cli).await?),
            What::Latency => ("latency", p2p::latency(&cli).await?),
            What::Replicated => ("replicated", p2p::replicated(&cli).await?),
            What::Fanout => ("fanout", fanout::run(&cli).await?),
            What::Joins => ("joins", joins::run(&cli).await?),
            What::Idle { connections } => ("idle", idle::run(&cli, connections).await?),
        })
    })?;
    print!("{text}");
    page::write(name, &text)
}
