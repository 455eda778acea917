//! Shell of the batcher: one task a lane asks one batch at a time, and hands every sender its answer.

mod echo;
pub(crate) mod reply;

use std::sync::Arc;
use std::time::Duration;

use backplane::{BackplaneError, Batch, BatchAnswer, BatchBuilder, BatchResult, Commands};
use connection::{Message, SendFault};
use delivery::batch::{Next, Outcome, after, wait_before};
use delivery::{BatchNumber, Batcher, Full, Kind, NewMessage, Placed};
use metrics::Histogram;
use parking_lot::Mutex;
use protocol::{Address, Envelope, Epoch, MessageId, Millis, Text};
use routing::{Lane, Topology};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::current::Current;
use crate::keeper::Keeper;
use crate::suspects::Suspects;

pub(crate) use reply::Reply;
use reply::{Waiting, not_replicated, overloaded, tell_waiting, unavailable, unknown, wait_for_replica};

/// Bytes that wait in all lanes together: what 10,000 senders of 6 KiB can have in flight. Above it `overloaded`.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// However many lanes: room for the largest message and those beside it.
const LANE_BYTES_MIN: usize = 4 * 1024 * 1024;

/// What a retry's search is widened by, in milliseconds, beside the step between two masters' clocks.
const SEARCH_MARGIN_MS: u64 = 5_000;

/// After so many command timeouts, twice its deadline, a batch that is only ever answered with faults is given up.
const GIVE_UP_TIMEOUTS: u64 = 4;

/// Lines about what the backplane refuses come so seldom, however many messages it refuses.
const SAY_EVERY_MS: u64 = 1_000;

/// How often a lane that cannot ask, or has no answer yet, looks after what waits behind.
const TICK: Duration = Duration::from_millis(100);

/// A message on its way to a lane.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) id: MessageId,
    pub(crate) to: Address,
    pub(crate) record: Text,
    pub(crate) message: NewMessage,
    /// Since when a retry's age has grown in this node.
    pub(crate) since: Millis,
    pub(crate) reply: Reply,
    /// The answer waits until a replica has it.
    pub(crate) replicated: bool,
}

impl Outgoing {
    /// A message as the backplane takes it: encoded, tagged, and for the record of its address.
    pub(crate) fn new(message: Message, kind: Kind, retry_age_ms: Option<u64>, since: Millis, reply: Reply) -> Self {
        let Message { id, to, from, body, expires_ms } = message;
        let envelope = Envelope {
            to: Text::from(to.to_string()),
            from: Text::from(from.to_string()),
            id: Text::from(id.as_str()),
            encoding: body.encoding,
            body: body.bytes,
            expires_ms,
            traceparent: None,
            flags: 0,
        };
        let message = NewMessage {
            kind,
            tag: routing::hash::tag(&envelope.from, id.as_str()),
            envelope: envelope.encode().into(),
            // Far more than a retention, and far from where the script's numbers end.
            search_us: retry_age_ms.map(|age| age.saturating_add(SEARCH_MARGIN_MS).min(1 << 40) * 1_000),
        };
        // A device's messages go through the record of its user.
        let record = if matches!(to, Address::Device(..)) { backplane::api::record_of(&to) } else { envelope.to };
        Self { id, to, record, message, since, reply, replicated: false }
    }
}

#[derive(Debug)]
struct LaneQueue {
    batcher: Mutex<Batcher<Outgoing>>,
    wake: Notify,
    is_stopped: Mutex<bool>,
}

/// The lanes of one node.
#[derive(Debug)]
pub(crate) struct Publisher {
    topology: Topology,
    lanes: Vec<LaneQueue>,
    current: Arc<Current>,
    keeper: Arc<Keeper>,
    suspects: Arc<Suspects>,
    clock: Clock,
    timeout: Duration,
    append_seconds: Histogram,
    batch_size: Histogram,
    /// When something was last said about a refusal.
    said: Mutex<Option<Millis>>,
}

impl Publisher {
    pub(crate) fn new(
        topology: Topology,
        current: Arc<Current>,
        (keeper, suspects): (Arc<Keeper>, Arc<Suspects>),
        clock: Clock,
        timeout: Duration,
        (append_seconds, batch_size): (Histogram, Histogram),
    ) -> Self {
        let count = topology.lanes().count();
        let queue = || LaneQueue {
            batcher: Mutex::new(Batcher::new((QUEUE_BYTES_MAX / count).max(LANE_BYTES_MIN))),
            wake: Notify::new(),
            is_stopped: Mutex::default(),
        };
        let lanes = topology.lanes().map(|_| queue()).collect();
        let said = Mutex::default();
        Self { topology, lanes, current, keeper, suspects, clock, timeout, append_seconds, batch_size, said }
    }

    /// Puts a message in line. Its answer comes by its `reply`, always.
    pub(crate) fn submit(&self, outgoing: Outgoing) {
        let lane = self.topology.lane(&outgoing.record);
        if !self.current.is_near(self.topology.group_of_lane(lane)) {
            return tell(outgoing, Err(unavailable("the backplane cannot be reached")));
        }
        let queue = &self.lanes[usize::from(lane.0)];
        let bytes = outgoing.message.envelope.len() + 256;
        let is_stopped = queue.is_stopped.lock();
        if *is_stopped {
            return tell(outgoing, Err(unavailable("the node is being stopped")));
        }
        let pushed = queue.batcher.lock().push(outgoing, bytes, self.clock.now());
        drop(is_stopped);
        match pushed {
            Ok(()) => queue.wake.notify_one(),
            Err(Full(outgoing)) => tell(outgoing, Err(overloaded())),
        }
    }

    /// Runs one lane until `stop`, and then what it still holds.
    pub(crate) async fn run_lane(self: Arc<Self>, lane: Lane, stop: CancellationToken) {
        let queue = &self.lanes[usize::from(lane.0)];
        loop {
            // The lock is released before the batch is asked.
            let begun = queue.batcher.lock().begin();
            if let Some((number, items)) = begun {
                self.run_batch(lane, number, items).await;
                queue.batcher.lock().finish();
                continue;
            }
            if stop.run_until_cancelled(queue.wake.notified()).await.is_none() {
                // What comes from now on is answered by `submit`; what came before is still asked.
                if std::mem::replace(&mut *queue.is_stopped.lock(), true) {
                    return;
                }
                queue.wake.notify_one();
            }
        }
    }

    async fn run_batch(&self, lane: Lane, number: BatchNumber, items: Vec<Outgoing>) {
        let started = self.clock.now();
        #[allow(clippy::cast_precision_loss, reason = "a batch has at most 1,000 messages")]
        self.batch_size.record(items.len() as f64);
        let group = self.topology.group_of_lane(lane);
        let Some(commands) = self.current.soon(group).await else {
            return items.into_iter().for_each(|o| tell(o, Err(unavailable("the backplane cannot be reached"))));
        };
        let timeout_us = u64::try_from(self.timeout.as_micros()).unwrap_or(u64::MAX);
        // One deadline for all askings: two command timeouts from the first.
        let (batch, mut waiting) = self.build(lane, number, items, commands.now_us() + 2 * timeout_us);
        let mut commands = Some(commands);
        let mut may_have_run = false;
        // The masters that were asked, each by its history.
        let mut asked_of: Vec<Option<String>> = Vec::new();
        loop {
            let asked = match &commands {
                Some(commands) => {
                    if !self.hold_back(commands, &batch, &asked_of, started, &mut waiting).await {
                        self.give_up(lane, "another master's clock is far behind", &mut waiting);
                        break;
                    }
                    asked_of.push(commands.lineage().map(str::to_owned));
                    self.ask(commands, &batch, started, &mut waiting).await
                }
                None => Err(BackplaneError::Unknown("no generation".to_owned())),
            };
            let (outcome, why) = match asked {
                Ok(BatchResult::Answered(answer)) => {
                    // Before anybody hears `sent`: what is promised is kept.
                    self.keeper.keep(&batch, &answer);
                    answer
                        .receivers
                        .iter()
                        .filter(|(_, heard)| *heard == 0)
                        .for_each(|(n, _)| self.suspects.suspect(n));
                    waiting.iter_mut().for_each(|w| self.answer_one(w, &answer, commands.as_ref()));
                    (Outcome::Answered, String::new())
                }
                Ok(BatchResult::Stale) => (Outcome::Stale, "the batch came too late and was not stored".to_owned()),
                // Another master has it: asked there, as long as anybody would wait for it.
                Err(BackplaneError::Elsewhere(_)) if self.clock.now().since(started) < self.timeout_ms() => {
                    asked_of.pop();
                    commands = self.wait_for_next(lane, started, may_have_run, &mut waiting).await;
                    continue;
                }
                Err(BackplaneError::NotRun(why) | BackplaneError::Elsewhere(why)) => (Outcome::NotRun, why),
                Err(BackplaneError::Unknown(why)) => (Outcome::Unknown, why),
            };
            match after(outcome) {
                Next::Finish { unanswered } => {
                    if unanswered {
                        // `unavailable` says that nothing was stored: only where no asking can have run.
                        let is_sure = !may_have_run || outcome == Outcome::Stale;
                        let fault = if is_sure { unavailable("the backplane did not take it") } else { unknown() };
                        waiting.iter_mut().for_each(|w| tell_waiting(w, Err(fault.clone())));
                        if self.may_say() {
                            tracing::warn!(lane = lane.0, why, "a batch was not stored");
                        }
                    }
                    break;
                }
                Next::Ask
                    if commands.is_some() && self.clock.now().since(started) > GIVE_UP_TIMEOUTS * self.timeout_ms() =>
                {
                    // Its deadline is long past: it did not run since, and never will. What answers like this is not down,
                    // it is broken, and asking it for ever would stop the lane.
                    self.give_up(lane, &why, &mut waiting);
                    break;
                }
                Next::Ask => {
                    may_have_run |= commands.is_some();
                    commands = self.wait_for_next(lane, started, may_have_run, &mut waiting).await;
                }
            }
        }
        self.append_seconds.record(Duration::from_millis(self.clock.now().since(started)).as_secs_f64());
    }

    /// One asking. It may take long where records are on their way between two masters, one after the other; those who
    /// have waited for one timeout do not wait for it.
    async fn ask(
        &self,
        commands: &Commands,
        batch: &Batch,
        started: Millis,
        waiting: &mut [Waiting],
    ) -> Result<BatchResult, BackplaneError> {
        let mut asking = commands.append(batch);
        loop {
            tokio::select! {
                biased;
                answer = &mut asking => return answer,
                () = tokio::time::sleep(TICK) => self.tell_late(batch.lane, started, true, waiting),
            }
        }
    }

    fn give_up(&self, lane: Lane, why: &str, waiting: &mut [Waiting]) {
        waiting.iter_mut().for_each(|w| tell_waiting(w, Err(unknown())));
        if self.may_say() {
            tracing::error!(lane = lane.0, why, "a batch was given up");
        }
    }

    /// A master that has no ledger of what another one was asked is asked once no copy can run any more. False: its clock is
    /// so far behind that the lane would stand still until it has caught up; everybody who waited has been told.
    async fn hold_back(
        &self,
        commands: &Commands,
        batch: &Batch,
        asked_of: &[Option<String>],
        started: Millis,
        waiting: &mut [Waiting],
    ) -> bool {
        let is_other = asked_of.iter().any(|lineage| lineage.as_deref() != commands.lineage());
        let asked = u32::try_from(asked_of.len()).unwrap_or(u32::MAX);
        while let Some(us) = wait_before(asked, is_other, commands.now_us(), batch.deadline_us) {
            if self.clock.now().since(started) > GIVE_UP_TIMEOUTS * self.timeout_ms() {
                return false;
            }
            tokio::time::sleep(Duration::from_micros(us).min(TICK)).await;
            self.tell_late(batch.lane, started, true, waiting);
        }
        true
    }

    /// Waits for somebody to ask, and meanwhile tells those who have waited long enough.
    async fn wait_for_next(
        &self,
        lane: Lane,
        started: Millis,
        may_have_run: bool,
        waiting: &mut [Waiting],
    ) -> Option<Commands> {
        // At least one tick between two askings, so that a backplane that fails at once is not hammered.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let commands = self.current.wait(self.topology.group_of_lane(lane), TICK).await;
        self.tell_late(lane, started, may_have_run, waiting);
        commands
    }

    /// Tells those who have waited for one timeout.
    fn tell_late(&self, lane: Lane, started: Millis, may_have_run: bool, waiting: &mut [Waiting]) {
        let timeout_ms = self.timeout_ms();
        let queue = &self.lanes[usize::from(lane.0)];
        let now = self.clock.now();
        if now.since(started) >= timeout_ms {
            let fault = || if may_have_run { unknown() } else { unavailable("the backplane does not answer") };
            waiting.iter_mut().for_each(|w| tell_waiting(w, Err(fault())));
        }
        // What waits behind was never asked: it was not stored, and says so after one timeout.
        let expired = queue.batcher.lock().expire(now, timeout_ms);
        expired.into_iter().for_each(|o| tell(o, Err(unavailable("the backplane does not answer"))));
    }

    fn timeout_ms(&self) -> u64 {
        u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX)
    }

    fn build(&self, lane: Lane, number: BatchNumber, items: Vec<Outgoing>, deadline_us: u64) -> (Batch, Vec<Waiting>) {
        let now = self.clock.now();
        let group = self.topology.group_of_lane(lane);
        let mut builder = BatchBuilder::default();
        let mut waiting = Vec::with_capacity(items.len());
        for Outgoing { id, to, record, mut message, since, reply, replicated } in items {
            if let Some(us) = &mut message.search_us {
                *us += now.since(since) * 1_000;
                *us += self.current.clock_step_us(group, *us);
            }
            let slot = builder.push(&record, message, || Epoch(rand::random()));
            waiting.push(Waiting { slot, id, to, reply: Some(reply), replicated });
        }
        (builder.finish(lane, Some(number), deadline_us), waiting)
    }

    fn answer_one(&self, waiting: &mut Waiting, answer: &BatchAnswer, commands: Option<&Commands>) {
        let result = answer.get(waiting.slot).map_err(|why| {
            // For operators: a sender can do nothing with what Redis says of a key.
            if self.may_say() {
                tracing::warn!(why, "the backplane refused the messages of an address");
            }
            unavailable("the backplane refused it")
        });
        match (result, commands) {
            (Ok(placed), Some(_)) if waiting.replicated && answer.is_elsewhere && placed.place.cursor().is_some() => {
                tell_waiting(waiting, Err(not_replicated()));
            }
            (Ok(placed), Some(commands)) if waiting.replicated && placed.place.cursor().is_some() => {
                wait_for_replica(waiting, placed, commands.clone());
            }
            (result, _) => tell_waiting(waiting, result),
        }
    }

    /// A Redis that is full refuses every message of every batch: one line a second says as much.
    fn may_say(&self) -> bool {
        let (now, mut said) = (self.clock.now(), self.said.lock());
        let may = said.is_none_or(|last| now.since(last) >= SAY_EVERY_MS);
        if may {
            *said = Some(now);
        }
        may
    }
}

fn tell(outgoing: Outgoing, result: Result<Placed, SendFault>) {
    outgoing.reply.tell(&outgoing.id, &outgoing.to, result);
}

#[cfg(test)]
mod tests;
