//! One call: asked until its outcome is known, and what follows for each of its jobs.

use std::sync::Arc;
use std::time::Duration;

use backplane::{BackplaneError, ChangeRequest, ChangeResult, Changed, Commands, Op, RegroupRequest};
use connection::{Joined, SendFault};
use delivery::{InSet, Membership, Promise};
use protocol::{Epoch, Millis};

use super::queue::{Job, Kind, LineOf, Step, Wish};
use super::{Joins, too_many_groups, too_many_members, unknown};
use crate::metrics::MembershipChange;
use crate::publisher::reply::unavailable;

/// After so many command timeouts, twice its deadline, a call is given up, whatever another master's clock says.
const GIVE_UP_TIMEOUTS: u32 = 4;

/// At least so long between two askings, so that a backplane that fails at once is not hammered.
const PAUSE: Duration = Duration::from_millis(10);

/// What a step was answered.
#[derive(Clone, Copy, Debug)]
enum Told {
    Set(bool),
    Changed(Changed),
    Member(bool),
}

/// Why a step has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It did not run.
    Refused,
    Unknown,
}

/// How a call ended.
struct Asked {
    /// One a job.
    told: Vec<Result<Told, Fault>>,
    /// An asking before may have run.
    may_have_run: bool,
    /// Until when a copy of an asking may still run; none where there was one asking, and its answer.
    held: Millis,
    /// The backplane's clock at the end.
    now_us: u64,
}

/// Asks for all jobs of a line, and hands them on.
pub(super) async fn run(joins: Arc<Joins>, line: LineOf, jobs: Vec<Job>) {
    let asked = joins.ask(line, &jobs).await;
    // Before anybody hears of it: what is promised is kept.
    let promises = jobs.iter().zip(&asked.told).filter_map(|(job, told)| promise(job, *told, &asked));
    joins.keeper.promise(line.0, promises);
    jobs.iter().zip(&asked.told).for_each(|(job, told)| joins.count(job, *told));
    let (now, mut held) = (joins.clock.now(), Vec::new());
    let (mut next, mut done) = (Vec::with_capacity(jobs.len()), Vec::new());
    for (mut job, told) in jobs.into_iter().zip(asked.told) {
        job.held = job.held.max(asked.held);
        match job.advance(told, asked.may_have_run) {
            Some(step) => next.push(Job { step, since: now, ..job }),
            None if job.held > now => held.push(job),
            None => done.push(job),
        }
    }
    {
        let mut queue = joins.queue.lock();
        queue.end(line);
        next.into_iter().for_each(|job| queue.put(job));
        done.iter().for_each(|job| queue.release(&job.key(), now));
    }
    joins.wake.notify_one();
    joins.release_held(held).await;
}

/// What this node answers for from now on.
fn promise(job: &Job, told: Result<Told, Fault>, asked: &Asked) -> Option<Promise> {
    let (user, group, record) = (job.user.clone(), job.group.clone(), job.record.clone());
    let is_join = job.wish == Wish::Join;
    let member = |mseq| Some(Promise::Member(Membership { record, user: user.clone(), is_join, mseq }));
    match told.ok()? {
        Told::Set(true) => Some(Promise::Set(InSet { user, group, is_in: job.step == Step::SetIn })),
        Told::Changed(Changed::Done { mseq, .. } | Changed::Already { mseq, .. }) => member(mseq),
        // Its own asking before may have done it: whatever number that was, it is none of the future.
        Told::Changed(Changed::NotMember) if asked.may_have_run => member(asked.now_us),
        Told::Set(false) | Told::Changed(_) | Told::Member(_) => None,
    }
}

impl Job {
    /// Tells whoever waits as soon as it is decided, and says what is asked next, if anything.
    fn advance(&mut self, told: Result<Told, Fault>, may_have_run: bool) -> Option<Step> {
        let told = match told {
            Ok(told) => told,
            Err(fault) => {
                self.give_up(fault.into());
                return None;
            }
        };
        match (self.step, told) {
            (Step::SetIn, Told::Set(true)) => (self.wish == Wish::Join).then_some(Step::Change),
            (Step::SetIn, Told::Set(false)) => {
                self.tell(Err(too_many_groups()));
                None
            }
            (Step::Look, Told::Member(is_member)) => Some(if is_member { Step::SetIn } else { Step::SetOut }),
            (Step::Change, Told::Changed(changed)) if self.wish == Wish::Join => self.joined(changed),
            (Step::Change, Told::Changed(changed)) => {
                let is_gone = self.wish == Wish::Remove || may_have_run || changed != Changed::NotMember;
                self.left = Some(is_gone);
                Some(Step::SetOut)
            }
            // The end of a leave, whatever the set said.
            (Step::SetOut, _) => {
                self.give_up(Fault::Unknown.into());
                None
            }
            _ => None,
        }
    }

    fn joined(&mut self, changed: Changed) -> Option<Step> {
        match changed {
            Changed::Done { mseq, members, .. } | Changed::Already { mseq, members } => {
                self.tell(Ok(Joined { mseq, members }));
                None
            }
            Changed::Full => {
                self.tell(Err(too_many_members()));
                Some(Step::SetOut)
            }
            // No backplane answers a join like this.
            Changed::NotMember | Changed::InForce => {
                self.tell(Err(Fault::Unknown.into()));
                None
            }
        }
    }
}

impl From<Fault> for SendFault {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused => unavailable("the backplane did not take it"),
            Fault::Unknown => unknown(),
        }
    }
}

impl From<&BackplaneError> for Fault {
    fn from(error: &BackplaneError) -> Self {
        match error {
            BackplaneError::Unknown(_) => Self::Unknown,
            BackplaneError::Elsewhere(_) | BackplaneError::NotRun(_) => Self::Refused,
        }
    }
}

impl Joins {
    /// Counts what was changed by this.
    fn count(&self, job: &Job, told: Result<Told, Fault>) {
        if let Ok(Told::Changed(Changed::Done { .. })) = told {
            let change = if job.wish == Wish::Join { MembershipChange::Join } else { MembershipChange::Leave };
            self.metrics.membership_changes.of(change).increment(1);
        }
    }

    /// Asks until the outcome is known, or no copy of it can run any more: a later job of the same user and group must not
    /// be overtaken.
    async fn ask(&self, line: LineOf, jobs: &[Job]) -> Asked {
        let started = tokio::time::Instant::now();
        let (mut deadline_us, mut may_have_run, mut last) = (None, false, None);
        let mut commands = self.current.soon(line.0).await;
        let fault = loop {
            let Some(now) = commands.take() else { break Fault::Refused };
            let timeout_us = u64::try_from(self.timeout.as_micros()).unwrap_or(u64::MAX);
            // One for all askings.
            let deadline = *deadline_us.get_or_insert(now.now_us() + 2 * timeout_us);
            let asking = tokio::time::timeout(2 * self.timeout, call(&now, line, jobs, deadline));
            let answer = asking.await.unwrap_or_else(|_| Err(BackplaneError::Unknown("no answer".to_owned())));
            let has_passed = now.now_us() > deadline || started.elapsed() > GIVE_UP_TIMEOUTS * self.timeout;
            match answer {
                Ok(told) => {
                    let is_unknown = may_have_run || told.iter().any(|one| matches!(one, Err(Fault::Unknown)));
                    let left_us = if is_unknown { deadline.saturating_sub(now.now_us()) } else { 0 };
                    let held = self.clock.now().plus(left_us.min(2 * timeout_us).div_ceil(1_000));
                    return Asked { told, may_have_run, held, now_us: now.now_us() };
                }
                Err(BackplaneError::NotRun(_)) => break Fault::Refused,
                Err(BackplaneError::Elsewhere(_)) if has_passed => break Fault::Refused,
                Err(BackplaneError::Elsewhere(_)) => commands = self.current.next_after(line.0, &now).await,
                Err(BackplaneError::Unknown(_)) => {
                    may_have_run = true;
                    if has_passed {
                        break Fault::Unknown;
                    }
                    tokio::time::sleep(PAUSE).await;
                    let rest = (GIVE_UP_TIMEOUTS * self.timeout).saturating_sub(started.elapsed());
                    commands = self.current.wait(line.0, rest.min(2 * self.timeout)).await;
                }
            }
            last = Some(now);
        };
        let fault = if may_have_run { Fault::Unknown } else { fault };
        tracing::debug!(count = jobs.len(), ?fault, "joins or leaves have no answer");
        let now_us = last.map_or(0, |commands: Commands| commands.now_us());
        let left_us = if may_have_run { deadline_us.unwrap_or(0).saturating_sub(now_us) } else { 0 };
        let left = Duration::from_micros(left_us).min(2 * self.timeout);
        let held = self.clock.now().plus(u64::try_from(left.as_millis()).unwrap_or(0));
        Asked { told: vec![Err(fault); jobs.len()], may_have_run, held, now_us }
    }
}

/// One asking: what each job is told.
async fn call(
    commands: &Commands,
    (_, kind): LineOf,
    jobs: &[Job],
    deadline_us: u64,
) -> Result<Vec<Result<Told, Fault>>, BackplaneError> {
    let told: Vec<_> = match kind {
        Kind::Sets => {
            let requests: Vec<_> = jobs.iter().map(regroup).collect();
            let answers = commands.regroup(deadline_us, &requests).await?;
            answers.into_iter().map(|answer| answer.map(Told::Set).map_err(|error| Fault::from(&error))).collect()
        }
        Kind::Members => {
            let requests: Vec<_> = jobs.iter().map(change).collect();
            let ChangeResult::Answered(answers) = commands.change(deadline_us, &requests).await? else {
                return Err(BackplaneError::NotRun("it came too late".to_owned()));
            };
            answers.into_iter().map(|answer| answer.map(Told::Changed).map_err(|error| Fault::from(&error))).collect()
        }
        Kind::Looks => {
            let mut told = Vec::with_capacity(jobs.len());
            // A repair is rare: one by one.
            for job in jobs {
                let answer = commands.memberships(&job.record, std::slice::from_ref(&job.user)).await?;
                told.push(Ok(Told::Member(answer.joined.first().is_some_and(Option::is_some))));
            }
            told
        }
    };
    if told.len() == jobs.len() {
        return Ok(told);
    }
    Err(BackplaneError::Unknown(format!("{} answers to {} requests", told.len(), jobs.len())))
}

fn regroup(job: &Job) -> RegroupRequest {
    RegroupRequest { user: job.user.clone(), group: job.group.clone(), is_in: job.step == Step::SetIn }
}

fn change(job: &Job) -> ChangeRequest {
    let op = match job.wish {
        Wish::Join => Op::Join,
        Wish::Leave | Wish::Repair => Op::Leave,
        Wish::Remove => Op::Remove,
    };
    let epoch = Epoch(rand::random());
    ChangeRequest { of: job.record.clone(), epoch, user: job.user.clone(), op, again: None }
}
