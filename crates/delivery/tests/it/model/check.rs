//! Runs the checker: to the end of the space, or to a counterexample.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::OnceLock;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// What a state's healing gave, worked out once a state for all properties. No part of the state's identity.
#[derive(Debug, Default)]
pub(super) struct Memo(OnceLock<u16>);

impl Memo {
    pub(super) fn get(&self, work: impl FnOnce() -> u16) -> u16 {
        *self.0.get_or_init(work)
    }
}

impl Clone for Memo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Memo {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Memo {}

impl Hash for Memo {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

/// Visits the whole space: every `always` holds everywhere, every `sometimes` was seen, nothing was left out.
pub(super) fn exhaust<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let properties = model.properties();
    // Neither a count nor a depth nor a time is set as a target: the checker ends with the space, or at a counterexample
    // of every property, which the loop below reports.
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!(
        "{name}: {} states, {} steps, depth {}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
    for property in &properties {
        match (&property.expectation, checker.discovery(property.name)) {
            (Expectation::Sometimes, None) => panic!("{name}: never seen: {}", property.name),
            (Expectation::Sometimes, Some(_)) | (_, None) => {}
            (_, Some(path)) => panic!("{name}: {}: {:#?}", property.name, path.into_actions()),
        }
    }
    assert!(checker.is_done(), "{name}: the space was not exhausted");
}

/// The checker has to find that this property does not hold.
pub(super) fn caught<M>(name: &str, model: &M, property: &'static str)
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let is_always = |p: &stateright::Property<M>| p.name == property && p.expectation == Expectation::Always;
    assert!(model.properties().iter().any(is_always), "no such property: {property}");
    // Level by level, so that the shortest counterexample is shown.
    let mut seen = 0;
    for depth in 2.. {
        let finish = HasDiscoveries::AllOf([property].into_iter().collect());
        let checker = model.clone().checker().finish_when(finish).target_max_depth(depth).spawn_bfs().join();
        if let Some(path) = checker.discovery(property) {
            println!("{name}: caught after {} steps: {:?}", depth - 2, path.into_actions());
            return;
        }
        assert!(checker.unique_state_count() > seen, "{name}: not caught in {seen} states");
        seen = checker.unique_state_count();
    }
}
