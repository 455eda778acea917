//! Joins and leaves that wait: by slot group and kind of call, and of one user in one group one behind the other. Pure.

use std::collections::{HashMap, VecDeque};

use protocol::{GroupId, Millis, Text, UserId};
use routing::SlotGroup;

use super::Reply;

/// Joins and leaves under way or waiting, all together: three seconds of 5,000 a second.
const JOBS_MAX: usize = 16_384;

/// Requests of one call: some milliseconds of Redis.
pub(crate) const CALL_MAX: usize = 256;

/// What is to become of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Join,
    Leave,
    /// He goes, whether he is listed or not.
    Remove,
    /// The user's set is made to say what the group's record says.
    Repair,
}

/// What is asked next of a job. The user's set is written before the group's record on a join, and behind it on a leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    SetIn,
    Change,
    SetOut,
    Look,
}

/// What goes in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// The sets of users.
    Sets,
    /// The members of groups.
    Members,
    Looks,
}

pub(super) type LineOf = (SlotGroup, Kind);

/// One join or leave.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) wish: Wish,
    pub(super) user: UserId,
    pub(super) group: GroupId,
    /// The group's record.
    pub(super) record: Text,
    pub(super) user_at: SlotGroup,
    pub(super) group_at: SlotGroup,
    pub(super) step: Step,
    /// Since when it waits for its step to be asked.
    pub(super) since: Millis,
    /// A copy of an asking of it may run until then: what comes behind it waits so long.
    pub(super) held: Millis,
    /// Of a leave whose change is done: whether there was a membership. It is answered when the set has been written, too:
    /// who joins again by another node behind the answer must not be taken out of the set behind that.
    pub(super) left: Option<bool>,
    /// Taken by the answer.
    pub(super) reply: Option<Reply>,
}

impl Job {
    pub(super) fn line(&self) -> LineOf {
        match self.step {
            Step::SetIn | Step::SetOut => (self.user_at, Kind::Sets),
            Step::Change => (self.group_at, Kind::Members),
            Step::Look => (self.group_at, Kind::Looks),
        }
    }

    pub(super) fn key(&self) -> (UserId, GroupId) {
        (self.user.clone(), self.group.clone())
    }
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Job>,
    is_asking: bool,
}

/// All that waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Those where something waits or is asked.
    lines: HashMap<LineOf, Line>,
    /// Those that have something to ask, and may.
    ready: VecDeque<LineOf>,
    /// Of each user and group of which something is under way: what waits behind it.
    busy: HashMap<(UserId, GroupId), VecDeque<Job>>,
    jobs: usize,
    is_stopped: bool,
}

impl Queue {
    /// Takes a job. A repair finds nothing to do where something else is under way.
    ///
    /// # Errors
    /// There is no room, or the node is being stopped: the job comes back.
    pub(super) fn submit(&mut self, job: Job) -> Result<(), Job> {
        if self.jobs >= JOBS_MAX || self.is_stopped {
            return Err(job);
        }
        match self.busy.get_mut(&job.key()) {
            Some(_) if job.wish == Wish::Repair => return Ok(()),
            Some(behind) => behind.push_back(job),
            None => {
                self.busy.insert(job.key(), VecDeque::new());
                self.put(job);
            }
        }
        self.jobs += 1;
        Ok(())
    }

    /// The job's next step waits to be asked.
    pub(super) fn put(&mut self, job: Job) {
        let of = job.line();
        let line = self.lines.entry(of).or_default();
        if line.waiting.is_empty() && !line.is_asking {
            self.ready.push_back(of);
        }
        line.waiting.push_back(job);
    }

    /// What is to be asked now, in one call. To be ended by [`Queue::end`].
    pub(super) fn begin(&mut self) -> Option<(LineOf, Vec<Job>)> {
        let of = self.ready.pop_front()?;
        let line = self.lines.entry(of).or_default();
        line.is_asking = true;
        let count = line.waiting.len().min(CALL_MAX);
        Some((of, line.waiting.drain(..count).collect()))
    }

    /// The call was answered, or given up.
    pub(super) fn end(&mut self, of: LineOf) {
        let Some(line) = self.lines.get_mut(&of) else { return };
        line.is_asking = false;
        if line.waiting.is_empty() {
            self.lines.remove(&of);
        } else {
            self.ready.push_back(of);
        }
    }

    /// Nothing is under way of this user and group any more: what waits behind it begins.
    pub(super) fn release(&mut self, key: &(UserId, GroupId), now: Millis) {
        self.jobs = self.jobs.saturating_sub(1);
        match self.busy.get_mut(key).and_then(VecDeque::pop_front) {
            Some(next) => self.put(Job { since: now, ..next }),
            None => drop(self.busy.remove(key)),
        }
    }

    /// Takes out what has waited for longer than `age_ms` without being asked.
    pub(super) fn expire(&mut self, now: Millis, age_ms: u64) -> Vec<Job> {
        let mut expired = Vec::new();
        for line in self.lines.values_mut() {
            while line.waiting.front().is_some_and(|job| now.since(job.since) > age_ms) {
                expired.extend(line.waiting.pop_front());
            }
        }
        self.lines.retain(|_, line| line.is_asking || !line.waiting.is_empty());
        let lines = &self.lines;
        self.ready.retain(|of| lines.contains_key(of));
        expired
    }

    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// Nothing waits in a line, and nothing is asked.
    pub(super) fn is_idle(&self) -> bool {
        self.lines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(user: &str, group: &str, wish: Wish) -> Job {
        Job {
            wish,
            user: UserId::parse(user).unwrap(),
            group: GroupId::parse(group).unwrap(),
            record: Text::from(format!("group:{group}")),
            user_at: SlotGroup(0),
            group_at: SlotGroup(1),
            step: if wish == Wish::Join { Step::SetIn } else { Step::Change },
            since: Millis(0),
            held: Millis(0),
            left: None,
            reply: None,
        }
    }

    fn users(jobs: &[Job]) -> Vec<&str> {
        jobs.iter().map(|job| job.user.as_str()).collect()
    }

    #[test]
    fn one_call_of_a_kind_is_asked_at_a_time_and_what_comes_meanwhile_goes_with_the_next() {
        let mut queue = Queue::default();
        queue.submit(job("a", "den", Wish::Join)).unwrap();
        let (of, jobs) = queue.begin().unwrap();
        assert_eq!((of, users(&jobs)), ((SlotGroup(0), Kind::Sets), vec!["a"]));
        queue.submit(job("b", "den", Wish::Join)).unwrap();
        queue.submit(job("c", "x", Wish::Join)).unwrap();
        queue.submit(job("d", "x", Wish::Leave)).unwrap();
        assert_eq!(queue.begin().unwrap().0, (SlotGroup(1), Kind::Members), "another kind does not wait");
        assert!(queue.begin().is_none());
        queue.end(of);
        assert_eq!(users(&queue.begin().unwrap().1), ["b", "c"]);
    }

    #[test]
    fn a_leave_waits_behind_the_join_of_the_same_user_and_group() {
        let mut queue = Queue::default();
        queue.submit(job("a", "den", Wish::Join)).unwrap();
        queue.submit(job("a", "den", Wish::Leave)).unwrap();
        queue.submit(job("a", "den", Wish::Repair)).unwrap();
        let (of, jobs) = queue.begin().unwrap();
        assert!(queue.begin().is_none(), "its line is free, and it waits all the same");
        queue.end(of);
        queue.release(&jobs[0].key(), Millis(5));
        let (of, jobs) = queue.begin().unwrap();
        assert_eq!((jobs[0].wish, jobs[0].since), (Wish::Leave, Millis(5)));
        queue.end(of);
        queue.release(&jobs[0].key(), Millis(6));
        assert!(queue.begin().is_none() && queue.busy.is_empty() && queue.jobs == 0, "the repair was dropped");
    }

    #[test]
    fn a_full_queue_and_a_stopped_one_give_the_job_back() {
        let mut queue = Queue::default();
        for n in 0..JOBS_MAX {
            queue.submit(job(&n.to_string(), "den", Wish::Join)).unwrap();
        }
        assert!(queue.submit(job("late", "den", Wish::Join)).is_err());
        let expired = queue.expire(Millis(100), 99);
        assert_eq!(expired.len(), JOBS_MAX);
        assert!(queue.is_idle() && queue.begin().is_none());
        expired.iter().for_each(|job| queue.release(&job.key(), Millis(100)));
        queue.submit(job("late", "den", Wish::Join)).unwrap();
        queue.stop();
        assert!(queue.submit(job("later", "den", Wish::Join)).is_err());
        assert!(!queue.is_idle(), "what was there before is still asked");
    }
}
