//! The order, its floor and its bounds; and that no master waits for another one.

use super::*;

const A: Master = Master(1);
const B: Master = Master(2);
const G0: SlotGroup = SlotGroup(0);
const G1: SlotGroup = SlotGroup(1);

/// Slot group 0 is on master A, slot group 1 on B.
fn at(group: SlotGroup) -> Option<Master> {
    Some(if group == G0 { A } else { B })
}

fn queue() -> Queue<u32> {
    let mut queue = Queue::new(2);
    queue.place_all(at);
    queue
}

fn push(queue: &mut Queue<u32>, group: SlotGroup, line: Line, items: impl IntoIterator<Item = u32>) {
    items.into_iter().for_each(|item| queue.push(group, line, item, at(group)).unwrap());
}

/// Every call that may begin now.
fn all(queue: &mut Queue<u32>) -> Vec<Call<u32>> {
    std::iter::from_fn(|| queue.next(at)).collect()
}

/// The lines of so many calls, one after the other.
fn turns(queue: &mut Queue<u32>, count: usize) -> Vec<Line> {
    (0..count)
        .map(|_| {
            let call = queue.next(at).unwrap();
            queue.finish(&call.flight);
            call.flight.line
        })
        .collect()
}

#[test]
fn a_waiting_client_comes_before_a_gap_before_a_check_before_what_nobody_waits_for() {
    let mut queue = queue();
    let worst_first = [Line::Ack, Line::Detach, Line::Quiet, Line::Verify, Line::Again, Line::Read, Line::History];
    worst_first.into_iter().chain([Line::Opening]).for_each(|line| push(&mut queue, G0, line, [1]));
    let classes: Vec<Class> = all(&mut queue).iter().map(|call| call.flight.line.class()).collect();
    assert_eq!(classes.len(), 8);
    assert!(classes.is_sorted(), "{classes:?}");
}

#[test]
fn whatever_is_before_it_a_class_that_waits_gets_every_eighth_turn_or_so() {
    let mut queue = queue();
    push(&mut queue, G0, Line::History, 0..1_000);
    push(&mut queue, G0, Line::Read, 0..1_000);
    push(&mut queue, G0, Line::Verify, 0..100_000);
    push(&mut queue, G0, Line::Detach, 0..100_000);
    let lines = turns(&mut queue, 200);
    for class in Class::ALL {
        let places: Vec<usize> = (0..200).filter(|n| lines[*n].class() == class).collect();
        let pause = places.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(places[0] <= 10 && pause <= 11, "{class:?} waited {pause} turns: {places:?}");
    }
    let clients = lines.iter().filter(|line| line.class() == Class::Client).count();
    assert!(clients >= 120, "{clients} of 200 turns for those who are first");
}

#[test]
fn a_class_alone_has_every_turn_and_its_lines_take_turns() {
    let mut queue = queue();
    push(&mut queue, G0, Line::Read, 0..10);
    push(&mut queue, G0, Line::Again, 0..320);
    let lines = turns(&mut queue, 10);
    assert_eq!(lines.iter().filter(|line| **line == Line::Again).count(), 5);
}

/// Two that always have something to ask must not starve the third.
#[test]
fn all_lines_of_a_class_have_their_turns() {
    let mut queue = queue();
    [Line::Read, Line::Changes].into_iter().for_each(|line| push(&mut queue, G0, line, 0..10));
    push(&mut queue, G0, Line::Again, 0..320);
    let lines = turns(&mut queue, 9);
    for line in [Line::Read, Line::Again, Line::Changes] {
        assert_eq!(lines.iter().filter(|there| **there == line).count(), 3, "{line:?}");
    }
}

#[test]
fn what_waits_on_one_line_goes_in_one_call_and_what_comes_meanwhile_in_the_next() {
    let mut queue = queue();
    push(&mut queue, G0, Line::Verify, 0..3);
    let call = queue.next(at).unwrap();
    assert_eq!(call.items, [0, 1, 2]);
    push(&mut queue, G0, Line::Verify, 3..400);
    assert_eq!(queue.next(at), None, "one call of a line at a time");
    queue.finish(&call.flight);
    let call = queue.next(at).unwrap();
    assert_eq!(call.items, Vec::from_iter(3..259), "at most 256");
    queue.finish(&call.flight);
    push(&mut queue, G0, Line::Opening, 0..40);
    assert_eq!(queue.next(at).unwrap().items, Vec::from_iter(0..32), "a page may come with each");
}

#[test]
fn no_call_names_records_of_two_slot_groups() {
    let mut queue = Queue::new(2);
    let one = |_| Some(A);
    queue.place_all(one);
    queue.push(G0, Line::Opening, 0, Some(A)).unwrap();
    queue.push(G1, Line::Opening, 1, Some(A)).unwrap();
    queue.push(G0, Line::Opening, 2, Some(A)).unwrap();
    let calls: Vec<_> = std::iter::from_fn(|| queue.next(one)).map(|call| (call.flight.group, call.items)).collect();
    assert_eq!(calls, [(G0, vec![0, 2]), (G1, vec![1])]);
}

fn count(calls: &[Call<u32>], is: impl Fn(Line) -> bool) -> usize {
    calls.iter().filter(|call| is(call.flight.line)).map(|call| call.items.len()).sum()
}

#[test]
fn pages_and_histories_in_flight_are_bounded() {
    let mut queue = queue();
    let lines = [Line::Read, Line::History, Line::Opening, Line::Again, Line::Quiet];
    for (group, line) in [G0, G1].into_iter().flat_map(|group| lines.map(|line| (group, line))) {
        push(&mut queue, group, line, 0..1_000);
    }
    let calls = all(&mut queue);
    assert_eq!(count(&calls, Line::answers_pages), 64);
    assert_eq!(count(&calls, |line| line == Line::History), 16);
    let finished = calls.iter().find(|call| call.flight.line == Line::History).unwrap();
    queue.finish(&finished.flight);
    assert_eq!(all(&mut queue).len(), 1, "the end of one makes room for one");
}

#[test]
fn reads_leave_half_of_the_pages_to_attaches() {
    let mut queue = queue();
    push(&mut queue, G0, Line::Read, 0..1_000);
    assert_eq!(all(&mut queue).len(), 16);
    push(&mut queue, G0, Line::Again, 0..1_000);
    assert_eq!(queue.next(at).unwrap().items.len(), 16);
}

#[test]
fn a_master_that_hangs_holds_up_nobody_but_itself() {
    let mut queue = queue();
    for line in [Line::Read, Line::History, Line::Opening, Line::Again, Line::Quiet, Line::Verify, Line::Detach] {
        push(&mut queue, G0, line, 0..1_000);
    }
    let hanging = all(&mut queue);
    assert!(hanging.iter().all(|call| call.flight.master == A));
    for line in [Line::Read, Line::History, Line::Opening, Line::Verify, Line::Detach] {
        push(&mut queue, G1, line, 0..1_000);
        let calls = all(&mut queue);
        assert!(calls.iter().any(|call| call.flight.line == line), "{line:?}");
        assert!(calls.iter().all(|call| call.flight.master == B));
    }
    // Each of the hanging master's calls stays within its share.
    assert_eq!(count(&hanging, Line::answers_pages), 32);
}

#[test]
fn a_slot_group_is_asked_where_it_is_now() {
    let mut queue = queue();
    push(&mut queue, G0, Line::Opening, 0..64);
    let old = queue.next(at).unwrap();
    assert_eq!(old.flight.master, A);
    // Another generation has it, and the call on the old one is still in flight.
    let call = std::iter::from_fn(|| queue.next(|_| Some(B))).next();
    assert_eq!(call, None, "nobody has told");
    queue.place_all(|_| Some(B));
    let call = queue.next(|_| Some(B)).unwrap();
    assert_eq!((call.flight.master, call.items.len()), (B, 32));
    push(&mut queue, G0, Line::Opening, [99]);
    queue.finish(&old.flight);
    assert_eq!(queue.next(|_| Some(B)), None, "the end of the old call is not the end of the new one");
    queue.finish(&call.flight);
    assert_eq!(queue.next(|_| Some(B)).unwrap().items, [99]);
}

#[test]
fn a_generation_that_ended_unnoticed_is_found_out_before_it_is_asked() {
    let mut queue = queue();
    push(&mut queue, G0, Line::Opening, [1]);
    assert_eq!(queue.next(|_| None), None);
    assert_eq!(queue.next(at), None, "it has no master that anybody told of");
    queue.place_all(at);
    assert_eq!(queue.next(|_| Some(B)).unwrap(), {
        let flight = Flight { master: B, group: G0, line: Line::Opening, count: 1 };
        Call { flight, items: vec![1] }
    });
}

#[test]
fn those_whose_master_stays_away_are_given_back_and_detaches_stay() {
    let mut queue = queue();
    queue.place_all(|group| at(group).filter(|master| *master == B));
    for (item, line) in (0..).zip(Line::ALL) {
        push(&mut queue, G1, line, [item]);
        queue.push(G0, line, item, None).unwrap();
    }
    assert!(queue.abandon(|_| false).is_empty(), "it may come back within a moment");
    let mut gone = queue.abandon(|_| true);
    gone.sort_unstable();
    assert_eq!(gone, [0, 1, 2, 3, 4, 5, 6, 8], "what the other master has stays");
    assert_eq!(queue.waiting(Class::Behind), 3);
    queue.place_all(at);
    let detached = all(&mut queue).into_iter().filter(|call| call.flight.line == Line::Detach);
    assert_eq!(detached.map(|call| call.flight.group).collect::<Vec<_>>().len(), 2);
}

#[test]
fn a_full_queue_gives_the_request_back_and_takes_again_when_it_drains() {
    let mut queue = queue();
    push(&mut queue, G0, Line::Detach, 0..131_072);
    assert_eq!(queue.push(G0, Line::Ack, 7, Some(A)), Err(Full(7)), "half of the room is for those who want an answer");
    push(&mut queue, G0, Line::Opening, 0..131_071);
    queue.join().unwrap();
    assert_eq!(queue.push(G1, Line::Verify, 8, Some(B)), Err(Full(8)));
    assert_eq!(queue.join(), Err(Full(())));
    assert_eq!((queue.len(), queue.waiting(Class::Gap)), (262_144, 1));
    let call = queue.next(at).unwrap();
    assert_eq!(call.flight.line, Line::Opening);
    queue.push(G1, Line::Verify, 8, Some(B)).unwrap();
    queue.part(1);
    assert_eq!(queue.waiting(Class::Gap), 0);
}

#[test]
fn what_was_asked_of_a_master_that_no_longer_has_it_waits_for_the_next() {
    let mut queue = queue();
    push(&mut queue, G0, Line::Opening, [1]);
    let call = queue.next(at).unwrap();
    queue.hold(G0, Class::Client);
    queue.put_back(G0, Line::Opening, call.items);
    queue.finish(&call.flight);
    push(&mut queue, G0, Line::Verify, [2]);
    assert_eq!(queue.next(at), None, "that master has nothing for anybody of this slot group");
    assert!(!queue.is_idle());
    queue.release(G0, Class::Client);
    assert_eq!(all(&mut queue).iter().map(|call| call.items[0]).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn detaches_that_failed_hold_up_nobody_else() {
    let mut queue = queue();
    queue.hold(G0, Class::Behind);
    queue.put_back(G0, Line::Detach, vec![1]);
    push(&mut queue, G0, Line::Read, [2]);
    assert_eq!(all(&mut queue).iter().map(|call| call.items[0]).collect::<Vec<_>>(), [2]);
    queue.release(G0, Class::Behind);
    assert_eq!(queue.next(at).unwrap().items, [1]);
}

#[test]
fn at_the_end_acks_and_detaches_are_handed_on_and_nothing_else_is_asked() {
    let mut queue = queue();
    for (item, line) in (0..).zip(Line::ALL) {
        push(&mut queue, G0, line, [item]);
    }
    let flying = queue.next(at).unwrap();
    let mut rest = queue.stop();
    rest.sort_unstable();
    assert_eq!(rest, [1, 2, 3, 4, 5, 6]);
    assert_eq!(queue.push(G0, Line::Read, 9, Some(A)), Err(Full(9)));
    let calls = all(&mut queue);
    assert_eq!(calls.iter().map(|call| call.flight.line).collect::<Vec<_>>(), [Line::Detach, Line::Ack]);
    calls.iter().for_each(|call| queue.finish(&call.flight));
    assert!(!queue.is_idle(), "the first call is in flight");
    // What its answer leaves behind.
    push(&mut queue, G0, Line::Detach, [10]);
    queue.finish(&flying.flight);
    assert!(!queue.is_idle());
    let last = queue.next(at).unwrap();
    assert_eq!(last.items, [10]);
    queue.finish(&last.flight);
    assert!(queue.is_idle());
}
