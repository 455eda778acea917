//! Where the client asks the system what time it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::{Millis, UnixMillis};
use tokio::time::Instant;

use crate::requests::Now;

/// Monotonic time counts from the start of the client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { start: Instant::now() }
    }

    pub(super) fn now(self) -> Now {
        let monotonic = Millis(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX));
        #[allow(clippy::disallowed_methods, reason = "the one place where the client asks for the time of day")]
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now { monotonic, wall: UnixMillis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)) }
    }

    /// The moment at which the clock shows `at`.
    pub(super) fn instant(self, at: Millis) -> Instant {
        // Far beyond any life of a process; an `Instant` cannot hold much more.
        const FOREVER_MS: u64 = 100 * 365 * 86_400_000;
        self.start + Duration::from_millis(at.0.min(FOREVER_MS))
    }
}
