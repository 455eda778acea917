//! What the command line says, and how a run is told to whoever reads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::report::{Outcome, Run};
use crate::run::{self, Course, Done, RunOptions};

/// Messages a second of a run of one fault: what two cores can do beside the fault with debug binaries.
pub(crate) const RATE_ALONE: u32 = 2_500;

/// Breaks real Redis topologies and real nodes, and judges what became of every message.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Which faults there are, where each is inflicted, and why some are not
    List,
    /// Inflicts faults one by one, or by a random schedule
    Run(RunArguments),
    /// Judges a history that was kept
    Judge {
        history: PathBuf,
        /// Redis was made to forget what it had acknowledged as `stored`
        #[arg(long)]
        may_lose: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArguments {
    /// A fault by its number, alone; may be given several times
    #[arg(long, required_unless_present = "schedule")]
    pub(crate) fault: Vec<u8>,
    /// Random faults: `short` takes minutes, all topologies beside each other; `long` ten minutes a topology
    #[arg(long, conflicts_with = "fault")]
    pub(crate) schedule: Option<Length>,
    #[arg(long, default_value = "all")]
    pub(crate) topology: TopologyChoice,
    /// Decides every random choice of the runner; printed, and random without it
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Seconds that messages flow at least, beside one fault
    #[arg(long)]
    pub(crate) seconds: Option<u64>,
    /// Messages a second that are asked for
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    /// The gateway; without it the `switchboard` beside this program
    #[arg(long)]
    pub(crate) binary: Option<PathBuf>,
    /// A directory where histories are kept
    #[arg(long)]
    pub(crate) keep: Option<PathBuf>,
    /// Adds what was found to this page and to the JSON beside it
    #[arg(long)]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Length {
    Short,
    Long,
}

impl Length {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
        }
    }

    /// Of 30 seconds each.
    pub(crate) const fn periods(self) -> usize {
        match self {
            Self::Short => 4,
            Self::Long => 20,
        }
    }

    /// Three topologies share the machine in a short one. A long one has to come to a million messages in ten minutes, of
    /// which some go by in outages.
    pub(crate) const fn rate(self) -> u32 {
        match self {
            Self::Short => 600,
            Self::Long => 2_800,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopologyChoice {
    Single,
    Sentinel,
    Cluster,
    All,
}

impl RunArguments {
    /// # Errors
    /// There is no such file.
    pub(crate) fn binary(&self) -> Result<PathBuf> {
        let own = std::env::current_exe().context("the path of this program")?;
        let binary = self.binary.clone().unwrap_or_else(|| own.with_file_name("switchboard"));
        ensure!(binary.exists(), "there is no {}: build it, or name it with --binary", binary.display());
        Ok(binary)
    }
}

/// Runs and tells: for people on standard error, one line of JSON on standard output.
///
/// # Errors
/// As [`run::run`].
pub(crate) async fn perform(arguments: &RunArguments, options: &RunOptions) -> Result<Outcome> {
    let (topology, fault) = (options.topology.name(), described(arguments, options));
    let schedule = match &options.course {
        Course::Schedule(schedule) => format!(" ({})", schedule.describe()),
        Course::Alone(..) => String::new(),
    };
    eprintln!("{topology}: {fault}{schedule}, seed {}", options.seed);
    let done = Box::pin(run::run(options)).await.with_context(|| format!("{fault} on {topology}"))?;
    let outcome = outcome(fault, arguments, options, &done);
    tell(&outcome, &done);
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(outcome)
}

fn described(arguments: &RunArguments, options: &RunOptions) -> String {
    match &options.course {
        Course::Alone(fault, _) => fault.title(),
        Course::Schedule(_) => format!("{} schedule", arguments.schedule.map_or("random", Length::name)),
    }
}

fn outcome(fault: String, arguments: &RunArguments, options: &RunOptions, done: &Done) -> Outcome {
    let what = match &options.course {
        Course::Alone(fault, _) => format!("--fault {}", fault.number),
        Course::Schedule(_) => format!("--schedule {}", arguments.schedule.map_or("short", Length::name)),
    };
    let topology = options.topology.name().to_owned();
    let mut command = format!("switchboard-faults run {what} --topology {topology} --seed {}", options.seed);
    for (name, value) in [("seconds", arguments.seconds), ("rate", arguments.rate.map(u64::from))] {
        if let Some(value) = value {
            command.push_str(&format!(" --{name} {value}"));
        }
    }
    let run = Run {
        topology,
        fault,
        seed: options.seed,
        seconds: done.seconds,
        proof: done.proof.clone(),
        recoveries_ms: BTreeMap::from([("no message acknowledged".to_owned(), done.silence_ms)]),
        command,
    };
    let mut outcome = Outcome::new(run, &done.verdict);
    outcome.is_valid = done.is_good();
    outcome.broken.extend(done.complaints.iter().cloned());
    outcome
}

fn tell(outcome: &Outcome, done: &Done) {
    let run = &outcome.run;
    let word = if outcome.is_valid { "valid" } else { "REJECTED" };
    eprintln!("--- {}: {}: {word} after {} s\nproof: {}", run.topology, run.fault, run.seconds, run.proof);
    eprintln!("{}", done.verdict);
    eprintln!("no acknowledgement for {} ms at most; clients saw {}", done.silence_ms, done.seen);
    for complaint in &done.complaints {
        eprintln!("complaint: {complaint}");
    }
}
