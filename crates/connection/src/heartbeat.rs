//! Is somebody there? Any byte counts; after one silent heartbeat the server pings, after two it closes.

use protocol::Millis;

#[derive(Debug)]
pub(crate) struct Heartbeat {
    every_ms: u64,
    heard: Millis,
    pinged: bool,
    /// Since when nothing had come, and until when what comes may still be of that time.
    silence: Option<(Millis, Millis)>,
}

/// A frame behind a shorter silence is young enough to be found by the mark that its retry has left.
const SILENCE_MS: u64 = 5_000;

/// What lay in the way comes in one go, if not in one moment.
const FLUSH_MS: u64 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Quiet,
    Ping,
    Dead,
}

impl Heartbeat {
    pub(crate) fn new(every_ms: u64, now: Millis) -> Self {
        Self { every_ms, heard: now, pinged: false, silence: None }
    }

    pub(crate) fn hear(&mut self, now: Millis) {
        if now.since(self.heard) >= SILENCE_MS {
            let since = self.silence.filter(|(_, until)| now <= *until).map_or(self.heard, |(since, _)| since);
            self.silence = Some((since, now.plus(FLUSH_MS)));
        } else if self.silence.is_some_and(|(_, until)| now > until) {
            self.silence = None;
        }
        self.heard = now;
        self.pinged = false;
    }

    /// How old what was heard just now can be, where that is longer than a moment: it may have lain in a connection that
    /// stood still, or in front of a node that did. Bytes come in their order, so it is younger than the silence before it.
    pub(crate) fn late_ms(&self) -> Option<u64> {
        self.silence.map(|(since, _)| self.heard.since(since))
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
    fn what_comes_behind_a_silence_may_be_as_old_as_that_for_a_while() {
        let mut beat = Heartbeat::new(25_000, Millis(0));
        let mut late = |at| {
            beat.hear(Millis(at));
            beat.late_ms()
        };
        assert_eq!((late(4_999), late(9_000)), (None, None));
        assert_eq!((late(19_000), late(19_000), late(24_000)), (Some(10_000), Some(10_000), Some(15_000)));
        assert_eq!(
            (late(28_000), late(29_001), late(33_000)),
            (Some(19_000), None, None),
            "what lay there has been read"
        );
    }

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
