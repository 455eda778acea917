//! The whole space without a breach, and a breach for every rule that is taken away.

use super::*;
use crate::model::check::{caught, exhaust};
use crate::model::mutants;

#[test]
fn two_messages_three_askings_and_a_retry() {
    exhaust("lane", SCOPE);
}

#[test]
fn three_messages_and_four_askings() {
    exhaust("lane, three messages", Lane { messages: 3, asks: 4, retries: 0, ..SCOPE });
}

#[test]
fn a_process_that_starts_again() {
    exhaust("lane, restart", Lane { restarts: 1, ..SCOPE });
}

#[test]
fn a_retry_and_a_first_try_later_than_its_mark() {
    exhaust("lane, long", Lane { messages: 1, asks: 3, ticks: 7, ..SCOPE });
}

#[test]
fn mutant_no_numbers() {
    caught("ledger without numbers", &Lane { decide: mutants::NO_NUMBERS, ..SCOPE }, STORED_ONCE);
}

#[test]
fn mutant_lower_runs() {
    caught("a lower number runs", &Lane { decide: mutants::LOWER_RUNS, ..SCOPE }, STORED_ONCE);
}

#[test]
fn mutant_deadline_first() {
    caught("the deadline before the number", &Lane { decide: mutants::DEADLINE_FIRST, ..SCOPE }, UNAVAILABLE_IS_NOT);
}

#[test]
fn mutant_no_deadline() {
    let scope = Lane { decide: mutants::NO_DEADLINE, messages: 1, ticks: 7, ..SCOPE };
    caught("no deadline", &scope, STORED_ONCE);
}

#[test]
fn mutant_ledger_by_node() {
    caught("ledger by node", &Lane { ledger_by_node: true, restarts: 1, ..SCOPE }, SENT_IS_STORED);
}

#[test]
fn mutant_new_number() {
    caught("asked again under a new number", &Lane { new_number: true, ..SCOPE }, STORED_ONCE);
}

#[test]
fn mutant_no_mark() {
    caught("retry mark ignored", &Lane { rules: mutants::NO_MARK, ..SCOPE }, STORED_ONCE);
}
