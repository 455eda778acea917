//! Histories of real nodes of which one rule was switched off: the judge has to reject each for exactly that. How they
//! were recorded is in `histories/README.md`.

use std::path::Path;

use super::*;
use crate::history::{To, What};
use crate::run::recorder::read;

fn recorded(name: &str) -> Vec<Event> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("histories").join(name).with_extension("jsonl");
    read(&path).expect("a recorded history")
}

fn judged(name: &str, rules: &Rules) -> Verdict {
    judge(&recorded(name), rules)
}

/// A tail that Redis lost belongs to these runs; what they break is something else.
const LOSES: Rules = Rules {
    redis_may_lose: true,
    redis_may_evict: false,
    stall_ms_max: STALL_MS_MAX,
    presence_ms_max: PRESENCE_MS_MAX,
};

/// What the faults of a run excuse.
fn rules_of(class: Class) -> Rules {
    if matches!(class, Class::LostReplicated | Class::MissingReset) { LOSES } else { Rules::default() }
}

#[test]
fn every_rule_that_was_switched_off_is_noticed_for_what_it_is() {
    for class in Class::ALL.into_iter().filter(|class| *class != Class::MembershipLost) {
        let verdict = judged(class.as_str(), &rules_of(class));
        assert_eq!(verdict.broken(), [class], "{}.jsonl\n{verdict}", class.as_str());
        let example = &verdict.found[&class].examples[0];
        // Of a queue only the node is known, and of a presence whose it is.
        let is_of_nobody = matches!(class, Class::QueueOverCap | Class::PresenceBack | Class::PresenceWrong);
        assert!(is_of_nobody || example.recipient.is_some(), "{example}");
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

/// Goal: what nodes cannot be made to do is noticed in a real history, too. Method: one line of a valid run is changed.
#[test]
fn a_run_with_groups_is_valid_and_every_line_of_it_counts() {
    let events = recorded("groups");
    let verdict = judge(&events, &Rules::default());
    assert!(verdict.is_valid(), "{verdict}");
    let n = &verdict.numbers;
    assert!(n.group_deliveries > 0 && n.joins > 1 && n.leaves > 0 && n.told > 0, "{verdict}");

    // A member is not in the record any more.
    let mut forgotten = events.clone();
    let members = forgotten.iter_mut().find_map(|event| match &mut event.what {
        What::Members { group: 0, members, .. } => Some(members),
        _ => None,
    });
    members.expect("the members of group 0").retain(|user| *user != 4);
    let verdict = judge(&forgotten, &Rules { redis_may_evict: true, ..Rules::default() });
    assert_eq!(verdict.broken(), [Class::MembershipLost], "{verdict}");

    // A member misses a message of his group.
    let sessions: Vec<u32> = events.iter().filter_map(session_of_member).collect();
    let is_his = |event: &Event| match event.what {
        What::Delivered { session, to, .. } => to == To::Group(0) && sessions.contains(&session),
        _ => false,
    };
    let missed = events.iter().position(is_his).expect("a message to group 0");
    let mut events = events;
    events.remove(missed);
    let verdict = judge(&events, &Rules::default());
    assert_eq!(verdict.broken(), [Class::Lost], "{verdict}");
}

fn session_of_member(event: &Event) -> Option<u32> {
    match event.what {
        What::Attached { session, recipient: 4, .. } => Some(session),
        _ => None,
    }
}
