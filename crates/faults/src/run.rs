//! One run: a world is started, clients come, faults are inflicted, all is healed, everything comes to rest, and the judge
//! reads what happened.

pub(crate) mod recorder;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use protocol::Cursor;
use tokio::time::{Instant, sleep, timeout};

use self::recorder::Recorder;
use crate::check::{Rules, Verdict, judge};
use crate::history::{Event, To, What};
use crate::load::groups::Way;
use crate::load::shared::Place;
use crate::load::{Load, Plan, Shared, roles};
use crate::nemesis::{Fault, Stage};
use crate::schedule::{self, Schedule};
use crate::world::{Topology, World, WorldOptions, dump};

/// Messages flow for this long before the first fault and after the last one.
const QUIET: Duration = Duration::from_secs(4);

/// Until the first message is acknowledged.
const FLOWS_WITHIN: Duration = Duration::from_secs(30);

/// Until every receiver has reached its inbox's end; a position check alone may take 30 s.
const RESTS_WITHIN: Duration = Duration::from_secs(60);

/// Users that messages are spread over. Many, so that the search for a retry reaches back over a minute of an inbox.
const RECIPIENTS: u32 = 200;

const SENDERS: u32 = 6;

/// The number of that fault.
const EVICTION: u8 = 7;

/// What happens in a run.
#[derive(Clone, Debug)]
pub(crate) enum Course {
    /// One fault, and at least this many seconds of messages.
    Alone(&'static Fault, Duration),
    Schedule(Schedule),
}

#[derive(Clone, Debug)]
pub(crate) struct RunOptions {
    pub(crate) topology: Topology,
    pub(crate) course: Course,
    pub(crate) binary: PathBuf,
    pub(crate) seed: u64,
    pub(crate) rate: u32,
    /// Where the history is written.
    pub(crate) history: PathBuf,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) verdict: Verdict,
    pub(crate) seconds: u64,
    pub(crate) proof: String,
    /// The longest time in which no message at all was acknowledged.
    pub(crate) silence_ms: u64,
    /// What is wrong beside the verdict: a fault that did not bite, a broken protocol.
    pub(crate) complaints: Vec<String>,
    /// Errors, closes and resets that clients saw, by name.
    pub(crate) seen: String,
}

impl Done {
    pub(crate) fn is_good(&self) -> bool {
        self.verdict.is_valid() && self.complaints.is_empty()
    }
}

/// # Errors
/// The run itself failed: a process did not start, or nothing flowed. What the product did wrong is in [`Done`].
pub(crate) async fn run(options: &RunOptions) -> Result<Done> {
    let world = WorldOptions { topology: options.topology, binary: options.binary.clone(), args: Vec::new() };
    let world = Box::pin(World::start(&world)).await?;
    let recorder = Arc::new(Recorder::create(&options.history)?);
    let plan = Plan {
        senders: SENDERS,
        recipients: RECIPIENTS,
        rate: options.rate,
        has_replicas: options.topology.has_replicas() && !evicts(&options.course),
        seed: options.seed,
    };
    let fronts = world.seats.iter().map(|seat| seat.front.address()).collect();
    let shared = Arc::new(Shared::new(plan, Arc::clone(&recorder), fronts));
    let mut load = Load::start(Arc::clone(&shared)).await;
    let stage = Arc::new(Stage::new(world, Arc::clone(&shared), options.seed));
    wait_for_flow(&stage).await?;
    let begun = Instant::now();
    let mut complaints = Vec::new();
    let proof = inflict(&stage, options, &mut complaints).await;
    if let Err(error) = tokio::task::block_in_place(|| stage.world.with_servers(|servers| servers.wait_well())) {
        complaints.push(format!("the topology does not come to rest: {error:#}"));
    }
    if let Err(error) = load.finish_sending().await {
        complaints.push(format!("{error:#}"));
    }
    let seconds = begun.elapsed().as_secs();
    recorder.record(What::Healed);
    rest(&stage).await?;
    drop(load);
    complaints.extend(shared.counts.complaints());
    complaints.extend(panics(&stage).await);
    keep_logs(&stage, &options.history).await?;
    let events = recorder.finish()?;
    let rules = Rules {
        redis_may_lose: may_lose(&options.course, options.topology),
        redis_may_evict: evicts(&options.course),
        ..Rules::default()
    };
    let seen: Vec<String> = shared.counts.all_named().iter().map(|(name, count)| format!("{name}: {count}")).collect();
    Ok(Done {
        verdict: judge(&events, &rules),
        seconds,
        proof,
        silence_ms: longest_silence(&events),
        complaints,
        seen: seen.join(", "),
    })
}

/// What a master evicts its replicas drop too, so that `replicated` promises nothing there.
fn evicts(course: &Course) -> bool {
    matches!(course, Course::Alone(fault, _) if fault.number == EVICTION)
}

async fn wait_for_flow(stage: &Stage) -> Result<()> {
    let flows = async {
        while stage.load.counts.acked.load(Ordering::Relaxed) == 0 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    if timeout(FLOWS_WITHIN, flows).await.is_err() {
        let node = stage.world.seats[0].node().await;
        anyhow::bail!("no message is acknowledged\n{}", node.process().story());
    }
    Ok(())
}

/// What the run is about; gives the proofs, and adds what failed.
async fn inflict(stage: &Arc<Stage>, options: &RunOptions, complaints: &mut Vec<String>) -> String {
    let begun = Instant::now();
    match &options.course {
        Course::Alone(fault, at_least) => {
            sleep(QUIET).await;
            let bitten = Box::pin(stage.inflict(fault, fault.hold())).await;
            let rest = at_least.saturating_sub(begun.elapsed()).max(QUIET);
            sleep(rest).await;
            bitten.unwrap_or_else(|error| {
                complaints.push(format!("{error:#}"));
                String::new()
            })
        }
        Course::Schedule(course) => schedule::follow(stage, course, complaints).await,
    }
}

/// Waits until every receiver stands at the end of its streams and every watcher knows who is there, and writes down how long
/// the streams took, what Redis holds of them, and whom the groups have.
async fn rest(stage: &Stage) -> Result<()> {
    let begun = Instant::now();
    let inboxes = stage.world.with_servers(|servers| dump::dump(servers)).context("reading the inboxes")?;
    let (load, recorder) = (&stage.load, &stage.load.recorder);
    let mut told: BTreeSet<(usize, To)> = BTreeSet::new();
    let mut groups = BTreeMap::new();
    for round in 0.. {
        // Who joined a moment ago has nothing behind his place, if what is there was stored before.
        if round % 20 == 0 {
            groups = stage.world.with_servers(|servers| dump::members(servers)).context("reading the members")?;
        }
        let is_late = begun.elapsed() > RESTS_WITHIN;
        let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut are_all_told = true;
        for (number, place) in load.places().iter().enumerate() {
            for of in owed(place) {
                if told.contains(&(number, of)) {
                    continue;
                }
                let stands_at = if of == To::User(place.recipient) { Some(place.cursor) } else { stream(place, of) };
                let joined = of.group().and_then(|group| groups.get(&group)?.members.get(&place.recipient));
                let is_at_end = |inbox: &dump::Inbox, at: Option<Cursor>| {
                    let is_old = |at| joined.is_some_and(|&joined| inbox.has_nothing_behind(at, joined));
                    at == Some(inbox.end) || at.is_some_and(is_old)
                };
                let is_there = stands_at.is_some_and(|at| inboxes.get(&of).is_none_or(|inbox| is_at_end(inbox, at)));
                are_all_told &= is_there;
                if let Some(session) = place.session
                    && (is_there || is_late && stands_at.is_some())
                {
                    told.insert((number, of));
                    let of = (of != To::User(place.recipient)).then_some(of);
                    recorder.record(What::CaughtUp { session, of, ms: is_there.then_some(elapsed_ms) });
                }
            }
        }
        let do_views_agree = load.views.lock().unwrap_or_else(PoisonError::into_inner).agree();
        if is_late || are_all_told && do_views_agree {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    // Nothing may come behind the end.
    sleep(Duration::from_millis(500)).await;
    for (recipient, inbox) in inboxes {
        let dump::Inbox { trimmed, messages, mseqs, .. } = inbox;
        recorder.record(What::Log { recipient, trimmed, messages, mseqs });
    }
    let groups = stage.world.with_servers(|servers| dump::members(servers)).context("reading the members")?;
    for (group, dump::Membership { members, changes }) in groups {
        let members = members.into_keys().collect();
        recorder.record(What::Members { group, members, changes });
    }
    Ok(())
}

fn stream(place: &Place, of: To) -> Option<Option<Cursor>> {
    place.streams.get(&of).copied()
}

/// The streams that a device has now, and those that it ought to have.
fn owed(place: &Place) -> BTreeSet<To> {
    let groups = roles::of(place.recipient).into_iter().filter(|&(_, part)| Way::is_owed(part));
    let groups = groups.map(|(group, _)| To::Group(group));
    groups.chain([To::User(place.recipient), To::All]).chain(place.streams.keys().copied()).collect()
}

/// What the nodes that run at the end have logged, beside the history.
async fn keep_logs(stage: &Stage, history: &Path) -> Result<()> {
    for seat in &stage.world.seats {
        let log = seat.node().await.log().since(0);
        std::fs::write(history.with_extension(format!("{}.log", seat.name)), log)?;
    }
    Ok(())
}

/// A panic of a node is never right, whatever became of the messages.
async fn panics(stage: &Stage) -> Vec<String> {
    let mut all = Vec::new();
    for seat in &stage.world.seats {
        all.extend(seat.node().await.log().panics().into_iter().map(|line| format!("{}: {line}", seat.name)));
    }
    all
}

fn may_lose(course: &Course, topology: Topology) -> bool {
    match course {
        Course::Alone(fault, _) => fault.forgets_on.contains(&topology),
        // Somewhere in a schedule there is one that may.
        Course::Schedule(_) => true,
    }
}

fn longest_silence(events: &[Event]) -> u64 {
    let acked = events.iter().filter(|event| matches!(event.what, What::Acked { .. })).map(|event| event.at_us);
    let (mut last, mut longest) = (None, 0);
    for at_us in acked {
        longest = longest.max(at_us - last.unwrap_or(at_us));
        last = Some(at_us);
    }
    longest / 1_000
}
