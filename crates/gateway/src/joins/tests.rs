//! Joins and leaves in front of masters that answer, hang, and go away.

use routing::{Layout, Settings, SlotGroup};

use super::*;
use crate::asker::tests::fake::{Fake, Mode};
use crate::mailbox::{MailboxReceiver, mailbox};

const TIMEOUT: Duration = Duration::from_millis(100);

struct Bed {
    joins: Arc<Joins>,
    current: Arc<Current>,
    mailbox: Mailbox,
    receiver: MailboxReceiver,
}

impl Bed {
    fn new() -> Self {
        let settings = Settings { partitions: 1, layout: Layout::Cluster, ..Settings::default() };
        let topology = Topology::new(settings).unwrap();
        let metrics = crate::metrics::Metrics::new();
        let (current, clock) = (Arc::new(Current::new(topology.clone())), Clock::start());
        let counters = (metrics.appended_again.clone(), metrics.unconfirmed.clone());
        let keeper = Arc::new(Keeper::new(topology.clone(), current.clone(), clock, counters));
        let joins = Arc::new(Joins::new(topology, current.clone(), keeper, clock, TIMEOUT, Arc::new(metrics)));
        tokio::spawn(run(joins.clone(), CancellationToken::new()));
        let (mailbox, receiver) = mailbox();
        Self { joins, current, mailbox, receiver }
    }

    async fn begin(&self, mode: Mode, lineage: &str) -> (Arc<Fake>, backplane::Commands) {
        let fake = Arc::new(Fake { lineage: Some(lineage.to_owned()), ..Fake::of([SlotGroup(0)], mode) });
        let commands: backplane::Commands = fake.clone();
        self.joins.keeper.restore(&commands).await.unwrap();
        self.current.set(&commands);
        (fake, commands)
    }

    fn ask(&self, wish: Wish, id: &str, user: &str, group: &str) {
        let id = MessageId::parse(id).unwrap();
        let (user, group) = (UserId::parse(user).unwrap(), GroupId::parse(group).unwrap());
        self.joins.submit(wish, user, group, Reply::Connection(id, self.mailbox.clone()));
    }

    /// The next answer: whose it is, and the number of the join or what was refused.
    async fn answer(&mut self) -> (String, Result<u64, ErrorCode>) {
        let next = std::future::poll_fn(|cx| self.receiver.poll(cx));
        match tokio::time::timeout(Duration::from_secs(3), next).await.expect("nobody waits for ever") {
            Input::Joined { id, result, .. } => (id.to_string(), result.map(|j| j.mseq).map_err(|fault| fault.code)),
            Input::Left { id, result, .. } => (id.to_string(), result.map(|()| 0).map_err(|fault| fault.code)),
            other => panic!("{other:?}"),
        }
    }

    async fn settled(&self) {
        while !self.joins.queue.lock().is_idle() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn ok(id: &str, mseq: u64) -> (String, Result<u64, ErrorCode>) {
    (id.to_owned(), Ok(mseq))
}

#[tokio::test]
async fn the_set_is_written_first_on_a_join_and_last_on_a_leave() {
    let mut bed = Bed::new();
    let (fake, _) = bed.begin(Mode::Answers, "a").await;
    bed.ask(Wish::Join, "1", "bob", "den");
    assert_eq!(bed.answer().await, ok("1", 7));
    bed.ask(Wish::Leave, "2", "bob", "den");
    assert_eq!(bed.answer().await, ok("2", 0));
    // Before the answer: who joins again by another node behind it would be taken out of his set.
    let asked =
        ["regroup, in bob den", "change, Join bob group:den", "change, Leave bob group:den", "regroup, out bob den"];
    assert_eq!(*fake.asked.lock(), asked);
}

#[tokio::test]
async fn thousands_of_joins_take_a_few_calls_and_each_is_answered_once() {
    let mut bed = Bed::new();
    let (fake, _) = bed.begin(Mode::Answers, "a").await;
    for n in 0..2_000 {
        bed.ask(Wish::Join, &n.to_string(), &format!("u{n}"), "den");
    }
    let mut answered = std::collections::HashSet::new();
    while answered.len() < 2_000 {
        assert!(answered.insert(bed.answer().await.0));
    }
    let calls = fake.asked.lock().len();
    assert!((16..=32).contains(&calls), "{calls} calls");
}

#[tokio::test]
async fn a_leave_of_one_who_is_no_member_is_not_found_and_a_removal_of_him_is_done() {
    let mut bed = Bed::new();
    bed.begin(Mode::Answers, "a").await;
    bed.ask(Wish::Leave, "1", "bob", "den");
    assert_eq!(bed.answer().await, ("1".to_owned(), Err(ErrorCode::NotFound)));
    let (user, group) = (UserId::parse("bob").unwrap(), GroupId::parse("den").unwrap());
    assert_eq!(bed.joins.remove(user.clone(), group.clone()).await, Ok(()));
    assert_eq!(bed.joins.add(user, group).await.unwrap().mseq, 7);
}

/// The answer of the join is lost; it is asked again, and a copy of the first asking may still lie in a socket. The leave
/// that the client sent right behind it must not run before that copy can run no more.
#[tokio::test]
async fn a_join_whose_answer_is_lost_is_asked_again_and_no_leave_overtakes_it() {
    let mut bed = Bed::new();
    let (old, commands) = bed.begin(Mode::Answers, "a").await;
    bed.ask(Wish::Join, "1", "bob", "x");
    assert_eq!(bed.answer().await, ok("1", 7));
    *old.mode.lock() = Mode::Hangs;
    bed.ask(Wish::Join, "2", "bob", "den");
    bed.ask(Wish::Leave, "3", "bob", "den");
    while old.asked.lock().len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    old.go();
    bed.current.clear(&commands);
    let (new, _) = bed.begin(Mode::Answers, "a").await;
    let since = std::time::Duration::from_millis(bed.joins.clock.now().0);
    assert_eq!(bed.answer().await, ok("2", 7));
    assert_eq!(bed.answer().await, ok("3", 0));
    let waited = std::time::Duration::from_millis(bed.joins.clock.now().0) - since;
    assert!(waited >= TIMEOUT, "{waited:?}: until the deadline of the first asking");
    let asked = new.asked.lock().clone();
    let place = |what: &str| asked.iter().position(|one| one.starts_with(what)).expect(what);
    assert!(place("change, Join bob") < place("change, Leave bob"), "{asked:?}");
}

/// The leave ran, and its answer was lost: asked again he is no member, and that is what was wanted.
#[tokio::test]
async fn a_leave_whose_answer_is_lost_is_done() {
    let mut bed = Bed::new();
    let (old, commands) = bed.begin(Mode::Answers, "a").await;
    bed.ask(Wish::Join, "1", "bob", "den");
    assert_eq!(bed.answer().await, ok("1", 7));
    *old.mode.lock() = Mode::Hangs;
    bed.ask(Wish::Leave, "2", "bob", "den");
    while old.asked.lock().len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    old.go();
    bed.current.clear(&commands);
    bed.begin(Mode::Answers, "a").await;
    assert_eq!(bed.answer().await, ok("2", 0));
}

#[tokio::test]
async fn where_nobody_answers_it_is_unknown_and_where_nobody_is_asked_it_is_unavailable() {
    let mut bed = Bed::new();
    bed.ask(Wish::Join, "1", "bob", "den");
    assert_eq!(bed.answer().await, ("1".to_owned(), Err(ErrorCode::Unavailable)));
    bed.begin(Mode::Hangs, "a").await;
    bed.ask(Wish::Join, "2", "bob", "den");
    tokio::time::sleep(TIMEOUT / 2).await;
    bed.ask(Wish::Join, "3", "eve", "den");
    assert_eq!(bed.answer().await, ("3".to_owned(), Err(ErrorCode::Unavailable)), "it waited and was never asked");
    assert_eq!(bed.answer().await, ("2".to_owned(), Err(ErrorCode::UnknownOutcome)));
}

/// A copy of the leave may still lie in a socket while its last step waits in vain: a join must not run before that copy.
#[tokio::test]
async fn what_is_behind_a_job_that_is_given_up_waits_for_its_copies_too() {
    let mut bed = Bed::new();
    bed.begin(Mode::Answers, "a").await;
    tokio::time::sleep(2 * TIMEOUT).await;
    let (joins, held) = (bed.joins.clone(), bed.joins.clock.now().plus(300));
    let job = Job {
        wish: Wish::Leave,
        user: UserId::parse("bob").unwrap(),
        group: GroupId::parse("den").unwrap(),
        record: "group:den".into(),
        user_at: SlotGroup(0),
        group_at: SlotGroup(0),
        step: Step::SetOut,
        since: Millis(0),
        held,
        left: Some(true),
        reply: Some(Reply::Connection(MessageId::parse("1").unwrap(), bed.mailbox.clone())),
    };
    joins.queue.lock().submit(job).unwrap();
    joins.expire();
    bed.ask(Wish::Join, "2", "bob", "den");
    assert_eq!(bed.answer().await, ok("1", 0), "he has left");
    assert_eq!(bed.answer().await, ok("2", 7));
    assert!(joins.clock.now() >= held);
}

#[tokio::test]
async fn a_repair_makes_the_set_say_what_the_groups_record_says() {
    let mut bed = Bed::new();
    let (fake, _) = bed.begin(Mode::Answers, "a").await;
    bed.ask(Wish::Join, "1", "bob", "den");
    assert_eq!(bed.answer().await, ok("1", 7));
    fake.asked.lock().clear();
    bed.ask(Wish::Repair, "2", "bob", "den");
    bed.ask(Wish::Repair, "3", "eve", "den");
    bed.settled().await;
    let asked = ["memberships group:den 1", "memberships group:den 1", "regroup, in bob den, out eve den"];
    assert_eq!(*fake.asked.lock(), asked);
}

#[tokio::test]
async fn what_was_answered_is_asked_again_of_another_master_and_not_of_the_same_one() {
    let mut bed = Bed::new();
    let (_, commands) = bed.begin(Mode::Answers, "a").await;
    bed.ask(Wish::Join, "1", "bob", "den");
    bed.ask(Wish::Join, "2", "eve", "den");
    assert_eq!([bed.answer().await, bed.answer().await], [ok("1", 7), ok("2", 7)]);
    bed.ask(Wish::Leave, "3", "bob", "den");
    assert_eq!(bed.answer().await, ok("3", 0));
    bed.settled().await;
    bed.current.clear(&commands);
    let (same, commands) = bed.begin(Mode::Answers, "a").await;
    assert!(same.asked.lock().is_empty());
    bed.current.clear(&commands);
    let (other, _) = bed.begin(Mode::Answers, "b").await;
    let asked = ["regroup, in eve den", "change, Join eve group:den again 7, Leave bob group:den again 8"];
    assert_eq!(*other.asked.lock(), asked);
}
