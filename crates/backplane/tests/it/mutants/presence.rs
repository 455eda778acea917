//! Locations, who is here, and where a member begins.

use std::time::Duration;

use backplane::{AttachRequest, ChangeRequest, DetachRequest, Op};
use delivery::{Claim, PresenceOf, record};
use protocol::client::From;
use protocol::{ConnectionId, Live, Notice, UserId};
use testkit::redis::Redis;

use super::{COMMON, LATER, attach, caught, places};
use crate::fixtures::{Generation, batch, epoch, message, registration, topology};

const ATTACH: &str = include_str!("../../../src/redis/lua/attach.lua");
const DETACH: &str = include_str!("../../../src/redis/lua/detach.lua");
const PRESENCE: &str = include_str!("../../../src/redis/lua/presence.lua");
const REAP: &str = include_str!("../../../src/redis/lua/reap.lua");
const TOLD: &str = include_str!("../../../src/redis/lua/told.lua");
const VERIFY: &str = include_str!("../../../src/redis/lua/verify.lua");

async fn presence(generation: &Generation) -> PresenceOf {
    let user = UserId::parse("b").unwrap();
    generation.commands.presence(&[user], Some(600_000)).await.unwrap().remove(0).unwrap()
}

/// What this node hears of him: whether he is here. Asking would find what nobody said.
async fn heard(generation: &mut Generation) -> Vec<bool> {
    let mut heard = Vec::new();
    while let Ok(bundle) = tokio::time::timeout(Duration::from_millis(200), generation.subscription.next()).await {
        let lives = bundle.unwrap().items.into_iter().map(|item| item.live);
        heard.extend(lives.filter_map(|live| match live {
            Live::Notice(Notice::Presence { is_online, .. }) => Some(is_online),
            _ => None,
        }));
    }
    heard
}

async fn detach(generation: &Generation, connection: u64) {
    let request = DetachRequest { of: "user:b".into(), connection: ConnectionId(connection), reg: 1 };
    generation.commands.detach(&[request]).await.unwrap();
}

#[tokio::test]
async fn mutant_detach_says_offline_whoever_is_left() {
    let edit = ("pcall(settle_presence, keys, record, m and m.tail or '',", "pcall(settle_presence, keys, record, '',");
    caught(DETACH, &[edit], async |_, generation| {
        presence(generation).await;
        attach(generation, "a").await;
        attach(generation, "b").await;
        detach(generation, 1).await;
        heard(generation).await == [true]
    })
    .await;
}

/// The master before had a clock that was ahead.
#[tokio::test]
async fn mutant_presence_is_numbered_by_the_clock_alone() {
    caught(TOLD, &[("max((tonumber(there.version) or 0) + 1, ms)", "ms")], async |redis, generation| {
        let ahead = generation.commands.now_us() / 1_000 + 60_000;
        let key = topology("sb").keys().presence("user:b");
        redis.cli(&["HSET", &key, "version", &ahead.to_string(), "online", "0"]);
        attach(generation, "a").await;
        presence(generation).await.version > ahead
    })
    .await;
}

/// Nobody detaches for a node that was killed.
#[tokio::test]
async fn mutant_reap_says_nothing() {
    let edit = ("settle_presence(keys, ARGV[i], m and m.tail or '', m and m.v or 0, now)", "");
    caught(REAP, &[edit], async |_, generation| {
        presence(generation).await;
        attach(generation, "b").await;
        generation.commands.reap(&crate::fixtures::node("b")).await.unwrap();
        heard(generation).await == [true, false]
    })
    .await;
}

#[tokio::test]
async fn mutant_verify_does_not_look_who_is_here() {
    let edit = ("if ok then pcall(settle_presence, keys, record, m.tail, m.v, now, nil, is_moved) end", "");
    caught(VERIFY, &[edit], async |redis, generation| {
        presence(generation).await;
        let cursor = attach(generation, "a").await;
        redis.cli(&["DEL", &topology("sb").keys().presence("user:b")]);
        super::standing(generation, cursor).await;
        heard(generation).await == [true, true]
    })
    .await;
}

/// A last detach while the slot was on its way: who had no connection any more was here for ever.
#[tokio::test]
async fn mutant_who_asks_does_not_look() {
    let edit = ("pcall(settle_presence, keys, record, m and m.tail or '', m and m.v or 0, now)", "");
    caught(PRESENCE, &[edit], async |redis, generation| {
        attach(generation, "a").await;
        redis.cli(&["DEL", &topology("sb").keys().record("user:b").meta]);
        !presence(generation).await.is_online
    })
    .await;
}

async fn taken_over(generation: &Generation) -> bool {
    let attach = async |connection, reg, claim| {
        let mut request = record::AttachRequest::of(registration("a", connection, reg, None), vec![], From::Now);
        request.claim = claim;
        let request = AttachRequest { of: "user:b".into(), epoch: epoch("attached"), request };
        generation.commands.attach(&[request]).await.unwrap().remove(0).unwrap().registered
    };
    attach(1, 1, None).await;
    attach(2, 2, Some(Claim::TakesOver(ConnectionId(1)))).await;
    // A new generation: the node has not heard of it, and registers all that it has.
    attach(1, 3, None).await.iter().any(|one| one.connection == ConnectionId(1) && one.hand_over.is_some())
}

#[tokio::test]
async fn mutant_who_gave_his_place_gets_it_back_by_registering() {
    caught(COMMON, &[("row(found[2])", "row(0)")], async |_, generation| taken_over(generation).await).await;
}

#[tokio::test]
async fn mutant_nobody_gives_his_place() {
    caught(ATTACH, &[("c == other then why = '\\1' end", "c == other then end")], async |_, generation| {
        taken_over(generation).await
    })
    .await;
}

/// The first message that a member gets who joined behind the second of three.
async fn first_of_a_member(_redis: &Redis, generation: &mut Generation) -> bool {
    let of = "group:den";
    let user = UserId::parse("bob").unwrap();
    let append = async |ids: &[&str]| {
        let messages: Vec<_> = ids.iter().map(|id| message(id)).collect();
        generation.commands.append(&batch(of, None, LATER, &messages)).await.unwrap();
    };
    append(&["m1", "m2"]).await;
    let join = ChangeRequest { of: of.into(), epoch: epoch(of), user: user.clone(), op: Op::Join, again: None };
    generation.commands.change(LATER, &[join]).await.unwrap();
    append(&["m3"]).await;
    let request = record::AttachRequest { member: Some(user), from: From::Oldest, ..Default::default() };
    let request = AttachRequest { of: of.into(), epoch: epoch(of), request };
    let attached = generation.commands.attach(&[request]).await.unwrap().remove(0).unwrap();
    attached.joined.is_some() && attached.page.entries.first().is_some_and(|entry| &*entry.envelope.id == "m3")
}

#[tokio::test]
async fn mutant_a_member_begins_at_the_oldest_of_the_group() {
    let edit = ("return member == '' and m.b or floor_of(m, length, inbox, joined)", "return m.b");
    caught(ATTACH, &[edit], async |redis, generation| first_of_a_member(redis, generation).await).await;
}

/// An expired record of a user who is in groups: nobody is told of them if it begins as if he had never been in one.
#[tokio::test]
async fn mutant_a_new_record_forgets_that_there_are_groups() {
    caught(ATTACH, &[("m.v, m.is_changed = now, true", "")], async |_, generation| {
        let (user, group) = (UserId::parse("b").unwrap(), protocol::GroupId::parse("den").unwrap());
        let request = backplane::RegroupRequest { user, group, is_in: true };
        generation.commands.regroup(LATER, &[request]).await.unwrap();
        attach(generation, "a").await;
        places(generation, &[message("m1")]).await;
        generation.subscription.next().await.unwrap().items[0].version > 0
    })
    .await;
}
