//! The own inbox of a connection: its consumer, what is asked for it, and what is due.

use delivery::Consumer;
use protocol::{Cursor, Millis};

/// A pull that failed is asked again after this long.
pub(crate) const RETRY_MS: u64 = 500;
/// A stream whose location could not be written is read this often: nobody else would tell it.
const UNROUTED_CHECK_MS: u64 = 5_000;

#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) consumer: Consumer,
    /// A read or an attach is in flight: there is never more than one.
    pub(crate) is_asking: bool,
    /// The one in flight is an attach.
    pub(crate) is_attaching: bool,
    /// The one in flight names every place that is known, because the cursor alone did not hold.
    pub(crate) is_asking_all: bool,
    /// The next pull has to register as well.
    pub(crate) reattach: bool,
    /// The location is written: live messages come.
    pub(crate) routed: bool,
    /// Messages up to this number follow a reset: the client may have them.
    pub(crate) again_to: u64,
    pub(crate) verifying: bool,
    /// When a failed pull is asked again.
    pub(crate) retry_at: Option<Millis>,
    pub(crate) check_at: Millis,
    /// The newest cursor that the device acknowledged, and when it is handed on.
    pub(crate) ack: Option<(Cursor, Millis)>,
    /// The newest cursor that was handed on.
    pub(crate) acked: Option<Cursor>,
}

impl Inbox {
    /// Its first page has come.
    pub(crate) fn new(check_at: Millis) -> Self {
        Self {
            consumer: Consumer::attaching(Cursor::default()),
            is_asking: false,
            is_attaching: false,
            is_asking_all: false,
            reattach: false,
            routed: true,
            again_to: 0,
            verifying: false,
            retry_at: None,
            check_at,
            ack: None,
            acked: None,
        }
    }

    /// Moves the position check: a stream that just had news needs none.
    pub(crate) fn postpone_check(&mut self, now: Millis, period_ms: u64) {
        self.check_at = now.plus(if self.routed { period_ms } else { UNROUTED_CHECK_MS.min(period_ms) });
    }

    pub(crate) fn deadline(&self) -> Millis {
        let ack = self.ack.map_or(self.check_at, |(_, due)| due);
        self.retry_at.unwrap_or(self.check_at).min(ack).min(self.check_at)
    }
}
