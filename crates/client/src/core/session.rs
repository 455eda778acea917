//! One welcomed connection: what the server said of it, and whether it still lives.

use protocol::Millis;

use super::Now;
use crate::wire::Welcome;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    since: Millis,
    pub(super) connection: String,
    pub(super) bytes_max: u64,
    heartbeat_ms: u64,
    /// When anything at all came last. `None` while the application does not take events: then the socket is not read,
    /// and silence says nothing about the server.
    heard: Option<Millis>,
    asked: bool,
}

/// What a silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    Normal,
    /// A whole heartbeat: ask whether anybody is there. Said once.
    Ask,
    /// Two heartbeats: nobody is.
    Dead {
        silent_ms: u64,
    },
}

impl Session {
    pub(super) fn new(welcome: &Welcome, now: Millis) -> Self {
        Self {
            since: now,
            connection: welcome.connection.clone(),
            bytes_max: welcome.bytes_max,
            heartbeat_ms: welcome.heartbeat_ms,
            heard: Some(now),
            asked: false,
        }
    }

    pub(super) fn age_ms(&self, now: Now) -> u64 {
        now.monotonic.since(self.since)
    }

    pub(super) fn on_traffic(&mut self, now: Millis) {
        self.heard = Some(now);
        self.asked = false;
    }

    pub(super) fn on_reading(&mut self, reading: bool, now: Millis) {
        if self.heard.is_some() != reading {
            self.heard = reading.then_some(now);
            self.asked = false;
        }
    }

    pub(super) fn deadline(&self) -> Option<Millis> {
        let heartbeats = if self.asked { 2 } else { 1 };
        self.heard.map(|heard| heard.plus(self.heartbeat_ms.saturating_mul(heartbeats)))
    }

    pub(super) fn silence(&mut self, now: Millis) -> Silence {
        let silent_ms = now.since(self.heard.unwrap_or(now));
        if silent_ms >= self.heartbeat_ms.saturating_mul(2) {
            Silence::Dead { silent_ms }
        } else if silent_ms >= self.heartbeat_ms && !self.asked {
            self.asked = true;
            Silence::Ask
        } else {
            Silence::Normal
        }
    }
}
