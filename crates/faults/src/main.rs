//! `switchboard-faults`: breaks real topologies, and judges the history. See docs/faults.md.

mod check;
mod history;
mod load;
mod nemesis;
mod options;
mod report;
mod run;
mod schedule;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::check::{Rules, judge};
use crate::nemesis::{FAULTS, find};
use crate::options::{Arguments, Command, Length, RunArguments, TopologyChoice};
use crate::run::{Course, RunOptions};
use crate::schedule::Schedule;
use crate::world::Topology;

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::List => {
            list();
            Ok(true)
        }
        Command::Judge { history, may_lose } => judge_file(&history, may_lose),
        Command::Run(arguments) => run_all(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("switchboard-faults: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn list() {
    for fault in FAULTS {
        let on: Vec<&str> = fault.on.iter().map(|topology| topology.name()).collect();
        let on = if on.is_empty() { "not inflicted".to_owned() } else { on.join(", ") };
        let when = if fault.on.is_empty() || !fault.scheduled_on.is_empty() { "" } else { "; alone only" };
        println!("{:>2}  {}\n    {on}{when}\n    {}", fault.number, fault.name, fault.how);
    }
}

fn judge_file(path: &std::path::Path, redis_may_lose: bool) -> Result<bool> {
    let verdict = judge(&run::recorder::read(path)?, &Rules { redis_may_lose, ..Rules::default() });
    println!("{verdict}");
    Ok(verdict.is_valid())
}

/// True if every run was as it should be.
fn run_all(arguments: &RunArguments) -> Result<bool> {
    let binary = arguments.binary()?;
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let temporary = tempfile::Builder::new().prefix("switchboard-faults-").tempdir()?;
    let directory = match &arguments.keep {
        Some(directory) => {
            std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
            directory.clone()
        }
        None => temporary.path().to_owned(),
    };
    let planned = plan(arguments, &binary, &directory, seed)?;
    ensure!(!planned.is_empty(), "nothing to run: `switchboard-faults list` says which fault runs where");
    let is_side_by_side = arguments.schedule == Some(Length::Short);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcomes = runtime.block_on(async {
        let mut outcomes = Vec::new();
        let mut running = tokio::task::JoinSet::new();
        for options in planned {
            let arguments = arguments.clone();
            running.spawn(async move { options::perform(&arguments, &options).await });
            if !is_side_by_side {
                collect(&mut running, &mut outcomes).await?;
            }
        }
        collect(&mut running, &mut outcomes).await?;
        anyhow::Ok(outcomes)
    })?;
    if let Some(path) = &arguments.report {
        report::write(path, &outcomes)?;
    }
    let is_good = outcomes.iter().all(|outcome| outcome.is_valid);
    if !is_good {
        let bad = outcomes.iter().filter(|outcome| !outcome.is_valid);
        let names: Vec<String> =
            bad.map(|outcome| format!("{} on {}", outcome.run.fault, outcome.run.topology)).collect();
        eprintln!("rejected: {}", names.join("; "));
    }
    Ok(is_good)
}

async fn collect(
    running: &mut tokio::task::JoinSet<Result<report::Outcome>>,
    outcomes: &mut Vec<report::Outcome>,
) -> Result<()> {
    while let Some(ended) = running.join_next().await {
        outcomes.push(ended??);
    }
    Ok(())
}

/// The runs that are asked for.
fn plan(
    arguments: &RunArguments,
    binary: &std::path::Path,
    directory: &std::path::Path,
    seed: u64,
) -> Result<Vec<RunOptions>> {
    let topologies = match arguments.topology {
        TopologyChoice::All => Topology::ALL.to_vec(),
        TopologyChoice::Single => vec![Topology::Single],
        TopologyChoice::Sentinel => vec![Topology::Sentinel],
        TopologyChoice::Cluster => vec![Topology::Cluster],
    };
    let mut runs = Vec::new();
    let mut add = |topology: Topology, course: Course, name: &str, rate: u32| {
        let history: PathBuf = directory.join(format!("{}-{name}-{seed}.jsonl", topology.name()));
        let rate = arguments.rate.unwrap_or(rate);
        runs.push(RunOptions { topology, course, binary: binary.to_owned(), seed, rate, history });
    };
    if let Some(length) = arguments.schedule {
        for &topology in &topologies {
            let schedule = Schedule::random(topology, length.periods(), seed);
            add(topology, Course::Schedule(schedule), length.name(), length.rate());
        }
    }
    for &number in &arguments.fault {
        let fault = find(number).with_context(|| format!("there is no fault {number}"))?;
        ensure!(
            !fault.on.is_empty() && (arguments.topology == TopologyChoice::All || fault.runs_on(topologies[0])),
            "fault {number} is not inflicted there: {}",
            fault.how
        );
        for &topology in topologies.iter().filter(|&&topology| fault.runs_on(topology)) {
            let at_least = Duration::from_secs(arguments.seconds.unwrap_or_default());
            add(topology, Course::Alone(fault, at_least), &number.to_string(), options::RATE_ALONE);
        }
    }
    Ok(runs)
}
