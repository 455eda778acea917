use super::*;
use protocol::Epoch;

const LIMITS: Limits = Limits { retention_ms: 600_000, inbox_max: 100, inbox_bytes: 1 << 20, retry_young_us: 1 };
const SMALL: Bounds = Bounds { members: 3, changes: 4, groups: 2 };

fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

/// One group on one master.
#[derive(Clone, Debug, Default)]
struct Master {
    record: Option<Record>,
    members: Members,
}

impl Master {
    fn ask(&mut self, now_us: u64, op: Op, id: &str, again: Option<u64>) -> Changed {
        let request = ChangeRequest { of: "group:g".into(), epoch: Epoch([1; 8]), user: user(id), op, again };
        change(&mut self.record, &mut self.members, now_us, &request, &SMALL, &LIMITS)
    }

    fn join(&mut self, now_us: u64, id: &str) -> u64 {
        number(self.ask(now_us, Op::Join, id, None))
    }

    fn is_member(&self, id: &str) -> bool {
        self.members.joined.contains_key(&user(id))
    }
}

fn number(changed: Changed) -> u64 {
    match changed {
        Changed::Done { mseq, .. } => mseq,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_joins_is_a_member_since_his_number_and_who_leaves_is_none() {
    let mut master = Master::default();
    let first = master.ask(1_000, Op::Join, "ann", None);
    assert_eq!(first, Changed::Done { mseq: 1_001, before: 1_000, members: 1 }, "the record began at 1,000");
    assert_eq!(master.ask(2_000, Op::Join, "ann", None), Changed::Already { mseq: 1_001, members: 1 });
    assert_eq!(master.ask(2_000, Op::Leave, "bob", None), Changed::NotMember);
    assert_eq!(master.ask(2_000, Op::Join, "bob", None), Changed::Done { mseq: 2_000, before: 1_001, members: 2 });
    assert_eq!(master.ask(2_000, Op::Leave, "ann", None), Changed::Done { mseq: 2_001, before: 2_000, members: 1 });
    let told = master.members.memberships(master.record.as_ref(), &[user("ann"), user("bob")]);
    assert_eq!(told, Memberships { version: 2_001, members: 1, joined: vec![None, Some(2_000)] });
}

#[test]
fn a_removal_is_written_for_one_who_is_not_listed_too() {
    let mut master = Master::default();
    master.join(1_000, "ann");
    assert_eq!(master.ask(2_000, Op::Remove, "bob", None), Changed::Done { mseq: 2_000, before: 1_001, members: 1 });
    let list = master.members.changes(master.record.as_ref(), 1_001).list;
    assert_eq!(list, Some(vec![Change { mseq: 2_000, user: user("bob"), is_join: false }]));
}

#[test]
fn a_group_that_is_full_takes_nobody_but_its_members_again() {
    let mut master = Master::default();
    for id in ["ann", "bob", "cem"] {
        master.join(1_000, id);
    }
    assert_eq!(master.ask(1_000, Op::Join, "dan", None), Changed::Full);
    assert!(matches!(master.ask(1_000, Op::Join, "ann", None), Changed::Already { members: 3, .. }));
    master.ask(1_000, Op::Leave, "ann", None);
    assert!(matches!(master.ask(1_000, Op::Join, "dan", None), Changed::Done { members: 3, .. }));
}

/// Numbers that were counted were given out twice: after a failover a removal got the number of a lost join, and nodes
/// that had heard of the join took the removal for it.
#[test]
fn a_removal_after_a_failover_never_gets_the_number_of_a_lost_join() {
    let mut old = Master::default();
    old.join(1_000, "ann");
    let mut new = old.clone();
    let lost = old.join(5_000, "eve");
    let removal = number(new.ask(5_200, Op::Remove, "ann", None));
    assert!(removal > lost);
    // A node that knows the lost number learns that the log does not.
    assert_eq!(new.members.changes(new.record.as_ref(), lost).list, None);
}

#[test]
fn a_join_that_was_lost_is_done_again_and_one_that_is_in_force_is_not() {
    let mut old = Master::default();
    let kept = old.join(1_000, "ann");
    let mut new = old.clone();
    let lost = old.join(5_000, "bob");
    assert_eq!(new.ask(6_000, Op::Join, "ann", Some(kept)), Changed::InForce);
    // Also beside a master whose clock is behind.
    let again = number(new.ask(4_000, Op::Join, "bob", Some(lost)));
    assert!(again > lost);
    assert_eq!(new.ask(6_000, Op::Join, "bob", Some(lost)), Changed::InForce);
}

#[test]
fn a_leave_that_was_lost_is_done_again_unless_the_user_joined_behind_it() {
    let mut old = Master::default();
    old.join(1_000, "ann");
    old.join(1_000, "bob");
    let mut new = old.clone();
    let ann = number(old.ask(5_000, Op::Leave, "ann", None));
    let bob = number(old.ask(5_000, Op::Leave, "bob", None));
    new.ask(6_000, Op::Leave, "bob", None);
    new.join(6_500, "bob");
    new.ask(7_000, Op::Leave, "ann", Some(ann));
    assert!(!new.is_member("ann"));
    assert_eq!(new.ask(7_000, Op::Leave, "bob", Some(bob)), Changed::InForce);
    assert!(new.is_member("bob"));
}

/// The join that counts was done after a leave; both were lost, and another node remembers the leave. What was done again
/// first got the newer number, and passed for the newer change.
#[test]
fn a_join_that_was_lost_behind_a_leave_stays_in_whatever_order_both_are_asked_again() {
    for leave_is_first in [true, false] {
        let mut old = Master::default();
        old.join(1_000, "ann");
        let mut new = old.clone();
        let leave = number(old.ask(5_000, Op::Leave, "ann", None));
        let join = old.join(5_500, "ann");
        if leave_is_first {
            new.ask(6_000, Op::Leave, "ann", Some(leave));
        }
        new.ask(6_000, Op::Join, "ann", Some(join));
        new.ask(6_000, Op::Leave, "ann", Some(leave));
        assert!(new.members.joined.get(&user("ann")).is_some_and(|joined| *joined > join));
    }
}

#[test]
fn who_was_removed_behind_his_join_stays_out_in_whatever_order_both_are_asked_again() {
    for join_is_first in [true, false] {
        let mut old = Master::default();
        old.join(1_000, "bob");
        let mut new = old.clone();
        let join = old.join(5_000, "eve");
        let removal = number(old.ask(5_500, Op::Remove, "eve", None));
        if join_is_first {
            new.ask(6_000, Op::Join, "eve", Some(join));
        }
        new.ask(6_000, Op::Remove, "eve", Some(removal));
        assert_eq!(new.ask(6_000, Op::Join, "eve", Some(join)), Changed::InForce);
        assert!(!new.is_member("eve"));
    }
}

#[test]
fn a_join_is_not_done_again_behind_a_later_leave() {
    let mut master = Master::default();
    let join = master.join(1_000, "ann");
    master.ask(2_000, Op::Leave, "ann", None);
    assert_eq!(master.ask(3_000, Op::Join, "ann", Some(join)), Changed::InForce);
    // Not when the log has forgotten the leave, either.
    for n in 0..5 {
        master.ask(4_000 + n, Op::Remove, "bob", None);
    }
    assert_eq!(master.ask(5_000, Op::Join, "ann", Some(join)), Changed::InForce);
    assert!(!master.is_member("ann"));
}

#[test]
fn a_removal_that_was_lost_is_done_again_once() {
    let mut master = Master::default();
    master.join(1_000, "ann");
    let again = number(master.ask(6_000, Op::Remove, "bob", Some(5_000)));
    assert_eq!(master.ask(7_000, Op::Remove, "bob", Some(5_000)), Changed::InForce);
    assert_eq!(master.ask(7_000, Op::Remove, "bob", Some(again)), Changed::InForce);
}

#[test]
fn a_log_keeps_the_newest_changes_and_says_so_of_older_ones() {
    let mut master = Master::default();
    let numbers: Vec<u64> = (1..7).map(|n| number(master.ask(1_000 * n, Op::Remove, "ann", None))).collect();
    let list = |after| master.members.changes(master.record.as_ref(), after).list.map(|list| list.len());
    assert_eq!([list(numbers[5]), list(numbers[3]), list(numbers[2])], [Some(0), Some(2), Some(3)]);
    assert_eq!([list(numbers[1]), list(numbers[3] + 1), list(0)], [None, None, None]);
    assert_eq!(Members::default().changes(None, 0).list, Some(Vec::new()), "nothing is known, and there is nothing");
}

/// Members stay; a record goes when nobody writes or listens for long.
#[test]
fn a_record_that_expired_begins_behind_all_numbers_of_its_group() {
    let mut master = Master::default();
    let joined = master.join(1_000, "ann");
    let later = 1_000 + 2 * LIMITS.life_ms() * 1_000;
    let next = master.join(later, "bob");
    assert!(next > later && master.is_member("ann"));
    // A clock that was set back: the log still grows.
    master.record = None;
    assert!(number(master.ask(2_000, Op::Leave, "ann", None)) > next);
    assert!(joined < next);
}

#[test]
fn every_member_is_in_one_of_the_pages_whoever_comes_and_goes_meanwhile() {
    let members =
        Members { joined: (0..10).map(|n| (user(&format!("u{n}")), 100 + n)).collect(), ..Members::default() };
    let first = members.page(0, 4);
    assert_eq!((first.members, first.users.len()), (10, 4));
    let mut meanwhile = members.clone();
    meanwhile.joined.remove(&user("u1"));
    meanwhile.joined.insert(user("new"), 200);
    let (second, third) = (meanwhile.page(first.next, 4), meanwhile.page(meanwhile.page(first.next, 4).next, 4));
    assert_eq!(third.next, 0);
    let seen: Vec<UserId> = [first.users, second.users, third.users].concat();
    assert!((0..10).all(|n| seen.contains(&user(&format!("u{n}")))));
}

#[test]
fn a_users_set_has_a_version_in_his_record_if_he_has_one() {
    let group = |id: &str| GroupId::parse(id).unwrap();
    let (mut set, mut none) = (BTreeSet::new(), None);
    let put = |record: &mut Option<Record>, set: &mut BTreeSet<GroupId>, id: &str, is_in| {
        regroup(record.as_mut(), set, 5_000, &group(id), is_in, &SMALL)
    };
    assert_eq!(put(&mut none, &mut set, "a", true), Regrouped::Changed(None));
    let mut record = Some(Record::begin(Whose::User, Epoch([1; 8]), 1_000, &LIMITS));
    assert_eq!(put(&mut record, &mut set, "a", true), Regrouped::Same);
    assert_eq!(put(&mut record, &mut set, "b", true), Regrouped::Changed(Some(5_000)));
    assert_eq!(put(&mut record, &mut set, "c", true), Regrouped::Full);
    assert_eq!(put(&mut record, &mut set, "a", false), Regrouped::Changed(Some(5_001)));
    assert_eq!(put(&mut record, &mut set, "a", false), Regrouped::Same);
    assert_eq!(set, BTreeSet::from([group("b")]));
}

#[test]
fn what_one_call_changed_in_one_group_is_told_at_once() {
    let mut master = Master::default();
    let request =
        |of: &str, id: &str, op| ChangeRequest { of: of.into(), epoch: Epoch([1; 8]), user: user(id), op, again: None };
    let requests = [
        request("group:g", "ann", Op::Join),
        request("group:h", "ann", Op::Join),
        request("group:g", "ann", Op::Join),
        request("group:g", "bob", Op::Join),
    ];
    let mut other = Master::default();
    let done: Vec<Changed> = requests
        .iter()
        .map(|r| {
            let master = if &*r.of == "group:g" { &mut master } else { &mut other };
            change(&mut master.record, &mut master.members, 1_000, r, &SMALL, &LIMITS)
        })
        .collect();
    let told = told(requests.iter().zip(done));
    assert_eq!(told.iter().map(|t| (&*t.of, t.version)).collect::<Vec<_>>(), [("group:g", 1_002), ("group:h", 1_001)]);
    let protocol::Notice::Members { before, count, changes } = &told[0].notice else { panic!("members") };
    assert_eq!((*before, *count, changes.len()), (1_000, 2, 2));
}
