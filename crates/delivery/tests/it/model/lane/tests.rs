//! The whole space without a breach, and a breach for every rule that is taken away.

use super::*;
use crate::model::check::{caught, exhaust};
use crate::model::mutants;

/// One failover, and time for a deadline to pass.
const FAILOVER: Lane = Lane { failovers: 1, retries: 0, ticks: 2, ..SCOPE };

/// A master whose clock is behind by more than a deadline.
const BEHIND: Lane = Lane { messages: 1, retries: 1, asks: 2, ticks: 6, behind: 3, ..FAILOVER };

const BY_RECORD: Lane = Lane { by_record: true, ticks: 5, ..SCOPE };

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
fn a_failover_that_loses_what_was_answered() {
    exhaust("lane, failover", FAILOVER);
}

#[test]
fn a_failover_beside_three_messages() {
    exhaust("lane, failover, three messages", Lane { messages: 3, ticks: 0, ..FAILOVER });
}

#[test]
fn a_failover_and_an_ephemeral_message_beside_a_durable_one() {
    exhaust("lane, failover, ephemeral", Lane { ephemeral: 2, ..FAILOVER });
}

#[test]
fn a_failover_and_a_retry() {
    exhaust("lane, failover, retry", Lane { retries: 2, messages: 1, ..FAILOVER });
}

#[test]
fn two_failovers_and_writes_of_others() {
    exhaust("lane, two failovers", Lane { failovers: 2, others: 1, asks: 2, ticks: 1, ..FAILOVER });
}

#[test]
fn a_failover_and_a_process_that_starts_again() {
    exhaust("lane, failover, restart", Lane { restarts: 1, ..FAILOVER });
}

#[test]
fn askings_without_number_and_ledger() {
    exhaust("lane, by record", BY_RECORD);
}

#[test]
fn mutant_record_without_deadline() {
    mutant(Mutant::RecordWithoutDeadline, BY_RECORD, STORED_ONCE);
}

#[test]
fn mutant_record_not_searched() {
    mutant(Mutant::RecordNotSearched, BY_RECORD, STORED_ONCE);
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
fn mutant_no_mark() {
    caught("retry mark ignored", &Lane { rules: mutants::NO_MARK, ..SCOPE }, STORED_ONCE);
}

#[test]
fn mutant_no_wait() {
    let scope = Lane { wait: |_, _, _, _| None, messages: 1, ephemeral: 1, ..FAILOVER };
    caught("asked of another master at once", &scope, PUBLISHED_ONCE);
}

/// A deadline of the old master's clock is far ahead where the new one's is behind: an asking outlives the mark of a retry.
#[test]
fn mutant_no_wait_beside_a_clock_that_is_behind() {
    caught("asked of a master that is behind", &Lane { wait: |_, _, _, _| None, ..BEHIND }, STORED_ONCE);
}

#[test]
fn a_failover_to_a_master_whose_clock_is_behind() {
    exhaust("lane, failover, behind", BEHIND);
}

/// One asking that went to the old master is enough.
#[test]
fn mutant_wait_from_the_second_asking() {
    let wait = |asked: u32, is_other, now_us, deadline_us| {
        batch::wait_before(asked.saturating_sub(1), is_other, now_us, deadline_us)
    };
    caught("waits where two askings went out", &Lane { wait, messages: 1, ephemeral: 1, ..FAILOVER }, PUBLISHED_ONCE);
}

/// What the wait is not for: where the masters' clocks agree nothing durable is stored twice without it.
#[test]
fn without_the_wait_durable_messages_are_stored_once_all_the_same() {
    exhaust("lane, failover, no wait", Lane { wait: |_, _, _, _| None, ..FAILOVER });
}

fn mutant(mutant: Mutant, scope: Lane, property: &'static str) {
    caught(&format!("{mutant:?}"), &Lane { mutant: Some(mutant), ..scope }, property);
}

#[test]
fn mutant_ledger_by_node() {
    mutant(Mutant::LedgerByNode, Lane { restarts: 1, ..SCOPE }, SENT_IS_STORED);
}

#[test]
fn mutant_new_number() {
    mutant(Mutant::NewNumber, SCOPE, STORED_ONCE);
}

#[test]
fn mutant_deadline_renewed() {
    mutant(Mutant::DeadlineRenewed, Lane { messages: 1, ticks: 7, ..SCOPE }, STORED_ONCE);
}

#[test]
fn mutant_ephemeral_again() {
    mutant(Mutant::EphemeralAgain, Lane { ephemeral: 1, messages: 1, ..SCOPE }, PUBLISHED_ONCE);
}

#[test]
fn mutant_no_append_again() {
    mutant(Mutant::NoAppendAgain, FAILOVER, SENT_SURVIVES);
}

#[test]
fn mutant_append_again_late() {
    mutant(Mutant::AppendAgainLate, FAILOVER, IN_ORDER);
}

#[test]
fn mutant_append_again_unseen() {
    mutant(Mutant::AppendAgainUnseen, FAILOVER, STORED_ONCE);
}

#[test]
fn mutant_window_by_time() {
    mutant(Mutant::WindowByTime, FAILOVER, SENT_SURVIVES);
}

#[test]
fn mutant_old_marks() {
    mutant(Mutant::OldMarks, Lane { failovers: 2, others: 1, messages: 1, ..FAILOVER }, SENT_SURVIVES);
}

#[test]
fn mutant_question_late() {
    mutant(Mutant::QuestionLate, FAILOVER, SENT_SURVIVES);
}

#[test]
fn mutant_found_not_kept() {
    mutant(Mutant::FoundNotKept, Lane { retries: 2, messages: 1, ..FAILOVER }, SENT_SURVIVES);
}

#[test]
fn mutant_old_answers() {
    mutant(Mutant::OldAnswers, FAILOVER, SENT_SURVIVES);
}
