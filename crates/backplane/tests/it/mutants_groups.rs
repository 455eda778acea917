//! The rules of the group scripts, each taken away. See `mutants.rs`.

use backplane::{Changed, MarkRequest, Op};
use delivery::Marked;
use protocol::Text;

use crate::groups::{LATER, attach, change, is_member, join, number};
use crate::mutants::{caught, cursor};

const CHANGE: &str = include_str!("../../src/redis/lua/change.lua");
const REGROUP: &str = include_str!("../../src/redis/lua/regroup.lua");
const COUNT: &str = include_str!("../../src/redis/lua/count.lua");
const MARK: &str = include_str!("../../src/redis/lua/mark.lua");

/// A counted number is given out again by the next master.
#[tokio::test]
async fn mutant_numbers_that_are_counted() {
    let edit = ("m.v = max(now, before + 1, newest + 1,", "m.v = max(before + 1, newest + 1,");
    caught(CHANGE, &[edit], async |_, generation| {
        let first = join(generation, "group:g", "ann").await;
        let second = join(generation, "group:g", "bob").await;
        second > first + 1
    })
    .await;
}

/// A record that expired began behind its own log.
#[tokio::test]
async fn mutant_numbers_that_forget_their_log() {
    let edit = ("before + 1, newest + 1,", "before + 1,");
    caught(CHANGE, &[edit], async |redis, generation| {
        let keys = crate::fixtures::topology("sb").keys().record("group:g");
        // As if the clock had been set back since.
        let ahead = join(generation, "group:g", "ann").await + 60_000_000;
        let lost = change(generation, "group:g", "bob", Op::Join, Some(ahead)).await;
        redis.cli(&["DEL", &keys.meta, &keys.inbox]);
        join(generation, "group:g", "cem").await > number(lost)
    })
    .await;
}

/// Who is there for the life of a connection is in no list, and went on receiving.
#[tokio::test]
async fn mutant_removal_of_members_only() {
    let edit = ("elseif op == 'l' and not joined then", "elseif op ~= 'j' and not joined then");
    caught(CHANGE, &[edit], async |_, generation| {
        matches!(change(generation, "group:g", "ann", Op::Remove, None).await, Changed::Done { .. })
    })
    .await;
}

/// What was asked again was done again: a member who had left came back.
#[tokio::test]
async fn mutant_again_ignored() {
    let edit = ("if is_in_force(keys.log, user, again, joined) then return '\\5' end", "");
    caught(CHANGE, &[edit], async |_, generation| {
        let joined = join(generation, "group:g", "ann").await;
        change(generation, "group:g", "ann", Op::Leave, None).await;
        change(generation, "group:g", "ann", Op::Join, Some(joined)).await;
        !is_member(generation, "group:g", "ann").await
    })
    .await;
}

/// A lost join that was done again got a newer number than the removal behind it, which then did nothing.
#[tokio::test]
async fn mutant_first_numbers_forgotten() {
    let edit = ("call('RPUSH', keys.log, again and row .. pack('>I8', again) or row)", "call('RPUSH', keys.log, row)");
    caught(CHANGE, &[edit], async |_, generation| {
        let known = join(generation, "group:g", "bob").await;
        change(generation, "group:g", "eve", Op::Join, Some(known + 1)).await;
        change(generation, "group:g", "eve", Op::Remove, Some(known + 2)).await;
        !is_member(generation, "group:g", "eve").await
    })
    .await;
}

#[tokio::test]
async fn mutant_change_without_a_deadline() {
    let edit = ("if now > tonumber(ARGV[1]) then return { 'S' .. pack('>I8', now) } end", "");
    caught(CHANGE, &[edit], async |_, generation| {
        let list = [crate::groups::request("group:g", "ann", Op::Join, None)];
        generation.commands.change(1, &list).await.unwrap() == backplane::ChangeResult::Stale
    })
    .await;
}

#[tokio::test]
async fn mutant_log_without_an_end() {
    caught(CHANGE, &[("if length >= changes_max then", "if false then")], async |redis, generation| {
        let list = vec![crate::groups::request("group:g", "ann", Op::Remove, None); 1_000];
        for _ in 0..5 {
            crate::groups::change_all(generation, &list).await;
        }
        redis.cli(&["LLEN", &crate::fixtures::topology("sb").keys().changes("group:g")]) == "4096"
    })
    .await;
}

#[tokio::test]
async fn mutant_no_pcall_around_a_change() {
    let edit = ("local ok, answer = pcall(one_request, key, at)", "local ok, answer = true, one_request(key, at)");
    caught(CHANGE, &[edit], async |redis, generation| {
        redis.cli(&["SET", &crate::fixtures::topology("sb").keys().members("group:g"), "x"]);
        let list = ["group:g", "group:h"].map(|of| crate::groups::request(of, "ann", Op::Join, None));
        drop(generation.commands.change(LATER, &list).await);
        is_member(generation, "group:h", "ann").await
    })
    .await;
}

/// A node that knew the set did not read it again.
#[tokio::test]
async fn mutant_a_set_without_a_version() {
    caught(REGROUP, &[("m.v = max(now, m.v + 1)", "")], async |_, generation| {
        attach(generation, "user:ann", "a", 1).await;
        let user = crate::groups::user("ann");
        let group = protocol::GroupId::parse("g").unwrap();
        let put = backplane::RegroupRequest { user: user.clone(), group, is_in: true };
        let (before, _) = generation.commands.groups_of(&user).await.unwrap();
        generation.commands.regroup(LATER, &[put]).await.unwrap().remove(0).unwrap();
        generation.commands.groups_of(&user).await.unwrap().0 > before
    })
    .await;
}

#[tokio::test]
async fn mutant_a_mark_that_goes_back() {
    let edit =
        ("if is_held and unpack_struct('>I8', stored, 9) >= unpack_struct('>I8', cursor, 9) then", "if false then");
    caught(MARK, &[edit], async |_, generation| {
        let (first, second) = (cursor(generation, "m1").await.unwrap(), cursor(generation, "m2").await.unwrap());
        let to = |cursor| MarkRequest { of: "user:b".into(), field: "/r".into(), cursor };
        let marked = generation.commands.mark(&[to(second), to(first)]).await.unwrap();
        marked == [Ok(Marked::Moved), Ok(Marked::Behind(second))]
    })
    .await;
}

/// A mark at the end of another history counted everything as read.
#[tokio::test]
async fn mutant_a_mark_that_is_not_checked() {
    let edit = ("mark and not check(m, length, inbox, mark) and", "mark and");
    caught(COUNT, &[edit], async |redis, generation| {
        cursor(generation, "m1").await;
        let cursors = crate::fixtures::topology("sb").keys().record("user:b").cursors;
        let write = "redis.call('HSET', KEYS[1], '/r', 'an epoch' .. struct.pack('>I8I8', 99, 7))";
        redis.cli(&["EVAL", write, "1", &cursors]);
        let (of, mark) = (Text::from("user:b"), Text::from("/r"));
        let request = backplane::CountRequest { reader: of.clone(), of, after: None, between: None, since: 0, mark };
        generation.commands.count(&request).await.unwrap().unread == 1
    })
    .await;
}
