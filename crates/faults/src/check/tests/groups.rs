//! Groups: who is owed what and who must not have it, as his requests say it and as the record says it. And presence.

use super::tale::{DEN, ME, Tale, no};
use super::*;
use crate::history::Step;

/// A member from the first moment, with messages of his own, so that the run has substance.
fn member() -> Tale {
    Tale::begun().sent(1).came(1, &[1]).joined(1)
}

#[test]
fn a_member_gets_what_is_sent_while_he_is_one() {
    let tale = member().sent_to_den(11).came_from_den(1, &[11]).sent_to_den(12);
    let end = |tale: Tale| tale.log(&[1]).den_log(&[(11, 5), (12, 5)]).den_has(&[ME], &[(5, true)]);
    let all = end(tale.clone().came_from_den(1, &[12]).all_rested(1));
    assert_valid(&strict(&all));
    assert_valid(&lenient(&all));
    let n = strict(&all).numbers;
    assert_eq!((n.group_deliveries, n.joins, n.leaves, n.devices, n.caught_up), (2, 1, 0, 2, 2));
    let missed = end(tale.all_rested(1));
    assert_only(Class::Lost, &strict(&missed));
    assert_only(Class::Lost, &lenient(&missed));
    assert!(strict(&missed).to_string().contains("group:f7"), "{}", strict(&missed));
}

/// What was sent around a join or leave may come or not: nobody outside knows which was first.
#[test]
fn what_is_sent_beside_a_join_or_a_leave_is_owed_to_nobody_and_forbidden_to_nobody() {
    let beside = |tale: Tale, count| {
        let tale = tale.and(What::Invoke { message: no(count), recipient: DEN, level: Level::Stored });
        (tale.clone(), tale.acked(count, Level::Stored))
    };
    let (joining, _) = beside(Tale::begun().sent(1).came(1, &[1]).step(Step::AsksToJoin), 11);
    let joining = joining.step(Step::Joined).acked(11, Level::Stored).stream(1, "new", false);
    let (_, leaving) = beside(joining.clone().step(Step::AsksToLeave), 12);
    let leaving = leaving.step(Step::Left);
    let end = |tale: Tale| {
        let tale = tale.and(What::StreamEnded { session: 1, of: DEN }).rested(1);
        tale.log(&[1]).den_log(&[(11, 5), (12, 5)]).den_has(&[], &[(5, true), (6, false)])
    };
    assert_valid(&strict(&end(leaving.clone())));
    assert_valid(&strict(&end(leaving.came_from_den(1, &[11, 12]))));
}

#[test]
fn nobody_gets_what_was_stored_before_his_join_or_after_he_left() {
    let before = Tale::begun().sent(1).came(1, &[1]).sent_to_den(11).joined(1);
    let rows = [(11, 4), (12, 5)];
    let end = |tale: Tale| tale.log(&[1]).den_log(&rows).den_has(&[ME], &[(5, true)]);
    let tale = before.clone().sent_to_den(12);
    assert_valid(&strict(&end(tale.clone().came_from_den(1, &[12]).all_rested(1))));
    assert_only(Class::Outsider, &strict(&end(tale.clone().came_from_den(1, &[11, 12]).all_rested(1))));
    // What is appended again is stored then, and may be for him.
    assert_valid(&lenient(&end(tale.came_from_den(1, &[11, 12]).all_rested(1))));

    // His other device hears of the leave a little later: what was sent before may still come, what is sent now may not.
    let tale = member().attached_as(2, 1, "new", None).stream(2, "new", false).sent_to_den(11);
    let left = tale.came_from_den(2, &[11]).left(1).sent_to_den(12);
    let end = |tale: Tale| {
        let tale = tale.and(What::StreamEnded { session: 2, of: DEN }).came(2, &[1]).rested(1).rested(2);
        tale.log(&[1]).den_log(&[(11, 5), (12, 6)]).den_has(&[], &[(5, true), (6, false)])
    };
    assert_valid(&strict(&end(left.clone())));
    assert_only(Class::Outsider, &strict(&end(left.clone().came_from_den(2, &[12]))));
    // Nor on the device that has left: there is no stream any more.
    assert_only(Class::Outsider, &strict(&end(left.came_from_den(1, &[12]))));
}

/// Between two memberships there was none, whatever the stream resumes with.
#[test]
fn what_was_stored_between_two_memberships_is_not_his() {
    let between = member().sent_to_den(11).came_from_den(1, &[11]).left(1).sent_to_den(12);
    let again = between.step(Step::AsksToJoin).step(Step::Joined).stream(1, "resumed", false).sent_to_den(13);
    let end = |tale: Tale| {
        let tale = tale.all_rested(1).log(&[1]).den_log(&[(11, 5), (12, 6), (13, 7)]);
        tale.den_has(&[ME], &[(5, true), (6, false), (7, true)])
    };
    assert_valid(&strict(&end(again.clone().came_from_den(1, &[13]))));
    assert_only(Class::Outsider, &strict(&end(again.clone().came_from_den(1, &[12, 13]))));
    assert_only(Class::Lost, &strict(&end(again)));
}

/// Where Redis forgot a leave he is a member again, and where it forgot a join he is none. Its record says which.
#[test]
fn where_redis_may_lose_the_record_has_a_word() {
    let tale = member().fault(true, "").left(1).attached_as(2, 1, "new", None).came(2, &[1]).stream(2, "new", false);
    let tale = tale.sent_to_den(11).came_from_den(2, &[11]).fault(false, "1").rested(1);
    let tale = tale.rested(2).and(What::CaughtUp { session: 2, of: Some(DEN), ms: Some(20) }).log(&[1]);
    let forgot = tale.clone().den_log(&[(11, 5)]).den_has(&[ME], &[(5, true)]);
    let verdict = lenient(&forgot);
    assert_valid(&verdict);
    assert_eq!(verdict.count(Class::MembershipLost), 1);
    assert!(strict(&forgot).count(Class::Outsider) == 1 && strict(&forgot).count(Class::MembershipLost) == 1);
    // It did not forget: then he must not have it, unless it was appended again, which nobody can tell from outside.
    let kept = tale.den_log(&[(11, 6)]).den_has(&[], &[(5, true), (6, false)]);
    assert_only(Class::Outsider, &strict(&kept));
    assert_eq!(lenient(&kept).count(Class::Outsider), 0);
}

#[test]
fn a_join_or_leave_that_was_answered_is_in_the_record() {
    let tale = Tale::begun().sent(1).came(1, &[1]).fault(true, "").fault(false, "1").joined(1).all_rested(1).log(&[1]);
    assert_valid(&strict(&tale.clone().den_has(&[ME], &[(5, true)])));
    let lost = tale.clone().den_has(&[], &[]);
    assert_only(Class::MembershipLost, &strict(&lost));
    assert_valid(&lenient(&lost));
    let left = tale.left(1);
    assert_valid(&strict(&left.clone().den_has(&[], &[(5, true), (6, false)])));
    assert_only(Class::MembershipLost, &strict(&left.clone().den_has(&[ME], &[(5, true)])));
    // A request without an answer: both may be.
    let open = left.step(Step::AsksToJoin).step(Step::Unknown);
    assert_valid(&strict(&open.clone().den_has(&[], &[])));
    assert_valid(&strict(&open.den_has(&[ME], &[(7, true)])));
    // Who had joined before anything was hurt is a member, whatever a failover forgets; but not if keys are thrown away.
    let old = member().fault(true, "").fault(false, "1").all_rested(1).log(&[1]).den_has(&[], &[]);
    assert_only(Class::Lost, &lenient(&old));
    assert_valid(&judge(&old.events, &Rules { redis_may_evict: true, ..LOSES }));
}

/// A request that got no answer may be done much later: it lay in a node that stood still.
#[test]
fn behind_a_request_without_an_answer_nothing_is_certain_for_a_while() {
    let tale = member().step(Step::AsksToLeave).step(Step::Unknown).step(Step::AsksToJoin).step(Step::Joined);
    let sent = |tale: Tale| tale.stream(1, "new", false).sent_to_den(11).all_rested(1);
    let end = |tale: Tale| tale.log(&[1]).den_log(&[(11, 6)]);
    assert_valid(&strict(&end(sent(tale.clone())).den_has(&[], &[(5, true), (6, false)])));
    let later = tale.clone().step(Step::AsksToJoin).after(70_000).step(Step::Joined);
    let missed = end(sent(later)).den_has(&[ME], &[(5, true)]);
    assert_only(Class::Lost, &strict(&missed));
    // One that says that nothing was done leaves everything as it was.
    let refused = member().step(Step::AsksToLeave).step(Step::Refused);
    assert_only(Class::Lost, &strict(&end(sent(refused)).den_has(&[ME], &[(5, true)])));
    let outside = Tale::begun().sent(1).came(1, &[1]).step(Step::AsksToJoin).step(Step::Refused).sent_to_den(11);
    let outside = outside.joined(1).came_from_den(1, &[11]).all_rested(1).log(&[1]).den_log(&[(11, 4)]);
    assert_only(Class::Outsider, &strict(&outside.den_has(&[ME], &[(5, true)])));
}

/// Who comes back with a cursor of a group that he has left goes on there as a guest, if he may.
#[test]
fn who_names_a_place_goes_on_there_without_being_a_member() {
    let away = member().attached_as(2, 1, "new", None).came(2, &[1]).stream(2, "new", false).detached(2).left(1);
    let back = away.attached_as(3, 1, "resumed", None).stream(3, "resumed", true).sent_to_den(11);
    let back = back.came_from_den(3, &[11]).rested(1).rested(3);
    let end = |tale: Tale, members: &[u32]| {
        let tale = tale.and(What::CaughtUp { session: 3, of: Some(DEN), ms: Some(20) });
        let changes = [(5, true), (6, false), (7, true)];
        tale.log(&[1]).den_log(&[(11, 6)]).den_has(members, &changes[..2 + members.len()])
    };
    assert_valid(&strict(&end(back.clone(), &[])));
    // Also if that ends, and he joins later in the same session.
    let again = back.and(What::StreamEnded { session: 3, of: DEN }).step(Step::AsksToJoin).step(Step::Joined);
    assert_valid(&strict(&end(again.stream(3, "resumed", false), &[ME])));
}

#[test]
fn a_guest_misses_nothing_from_his_start_on_and_resumes() {
    let asks = |tale: Tale, step| tale.and(What::Membership { user: ME, group: 7, step, is_guest: true });
    let tale = asks(asks(Tale::begun().sent(1).came(1, &[1]).sent_to_den(11), Step::AsksToJoin), Step::Joined);
    let tale = tale.stream(1, "new", false).sent_to_den(12).came_from_den(1, &[12]).detached(1).sent_to_den(13);
    let tale = tale.attached_as(2, 0, "resumed", None).stream(2, "resumed", true).sent_to_den(14);
    let end = |tale: Tale| {
        let rows = [(11, 4), (12, 4), (13, 4), (14, 4)];
        tale.all_rested(2).log(&[1]).den_log(&rows).den_has(&[], &[])
    };
    assert_valid(&strict(&end(tale.clone().came_from_den(2, &[13, 14]))));
    assert_only(Class::Lost, &strict(&end(tale.clone().came_from_den(2, &[14]))));
    assert_only(Class::Duplicated, &strict(&end(tale.clone().came_from_den(2, &[13, 14, 12]))));
    assert_only(Class::Reordered, &strict(&end(tale.clone().came_from_den(2, &[14, 13]))));
    // He does not come back to it.
    let tale = tale.came_from_den(2, &[13, 14]).detached(2).and(What::Healed).attached(3, "resumed").rested(3);
    let rows = [(11, 4), (12, 4), (13, 4), (14, 4)];
    assert_only(Class::Stuck, &strict(&tale.log(&[1]).den_log(&rows).den_has(&[], &[])));
}

#[test]
fn a_member_s_device_that_has_no_stream_of_the_group_at_the_end_is_stuck() {
    let tale = member().attached_as(2, 1, "new", None).came(2, &[1]).stream(2, "new", false);
    let ended = tale.and(What::StreamEnded { session: 2, of: DEN }).and(What::Healed).all_rested(1).rested(2);
    let end = |tale: Tale| tale.log(&[1]).den_has(&[ME], &[(5, true)]);
    assert_valid(&strict(&end(ended.clone())));
    assert_only(Class::Stuck, &strict(&end(ended.clone().after(STALL_MS_MAX + 1))));
    let back = ended.stream(2, "new", false).and(What::CaughtUp { session: 2, of: Some(DEN), ms: Some(20) });
    assert_valid(&strict(&end(back.after(STALL_MS_MAX + 1))));
}

/// A failover ends what guests have, because nobody knows who was removed meanwhile. What they had may be stored anew in
/// another order, and does not come to them again.
#[test]
fn what_came_before_a_stream_ended_has_no_order_where_redis_may_lose() {
    let tale = member().sent_to_den(11).sent_to_den(12).came_from_den(1, &[11, 12]);
    let ended = tale.clone().and(What::StreamEnded { session: 1, of: DEN }).stream(1, "new", false);
    let end = |tale: Tale| tale.all_rested(1).log(&[1]).den_log(&[(12, 5), (11, 5)]).den_has(&[ME], &[(5, true)]);
    assert_valid(&lenient(&end(ended.clone())));
    assert_only(Class::Reordered, &strict(&end(ended)));
    assert_only(Class::Reordered, &lenient(&end(tale)));
}

#[test]
fn versions_of_a_presence_only_grow() {
    let good = Tale::begun().sent(1).came(1, &[1]).rested(1).log(&[1]).watches(9).told(9, 5, true, true);
    assert_valid(&strict(&good.clone().told(9, 6, false, false)));
    assert_only(Class::PresenceBack, &strict(&good.clone().told(9, 4, false, false)));
    assert_only(Class::PresenceBack, &lenient(&good.clone().told(9, 5, true, false)));
    // A new connection: the answer is from Redis, which may have forgotten, or not.
    let answer = |version, online| good.clone().told(9, 6, false, false).watches(10).told(10, version, online, true);
    assert_valid(&strict(&answer(6, false)));
    assert_only(Class::PresenceBack, &strict(&answer(5, true)));
    assert_valid(&lenient(&answer(5, true)));
    assert_only(Class::PresenceBack, &strict(&answer(6, true)));
}

#[test]
fn when_nobody_comes_or_goes_watchers_know_it_soon() {
    let begun = Tale::begun().sent(1).came(1, &[1]).rested(1).log(&[1]).watches(9).told(9, 5, false, true);
    let came = begun.and(What::Healed).here(true);
    assert_valid(&strict(&came.clone().after(19_000).told(9, 6, true, false)));
    assert_only(Class::PresenceWrong, &strict(&came.clone().after(21_000).told(9, 6, true, false)));
    assert_only(Class::PresenceWrong, &strict(&came.clone()));
    assert_only(Class::PresenceWrong, &lenient(&came.clone().told(9, 6, true, false).told(9, 7, false, false)));
    // A new connection knows nothing of what an old one was told.
    let anew = came.told(9, 6, true, false).watches(10);
    assert_only(Class::PresenceWrong, &strict(&anew));
    assert_valid(&strict(&anew.told(10, 6, true, true)));
}
