//! A random schedule, from a seed: in each period some of the topology's faults, at random moments, beside each other where
//! they touch different things; a quarter of the periods is quiet.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::nemesis::{FAULTS, Fault, Stage};
use crate::world::Topology;

/// Faults begin in the first part of a period, so that they end in it, as a rule.
const BEGINS_WITHIN: Duration = Duration::from_secs(15);

pub(crate) const PERIOD: Duration = Duration::from_secs(30);

/// Faults of one period.
const FAULTS_MAX: usize = 4;

/// What happens when, fixed before the run begins.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) periods: Vec<Vec<Planned>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) fault: &'static Fault,
    /// Since the period began.
    pub(crate) after: Duration,
}

impl Schedule {
    pub(crate) fn random(topology: Topology, periods: usize, seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed ^ topology as u64);
        let faults: Vec<&'static Fault> = FAULTS.iter().filter(|fault| fault.is_scheduled_on(topology)).collect();
        let mut period = |n: usize| {
            // The first one is never quiet: a short schedule has few.
            if n > 0 && chance.random_range(0..4) == 0 {
                return Vec::new();
            }
            let count = chance.random_range(1..=FAULTS_MAX);
            let subset: Vec<&'static Fault> = faults.choose_multiple(&mut chance, count).copied().collect();
            let mut planned: Vec<Planned> = subset
                .into_iter()
                .map(|fault| Planned { fault, after: BEGINS_WITHIN.mul_f64(chance.random_range(0.05..1.0)) })
                .collect();
            planned.sort_by_key(|planned| planned.after);
            planned
        };
        Self { periods: (0..periods).map(&mut period).collect() }
    }

    pub(crate) fn describe(&self) -> String {
        let period = |faults: &Vec<Planned>| {
            let names: Vec<String> = faults.iter().map(|planned| planned.fault.number.to_string()).collect();
            if names.is_empty() { "quiet".to_owned() } else { names.join("+") }
        };
        self.periods.iter().map(period).collect::<Vec<_>>().join(", ")
    }
}

/// Follows a schedule to its end. Gives all proofs; what did not bite goes to `complaints`.
pub(crate) async fn follow(stage: &Arc<Stage>, schedule: &Schedule, complaints: &mut Vec<String>) -> String {
    let mut running = JoinSet::new();
    let mut proofs = Vec::new();
    for faults in &schedule.periods {
        let begun = Instant::now();
        for planned in faults {
            sleep_until(begun + planned.after).await;
            let (stage, fault) = (Arc::clone(stage), planned.fault);
            running.spawn(async move { (fault, Box::pin(stage.inflict(fault, fault.hold())).await) });
        }
        sleep_until(begun + PERIOD).await;
        // One that takes longer goes on beside the next period: its parts wait for it.
        while let Some(ended) = running.try_join_next() {
            proofs.push(ended);
        }
    }
    while let Some(ended) = running.join_next().await {
        proofs.push(ended);
    }
    let mut texts = Vec::new();
    for ended in proofs {
        match ended {
            Ok((fault, Ok(proof))) => texts.push(format!("{}: {proof}", fault.number)),
            Ok((_, Err(error))) => complaints.push(format!("{error:#}")),
            Err(error) => complaints.push(format!("a fault ended the runner: {error}")),
        }
    }
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_one_schedule_with_quiet_periods_and_only_what_the_topology_can_suffer() {
        for topology in Topology::ALL {
            let schedule = Schedule::random(topology, 400, 7);
            assert_eq!(schedule.describe(), Schedule::random(topology, 400, 7).describe());
            assert_ne!(schedule.describe(), Schedule::random(topology, 400, 8).describe());
            let quiet = schedule.periods.iter().filter(|faults| faults.is_empty()).count();
            assert!((60..140).contains(&quiet), "{quiet} of 400 are quiet");
            for planned in schedule.periods.iter().flatten() {
                assert!(planned.fault.is_scheduled_on(topology) && planned.fault.runs_on(topology), "{planned:?}");
            }
        }
    }
}
