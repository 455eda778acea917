//! The whole space without a breach, and a breach for every rule that is taken away.

use super::*;
use crate::model::check::{caught, exhaust};
use crate::model::mutants;

#[test]
fn two_messages_and_three_connections() {
    exhaust("attach", SCOPE);
}

#[test]
fn one_connection_that_leaves_and_joins_again() {
    exhaust("attach, rejoins", Attach { rejoins: true, ..SCOPE });
}

#[test]
fn a_failover_that_loses_locations() {
    exhaust("attach, failover", Attach { connects: 2, failover: true, ..SCOPE });
}

#[test]
fn mutant_attach_in_two_steps() {
    caught("attach in two steps", &Attach { in_two_steps: true, ..SCOPE }, PROMPT);
}

#[test]
fn mutant_attach_in_two_steps_without_a_check() {
    let scope = Attach { in_two_steps: true, rules: mutants::NO_CHECK, ..SCOPE };
    caught("attach in two steps, no position check", &scope, NOT_LOST);
}

#[test]
fn mutant_late_attach_stays() {
    caught("a late attach leaves a ghost", &Attach { keeps_ghosts: true, ..SCOPE }, NO_GHOST);
}

#[test]
fn mutant_detach_by_user() {
    caught("detach by user", &Attach { rules: mutants::DETACH_BY_USER, ..SCOPE }, ROUTED);
}

#[test]
fn mutant_detach_of_a_lower_number() {
    let scope = Attach { rules: mutants::DETACH_LOWER, rejoins: true, ..SCOPE };
    caught("detach with a lower number", &scope, ROUTED);
}

#[test]
fn mutant_attach_of_a_lower_number() {
    let scope = Attach { rules: mutants::ATTACH_LOWER, rejoins: true, ..SCOPE };
    caught("attach with a lower number", &scope, ROUTED);
}

#[test]
fn mutant_verify_does_not_restore() {
    let scope = Attach { rules: mutants::NO_RESTORE, failover: true, ..SCOPE };
    caught("verify does not restore", &scope, ROUTED_AFTER_CHECK);
}

#[test]
fn mutant_no_check() {
    caught("no position check", &Attach { rules: mutants::NO_CHECK, ..SCOPE }, NOT_LOST);
}
