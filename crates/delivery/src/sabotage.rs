//! Rules that can be switched off, one at a time, to see that somebody notices: the fault runner records what a node
//! without the rule does, and its judge has to reject it.
//!
//! Only with the cargo feature `sabotage`, which no release has. Without it every question below is answered at compile
//! time with what the rules say, and nothing of this is in the program.

/// A rule, by what becomes of messages without it. The names are those of the judge's classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A live entry that does not follow the cursor is read up to, not jumped to.
    Lost,
    /// `replicated` is answered when a replica has it, not before. Nor is it kept to be appended again without the rule.
    LostReplicated,
    /// What may not have been stored is not answered `sent`.
    RedisLost,
    /// A retry is searched for.
    Duplicated,
    /// A page is delivered in its order.
    Reordered,
    /// What may have been stored is not answered as if it were not.
    Unexpected,
    /// A stream that does not go on where it was is told so. What was lost stays lost without the rule.
    MissingReset,
    /// A stream without news has its place checked. Without the rule live entries go missing as well.
    Stuck,
    /// A connection's queue has a bound.
    QueueOverCap,
    /// An inbox is read for its own user only.
    WrongRecipient,
    /// What was stored before a join is not for him who joined.
    Outsider,
    /// A change of presence that is older than what was told is not told.
    PresenceBack,
    /// Who watches is told of changes.
    PresenceWrong,
}

#[cfg(not(feature = "sabotage"))]
mod switch {
    use protocol::Text;

    use super::Rule;

    pub const fn is_off(_: Rule) -> bool {
        false
    }

    pub const fn is_off_now(_: Rule) -> bool {
        false
    }

    pub fn in_order<T>(entries: &[T]) -> std::slice::Iter<'_, T> {
        entries.iter()
    }

    pub fn inbox_of(record: Text) -> Text {
        record
    }
}

#[cfg(feature = "sabotage")]
mod switch {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use protocol::Text;

    use super::Rule;

    static OFF: OnceLock<Rule> = OnceLock::new();
    static ASKED: AtomicU64 = AtomicU64::new(0);

    /// Of so many times the rule is broken once, where breaking it always would leave nothing to look at.
    const EVERY: u64 = 16;

    const NAMES: [(&str, Rule); 13] = [
        ("lost", Rule::Lost),
        ("lost_replicated", Rule::LostReplicated),
        ("redis_lost", Rule::RedisLost),
        ("duplicated", Rule::Duplicated),
        ("reordered", Rule::Reordered),
        ("unexpected", Rule::Unexpected),
        ("missing_reset", Rule::MissingReset),
        ("stuck", Rule::Stuck),
        ("queue_over_cap", Rule::QueueOverCap),
        ("wrong_recipient", Rule::WrongRecipient),
        ("outsider", Rule::Outsider),
        ("presence_back", Rule::PresenceBack),
        ("presence_wrong", Rule::PresenceWrong),
    ];

    /// Switches a rule off for the life of the process.
    ///
    /// # Errors
    /// There is no such rule, or one is off already.
    pub fn switch_off(name: &str) -> Result<(), String> {
        let rule = NAMES.iter().find(|(known, _)| *known == name).map(|(_, rule)| *rule);
        let rule = rule.ok_or_else(|| format!("there is no rule {name:?} to switch off"))?;
        OFF.set(rule).map_err(|_| "one rule is off already".to_owned())
    }

    pub fn is_off(rule: Rule) -> bool {
        OFF.get() == Some(&rule)
    }

    /// The same, now and then.
    pub fn is_off_now(rule: Rule) -> bool {
        is_off(rule) && ASKED.fetch_add(1, Ordering::Relaxed).is_multiple_of(EVERY)
    }

    /// A page's entries; with the rule off the first two are exchanged, if they are not its last.
    pub fn in_order<T>(entries: &[T]) -> impl Iterator<Item = &T> {
        let is_mixed = is_off(Rule::Reordered) && entries.len() > 2;
        let place = move |n: usize| if is_mixed && n < 2 { 1 - n } else { n };
        (0..entries.len()).map(move |n| &entries[place(n)])
    }

    /// A record; with the rule off now and then that of a neighbour, whose name ends in another digit.
    pub fn inbox_of(record: Text) -> Text {
        let mut name = record.to_string();
        match name.pop().and_then(|last| last.to_digit(10)) {
            Some(digit) if is_off_now(Rule::WrongRecipient) => Text::from(format!("{name}{}", digit ^ 1)),
            _ => record,
        }
    }
}

pub use switch::*;
