//! Visitors come and go; watchers, at both nodes, are told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use protocol::Encoding;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use switchboard_client::Online;
use switchboard_client::socket::{Incoming, Socket};
use switchboard_client::wire::{self, ServerEvent};
use tokio::time::{Instant, sleep, timeout};

use super::link::{BUNDLE_FRAMES, open};
use super::shared::Shared;
use crate::history::What;

pub(crate) const VISITORS: u32 = 24;

pub(crate) const WATCHERS: u32 = 4;

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_millis(250);

/// Silent for this long: it asks with a `ping`; for that long: it goes.
const ASK_AFTER: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(8);

/// Who is there, and who watchers think is there.
#[derive(Debug, Default)]
pub(crate) struct Views {
    here: BTreeMap<u32, bool>,
    /// Visitors who neither come nor go any more.
    settled: BTreeSet<u32>,
    told: BTreeMap<u32, BTreeMap<u32, (u64, bool)>>,
}

impl Views {
    /// Nobody comes or goes any more, and every watcher knows how everybody is.
    pub(crate) fn agree(&self) -> bool {
        let is_right = |told: &BTreeMap<u32, (u64, bool)>| {
            self.here.iter().all(|(visitor, here)| told.get(visitor).is_some_and(|(_, online)| online == here))
        };
        self.settled.len() == VISITORS as usize
            && self.told.len() == WATCHERS as usize
            && self.told.values().all(is_right)
    }
}

fn change(shared: &Shared, change: impl FnOnce(&mut Views)) {
    change(&mut shared.views.lock().unwrap_or_else(PoisonError::into_inner));
}

/// An open connection that listens, and asks when it is silent.
struct Line {
    socket: Socket,
    heard: Instant,
    is_asked: bool,
}

impl Line {
    fn new(socket: Socket) -> Self {
        Self { socket, heard: Instant::now(), is_asked: false }
    }

    /// What came within a moment; `None` when the connection is over.
    async fn listen(&mut self) -> Option<Vec<ServerEvent>> {
        let (mut bundle, mut events) = (Vec::new(), Vec::new());
        if timeout(LOOK, self.socket.drive_bundle(BUNDLE_FRAMES, &mut bundle)).await.is_ok() {
            (self.heard, self.is_asked) = (Instant::now(), false);
        }
        for incoming in bundle {
            match incoming {
                Incoming::Alive => {}
                Incoming::Frame(frame) => events.extend(wire::read(Encoding::Json, &frame).ok()?),
                Incoming::Closed { .. } => return None,
            }
        }
        let silent = self.heard.elapsed();
        if silent > ASK_AFTER && !self.is_asked {
            self.is_asked = true;
            self.socket.queue(json!({"type": "ping", "id": "p"}).to_string().into_bytes()).ok()?;
        }
        (silent < PATIENCE).then_some(events)
    }
}

/// Comes and goes. At the end the even ones stay; the others show themselves at each node, so that none of them keeps a
/// place that a failover brought back, and go.
pub(super) async fn visit(shared: Arc<Shared>, visitor: u32) {
    let mut chance = StdRng::seed_from_u64(shared.plan.seed ^ (u64::from(visitor) << 16) ^ 0x0715);
    let stays = visitor.is_multiple_of(2);
    let mut shown_at = BTreeSet::new();
    loop {
        let is_ending = shared.all_online();
        let front = (0..shared.fronts.len()).find(|front| is_ending && !stays && !shown_at.contains(front));
        if is_ending && !stays && front.is_none() {
            change(&shared, |views| views.settled.extend([visitor]));
            return;
        }
        let front = front.unwrap_or_else(|| chance.random_range(0..shared.fronts.len()));
        let hello = json!({"type": "hello", "device": "d", "batch": true});
        let Ok((socket, ..)) = open(shared.fronts[front], &format!("v{visitor}"), &hello).await else {
            sleep(Duration::from_millis(chance.random_range(200..600))).await;
            continue;
        };
        if is_ending {
            shown_at.insert(front);
        }
        here(&shared, visitor, true);
        let leaves = Instant::now() + Duration::from_millis(chance.random_range(2_000..12_000));
        let mut line = Line::new(socket);
        let is_lost = loop {
            let now_ends = shared.all_online();
            if now_ends && stays {
                change(&shared, |views| views.settled.extend([visitor]));
            }
            // At the end a visit of somebody who goes is short.
            let is_over = if now_ends { !stays } else { leaves <= Instant::now() };
            if is_over || line.listen().await.is_none() {
                break !is_over;
            }
        };
        if !is_lost && chance.random_bool(0.5) {
            line.socket.close(1000, Duration::from_millis(500)).await;
        } else {
            drop(line);
        }
        here(&shared, visitor, false);
        let pause_ms = if is_lost || shared.all_online() { 100..500 } else { 500..9_000 };
        sleep(Duration::from_millis(chance.random_range(pause_ms))).await;
    }
}

fn here(shared: &Shared, visitor: u32, online: bool) {
    shared.recorder.record(What::Here { visitor, online });
    change(shared, |views| views.here.extend([(visitor, online)]));
}

/// Watches all visitors, and now and then from a new connection.
pub(super) async fn watch(shared: Arc<Shared>, watcher: u32) {
    let mut chance = StdRng::seed_from_u64(shared.plan.seed ^ (u64::from(watcher) << 16) ^ 0x0a7c);
    let mut front = watcher as usize % shared.fronts.len();
    loop {
        let hello = json!({"type": "hello", "batch": true});
        if let Ok((socket, _, behind)) = open(shared.fronts[front], &format!("w{watcher}"), &hello).await {
            let session = shared.next_session();
            shared.recorder.record(What::Watches { watcher, session });
            change(&shared, |views| views.told.extend([(watcher, BTreeMap::new())]));
            let leaves = Instant::now() + Duration::from_millis(chance.random_range(15_000..40_000));
            let mut listening = Listening { watcher, session, is_asked: false, ask_at: Instant::now() };
            let mut line = Line::new(socket);
            listening.on_events(&shared, &behind);
            while leaves > Instant::now() || shared.all_online() {
                if listening.is_due() && line.socket.queue(request()).is_err() {
                    break;
                }
                let Some(events) = line.listen().await else { break };
                listening.on_events(&shared, &events);
            }
        }
        front = (front + 1) % shared.fronts.len();
        sleep(Duration::from_millis(chance.random_range(100..600))).await;
    }
}

fn request() -> Vec<u8> {
    let users: Vec<String> = (0..VISITORS).map(|visitor| format!("v{visitor}")).collect();
    json!({"type": "watch", "id": "w", "users": users}).to_string().into_bytes()
}

/// One connection of a watcher.
struct Listening {
    watcher: u32,
    session: u32,
    is_asked: bool,
    ask_at: Instant,
}

impl Listening {
    /// Asks once, and again when that was refused.
    fn is_due(&mut self) -> bool {
        let is_due = !self.is_asked && self.ask_at <= Instant::now();
        self.is_asked |= is_due;
        is_due
    }

    fn on_events(&mut self, shared: &Shared, events: &[ServerEvent]) {
        for event in events {
            match event {
                ServerEvent::PresenceChange(change) => {
                    self.told(shared, &change.user, change.is_online, change.version, false);
                }
                ServerEvent::Done(done) => match &done.online {
                    Some(Online::Each(users)) => {
                        users.iter().for_each(|(user, p)| self.told(shared, user, p.is_online, p.version, true));
                    }
                    other => shared.counts.complain(format!("a watcher was answered {other:?}")),
                },
                ServerEvent::Error(error) if error.id.as_deref() == Some("w") => {
                    shared.counts.count(&format!("watch {}", error.code));
                    (self.is_asked, self.ask_at) = (false, Instant::now() + Duration::from_millis(500));
                }
                _ => {}
            }
        }
    }

    fn told(&self, shared: &Shared, user: &str, online: bool, version: u64, is_answer: bool) {
        let Some(visitor) = user.strip_prefix('v').and_then(|number| number.parse().ok()) else {
            return shared.counts.complain(format!("a watcher was told of {user}, whom he does not watch"));
        };
        let (watcher, session) = (self.watcher, self.session);
        shared.recorder.record(What::Told { watcher, session, visitor, online, version, is_answer });
        change(shared, |views| {
            let told = views.told.entry(watcher).or_default().entry(visitor).or_insert((version, online));
            if version >= told.0 {
                *told = (version, online);
            }
        });
    }
}
