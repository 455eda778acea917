//! What a judgement says: numbers for everything, and for each class of breach examples that a person can follow.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::Rules;
use super::story::Story;
use crate::history::{Level, MessageNo, To};

/// What a history can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Class {
    /// Redis keeps it, a device was there for it, and it never came: skipped in silence.
    Lost,
    /// Answered `replicated`, and the final log does not have it.
    LostReplicated,
    /// Answered `sent`, and the final log does not have it. Allowed where the run's faults make Redis lose.
    RedisLost,
    /// The same message twice, and no reset that would explain it; or twice in the log.
    Duplicated,
    /// Delivered in another order than the log's.
    Reordered,
    /// Delivered or stored though nobody sent it, or though the sender was told that nothing was stored.
    Unexpected,
    /// A device had what Redis has lost, and went on in the same stream without a reset.
    MissingReset,
    /// A live session that did not reach the end of its stream in time.
    Stuck,
    /// A node held more bytes for one connection than its bound.
    QueueOverCap,
    /// A message for somebody else.
    WrongRecipient,
    /// A message of a group came to somebody who was no member when it was stored, and no guest.
    Outsider,
    /// A join or leave was answered, and the group's record does not know it in the end. Allowed where Redis may lose it.
    MembershipLost,
    /// A watcher was told an older version of somebody's presence behind a newer one.
    PresenceBack,
    /// What a watcher was told last is not so, long after everybody had come or gone.
    PresenceWrong,
}

impl Class {
    pub(crate) const ALL: [Self; 14] = [
        Self::Lost,
        Self::LostReplicated,
        Self::RedisLost,
        Self::Duplicated,
        Self::Reordered,
        Self::Unexpected,
        Self::MissingReset,
        Self::Stuck,
        Self::QueueOverCap,
        Self::WrongRecipient,
        Self::Outsider,
        Self::MembershipLost,
        Self::PresenceBack,
        Self::PresenceWrong,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::LostReplicated => "lost_replicated",
            Self::RedisLost => "redis_lost",
            Self::Duplicated => "duplicated",
            Self::Reordered => "reordered",
            Self::Unexpected => "unexpected",
            Self::MissingReset => "missing_reset",
            Self::Stuck => "stuck",
            Self::QueueOverCap => "queue_over_cap",
            Self::WrongRecipient => "wrong_recipient",
            Self::Outsider => "outsider",
            Self::MembershipLost => "membership_lost",
            Self::PresenceBack => "presence_back",
            Self::PresenceWrong => "presence_wrong",
        }
    }
}

/// Examples that are kept of one class: enough to see a pattern, few enough to read.
const EXAMPLES_MAX: usize = 10;

/// One breach, with what a person needs to find it in the history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Example {
    pub(crate) at_us: u64,
    pub(crate) session: Option<u32>,
    /// The stream; where there is none it is that of the recipient.
    pub(crate) of: Option<To>,
    pub(crate) recipient: Option<u32>,
    pub(crate) message: Option<MessageNo>,
    /// What came before and after it.
    pub(crate) says: String,
}

/// How often a class was broken, and the first examples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Found {
    pub(crate) count: u64,
    pub(crate) examples: Vec<Example>,
}

/// A number for everything that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Numbers {
    /// Messages that were asked for.
    pub(crate) attempts: u64,
    /// Messages by the highest level that was answered.
    pub(crate) acked_stored: u64,
    pub(crate) acked_replicated: u64,
    pub(crate) refused: u64,
    pub(crate) given_up: u64,
    /// Messages that came to anybody, and frames that brought them.
    pub(crate) delivered: u64,
    pub(crate) deliveries: u64,
    /// Frames that said `again`.
    pub(crate) again: u64,
    /// Came again behind a reset without saying so: a retry that was stored anew.
    pub(crate) restored: u64,
    /// Delivered though never acknowledged.
    pub(crate) recovered: u64,
    /// Frames of groups, joins and leaves that were answered, and what watchers were told.
    pub(crate) group_deliveries: u64,
    pub(crate) joins: u64,
    pub(crate) leaves: u64,
    pub(crate) told: u64,
    pub(crate) sessions: u64,
    /// Streams, each of one device.
    pub(crate) devices: u64,
    /// Those that were there at the end and reached it.
    pub(crate) caught_up: u64,
    pub(crate) resets: BTreeMap<String, u64>,
    /// The longest that an acknowledged message took to a session that was there all that time.
    pub(crate) longest_stall_ms: u64,
    /// The longest that a live session took to its stream's end after the last fault.
    pub(crate) catch_up_ms: u64,
    /// The most that a node has held for one connection.
    pub(crate) queue_bytes: u64,
    pub(crate) trimmed: u64,
    pub(crate) retained: u64,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) numbers: Numbers,
    pub(crate) found: BTreeMap<Class, Found>,
    /// What makes the run itself worth nothing: a fault without proof, nothing delivered.
    pub(crate) problems: Vec<String>,
    redis_may_lose: bool,
}

impl Verdict {
    /// A verdict with what the story says by itself, and no breach yet.
    pub(super) fn begin(story: &Story, rules: &Rules) -> Self {
        let mut numbers = story.numbers.clone();
        for message in &story.messages {
            numbers.attempts += u64::from(message.invoked_us.is_some());
            numbers.acked_stored += u64::from(message.level == Some(Level::Stored));
            numbers.acked_replicated += u64::from(message.level == Some(Level::Replicated));
            numbers.refused += u64::from(message.is_refused);
            numbers.given_up += u64::from(message.is_given_up);
            numbers.delivered += u64::from(message.is_delivered);
            numbers.recovered += u64::from(message.is_delivered && message.level.is_none());
        }
        numbers.devices = story.devices.len() as u64;
        numbers.caught_up = story.devices.iter().filter(|d| d.has_caught_up()).count() as u64;
        let mut problems = story.problems.clone();
        if numbers.delivered == 0 {
            problems.push("nothing was delivered".to_owned());
        }
        if numbers.caught_up == 0 {
            problems.push("nobody was there at the end and said that he had everything".to_owned());
        }
        Self { numbers, found: BTreeMap::new(), problems, redis_may_lose: rules.redis_may_lose }
    }

    pub(super) fn add(&mut self, class: Class, example: impl FnOnce() -> Example) {
        let found = self.found.entry(class).or_default();
        found.count += 1;
        if found.examples.len() < EXAMPLES_MAX {
            found.examples.push(example());
        }
    }

    pub(super) fn may_redis_lose(&self) -> bool {
        self.redis_may_lose
    }

    pub(crate) fn count(&self, class: Class) -> u64 {
        self.found.get(&class).map_or(0, |found| found.count)
    }

    /// The classes that make the history invalid.
    pub(crate) fn broken(&self) -> Vec<Class> {
        let is_allowed =
            |class: Class| matches!(class, Class::RedisLost | Class::MembershipLost) && self.redis_may_lose;
        Class::ALL.into_iter().filter(|&class| self.count(class) > 0 && !is_allowed(class)).collect()
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.broken().is_empty() && self.problems.is_empty()
    }
}

/// A message as texts name it: the sender and his count.
pub(super) fn name(message: MessageNo) -> String {
    format!("{}-{}", message.sender, message.count)
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06} s", self.at_us / 1_000_000, self.at_us % 1_000_000)?;
        if let Some(recipient) = self.recipient {
            write!(f, ", recipient {recipient}")?;
        }
        if let Some(of) = self.of.filter(|of| !matches!(of, To::User(_))) {
            write!(f, ", {of}")?;
        }
        if let Some(session) = self.session {
            write!(f, ", session {session}")?;
        }
        if let Some(message) = self.message {
            write!(f, ", message {}", name(message))?;
        }
        write!(f, ": {}", self.says)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = &self.numbers;
        writeln!(
            f,
            "{} messages asked for; acked: {} stored, {} replicated; {} refused, {} given up",
            n.attempts, n.acked_stored, n.acked_replicated, n.refused, n.given_up
        )?;
        writeln!(
            f,
            "{} delivered in {} frames to {} sessions with {} streams; {} were never acked; {} again, {} restored",
            n.delivered, n.deliveries, n.sessions, n.devices, n.recovered, n.again, n.restored
        )?;
        writeln!(
            f,
            "{} of these frames in groups; {} joins, {} leaves; watchers were told {} times",
            n.group_deliveries, n.joins, n.leaves, n.told
        )?;
        let resets: Vec<String> = n.resets.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        writeln!(f, "resets: {}", if resets.is_empty() { "none".to_owned() } else { resets.join(", ") })?;
        writeln!(
            f,
            "longest stall {} ms; {} streams caught up within {} ms; largest queue {} bytes; logs: {} kept, {} trimmed",
            n.longest_stall_ms, n.caught_up, n.catch_up_ms, n.queue_bytes, n.retained, n.trimmed
        )?;
        for (class, found) in &self.found {
            let allowed = if self.broken().contains(class) { "" } else { " (allowed by the run's faults)" };
            writeln!(f, "{}: {}{allowed}", class.as_str(), found.count)?;
            found.examples.iter().try_for_each(|example| writeln!(f, "  {example}"))?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(f, "problem: {problem}"))?;
        write!(f, "{}", if self.is_valid() { "valid" } else { "INVALID" })
    }
}
