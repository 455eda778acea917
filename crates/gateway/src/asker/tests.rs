//! The queue with masters that hang, that lost their slots, and that come back: every asker is answered, once.

pub(crate) mod fake;

use std::task::{Context, Waker};

use delivery::{Registration, record};
use protocol::client::From;
use protocol::{ConnectionId, Cursor, Epoch, NodeId};
use routing::{Layout, Settings, Topology};

use super::*;
use crate::mailbox::{MailboxReceiver, mailbox};
use crate::metrics::Metrics;
use fake::{Fake, Mode};

struct Bed {
    asker: Arc<Asker>,
    current: Arc<Current>,
    registry: Arc<Registry>,
    metrics: Metrics,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Bed {
    fn new() -> Self {
        let settings = Settings { partitions: 8, layout: Layout::Cluster, ..Settings::default() };
        let current = Arc::new(Current::new(Topology::new(settings).unwrap()));
        let registry = Arc::new(Registry::default());
        let metrics = Metrics::new();
        let measures = Measures {
            waiting: metrics.backplane_waiting.clone(),
            late_checks: metrics.checks_late.clone(),
            late_ms: 30_000,
        };
        let asker = Arc::new(Asker::new(current.clone(), registry.clone(), Clock::start(), measures));
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(asker.clone(), stop.clone()));
        Self { asker, current, registry, metrics, stop, running }
    }

    /// A generation of these slot groups.
    fn begin(&self, groups: impl IntoIterator<Item = SlotGroup>, mode: Mode) -> (Arc<Fake>, Commands) {
        let fake = Arc::new(Fake::of(groups, mode));
        let commands: Commands = fake.clone();
        self.current.set(&commands);
        (fake, commands)
    }

    fn attach(&self, user: &str, connection: u64) -> MailboxReceiver {
        let (sender, receiver) = mailbox();
        let of = Text::from(format!("user:{user}"));
        let connection = ConnectionId(connection);
        assert!(self.registry.insert(&of, connection, &sender));
        let registration = Registration { node: node(), connection, reg: 1, device: None };
        let request = record::AttachRequest::of(registration, Vec::new(), From::Now);
        let request = AttachRequest { of, epoch: Epoch::default(), request };
        self.asker.attach(request, Who { of: address(user), mailbox: sender }, Cause::Opening);
        receiver
    }

    fn read(&self, user: &str, seq: u64) -> MailboxReceiver {
        let (sender, receiver) = mailbox();
        let after = vec![Cursor { seq, ..Cursor::default() }];
        let request = ReadRequest { of: format!("user:{user}").into(), after };
        self.asker.read(request, Who { of: address(user), mailbox: sender });
        receiver
    }

    fn detach(&self, user: &str) {
        self.asker.detach(DetachRequest { of: format!("user:{user}").into(), connection: ConnectionId(1), reg: 1 });
    }
}

fn node() -> NodeId {
    NodeId::new("n", 1).unwrap()
}

fn address(user: &str) -> Address {
    Address::parse(&format!("user:{user}")).unwrap()
}

fn groups() -> impl Iterator<Item = SlotGroup> {
    (0..8).map(SlotGroup)
}

async fn next(receiver: &mut MailboxReceiver) -> Input {
    let next = std::future::poll_fn(|cx| receiver.poll(cx));
    tokio::time::timeout(Duration::from_secs(5), next).await.expect("an answer")
}

fn is_attached(input: &Input) -> bool {
    matches!(input, Input::Attached { result: Ok(Some(_)), .. })
}

fn is_unavailable(input: &Input) -> bool {
    matches!(input, Input::Attached { result: Err(Unavailable), .. })
}

#[tokio::test]
async fn without_any_master_everybody_is_answered_at_once() {
    let bed = Bed::new();
    assert!(is_unavailable(&next(&mut bed.attach("a", 1)).await));
    assert!(is_unavailable(&next(&mut bed.read("a", 1)).await));
}

#[tokio::test]
async fn a_master_that_hangs_holds_up_nobody_elses_clients() {
    let bed = Bed::new();
    let hanging = bed.current.group("user:a");
    let (_hanging, _) = bed.begin([hanging], Mode::Hangs);
    bed.begin(groups().filter(|group| *group != hanging), Mode::Answers);
    let others: Vec<String> = (0..)
        .map(|n| format!("u{n}"))
        .filter(|u| bed.current.group(&format!("user:{u}")) != hanging)
        .take(50)
        .collect();
    let mut waiting: Vec<_> = (0..200).map(|n| bed.read("a", n)).collect();
    waiting.push(bed.attach("a", 1));
    for (user, n) in others.iter().zip(2..) {
        assert!(is_attached(&next(&mut bed.attach(user, n)).await));
        assert!(is_attached(&next(&mut bed.read(user, 1)).await));
    }
    for receiver in &mut waiting {
        assert!(receiver.poll(&Context::from_waker(Waker::noop())).is_pending());
    }
}

#[tokio::test]
async fn what_a_master_no_longer_has_is_asked_of_the_next_one_once_more() {
    let bed = Bed::new();
    let (old, _) = bed.begin(groups(), Mode::Moved);
    let mut opening = bed.attach("a", 1);
    let mut reading = bed.read("a", 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(old.asked.lock().len(), 2, "it waits, and does not hammer");
    let (new, _) = bed.begin(groups(), Mode::Answers);
    assert!(is_attached(&next(&mut opening).await));
    assert!(is_attached(&next(&mut reading).await));
    assert_eq!(new.asked.lock().len(), 2);
}

#[tokio::test]
async fn who_asked_in_vain_twice_is_told() {
    let bed = Bed::new();
    let (fake, _) = bed.begin(groups(), Mode::Moved);
    let mut opening = bed.attach("a", 1);
    let mut reading = bed.read("a", 1);
    assert!(is_unavailable(&next(&mut opening).await));
    assert!(is_unavailable(&next(&mut reading).await));
    assert_eq!(fake.asked.lock().len(), 4);
}

#[tokio::test]
async fn connections_that_wait_for_the_same_page_share_one_read() {
    let bed = Bed::new();
    let (fake, commands) = bed.begin(groups(), Mode::Answers);
    bed.current.clear(&commands);
    // Between two generations: all of them wait.
    let mut readers: Vec<_> = (0..100).map(|n| bed.read("a", n % 2)).collect();
    bed.current.set(&commands);
    for reader in &mut readers {
        assert!(is_attached(&next(reader).await));
    }
    let mut asked = fake.asked.lock().clone();
    asked.sort();
    assert_eq!(asked, ["read user:a 0", "read user:a 1"]);
}

#[tokio::test]
async fn who_waits_between_two_generations_is_told_when_the_grace_is_over_and_a_detach_is_not_lost() {
    let bed = Bed::new();
    let (_, commands) = bed.begin(groups(), Mode::Answers);
    bed.current.clear(&commands);
    let mut opening = bed.attach("a", 1);
    let mut reading = [bed.read("a", 1), bed.read("a", 1)];
    bed.detach("b");
    assert!(is_unavailable(&next(&mut opening).await));
    for reading in &mut reading {
        assert!(is_unavailable(&next(reading).await));
    }
    bed.detach("b");
    let (fake, _) = bed.begin(groups(), Mode::Answers);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(*fake.asked.lock(), ["detach 2"]);
    assert!(bed.metrics.render().contains("switchboard_backplane_waiting{class=\"behind\"} 0"));
}

#[tokio::test]
async fn a_detach_that_failed_is_asked_again_of_the_next_master() {
    let bed = Bed::new();
    let (old, _) = bed.begin(groups(), Mode::Moved);
    bed.detach("b");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (new, _) = bed.begin(groups(), Mode::Answers);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        (&**old.asked.lock(), &**new.asked.lock()),
        (&["detach 1".to_owned()][..], &["detach 1".to_owned()][..])
    );
}

#[tokio::test]
async fn at_the_stop_what_connections_left_is_handed_on_and_the_rest_is_told() {
    let bed = Bed::new();
    let (fake, commands) = bed.begin(groups(), Mode::Answers);
    bed.current.clear(&commands);
    let mut reading = bed.read("a", 1);
    tokio::task::yield_now().await;
    (0..300).for_each(|_| bed.detach("a"));
    bed.asker.ack(Ack { of: "user:a".into(), field: "d".into(), cursor: Cursor::default() });
    bed.stop.cancel();
    bed.current.set(&commands);
    tokio::time::timeout(Duration::from_secs(2), bed.running).await.expect("it ends").unwrap();
    assert!(
        is_unavailable(&next(&mut reading).await) || fake.asked.lock().iter().any(|asked| asked.starts_with("read"))
    );
    let mut asked: Vec<_> = fake.asked.lock().iter().filter(|asked| !asked.starts_with("read")).cloned().collect();
    asked.sort();
    assert_eq!(asked, ["ack 1", "detach 256", "detach 44"]);
}

#[tokio::test]
async fn a_connection_that_ended_while_it_waited_is_not_registered() {
    let bed = Bed::new();
    let (fake, commands) = bed.begin(groups(), Mode::Answers);
    bed.current.clear(&commands);
    let _gone = bed.attach("a", 1);
    let mut here = bed.attach("a", 2);
    bed.registry.remove(&"user:a".into(), ConnectionId(1));
    bed.current.set(&commands);
    assert!(is_attached(&next(&mut here).await));
    assert_eq!(*fake.asked.lock(), ["attach 1"]);
}
