//! The only caller of the system's clocks.
#![allow(clippy::disallowed_methods, reason = "this file is the one that may")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol::{Millis, UnixMillis};

/// Monotonic time since the node's start, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Millis {
        Millis(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The moment of tokio's timer that is this many milliseconds after the start.
    pub(crate) fn instant(&self, at: Millis) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + Duration::from_millis(at.0))
    }
}

/// Microseconds since 1970 by this machine's wall clock; 0 before that.
pub(crate) fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) fn wall() -> UnixMillis {
    UnixMillis(wall_us() / 1_000)
}
