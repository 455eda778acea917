//! The whole space without a breach, and a breach for every rule that is taken away.

use super::*;
use crate::model::check::{caught, exhaust};

const FAILOVER: Table = Table { changes: 2, losses: 0, failover: true, ..SCOPE };

#[test]
fn joins_and_removals_beside_messages_and_something_that_is_lost() {
    exhaust("head", SCOPE);
}

#[test]
fn a_failover_that_loses_messages_and_changes() {
    exhaust("head, failover", FAILOVER);
}

#[test]
fn a_failover_beside_something_that_is_lost() {
    exhaust("head, failover and loss", Table { messages: 1, losses: 1, ..FAILOVER });
}

/// Alone as long as all others: `scripts/model` runs it.
#[test]
#[ignore = "half a minute of two cores"]
fn a_failover_beside_three_changes() {
    exhaust("head, failover and three changes", Table { messages: 1, changes: 3, ..FAILOVER });
}

fn without(mutant: Mutant, scope: Table, property: &'static str) {
    caught(&format!("{mutant:?}"), &Table { mutant: Some(mutant), ..scope }, property);
}

#[test]
fn mutant_changes_behind_what_is_handed_out() {
    without(Mutant::ChangesBehind, SCOPE, ONLY_MEMBERS);
}

#[test]
fn mutant_only_a_higher_number_is_another_one() {
    without(Mutant::OnlyHigher, FAILOVER, ONLY_MEMBERS);
}

#[test]
fn mutant_memberships_are_not_read() {
    without(Mutant::NoMemberships, FAILOVER, NOBODY_LINGERS);
}

#[test]
fn mutant_everybody_gets_everything() {
    without(Mutant::NoFilter, SCOPE, ONLY_MEMBERS);
}

#[test]
fn mutant_a_leave_ends_a_later_join() {
    without(Mutant::LeaveEndsAll, SCOPE, NOBODY_THROWN_OUT);
}

#[test]
fn mutant_a_newcomer_is_not_asked_about() {
    without(Mutant::NewcomerUnasked, SCOPE, ONLY_MEMBERS);
}

#[test]
fn mutant_a_page_goes_past_the_head() {
    without(Mutant::PagePastHead, SCOPE, ONLY_MEMBERS);
}

#[test]
fn mutant_a_members_read_names_places_of_the_head() {
    without(Mutant::PlacesOfOthers, FAILOVER, NOT_MISSED);
}

#[test]
fn mutant_another_join_is_not_told() {
    without(Mutant::NumberUntold, FAILOVER, NOT_MISSED);
}
