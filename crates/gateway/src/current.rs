//! The generations in use, for everybody who asks the backplane: one for each slot group.

use std::sync::Arc;
use std::time::Duration;

use backplane::Commands;
use parking_lot::{Mutex, RwLock};
use routing::{SlotGroup, Topology};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long nobody is told that the backplane is away: most generations are followed by the next within milliseconds.
const GRACE: Duration = Duration::from_millis(1_000);

/// What two masters' clocks may differ by where nobody has seen both: the step that a fleet's clocks are held to.
const UNKNOWN_STEP_US: u64 = 60_000_000;

/// One slot group.
#[derive(Debug, Default)]
struct Place {
    /// Of those that have it, the newest last: the old master's and the new one's may overlap.
    commands: Vec<Commands>,
    /// Since when there are none.
    down_since: Option<Instant>,
    /// The backplane's clock at the end of the last generation, and when that was.
    clock_then: Option<(u64, Instant)>,
    /// When the first generation began.
    first: Option<Instant>,
    /// What the clocks of this node's masters differed by, all together.
    steps_us: u64,
}

/// The commands of the present generations; none between two.
#[derive(Debug)]
pub(crate) struct Current {
    topology: Topology,
    places: Vec<Mutex<Place>>,
    /// Each generation once, the oldest first. Every input of a connection asks for the time: that must not search.
    all: RwLock<Vec<Commands>>,
    /// Counts the generations that began or ended.
    began: watch::Sender<u64>,
}

impl Current {
    pub(crate) fn new(topology: Topology) -> Self {
        let places = topology.groups().map(|_| Mutex::default()).collect();
        Self { topology, places, all: RwLock::default(), began: watch::Sender::new(0) }
    }

    pub(crate) fn group(&self, record: &str) -> SlotGroup {
        self.topology.group(record)
    }

    pub(crate) fn group_count(&self) -> usize {
        self.places.len()
    }

    /// Changes when a generation begins, or leaves its place to another one.
    pub(crate) fn began(&self) -> watch::Receiver<u64> {
        self.began.subscribe()
    }

    fn place(&self, group: SlotGroup) -> &Mutex<Place> {
        &self.places[usize::from(group.0)]
    }

    pub(crate) fn get(&self, group: SlotGroup) -> Option<Commands> {
        self.place(group).lock().commands.last().cloned()
    }

    /// A generation begins for its slot groups.
    pub(crate) fn set(&self, commands: &Commands) {
        let now = Instant::now();
        for &group in commands.groups() {
            let mut place = self.place(group).lock();
            let ended = place.clock_then.take().map(|(us, then)| us.saturating_add(micros(now - then)));
            if let Some(expected) = place.commands.last().map(|held| held.now_us()).or(ended) {
                place.steps_us = place.steps_us.saturating_add(commands.now_us().abs_diff(expected));
            }
            place.first.get_or_insert(now);
            place.down_since = None;
            place.commands.push(commands.clone());
        }
        if !commands.groups().is_empty() {
            self.all.write().push(commands.clone());
        }
        self.began.send_modify(|count| *count += 1);
    }

    /// A generation ended. A group that another one has as well is left to that, whichever of them began first.
    pub(crate) fn clear(&self, commands: &Commands) {
        let now = Instant::now();
        let is_other = |held: &Commands| !Arc::ptr_eq(held, commands);
        self.all.write().retain(is_other);
        for &group in commands.groups() {
            let mut place = self.place(group).lock();
            let held = place.commands.len();
            place.commands.retain(is_other);
            if held > 0 && place.commands.is_empty() {
                place.down_since = Some(now);
                place.clock_then = Some((commands.now_us(), now));
            }
        }
        // Whoever waits for another one may have it now.
        self.began.send_modify(|count| *count += 1);
    }

    /// How far a stamp of a message of this age may be from where the present master's clock would put it: what this
    /// node's masters differed by, and what nobody knows where the message is older than what this node has seen.
    pub(crate) fn clock_step_us(&self, group: SlotGroup, age_us: u64) -> u64 {
        let place = self.place(group).lock();
        let known_us = place.first.map_or(0, |first| micros(first.elapsed()));
        place.steps_us.saturating_add(if age_us >= known_us { UNKNOWN_STEP_US } else { 0 })
    }

    /// How much of the grace is left while there are no commands.
    fn grace(&self, group: SlotGroup) -> Duration {
        self.place(group).lock().down_since.map_or(Duration::ZERO, |since| GRACE.saturating_sub(since.elapsed()))
    }

    /// True unless this group has been away for longer than a moment.
    pub(crate) fn is_near(&self, group: SlotGroup) -> bool {
        let place = self.place(group).lock();
        !place.commands.is_empty() || place.down_since.is_some_and(|since| since.elapsed() < GRACE)
    }

    /// The commands; between two generations that follow each other closely, those of the next.
    pub(crate) async fn soon(&self, group: SlotGroup) -> Option<Commands> {
        match self.get(group) {
            Some(commands) => Some(commands),
            None => self.wait(group, self.grace(group)).await,
        }
    }

    /// True if any part of the backplane is there: in a cluster most users are served while one master is away.
    pub(crate) fn is_up(&self) -> bool {
        !self.all.read().is_empty()
    }

    /// True if every part has been there once and some are now.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_up() && self.places.iter().all(|place| place.lock().first.is_some())
    }

    /// How many slot groups have a generation, of how many.
    pub(crate) fn share_up(&self) -> f64 {
        let up = self.places.iter().filter(|place| !place.lock().commands.is_empty()).count();
        #[allow(clippy::cast_precision_loss, reason = "at most 1,024")]
        let share = up as f64 / self.places.len() as f64;
        share
    }

    /// Each generation once.
    pub(crate) fn all(&self) -> Vec<Commands> {
        self.all.read().clone()
    }

    /// The backplane's clock; none between two generations.
    pub(crate) fn now_us(&self) -> Option<u64> {
        self.all.read().first().map(|commands| commands.now_us())
    }

    /// Waits until there are commands, at most so long.
    pub(crate) async fn wait(&self, group: SlotGroup, within: Duration) -> Option<Commands> {
        self.wait_for(group, within, |_| true).await
    }

    /// Waits for other commands than these, whose master no longer has the group, for as long as the grace.
    pub(crate) async fn next_after(&self, group: SlotGroup, these: &Commands) -> Option<Commands> {
        self.wait_for(group, GRACE, |commands| !Arc::ptr_eq(commands, these)).await
    }

    async fn wait_for(
        &self,
        group: SlotGroup,
        within: Duration,
        is_meant: impl Fn(&Commands) -> bool,
    ) -> Option<Commands> {
        let mut began = self.began.subscribe();
        let wait = async {
            loop {
                if let Some(commands) = self.get(group).filter(&is_meant) {
                    return commands;
                }
                if began.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(within, wait).await.ok()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asker::tests::fake::{Fake, Mode};
    use routing::{Layout, Settings};

    fn current() -> Current {
        let settings = Settings { partitions: 4, layout: Layout::Cluster, ..Settings::default() };
        Current::new(Topology::new(settings).unwrap())
    }

    fn generation(groups: &[u16], now_us: u64) -> Commands {
        Arc::new(Fake { now_us, ..Fake::of(groups.iter().copied().map(SlotGroup), Mode::Answers) })
    }

    /// A generation that was long in coming begins after its slot has gone to another master, and ends at once. It took
    /// the slot from that one, which had no reason to begin again: nobody could ask for these records any more.
    #[test]
    fn a_late_generation_of_the_old_master_takes_nothing_with_it() {
        let (current, group) = (current(), SlotGroup(1));
        let (old, new) = (generation(&[0, 1], 0), generation(&[1, 2], 0));
        current.set(&new);
        current.set(&old);
        current.clear(&old);
        assert!(current.get(group).is_some_and(|held| Arc::ptr_eq(&held, &new)));
        assert!(current.get(SlotGroup(0)).is_none() && current.is_up());
        current.clear(&new);
        assert!(current.get(group).is_none() && !current.is_up() && current.all().is_empty());
    }

    /// A slot's new master may begin before the old one has ended: its clock is compared all the same, or a retry would be
    /// searched for too near.
    #[test]
    fn the_step_between_two_masters_that_overlap_is_known() {
        let (current, group) = (current(), SlotGroup(1));
        let (old, new) = (generation(&[0, 1], 50_000_000), generation(&[1], 20_000_000));
        current.set(&old);
        current.set(&new);
        current.clear(&old);
        assert_eq!(current.steps_us(group), 30_000_000);
        assert_eq!(current.steps_us(SlotGroup(0)), 0);
    }

    #[test]
    fn the_time_is_that_of_the_oldest_generation_whatever_it_has() {
        let current = current();
        assert_eq!(current.now_us(), None);
        let (first, second) = (generation(&[3], 7), generation(&[0], 9));
        current.set(&first);
        current.set(&second);
        assert_eq!((current.now_us(), current.all().len()), (Some(7), 2));
        current.clear(&first);
        assert_eq!(current.now_us(), Some(9));
        current.set(&generation(&[], 1));
        assert_eq!(current.all().len(), 1, "one that has no records is asked for none");
    }

    impl Current {
        fn steps_us(&self, group: SlotGroup) -> u64 {
            self.place(group).lock().steps_us
        }
    }
}
