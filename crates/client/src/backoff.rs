//! How long to wait before coming back: exponential, with full jitter.

/// Full-jitter exponential back-off. A whole fleet of clients that lost the same node comes back spread out, because
/// every pause is drawn from the whole range, not from around its end.
#[derive(Clone, Debug)]
pub struct Backoff {
    base_ms: u64,
    cap_ms: u64,
    failures: u32,
}

impl Backoff {
    /// The first pause is below `base_ms`, each further one below twice the bound of the one before, at most `cap_ms`.
    pub fn new(base_ms: u64, cap_ms: u64) -> Self {
        Self { base_ms: base_ms.max(1), cap_ms: cap_ms.max(1), failures: 0 }
    }

    /// The next pause in milliseconds. `chance` is drawn evenly from 0 to 1.
    pub fn next_ms(&mut self, chance: f64) -> u64 {
        let factor = 1u64.checked_shl(self.failures).unwrap_or(u64::MAX);
        let bound_ms = self.base_ms.saturating_mul(factor).min(self.cap_ms);
        self.failures = self.failures.saturating_add(1);
        (bound_ms as f64 * chance.clamp(0.0, 1.0)) as u64
    }

    /// A connection has proven itself: the next pause is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_cap_and_begins_again() {
        let mut backoff = Backoff::new(200, 1_000);
        let bounds: Vec<u64> = (0..5).map(|_| backoff.next_ms(1.0)).collect();
        assert_eq!(bounds, [200, 400, 800, 1_000, 1_000]);
        backoff.reset();
        assert_eq!(backoff.next_ms(0.5), 100, "the jitter takes the whole range");
        assert_eq!(backoff.next_ms(0.0), 0);
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::new(200, 20_000);
        for _ in 0..1_000 {
            assert!(backoff.next_ms(0.999) <= 20_000);
        }
    }
}
