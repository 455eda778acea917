//! What can go wrong, each variant saying what the caller does next.

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackplaneError {
    /// It may have run: no answer came in time, or the connection broke under it. Ask again with the same number.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    /// It did not run: this is not the place any more. Ask the next generation.
    #[error("the backplane has it elsewhere: {0}")]
    Elsewhere(String),
    /// It did not run: the backplane said no, or nobody was there to ask. Worth another try later.
    #[error("the backplane did not run it: {0}")]
    NotRun(String),
}

/// Why a history has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error("`before` is no place of this inbox")]
    Before,
    #[error(transparent)]
    Backplane(#[from] BackplaneError),
}

/// Why a generation ended. The next one registers and verifies everything again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// The connection that receives ended.
    Subscriber,
    /// The connection that asks ended.
    Commands,
    /// What was published came faster than it was taken.
    Lagged,
    /// A message to the own channel did not come back.
    Probe,
    /// Something published to the own channel reached nobody.
    Unheard,
    /// Nothing was answered for too long.
    Silent,
    /// The server takes no writes: it is not the master.
    NotMaster,
    /// The master has other slots now.
    Slots,
    /// The node itself stood still for too long.
    Stalled,
    /// Others declared this node dead; it goes on under a new name.
    Buried,
}

impl Loss {
    pub const ALL: [Self; 10] = [
        Self::Subscriber,
        Self::Commands,
        Self::Lagged,
        Self::Probe,
        Self::Unheard,
        Self::Silent,
        Self::NotMaster,
        Self::Slots,
        Self::Stalled,
        Self::Buried,
    ];

    /// Somebody changed the topology; anything else may come of too much load.
    pub const fn is_of_topology(self) -> bool {
        matches!(self, Self::NotMaster | Self::Slots)
    }

    /// The label of `switchboard_generations_total{cause}`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subscriber => "subscriber_ended",
            Self::Commands => "commands_ended",
            Self::Lagged => "lagged",
            Self::Probe => "probe_lost",
            Self::Unheard => "unheard",
            Self::Silent => "silent",
            Self::NotMaster => "not_master",
            Self::Slots => "slots_moved",
            Self::Stalled => "stalled",
            Self::Buried => "declared_dead",
        }
    }
}
