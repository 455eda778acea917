//! Asks everything again that a master may lack.

use std::time::Duration;

use backplane::{
    BackplaneError, BatchBuilder, BatchResult, ChangeRequest, ChangeResult, Changed, Commands, Op, RegroupRequest,
};
use delivery::{Acknowledged, Again, InSet, Membership, NewMessage, Place, Promise};
use protocol::Epoch;
use protocol::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};
use routing::SlotGroup;

use super::Keeper;
use crate::joins::CALL_MAX;

/// What a search for an entry is widened by, beside the step between two masters' clocks. When its first try was is known
/// here, so this is only for the deadline below; in a busy inbox every second more is a thousand entries to look through.
const MARGIN_US: u64 = 2_000_000;

/// How long a call that appends again may be under way: less than the margin of its search.
const DEADLINE_US: u64 = 1_500_000;

/// How long a call that appends again is waited for. One alone is answered sooner; records on their way between two masters
/// are asked one after the other.
const CALL_WITHIN: Duration = Duration::from_secs(5);

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Messages that were not there.
    pub(super) stored: u64,
    /// Memberships that were not as they were answered.
    pub(super) changed: u64,
    /// What nobody can tell any more, or what has no room any more.
    pub(super) unconfirmed: u64,
    pub(super) refused: u64,
    /// Of an address that refused.
    pub(super) why: Option<String>,
    /// Some of it is on the master that is getting the slot.
    pub(super) is_elsewhere: bool,
}

impl Outcome {
    fn refuse(&mut self, count: usize, why: &str) {
        self.refused += count as u64;
        self.why.get_or_insert_with(|| why.to_owned());
    }

    /// A whole call that did not run, as where its slot is on its way: the others on this master do not wait for that
    /// longer than for an address that refuses.
    fn refuse_call(&mut self, count: usize, error: BackplaneError) -> Result<(), BackplaneError> {
        let BackplaneError::NotRun(why) = error else { return Err(error) };
        self.refuse(count, &why);
        Ok(())
    }
}

impl Keeper {
    /// # Errors
    /// Of a whole call: the generation is of no use.
    pub(super) async fn ask_again(
        &self,
        commands: &Commands,
        group: SlotGroup,
        kept: Vec<Promise>,
    ) -> Result<Outcome, BackplaneError> {
        let mut outcome = Outcome::default();
        // First, so that only what is lost makes rounds: a group where many join and write has thousands of turns.
        let again = Again::of(missing(commands, kept).await.iter());
        for some in again.sets.chunks(CALL_MAX) {
            regroup_again(commands, some, &mut outcome).await?;
        }
        for round in again.rounds {
            self.append_again(commands, group, &round.messages, &mut outcome).await?;
            for some in round.changes.chunks(CALL_MAX) {
                change_again(commands, some, &mut outcome).await?;
            }
        }
        Ok(outcome)
    }

    async fn append_again(
        &self,
        commands: &Commands,
        group: SlotGroup,
        missing: &[Acknowledged],
        again: &mut Outcome,
    ) -> Result<(), BackplaneError> {
        let mut rest = missing;
        while !rest.is_empty() {
            let (mut builder, mut taken, mut bytes) = (BatchBuilder::default(), 0, 0);
            for one in rest.iter().take(BATCH_MESSAGES_MAX) {
                bytes += one.message.envelope.len();
                if taken > 0 && bytes > BATCH_BYTES_MAX {
                    break;
                }
                let age_us = commands.now_us().saturating_sub(one.first_us);
                let step_us = self.current.clock_step_us(group, age_us);
                let message = NewMessage { search_us: Some(age_us + step_us + MARGIN_US), ..one.message.clone() };
                builder.push(&one.record, message, || Epoch(rand::random()));
                taken += 1;
            }
            // No number: this belongs to no lane, and asked twice it finds itself. A copy that comes later than the search
            // reaches would not: so it has a deadline.
            let lane = self.topology.lane(&rest[0].record);
            let batch = builder.finish(lane, None, commands.now_us() + DEADLINE_US);
            rest = &rest[taken..];
            let Ok(answered) = tokio::time::timeout(CALL_WITHIN, commands.append(&batch)).await else {
                again.refuse(taken, "it took too long");
                continue;
            };
            let BatchResult::Answered(answer) = answered? else {
                return Err(BackplaneError::NotRun("it came too late".to_owned()));
            };
            again.is_elsewhere |= answer.is_elsewhere;
            for (group, answer) in batch.groups.iter().zip(&answer.groups) {
                if let Err(why) = answer {
                    again.refuse(group.messages.len(), why);
                }
            }
            let places = || answer.groups.iter().flatten().flatten().map(|placed| placed.place);
            again.stored += places().filter(|place| matches!(place, Place::Stored(_))).count() as u64;
            again.unconfirmed += places().filter(|place| matches!(place, Place::Unprovable)).count() as u64;
        }
        Ok(())
    }
}

/// Without the messages that are where they were stored, or were trimmed there. Where nobody can say, appending finds them
/// by their tags.
async fn missing(commands: &Commands, kept: Vec<Promise>) -> Vec<Promise> {
    let messages = kept.iter().filter_map(|promise| match promise {
        Promise::Message(message) => Some((message.record.clone(), message.cursor)),
        Promise::Member(_) | Promise::Set(_) => None,
    });
    let messages: Vec<_> = messages.collect();
    let mut held = Vec::with_capacity(messages.len());
    for some in messages.chunks(BATCH_MESSAGES_MAX) {
        let mut answer = commands.holds(some).await.unwrap_or_default();
        answer.resize(some.len(), false);
        held.append(&mut answer);
    }
    let mut held = held.into_iter();
    let is_missing = |promise: &Promise| !matches!(promise, Promise::Message(_)) || !held.next().unwrap_or(false);
    kept.into_iter().filter(is_missing).collect()
}

async fn change_again(commands: &Commands, some: &[Membership], again: &mut Outcome) -> Result<(), BackplaneError> {
    let request = |one: &Membership| ChangeRequest {
        of: one.record.clone(),
        epoch: Epoch(rand::random()),
        user: one.user.clone(),
        op: if one.is_join { Op::Join } else { Op::Leave },
        again: Some(one.mseq),
    };
    let requests: Vec<_> = some.iter().map(request).collect();
    let asking = commands.change(commands.now_us() + DEADLINE_US, &requests);
    let Ok(answered) = tokio::time::timeout(CALL_WITHIN, asking).await else {
        again.refuse(requests.len(), "it took too long");
        return Ok(());
    };
    let answers = match answered {
        Ok(ChangeResult::Answered(answers)) => answers,
        Ok(ChangeResult::Stale) => return Err(BackplaneError::NotRun("it came too late".to_owned())),
        Err(error) => return again.refuse_call(requests.len(), error),
    };
    for answer in answers {
        match answer {
            Ok(Changed::Done { .. }) => again.changed += 1,
            Ok(Changed::Already { .. } | Changed::NotMember | Changed::InForce) => {}
            // Others have joined meanwhile, and no generation will find room for him.
            Ok(Changed::Full) => again.unconfirmed += 1,
            Err(error) => again.refuse(1, &error.to_string()),
        }
    }
    Ok(())
}

async fn regroup_again(commands: &Commands, some: &[InSet], again: &mut Outcome) -> Result<(), BackplaneError> {
    let request = |one: &InSet| RegroupRequest { user: one.user.clone(), group: one.group.clone(), is_in: one.is_in };
    let requests: Vec<_> = some.iter().map(request).collect();
    let asking = commands.regroup(commands.now_us() + DEADLINE_US, &requests);
    let Ok(answered) = tokio::time::timeout(CALL_WITHIN, asking).await else {
        again.refuse(requests.len(), "it took too long");
        return Ok(());
    };
    match answered {
        // A set that is full now says less than it could, and the group's record decides.
        Ok(answers) => answers.into_iter().filter_map(Result::err).for_each(|e| again.refuse(1, &e.to_string())),
        Err(error) => return again.refuse_call(requests.len(), error),
    }
    Ok(())
}
