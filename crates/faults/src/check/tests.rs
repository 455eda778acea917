//! For each class a history that has to be rejected for exactly that class, and its neighbours that have to be accepted.

mod groups;
mod tale;

use super::*;
use crate::history::{Level, MessageNo, To, What};
use tale::{ME, Tale};

const LOSES: Rules = Rules {
    redis_may_lose: true,
    redis_may_evict: false,
    stall_ms_max: STALL_MS_MAX,
    presence_ms_max: PRESENCE_MS_MAX,
};

fn strict(tale: &Tale) -> Verdict {
    judge(&tale.events, &Rules::default())
}

fn lenient(tale: &Tale) -> Verdict {
    judge(&tale.events, &LOSES)
}

fn assert_only(class: Class, verdict: &Verdict) {
    assert_eq!(verdict.broken(), [class], "{verdict}");
    assert!(verdict.problems.is_empty() && !verdict.is_valid(), "{verdict}");
    let examples = &verdict.found[&class].examples;
    assert!(!examples.is_empty() && examples.len() <= 10 && !examples[0].says.is_empty(), "{verdict}");
}

fn assert_valid(verdict: &Verdict) {
    assert!(verdict.is_valid(), "{verdict}");
}

#[test]
fn a_run_without_faults_is_valid_and_counted() {
    let tale = Tale::begun().sent(1).replicated(2).came(1, &[1, 2]).given_up(3).came(1, &[3]).refused(4);
    let tale = tale.rested(1).log(&[1, 2, 3]);
    let verdict = strict(&tale);
    assert_valid(&verdict);
    let n = &verdict.numbers;
    assert_eq!((n.attempts, n.acked_stored, n.acked_replicated, n.refused, n.given_up), (4, 1, 1, 1, 1));
    assert_eq!((n.delivered, n.deliveries, n.recovered, n.again, n.restored), (3, 3, 1, 0, 0));
    assert_eq!((n.sessions, n.devices, n.caught_up, n.catch_up_ms, n.retained), (1, 1, 1, 20, 3));
    // Message 1 was acknowledged at 3 ms and came at 6 ms.
    assert_eq!(n.longest_stall_ms, 3);
}

/// One that was `stored` first and `replicated` by a later try is promised as replicated.
#[test]
fn the_higher_of_two_acks_is_the_promise() {
    let tale = Tale::begun().sent(1).acked(1, Level::Replicated).acked(1, Level::Stored).came(1, &[1]).rested(1);
    let verdict = strict(&tale.clone().log(&[1]));
    assert_valid(&verdict);
    assert_eq!((verdict.numbers.acked_stored, verdict.numbers.acked_replicated), (0, 1));
    let verdict = lenient(&tale.log(&[]));
    assert_eq!(verdict.count(Class::LostReplicated), 1, "{verdict}");
}

#[test]
fn events_that_were_written_out_of_order_are_judged_in_order() {
    let mut tale = Tale::begun().sent(1).sent(2).came(1, &[1, 2]).rested(1).log(&[1, 2]);
    tale.events.reverse();
    assert_valid(&strict(&tale));
}

#[test]
fn what_the_log_keeps_and_a_device_missed_is_lost() {
    let tale = Tale::begun().sent(1).sent(2).sent(3).came(1, &[1, 3]).rested(1).log(&[1, 2, 3]);
    let verdict = strict(&tale);
    assert_only(Class::Lost, &verdict);
    let said = verdict.found[&Class::Lost].examples[0].to_string();
    assert!(said.contains("message 0-2") && said.contains("0-1 (came), behind it 0-3 (came)"), "{said}");
    assert_only(Class::Lost, &lenient(&tale));
    // The last one is missing, and nobody came after it.
    assert_only(Class::Lost, &strict(&Tale::begun().sent(1).sent(2).came(1, &[1]).rested(1).log(&[1, 2])));
    // Nobody had an answer for it; it is in the log all the same, and others came behind it.
    let tale = Tale::begun().sent(1).given_up(2).sent(3).came(1, &[1, 3]).rested(1);
    assert_only(Class::Lost, &strict(&tale.clone().log(&[1, 2, 3])));
    // Near: it was not stored; or so late that the session had been asked before.
    assert_valid(&strict(&tale.clone().log(&[1, 3])));
    assert_valid(&strict(&tale.log(&[1, 3, 2])));
}

/// A gap is a gap for a second device too, also over a session that ended, and for one that left.
#[test]
fn every_device_is_owed_what_the_log_keeps() {
    let both = Tale::begun().attached_as(2, 1, "new", None).sent(1).sent(2).sent(3).came(1, &[1, 2, 3]).rested(1);
    assert_only(Class::Lost, &strict(&both.clone().came(2, &[1, 3]).rested(2).log(&[1, 2, 3])));
    assert_only(Class::Lost, &strict(&both.clone().came(2, &[1, 3]).detached(2).log(&[1, 2, 3])));
    assert_valid(&strict(&both.clone().came(2, &[1]).detached(2).log(&[1, 2, 3])));
    let resumed = both.came(2, &[1]).detached(2).attached_as(3, 1, "resumed", None);
    assert_valid(&strict(&resumed.clone().came(3, &[2, 3]).rested(3).log(&[1, 2, 3])));
    assert_only(Class::Lost, &strict(&resumed.came(3, &[3]).rested(3).log(&[1, 2, 3])));
}

/// A stream starts where its client says; what came before is not owed. What is asked for afterwards is.
#[test]
fn who_comes_late_is_owed_what_comes_later() {
    let tale = Tale::begun().sent(1).sent(2).came(1, &[1, 2]).attached_as(2, 1, "new", None).sent(3).came(1, &[3]);
    assert_valid(&strict(&tale.clone().came(2, &[3]).rested(1).rested(2).log(&[1, 2, 3])));
    // From the oldest: everything, marked or not, and then no gap.
    assert_valid(&strict(&tale.clone().came(2, &[1, 2, 3]).rested(1).rested(2).log(&[1, 2, 3])));
    assert_only(Class::Lost, &strict(&tale.clone().came(2, &[1, 3]).rested(1).rested(2).log(&[1, 2, 3])));
    assert_only(Class::Lost, &strict(&tale.rested(1).rested(2).log(&[1, 2, 3])));
}

/// A device that forgets where it was starts anew: the messages between are not owed, and old ones may come again.
#[test]
fn a_second_start_as_new_remembers_nothing() {
    let tale = Tale::begun().sent(1).came(1, &[1]).detached(1).sent(2).attached(2, "new").sent(3);
    assert_valid(&strict(&tale.clone().came(2, &[3]).rested(2).log(&[1, 2, 3])));
    assert_valid(&strict(&tale.came(2, &[1, 2, 3]).rested(2).log(&[1, 2, 3])));
}

#[test]
fn what_was_replicated_stays() {
    let tale = Tale::begun().sent(1).replicated(2).sent(3).came(1, &[1, 3]).rested(1);
    assert_only(Class::LostReplicated, &lenient(&tale.clone().log(&[1, 3])));
    // Trimmed is not lost: it was asked for before the oldest that is kept was acknowledged. But it never came.
    assert_only(Class::Lost, &strict(&tale.trimmed_log(2, &[3])));
    let tale = Tale::begun().replicated(1).came(1, &[1]).replicated(2).sent(3).came(1, &[2, 3]).rested(1);
    assert_valid(&strict(&tale.clone().trimmed_log(2, &[3])));
    // After the oldest that is kept nothing can have been trimmed.
    assert_eq!(strict(&tale.trimmed_log(1, &[1, 3])).count(Class::LostReplicated), 1);
}

#[test]
fn redis_may_lose_what_is_only_stored_and_only_where_the_run_says_so() {
    let tale = Tale::begun().sent(1).sent(2).sent(3).came(1, &[1, 3]).rested(1).log(&[1, 3]);
    assert_only(Class::RedisLost, &strict(&tale));
    let verdict = lenient(&tale);
    assert_valid(&verdict);
    assert_eq!(verdict.count(Class::RedisLost), 1);
    assert!(verdict.to_string().contains("redis_lost: 1 (allowed"), "{verdict}");
}

#[test]
fn who_had_what_redis_lost_has_to_be_told() {
    let tale = Tale::begun().sent(1).sent(2).came(1, &[1, 2]);
    // Another message took its place, and the stream went on over it.
    let verdict = lenient(&tale.clone().sent(3).came(1, &[3]).rested(1).log(&[1, 3]));
    assert_only(Class::MissingReset, &verdict);
    // Nothing came behind it, but the session stayed until the end, and its place was checked.
    assert_only(Class::MissingReset, &lenient(&tale.clone().rested(1).log(&[1])));
    // Over a session that ended and resumed, as if nothing had happened.
    let resumed = tale.clone().detached(1).attached(2, "resumed").sent(3).came(2, &[3]).rested(2).log(&[1, 3]);
    assert_only(Class::MissingReset, &lenient(&resumed));
    // Told in the running session, or when it came back.
    assert_valid(&lenient(&tale.clone().reset(1, "fork").sent(3).came(1, &[3]).rested(1).log(&[1, 3])));
    let back = tale.clone().detached(1).attached(2, "ahead").sent(3).came(2, &[3]).rested(2).log(&[1, 3]);
    let verdict = lenient(&back);
    assert_valid(&verdict);
    assert_eq!(verdict.numbers.resets["ahead"], 1);
    // A device that left does not learn of it.
    let tale = tale.attached_as(2, 1, "new", None).detached(1).rested(2).log(&[1]);
    assert_valid(&lenient(&tale));
}

/// The reset of a second loss does not hide that the first was never told.
#[test]
fn a_later_reset_does_not_excuse_an_earlier_silence() {
    let tale = Tale::begun().sent(1).sent(2).came(1, &[1, 2]).sent(3).came(1, &[3]).reset(1, "fork").rested(1);
    assert_only(Class::MissingReset, &lenient(&tale.clone().log(&[1, 3])));
    // Near: 3 was lost with 2, and stored anew; so it comes again behind the reset.
    assert_valid(&lenient(&tale.again(1, &[3]).log(&[1, 3])));
}

#[test]
fn nothing_comes_twice_without_a_reset() {
    let tale = Tale::begun().sent(1).sent(2).came(1, &[1, 2]);
    let verdict = strict(&tale.clone().came(1, &[2]).rested(1).log(&[1, 2]));
    assert_only(Class::Duplicated, &verdict);
    assert_only(Class::Duplicated, &strict(&tale.clone().came(1, &[1]).rested(1).log(&[1, 2])));
    assert_only(Class::Duplicated, &strict(&tale.clone().again(1, &[2]).rested(1).log(&[1, 2])));
    // A session that resumed goes on; it does not begin again.
    let resumed = tale.clone().detached(1).attached(2, "resumed").came(2, &[2]).rested(2).log(&[1, 2]);
    assert_only(Class::Duplicated, &lenient(&resumed));
    // A retry that was not found is stored twice, whether it came twice or not.
    assert_only(Class::Duplicated, &strict(&tale.clone().rested(1).log(&[1, 2, 1])));
    // Another device has its own.
    let tale = tale.attached_as(2, 1, "new", None).came(2, &[1, 2]);
    assert_valid(&strict(&tale.rested(1).rested(2).log(&[1, 2])));
}

#[test]
fn behind_a_reset_messages_come_again_and_say_so() {
    let tale = Tale::begun().sent(1).sent(2).came(1, &[1, 2]).reset(1, "fork");
    assert_valid(&strict(&tale.clone().again(1, &[1, 2]).rested(1).log(&[1, 2])));
    let unmarked = tale.clone().came(1, &[2]).rested(1).log(&[1, 2]);
    assert_only(Class::Duplicated, &strict(&unmarked));
    // Where Redis loses, the retry may have been stored behind the end of the replay.
    let verdict = lenient(&unmarked);
    assert_valid(&verdict);
    assert_eq!(verdict.numbers.restored, 1);
    // Once each reset, not twice.
    assert_only(Class::Duplicated, &lenient(&tale.clone().again(1, &[2, 2]).rested(1).log(&[1, 2])));
    assert_valid(&lenient(&tale.again(1, &[2]).reset(1, "fork").again(1, &[2]).rested(1).log(&[1, 2])));
    // The replay was cut, and the next session goes on within it, where nothing is marked.
    let cut = Tale::begun().sent(1).sent(2).came(1, &[1, 2]).reset(1, "fork").again(1, &[1]).detached(1);
    assert_valid(&lenient(&cut.attached(2, "resumed").came(2, &[2]).rested(2).log(&[1, 2])));
}

/// What an old connection still had in its socket when the device had gone on is its own business.
#[test]
fn a_session_that_was_replaced_is_judged_by_itself() {
    let tale = Tale::begun().sent(1).sent(2).came(1, &[1]).attached(2, "resumed").came(2, &[2]);
    assert_valid(&strict(&tale.clone().came(1, &[2]).rested(2).log(&[1, 2])));
    assert_only(Class::Duplicated, &strict(&tale.came(1, &[1]).rested(2).log(&[1, 2])));
}

#[test]
fn everything_comes_in_the_order_of_the_log() {
    let tale = Tale::begun().sent(1).sent(2).sent(3);
    let verdict = strict(&tale.clone().came(1, &[1, 3, 2]).rested(1).log(&[1, 2, 3]));
    assert_only(Class::Reordered, &verdict);
    assert_eq!(verdict.count(Class::Reordered), 1);
    // The log's order counts, not the sender's.
    assert_valid(&strict(&tale.clone().came(1, &[1, 3, 2]).rested(1).log(&[1, 3, 2])));
    // Over a session that resumed.
    let resumed = tale.clone().came(1, &[1, 3]).detached(1).attached(2, "resumed").came(2, &[2]).rested(2);
    assert_only(Class::Reordered, &strict(&resumed.log(&[1, 2, 3])));
    // What was trimmed was before all that is kept, as long as Redis loses nothing.
    let trimmed = tale.came(1, &[2, 1, 3]).rested(1).trimmed_log(1, &[2, 3]);
    assert_only(Class::Reordered, &strict(&trimmed));
}

/// The end of the log was lost, and stored anew in another order: what came first came in the order of then.
#[test]
fn what_comes_again_has_the_order_of_its_last_coming() {
    let tale = Tale::begun().sent(1).sent(2).sent(3).came(1, &[1, 2, 3]).reset(1, "fork");
    assert_valid(&lenient(&tale.clone().again(1, &[3, 2]).rested(1).log(&[1, 3, 2])));
    assert_only(Class::Reordered, &lenient(&tale.again(1, &[2, 3]).rested(1).log(&[1, 3, 2])));
    let left = Tale::begun().attached_as(2, 1, "new", None).sent(1).sent(2).came(1, &[1, 2]).detached(1);
    assert_valid(&lenient(&left.came(2, &[2, 1]).rested(2).log(&[2, 1])));
}

#[test]
fn nothing_comes_that_was_never_sent_or_was_refused() {
    let tale = Tale::begun().sent(1).came(1, &[1]);
    assert_only(Class::Unexpected, &strict(&tale.clone().came(1, &[9]).rested(1).log(&[1])));
    assert_only(Class::Unexpected, &strict(&tale.clone().refused(2).came(1, &[2]).rested(1).log(&[1, 2])));
    // It need not reach anybody.
    assert_only(Class::Unexpected, &strict(&tale.clone().refused(2).rested(1).log(&[1, 2])));
    assert_valid(&strict(&tale.clone().refused(2).rested(1).log(&[1])));
    assert_valid(&strict(&tale.clone().given_up(2).came(1, &[2]).rested(1).log(&[1, 2])));
    // Given up and delivered, and then lost by Redis: told.
    let lost = tale.given_up(2).came(1, &[2]).reset(1, "ahead").rested(1).log(&[1]);
    assert_valid(&lenient(&lost));
}

#[test]
fn everybody_reaches_the_end_in_time() {
    let tale = Tale::begun().sent(1).came(1, &[1]).attached_as(2, 1, "new", None).sent(2).came(1, &[2]).rested(1);
    assert_valid(&strict(&tale.clone().came(2, &[2]).rested(2).log(&[1, 2])));
    let late = |ms| tale.clone().came(2, &[2]).and(What::CaughtUp { session: 2, of: None, ms }).log(&[1, 2]);
    assert_valid(&strict(&late(Some(STALL_MS_MAX))));
    assert_only(Class::Stuck, &strict(&late(Some(STALL_MS_MAX + 1))));
    // It has less than it should, and says so: that is one finding, not two.
    let never = tale.clone().and(What::CaughtUp { session: 2, of: None, ms: None }).log(&[1, 2]);
    assert_only(Class::Stuck, &strict(&never));
    // Nobody asked it.
    assert_only(Class::Stuck, &strict(&tale.clone().came(2, &[2]).log(&[1, 2])));
    let left = tale.clone().came(2, &[2]).detached(2).log(&[1, 2]);
    assert_valid(&strict(&left));
    // When all is healed everybody comes back; a connection that ends after that has had everything.
    assert_only(Class::Stuck, &strict(&left.and(What::Healed)));
    let back = |tale: Tale| tale.detached(2).attached_as(3, 1, "resumed", None).log(&[1, 2]);
    let tale = tale.came(2, &[2]);
    assert_valid(&strict(&back(tale.clone().and(What::Healed).rested(2))));
    assert_only(Class::Stuck, &strict(&back(tale.rested(2).and(What::Healed))));
}

#[test]
fn a_queue_stays_within_its_bound() {
    let tale = Tale::begun().sent(1).came(1, &[1]).rested(1).log(&[1]);
    let queue = |bytes| tale.clone().and(What::Queue { node: "a".to_owned(), bytes, cap: 1_000 });
    assert_valid(&strict(&queue(1_000)));
    assert_only(Class::QueueOverCap, &strict(&queue(1_001)));
    assert_eq!(strict(&queue(1_000)).numbers.queue_bytes, 1_000);
}

#[test]
fn nobody_gets_what_is_for_others() {
    let tale = Tale::begun().sent(1).came(1, &[1]).rested(1).log(&[1]);
    let other = MessageNo { sender: 7, count: 1 };
    let sent = tale.and(What::Invoke { message: other, recipient: To::User(5), level: Level::Stored });
    let came = |to| sent.clone().and(What::Delivered { session: 1, message: other, to: To::User(to), again: false });
    assert_only(Class::WrongRecipient, &strict(&came(5)));
    // Also if the frame names somebody else than the sender did.
    assert_only(Class::WrongRecipient, &strict(&came(ME)));
    assert_valid(&strict(&sent));
}

/// A log that is trimmed hides what is before it, but not from those who were there.
#[test]
fn what_was_trimmed_is_owed_to_those_who_were_there_and_no_reset_told() {
    let tale = Tale::begun().sent(1).sent(2).sent(3).sent(4).came(1, &[1]);
    let skipped = tale.clone().came(1, &[3, 4]).rested(1).trimmed_log(2, &[3, 4]);
    assert_only(Class::Lost, &strict(&skipped));
    // The same with a failover: lost by Redis or skipped, nobody can tell.
    let verdict = lenient(&skipped);
    assert_valid(&verdict);
    assert_eq!(verdict.count(Class::RedisLost), 1);
    // It was away for too long, and is told by number.
    let told = |lost| {
        let tale = tale.clone().detached(1).attached_as(2, 0, "retention", Some(lost));
        tale.came(2, &[3, 4]).rested(2).trimmed_log(2, &[3, 4])
    };
    assert_valid(&strict(&told(1)));
    assert_only(Class::Lost, &strict(&told(0)));
}

/// Redis lost the oldest entry that is kept, and it was stored anew: the line between trimmed and lost is not by its ack.
#[test]
fn no_more_is_missing_than_was_trimmed() {
    let tale = Tale::begun().sent(1).came(1, &[1]).sent(2).came(1, &[2]).reset(1, "fork").came(1, &[1]).rested(1);
    assert_valid(&lenient(&tale.trimmed_log(1, &[1])));
}

#[test]
fn a_run_without_substance_is_not_valid() {
    let good = Tale::begun().sent(1).came(1, &[1]).rested(1).log(&[1]);
    let problem = |tale: &Tale| {
        let verdict = strict(tale);
        assert!(verdict.broken().is_empty() && !verdict.is_valid(), "{verdict}");
        verdict.problems.join("; ")
    };
    assert_valid(&strict(&good.clone().fault(true, "").fault(false, "stood still for 3,012 ms")));
    assert!(problem(&good.clone().fault(true, "").fault(false, " ")).contains("nothing proves"));
    assert!(problem(&good.clone().fault(true, "")).contains("never ended"));
    assert!(problem(&good.clone().fault(false, "12")).contains("never began"));
    assert!(problem(&Tale::begun().rested(1).log(&[])).contains("nothing was delivered"));
    assert!(problem(&Tale::begun().sent(1).came(1, &[1]).detached(1).log(&[1])).contains("nobody was there"));
    assert!(problem(&good.clone().acked(9, Level::Stored).log(&[])).contains("read twice"));
    let empty = strict(&Tale::default());
    assert!(!empty.is_valid());
}

/// Seven million events: one pass over events, one over each device. Seconds, and a gigabyte, as after a long schedule.
#[test]
fn a_long_run_is_judged_in_seconds() {
    let mut tale = Tale::begun();
    let sessions = 200;
    tale = (1..sessions).fold(tale, |tale, n| {
        tale.and(What::Attached { session: n + 1, recipient: n, device: 0, start: "new".to_owned(), lost: None })
    });
    let mut logs = vec![Vec::new(); sessions as usize];
    for count in 0..2_500_000 {
        let (message, recipient) = (MessageNo { sender: count % 50, count }, count % sessions);
        logs[recipient as usize].push(message);
        tale = tale.and(What::Invoke { message, recipient: To::User(recipient), level: Level::Stored });
        tale = tale.and(What::Acked { message, level: Level::Stored });
        tale = tale.and(What::Delivered { session: recipient + 1, message, to: To::User(recipient), again: false });
    }
    tale = (1..=sessions).fold(tale, Tale::rested);
    for (recipient, messages) in (0..).zip(logs) {
        tale = tale.and(What::Log { recipient: To::User(recipient), trimmed: 0, messages, mseqs: Vec::new() });
    }
    assert_valid(&strict(&tale));
}
