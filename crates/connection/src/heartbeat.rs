//! Is somebody there? Any byte counts; after one silent heartbeat the server pings, after two it closes.

use protocol::Millis;

#[derive(Debug)]
pub(crate) struct Heartbeat {
    every_ms: u64,
    heard: Millis,
    pinged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Quiet,
    Ping,
    Dead,
}

impl Heartbeat {
    pub(crate) fn new(every_ms: u64, now: Millis) -> Self {
        Self { every_ms, heard: now, pinged: false }
    }

    pub(crate) fn hear(&mut self, now: Millis) {
        self.heard = now;
        self.pinged = false;
    }

    pub(crate) fn check(&mut self, now: Millis) -> Beat {
        let silence = now.since(self.heard);
        if silence >= 2 * self.every_ms {
            return Beat::Dead;
        }
        if silence >= self.every_ms && !self.pinged {
            self.pinged = true;
            return Beat::Ping;
        }
        Beat::Quiet
    }

    pub(crate) fn deadline(&self) -> Millis {
        self.heard.plus(self.every_ms * if self.pinged { 2 } else { 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_pinged_once_and_then_dead_and_any_byte_saves_it() {
        let mut beat = Heartbeat::new(25_000, Millis(0));
        assert_eq!(beat.deadline(), Millis(25_000));
        assert_eq!(beat.check(Millis(24_999)), Beat::Quiet);
        assert_eq!(beat.check(Millis(25_000)), Beat::Ping);
        assert_eq!(beat.check(Millis(25_001)), Beat::Quiet);
        assert_eq!(beat.deadline(), Millis(50_000));
        beat.hear(Millis(26_000));
        assert_eq!(beat.check(Millis(50_000)), Beat::Quiet);
        assert_eq!(beat.check(Millis(51_000)), Beat::Ping);
        assert_eq!(beat.check(Millis(76_000)), Beat::Dead);
    }
}
