//! Heads of a whole node, in front of a fake master: what members get, in which order, and who is asked what.

use std::sync::Arc;
use std::time::Duration;

use backplane::{AttachRequest, Changes, Commands, SharedNode};
use connection::{Input, Seat, Shared, What};
use delivery::record;
use delivery::{Attached, Registered, Start};
use protocol::bundle::Item;
use protocol::{
    Address, Bundle, Change, Cursor, Encoding, Entry, Envelope, Ephemeral, Epoch, HandOver, Live, NodeId, Notice, Page,
    Stamp, Tag, UnixMillis, UserId,
};
use routing::{Settings, SlotGroup, Topology};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::asker::Cause;
use crate::asker::tests::fake::{Fake, Mode, attached};
use crate::config::{Config, RawConfig};
use crate::generation::{on_bundle, tell_connections};
use crate::mailbox::{MailboxReceiver, mailbox};

const DEN: &str = "group:den";

struct Bed {
    node: Arc<Node>,
    fake: Arc<Fake>,
    commands: Commands,
}

struct Client {
    id: ConnectionId,
    user: UserId,
    mailbox: Mailbox,
    receiver: MailboxReceiver,
}

impl Bed {
    /// A node whose group's record is at place 5, and at number 10.
    fn new() -> Self {
        let config = Config::load(RawConfig::default()).unwrap();
        let id = SharedNode::new(NodeId::new("n", 1).unwrap());
        let node = crate::lifecycle::node(&config, id, Topology::new(Settings::default()).unwrap());
        tokio::spawn(crate::asker::run(node.asker.clone(), CancellationToken::new()));
        let fake = Arc::new(Fake::of([SlotGroup(0)], Mode::Answers));
        fake.attached.lock().push_back(page(Start::New, 5, &[], 10));
        let commands: Commands = fake.clone();
        node.current.set(&commands);
        Self { node, fake, commands }
    }

    fn client(&self, id: u64, user: &str) -> Client {
        let (mailbox, receiver) = mailbox();
        let id = ConnectionId(id);
        self.node.registry.open(id, mailbox.clone());
        Client { id, user: UserId::parse(user).unwrap(), mailbox, receiver }
    }

    async fn seated(&self, id: u64, user: &str) -> Client {
        let mut client = self.client(id, user);
        self.seat(&client);
        assert!(matches!(client.next().await, Input::Seated { result: Ok(seated), .. } if seated.version == 10));
        client
    }

    fn seat(&self, client: &Client) {
        let of = Address::parse(DEN).unwrap();
        let seat = Seat { of, user: client.user.clone(), joined: 0, is_lasting: true };
        self.node.heads.seat(&self.node, seat, client.id, &client.mailbox);
    }

    fn publish(&self, version: u64, live: Live) {
        on_bundle(&self.node, &Bundle { items: vec![Item { record: DEN.into(), version, live }] });
    }

    async fn asked(&self, what: &str) {
        for _ in 0..500 {
            if self.fake.asked.lock().iter().any(|asked| asked.starts_with(what)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never asked: {what}; {:?}", self.fake.asked.lock());
    }
}

impl Client {
    async fn next(&mut self) -> Input {
        let next = std::future::poll_fn(|cx| self.receiver.poll(cx));
        tokio::time::timeout(Duration::from_secs(5), next).await.expect("something is said")
    }

    async fn shared(&mut self) -> Arc<Shared> {
        match self.next().await {
            Input::Shared(shared) => shared,
            other => panic!("{other:?}"),
        }
    }

    fn who(&self) -> Who {
        Who { of: Address::parse(DEN).unwrap(), mailbox: self.mailbox.clone() }
    }
}

fn at(seq: u64) -> Cursor {
    Cursor { epoch: Epoch([1; 8]), seq, stamp: Stamp(seq * 100) }
}

fn entry(seq: u64, mseq: u64) -> Entry {
    Entry { cursor: at(seq), link: at(seq - 1).stamp, tag: Tag(1), mseq: Some(mseq), envelope: envelope() }
}

fn envelope() -> Arc<Envelope> {
    Arc::new(Envelope {
        to: DEN.into(),
        from: "user:a".into(),
        id: "1".into(),
        encoding: Encoding::Json,
        body: bytes::Bytes::from_static(b"1"),
        expires_ms: None,
        traceparent: None,
        flags: 0,
    })
}

/// A page that follows a place.
fn page(start: Start, after: u64, entries: &[Entry], version: u64) -> Attached {
    let end = entries.last().map_or(at(after), |entry| entry.cursor);
    let page = Page { entries: entries.to_vec(), end, more: false };
    Attached { start, cursor: at(after), head: end.seq, page, version, ..attached() }
}

fn members(before: u64, mseq: u64, user: &str, is_join: bool) -> Live {
    let change = Change { mseq, user: UserId::parse(user).unwrap(), is_join };
    Live::Notice(Notice::Members { before, count: 2, changes: vec![change] })
}

#[tokio::test]
async fn members_of_a_node_are_attached_once_and_share_what_comes() {
    let bed = Bed::new();
    let (mut bob, mut eve) = (bed.seated(1, "bob").await, bed.seated(2, "eve").await);
    bed.publish(10, Live::Entry(entry(6, 10)));
    let (for_bob, for_eve) = (bob.shared().await, eve.shared().await);
    assert!(Arc::ptr_eq(&for_bob, &for_eve), "one frame for both");
    assert_eq!(for_bob.what, What::Entry(entry(6, 10)));
    bed.publish(10, Live::Ephemeral(Ephemeral { at: UnixMillis(1), envelope: envelope() }));
    assert!(matches!(eve.shared().await.what, What::Ephemeral(_)));
    assert_eq!(*bed.fake.asked.lock(), ["attach 1"]);
}

#[tokio::test]
async fn who_left_gets_nothing_more_and_who_comes_back_is_answered() {
    let bed = Bed::new();
    let (mut bob, mut eve) = (bed.seated(1, "bob").await, bed.seated(2, "eve").await);
    bed.node.heads.leave(bob.id);
    bed.node.heads.unseat(&DEN.into(), eve.id);
    assert!(bed.node.heads.sitting.is_empty());
    bed.publish(10, Live::Entry(entry(6, 10)));
    bed.seat(&eve);
    assert!(matches!(eve.next().await, Input::Seated { result: Ok(seated), .. } if seated.cursor == at(6)));
    bed.publish(10, Live::Entry(entry(7, 10)));
    assert_eq!(eve.shared().await.what, What::Entry(entry(7, 10)));
    assert!(bob.receiver.poll(&std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
}

#[tokio::test]
async fn a_removed_member_hears_of_it_and_the_others_of_him() {
    let bed = Bed::new();
    let (mut bob, mut eve) = (bed.seated(1, "bob").await, bed.seated(2, "eve").await);
    bed.publish(12, members(10, 12, "bob", false));
    assert!(matches!(bob.next().await, Input::Ended { mseq: 12, .. }));
    let told = eve.shared().await;
    assert!(matches!(&told.what, What::Members { who: Some((user, false)), members: 2, .. } if user.as_str() == "bob"));
    bed.publish(12, Live::Entry(entry(6, 12)));
    assert_eq!(eve.shared().await.what, What::Entry(entry(6, 12)));
    assert!(bob.receiver.poll(&std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
}

/// The notice of a removal is lost, and the removed member reads: the page holds what was stored behind it.
#[tokio::test]
async fn a_page_comes_behind_every_removal_before_it() {
    let bed = Bed::new();
    let (mut bob, mut eve) = (bed.seated(1, "bob").await, bed.seated(2, "eve").await);
    bed.fake.attached.lock().push_back(page(Start::Resumed, 5, &[entry(6, 12)], 12));
    let change = Change { mseq: 12, user: bob.user.clone(), is_join: false };
    bed.fake.changes.lock().push_back(Changes { version: 12, members: 1, list: Some(vec![change]) });
    let read = backplane::ReadRequest { of: DEN.into(), after: vec![at(5)] };
    // Both wait for the same page.
    bed.node.asker.read(read.clone(), bob.who());
    bed.node.asker.read(read, eve.who());
    assert!(matches!(bob.next().await, Input::Ended { mseq: 12, .. }));
    assert!(matches!(bob.next().await, Input::Attached { .. }), "he has no stream for it any more");
    assert!(matches!(eve.shared().await.what, What::Members { .. }));
    assert!(matches!(eve.next().await, Input::Attached { result: Ok(Some(_)), .. }));
}

#[tokio::test]
async fn a_read_of_a_member_names_the_places_that_he_shares_with_the_head() {
    let bed = Bed::new();
    let mut bob = bed.seated(1, "bob").await;
    bed.publish(10, Live::Entry(entry(6, 10)));
    bed.publish(10, Live::Entry(entry(7, 10)));
    bob.shared().await;
    bob.shared().await;
    bed.fake.attached.lock().push_back(page(Start::Resumed, 7, &[], 10));
    bed.node.heads.read(backplane::ReadRequest { of: DEN.into(), after: vec![at(7)] }, bob.who());
    assert!(matches!(bob.next().await, Input::Attached { .. }));
    // Without a seat there is nothing to read.
    let mut eve = bed.client(2, "eve");
    bed.node.heads.end(&bed.node);
    bed.node.heads.read(backplane::ReadRequest { of: DEN.into(), after: vec![at(7)] }, eve.who());
    assert!(matches!(eve.next().await, Input::Attached { result: Err(_), .. }));
}

#[tokio::test]
async fn a_new_generation_registers_the_head_again_and_members_hear_its_place() {
    let bed = Bed::new();
    let mut bob = bed.seated(1, "bob").await;
    bed.fake.attached.lock().push_back(page(Start::Resumed, 5, &[entry(6, 10)], 10));
    tell_connections(bed.node.clone(), bed.commands.clone(), Duration::ZERO).await;
    assert_eq!(bob.shared().await.what, What::Entry(entry(6, 10)));
    assert!(matches!(bob.next().await, Input::HeadAt { cursor, .. } if cursor == at(6)));
}

/// A seat is ordered at the very moment when the head finds that nobody sits any more.
#[tokio::test]
async fn a_head_does_not_end_while_somebody_takes_a_seat() {
    let registry = Registry::default();
    let (of, head) = (Text::from(DEN), HeadMailbox::default());
    registry.heads.insert(of.clone(), head.clone());
    let is_over = |_: &Text, there: &HeadMailbox| there.is_same(&head) && there.is_empty();
    let (mailbox, _receiver) = mailbox();
    let member = (UserId::parse("bob").unwrap(), 0, true);
    head.order(Order::Seat { id: ConnectionId(1), member, mailbox });
    assert!(registry.heads.remove_if(&of, is_over).is_none());
    assert!(head.take().is_some());
    assert!(registry.heads.remove_if(&of, is_over).is_some());
}

#[tokio::test]
async fn at_the_stop_of_the_node_its_heads_are_detached() {
    let bed = Bed::new();
    let _bob = bed.seated(1, "bob").await;
    bed.node.heads.end(&bed.node);
    bed.asked("detach 1").await;
    assert!(bed.node.registry.heads.is_empty());
}

#[tokio::test]
async fn a_head_that_is_flooded_takes_so_much_and_reads_the_rest() {
    let head = HeadMailbox::default();
    let mut large = entry(6, 10);
    large.envelope = Arc::new(Envelope { body: vec![b'1'; 60_000].into(), ..(*envelope()).clone() });
    let taken = (0..100).filter(|_| head.offer(10, &Live::Entry(large.clone()))).count();
    assert!((10..20).contains(&taken), "{taken}");
    (0..taken).for_each(|_| assert!(matches!(head.take(), Some(Order::Live { .. }))));
    assert!(matches!(head.take(), Some(Order::Doubt)));
    assert!(head.take().is_none());
    assert!(head.offer(10, &Live::Entry(large)));
}

/// A member's start writes nothing: there is nobody to look for, and no ghost to remove.
#[tokio::test]
async fn a_member_enters_beside_his_head() {
    let bed = Bed::new();
    let mut bob = bed.seated(1, "bob").await;
    bed.fake.attached.lock().push_back(Attached { joined: Some(7), ..page(Start::New, 5, &[], 10) });
    let request = record::AttachRequest { member: Some(bob.user.clone()), ..record::AttachRequest::default() };
    let request = AttachRequest { of: DEN.into(), epoch: Epoch::default(), request };
    bed.node.asker.attach(request, bob.who(), Cause::Opening);
    let Input::Attached { result: Ok(Some(found)), .. } = bob.next().await else { panic!("he is answered") };
    assert_eq!(found.joined, Some(7));
    assert_eq!(*bed.fake.asked.lock(), ["attach 1", "attach 1"]);
}

/// By a notice; and by the next answer that lists the connection, where that was lost.
#[tokio::test]
async fn who_gave_his_place_to_another_connection_hears_of_it() {
    let bed = Bed::new();
    let mut bob = bed.client(1, "bob");
    let live = Live::Notice(Notice::HandOver { connection: bob.id, why: HandOver::TakenOver });
    on_bundle(&bed.node, &Bundle { items: vec![Item { record: "user:bob".into(), version: 0, live }] });
    assert!(matches!(bob.next().await, Input::HandOver(HandOver::TakenOver)));
    let record = Text::from("user:bob");
    assert!(bed.node.registry.insert(&record, bob.id, &bob.mailbox));
    let registered = vec![Registered { connection: bob.id, reg: 1, hand_over: Some(HandOver::Exclusive) }];
    bed.fake.attached.lock().clear();
    bed.fake.attached.lock().push_back(Attached { registered, ..attached() });
    let other = bed.client(2, "bob");
    let request = AttachRequest { of: record, epoch: Epoch::default(), request: record::AttachRequest::default() };
    bed.node.asker.attach(request, other.who(), Cause::Opening);
    assert!(matches!(bob.next().await, Input::HandOver(HandOver::Exclusive)));
}

#[tokio::test]
async fn what_is_in_a_users_inbox_comes_with_the_version_of_his_groups() {
    let bed = Bed::new();
    let mut bob = bed.client(1, "bob");
    assert!(bed.node.registry.insert(&"user:bob".into(), bob.id, &bob.mailbox));
    let item = Item { record: "user:bob".into(), version: 9, live: Live::Notice(Notice::Groups) };
    on_bundle(&bed.node, &Bundle { items: vec![item] });
    assert!(matches!(bob.next().await, Input::Live { version: 9, live: Live::Notice(Notice::Groups), .. }));
}
