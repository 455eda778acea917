//! What happened on a connection, in numbers.

use delivery::Reason;

/// What happened since the shell last took it: for metrics and the line that is logged at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub frames_in: u64,
    pub sends_durable: u64,
    pub sends_ephemeral: u64,
    pub delivered_durable: u64,
    pub delivered_ephemeral: u64,
    /// Ephemeral messages that a full queue dropped.
    pub dropped_ephemeral: u64,
    /// What was said about members and read marks, and a full queue dropped.
    pub dropped_changes: u64,
    /// Messages past their `expires_ms`.
    pub expired: u64,
    /// By [`PullCause`].
    pub pulls: [u64; PullCause::ALL.len()],
    /// By [`delivery::Reason`].
    pub resets: [u64; Reason::ALL.len()],
    pub rate_limited: u64,
    /// Of the newest live message: microseconds from when it was stored to when it was queued for the socket.
    pub delay_us: Option<u64>,
}

impl Counts {
    pub fn add(&mut self, more: &Self) {
        self.frames_in += more.frames_in;
        self.sends_durable += more.sends_durable;
        self.sends_ephemeral += more.sends_ephemeral;
        self.delivered_durable += more.delivered_durable;
        self.delivered_ephemeral += more.delivered_ephemeral;
        self.dropped_ephemeral += more.dropped_ephemeral;
        self.dropped_changes += more.dropped_changes;
        self.expired += more.expired;
        self.rate_limited += more.rate_limited;
        self.pulls.iter_mut().zip(more.pulls).for_each(|(sum, n)| *sum += n);
        self.resets.iter_mut().zip(more.resets).for_each(|(sum, n)| *sum += n);
    }
}

/// Why an inbox was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullCause {
    /// A live message did not follow the cursor.
    Gap,
    /// There was more than one page, or more came while it was read.
    More,
    /// Something was dropped on the way.
    Dirty,
    /// A new generation.
    Generation,
    /// The position check found the cursor behind.
    Check,
    /// The client takes messages again.
    Resume,
    /// A pull that had failed.
    Retry,
}

impl PullCause {
    pub const ALL: [Self; 7] =
        [Self::Gap, Self::More, Self::Dirty, Self::Generation, Self::Check, Self::Resume, Self::Retry];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::More => "more",
            Self::Dirty => "dirty",
            Self::Generation => "generation",
            Self::Check => "check",
            Self::Resume => "resume",
            Self::Retry => "retry",
        }
    }
}
