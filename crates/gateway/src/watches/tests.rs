//! Watching on a node with the embedded backplane. Nobody hands out notices here: what is heard is said by the test.

use backplane::api::record_of;
use connection::{Answer, People, Question, Whom};
use protocol::{Address, ErrorCode, MessageId};

use super::*;
use crate::mailbox::{MailboxReceiver, mailbox};
use crate::questions::Questions;
use crate::questions::tests::world::{World, group, next, user};

const ME: ConnectionId = ConnectionId(1);

/// One connection that asks and listens.
struct Client {
    connection: ConnectionId,
    mailbox: Mailbox,
    receiver: MailboxReceiver,
}

impl Client {
    fn new(connection: ConnectionId) -> Self {
        let (mailbox, receiver) = mailbox();
        Self { connection, mailbox, receiver }
    }

    fn ask(&self, world: &World, id: &str, question: Question) {
        let id = MessageId::parse(id).unwrap();
        Questions::ask(&world.node, id, question, self.connection, user("me"), self.mailbox.clone());
    }

    async fn next(&mut self) -> Input {
        next(&mut self.receiver).await
    }

    async fn answer(&mut self) -> Result<Answer, ErrorCode> {
        match self.next().await {
            Input::Answered { result, .. } => result.map_err(|fault| fault.code),
            other => panic!("{other:?}"),
        }
    }

    /// Watches, and says with what versions it was answered.
    async fn watch(&mut self, world: &World, whom: Whom) -> Vec<u64> {
        self.ask(world, "w", Question::Watch(whom));
        match self.answer().await {
            Ok(Answer::Watching(People::Each(people))) => people.iter().map(|one| one.presence.version).collect(),
            other => panic!("{other:?}"),
        }
    }

    async fn unwatch(&mut self, world: &World, whom: Whom) {
        self.ask(world, "u", Question::Unwatch(whom));
        assert_eq!(self.answer().await, Ok(Answer::Unwatched));
    }

    /// Everything that waits.
    fn changes(&mut self) -> Vec<(String, u64, bool)> {
        let mut all = Vec::new();
        let cx = std::task::Context::from_waker(std::task::Waker::noop());
        while let std::task::Poll::Ready(input) = self.receiver.poll(&cx) {
            let Input::Presence { user, version, is_online, .. } = input else { panic!("{input:?}") };
            all.push((user.to_string(), version, is_online));
        }
        all
    }
}

fn named(names: &[&str]) -> Whom {
    Whom::Users { users: names.iter().map(|name| user(name)).collect(), shared: None }
}

fn record(name: &str) -> Text {
    record_of(&Address::User(user(name)))
}

/// A notice.
fn says(world: &World, name: &str, version: u64, is_online: bool) {
    world.node.watches.on_presence(&record(name), version, is_online, UnixMillis(version));
}

/// All are due.
async fn refresh(world: &World) {
    world.node.watches.state.lock().users.values_mut().for_each(|watched| watched.due = Millis(0));
    world.node.watches.turn().await;
}

fn change(name: &str, version: u64, is_online: bool) -> (String, u64, bool) {
    (name.to_owned(), version, is_online)
}

const LATER: u64 = 1 << 50;

#[tokio::test]
async fn a_watcher_is_told_how_somebody_is_and_then_of_every_change_that_is_newer() {
    let world = World::start().await;
    let (mut one, mut other) = (Client::new(ME), Client::new(ConnectionId(2)));
    let registration = world.connect("bob", "phone").await;
    let versions = one.watch(&world, named(&["bob", "nobody"])).await;
    assert!(versions[0] > 0 && versions[1] == 0);
    says(&world, "bob", LATER, false);
    says(&world, "bob", LATER, false);
    says(&world, "bob", LATER - 1, true);
    says(&world, "bob", versions[0], true);
    says(&world, "carol", LATER, true);
    assert_eq!(one.changes(), [change("bob", LATER, false)], "once, and nothing that is older");
    other.watch(&world, named(&["bob"])).await;
    says(&world, "bob", LATER + 1, true);
    assert_eq!((one.changes().len(), other.changes().len()), (1, 2), "the other one had an answer of before");
    world.disconnect("bob", registration).await;
}

#[tokio::test]
async fn what_happens_before_the_answer_comes_behind_it() {
    let world = World::start().await;
    let mut client = Client::new(ME);
    let watches = &world.node.watches;
    // The connection has begun to watch, and its answer is on its way.
    client.ask(&world, "w", Question::Watch(named(&["bob"])));
    says(&world, "bob", LATER, true);
    watches.begin(ME, &[user("bob")], None).unwrap();
    says(&world, "bob", LATER, true);
    assert!(matches!(client.next().await, Input::Answered { .. }));
    assert_eq!(client.changes(), [change("bob", LATER, true)]);
}

#[tokio::test]
async fn a_notice_that_was_lost_is_made_up_for_by_the_next_refresh() {
    let world = World::start().await;
    let mut client = Client::new(ME);
    client.watch(&world, named(&["bob"])).await;
    let registration = world.connect("bob", "phone").await;
    assert!(client.changes().is_empty(), "nobody heard it");
    refresh(&world).await;
    let [(_, online, true)] = client.changes()[..] else { panic!("not told") };
    refresh(&world).await;
    assert!(client.changes().is_empty(), "told once");
    world.disconnect("bob", registration).await;
    refresh(&world).await;
    let [(_, offline, false)] = client.changes()[..] else { panic!("not told") };
    assert!(offline > online);
}

#[tokio::test]
async fn a_new_generation_reads_everybody_again_soon() {
    let world = World::start().await;
    let mut client = Client::new(ME);
    client.watch(&world, named(&["bob"])).await;
    world.connect("bob", "phone").await;
    world.node.watches.turn().await;
    assert!(client.changes().is_empty(), "not due");
    world.node.watches.on_generation(&world.commands);
    let due = world.node.watches.state.lock().users[&record("bob")].due;
    assert!(due.since(world.node.clock.now()) <= 2_000);
    tokio::time::sleep(Duration::from_millis(due.since(world.node.clock.now()) + 10)).await;
    world.node.watches.turn().await;
    assert_eq!(client.changes().len(), 1);
}

#[tokio::test]
async fn who_watches_no_more_hears_nothing_and_the_others_do() {
    let world = World::start().await;
    let (mut one, mut other) = (Client::new(ME), Client::new(ConnectionId(2)));
    one.watch(&world, named(&["bob", "carol"])).await;
    other.watch(&world, named(&["bob"])).await;
    one.unwatch(&world, named(&["bob", "nobody"])).await;
    says(&world, "bob", LATER, true);
    says(&world, "carol", LATER, true);
    assert_eq!(one.changes(), [change("carol", LATER, true)]);
    assert_eq!(other.changes(), [change("bob", LATER, true)]);
    world.node.watches.leave(other.connection);
    says(&world, "bob", LATER + 1, false);
    assert!(other.changes().is_empty());
    assert_eq!(world.node.watches.state.lock().pairs, 1);
}

#[tokio::test]
async fn who_is_watched_by_nobody_is_forgotten_and_can_be_watched_again() {
    let world = World::start().await;
    let mut client = Client::new(ME);
    client.watch(&world, named(&["bob"])).await;
    client.unwatch(&world, named(&["bob"])).await;
    assert_eq!(world.node.watches.state.lock().users.len(), 1, "for a moment: pages are reloaded");
    refresh(&world).await;
    assert!(world.node.watches.state.lock().users.is_empty());
    client.watch(&world, named(&["bob"])).await;
    says(&world, "bob", LATER, true);
    assert_eq!(client.changes().len(), 1);
}

#[tokio::test]
async fn watch_and_unwatch_of_one_connection_are_done_in_their_order() {
    let world = World::start().await;
    let mut client = Client::new(ME);
    for _ in 0..20 {
        client.ask(&world, "w", Question::Watch(named(&["bob"])));
        client.ask(&world, "u", Question::Unwatch(named(&["bob"])));
    }
    for n in 0..40 {
        let Input::Answered { id, result } = client.next().await else { panic!("another input") };
        assert_eq!((id.as_str(), result.is_ok()), (if n % 2 == 0 { "w" } else { "u" }, true));
    }
    assert_eq!(world.node.watches.state.lock().pairs, 0);
}

#[tokio::test]
async fn a_group_is_watched_as_its_members_and_unwatched_without_those_who_were_named() {
    let world = World::start().await;
    let mut client = Client::new(ME);
    for member in ["alice", "bob", "carol"] {
        world.join("den", member).await;
    }
    client.watch(&world, named(&["alice"])).await;
    assert_eq!(client.watch(&world, Whom::Group(group("den"))).await.len(), 3);
    world.join("den", "late").await;
    for (n, name) in ["alice", "bob", "late"].iter().enumerate() {
        says(&world, name, LATER + n as u64, true);
    }
    assert_eq!(client.changes(), [change("alice", LATER, true), change("bob", LATER + 1, true)]);
    client.unwatch(&world, Whom::Group(group("den"))).await;
    for (n, name) in ["alice", "bob"].iter().enumerate() {
        says(&world, name, LATER + 10 + n as u64, false);
    }
    assert_eq!(client.changes(), [change("alice", LATER + 10, false)]);
}

#[tokio::test]
async fn a_connection_watches_so_many_and_what_cannot_be_asked_is_taken_back() {
    let world = World::start().await;
    let mut client = Client::new(ME);
    let many: Vec<UserId> = (0..WATCHED_MAX).map(|n| user(&format!("u{n}"))).collect();
    client.watch(&world, Whom::Users { users: many, shared: None }).await;
    client.ask(&world, "w", Question::Watch(named(&["u1", "one-more"])));
    assert_eq!(client.answer().await, Err(ErrorCode::BadRequest));
    assert_eq!(client.watch(&world, named(&["u1"])).await.len(), 1, "who is watched already may be asked about");
    assert_eq!(world.node.watches.state.lock().pairs, WATCHED_MAX);

    let mut other = Client::new(ConnectionId(2));
    world.lose_the_backplane().await;
    other.ask(&world, "w", Question::Watch(named(&["bob"])));
    assert_eq!(other.answer().await, Err(ErrorCode::Unavailable));
    assert_eq!(world.node.watches.state.lock().pairs, WATCHED_MAX);
}

#[tokio::test]
async fn who_leaves_while_his_watch_is_asked_leaves_nothing_behind() {
    let world = World::start().await;
    let client = Client::new(ME);
    client.ask(&world, "w", Question::Watch(named(&["bob"])));
    world.node.watches.leave(ME);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let state = world.node.watches.state.lock();
    assert!(state.watchers.is_empty() && state.pairs == 0);
    drop(state);
    assert_eq!(world.node.metrics.render().matches("switchboard_questions_total{kind=\"watch\"} 1").count(), 1);
}
