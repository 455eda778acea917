//! Questions to a node with the embedded backplane.

pub(crate) mod world;

use connection::{Input, People, Receipts};
use delivery::fields;
use protocol::{DeviceId, ErrorCode};

use super::*;
use world::{World, group, user};

fn users(names: &[&str]) -> Vec<UserId> {
    names.iter().map(|name| user(name)).collect()
}

fn of_users(names: &[&str]) -> Whom {
    Whom::Users { users: users(names), shared: None }
}

fn counts(of: &str, with: Option<&str>, who: &str) -> Question {
    Question::Counts { of: Address::parse(of).unwrap(), with: with.map(user), user: user(who) }
}

fn receipts(reference: &str, who: &str) -> Question {
    Question::Receipts { reference: reference.to_owned(), user: user(who) }
}

/// What was counted: in all, unread, by sender.
async fn counted(world: &World, question: Question) -> (u64, u64, Vec<(String, u64)>) {
    match world.ask(question).await {
        Ok(Answer::Counts { total, unread, by }) => {
            (total, unread, by.into_iter().map(|(sender, count)| (sender.to_string(), count)).collect())
        }
        other => panic!("{other:?}"),
    }
}

async fn received(world: &World, reference: &str, who: &str) -> Receipts {
    match world.ask(receipts(reference, who)).await {
        Ok(Answer::Receipts(receipts)) => receipts,
        other => panic!("{other:?}"),
    }
}

async fn code(world: &World, question: Question) -> ErrorCode {
    world.ask(question).await.expect_err("an error").code
}

fn texts(names: &[&str]) -> Vec<Text> {
    names.iter().map(|name| Text::from(*name)).collect()
}

fn by(counts: &[(&str, u64)]) -> Vec<(String, u64)> {
    counts.iter().map(|(user, count)| ((*user).to_owned(), *count)).collect()
}

#[tokio::test]
async fn an_inbox_is_counted_by_sender_and_behind_the_read_mark() {
    let world = World::start().await;
    assert_eq!(counted(&world, counts("user:bob", None, "bob")).await, (0, 0, Vec::new()), "nobody wrote");
    world.send("user:alice", "user:bob").await;
    let second = world.send("user:alice", "user:bob").await;
    world.send("user:carol", "user:bob").await;
    world.send("service:billing", "user:bob").await;
    let (total, unread, senders) = counted(&world, counts("user:bob", None, "bob")).await;
    assert_eq!((total, unread), (4, 4));
    assert_eq!(senders, by(&[("service:billing", 1), ("user:alice", 2), ("user:carol", 1)]));
    assert_eq!(counted(&world, counts("user:bob", Some("alice"), "bob")).await, (2, 2, by(&[("user:alice", 2)])));

    world.mark("user:bob", fields::read(Some(&user("alice"))), &second).await;
    assert_eq!(counted(&world, counts("user:bob", Some("alice"), "bob")).await.1, 0, "this conversation was read");
    assert_eq!(counted(&world, counts("user:bob", None, "bob")).await.1, 4, "the inbox as a whole was not");
    world.mark("user:bob", fields::read(None), &second).await;
    assert_eq!(counted(&world, counts("user:bob", None, "bob")).await.1, 2);
}

#[tokio::test]
async fn a_long_inbox_is_counted_to_its_end() {
    let world = World::start().await;
    world.send_many("user:alice", "user:bob", 2_500).await;
    assert_eq!(counted(&world, counts("user:bob", None, "bob")).await, (2_500, 2_500, by(&[("user:alice", 2_500)])));
}

/// Large messages make parts of few entries: the count ended in the middle, and said nothing of it.
#[tokio::test]
async fn an_inbox_of_large_messages_is_counted_to_its_end() {
    let world = World::start().await;
    let body = bytes::Bytes::from(format!("\"{}\"", "x".repeat(600 * 1024)));
    for _ in 0..20 {
        world.try_send_body("user:alice", "user:bob", body.clone()).await.unwrap().expect("it is stored");
    }
    assert_eq!(counted(&world, counts("user:bob", None, "bob")).await.0, 20);
}

#[tokio::test]
async fn a_group_is_counted_for_a_member_from_his_join_on_and_each_has_a_mark_of_his_own() {
    let world = World::start().await;
    world.join("den", "alice").await;
    world.send("user:alice", "group:den").await;
    world.join("den", "bob").await;
    let seen = world.send("user:alice", "group:den").await;
    world.send("user:bob", "group:den").await;
    assert_eq!(counted(&world, counts("group:den", None, "alice")).await.0, 3);
    assert_eq!(
        counted(&world, counts("group:den", None, "bob")).await,
        (2, 1, by(&[("user:alice", 1), ("user:bob", 1)]))
    );
    assert_eq!(counted(&world, counts("group:den", None, "guest")).await.0, 3, "who may look without being one");
    world.mark("group:den", fields::read_by(&user("bob")), &seen).await;
    assert_eq!(counted(&world, counts("group:den", None, "bob")).await.1, 0);
    assert_eq!(counted(&world, counts("group:den", None, "alice")).await.1, 1);
    assert_eq!(counted(&world, counts("group:unknown", None, "bob")).await, (0, 0, Vec::new()));
}

#[tokio::test]
async fn the_sender_learns_which_devices_have_it_and_whether_it_was_read() {
    let world = World::start().await;
    let first = world.send("user:alice", "user:bob").await;
    let second = world.send("user:alice", "user:bob").await;
    assert_eq!(received(&world, &second, "alice").await, Receipts::default());
    world.ack("user:bob", fields::device(&DeviceId::parse("phone").unwrap()), &second).await;
    world.ack("user:bob", fields::device(&DeviceId::parse("laptop").unwrap()), &first).await;
    assert_eq!(received(&world, &second, "alice").await.delivered, [("bob".into(), texts(&["phone"]))]);
    assert_eq!(received(&world, &first, "alice").await.delivered, [("bob".into(), texts(&["laptop", "phone"]))]);
    // Another conversation says nothing about this one.
    world.mark("user:bob", fields::read(Some(&user("carol"))), &second).await;
    assert!(received(&world, &second, "alice").await.read.is_empty());
    world.mark("user:bob", fields::read(Some(&user("alice"))), &first).await;
    assert_eq!(received(&world, &first, "alice").await.read, texts(&["bob"]));
    assert!(received(&world, &second, "alice").await.read.is_empty());
    world.mark("user:bob", fields::read(None), &second).await;
    assert_eq!(received(&world, &second, "alice").await.read, texts(&["bob"]));
}

#[tokio::test]
async fn receipts_are_for_the_sender_and_a_ref_names_one_message_or_none() {
    let world = World::start().await;
    let sent = world.send("user:alice", "user:bob").await;
    assert_eq!(code(&world, receipts(&sent, "eve")).await, ErrorCode::Forbidden);
    assert_eq!(code(&world, receipts(&sent, "bob")).await, ErrorCode::Forbidden, "not the recipient either");
    let (place, _) = sent.split_once('@').unwrap();
    for wrong in [
        "",
        "nonsense",
        place,
        &format!("{place}@bob"),
        &format!("{place}@user:carol"),
        &format!("{place}@group:bob"),
        &format!("{place}@service:bob"),
        &format!("{place}@all"),
    ] {
        assert_eq!(code(&world, receipts(wrong, "alice")).await, ErrorCode::BadRequest, "{wrong:?}");
    }
}

#[tokio::test]
async fn a_message_that_is_not_kept_any_more_has_expired_receipts() {
    let world = World::with_inbox_max(2).await;
    let sent = world.send("user:alice", "user:bob").await;
    world.send_many("user:alice", "user:bob", 5).await;
    assert_eq!(received(&world, &sent, "alice").await, Receipts { is_expired: true, ..Receipts::default() });
}

#[tokio::test]
async fn receipts_of_a_group_name_the_members_of_then() {
    let world = World::start().await;
    for member in ["alice", "bob", "carol"] {
        world.join("den", member).await;
    }
    let sent = world.send("user:alice", "group:den").await;
    world.join("den", "late").await;
    for (member, device) in
        [("alice", "phone"), ("bob", "phone"), ("bob", "laptop"), ("late", "phone"), ("guest", "tv")]
    {
        let field = fields::member_device(&user(member), &DeviceId::parse(device).unwrap());
        world.ack("group:den", field, &sent).await;
    }
    for member in ["alice", "bob", "late"] {
        world.mark("group:den", fields::read_by(&user(member)), &sent).await;
    }
    let receipts = received(&world, &sent, "alice").await;
    // Not the sender, not who came later, not who is no member.
    assert_eq!(receipts.delivered, [("bob".into(), texts(&["laptop", "phone"]))]);
    assert_eq!((receipts.read, receipts.counts), (texts(&["bob"]), None));
}

#[tokio::test]
async fn above_a_thousand_members_receipts_are_numbers() {
    let world = World::start().await;
    let members: Vec<String> = (0..1_001).map(|n| format!("m{n}")).collect();
    world.join_all("hall", &members).await;
    let sent = world.send("user:m0", "group:hall").await;
    for member in &members[1..5] {
        let field = fields::member_device(&user(member), &DeviceId::parse("phone").unwrap());
        world.ack("group:hall", field, &sent).await;
    }
    world.mark("group:hall", fields::read_by(&user("m7")), &sent).await;
    let receipts = received(&world, &sent, "m0").await;
    assert_eq!(receipts, Receipts { counts: Some((4, 1)), ..Receipts::default() });
}

/// Who is online of those who were asked about, in their order.
async fn online(world: &World, question: Question) -> Vec<(String, bool)> {
    match world.ask(question).await {
        Ok(Answer::Presence(People::Each(people)) | Answer::Watching(People::Each(people))) => {
            people.into_iter().map(|person| (person.user.to_string(), person.presence.is_online)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn are(states: &[(&str, bool)]) -> Vec<(String, bool)> {
    states.iter().map(|(user, is_online)| ((*user).to_owned(), *is_online)).collect()
}

#[tokio::test]
async fn presence_is_answered_for_everybody_who_was_named_each_once() {
    let world = World::start().await;
    world.connect("bob", "phone").await;
    let question = Question::Presence(of_users(&["nobody", "bob", "bob"]));
    let Ok(Answer::Presence(People::Each(people))) = world.ask(question).await else { panic!("no presence") };
    assert_eq!(people.len(), 2);
    assert_eq!((people[0].user.as_str(), people[0].presence.clone()), ("nobody", delivery::PresenceOf::default()));
    let bob = &people[1].presence;
    assert!(bob.is_online && bob.version > 0);
    assert_eq!(bob.devices.iter().map(|(device, _)| device.clone()).collect::<Vec<_>>(), texts(&["phone"]));
    assert_eq!(bob.profile.as_deref(), Some(r#"{"name":"bob"}"#));
}

#[tokio::test]
async fn who_may_look_at_those_only_who_share_a_group_is_told_of_all_or_of_nobody() {
    let world = World::start().await;
    world.join("den", "bob").await;
    world.join("hall", "carol").await;
    let shared = |names: &[&str], groups: &[&str]| Whom::Users {
        users: users(names),
        shared: Some(connection::InCommon {
            users: users(names),
            groups: groups.iter().map(|name| group(name)).collect(),
        }),
    };
    // The asker of these tests is `me`.
    let both = shared(&["bob", "carol", "me"], &["den", "hall"]);
    assert_eq!(online(&world, Question::Presence(both)).await.len(), 3, "one looks at oneself");
    for (names, groups) in
        [(&["bob", "carol"][..], &["den"][..]), (&["bob"], &[]), (&["eve"], &["den", "hall"]), (&["bob"], &["unknown"])]
    {
        for question in [Question::Presence(shared(names, groups)), Question::Watch(shared(names, groups))] {
            let fault = world.ask(question).await.unwrap_err();
            assert_eq!(fault.code, ErrorCode::Forbidden);
            assert!(names.iter().all(|name| !fault.message.contains(name)), "{}", fault.message);
        }
    }
}

#[tokio::test]
async fn a_group_is_its_members_and_above_a_thousand_a_number() {
    let world = World::start().await;
    world.join("den", "alice").await;
    world.join("den", "bob").await;
    world.connect("bob", "phone").await;
    let den = || Whom::Group(group("den"));
    assert_eq!(online(&world, Question::Presence(den())).await, are(&[("alice", false), ("bob", true)]));
    let empty = Whom::Group(group("unknown"));
    assert_eq!(online(&world, Question::Presence(empty.clone())).await, are(&[]));
    assert_eq!(online(&world, Question::Watch(empty)).await, are(&[]));

    let members: Vec<String> = (0..1_001).map(|n| format!("m{n}")).collect();
    world.join_all("hall", &members).await;
    let hall = || Whom::Group(group("hall"));
    let answer = world.ask(Question::Presence(hall())).await.unwrap();
    assert_eq!(answer, Answer::Presence(People::Count { online: 0, members: 1_001 }));
    let fault = world.ask(Question::Watch(hall())).await.unwrap_err();
    assert_eq!(fault.code, ErrorCode::BadRequest);
    assert!(fault.message.contains("up to 1000"), "{}", fault.message);
}

#[tokio::test]
async fn members_come_page_by_page_each_with_his_profile() {
    let world = World::start().await;
    let members: Vec<String> = (0..25).map(|n| format!("m{n}")).collect();
    world.join_all("den", &members).await;
    world.connect("m3", "phone").await;
    let (mut after, mut seen, mut profiles) = (None, Vec::new(), 0);
    loop {
        let question = Question::Members { group: group("den"), after, limit: 10 };
        let Ok(Answer::Members { members, total, next }) = world.ask(question).await else { panic!("no members") };
        assert!(members.len() <= 10 && total == 25);
        profiles += members.iter().filter(|member| member.profile.is_some()).count();
        seen.extend(members.into_iter().map(|member| member.user.to_string()));
        after = next;
        if after.is_none() {
            break;
        }
    }
    seen.sort_unstable();
    let mut expected = members;
    expected.sort_unstable();
    assert_eq!((seen, profiles), (expected, 1));
    let question = |after: &str| Question::Members { group: group("den"), after: Some(after.into()), limit: 10 };
    for wrong in ["", "-", "7", "a-b", "1-", "-1", "+1-0", "0-99999999999999999999"] {
        assert_eq!(code(&world, question(wrong)).await, ErrorCode::BadRequest, "{wrong:?}");
    }
    let none = Question::Members { group: group("unknown"), after: None, limit: 10 };
    assert_eq!(world.ask(none).await, Ok(Answer::Members { members: Vec::new(), total: 0, next: None }));
}

#[tokio::test]
async fn every_question_is_answered_while_the_backplane_is_away() {
    let world = World::start().await;
    let sent = world.send("user:alice", "user:bob").await;
    world.lose_the_backplane().await;
    for question in [
        counts("user:bob", None, "bob"),
        receipts(&sent, "alice"),
        Question::Presence(of_users(&["bob"])),
        Question::Presence(Whom::Group(group("den"))),
        Question::Watch(of_users(&["bob"])),
        Question::Members { group: group("den"), after: None, limit: 1 },
    ] {
        let fault = world.ask(question.clone()).await.expect_err("no answer without a backplane");
        assert_eq!((fault.code, fault.retry_ms.is_some()), (ErrorCode::Unavailable, true), "{question:?}");
    }
    assert_eq!(world.ask(Question::Unwatch(of_users(&["bob"]))).await, Ok(Answer::Unwatched));
}

#[tokio::test]
async fn too_many_questions_are_told_to_come_later_and_each_is_answered_once() {
    let world = World::start().await;
    let (mailbox, mut receiver) = crate::mailbox::mailbox();
    let asked = UNDER_WAY + WAITING_MAX + 10;
    for n in 0..asked {
        let id = MessageId::parse(&n.to_string()).unwrap();
        let question = Question::Presence(of_users(&["bob"]));
        Questions::ask(&world.node, id, question, ConnectionId(1), user("me"), mailbox.clone());
    }
    let (mut ids, mut refused) = (std::collections::HashSet::new(), 0);
    for _ in 0..asked {
        let Input::Answered { id, result } = world::next(&mut receiver).await else { panic!("another input") };
        assert!(ids.insert(id.to_string()), "{id} twice");
        refused += usize::from(result.is_err_and(|fault| fault.code == ErrorCode::Overloaded));
    }
    assert_eq!(refused, 10);
    assert_eq!(world.node.questions.count.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_server_api_sends_to_groups_and_to_everybody_and_not_to_back_ends() {
    let world = World::start().await;
    for to in ["group:den", "all", "user:bob"] {
        assert!(world.try_send("service:api", to).await.is_ok(), "{to}");
    }
    let fault = world.try_send("service:api", "service:billing").await.unwrap_err();
    assert_eq!(fault.code, ErrorCode::BadRequest);
    assert!(fault.message.contains("group:ID or all"), "{}", fault.message);
}

#[tokio::test]
async fn the_server_api_changes_members_as_often_as_it_is_asked() {
    use crate::door::Door;
    let world = World::start().await;
    let node = &world.node;
    let joined = node.join(group("den"), user("bob")).await.unwrap();
    assert_eq!(node.join(group("den"), user("bob")).await.unwrap(), joined, "he stays the member that he is");
    assert_eq!(node.join(group("den"), user("carol")).await.unwrap().members, 2);
    let page = node.members(group("den"), None, 10).await.unwrap();
    assert_eq!((page.members.len(), page.total, page.next), (2, 2, None));
    assert_eq!(node.remove(group("den"), user("bob")).await, Ok(Some(1)));
    assert_eq!(node.remove(group("den"), user("bob")).await, Ok(Some(1)), "he is none already");
    assert_eq!(node.presence(users(&["bob", "bob"])).await.unwrap().len(), 1);
    let joins = "switchboard_membership_changes_total{change=\"join\"} 2";
    assert!(node.metrics.render().lines().any(|line| line == joins), "who was one already is counted once");
}
