//! What only a real Redis can show of groups: failovers, deadlines, bad keys, expiry, notices, and what a member costs.

use std::time::Duration;

use backplane::{
    AttachRequest, BackplaneError, ChangeRequest, ChangeResult, Changed, Op, RedisBackplane, RegroupRequest,
};
use delivery::record;
use protocol::bundle::Item;
use protocol::client::From;
use protocol::limits::CHANGES_MAX;
use protocol::{Change, GroupId, Live, Notice, Text, UserId};
use testkit::redis::Redis;

use crate::fixtures::{
    Generation, LIMITS, batch, embedded, epoch, message, open, open_redis, redis_settings, registration, replica_of,
    topology,
};

pub(crate) const LATER: u64 = u64::MAX >> 12;

pub(crate) fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

pub(crate) fn request(of: &str, id: &str, op: Op, again: Option<u64>) -> ChangeRequest {
    ChangeRequest { of: of.into(), epoch: epoch(of), user: user(id), op, again }
}

pub(crate) async fn change_all(
    generation: &Generation,
    list: &[ChangeRequest],
) -> Vec<Result<Changed, BackplaneError>> {
    match generation.commands.change(LATER, list).await.unwrap() {
        ChangeResult::Answered(answers) => answers,
        ChangeResult::Stale => panic!("stale"),
    }
}

pub(crate) async fn change(generation: &Generation, of: &str, id: &str, op: Op, again: Option<u64>) -> Changed {
    change_all(generation, &[request(of, id, op, again)]).await.remove(0).unwrap()
}

pub(crate) fn number(changed: Changed) -> u64 {
    match changed {
        Changed::Done { mseq, .. } => mseq,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn join(generation: &Generation, of: &str, id: &str) -> u64 {
    number(change(generation, of, id, Op::Join, None).await)
}

pub(crate) async fn is_member(generation: &Generation, of: &str, id: &str) -> bool {
    generation.commands.memberships(&of.into(), &[user(id)]).await.unwrap().joined[0].is_some()
}

async fn start() -> (Redis, Generation) {
    let redis = Redis::start().unwrap();
    let generation = open_redis(redis.url(), "sb", LIMITS).await;
    (redis, generation)
}

pub(crate) async fn attach(generation: &Generation, of: &str, name: &str, connection: u64) {
    let request = record::AttachRequest::of(registration(name, connection, 1, None), Vec::new(), From::Now);
    let request = AttachRequest { of: of.into(), epoch: epoch(of), request };
    generation.commands.attach(&[request]).await.unwrap().remove(0).unwrap();
}

async fn heard(generation: &mut Generation) -> Vec<Item> {
    let next = tokio::time::timeout(Duration::from_secs(5), generation.subscription.next());
    next.await.expect("a bundle").unwrap().items
}

/// A master with a member, and its replica that was promoted when the master had a second one.
async fn failed_over(lose: impl AsyncFn(&Generation)) -> (Redis, Redis, Generation) {
    let (redis, old) = start().await;
    join(&old, "group:g", "ann").await;
    let replica = replica_of(&redis).await;
    let new = topology("sb").keys().members("group:g");
    testkit::eventually("the replica has it", Duration::from_secs(5), async || {
        (replica.cli(&["HLEN", &new]) == "1").then_some(())
    })
    .await
    .unwrap();
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    lose(&old).await;
    drop(old);
    let new = open_redis(replica.url(), "sb", LIMITS).await;
    (redis, replica, new)
}

/// Numbers that were counted were given out twice: a node that had heard of the lost join took the removal for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_after_a_failover_never_gets_the_number_of_a_join_that_was_lost() {
    let lost = std::sync::Mutex::new(0);
    let (_old, _replica, new) =
        failed_over(async |old| *lost.lock().unwrap() = join(old, "group:g", "eve").await).await;
    let lost = lost.into_inner().unwrap();
    let removal = number(change(&new, "group:g", "ann", Op::Remove, None).await);
    assert!(removal > lost, "{removal} and {lost}");
    let of = Text::from("group:g");
    assert_eq!(new.commands.changes(&of, lost).await.unwrap().list, None, "nobody here knows that number");
    let known = new.commands.changes(&of, removal).await.unwrap();
    assert_eq!((known.list, known.members), (Some(Vec::new()), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_was_lost_is_asked_again_and_what_is_in_force_is_not_done_twice() {
    let lost = std::sync::Mutex::new((0, 0));
    let (_old, _replica, new) = failed_over(async |old| {
        let join = join(old, "group:g", "eve").await;
        *lost.lock().unwrap() = (join, number(change(old, "group:g", "ann", Op::Leave, None).await));
    })
    .await;
    let (joined, left) = lost.into_inner().unwrap();
    assert!(!is_member(&new, "group:g", "eve").await && is_member(&new, "group:g", "ann").await);
    let again = number(change(&new, "group:g", "eve", Op::Join, Some(joined)).await);
    assert!(again > joined && is_member(&new, "group:g", "eve").await);
    number(change(&new, "group:g", "ann", Op::Leave, Some(left)).await);
    assert!(!is_member(&new, "group:g", "ann").await);
    for (id, op, mseq) in [("eve", Op::Join, joined), ("eve", Op::Join, again), ("ann", Op::Leave, left)] {
        assert_eq!(change(&new, "group:g", id, op, Some(mseq)).await, Changed::InForce);
    }
    let list = new.commands.changes(&"group:g".into(), again).await.unwrap().list.unwrap();
    assert_eq!(list.len(), 1, "what is in force is not in the log twice: {list:?}");
    assert_eq!((&list[0].user, list[0].is_join), (&user("ann"), false));
}

#[tokio::test]
async fn a_join_is_not_asked_again_behind_a_leave() {
    let (_redis, generation) = start().await;
    let joined = join(&generation, "group:g", "ann").await;
    number(change(&generation, "group:g", "ann", Op::Leave, None).await);
    assert_eq!(change(&generation, "group:g", "ann", Op::Join, Some(joined)).await, Changed::InForce);
    assert!(!is_member(&generation, "group:g", "ann").await);
}

/// Both were lost, and the nodes that answered them ask again in whatever order. What was done again first got the newer
/// number, and passed for the newer change: who had been removed came back.
#[tokio::test]
async fn a_removal_behind_a_join_holds_in_whatever_order_both_are_asked_again() {
    let (_redis, generation) = start().await;
    for (of, join_is_first) in [("group:g", true), ("group:h", false)] {
        let joined = join(&generation, of, "bob").await + 1;
        let removed = joined + 1;
        if join_is_first {
            number(change(&generation, of, "eve", Op::Join, Some(joined)).await);
        }
        number(change(&generation, of, "eve", Op::Remove, Some(removed)).await);
        assert_eq!(change(&generation, of, "eve", Op::Join, Some(joined)).await, Changed::InForce);
        assert!(!is_member(&generation, of, "eve").await);
    }
}

#[tokio::test]
async fn a_log_that_is_longer_than_it_may_be_says_that_it_does_not_know() {
    let (redis, generation) = start().await;
    let of = Text::from("group:g");
    let first = join(&generation, &of, "ann").await;
    let removals = vec![request(&of, "bob", Op::Remove, None); 512];
    for _ in 0..CHANGES_MAX / removals.len() {
        change_all(&generation, &removals).await;
    }
    assert_eq!(generation.commands.changes(&of, first).await.unwrap().list, None);
    assert_eq!(redis.cli(&["LLEN", &topology("sb").keys().changes(&of)]), CHANGES_MAX.to_string());
    // Who was a member before is one.
    let told = generation.commands.memberships(&of, &[user("ann"), user("bob")]).await.unwrap();
    assert_eq!((told.joined, told.members), (vec![Some(first), None], 1));
    // The numbers of one call follow each other.
    let newest = generation.commands.changes(&of, told.version - 3).await.unwrap();
    assert_eq!(newest.list.map(|list| list.len()), Some(3));
}

/// The bound is one of the script's arguments: here it is told another one.
#[tokio::test]
async fn a_group_that_is_full_says_so_until_somebody_goes() {
    let redis = Redis::start().unwrap();
    let edit =
        |text: &str| text.replace("members_max, changes_max = tonumber(ARGV[3])", "members_max, changes_max = 2");
    let settings = redis_settings(redis.url(), "sb", LIMITS);
    let generation = open(&RedisBackplane::with_script_edit(settings, &edit).unwrap()).await;
    let list = ["ann", "bob", "cem"].map(|id| request("group:g", id, Op::Join, None));
    let answers: Vec<Changed> = change_all(&generation, &list).await.into_iter().map(Result::unwrap).collect();
    assert!(matches!(answers[..], [Changed::Done { .. }, Changed::Done { members: 2, .. }, Changed::Full]));
    assert!(matches!(change(&generation, "group:g", "ann", Op::Join, None).await, Changed::Already { .. }));
    number(change(&generation, "group:g", "ann", Op::Leave, None).await);
    number(change(&generation, "group:g", "cem", Op::Join, None).await);
}

#[tokio::test]
async fn a_bad_key_under_one_group_fails_its_own_change_only() {
    let (redis, generation) = start().await;
    let topology = topology("sb");
    let keys = topology.keys();
    for of in ["group:meta", "group:inbox", "group:members", "group:log", "group:long"] {
        join(&generation, of, "ann").await;
    }
    redis.cli(&["SETRANGE", &keys.record("group:meta").meta, "0", "x"]);
    redis.cli(&["DEL", &keys.record("group:inbox").inbox, &keys.members("group:members"), &keys.changes("group:log")]);
    redis.cli(&["SET", &keys.record("group:inbox").inbox, "x"]);
    redis.cli(&["SET", &keys.members("group:members"), "x"]);
    redis.cli(&["SET", &keys.changes("group:log"), "x"]);
    redis.cli(&["HSET", &keys.members("group:long"), "bob", "x"]);
    let groups = ["group:a", "group:meta", "group:inbox", "group:members", "group:log", "group:long", "group:b"];
    let before = redis.cli(&["GET", &keys.record("group:log").meta]);
    let list = groups.map(|of| request(of, "bob", Op::Join, None));
    let answers = change_all(&generation, &list).await;
    for (of, answer) in groups.iter().zip(answers) {
        let is_good = ["group:a", "group:b"].contains(of);
        match answer {
            Ok(Changed::Done { members: 1, .. }) if is_good => {}
            Err(BackplaneError::NotRun(_)) if !is_good => {}
            other => panic!("{of}: {other:?}"),
        }
    }
    assert_eq!(redis.cli(&["GET", &keys.record("group:log").meta]), before, "what fails writes nothing");
    assert!(generation.commands.changes(&"group:log".into(), 7).await.is_err());
    assert!(generation.commands.members(&"group:members".into(), 0, 10).await.is_err());
    assert!(generation.commands.memberships(&"group:long".into(), &[user("bob")]).await.is_err());
}

#[tokio::test]
async fn a_change_reaches_every_node_where_the_group_is_once() {
    let (redis, mut generation) = start().await;
    let (backplane, _clock) = embedded(LIMITS);
    let mut embedded = open(&backplane).await;
    for generation in [&mut generation, &mut embedded] {
        // Two places here, none of `group:h`.
        attach(generation, "group:g", "a", 0).await;
        attach(generation, "group:g", "a", 7).await;
        let list = [
            request("group:g", "ann", Op::Join, None),
            request("group:h", "ann", Op::Join, None),
            request("group:g", "bob", Op::Remove, None),
        ];
        let answers: Vec<Changed> = change_all(generation, &list).await.into_iter().map(Result::unwrap).collect();
        let Changed::Done { mseq: joined, before, .. } = answers[0] else { panic!("done") };
        let removed = number(answers[2]);
        let changes = vec![
            Change { mseq: joined, user: user("ann"), is_join: true },
            Change { mseq: removed, user: user("bob"), is_join: false },
        ];
        let notice = Notice::Members { before, count: 1, changes };
        let item = Item { record: "group:g".into(), version: removed, live: Live::Notice(notice) };
        assert_eq!(heard(generation).await, [item]);
        // What is stored behind it carries its number.
        generation.commands.append(&batch("group:g", None, LATER, &[message("m1")])).await.unwrap();
        let items = heard(generation).await;
        let Live::Entry(entry) = &items[0].live else { panic!("an entry") };
        assert_eq!((items[0].version, entry.mseq), (removed, Some(removed)));
    }
    drop(redis);
}

#[tokio::test]
async fn a_users_nodes_hear_that_his_groups_are_others() {
    let (_redis, mut generation) = start().await;
    let put =
        |id: &str, group: &str, is_in| RegroupRequest { user: user(id), group: GroupId::parse(group).unwrap(), is_in };
    // Nobody is there: only the set changes.
    let list = [put("ann", "g", true), put("bob", "g", true), put("ann", "h", true), put("ann", "h", false)];
    assert_eq!(generation.commands.regroup(LATER, &list).await.unwrap(), [Ok(true), Ok(true), Ok(true), Ok(true)]);
    assert_eq!(generation.commands.groups_of(&user("ann")).await.unwrap(), (0, vec![GroupId::parse("g").unwrap()]));
    attach(&generation, "user:ann", "a", 1).await;
    let (begun, _) = generation.commands.groups_of(&user("ann")).await.unwrap();
    assert!(begun > 0, "a record that begins where there is a set has a version");
    generation.commands.regroup(LATER, &list[..3]).await.unwrap();
    let items = heard(&mut generation).await;
    let (version, groups) = generation.commands.groups_of(&user("ann")).await.unwrap();
    assert!(version > begun && groups.len() == 2);
    assert_eq!(items, [Item { record: "user:ann".into(), version, live: Live::Notice(Notice::Groups) }]);
}

#[tokio::test]
async fn a_257th_group_is_refused() {
    let (_redis, generation) = start().await;
    let put =
        |n: u32| RegroupRequest { user: user("ann"), group: GroupId::parse(&format!("g{n}")).unwrap(), is_in: true };
    let list: Vec<RegroupRequest> = (0..257).map(put).collect();
    let answers = generation.commands.regroup(LATER, &list).await.unwrap();
    assert!(answers[..256].iter().all(|answer| *answer == Ok(true)));
    assert_eq!(answers[256], Ok(false));
}

#[tokio::test]
async fn past_the_deadline_nothing_is_changed_and_the_clock_is_set_right() {
    let (_redis, generation) = start().await;
    let now = generation.commands.now_us();
    let list = [request("group:g", "ann", Op::Join, None)];
    let late = now - 60_000_000;
    assert_eq!(generation.commands.change(late, &list).await.unwrap(), ChangeResult::Stale);
    let put = RegroupRequest { user: user("ann"), group: GroupId::parse("g").unwrap(), is_in: true };
    assert!(matches!(generation.commands.regroup(late, &[put]).await, Err(BackplaneError::NotRun(_))));
    assert!(!is_member(&generation, "group:g", "ann").await);
    assert_eq!(generation.commands.groups_of(&user("ann")).await.unwrap(), (0, Vec::new()));
    assert!(generation.commands.now_us().abs_diff(now) < 2_000_000);
}

#[tokio::test]
async fn members_stay_and_what_says_nothing_any_more_goes_with_the_record() {
    let (redis, generation) = start().await;
    let topology = topology("sb");
    let keys = topology.keys();
    let expiry = |key: &str| redis.cli(&["PEXPIRETIME", key]);
    let (record, members, log) = (keys.record("group:g"), keys.members("group:g"), keys.changes("group:g"));
    join(&generation, "group:g", "ann").await;
    assert_eq!([expiry(&members), expiry(&log)], ["-1", "-1"]);
    assert!(expiry(&record.meta) == expiry(&record.inbox) && expiry(&record.meta) != "-1");
    number(change(&generation, "group:g", "ann", Op::Leave, None).await);
    assert_eq!(expiry(&log), expiry(&record.meta), "nobody is a member");
    join(&generation, "group:g", "bob").await;
    assert_eq!(expiry(&log), "-1");
    // The record expires; the group goes on behind all its numbers.
    let known = generation.commands.changes(&"group:g".into(), 0).await.unwrap().version;
    redis.cli(&["DEL", &record.meta, &record.inbox]);
    assert_eq!(generation.commands.changes(&"group:g".into(), known).await.unwrap().version, 0);
    assert!(join(&generation, "group:g", "cem").await > known);
    assert!(is_member(&generation, "group:g", "bob").await);
}

#[tokio::test]
async fn every_member_of_a_large_group_is_in_one_of_its_pages() {
    let (_redis, generation) = start().await;
    let of = Text::from("group:g");
    let list: Vec<_> = (0..2_000).map(|n| request(&of, &format!("user-{n}"), Op::Join, None)).collect();
    for part in list.chunks(500) {
        change_all(&generation, part).await;
    }
    let (mut seen, mut from, mut pages) = (std::collections::HashSet::new(), 0, 0);
    loop {
        let page = generation.commands.members(&of, from, 300).await.unwrap();
        assert_eq!(page.members, 2_000);
        seen.extend(page.users);
        (from, pages) = (page.next, pages + 1);
        if from == 0 {
            break;
        }
    }
    assert!(seen.len() == 2_000 && pages > 3, "{} members in {pages} pages", seen.len());
}

/// What a member costs: his row in the group and in its log, and the set of his own groups.
#[tokio::test]
async fn a_member_costs_at_most_250_bytes_of_redis() {
    const MEMBERS: u64 = 10_000;
    let (redis, generation) = start().await;
    let topology = topology("sb");
    let keys = topology.keys();
    let used = || -> u64 {
        let info = redis.cli(&["INFO", "memory"]);
        info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap()
    };
    // Scripts are loaded and buffers grown before anything is measured.
    join(&generation, "group:warm", "ann").await;
    let names: Vec<String> = (0..MEMBERS).map(|n| format!("user-{}", 100_000 + n)).collect();
    let before = used();
    for part in names.chunks(500) {
        let list: Vec<_> = part.iter().map(|id| request("group:g", id, Op::Join, None)).collect();
        change_all(&generation, &list).await;
        let put = |id: &String| RegroupRequest { user: user(id), group: GroupId::parse("g").unwrap(), is_in: true };
        let list: Vec<_> = part.iter().map(put).collect();
        assert!(generation.commands.regroup(LATER, &list).await.unwrap().iter().all(|answer| *answer == Ok(true)));
    }
    let usage = |key: &str| -> u64 { redis.cli(&["MEMORY", "USAGE", key, "SAMPLES", "0"]).parse().unwrap() };
    let (members, log) = (usage(&keys.members("group:g")), usage(&keys.changes("group:g")));
    let sum = "local sum = 0; for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
        sum = sum + redis.call('MEMORY', 'USAGE', key, 'SAMPLES', '0') end; return sum";
    let sets: u64 = redis.cli(&["EVAL", sum, "0", "sb:*:g:user:*"]).parse().unwrap();
    let a_member = (members + log + sets) / MEMBERS;
    println!(
        "{MEMBERS} members: {} bytes each in the group, {} in its log, {} in their own sets: {a_member} together; \
         used_memory grew by {} each",
        members / MEMBERS,
        log / MEMBERS,
        sets / MEMBERS,
        used().saturating_sub(before) / MEMBERS
    );
    assert!(a_member <= 250, "{a_member} bytes a member");
}
