//! A sender: many messages in flight on one socket, each tried again with the same id until something is known of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::Encoding;
use protocol::client::fields::{self, Fields};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use switchboard_client::socket::{Incoming, Socket};
use switchboard_client::wire::ServerEvent;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::link::{BUNDLE_FRAMES, open};
use super::roles::GROUPS;
use super::shared::Shared;
use crate::history::{Level, MessageNo, To, What};

/// Without an answer at once. A node takes 256 of a connection.
const WINDOW: usize = 200;

/// Without a final answer. More than in flight, so that messages for a part of Redis that is away do not keep those for
/// the rest from being sent.
const PENDING_MAX: usize = 600;

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(10);

/// Of one frame; a node takes 64 KiB.
const BATCH_BYTES: usize = 48 * 1024;

/// After this a message is given up. Longer than every single fault, shorter than what a retry is searched for.
const GIVE_UP: Duration = Duration::from_secs(50);

/// Tries at `replicated` before the sender is content with `stored`.
const REPLICATED_TRIES: u32 = 4;

/// Of a thousand messages so many go to groups, each to some twenty-five devices; one goes to everybody.
const GROUP_PERMILLE: u32 = 20;

pub(crate) struct Sender {
    shared: Arc<Shared>,
    index: u32,
    chance: StdRng,
    next: u32,
    /// By count, so that what is due is tried in order.
    pending: BTreeMap<u32, Pending>,
    in_flight: usize,
    /// Messages that may be begun now; grows with time.
    turns: f64,
    last_turn: Instant,
    last_heard: Instant,
    /// Index of the front that it is connected to, or tries next.
    front: usize,
}

struct Pending {
    recipient: To,
    level: Level,
    begun: Instant,
    tries: u32,
    /// `None` while it is in flight.
    due: Option<Instant>,
    /// One of its tries may have been stored.
    may_be_stored: bool,
    padding_bytes: usize,
}

impl Sender {
    pub(crate) fn new(shared: Arc<Shared>, index: u32) -> Self {
        let chance = StdRng::seed_from_u64(shared.plan.seed ^ (u64::from(index) << 32));
        let front = index as usize % shared.fronts.len();
        let (turns, now) = (0.0, Instant::now());
        let pending = BTreeMap::new();
        Self { shared, index, chance, next: 0, pending, in_flight: 0, turns, last_turn: now, last_heard: now, front }
    }

    /// Ends when the load is over and nothing is pending.
    pub(crate) async fn run(mut self) {
        while !self.is_done() {
            let user = format!("s{}", self.index);
            let opened = open(self.shared.fronts[self.front], &user, &json!({"type": "hello", "batch": true})).await;
            match opened {
                Ok((mut socket, _, _)) => {
                    self.shared.counts.opened.fetch_add(1, Ordering::Relaxed);
                    self.last_heard = Instant::now();
                    self.converse(&mut socket).await;
                    self.lose_what_is_in_flight();
                }
                Err(no) => {
                    self.shared.counts.count(&format!("unopened {}", no.code.unwrap_or_default()));
                    self.give_up_what_is_old();
                }
            }
            self.front = (self.front + 1) % self.shared.fronts.len();
            sleep(Duration::from_millis(self.chance.random_range(20..200))).await;
        }
    }

    fn is_done(&self) -> bool {
        self.shared.is_over() && self.pending.is_empty()
    }

    /// Until the connection ends, the node is silent, or all is done.
    async fn converse(&mut self, socket: &mut Socket) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bundle = Vec::new();
        loop {
            tokio::select! {
                () = socket.drive_bundle(BUNDLE_FRAMES, &mut bundle) => {
                    self.last_heard = Instant::now();
                    for incoming in bundle.drain(..) {
                        match incoming {
                            Incoming::Alive => {}
                            Incoming::Frame(frame) => self.on_frame(&frame),
                            Incoming::Closed { code, .. } => {
                                self.shared.counts.count(&format!("sender closed {}", code.unwrap_or_default()));
                                return;
                            }
                        }
                    }
                }
                _ = tick.tick() => {
                    self.give_up_what_is_old();
                    if self.is_done() || self.is_silent() {
                        return;
                    }
                    if !self.write(socket) {
                        return;
                    }
                }
            }
        }
    }

    fn is_silent(&self) -> bool {
        let patience = Duration::from_millis(self.shared.sender_patience_ms.load(Ordering::Relaxed));
        self.in_flight > 0 && self.last_heard.elapsed() > patience
    }

    /// Writes what is due, and new messages as far as their turn has come; false when the connection is over.
    fn write(&mut self, socket: &mut Socket) -> bool {
        let now = Instant::now();
        let mut frame = String::from("[");
        let due: Vec<u32> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.due.is_some_and(|due| due <= now))
            .map(|(&count, _)| count)
            .take(WINDOW.saturating_sub(self.in_flight))
            .collect();
        for count in due {
            self.put(&mut frame, count, now);
        }
        self.earn_turns(now);
        while self.turns >= 1.0
            && self.pending.len() < PENDING_MAX
            && self.in_flight < WINDOW
            && frame.len() < BATCH_BYTES
        {
            self.turns -= 1.0;
            let count = self.begin(now);
            self.put(&mut frame, count, now);
        }
        if frame.len() == 1 {
            return true;
        }
        frame.pop();
        frame.push(']');
        socket.queue(frame.into_bytes()).is_ok()
    }

    fn earn_turns(&mut self, now: Instant) {
        let plan = &self.shared.plan;
        let share = f64::from(plan.rate) / f64::from(plan.senders);
        let earned = now.duration_since(self.last_turn).as_secs_f64() * share;
        // What was missed in a stall is not made good in one burst.
        self.turns = if self.shared.is_over() { 0.0 } else { (self.turns + earned).min(WINDOW as f64) };
        self.last_turn = now;
    }

    /// Invents the next message.
    fn begin(&mut self, now: Instant) -> u32 {
        let count = self.next;
        self.next += 1;
        let plan = &self.shared.plan;
        let is_hot = self.chance.random_range(0..100) < self.shared.hot_percent.load(Ordering::Relaxed);
        let recipient = match self.chance.random_range(0..1_000) {
            _ if is_hot => To::User(0),
            0..GROUP_PERMILLE => To::Group(self.chance.random_range(0..GROUPS)),
            GROUP_PERMILLE => To::All,
            _ => To::User(self.chance.random_range(0..plan.recipients)),
        };
        let is_replicated = plan.has_replicas && self.chance.random_range(0..10) == 0;
        let level = if is_replicated { Level::Replicated } else { Level::Stored };
        self.shared.recorder.record(What::Invoke { message: self.no(count), recipient, level });
        let padding_bytes = self.shared.padding_bytes.load(Ordering::Relaxed);
        let pending =
            Pending { recipient, level, begun: now, tries: 0, due: Some(now), may_be_stored: false, padding_bytes };
        self.pending.insert(count, pending);
        count
    }

    /// Writes one try. A batch that is full is written with the next tick.
    fn put(&mut self, frame: &mut String, count: u32, now: Instant) {
        let Some(pending) = self.pending.get_mut(&count) else { return };
        if frame.len() > BATCH_BYTES {
            return;
        }
        pending.due = None;
        pending.tries += 1;
        self.in_flight += 1;
        let id = format!("{}:{count}", self.index);
        let padding = "x".repeat(pending.padding_bytes);
        let _ = write!(frame, r#"{{"type":"send","id":"{id}","to":"{}","body":"{id} {padding}""#, pending.recipient);
        if pending.level == Level::Replicated {
            frame.push_str(r#","ack":"replicated""#);
        }
        if pending.tries > 1 {
            let age_ms = now.duration_since(pending.begun).as_millis();
            let _ = write!(frame, r#","retry":true,"age_ms":{age_ms}"#);
        }
        frame.push_str("},");
    }

    fn on_frame(&mut self, frame: &[u8]) {
        match fields::split_server(Encoding::Json, frame) {
            Ok(maps) => maps.iter().for_each(|map| self.on_map(map)),
            Err(error) => self.shared.counts.complain(format!("a sender cannot read a frame: {error:?}")),
        }
    }

    fn on_map(&mut self, map: &Fields<'_>) {
        // The usual case without building an owned event.
        if map.get("type").and_then(|kind| kind.text()).as_deref() == Some("sent") {
            let id = map.get("id").and_then(|raw| raw.text()).unwrap_or_default();
            return self.on_sent(&id);
        }
        match ServerEvent::from_fields(map) {
            ServerEvent::Error(error) => {
                let count = error.id.as_deref().and_then(|id| self.answered(id));
                match count {
                    Some(count) => self.on_error(count, &error.code, error.is_final, error.retry_ms),
                    None => self.shared.counts.complain(format!("an error that answers nothing: {error:?}")),
                }
            }
            ServerEvent::Bye(bye) => self.shared.counts.count(&format!("bye {}", bye.code)),
            _ => {}
        }
    }

    /// The count that an id stands for, if it was in flight; from here on it is not.
    fn answered(&mut self, id: &str) -> Option<u32> {
        let (sender, count) = id.split_once(':')?;
        let count: u32 = count.parse().ok().filter(|_| sender.parse() == Ok(self.index))?;
        let is_in_flight = self.pending.get(&count).is_some_and(|pending| pending.due.is_none());
        if is_in_flight {
            self.in_flight -= 1;
        }
        is_in_flight.then_some(count)
    }

    fn on_sent(&mut self, id: &str) {
        let Some(count) = self.answered(id) else {
            return self.shared.counts.complain(format!("`sent` for what is not in flight: {id}"));
        };
        if let Some(pending) = self.pending.remove(&count) {
            self.shared.recorder.record(What::Acked { message: self.no(count), level: pending.level });
            self.shared.counts.acked.fetch_add(1, Ordering::Relaxed);
            if pending.recipient == To::User(0) {
                self.shared.counts.acked_first.fetch_add(1, Ordering::Relaxed);
            }
            if pending.level == Level::Replicated {
                self.shared.counts.acked_replicated.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn on_error(&mut self, count: u32, code: &str, is_final: bool, retry_ms: Option<u64>) {
        let counts = &self.shared.counts;
        counts.count(code);
        let Some(pending) = self.pending.get_mut(&count) else { return };
        match code {
            "unavailable" | "overloaded" | "rate_limited" => {}
            "unknown_outcome" => {
                pending.may_be_stored = true;
                if pending.level == Level::Replicated {
                    counts.replicated_unknown.fetch_add(1, Ordering::Relaxed);
                    if pending.tries >= REPLICATED_TRIES {
                        pending.level = Level::Stored;
                    }
                }
            }
            other => counts.complain(format!("an answer that no fault explains: {other}")),
        }
        if is_final {
            counts.count("final");
            return self.end(count);
        }
        let pause_ms = retry_ms.unwrap_or(100).min(1_000);
        pending.due = Some(Instant::now() + Duration::from_millis(pause_ms));
    }

    /// The connection ended: nobody knows what became of what was in flight.
    fn lose_what_is_in_flight(&mut self) {
        for pending in self.pending.values_mut().filter(|pending| pending.due.is_none()) {
            pending.may_be_stored = true;
            pending.due = Some(Instant::now());
            self.shared.counts.unanswered.fetch_add(1, Ordering::Relaxed);
        }
        self.in_flight = 0;
    }

    fn give_up_what_is_old(&mut self) {
        let old = |pending: &Pending| pending.due.is_some() && pending.begun.elapsed() > GIVE_UP;
        let counts: Vec<u32> = self.pending.iter().filter(|(_, pending)| old(pending)).map(|(&n, _)| n).collect();
        counts.into_iter().for_each(|count| self.end(count));
    }

    fn end(&mut self, count: u32) {
        if let Some(pending) = self.pending.remove(&count) {
            let message = self.no(count);
            let refused = !pending.may_be_stored;
            self.shared.counts.count(if refused { "refused" } else { "given up" });
            self.shared.recorder.record(if refused { What::Refused { message } } else { What::GivenUp { message } });
        }
    }

    fn no(&self, count: u32) -> MessageNo {
        MessageNo { sender: self.index, count }
    }
}
