//! The whole space without a breach, and a breach for every rule that is taken away.

use super::*;
use crate::model::check::{caught, exhaust};
use crate::model::mutants;

#[test]
fn three_messages_two_connections_a_failover_and_a_retry() {
    exhaust("link", Link { messages: 3, ..SCOPE });
}

#[test]
fn two_retries_and_first_tries_that_come_after_them() {
    exhaust("link, two retries", Link { retries: 2, late: true, ..SCOPE });
}

#[test]
fn batches_of_two_with_retries_in_them() {
    exhaust("link, batches", Link { messages: 3, connects: 1, late: true, batches: true, ..SCOPE });
}

#[test]
fn reads_that_take_time_and_connections_that_end_within_a_page() {
    exhaust("link, slow reads", Link { cuts: true, slow: true, ..SCOPE });
}

#[test]
fn a_client_that_takes_too_little_for_a_while() {
    exhaust("link, pauses", Link { pauses: true, slow: true, connects: 1, ..SCOPE });
}

#[test]
fn an_inbox_that_keeps_one_message() {
    exhaust("link, trimmed", Link { messages: 3, retries: 0, inbox_max: 1, cuts: true, slow: true, ..SCOPE });
}

#[test]
fn an_inbox_that_keeps_one_message_and_a_retry() {
    exhaust("link, trimmed, retry", Link { messages: 3, connects: 1, inbox_max: 1, ..SCOPE });
}

/// No mutant: a limit of the shipped rules, said in docs/model.md. A first try that arrives after its retry is looked for
/// only as far back as the inbox and the bound of the search go; a retry that lies behind them is stored a second time.
#[test]
fn known_limit_a_late_first_try_is_stored_again_where_its_retry_was_trimmed() {
    let scope = Link { messages: 3, connects: 1, inbox_max: 1, late: true, failover: false, ..SCOPE };
    caught("known limit: retry trimmed before its first try came", &scope, STORED_ONCE);
}

fn mutant(name: &str, rules: Rules, scope: Link, property: &'static str) {
    caught(name, &Link { rules, ..scope }, property);
}

#[test]
fn mutant_no_link() {
    mutant("no link", mutants::NO_LINK, SCOPE, NOT_LOST);
}

#[test]
fn mutant_over_a_gap() {
    mutant("over a gap", mutants::OVER_A_GAP, SCOPE, NOT_LOST);
}

#[test]
fn mutant_pause_forgets() {
    let scope = Link { pauses: true, slow: true, ..SCOPE };
    mutant("a pause forgets the read in flight", mutants::PAUSE_FORGETS, scope, ONE_READ);
}

#[test]
fn mutant_stamp_of_message() {
    mutant("stamp of the message", mutants::STAMP_OF_MESSAGE, Link { messages: 3, ..SCOPE }, NOT_LOST);
}

#[test]
fn mutant_numbers_only() {
    mutant("numbers only", mutants::NUMBERS_ONLY, SCOPE, NOT_LOST);
}

#[test]
fn mutant_check_by_number() {
    mutant("check by number", mutants::CHECK_BY_NUMBER, SCOPE, NOT_LOST);
}

#[test]
fn mutant_no_check() {
    mutant("no position check", mutants::NO_CHECK, SCOPE, NOT_LOST);
}

#[test]
fn mutant_coalesced() {
    mutant("coalesced pulls", mutants::COALESCED, SCOPE, NOT_LOST);
}

#[test]
fn mutant_no_base() {
    mutant("no base", mutants::NO_BASE, Link { inbox_max: 1, failover: false, ..SCOPE }, NOT_NEEDLESS);
}

#[test]
fn mutant_newest_only() {
    mutant("newest cursor only", mutants::NEWEST_ONLY, SCOPE, NOT_FAR);
}

#[test]
fn mutant_no_places() {
    mutant("a fork is compared with the cursor only", mutants::NO_PLACES, SCOPE, NOT_FAR);
}

#[test]
fn mutant_no_ids() {
    mutant("client keeps no ids", mutants::NO_IDS, SCOPE, NOT_TWICE);
}

#[test]
fn mutant_only_again() {
    mutant("client trusts `again`", mutants::ONLY_AGAIN, SCOPE, NOT_TWICE);
}

#[test]
fn mutant_no_search() {
    mutant("retries not searched", mutants::NO_SEARCH, SCOPE, STORED_ONCE);
}

#[test]
fn mutant_no_mark() {
    mutant("retry mark ignored", mutants::NO_MARK, Link { late: true, ..SCOPE }, STORED_ONCE);
}

#[test]
fn mutant_batch_not_compared() {
    mutant("batch not compared", mutants::BATCH_NOT_COMPARED, Link { batches: true, ..SCOPE }, STORED_ONCE);
}
