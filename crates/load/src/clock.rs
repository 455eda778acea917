//! The only place that asks the system for the time.

use std::time::{Duration, Instant};

/// Nanoseconds of one run, from its start. Sender and receiver are in one process, so they share it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    #[allow(clippy::disallowed_methods, reason = "a load generator measures time; every other file gets this clock")]
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now_ns(self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// For tokio's timers, which are precise to a millisecond.
    pub(crate) fn instant(self, at_ns: u64) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + Duration::from_nanos(at_ns))
    }
}
