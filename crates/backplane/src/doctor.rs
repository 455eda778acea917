//! Whether a Redis keeps what it is given: facts about a server in, findings out. Nothing here asks anybody;
//! `redis::doctor` does.
//!
//! `serve` says it at its start, `--strict` refuses on it, `switchboard doctor` explains it: one function for all three.

mod facts;
mod rules;

use std::fmt;

pub use facts::{Facts, Measured};

/// How bad it is. The worst comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Messages that were answered `sent` can be gone, or none can be stored. `--strict` refuses to start.
    Loses,
    /// Works now, and breaks on a day that will come.
    Risk,
    /// Worth knowing.
    Note,
}

impl Severity {
    pub const ALL: [Self; 3] = [Self::Loses, Self::Risk, Self::Note];
}

/// Something that is not as it should be. Shown as three lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// What it does to messages.
    pub why: &'static str,
    /// What to change.
    pub how: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n    why: {}\n    how: {}", self.what, self.why, self.how)
    }
}

/// What one rule says.
enum Checked {
    /// As it should be, in a few words.
    Fine(String),
    Found(Finding),
    /// The server did not say what this rule needs.
    Unknown(&'static str),
    /// The rule does not apply.
    Quiet,
}

/// Everything that is wrong with this server, the worst first.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut unknown = Vec::new();
    for rule in rules::ALL {
        match rule(facts) {
            Checked::Found(finding) => found.push(finding),
            Checked::Unknown(what) => unknown.push(what),
            Checked::Fine(_) | Checked::Quiet => {}
        }
    }
    if !unknown.is_empty() {
        found.push(Finding {
            // Who asks for `--strict` wants to be sure.
            severity: Severity::Loses,
            what: format!("INFO does not say everything; not known: {}", unknown.join(", ")),
            why: "nobody knows whether this server keeps what it is given; it may not even be a Redis, or be a sentinel",
            how: "look it up where this Redis is managed, or ask a Redis 7.0 or later directly, without a proxy between",
        });
    }
    if !facts.is_config_readable {
        found.push(Finding {
            severity: Severity::Note,
            what: "CONFIG GET is refused; not checked: snapshots, appendfsync, replicas to write, output buffers"
                .to_owned(),
            why: "settings that INFO does not show can lose messages too",
            how: "let this user ask with `ACL SETUSER NAME +config|get`, or look them up where this Redis is managed",
        });
    }
    found.sort_by_key(|finding| finding.severity);
    found
}

/// What is as it should be, in a few words each.
#[must_use]
pub fn fine(facts: &Facts) -> Vec<String> {
    let checked = rules::ALL.iter().map(|rule| rule(facts));
    checked.filter_map(|checked| if let Checked::Fine(text) = checked { Some(text) } else { None }).collect()
}
