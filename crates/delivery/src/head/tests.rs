//! What the model does not say: ephemeral messages, numbers of members, the end of a head, and answers that do not come.

use std::sync::Arc;

use protocol::{Encoding, Envelope, Epoch, Page, Stamp, Tag, UnixMillis};

use super::*;
use crate::members::{Changes, Memberships};
use crate::types::{Reason, Standing, Start};

const NOW: Millis = Millis(0);
const CHECK_MS: u64 = 30_000;

/// What was said: words by who heard them, and questions.
#[derive(Default)]
struct Said {
    words: Vec<String>,
    questions: Vec<Question>,
    opened: Vec<(u64, bool)>,
    dropped: usize,
}

impl Room<&'static str> for Said {
    fn ask(&mut self, question: Question) {
        self.questions.push(question);
    }

    fn tell(&mut self, word: &Word, to: &mut dyn Iterator<Item = &&'static str>) {
        let mut to: Vec<_> = to.copied().collect();
        to.sort_unstable();
        let word = match word {
            Word::Entry(entry) => format!("entry {}", entry.cursor.seq),
            Word::Ephemeral(_) => "ephemeral".to_owned(),
            Word::Members { who: Some((user, is_join)), members } => format!("{user} {is_join} of {members}"),
            Word::Members { who: None, members } => format!("{members} members"),
            Word::Seated { cursor, version } => format!("seated {} {version}", cursor.seq),
            Word::Ended { mseq } => format!("ended {mseq}"),
            Word::Read { user, cursor } => format!("{user} read {}", cursor.seq),
            Word::At(cursor) => format!("at {}", cursor.seq),
            other => format!("{other:?}").to_lowercase(),
        };
        if !to.is_empty() {
            self.words.push(format!("{word}: {}", to.join(" ")));
        }
    }

    fn open(&mut self, ticket: u64, is_known: bool) {
        self.opened.push((ticket, is_known));
    }

    fn dropped(&mut self) {
        self.dropped += 1;
    }
}

impl Said {
    fn words(&mut self) -> Vec<String> {
        std::mem::take(&mut self.words)
    }

    fn questions(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.questions)
    }
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn at(seq: u64) -> Cursor {
    Cursor { epoch: Epoch([1; 8]), seq, stamp: Stamp(seq * 100) }
}

fn envelope() -> Arc<Envelope> {
    Arc::new(Envelope {
        to: "group:den".into(),
        from: "user:a".into(),
        id: "1".into(),
        encoding: Encoding::Json,
        body: bytes::Bytes::from_static(b"1"),
        expires_ms: None,
        traceparent: None,
        flags: 0,
    })
}

fn entry(seq: u64, mseq: u64) -> Live {
    let link = at(seq - 1).stamp;
    Live::Entry(Entry { cursor: at(seq), link, tag: Tag(1), mseq: Some(mseq), envelope: envelope() })
}

fn ephemeral() -> Live {
    Live::Ephemeral(Ephemeral { at: UnixMillis(1), envelope: envelope() })
}

fn change(mseq: u64, name: &str, is_join: bool) -> Change {
    Change { mseq, user: user(name), is_join }
}

fn notice(before: u64, count: u64, changes: Vec<Change>) -> Live {
    Live::Notice(Notice::Members { before, count, changes })
}

fn attached(start: Start, cursor: u64, end: u64, version: u64) -> Option<Option<Attached>> {
    let page = Page { entries: Vec::new(), end: at(end), more: false };
    let (routed, registered) = (true, Vec::new());
    Some(Some(Attached {
        start,
        cursor: at(cursor),
        head: end,
        page,
        routed,
        registered,
        version,
        joined: None,
        user: None,
    }))
}

fn changes(version: u64, members: u64, list: Option<Vec<Change>>) -> Option<Changes> {
    Some(Changes { version, members, list })
}

/// A head at place 5 and number 10, with three who sit: a member since 3, one since 10, a guest.
fn head() -> (Head<&'static str>, Said) {
    let mut said = Said::default();
    let mut head = Head::new(CHECK_MS, NOW, &mut said);
    for (id, name, is_lasting) in [(1, "a", true), (2, "b", true), (3, "guest", false)] {
        head.seat(ConnectionId(id), (user(name), 0, is_lasting), name, NOW, &mut said);
    }
    head.on_attached(attached(Start::New, 5, 5, 10), NOW, &mut said);
    head.seats.join(&user("a"), 3);
    head.seats.join(&user("b"), 10);
    assert_eq!(said.words(), ["seated 5 10: a", "seated 5 10: b", "seated 5 10: guest"]);
    said.questions();
    (head, said)
}

#[test]
fn an_ephemeral_message_waits_for_the_changes_before_it() {
    let (mut head, mut said) = head();
    head.on_live(10, &ephemeral(), NOW, &mut said);
    assert_eq!(said.words(), ["ephemeral: a b guest"]);
    head.on_live(12, &ephemeral(), NOW, &mut said);
    assert_eq!((said.words().len(), said.questions()), (0, vec![Question::Changes { after: 10 }]));
    head.on_changes(changes(12, 2, Some(vec![change(12, "b", false)])), NOW, &mut said);
    assert_eq!(said.words(), ["ended 12: b", "b false of 2: a guest", "ephemeral: a guest"]);
    (0..100).for_each(|_| head.on_live(13, &ephemeral(), NOW, &mut said));
    assert_eq!(said.dropped, 36, "so many wait, and no more");
}

#[test]
fn above_a_thousand_members_a_count_is_told_once_a_second() {
    let (mut head, mut said) = head();
    head.on_live(11, &notice(10, 1_001, vec![change(11, "x", true)]), NOW, &mut said);
    head.on_live(12, &notice(11, 1_002, vec![change(12, "y", true)]), Millis(10), &mut said);
    assert!(said.words().is_empty());
    assert_eq!(head.deadline(), Millis(1_000));
    head.on_timer(Millis(1_000), &mut said);
    assert_eq!(said.words(), ["1002 members: a b guest"]);
    head.on_live(13, &notice(12, 1_000, vec![change(13, "y", false)]), Millis(2_000), &mut said);
    assert_eq!(said.words(), ["y false of 1000: a b guest"]);
}

#[test]
fn what_was_read_is_told_to_all_and_in_a_large_group_to_the_readers_own_connections() {
    let (mut head, mut said) = head();
    let read = Notice::Read { of: "group:den".into(), with: None, user: user("a"), cursor: at(5) };
    head.on_live(10, &Live::Notice(read.clone()), NOW, &mut said);
    assert_eq!(said.words(), ["a read 5: a b guest"]);
    assert_eq!(said.questions(), [Question::Changes { after: 10 }], "how many they are");
    head.on_changes(changes(10, 5_000, Some(Vec::new())), NOW, &mut said);
    head.on_live(10, &Live::Notice(read), NOW, &mut said);
    assert_eq!(said.words(), ["a read 5: a"]);
}

#[test]
fn a_page_holds_older_messages_and_each_is_for_those_who_were_members_then() {
    let (mut head, mut said) = head();
    head.on_live(10, &entry(7, 10), NOW, &mut said);
    assert_eq!(said.questions(), [Question::Read { after: at(5) }], "one is missing");
    let entries = [(6, 4), (7, 10)].map(|(seq, mseq)| entry(seq, mseq));
    let entries = entries.into_iter().filter_map(|live| if let Live::Entry(entry) = live { Some(entry) } else { None });
    let page = Page { entries: entries.collect(), end: at(7), more: false };
    let Some(Some(answer)) = attached(Start::Resumed, 5, 7, 10) else { unreachable!("it is there") };
    head.on_attached(Some(Some(Attached { page, ..answer })), NOW, &mut said);
    assert_eq!(said.words(), ["entry 6: a guest", "entry 7: a b guest"]);
}

/// The changes that the channel brought while the log was read follow what the log said.
#[test]
fn notices_that_come_while_the_log_is_read_are_not_asked_for_again() {
    let (mut head, mut said) = head();
    head.on_live(12, &entry(6, 12), NOW, &mut said);
    head.on_live(13, &notice(12, 2, vec![change(13, "b", false)]), NOW, &mut said);
    assert_eq!(said.questions(), [Question::Changes { after: 10 }, Question::Read { after: at(5) }]);
    head.on_changes(changes(12, 3, Some(vec![change(12, "x", true)])), NOW, &mut said);
    assert_eq!(said.words(), ["x true of 3: a b guest", "ended 13: b", "b false of 2: a guest"]);
    assert!(said.questions().is_empty());
    assert_eq!(head.version(), 13);
}

#[test]
fn behind_a_lost_history_a_thousand_users_are_asked_about_at_a_time_and_guests_go() {
    let (mut head, mut said) = head();
    for n in 0..2_500 {
        head.seat(ConnectionId(100 + n), (user(&format!("u{n}")), 0, true), "u", NOW, &mut said);
    }
    said.words();
    head.on_verified(Some((Standing::Current, 8)), NOW, &mut said);
    assert_eq!(said.questions(), [Question::Changes { after: 10 }]);
    head.on_changes(changes(8, 9, None), NOW, &mut said);
    assert_eq!(said.words(), ["ended 8: guest"]);
    let mut asked = 0;
    while let Some(Question::Memberships { users }) = said.questions().pop() {
        assert!(users.len() <= 1_000);
        asked += users.len();
        // The first is a member by another join than he knows, the second is none.
        let joined = users.iter().map(|user| if user.as_str() == "b" { None } else { Some(4) }).collect();
        head.on_memberships(Some(Memberships { version: 8, members: 9, joined }), NOW, &mut said);
    }
    assert_eq!(asked, 2_502);
    let mut words = said.words();
    words.sort();
    assert_eq!(words, ["ended 10: b", "renumbered: a"]);
    assert_eq!((head.version(), head.seat_count()), (8, 2_501));
}

#[test]
fn where_nobody_answers_newcomers_are_told_and_it_is_asked_again() {
    let mut said = Said::default();
    let mut head = Head::new(CHECK_MS, NOW, &mut said);
    head.seat(ConnectionId(1), (user("a"), 0, true), "a", NOW, &mut said);
    head.seat(ConnectionId(2), (user("b"), 0, true), "b", NOW, &mut said);
    head.unseat(ConnectionId(2), NOW, &mut said);
    assert_eq!(said.words(), ["unavailable: b"], "who goes before he sat is answered too");
    head.on_attached(None, NOW, &mut said);
    assert_eq!(said.words(), ["unavailable: a"]);
    assert_eq!(head.deadline(), Millis(RETRY_MS));
    said.questions();
    head.on_timer(Millis(RETRY_MS), &mut said);
    assert_eq!(said.questions(), [Question::Attach { places: Vec::new() }]);
    head.seat(ConnectionId(1), (user("a"), 0, true), "a", NOW, &mut said);
    head.on_attached(attached(Start::New, 5, 5, 10), NOW, &mut said);
    assert_eq!(said.words(), ["seated 5 10: a"]);
}

/// Whoever waits for the changes before his page must not wait for ever, nor get it.
#[test]
fn a_page_of_a_member_is_refused_where_the_changes_before_it_cannot_be_told() {
    let (mut head, mut said) = head();
    assert_eq!(head.gate(10, &mut said), Gate::Open);
    assert_eq!(head.gate(12, &mut said), Gate::Later(1));
    assert_eq!(head.gate(13, &mut said), Gate::Later(2), "what is asked already may be answered without it");
    head.on_changes(None, NOW, &mut said);
    assert_eq!(said.opened, [(1, false)]);
    head.on_timer(Millis(RETRY_MS), &mut said);
    head.on_changes(changes(13, 3, Some(vec![change(12, "x", true), change(13, "x", false)])), NOW, &mut said);
    assert_eq!(said.opened.last(), Some(&(2, true)));
}

#[test]
fn a_head_without_members_lingers_and_then_is_over() {
    let (mut head, mut said) = head();
    (1..=3).for_each(|id| head.unseat(ConnectionId(id), NOW, &mut said));
    assert!(!head.is_over(Millis(LINGER_MS - 1)) && head.is_over(Millis(LINGER_MS)));
    head.seat(ConnectionId(9), (user("z"), 0, true), "z", NOW, &mut said);
    assert_eq!(said.words(), ["seated 5 10: z"]);
    assert!(!head.is_over(Millis(LINGER_MS)));
    assert_eq!((head.user_count(), head.seat_count()), (1, 1));
}

/// The log forked: members go on by themselves, and only who was where the head was is helped by its places.
#[test]
fn behind_a_fork_the_head_goes_on_at_the_end_and_members_read_for_themselves() {
    let (mut head, mut said) = head();
    head.on_live(10, &entry(6, 10), NOW, &mut said);
    head.on_generation(&mut said);
    assert_eq!(said.questions(), [Question::Attach { places: vec![at(6)] }]);
    let reset = Start::Reset { reason: Reason::Ahead, lost: None };
    head.on_attached(attached(reset, 5, 5, 10), NOW, &mut said);
    assert_eq!(said.questions(), [Question::Attach { places: Vec::new() }]);
    said.words();
    head.on_attached(attached(Start::New, 9, 9, 10), NOW, &mut said);
    assert_eq!(said.words(), ["doubt: a b guest"]);
    assert!(head.places_before(at(9)).is_empty() && head.places_before(at(4)).is_empty());
    head.on_live(10, &entry(10, 10), NOW, &mut said);
    assert_eq!(said.words(), ["entry 10: a b guest"]);
}

#[test]
fn in_a_new_generation_members_hear_where_the_head_is() {
    let (mut head, mut said) = head();
    head.on_generation(&mut said);
    head.on_attached(attached(Start::Resumed, 5, 5, 10), NOW, &mut said);
    assert_eq!(said.words(), ["at 5: a b guest"]);
}
