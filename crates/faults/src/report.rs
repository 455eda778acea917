//! docs/fault-report.md: what runs found, a table a topology. The outcomes themselves are kept beside it as JSON, so that
//! runs can be added one by one, and the page is made from all of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::check::{Class, Verdict};

/// What a run was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) topology: String,
    /// The fault, or the schedule of several.
    pub(crate) fault: String,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    /// What shows that the fault bit, in numbers.
    pub(crate) proof: String,
    /// How long until it worked again, where that was measured: after what, and milliseconds.
    #[serde(default)]
    pub(crate) recoveries_ms: BTreeMap<String, u64>,
    /// What runs it again.
    pub(crate) command: String,
}

/// One line of the raw outcomes: a run, what was found, and when and where that was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    #[serde(flatten)]
    pub(crate) run: Run,
    pub(crate) is_valid: bool,
    /// Breaches of any class, by name; those that the run allows are not among them.
    pub(crate) broken: Vec<String>,
    pub(crate) acked_stored: u64,
    pub(crate) acked_replicated: u64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) redis_lost: u64,
    pub(crate) resets: BTreeMap<String, u64>,
    pub(crate) longest_stall_ms: u64,
    pub(crate) catch_up_ms: u64,
    #[serde(default)]
    pub(crate) date: String,
    #[serde(default)]
    pub(crate) commit: String,
    #[serde(default)]
    pub(crate) machine: String,
}

impl Outcome {
    /// What a verdict says of a run. `lost` counts both levels: what a device missed, and what was replicated and is gone.
    pub(crate) fn new(run: Run, verdict: &Verdict) -> Self {
        let numbers = &verdict.numbers;
        let broken = verdict.broken().into_iter().map(|class| class.as_str().to_owned());
        Self {
            run,
            is_valid: verdict.is_valid(),
            broken: broken.chain(verdict.problems.iter().cloned()).collect(),
            acked_stored: numbers.acked_stored,
            acked_replicated: numbers.acked_replicated,
            delivered: numbers.delivered,
            lost: verdict.count(Class::Lost) + verdict.count(Class::LostReplicated),
            duplicated: verdict.count(Class::Duplicated),
            reordered: verdict.count(Class::Reordered),
            redis_lost: verdict.count(Class::RedisLost),
            resets: numbers.resets.clone(),
            longest_stall_ms: numbers.longest_stall_ms,
            catch_up_ms: numbers.catch_up_ms,
            ..Self::default()
        }
    }

    fn is_of_same_run(&self, other: &Self) -> bool {
        (&self.run.topology, &self.run.fault, self.run.seed) == (&other.run.topology, &other.run.fault, other.run.seed)
    }
}

/// Adds outcomes to the page at `path` and to the JSON beside it. A run of the same topology, fault and seed takes the
/// place of the older one.
///
/// # Errors
/// A file that cannot be read or written, or a JSON that is none.
pub(crate) fn write(path: &Path, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let raw = path.with_extension("json");
    let mut all: Vec<Outcome> = match std::fs::read_to_string(&raw) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("reading {}", raw.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", raw.display())),
    };
    for outcome in outcomes {
        all.retain(|old| !old.is_of_same_run(outcome));
        all.push(Outcome {
            date: shown("date", &["-u", "+%Y-%m-%d"]),
            commit: commit(),
            machine: machine(),
            ..outcome.clone()
        });
    }
    let text = serde_json::to_string_pretty(&all)?;
    std::fs::write(&raw, text + "\n").with_context(|| format!("writing {}", raw.display()))?;
    std::fs::write(path, page(&all)).with_context(|| format!("writing {}", path.display()))
}

fn shown(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

fn commit() -> String {
    let commit = shown("git", &["rev-parse", "--short=12", "HEAD"]);
    let is_changed = !shown("git", &["status", "--porcelain", "--", "crates"]).is_empty();
    if is_changed { format!("{commit} with changes") } else { commit }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let redis = shown("redis-server", &["--version"]);
    let redis = redis.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("unknown");
    format!("{cores} cores · Redis {redis}")
}

const HEAD: &str = "# Fault report

What became of every message while something was broken. Everything below is written by `switchboard-faults`, a line a
fault; no number here is typed, and `fault-report.json` beside this page has every run. What the words mean:
`crates/faults/src/check/verdict.rs`.

- **lost**: Redis kept it and a device that was there did not get it, or it was answered `replicated` and is gone. Has
  to be 0, as **twice** and **order** have.
- **Redis lost**: answered `sent`, and the final log does not have it: only with faults that make Redis forget, and then
  every session that had received as far was told by a reset.
- **stall**: the longest that an acknowledged message took to a session that was there all that time.
- **caught up**: the longest that a session took to the end of its stream when all faults were over.
";

/// The runs of one fault on one topology, as one row.
#[derive(Default)]
struct Row<'a> {
    runs: Vec<&'a Outcome>,
}

fn page(all: &[Outcome]) -> String {
    let mut tables: BTreeMap<&str, BTreeMap<&str, Row<'_>>> = BTreeMap::new();
    for outcome in all {
        tables.entry(&outcome.run.topology).or_default().entry(&outcome.run.fault).or_default().runs.push(outcome);
    }
    let mut page = HEAD.to_owned();
    for (topology, rows) in &tables {
        let newest = rows.values().flat_map(|row| &row.runs).max_by(|a, b| a.date.cmp(&b.date));
        let newest = newest.map(|o| format!("{} · commit {} · {}", o.date, o.commit, o.machine)).unwrap_or_default();
        page.push_str(&format!(
            "\n## {topology}\n\n{newest}\n\n\
             | fault | runs | s | acked stored | acked replicated | lost | twice | order | Redis lost | resets | stall ms | \
             caught up ms | recovery ms | verdict |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|---:|---|---|\n"
        ));
        rows.iter().for_each(|(fault, row)| page.push_str(&row.line(fault)));
        page.push_str("\nWhat shows that each fault bit, and how to run it again:\n\n");
        rows.iter().for_each(|(fault, row)| page.push_str(&row.origin(fault)));
    }
    page
}

impl Row<'_> {
    fn sum(&self, of: impl Fn(&Outcome) -> u64) -> u64 {
        self.runs.iter().map(|outcome| of(outcome)).sum()
    }

    fn most(&self, of: impl Fn(&Outcome) -> u64) -> u64 {
        self.runs.iter().map(|outcome| of(outcome)).max().unwrap_or(0)
    }

    fn line(&self, fault: &str) -> String {
        let mut resets: BTreeMap<&str, u64> = BTreeMap::new();
        let mut recoveries: BTreeMap<&str, u64> = BTreeMap::new();
        for outcome in &self.runs {
            for (reason, count) in &outcome.resets {
                *resets.entry(reason).or_default() += count;
            }
            for (after, ms) in &outcome.run.recoveries_ms {
                let most = recoveries.entry(after).or_default();
                *most = (*most).max(*ms);
            }
        }
        let resets: Vec<String> = resets.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let recoveries: Vec<String> = recoveries.iter().map(|(after, ms)| format!("{ms} after {after}")).collect();
        let mut broken: Vec<&str> = self.runs.iter().flat_map(|o| &o.broken).map(String::as_str).collect();
        broken.sort_unstable();
        broken.dedup();
        let is_valid = self.runs.iter().all(|outcome| outcome.is_valid);
        let cells = [
            cell(fault),
            self.runs.len().to_string(),
            self.sum(|o| o.run.seconds).to_string(),
            self.sum(|o| o.acked_stored).to_string(),
            self.sum(|o| o.acked_replicated).to_string(),
            self.sum(|o| o.lost).to_string(),
            self.sum(|o| o.duplicated).to_string(),
            self.sum(|o| o.reordered).to_string(),
            self.sum(|o| o.redis_lost).to_string(),
            if resets.is_empty() { "none".to_owned() } else { cell(&resets.join(", ")) },
            self.most(|o| o.longest_stall_ms).to_string(),
            self.most(|o| o.catch_up_ms).to_string(),
            if recoveries.is_empty() { "–".to_owned() } else { cell(&recoveries.join(", ")) },
            if is_valid { "valid".to_owned() } else { format!("**broken**: {}", cell(&broken.join(", "))) },
        ];
        format!("| {} |\n", cells.join(" | "))
    }

    fn origin(&self, fault: &str) -> String {
        let Some(newest) = self.runs.last() else { return String::new() };
        format!("- {fault}: {}. `{}`\n", newest.run.proof.trim_end_matches('.'), newest.run.command)
    }
}

/// A text that may stand in a table.
fn cell(text: &str) -> String {
    text.replace('|', "/").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(fault: &str, seed: u64, stall_ms: u64) -> Outcome {
        let run = Run {
            topology: "one Redis".to_owned(),
            fault: fault.to_owned(),
            seed,
            seconds: 20,
            proof: "Redis stood still for 3,012 ms.".to_owned(),
            recoveries_ms: BTreeMap::from([("the kill".to_owned(), 40 + seed)]),
            command: format!("switchboard-faults {fault} --seed {seed}"),
        };
        let resets = BTreeMap::from([("fork".to_owned(), 2)]);
        Outcome { run, is_valid: true, acked_stored: 500, longest_stall_ms: stall_ms, resets, ..Outcome::default() }
    }

    /// Runs are added one by one; the same one again takes its old one's place; seeds of one fault share a row.
    #[test]
    fn runs_are_added_one_by_one_and_share_a_row_by_fault() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("fault-report.md");
        write(&path, &[outcome("freeze", 1, 100)]).expect("the first");
        write(&path, &[outcome("kill", 1, 5), outcome("freeze", 2, 300)]).expect("two more");
        write(&path, &[outcome("freeze", 1, 200)]).expect("the first, again");
        let page = std::fs::read_to_string(&path).expect("the page");
        let row = "| freeze | 2 | 40 | 1000 | 0 | 0 | 0 | 0 | 0 | 4 fork | 300 | 0 | 42 after the kill | valid |";
        assert!(page.contains(row), "{page}");
        assert_eq!(page.matches("## one Redis").count(), 1, "{page}");
        assert!(page.contains("- kill: Redis stood still for 3,012 ms. `switchboard-faults kill --seed 1`"), "{page}");
        let raw = std::fs::read_to_string(path.with_extension("json")).expect("the outcomes");
        assert_eq!(serde_json::from_str::<Vec<Outcome>>(&raw).expect("JSON").len(), 3);
    }

    #[test]
    fn a_broken_run_says_what_it_broke() {
        let broken = Outcome { is_valid: false, broken: vec!["lost".to_owned()], lost: 3, ..outcome("cut", 1, 1) };
        assert!(page(&[broken]).contains("| **broken**: lost |"));
    }
}
