//! Told histories of locations, hand-over, members and users.

use bytes::Bytes;
use protocol::{ConnectionId, DeviceId, Tag};

use super::*;
use crate::record::append;
use crate::types::{Kind, NewMessage, Registered};

const LIMITS: Limits =
    Limits { retention_ms: 1_000_000, inbox_max: 100, inbox_bytes: 1 << 20, retry_young_us: 6_000_000 };
const EPOCH: Epoch = Epoch([7; 8]);
const NOW_US: u64 = 1_000_000_000;

fn registration(node: &str, connection: u64, reg: u64, device: Option<&str>) -> Registration {
    let device = device.map(|name| DeviceId::parse(name).unwrap());
    Registration { node: NodeId::new(node, 1).unwrap(), connection: ConnectionId(connection), reg, device }
}

fn request(registration: Registration, claim: Option<Claim>) -> AttachRequest {
    AttachRequest { claim, ..AttachRequest::of(registration, Vec::new(), From::Oldest) }
}

/// What is told, and the answer.
fn ask(
    record: &mut Option<Record>,
    request: &AttachRequest,
    beside: &Beside<'_>,
) -> (Vec<(NodeId, Notice)>, Option<Attached>) {
    let told = claim(record, NOW_US, request);
    (told, attach(record, EPOCH, NOW_US, request, beside, &LIMITS))
}

fn store(record: &mut Option<Record>, whose: Whose, now_us: u64, tags: &[u64]) {
    let one = |tag: &u64| NewMessage { kind: Kind::Durable, tag: Tag(*tag), envelope: Bytes::new(), search_us: None };
    let messages: Vec<NewMessage> = tags.iter().map(one).collect();
    append(record, whose, EPOCH, now_us, 0, &messages, &LIMITS);
}

fn taken(record: &Option<Record>, node: &str) -> Vec<(u64, Option<HandOver>)> {
    let there = record.as_ref().unwrap().registered(&NodeId::new(node, 1).unwrap());
    there.iter().map(|Registered { connection, hand_over, .. }| (connection.0, *hand_over)).collect()
}

#[test]
fn who_is_taken_over_is_marked_wherever_it_is_until_its_node_detaches_it() {
    let mut record = None;
    let user = Beside::default();
    ask(&mut record, &request(registration("b", 1, 1, None), None), &user);
    ask(&mut record, &request(registration("b", 3, 2, None), None), &user);
    let takes = request(registration("a", 2, 1, None), Some(Claim::TakesOver(ConnectionId(1))));
    let (told, _) = ask(&mut record, &takes, &user);
    let notice = Notice::HandOver { connection: ConnectionId(1), why: HandOver::TakenOver };
    assert_eq!(told, [(NodeId::new("b", 1).unwrap(), notice)]);
    ask(&mut record, &request(registration("b", 1, 5, None), None), &user);
    assert_eq!(taken(&record, "b"), [(1, Some(HandOver::TakenOver)), (3, None)], "it registered again, and is to go");
    record.as_mut().unwrap().detach(&NodeId::new("b", 1).unwrap(), ConnectionId(1), 5);
    ask(&mut record, &request(registration("b", 1, 6, None), None), &user);
    assert_eq!(taken(&record, "b"), [(3, None), (1, None)], "a new registration is nobody's old one");
}

/// The older of two that want to be alone registers again in a new generation: it must not push the later one out.
#[test]
fn who_has_given_his_place_takes_nobodys() {
    let mut record = None;
    let user = Beside::default();
    let exclusive = |node, reg| request(registration(node, 1, reg, Some("phone")), Some(Claim::Exclusive));
    ask(&mut record, &request(registration("a", 9, 1, Some("tablet")), None), &user);
    ask(&mut record, &request(registration("a", 8, 1, None), Some(Claim::Exclusive)), &user);
    for (node, reg) in [("a", 2), ("b", 1), ("a", 3)] {
        ask(&mut record, &exclusive(node, reg), &user);
    }
    assert_eq!(taken(&record, "a"), [(9, None), (8, None), (1, Some(HandOver::Exclusive))]);
    assert_eq!(taken(&record, "b"), [(1, None)]);
}

#[test]
fn a_member_begins_behind_what_was_stored_before_his_join() {
    let mut record = None;
    store(&mut record, Whose::Group, NOW_US, &[1, 2]);
    record.as_mut().unwrap().version = NOW_US + 50;
    store(&mut record, Whose::Group, NOW_US + 60, &[3, 4]);
    let user = UserId::parse("bob").unwrap();
    let mut members = Members::default();
    let member = AttachRequest { member: Some(user.clone()), from: From::Oldest, ..AttachRequest::default() };
    let mut start = |joined: Option<u64>| {
        members.joined.clear();
        joined.map(|mseq| members.joined.insert(user.clone(), mseq));
        let beside = Beside { whose: Whose::Group, members: Some(&members), groups: None };
        let (_, attached) = ask(&mut record, &member, &beside);
        let attached = attached.unwrap();
        assert_eq!((attached.joined, attached.version, attached.routed), (joined, NOW_US + 50, false));
        attached.cursor.seq
    };
    assert_eq!(start(Some(NOW_US)), 0, "he was there from the beginning");
    assert_eq!(start(Some(NOW_US + 1)), 2);
    assert_eq!(start(Some(NOW_US + 50)), 2, "stored at that very change");
    assert_eq!(start(Some(NOW_US + 51)), 4, "nothing is for him yet");
    assert_eq!(start(None), 4, "nothing is for who is none");
}

/// A guest with a cursor that held nowhere, or of long ago, got everything that was stored before he came.
#[test]
fn a_guest_whose_cursor_does_not_hold_begins_at_the_end_and_a_member_at_his_join() {
    let mut record = None;
    store(&mut record, Whose::Group, NOW_US, &[1, 2]);
    record.as_mut().unwrap().version = NOW_US + 50;
    store(&mut record, Whose::Group, NOW_US + 60, &[3, 4]);
    let held = record.as_ref().unwrap().place(1).unwrap();
    let user = UserId::parse("bob").unwrap();
    let start = |record: &mut Option<Record>, cursor: Option<Cursor>, joined: Option<u64>| {
        let mut members = Members::default();
        joined.map(|mseq| members.joined.insert(user.clone(), mseq));
        let beside = Beside { whose: Whose::Group, members: Some(&members), groups: None };
        let request = AttachRequest { member: Some(user.clone()), cursors: vec![cursor], ..AttachRequest::default() };
        let attached = ask(record, &request, &beside).1.unwrap();
        (attached.start, attached.cursor.seq)
    };
    let reset = |reason, lost| Start::Reset { reason, lost };
    let other = Some(Cursor { stamp: protocol::Stamp(9), ..held });
    let (fork, epoch) = (reset(Reason::Fork, None), reset(Reason::Epoch, None));
    assert_eq!(start(&mut record, Some(held), None), (Start::Resumed, 1), "who was here before goes on");
    assert_eq!([start(&mut record, other, None), start(&mut record, None, None)], [(fork, 4), (epoch, 4)]);
    let joined = Some(NOW_US + 50);
    assert_eq!([start(&mut record, other, joined), start(&mut record, None, joined)], [(fork, 2), (epoch, 2)]);
    let tags: Vec<u64> = (5..110).collect();
    store(&mut record, Whose::Group, NOW_US + 70, &tags);
    let (base, end) = (record.as_ref().unwrap().base_seq, record.as_ref().unwrap().end().seq);
    assert_eq!(start(&mut record, Some(held), None), (reset(Reason::Retention, Some(end - 1)), end));
    assert_eq!(start(&mut record, Some(held), joined), (reset(Reason::Retention, Some(base - 1)), base));
}

#[test]
fn a_member_who_comes_before_his_node_begins_no_record() {
    let mut record = None;
    let member = AttachRequest { member: UserId::parse("bob").ok(), ..AttachRequest::default() };
    let beside = Beside { whose: Whose::Group, ..Beside::default() };
    assert_eq!(ask(&mut record, &member, &beside).1, None);
    assert_eq!(record, None);
}

#[test]
fn a_user_hears_of_his_groups_where_he_knows_another_version() {
    let mut record = None;
    let groups = BTreeSet::from([GroupId::parse("den").unwrap()]);
    let beside = Beside { groups: Some(&groups), ..Beside::default() };
    let known = |record: &mut Option<Record>, known: Option<u64>| {
        let asks = AttachRequest { groups_known: known, ..request(registration("a", 1, 1, Some("phone")), None) };
        ask(record, &asks, &beside).1.unwrap()
    };
    let attached = known(&mut record, Some(0));
    assert_eq!(attached.version, NOW_US, "he is in groups, so that his record cannot begin at 0");
    assert_eq!(attached.user, Some(OfUser { groups: groups.iter().cloned().collect(), all: None }));
    assert_eq!(known(&mut record, Some(NOW_US)).user, None);
    assert_eq!(known(&mut record, None).user, None, "not asked");
    let place = Cursor { epoch: Epoch([9; 8]), seq: 4, stamp: protocol::Stamp(40) };
    let field = fields::all_device(&DeviceId::parse("phone").unwrap());
    let inner = record.as_mut().unwrap();
    inner.ack(Whose::User, &field, place);
    inner.ack(Whose::User, &field, Cursor { stamp: protocol::Stamp(39), ..place });
    assert_eq!(known(&mut record, Some(7)).user.and_then(|user| user.all), Some(place), "and it never goes back");
}

#[test]
fn a_users_record_keeps_so_many_places_and_a_groups_any_number() {
    for (whose, kept) in [(Whose::User, 1_024), (Whose::Group, 2_000)] {
        let mut record = None;
        store(&mut record, whose, NOW_US, &[1]);
        let inner = record.as_mut().unwrap();
        let end = inner.end();
        (0..2_000).for_each(|n| inner.ack(whose, &Text::from(format!("u/d{n}")), end));
        assert_eq!(inner.cursors.len(), kept);
    }
}

#[test]
fn the_audience_is_what_each_node_says_of_itself() {
    let mut record = None;
    for (node, said) in
        [("a", Some("3")), ("b", Some("12")), ("c", Some("phone")), ("d", None), ("e", Some("99999999999"))]
    {
        ask(&mut record, &request(registration(node, 0, 1, said), None), &Beside::default());
    }
    ask(&mut record, &request(registration("a", 0, 1, Some("4")), None), &Beside::default());
    assert_eq!(record.unwrap().audience(), 16);
}
