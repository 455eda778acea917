//! What a run of `fanout` found.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::member::Heard;
use super::sender::Written;
use super::{Dialect, FanoutOptions, Run};
use crate::latency::LatencyReport;
use crate::machine::ProcessReport;
use crate::options::Traffic;
use crate::report::{counts, per, row};

/// Names carry their units. A delivery is one message that reached one member.
#[derive(Clone, Debug, Serialize)]
pub struct FanoutReport {
    pub scenario: &'static str,
    pub dialect: &'static str,
    pub members: usize,
    pub body_bytes: usize,
    pub traffic: String,
    pub open_s: f64,
    pub warmup_s: f64,
    pub measure_s: f64,
    /// Over the whole run, warm-up included.
    pub written: u64,
    pub acked: u64,
    pub received: u64,
    /// Deliveries that did not come, of messages that were acknowledged.
    pub missing: u64,
    /// Deliveries that came twice, or after a later one of the same sender.
    pub late_or_twice: u64,
    pub foreign: u64,
    pub errors: BTreeMap<String, u64>,
    pub disconnects: BTreeMap<String, u64>,
    /// Deliveries during the measured time.
    pub delivered: u64,
    pub delivered_per_s: f64,
    /// From the moment that a message was due to its receipt by a member.
    pub latency: LatencyReport,
    /// Of all watched processes together, during the measured time.
    pub cpu_us_per_delivery: Option<f64>,
    /// The same of this process.
    pub load_cpu_us_per_delivery: f64,
    pub processes: Vec<ProcessReport>,
}

impl FanoutReport {
    pub(super) fn new(
        options: &FanoutOptions,
        run: &Run,
        open_s: f64,
        written: &[Written],
        heard: &[Heard],
        processes: Vec<ProcessReport>,
        own: &[ProcessReport],
    ) -> Self {
        let mut errors: BTreeMap<String, u64> = BTreeMap::new();
        for (code, count) in written.iter().flat_map(|written| &written.errors) {
            *errors.entry(code.clone()).or_default() += count;
        }
        let mut disconnects: BTreeMap<String, u64> = BTreeMap::new();
        let ends = written.iter().filter_map(|w| w.disconnect.as_ref());
        for reason in ends.chain(heard.iter().filter_map(|h| h.disconnect.as_ref())) {
            *disconnects.entry(reason.clone()).or_default() += 1;
        }
        let missing_of =
            |heard: &Heard| -> u64 { written.iter().map(|w| w.acked.saturating_sub(heard.of[w.sender].count)).sum() };
        let delivered = run.delivered.load(Ordering::Relaxed);
        let measure_s = options.measure.as_secs_f64();
        let cpu_us = |processes: &[ProcessReport]| processes.iter().map(|process| process.cpu_us as f64).sum::<f64>();
        Self {
            scenario: "fanout",
            dialect: match options.dialect {
                Dialect::Switchboard => "switchboard",
                Dialect::SocketIo => "socket.io",
            },
            members: options.members,
            body_bytes: options.body_bytes,
            traffic: match options.traffic {
                Traffic::Rate { per_second } => format!("{per_second} a second"),
                Traffic::Saturate { window } => format!("{window} on their way"),
            },
            open_s,
            warmup_s: options.warmup.as_secs_f64(),
            measure_s,
            written: written.iter().map(|written| written.count).sum(),
            acked: written.iter().map(|written| written.acked).sum(),
            received: heard.iter().flat_map(|heard| &heard.of).map(|of| of.count).sum(),
            missing: heard.iter().map(missing_of).sum(),
            late_or_twice: heard.iter().flat_map(|heard| &heard.of).map(|of| of.late).sum(),
            foreign: heard.iter().map(|heard| heard.foreign).sum(),
            errors,
            disconnects,
            delivered,
            delivered_per_s: per(delivered as f64, measure_s),
            latency: run.latency.report(),
            cpu_us_per_delivery: (!processes.is_empty()).then(|| per(cpu_us(&processes), delivered as f64)),
            load_cpu_us_per_delivery: per(cpu_us(own), delivered as f64),
            processes,
        }
    }

    /// Every member was there to the end and has every acknowledged message once, in order, and nothing else.
    pub fn is_ok(&self) -> bool {
        let is_kept = self.missing == 0 && self.late_or_twice == 0 && self.foreign == 0;
        is_kept && self.disconnects.is_empty() && self.acked > 0
    }
}

impl fmt::Display for FanoutReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (traffic, bytes) = (&self.traffic, self.body_bytes);
        row(f, "group", format_args!("{} members, {}, {bytes} bytes, {traffic}", self.members, self.dialect))?;
        row(f, "acked", format_args!("{} of {} written", self.acked, self.written))?;
        row(
            f,
            "delivered",
            format_args!("{:.0} a second ({} in {:.0} s)", self.delivered_per_s, self.delivered, self.measure_s),
        )?;
        row(f, "latency", format_args!("{}", self.latency))?;
        counts(f, "error", &self.errors)?;
        counts(f, "disconnected", &self.disconnects)?;
        let verdict = if self.is_ok() { "kept" } else { "BROKEN" };
        row(
            f,
            "promise",
            format_args!(
                "{verdict}: {} received, {} missing, {} twice or out of order, {} foreign",
                self.received, self.missing, self.late_or_twice, self.foreign
            ),
        )?;
        match self.cpu_us_per_delivery {
            Some(cpu_us) => row(
                f,
                "CPU",
                format_args!("{cpu_us:.2} us a delivery (load generator {:.2})", self.load_cpu_us_per_delivery),
            ),
            None => Ok(()),
        }
    }
}
