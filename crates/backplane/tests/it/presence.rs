//! Who is here, who hears of it, and who gives his place to whom, on a real Redis with several nodes.

use std::time::Duration;

use backplane::{
    AttachRequest, BackplaneError, DetachRequest, RedisBackplane, RedisSettings, SharedNode, VerifyRequest,
};
use delivery::{Attached, Claim, Place, PresenceOf, record};
use protocol::client::From;
use protocol::{ConnectionId, Cursor, HandOver, Live, Notice, Text, UserId};
use testkit::redis::Redis;

use crate::fixtures::{
    Generation, LIMITS, acked, batch, epoch, message, node, open, redis_settings, registered, registration, topology,
};

const LATER: u64 = u64::MAX >> 12;
const HOUR_MS: u64 = 3_600_000;

async fn open_as(redis: &Redis, name: &str) -> Generation {
    let node = SharedNode::new(node(name));
    let process = u64::from(name.as_bytes()[0]);
    let settings = RedisSettings { node, process, ..redis_settings(redis.url(), "sb", LIMITS) };
    open(&RedisBackplane::new(settings).unwrap()).await
}

/// Node a, node b, and w, where somebody watches bob.
async fn start() -> (Redis, [Generation; 3]) {
    let redis = Redis::start().unwrap();
    let all = [open_as(&redis, "a").await, open_as(&redis, "b").await, open_as(&redis, "w").await];
    presence(&all[2], Some(HOUR_MS)).await;
    (redis, all)
}

fn bob() -> UserId {
    UserId::parse("bob").unwrap()
}

async fn presence(generation: &Generation, watch_ms: Option<u64>) -> PresenceOf {
    generation.commands.presence(&[bob()], watch_ms).await.unwrap().remove(0).unwrap()
}

fn attach_of(name: &str, connection: u64, reg: u64, device: Option<&str>) -> AttachRequest {
    let request = record::AttachRequest::of(registration(name, connection, reg, device), vec![], From::Now);
    AttachRequest { of: "user:bob".into(), epoch: epoch(name), request }
}

async fn attach(generation: &Generation, request: AttachRequest) -> Attached {
    generation.commands.attach(&[request]).await.unwrap().remove(0).unwrap()
}

async fn detach(generation: &Generation, connection: u64, reg: u64) {
    let request = DetachRequest { of: "user:bob".into(), connection: ConnectionId(connection), reg };
    generation.commands.detach(&[request]).await.unwrap();
}

/// The next notice that a node hears.
async fn heard(generation: &mut Generation) -> (Text, Notice) {
    let next = tokio::time::timeout(Duration::from_secs(3), generation.subscription.next());
    let mut bundle = next.await.expect("it is told").unwrap();
    assert_eq!(bundle.items.len(), 1, "{bundle:?}");
    let item = bundle.items.remove(0);
    let Live::Notice(notice) = item.live else { panic!("{:?}", item.live) };
    (item.record, notice)
}

async fn hears_nothing(generation: &mut Generation) {
    let next = tokio::time::timeout(Duration::from_millis(150), generation.subscription.next()).await;
    assert!(next.is_err(), "{next:?}");
}

/// What w hears of bob: the version, and whether he is here.
async fn change(generation: &mut Generation) -> (u64, bool) {
    let (of, notice) = heard(generation).await;
    let Notice::Presence { version, is_online, .. } = notice else { panic!("{notice:?}") };
    assert_eq!(&*of, "user:bob");
    (version, is_online)
}

#[tokio::test]
async fn a_user_is_here_while_a_location_is_left_on_any_node_and_who_watches_hears_the_ends() {
    let (_redis, [a, b, mut w]) = start().await;
    assert_eq!(presence(&a, None).await, PresenceOf::default(), "nobody has seen him");
    attach(&a, attach_of("a", 1, 1, Some("phone"))).await;
    let (first, is_online) = change(&mut w).await;
    assert!(is_online);
    attach(&b, attach_of("b", 2, 1, None)).await;
    let here = presence(&a, None).await;
    let names: std::collections::BTreeSet<&str> = here.devices.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((here.version, here.is_online), (first, true));
    assert_eq!(names, ["0000000000000002", "phone"].into());
    detach(&a, 1, 1).await;
    assert_eq!(presence(&a, None).await.devices.len(), 1, "the phone is gone, he is not");
    hears_nothing(&mut w).await;
    detach(&b, 2, 1).await;
    let (second, is_online) = change(&mut w).await;
    assert!(!is_online && second > first);
    let left = presence(&a, None).await;
    assert_eq!((left.version, left.is_online, left.devices.len()), (second, false, 0));
}

/// A client came back to another node before the old one noticed: the old one's detach comes last.
#[tokio::test]
async fn a_late_detach_says_nothing_of_who_came_back() {
    let (_redis, [a, b, mut w]) = start().await;
    attach(&a, attach_of("a", 1, 1, Some("phone"))).await;
    attach(&b, attach_of("b", 2, 1, Some("phone"))).await;
    attach(&a, attach_of("a", 1, 3, Some("phone"))).await;
    assert!(change(&mut w).await.1);
    detach(&b, 2, 1).await;
    detach(&a, 1, 2).await;
    hears_nothing(&mut w).await;
    assert!(presence(&w, None).await.is_online);
}

#[tokio::test]
async fn a_dead_node_takes_with_it_who_was_nowhere_else() {
    let (redis, [a, b, mut w]) = start().await;
    let carol = AttachRequest { of: "user:carol".into(), ..attach_of("b", 7, 1, None) };
    let here = AttachRequest { of: "user:carol".into(), ..attach_of("a", 8, 1, None) };
    b.commands.attach(&[attach_of("b", 2, 1, Some("phone")), carol]).await.unwrap();
    attach(&a, here).await;
    let (online, _) = change(&mut w).await;
    drop(b);
    assert_eq!(a.commands.reap(&node("b")).await.unwrap(), 2);
    let (offline, is_online) = change(&mut w).await;
    assert!(!is_online && offline > online);
    let both = [bob(), UserId::parse("carol").unwrap()];
    let both = a.commands.presence(&both, None).await.unwrap();
    let here: Vec<bool> = both.into_iter().map(|one| one.unwrap().is_online).collect();
    assert_eq!(here, [false, true]);
    let names = topology("sb");
    assert_eq!(redis.cli(&["EXISTS", &names.keys().located("user:bob", &node("b"))]), "0");
}

/// Redis lost its last writes, or a slot was on its way: what was not written is found by the next position check.
#[tokio::test]
async fn a_presence_that_was_lost_is_said_again_by_the_next_verify() {
    let (redis, [a, _b, mut w]) = start().await;
    let attached = attach(&a, attach_of("a", 1, 1, Some("phone"))).await;
    let (first, _) = change(&mut w).await;
    let names = topology("sb");
    redis.cli(&["DEL", &names.keys().presence("user:bob")]);
    // The version is the clock's again, in milliseconds.
    tokio::time::sleep(Duration::from_millis(3)).await;
    let registration = registration("a", 1, 1, Some("phone"));
    let verify = VerifyRequest { of: "user:bob".into(), registration, cursor: attached.cursor };
    a.commands.verify(std::slice::from_ref(&verify)).await.unwrap().remove(0).unwrap();
    let (again, is_online) = change(&mut w).await;
    assert!(is_online && again > first);
    a.commands.verify(&[verify]).await.unwrap().remove(0).unwrap();
    hears_nothing(&mut w).await;
    let days: u64 = redis.cli(&["TTL", &names.keys().presence("user:bob")]).parse().unwrap();
    assert!((29 * 86_400..=30 * 86_400).contains(&days), "{days}");
}

/// Connections that stay for days write nothing. What their node has located was forgotten after one, and when the node died
/// they were here for ever.
#[tokio::test]
async fn a_node_that_dies_after_days_of_quiet_takes_with_it_who_was_there() {
    let (redis, [a, b, mut w]) = start().await;
    let attached = attach(&a, attach_of("a", 1, 1, Some("phone"))).await;
    change(&mut w).await;
    let names = topology("sb");
    let located = names.keys().located("user:bob", &node("a"));
    redis.cli(&["EXPIRE", &located, "40000"]);
    let registration = registration("a", 1, 1, Some("phone"));
    let verify = VerifyRequest { of: "user:bob".into(), registration, cursor: attached.cursor };
    a.commands.verify(std::slice::from_ref(&verify)).await.unwrap().remove(0).unwrap();
    let left: u64 = redis.cli(&["TTL", &located]).parse().unwrap();
    assert!((86_000..=86_400).contains(&left), "{left}");
    redis.cli(&["DEL", &located]);
    a.commands.verify(&[verify]).await.unwrap().remove(0).unwrap();
    assert_eq!(b.commands.reap(&node("a")).await.unwrap(), 1);
    assert!(!change(&mut w).await.1);
}

/// A last detach while the slot was on its way leaves the user here: nobody checks the place of who has no connection.
#[tokio::test]
async fn who_asks_finds_that_a_user_has_gone_unsaid() {
    let (redis, [a, _b, mut w]) = start().await;
    attach(&a, attach_of("a", 1, 1, Some("phone"))).await;
    let (first, _) = change(&mut w).await;
    redis.cli(&["DEL", &topology("sb").keys().record("user:bob").meta]);
    let found = presence(&a, None).await;
    assert_eq!((found.is_online, found.devices.len()), (false, 0));
    assert_eq!(change(&mut w).await, (found.version, false));
    assert!(found.version > first);
}

#[tokio::test]
async fn who_watches_no_more_hears_nothing_and_a_shorter_time_takes_nothing_back() {
    let (_redis, [a, mut b, mut w]) = start().await;
    presence(&w, Some(1)).await;
    presence(&b, Some(1)).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    attach(&a, attach_of("a", 1, 1, None)).await;
    assert!(change(&mut w).await.1, "for an hour");
    w.commands.unwatch(&[bob()]).await.unwrap();
    detach(&a, 1, 1).await;
    hears_nothing(&mut w).await;
    hears_nothing(&mut b).await;
}

/// A profile and what a device is called are others' text: they are kept as they came.
#[tokio::test]
async fn a_profile_outlives_the_connection_that_brought_it() {
    let (_redis, [a, ..]) = start().await;
    let mut request = attach_of("a", 1, 1, Some("online"));
    request.request.profile = Some("{\"name\":\"Bob ☃\"}".into());
    attach(&a, request).await;
    attach(&a, attach_of("a", 2, 2, Some("version"))).await;
    detach(&a, 1, 1).await;
    detach(&a, 2, 2).await;
    let left = presence(&a, None).await;
    assert_eq!((left.profile.as_deref(), left.is_online), (Some("{\"name\":\"Bob ☃\"}"), false));
}

#[tokio::test]
async fn who_takes_over_names_a_connection_of_any_node_and_the_lost_notice_heals() {
    let (_redis, [a, mut b, mut w]) = start().await;
    attach(&b, attach_of("b", 2, 1, Some("phone"))).await;
    let mut taking = attach_of("a", 1, 1, Some("phone"));
    taking.request.claim = Some(Claim::TakesOver(ConnectionId(2)));
    let attached = attach(&a, taking).await;
    assert_eq!(attached.registered, [registered(1, 1)]);
    let told = Notice::HandOver { connection: ConnectionId(2), why: HandOver::TakenOver };
    assert_eq!(heard(&mut b).await, ("user:bob".into(), told));
    // Had it not come: whatever b asks about him says so again, also after it has registered again.
    for reg in [1, 2] {
        let registration = registration("b", 2, reg, Some("phone"));
        let verify = VerifyRequest { of: "user:bob".into(), registration, cursor: Cursor::default() };
        let verified = b.commands.verify(&[verify]).await.unwrap().remove(0).unwrap();
        let taken = delivery::Registered { hand_over: Some(HandOver::TakenOver), ..registered(2, reg) };
        assert_eq!(verified.registered, [taken]);
    }
    assert!(change(&mut w).await.1);
    detach(&b, 2, 2).await;
    hears_nothing(&mut w).await;
}

/// The old one registers again before it has heard that it is to go.
#[tokio::test]
async fn of_two_exclusive_connections_the_later_one_stays() {
    let (_redis, [a, b, _w]) = start().await;
    let exclusive = |name, connection, reg| {
        let mut request = attach_of(name, connection, reg, Some("phone"));
        request.request.claim = Some(Claim::Exclusive);
        request
    };
    attach(&a, exclusive("a", 1, 1)).await;
    attach(&b, exclusive("b", 2, 1)).await;
    let old = attach(&a, exclusive("a", 1, 2)).await;
    assert_eq!(old.registered[0].hand_over, Some(HandOver::Exclusive));
    assert_eq!(attach(&b, attach_of("b", 2, 2, Some("phone"))).await.registered, [registered(2, 2)]);
}

#[tokio::test]
async fn an_exclusive_connection_leaves_none_of_its_device_and_all_of_the_others() {
    let (_redis, [a, mut b, _w]) = start().await;
    let old = [attach_of("a", 1, 1, Some("phone")), attach_of("a", 2, 2, Some("tablet")), attach_of("a", 3, 3, None)];
    a.commands.attach(&old).await.unwrap();
    attach(&b, attach_of("b", 4, 1, Some("phone"))).await;
    let mut exclusive = attach_of("a", 5, 4, Some("phone"));
    exclusive.request.claim = Some(Claim::Exclusive);
    let attached = attach(&a, exclusive).await;
    let taken: Vec<u64> =
        attached.registered.iter().filter(|one| one.hand_over.is_some()).map(|one| one.connection.0).collect();
    assert_eq!(taken, [1]);
    let (_, notice) = heard(&mut b).await;
    assert_eq!(notice, Notice::HandOver { connection: ConnectionId(4), why: HandOver::Exclusive });
}

/// Appends to everybody's stream; the nodes that were published to by themselves.
async fn to_all(generation: &Generation, id: &str) -> usize {
    let answer = generation.commands.append(&batch("all", None, LATER, &[message(id)])).await.unwrap();
    let backplane::BatchResult::Answered(answer) = answer else { panic!("stale") };
    let placed = answer.groups[0].as_ref().unwrap()[0];
    assert!(matches!(placed.place, Place::Stored(_)) && placed.online);
    answer.receivers.len()
}

#[tokio::test]
async fn everybodys_stream_is_published_once_where_it_is_at_more_than_fifty_nodes() {
    let (_redis, [mut a, mut b, _w]) = start().await;
    let seat = |n: u64| {
        let name = if n == 1 { "a".to_owned() } else { format!("n{n}") };
        let registration = registration(&name, 0, 1, Some("2"));
        let request = record::AttachRequest::of(registration, vec![], From::Now);
        AttachRequest { of: "all".into(), epoch: epoch("all"), request }
    };
    let fifty: Vec<_> = (1..=50).map(seat).collect();
    a.commands.attach(&fifty).await.unwrap();
    assert_eq!(to_all(&a, "m1").await, 50);
    assert_eq!(a.subscription.next().await.unwrap().items.len(), 1);
    hears_nothing(&mut b).await;
    assert_eq!(a.commands.audience(&"all".into()).await.unwrap(), 100);
    attach(&a, seat(51)).await;
    for (id, count) in [("m2", 1), ("m3", 1)] {
        assert_eq!(to_all(&a, id).await, 0, "to none by itself");
        for node in [&mut a, &mut b] {
            let next = tokio::time::timeout(Duration::from_secs(3), node.subscription.next());
            assert_eq!(next.await.expect("everybody hears it").unwrap().items.len(), count);
        }
    }
    // A group has its nodes told one by one, however many they are.
    let of_group = |n| AttachRequest { of: "group:den".into(), ..seat(n) };
    a.commands.attach(&(1..=51).map(of_group).collect::<Vec<_>>()).await.unwrap();
    let answer = a.commands.append(&batch("group:den", None, LATER, &[message("m1")])).await.unwrap();
    let backplane::BatchResult::Answered(answer) = answer else { panic!("stale") };
    assert_eq!(answer.receivers.len(), 51);
}

#[tokio::test]
async fn a_notice_comes_once_to_each_node_where_the_address_is() {
    let (_redis, [mut a, mut b, mut w]) = start().await;
    let seats = [attach_of("a", 1, 1, Some("phone")), attach_of("a", 2, 2, None)];
    a.commands.attach(&seats).await.unwrap();
    attach(&b, attach_of("b", 3, 1, None)).await;
    assert!(change(&mut w).await.1);
    let notice = Notice::Read { of: "all".into(), with: None, user: bob(), cursor: Cursor::default() };
    let notices = [("user:bob".into(), notice.clone()), ("user:nobody".into(), notice.clone())];
    w.commands.notify(&notices).await.unwrap();
    for node in [&mut a, &mut b] {
        assert_eq!(heard(node).await, ("user:bob".into(), notice.clone()));
        hears_nothing(node).await;
    }
    hears_nothing(&mut w).await;
}

/// What a user's record keeps of places is bounded; a group keeps one a member's device.
#[tokio::test]
async fn a_users_record_keeps_so_many_places_and_a_groups_many_more() {
    let (redis, [a, ..]) = start().await;
    let names = topology("sb");
    for (of, kept) in [("user:bob", "1024"), ("group:den", "1030")] {
        let answer = a.commands.append(&batch(of, None, LATER, &[message("m1"), message("m2")])).await.unwrap();
        let backplane::BatchResult::Answered(answer) = answer else { panic!("stale") };
        let cursors: Vec<Cursor> =
            answer.groups[0].as_ref().unwrap().iter().map(|one| one.place.cursor().unwrap()).collect();
        let acks: Vec<_> = (0..1_030).map(|n| acked(of, &format!("u/d{n}"), cursors[0])).collect();
        a.commands.ack(&acks).await.unwrap();
        let key = names.keys().record(of).cursors;
        assert_eq!(redis.cli(&["HLEN", &key]), kept);
        a.commands.ack(&[acked(of, "u/d0", cursors[1])]).await.unwrap();
        assert_eq!(redis.cli(&["HLEN", &key]), kept, "one that is there moves on");
    }
}

/// A bad key is an error for its own user only, and what became of his locations is done.
#[tokio::test]
async fn a_presence_that_cannot_be_read_holds_up_nothing_else() {
    let (redis, [a, ..]) = start().await;
    let names = topology("sb");
    redis.cli(&["SET", &names.keys().presence("user:bob"), "text"]);
    let attached = attach(&a, attach_of("a", 1, 1, None)).await;
    assert!(attached.routed);
    let both = [bob(), UserId::parse("carol").unwrap()];
    let both = a.commands.presence(&both, None).await.unwrap();
    assert!(matches!(&both[0], Err(BackplaneError::NotRun(why)) if why.contains("WRONGTYPE")), "{both:?}");
    assert!(both[1].is_ok());
    detach(&a, 1, 1).await;
    assert_eq!(attach(&a, attach_of("a", 2, 2, None)).await.registered, [registered(2, 2)]);
}
