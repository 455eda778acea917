//! A receiver: one device of a recipient, over all its connections, with the cursors that a client keeps. It drops
//! nothing and joins nothing: every message frame becomes an event, also one that a client library would hide.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::Encoding;
use protocol::client::fields::{self, Fields};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use switchboard_client::socket::{Incoming, Socket};
use switchboard_client::wire::{ServerEvent, Welcome};
use tokio::time::{Instant, sleep};

use super::groups::{Answer, Way};
use super::link::{BUNDLE_FRAMES, open};
use super::roles;
use super::shared::Shared;
use super::streams::Streams;
use crate::history::{MessageNo, To, What};

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_millis(500);

/// Silent for this long: it asks with a `ping` whether the node is there.
const ASK_AFTER: Duration = Duration::from_secs(3);

/// Between two acknowledgements.
const ACK_EVERY: Duration = Duration::from_secs(5);

/// Senders write this much into a body, and no more than they are told to.
const FOREIGN: MessageNo = MessageNo { sender: u32::MAX, count: u32::MAX };

/// What somebody does by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Stays until the connection ends.
    Steady,
    /// Comes and goes.
    Commuter,
    /// Reads a little, then looks away.
    Slow,
}

/// How long a silent node is waited for: half of the clients are impatient.
const PATIENCE: [Duration; 2] = [Duration::from_secs(8), Duration::from_secs(40)];

pub(crate) struct Receiver {
    shared: Arc<Shared>,
    recipient: u32,
    device: u32,
    index: usize,
    habit: Habit,
    patience: Duration,
    chance: StdRng,
    streams: Streams,
    /// Into the groups that this device asks for.
    ways: Vec<Way>,
    front: usize,
}

/// Why a connection is left.
enum End {
    /// By the other side, or by silence.
    Lost { reconnect_ms: Option<u64> },
    /// By its own wish.
    Left,
}

/// One connection's life.
struct Session {
    number: u32,
    last_heard: Instant,
    pinged: bool,
    last_ack: Instant,
    leaves: Option<Instant>,
    bye: Option<(u16, Option<u64>)>,
}

impl Receiver {
    pub(crate) fn new(shared: Arc<Shared>, recipient: u32, device: u32, habit: Habit) -> Self {
        let seed = shared.plan.seed ^ (u64::from(recipient) << 16) ^ (u64::from(device) << 48) ^ 0x5eed;
        let mut chance = StdRng::seed_from_u64(seed);
        let front = chance.random_range(0..shared.fronts.len());
        let patience = PATIENCE[chance.random_range(0..PATIENCE.len())];
        let index = shared.enter(recipient);
        let asked = roles::of(recipient).into_iter().filter(|&(_, part)| roles::asks(part, device));
        let ways = asked.map(|(group, part)| Way::new(recipient, group, part)).collect();
        let streams = Streams::new(index, recipient);
        Self { shared, recipient, device, index, habit, patience, chance, streams, ways, front }
    }

    /// Goes on until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut backoff = Duration::from_millis(50);
        loop {
            let user = format!("r{}", self.recipient);
            let pause = match open(self.shared.fronts[self.front], &user, &self.hello()).await {
                Ok((mut socket, welcome, behind)) => {
                    backoff = Duration::from_millis(50);
                    let number = self.attached(&welcome);
                    let end = self.stay(&mut socket, number, &behind).await;
                    self.shared.stands(self.index, |place| {
                        place.session = None;
                        place.streams.clear();
                    });
                    self.shared.recorder.record(What::Detached { session: number });
                    self.ways.iter_mut().for_each(|way| way.lose(&self.shared.recorder));
                    self.after(end, socket).await
                }
                Err(no) => {
                    let code = no.code.unwrap_or_default();
                    self.shared.counts.count(&format!("unopened {code}"));
                    self.judge_code(code, &no.reason);
                    self.front = (self.front + 1) % self.shared.fronts.len();
                    backoff = (backoff * 2).min(Duration::from_secs(2));
                    no.reconnect_ms.map_or(backoff, Duration::from_millis)
                }
            };
            sleep(pause.mul_f64(self.chance.random_range(0.5..1.0))).await;
        }
    }

    fn hello(&mut self) -> Value {
        json!({"type": "hello", "device": format!("d{}", self.device), "batch": true, "from": "oldest",
            "cursors": self.streams.name()})
    }

    fn attached(&mut self, welcome: &Welcome) -> u32 {
        let session = self.shared.next_session();
        self.shared.counts.opened.fetch_add(1, Ordering::Relaxed);
        let Some(stream) = welcome.streams.first() else {
            self.shared.counts.complain(format!("a welcome without a stream: {welcome:?}"));
            return session;
        };
        let start = self.streams.start(&self.shared, session, stream);
        let (recipient, device, lost) = (self.recipient, self.device, stream.lost);
        self.shared.recorder.record(What::Attached { session, recipient, device, start, lost });
        self.ways.iter_mut().for_each(Way::begin_session);
        session
    }

    async fn stay(&mut self, socket: &mut Socket, number: u32, behind: &[ServerEvent]) -> End {
        let now = Instant::now();
        let leaves = (self.habit == Habit::Commuter)
            .then(|| now + Duration::from_millis(self.chance.random_range(4_000..20_000)));
        let mut session = Session { number, last_heard: now, pinged: false, last_ack: now, leaves, bye: None };
        for event in behind {
            self.on_event(&mut session, event);
        }
        let mut bundle = Vec::new();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = socket.drive_bundle(BUNDLE_FRAMES, &mut bundle) => {
                    session.last_heard = Instant::now();
                    session.pinged = false;
                    for incoming in bundle.drain(..) {
                        match incoming {
                            Incoming::Alive => {}
                            Incoming::Frame(frame) => self.on_frame(&mut session, &frame),
                            Incoming::Closed { code, reason } => {
                                let (code, reconnect_ms) = session.bye.unwrap_or((code.unwrap_or_default(), None));
                                self.shared.counts.count(&format!("closed {code}"));
                                self.judge_code(code, &reason);
                                return End::Lost { reconnect_ms };
                            }
                        }
                    }
                    if self.habit == Habit::Slow && !self.shared.all_online() {
                        let is_long = self.chance.random_range(0..40) == 0;
                        let pause_ms = if is_long { 1_000 } else { self.chance.random_range(0..200) };
                        sleep(Duration::from_millis(pause_ms)).await;
                    }
                }
                _ = look.tick() => {
                    if let Some(end) = self.on_look(&mut session, socket) {
                        return end;
                    }
                }
            }
        }
    }

    /// The clock: does it leave, is the node silent, is an acknowledgement due?
    fn on_look(&mut self, session: &mut Session, socket: &mut Socket) -> Option<End> {
        let now = Instant::now();
        if session.leaves.is_some_and(|leaves| leaves <= now) && !self.shared.all_online() {
            return Some(End::Left);
        }
        let silent = now.duration_since(session.last_heard);
        if silent > self.patience {
            self.shared.counts.count("silent");
            return Some(End::Lost { reconnect_ms: None });
        }
        let mut frames = Vec::new();
        if silent > ASK_AFTER && !session.pinged {
            session.pinged = true;
            frames.push(json!({"type": "ping", "id": "p"}));
        }
        if now.duration_since(session.last_ack) > ACK_EVERY {
            session.last_ack = now;
            frames.extend(self.streams.acks());
        }
        let is_ending = self.shared.all_online();
        for way in &mut self.ways {
            frames.extend(way.ask(self.streams.runs(way.of()), is_ending, &self.shared.recorder));
        }
        let lost = !frames.is_empty() && socket.queue(Value::Array(frames).to_string().into_bytes()).is_err();
        lost.then_some(End::Lost { reconnect_ms: None })
    }

    fn on_frame(&mut self, session: &mut Session, frame: &[u8]) {
        match fields::split_server(Encoding::Json, frame) {
            Ok(maps) => maps.iter().for_each(|map| self.on_map(session, map)),
            Err(error) => self.shared.counts.complain(format!("a receiver cannot read a frame: {error:?}")),
        }
    }

    fn on_map(&mut self, session: &mut Session, map: &Fields<'_>) {
        let text = |name: &str| map.get(name).and_then(|raw| raw.text());
        if text("type").as_deref() == Some("message") {
            let again = map.get("again").and_then(|raw| raw.bool()).unwrap_or_default();
            let (to, from, id, body) = (text("to"), text("from"), text("id"), text("body"));
            let parts = [&to, &from, &id, &body].map(|part| part.as_deref().unwrap_or_default());
            return self.on_message(session, parts, text("cursor").as_deref(), again);
        }
        self.on_event(session, &ServerEvent::from_fields(map));
    }

    fn on_event(&mut self, session: &mut Session, event: &ServerEvent) {
        match event {
            ServerEvent::Message(message) => {
                let body = serde_json::from_slice::<String>(message.body.raw()).unwrap_or_default();
                let parts = [&message.to, &message.from, &message.id, &body].map(String::as_str);
                self.on_message(session, parts, message.cursor.as_deref(), message.again);
            }
            ServerEvent::Stream(start) => {
                self.streams.start(&self.shared, session.number, start);
            }
            ServerEvent::Reset(reset) => {
                self.shared.counts.count(&format!("reset {}", reset.reason));
                let of = To::of_address(&reset.of);
                self.streams.reset(&self.shared, of, &reset.cursor);
                let (reason, lost) = (reset.reason.clone(), reset.lost);
                let of = (of != To::User(self.recipient)).then_some(of);
                self.shared.recorder.record(What::Reset { session: session.number, of, reason, lost });
            }
            ServerEvent::Done(done) => self.on_answer(session.number, &done.id, None),
            ServerEvent::Error(error) => match (&error.id, error.message.split(' ').nth(1)) {
                (Some(id), _) => {
                    self.shared.counts.count(&format!("membership {}", error.code));
                    self.on_answer(session.number, id, Some(&error.code));
                }
                // The opening named a group whose membership was over.
                (None, Some(of)) if error.message.starts_with("`cursors`: ") => {
                    self.streams.end(&self.shared, session.number, To::of_address(of));
                }
                // An acknowledgement of a group that another device has left met that on its way.
                (None, Some(of)) if error.message.starts_with("`of`: ") && of.starts_with("group:") => {
                    self.shared.counts.count("late acknowledgement");
                }
                (None, _) => self.shared.counts.complain(format!("an error that answers nothing: {error:?}")),
            },
            ServerEvent::MemberChange(change) => {
                let own = format!("r{}", self.recipient);
                if change.who.as_ref().is_some_and(|(user, joined)| *user == own && !joined) {
                    let of = To::of_address(&format!("group:{}", change.group));
                    self.streams.end(&self.shared, session.number, of);
                }
            }
            ServerEvent::Bye(bye) => {
                self.shared.counts.count(&format!("bye {}", bye.code));
                session.bye = Some((bye.code, bye.reconnect_ms));
            }
            ServerEvent::Pong { .. } => {}
            other => self.shared.counts.complain(format!("a receiver got {other:?}")),
        }
    }

    fn on_message(
        &mut self,
        session: &mut Session,
        [to, from, id, body]: [&str; 4],
        cursor: Option<&str>,
        again: bool,
    ) {
        let message = number(from, id, body).unwrap_or(FOREIGN);
        if message == FOREIGN {
            let at = session.number;
            self.shared.counts.complain(format!("session {at} got what nobody sent: from {from:?} id {id:?}"));
        }
        let to = To::of_address(to);
        self.shared.recorder.record(What::Delivered { session: session.number, message, to, again });
        self.shared.counts.delivered.fetch_add(1, Ordering::Relaxed);
        match cursor {
            Some(cursor) => self.streams.take(&self.shared, to, cursor),
            None => self.shared.counts.complain(format!("a message without a cursor: {id:?}")),
        }
    }

    fn on_answer(&mut self, session: u32, id: &str, error: Option<&str>) {
        for way in &mut self.ways {
            match way.answered(id, error, &mut self.chance, &self.shared.recorder) {
                Answer::Foreign => {}
                Answer::Taken => return,
                Answer::Left => return self.streams.end(&self.shared, session, way.of()),
            }
        }
        self.shared.counts.complain(format!("session {session}: an answer to nothing: {id:?} {error:?}"));
    }

    /// Leaves politely or not, and says how long to stay away.
    async fn after(&mut self, end: End, socket: Socket) -> Duration {
        match end {
            End::Left => {
                if self.chance.random_bool(0.5) {
                    socket.close(1000, Duration::from_secs(1)).await;
                }
                self.front = self.chance.random_range(0..self.shared.fronts.len());
                Duration::from_millis(self.chance.random_range(500..8_000))
            }
            End::Lost { reconnect_ms } => {
                self.front = (self.front + 1) % self.shared.fronts.len();
                Duration::from_millis(reconnect_ms.unwrap_or(300))
            }
        }
    }

    /// Codes that tell a client to stay away mean that it did something wrong; none of ours does.
    fn judge_code(&self, code: u16, reason: &str) {
        if (4_000..4_500).contains(&code) || matches!(code, 1002 | 1003 | 1007 | 1009 | 1011) {
            self.shared.counts.complain(format!("closed with {code}: {reason}"));
        }
    }
}

/// Reads `user:s3`, `3:17` and `3:17 padding` as message 17 of sender 3; all three have to agree.
fn number(from: &str, id: &str, body: &str) -> Option<MessageNo> {
    let (sender, count) = id.split_once(':')?;
    let is_whole = body.strip_prefix(id).is_some_and(|rest| rest.starts_with(' '));
    let is_his = from.strip_prefix("user:s") == Some(sender);
    let number = MessageNo { sender: sender.parse().ok()?, count: count.parse().ok()? };
    (is_whole && is_his).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_only_if_sender_id_and_body_agree() {
        assert_eq!(number("user:s3", "3:17", "3:17 xx"), Some(MessageNo { sender: 3, count: 17 }));
        for (from, id, body) in [("user:s4", "3:17", "3:17 "), ("user:s3", "3:17", "3:170 "), ("user:s3", "x", "x ")] {
            assert_eq!(number(from, id, body), None, "{from} {id} {body}");
        }
    }
}
