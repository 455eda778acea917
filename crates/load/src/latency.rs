//! Latencies, recorded by many tasks and read once.

use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Few enough to be small, enough that tasks on two to sixteen threads seldom meet.
const SHARDS: usize = 8;
/// One minute; what takes longer is counted as this.
const MAX_US: u64 = 60_000_000;
/// Every number is right within a thousandth.
const DIGITS: u8 = 3;

/// Microseconds, in histograms that are shared by all tasks: one a connection would take 200 KB each.
#[derive(Debug)]
pub(crate) struct Latencies {
    shards: Vec<Mutex<Histogram<u64>>>,
}

/// In microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LatencyReport {
    pub count: u64,
    pub min_us: u64,
    pub mean_us: f64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

impl Latencies {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let shard = || Ok(Mutex::new(Histogram::new_with_bounds(1, MAX_US, DIGITS)?));
        Ok(Self { shards: (0..SHARDS).map(|_| shard()).collect::<anyhow::Result<_>>()? })
    }

    /// `task` is any number that differs between tasks.
    pub(crate) fn record(&self, task: usize, nanoseconds: u64) {
        let micros = (nanoseconds / 1_000).clamp(1, MAX_US);
        let mut shard = self.shards[task % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        // In bounds, so it cannot fail.
        let _ = shard.record(micros);
    }

    pub(crate) fn report(&self) -> LatencyReport {
        let mut all = self.shards[0].lock().unwrap_or_else(PoisonError::into_inner).clone();
        for shard in &self.shards[1..] {
            // Same bounds, so it cannot fail.
            let _ = all.add(&*shard.lock().unwrap_or_else(PoisonError::into_inner));
        }
        if all.is_empty() {
            return LatencyReport::default();
        }
        LatencyReport {
            count: all.len(),
            min_us: all.min(),
            mean_us: all.mean(),
            p50_us: all.value_at_quantile(0.5),
            p90_us: all.value_at_quantile(0.9),
            p99_us: all.value_at_quantile(0.99),
            p999_us: all.value_at_quantile(0.999),
            max_us: all.max(),
        }
    }
}

impl std::fmt::Display for LatencyReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |us: u64| us as f64 / 1_000.0;
        write!(
            f,
            "p50 {:.2} ms  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}",
            ms(self.p50_us),
            ms(self.p90_us),
            ms(self.p99_us),
            ms(self.p999_us),
            ms(self.max_us)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_read_together() {
        let latencies = Latencies::new().unwrap();
        assert_eq!(latencies.report(), LatencyReport::default());
        (1..=100u64).for_each(|n| latencies.record(n as usize, n * 1_000_000));
        latencies.record(0, u64::MAX);
        let report = latencies.report();
        assert_eq!(report.count, 101);
        assert!((50_900..=51_100).contains(&report.p50_us), "{report:?}");
        assert!(report.max_us >= MAX_US, "what takes for ever is counted as a minute");
        assert_eq!(report.min_us, 1_000);
    }
}
