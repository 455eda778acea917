//! Histories of real nodes of which one rule was switched off: the judge has to reject each for exactly that. How they
//! were recorded is in `histories/README.md`.

use std::path::Path;

use super::*;
use crate::run::recorder::read;

fn judged(name: &str, rules: &Rules) -> Verdict {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("histories").join(name).with_extension("jsonl");
    judge(&read(&path).expect("a recorded history"), rules)
}

/// A tail that Redis lost belongs to these runs; what they break is something else.
const LOSES: Rules = Rules { redis_may_lose: true, stall_ms_max: STALL_MS_MAX };

/// What the faults of a run excuse.
fn rules_of(class: Class) -> Rules {
    if matches!(class, Class::LostReplicated | Class::MissingReset) { LOSES } else { Rules::default() }
}

#[test]
fn every_rule_that_was_switched_off_is_noticed_for_what_it_is() {
    for class in Class::ALL {
        let verdict = judged(class.as_str(), &rules_of(class));
        assert_eq!(verdict.broken(), [class], "{}.jsonl\n{verdict}", class.as_str());
        let example = &verdict.found[&class].examples[0];
        // Of a queue only the node is known.
        assert!(class == Class::QueueOverCap || example.recipient.is_some(), "{example}");
    }
}

#[test]
fn a_run_with_all_rules_on_is_valid_through_a_failover_that_lost_its_tail() {
    let verdict = judged("valid", &LOSES);
    assert!(verdict.is_valid(), "{verdict}");
    assert!(verdict.numbers.resets.values().sum::<u64>() > 0 && verdict.numbers.again > 0, "{verdict}");
    // What lies behind a lost tail comes again, and only a run that may lose is excused.
    assert!(verdict.numbers.restored == 0 || !judged("valid", &Rules::default()).is_valid(), "{verdict}");
}
