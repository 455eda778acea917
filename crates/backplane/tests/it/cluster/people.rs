//! Users and members in a Cluster: who is here is told on the channels of the partition, and what an attach says is right
//! while the slot is on its way.

use std::time::Duration;

use backplane::{AttachRequest, BackplaneError, DetachRequest, Op, RegroupRequest};
use delivery::{Attached, OfUser, record};
use protocol::client::From;
use protocol::{Address, ConnectionId, Cursor, GroupId, Live, Notice, UserId};
use testkit::Cluster;
use tokio::time::timeout;

use super::changing::group_in;
use super::moving::{Phase, Way};
use super::{LATER, Member, start, user_in};
use crate::fixtures::{acked, epoch, node};
use crate::groups::{change_all, request};

fn user_of(of: &str) -> UserId {
    let Ok(Address::User(user)) = Address::parse(of) else { panic!("{of}") };
    user
}

/// What a member hears next of a user.
async fn hears(member: &mut Member, of: &str) -> (u64, bool) {
    let generation = member.of_mut(of);
    let bundle = timeout(Duration::from_secs(3), generation.subscription.next()).await.expect("it is told").unwrap();
    assert_eq!((&*bundle.items[0].record, bundle.items.len()), (of, 1));
    let Live::Notice(Notice::Presence { version, is_online, .. }) = bundle.items[0].live else { panic!("{bundle:?}") };
    (version, is_online)
}

async fn detach(member: &Member, of: &str, connection: u64) -> Result<(), BackplaneError> {
    let one = DetachRequest { of: of.into(), connection: ConnectionId(connection), reg: 1 };
    member.of(of).commands.detach(&[one]).await
}

async fn presence(member: &Member, of: &str, watch_ms: Option<u64>) -> delivery::PresenceOf {
    member.of(of).commands.presence(&[user_of(of)], watch_ms).await.unwrap().remove(0).unwrap()
}

async fn who_watches_hears_on_every_master(a: &Member, b: &mut Member) {
    for master in 0..3 {
        let of = user_in(a.generations[master].1.commands.groups()[7].0);
        presence(b, &of, Some(60_000)).await;
        let attach = [a.attach_of(&of, 1, Some("phone"), &[])];
        a.of(&of).commands.attach(&attach).await.unwrap().remove(0).unwrap();
        let (came, is_online) = hears(b, &of).await;
        assert!(is_online);
        detach(a, &of, 1).await.unwrap();
        let (went, is_online) = hears(b, &of).await;
        assert!(!is_online && went > came);
        a.of(&of).commands.attach(&attach).await.unwrap().remove(0).unwrap();
        assert!(hears(b, &of).await.1);
        assert_eq!(b.of(&of).commands.reap(&node("a")).await.unwrap(), 1);
        assert!(!hears(b, &of).await.1, "its node is dead");
    }
}

/// Nothing of it is written while the slot is on its way; who asks behind it finds it.
async fn a_last_detach_on_the_way_is_found_by_who_asks(cluster: &Cluster, a: &mut Member) {
    let of = user_in(9);
    a.of(&of).commands.attach(&[a.attach_of(&of, 1, None, &[])]).await.unwrap().remove(0).unwrap();
    assert!(presence(a, &of, None).await.is_online);
    let mut way = Way::new(cluster, &of);
    way.enter(Phase::RecordMoved);
    detach(a, &of, 1).await.unwrap();
    way.finish(Phase::RecordMoved);
    a.open_all(Duration::from_secs(20)).await;
    assert!(!presence(a, &of, None).await.is_online);
}

fn judge(phase: Phase, answer: Result<Attached, BackplaneError>, right: impl FnOnce(Attached)) {
    match answer {
        Ok(attached) => right(attached),
        Err(BackplaneError::NotRun(_)) if matches!(phase, Phase::MetaMoved | Phase::InboxMoved) => {}
        Err(error) => panic!("{phase:?}: {error}"),
    }
}

/// A user in a group, and a member of it who comes behind two messages.
async fn an_attach_says_all_that_it_says_elsewhere(cluster: &Cluster, a: &mut Member, n: u16, phase: Phase) {
    let (of, group) = (user_in(20 + n), group_in(40 + n));
    let den = GroupId::parse("den").unwrap();
    let regroup = RegroupRequest { user: user_of(&of), group: den.clone(), is_in: true };
    a.of(&of).commands.regroup(LATER, &[regroup]).await.unwrap().remove(0).unwrap();
    a.store(&of, &["m1"]).await;
    let all = Cursor { epoch: epoch("all"), seq: 7, stamp: protocol::Stamp(700) };
    a.of(&of).commands.ack(&[acked(&of, "/all/phone", all)]).await.unwrap();
    a.store(&group, &["m1", "m2"]).await;
    change_all(a.of(&group), &[request(&group, "bob", Op::Join, None)]).await.remove(0).unwrap();
    a.store(&group, &["m3"]).await;

    let mut ways = [Way::new(cluster, &of), Way::new(cluster, &group)];
    ways.iter_mut().for_each(|way| way.enter(phase));
    let mut known = a.attach_of(&of, 1, Some("phone"), &[]);
    known.request.groups_known = Some(0);
    let member = |name: &str| {
        let member = Some(UserId::parse(name).unwrap());
        let request = record::AttachRequest { member, from: From::Oldest, ..Default::default() };
        [AttachRequest { of: group.as_str().into(), epoch: epoch("none"), request }]
    };
    let (users, groups) = (a.of(&of).commands.clone(), a.of(&group).commands.clone());
    let (known, bob, ann) = ([known], member("bob"), member("ann"));
    let (user, bob, ann) = tokio::join!(users.attach(&known), groups.attach(&bob), groups.attach(&ann));
    let only = |answer: Result<Vec<_>, _>| answer.and_then(|mut answers: Vec<_>| answers.remove(0));
    judge(phase, only(user), |attached| {
        assert_eq!(attached.user, Some(OfUser { groups: vec![den], all: Some(all) }), "{phase:?}");
    });
    judge(phase, only(bob), |attached| {
        assert!(attached.joined.is_some() && !attached.routed, "{phase:?}: {attached:?}");
        assert_eq!(super::ids(&attached.page), ["m3"], "{phase:?}");
    });
    judge(phase, only(ann), |attached| {
        assert_eq!((attached.joined, attached.page.entries.len()), (None, 0), "{phase:?}");
    });
    ways.iter_mut().for_each(|way| way.finish(phase));
    a.open_all(Duration::from_secs(20)).await;
    let verify = a.verify_of(&of, 1, Cursor::default());
    a.of(&of).commands.verify(&[verify]).await.unwrap().remove(0).unwrap();
    assert!(presence(a, &of, None).await.is_online, "{phase:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_members_are_answered_rightly_whatever_becomes_of_their_slots() {
    let cluster = start().await;
    let (mut a, mut b) = (Member::start(cluster.url(), "a").await, Member::start(cluster.url(), "b").await);
    who_watches_hears_on_every_master(&a, &mut b).await;
    a_last_detach_on_the_way_is_found_by_who_asks(&cluster, &mut a).await;
    let phases = [Phase::Before, Phase::Migrating, Phase::MetaMoved, Phase::RecordMoved, Phase::AllMoved];
    for (n, phase) in (0..).zip(phases) {
        an_attach_says_all_that_it_says_elsewhere(&cluster, &mut a, n, phase).await;
    }
}
