//! How many frames a connection may send: a bucket of tokens, and when patience ends.

use protocol::Millis;

use crate::io::Rate;

/// Frames over the rate without a pause for this long end the connection.
const PATIENCE_MS: u64 = 10_000;
/// A time without any frame over the rate that counts as a pause.
const PAUSE_MS: u64 = 1_000;

#[derive(Debug)]
pub(crate) struct RateLimiter {
    rate: Option<Rate>,
    /// In thousandths of a frame.
    tokens: u64,
    at: Millis,
    /// The first and the last frame of the present flood.
    flood: Option<(Millis, Millis)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// Not executed.
    Over {
        retry_ms: u64,
    },
    /// The connection ends.
    Exhausted,
}

impl RateLimiter {
    pub(crate) fn new(rate: Option<Rate>, now: Millis) -> Self {
        let tokens = rate.map_or(0, |r| u64::from(r.burst) * 1_000);
        Self { rate, tokens, at: now, flood: None }
    }

    pub(crate) fn take(&mut self, now: Millis) -> Verdict {
        let Some(Rate { per_second, burst }) = self.rate else { return Verdict::Pass };
        let per_second = u64::from(per_second.max(1));
        let gained = now.since(self.at).saturating_mul(per_second);
        self.tokens = (self.tokens.saturating_add(gained)).min(u64::from(burst.max(1)) * 1_000);
        self.at = now;
        if self.tokens >= 1_000 {
            self.tokens -= 1_000;
            return Verdict::Pass;
        }
        let first = match self.flood {
            Some((first, last)) if now.since(last) <= PAUSE_MS => first,
            _ => now,
        };
        self.flood = Some((first, now));
        if now.since(first) >= PATIENCE_MS {
            return Verdict::Exhausted;
        }
        Verdict::Over { retry_ms: (1_000 - self.tokens).div_ceil(per_second).max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 100, burst: 200 };

    #[test]
    fn a_burst_passes_then_the_rate_and_the_answer_says_when() {
        let mut limiter = RateLimiter::new(Some(RATE), Millis(0));
        assert!((0..200).all(|_| limiter.take(Millis(0)) == Verdict::Pass));
        assert_eq!(limiter.take(Millis(0)), Verdict::Over { retry_ms: 10 });
        assert_eq!(limiter.take(Millis(10)), Verdict::Pass);
        assert_eq!(limiter.take(Millis(11)), Verdict::Over { retry_ms: 9 });
    }

    #[test]
    fn ten_seconds_of_flood_end_the_connection_and_a_pause_forgives() {
        let flood = |limiter: &mut RateLimiter, from: u64, to: u64| {
            (from..to).flat_map(|ms| [ms; 3]).map(|ms| limiter.take(Millis(ms))).any(|v| v == Verdict::Exhausted)
        };
        let mut limiter = RateLimiter::new(Some(RATE), Millis(0));
        assert!(!flood(&mut limiter, 0, 9_000));
        assert!(!flood(&mut limiter, 11_000, 20_000), "there was a pause");
        assert!(flood(&mut limiter, 20_000, 22_000));
    }

    #[test]
    fn without_a_rate_everything_passes() {
        let mut limiter = RateLimiter::new(None, Millis(0));
        assert!((0..10_000).all(|_| limiter.take(Millis(0)) == Verdict::Pass));
    }
}
