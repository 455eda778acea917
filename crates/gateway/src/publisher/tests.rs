//! Lanes in front of masters that hang, that have other slots, and whose clocks differ: every sender is answered.

use connection::Input;
use protocol::{Encoding, ErrorCode, Tag};
use routing::{Layout, Settings, SlotGroup};
use tokio::sync::oneshot;

use super::*;
use crate::asker::tests::fake::{Fake, Mode};
use crate::mailbox::{MailboxReceiver, mailbox};
use crate::metrics::Metrics;

const TIMEOUT: Duration = Duration::from_millis(200);

struct Bed {
    publisher: Arc<Publisher>,
    current: Arc<Current>,
}

impl Bed {
    fn new() -> Self {
        let settings = Settings { partitions: 1, layout: Layout::Cluster, ..Settings::default() };
        let topology = Topology::new(settings).unwrap();
        let (current, clock, metrics) = (Arc::new(Current::new(topology.clone())), Clock::start(), Metrics::new());
        let counters = (metrics.appended_again.clone(), metrics.unconfirmed.clone());
        let keeper = Arc::new(Keeper::new(topology.clone(), current.clone(), clock, counters));
        let histograms = (metrics.append_seconds.clone(), metrics.append_batch_size.clone());
        let kept = (keeper, Arc::default());
        let publisher = Arc::new(Publisher::new(topology, current.clone(), kept, clock, TIMEOUT, histograms));
        tokio::spawn(publisher.clone().run_lane(Lane(0), CancellationToken::new()));
        Self { publisher, current }
    }

    fn begin(&self, mode: Mode, lineage: &str, now_us: u64) -> (Arc<Fake>, Commands) {
        let lineage = Some(lineage.to_owned());
        let fake = Arc::new(Fake { lineage, now_us, ..Fake::of([SlotGroup(0)], mode) });
        let commands: Commands = fake.clone();
        self.current.set(&commands);
        (fake, commands)
    }

    fn send(&self) -> oneshot::Receiver<Result<Placed, SendFault>> {
        let (reply, answer) = oneshot::channel();
        self.publisher.submit(self.outgoing("user:b", Reply::Api(reply)));
        answer
    }

    fn outgoing(&self, to: &str, reply: Reply) -> Outgoing {
        let record = Text::from(to);
        let to = Address::parse(to).unwrap();
        let envelope = Envelope {
            to: record.clone(),
            from: "user:a".into(),
            id: "1".into(),
            encoding: Encoding::Json,
            body: bytes::Bytes::from_static(b"1"),
            expires_ms: None,
            traceparent: None,
            flags: 0,
        };
        let envelope = envelope.encode().into();
        let message = NewMessage { kind: Kind::Durable, tag: Tag(1), envelope, search_us: None };
        let (id, since) = (MessageId::parse("1").unwrap(), self.publisher.clock.now());
        Outgoing { id, to, record, message, since, reply, replicated: false }
    }
}

async fn answer(answer: oneshot::Receiver<Result<Placed, SendFault>>) -> Result<Placed, ErrorCode> {
    let answer = tokio::time::timeout(Duration::from_secs(3), answer).await.expect("nobody waits for ever");
    answer.expect("an answer").map_err(|fault| fault.code)
}

/// A thousand records whose slot is between two masters are asked one by one, two seconds each. Their senders waited for
/// all of that, and so did who came behind.
#[tokio::test]
async fn who_waits_for_an_asking_that_takes_long_is_told_after_one_timeout() {
    let bed = Bed::new();
    bed.begin(Mode::Hangs, "a", 0);
    let asked = bed.send();
    tokio::time::sleep(TIMEOUT / 4).await;
    let behind = bed.send();
    assert_eq!(answer(asked).await, Err(ErrorCode::UnknownOutcome));
    assert_eq!(answer(behind).await, Err(ErrorCode::Unavailable));
}

/// MOVED says that nothing ran; that no other master is there does not change it.
#[tokio::test]
async fn what_never_ran_is_unavailable_and_not_unknown() {
    let bed = Bed::new();
    let (_, commands) = bed.begin(Mode::Moved, "a", 0);
    let asked = bed.send();
    tokio::time::sleep(TIMEOUT / 4).await;
    bed.current.clear(&commands);
    assert_eq!(answer(asked).await, Err(ErrorCode::Unavailable));
}

/// The lane stood still until the new master's clock had come to the deadline that the old one's clock had set.
#[tokio::test]
async fn a_lane_goes_on_behind_a_failover_to_a_master_whose_clock_is_an_hour_behind() {
    let bed = Bed::new();
    let (old, commands) = bed.begin(Mode::Hangs, "a", 7_200_000_000);
    let asked = bed.send();
    assert_eq!(answer(asked).await, Err(ErrorCode::UnknownOutcome));
    old.go();
    bed.current.clear(&commands);
    let (new, _) = bed.begin(Mode::Answers, "b", 3_600_000_000);
    tokio::time::sleep(TIMEOUT * u32::try_from(GIVE_UP_TIMEOUTS).unwrap() + 2 * TICK).await;
    assert!(new.asked.lock().is_empty(), "there it would be in time for an hour");
    assert!(answer(bed.send()).await.is_ok());
}

#[tokio::test]
async fn a_backplane_that_refuses_everything_is_complained_about_once_a_second() {
    let bed = Bed::new();
    assert_eq!((0..1_000).filter(|_| bed.publisher.may_say()).count(), 1);
}

/// What a connection is told next, if anything comes within a moment.
async fn told(receiver: &mut MailboxReceiver) -> Option<Result<Placed, ErrorCode>> {
    let next = std::future::poll_fn(|cx| receiver.poll(cx));
    match tokio::time::timeout(TIMEOUT / 2, next).await.ok()? {
        Input::Appended { result, .. } => Some(result.map_err(|fault| fault.code)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_echo_is_stored_in_both_inboxes_and_answered_once() {
    let bed = Bed::new();
    let (fake, _) = bed.begin(Mode::Answers, "a", 0);
    let (sender, mut receiver) = mailbox();
    let me = Address::parse("user:a").unwrap();
    let (outgoing, own) = bed.outgoing("user:b", Reply::Connection(sender.clone())).echoed(&me, &sender);
    let own = own.unwrap();
    assert_eq!((own.record.as_str(), own.to.to_string()), ("user:a", "user:b".to_owned()));
    assert_eq!(own.message, outgoing.message, "the same envelope");
    bed.publisher.submit(own);
    assert_eq!(told(&mut receiver).await, None, "only one inbox has it");
    bed.publisher.submit(outgoing);
    assert!(told(&mut receiver).await.is_some_and(|result| result.is_ok()));
    assert_eq!(told(&mut receiver).await, None);
    assert_eq!(*fake.asked.lock(), ["append 1", "append 1"]);
    let (_, own) = bed.outgoing("user:a", Reply::Connection(sender.clone())).echoed(&me, &sender);
    assert!(own.is_none(), "to oneself it goes once");
}

/// The lane of one of both is full, or its master away: it is not called `sent`.
#[tokio::test]
async fn an_echo_of_which_one_half_fails_has_failed() {
    let bed = Bed::new();
    let (_, commands) = bed.begin(Mode::Answers, "a", 0);
    let (sender, mut receiver) = mailbox();
    let me = Address::parse("user:a").unwrap();
    let (outgoing, own) = bed.outgoing("user:b", Reply::Connection(sender.clone())).echoed(&me, &sender);
    bed.publisher.submit(outgoing);
    assert_eq!(told(&mut receiver).await, None);
    bed.current.clear(&commands);
    bed.begin(Mode::Moved, "b", 0);
    bed.publisher.submit(own.unwrap());
    tokio::time::sleep(TIMEOUT).await;
    assert_eq!(told(&mut receiver).await, Some(Err(ErrorCode::UnknownOutcome)), "one inbox has it");
}
