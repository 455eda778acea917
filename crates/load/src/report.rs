//! What a run found: numbers for machines, and the same for people.
//!
//! Names carry their units. Fields are only added, never renamed: results are kept and compared over years.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::latency::LatencyReport;
use crate::machine::ProcessReport;

/// What [`crate::idle`] found.
#[derive(Clone, Debug, Serialize)]
pub struct IdleReport {
    pub scenario: &'static str,
    pub connections: usize,
    pub opened: usize,
    pub failed: usize,
    /// Why, and how often.
    pub failures: BTreeMap<String, u64>,
    /// Opened, but gone before the end.
    pub lost_while_held: usize,
    /// From the first attempt to the last result.
    pub open_s: f64,
    pub opened_per_s: f64,
    /// From the TCP connect to `welcome`.
    pub welcome: LatencyReport,
    pub hold_s: f64,
    /// Of all watched processes together; `None` if none is watched.
    pub resident_bytes_per_connection: Option<f64>,
    /// While held.
    pub cpu_us_per_connection_s: Option<f64>,
    pub processes: Vec<ProcessReport>,
}

impl IdleReport {
    /// Every connection was opened and stayed.
    pub fn is_ok(&self) -> bool {
        self.failed == 0 && self.lost_while_held == 0
    }
}

/// What [`crate::p2p`] found.
#[derive(Clone, Debug, Serialize)]
pub struct P2pReport {
    pub scenario: &'static str,
    pub pairs: usize,
    /// Pairs whose two connections were opened.
    pub pairs_opened: usize,
    pub failures: BTreeMap<String, u64>,
    /// `saturate` or `rate`.
    pub mode: &'static str,
    /// Of `saturate`: messages without an answer, a sender.
    pub window: Option<usize>,
    /// Of `rate`: messages a second by the schedule, all senders together.
    pub target_per_s: Option<f64>,
    pub is_ephemeral: bool,
    pub body_bytes: usize,
    pub batch: bool,
    pub open_s: f64,
    pub warmup_s: f64,
    pub measure_s: f64,
    /// Answers `sent` during the measured time.
    pub acked: u64,
    pub acked_per_s: f64,
    /// Messages received during the measured time.
    pub delivered: u64,
    pub delivered_per_s: f64,
    /// Over the whole run, by code.
    pub errors: BTreeMap<String, u64>,
    /// Due by the schedule, but not written before the run ended: the server did not keep up.
    pub unsent: u64,
    /// From the moment a message was due (`rate`) or was written (`saturate`) to its receipt; of those that were due or
    /// written during the measured time.
    pub latency: LatencyReport,
    /// From the writing of a message to its `sent`.
    pub ack_latency: LatencyReport,
    /// Over the whole run, warm-up included.
    pub verified: Verified,
    /// Connections that ended before the run did, by their code or reason.
    pub disconnects: BTreeMap<String, u64>,
    /// Of all watched processes together: CPU time by messages received, during the measured time.
    pub cpu_us_per_message: Option<f64>,
    /// The same of this process: near one core's worth, it is the load generator that is measured.
    pub load_cpu_us_per_message: f64,
    /// Of all watched processes together. It holds their buffers, and what they store: only without stored messages is it
    /// the price of a connection.
    pub resident_bytes_per_connection: Option<f64>,
    pub processes: Vec<ProcessReport>,
}

/// What was acknowledged, against what arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    pub written: u64,
    pub acked: u64,
    /// Different messages.
    pub received: u64,
    /// Acknowledged, but never received.
    pub missing: u64,
    /// Received once more, without a `reset`.
    pub duplicates: u64,
    /// Received after one that was sent later.
    pub reordered: u64,
    /// Received, although the sender was told that it was refused.
    pub refused_but_received: u64,
    /// `reset` frames, and streams that began with one.
    pub resets: u64,
    /// Messages that came again after a reset, and were known.
    pub again: u64,
    /// Messages that no sender of this run wrote.
    pub foreign: u64,
}

impl P2pReport {
    /// Every pair was there to the end, and the promise was kept: for durable messages, that each acknowledged one arrived
    /// once and in order; for ephemeral ones, that none came twice.
    pub fn is_ok(&self) -> bool {
        let verified = &self.verified;
        let is_kept = verified.duplicates == 0 && verified.refused_but_received == 0 && verified.foreign == 0;
        let is_durable_kept = verified.missing == 0 && verified.reordered == 0;
        is_kept && (self.is_ephemeral || is_durable_kept) && self.failures.is_empty() && self.disconnects.is_empty()
    }
}

/// `amount / of`, 0 where there is nothing to divide by.
pub(crate) fn per(amount: f64, of: f64) -> f64 {
    if of > 0.0 { amount / of } else { 0.0 }
}

/// Resident memory that connections brought, divided by them.
pub(crate) fn resident_per(processes: &[ProcessReport], connections: usize) -> Option<f64> {
    let grown = |process: &ProcessReport| process.resident_after_bytes as f64 - process.resident_before_bytes as f64;
    (!processes.is_empty() && connections > 0).then(|| processes.iter().map(grown).sum::<f64>() / connections as f64)
}

impl fmt::Display for IdleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(f, "connections", format_args!("{} opened, {} failed", self.opened, self.failed))?;
        counts(f, "failed", &self.failures)?;
        row(f, "opening", format_args!("{:.1} s, {:.0} a second", self.open_s, self.opened_per_s))?;
        row(f, "welcome", format_args!("{}", self.welcome))?;
        row(f, "held", format_args!("{:.0} s, {} lost", self.hold_s, self.lost_while_held))?;
        if let Some(cpu_us) = self.cpu_us_per_connection_s {
            row(f, "CPU", format_args!("{cpu_us:.2} us a connection and second"))?;
        }
        memory(f, self.resident_bytes_per_connection)
    }
}

impl fmt::Display for P2pReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_ephemeral { "ephemeral" } else { "durable" };
        let mode = match (self.window, self.target_per_s) {
            (Some(window), _) => format!("{window} without an answer a sender"),
            (_, Some(rate)) => format!("{rate:.0} a second by schedule"),
            _ => String::new(),
        };
        row(
            f,
            "pairs",
            format_args!("{} of {}, {kind}, {} bytes, {mode}", self.pairs_opened, self.pairs, self.body_bytes),
        )?;
        counts(f, "failed", &self.failures)?;
        row(f, "acked", format_args!("{:.0} a second ({} in {:.0} s)", self.acked_per_s, self.acked, self.measure_s))?;
        row(f, "delivered", format_args!("{:.0} a second ({})", self.delivered_per_s, self.delivered))?;
        row(f, "latency", format_args!("{}", self.latency))?;
        row(f, "to `sent`", format_args!("{}", self.ack_latency))?;
        counts(f, "error", &self.errors)?;
        if self.unsent > 0 {
            row(f, "unsent", format_args!("{}: the server did not keep up with the schedule", self.unsent))?;
        }
        counts(f, "disconnected", &self.disconnects)?;
        let v = &self.verified;
        let (missing, twice) = (v.missing, v.duplicates);
        let verdict = if self.is_ok() { "kept" } else { "BROKEN" };
        row(
            f,
            "promise",
            format_args!(
                "{verdict}: {} acked, {} received, {missing} missing, {twice} twice, {} out of order, {} refused but received",
                v.acked, v.received, v.reordered, v.refused_but_received
            ),
        )?;
        if v.resets + v.again + v.foreign > 0 {
            row(f, "resets", format_args!("{}, {} messages again, {} foreign", v.resets, v.again, v.foreign))?;
        }
        if let Some(cpu_us) = self.cpu_us_per_message {
            row(
                f,
                "CPU",
                format_args!("{cpu_us:.1} us a message (load generator {:.1})", self.load_cpu_us_per_message),
            )?;
        }
        memory(f, self.resident_bytes_per_connection)
    }
}

pub(crate) fn row(f: &mut fmt::Formatter<'_>, name: &str, value: fmt::Arguments<'_>) -> fmt::Result {
    writeln!(f, "{name:<13} {value}")
}

pub(crate) fn counts(f: &mut fmt::Formatter<'_>, name: &str, counts: &BTreeMap<String, u64>) -> fmt::Result {
    counts.iter().try_for_each(|(what, count)| row(f, name, format_args!("{count} x {what}")))
}

fn memory(f: &mut fmt::Formatter<'_>, bytes: Option<f64>) -> fmt::Result {
    match bytes {
        Some(bytes) => row(f, "memory", format_args!("{:.2} KiB resident a connection", bytes / 1_024.0)),
        None => Ok(()),
    }
}
