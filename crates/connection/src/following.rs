//! The beginning and the end of a stream that is followed besides the own inbox: a seat at the node's table, then the place
//! to go on from, then `stream`. The group's record decides who is a member; nothing is delivered before it has.

use delivery::sabotage::{self, Rule};
use delivery::{Attached, Start};
use protocol::client::{MemberChange, ServerFrame, Status, StreamStatus};
use protocol::{Address, ErrorCode, Millis, Text};

use crate::connection::{Connection, Phase};
use crate::counts::PullCause;
use crate::inbox::RETRY_MS;
use crate::io::{Now, Seated, Unavailable};
use crate::output::{Output, Request, Seat};
use crate::pulls::count_reset;
use crate::requests::UNAVAILABLE_RETRY_MS;
use crate::stream::{Beginning, How, Stage, Stream};

/// A set of groups is written before a group's members on a join. So a group that does not know a user who has it in his
/// set is asked again, until a join that is on its way is certainly over, before the set is put right.
const MISSING_MS: u64 = 5_000;

const REMOVED: &str = "the membership ended before the stream began";

/// What became of a membership that was looked at.
enum Member {
    Yes,
    /// Not yet, or not any more.
    Missing,
    No(&'static str),
}

impl Connection {
    /// Begins a stream.
    pub(crate) fn follow(&mut self, of: &Address, beginning: Beginning) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.place_for(of) else { return };
        let was_waiting = stream.is_waiting;
        stream.prepare(beginning);
        if was_waiting {
            session.waiting -= 1;
        }
        self.settle(of);
    }

    /// Asks for a seat; or says what has changed about him who has one, which is not answered.
    pub(crate) fn sit_down(&mut self, of: &Address) {
        let Phase::Open(session) = &mut self.phase else { return };
        let user = session.user.clone();
        let Some(stream) = session.stream(of) else { return };
        let joined = if stream.is_lasting { stream.joined } else { 0 };
        let seat = Seat { of: stream.of(), user, joined, is_lasting: stream.is_lasting };
        self.outputs.push_back(Output::Request(Request::Seat(seat)));
    }

    pub(crate) fn on_seated(&mut self, of: &Address, result: Result<Seated, Unavailable>, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        let has_device = session.device.is_some();
        let Some(stream) = session.stream(of) else { return };
        // The node's own copy of the name, instead of one a connection.
        if let (Some(name), Address::Group(shared)) = (&mut stream.group, of) {
            *name = shared.clone();
        }
        match (stream.stage, result) {
            (Stage::Gone, _) => {}
            (Stage::Seating, Err(_)) => self.on_begin_failed(of, now),
            (Stage::Entering | Stage::Running, Err(_)) => {
                stream.has_no_seat = true;
                self.retry_stream(of, now.at.plus(RETRY_MS));
            }
            (Stage::Entering | Stage::Running, Ok(seated)) => {
                // He had lost it, and what came meanwhile has to be read.
                if !stream.is_lasting {
                    stream.joined = seated.version;
                }
                self.on_stream_doubt(of, PullCause::Gap);
            }
            (Stage::Seating, Ok(seated)) => {
                let Some(beginning) = stream.beginning() else { return };
                let (has_to_enter, how) = (beginning.has_to_enter(has_device), beginning.how);
                if matches!(how, How::Guest | How::Cursor) && !stream.is_lasting {
                    stream.joined = seated.version;
                }
                stream.stage = Stage::Entering;
                if has_to_enter {
                    return self.want_page(of, None);
                }
                let status = StreamStatus {
                    of: of.clone(),
                    status: Status::New,
                    cursor: seated.cursor,
                    head: seated.cursor.seq,
                    replay: 0,
                    lost: None,
                };
                self.start_stream(of, status);
                self.stand_at(of, seated);
            }
        }
    }

    /// The stream starts where the node stands.
    fn stand_at(&mut self, of: &Address, seated: Seated) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.stream(of) else { return };
        if stream.consumer.on_page(seated.cursor, [], seated.cursor, false) == delivery::Step::Pull {
            self.want_page(of, Some(PullCause::More));
        }
    }

    /// The first page, and whether the user is a member.
    pub(crate) fn on_entered(&mut self, of: &Address, result: Result<Option<Attached>, Unavailable>, now: Now) {
        let Ok(Some(attached)) = result else { return self.on_begin_failed(of, now) };
        match self.look_at_membership(of, attached.joined) {
            Member::Yes => {}
            Member::Missing => return self.on_missing(of, now.at),
            Member::No(REMOVED) => return self.end_membership(of, now.at),
            Member::No(why) => return self.end_stream(of, Some(why)),
        }
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.stream(of) else { return };
        let (status, lost) = status_of(attached.start);
        if let Start::Reset { reason, .. } = attached.start {
            stream.set_again_to(attached.head);
            count_reset(&mut self.counts, reason);
        }
        let replay = attached.head.saturating_sub(attached.cursor.seq);
        let (cursor, head) = (attached.cursor, attached.head);
        self.start_stream(of, StreamStatus { of: of.clone(), status, cursor, head, replay, lost });
        self.take_stream_page(of, &attached, now);
    }

    fn look_at_membership(&mut self, of: &Address, joined: Option<u64>) -> Member {
        let Phase::Open(session) = &mut self.phase else { return Member::Missing };
        let may_join = matches!(of, Address::Group(group) if session.may_join(group));
        let user = session.user.clone();
        let Some(stream) = session.stream(of) else { return Member::Missing };
        let guest_since = stream.joined;
        let Some(beginning) = stream.beginning_mut() else { return Member::Missing };
        let (how, ended) = (beginning.how, beginning.ended);
        match (how, joined) {
            (How::Everybody, _) => Member::Yes,
            (How::Guest, _) if ended > guest_since => Member::No(REMOVED),
            (How::Guest, _) => Member::Yes,
            // A removal that was heard of may be newer than this answer.
            (How::Set | How::Member(_) | How::Cursor, Some(joined)) if ended > joined => Member::No(REMOVED),
            (How::Member(_), None) => Member::No(REMOVED),
            (How::Set, None) if ended > 0 => Member::No(REMOVED),
            (How::Set, None) => Member::Missing,
            (How::Set | How::Member(_) | How::Cursor, Some(joined)) => {
                beginning.how = How::Member(joined);
                (stream.is_lasting, stream.is_filtered) = (true, true);
                let is_news = std::mem::replace(&mut stream.joined, joined) != joined || how == How::Cursor;
                if let (How::Cursor, Address::Group(group)) = (how, of) {
                    self.request(Request::Repair { group: group.clone(), user, is_in: true });
                }
                if is_news {
                    // He has a seat: the node learns what is new of him.
                    self.sit_down(of);
                }
                Member::Yes
            }
            (How::Cursor, None) if may_join && ended <= guest_since => {
                beginning.how = How::Guest;
                Member::Yes
            }
            (How::Cursor, None) => Member::No("this group is not yours to follow"),
        }
    }

    /// The set of groups names a group that does not have him as a member.
    fn on_missing(&mut self, of: &Address, now: Millis) {
        let Phase::Open(session) = &mut self.phase else { return };
        let user = session.user.clone();
        let Some(beginning) = session.stream(of).and_then(Stream::beginning_mut) else { return };
        let since = *beginning.missing_since.get_or_insert(now);
        let waited = now.since(since);
        if waited < MISSING_MS {
            return self.retry_stream(of, now.plus(waited.max(RETRY_MS)));
        }
        if let Address::Group(group) = of {
            self.request(Request::Repair { group: group.clone(), user, is_in: false });
        }
        self.end_stream(of, Some("the group does not have this user as a member"));
    }

    /// It stands: the client is told where, and then gets what follows.
    fn start_stream(&mut self, of: &Address, status: StreamStatus) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.stream(of) else { return };
        stream.stage = Stage::Running;
        let answers = stream.take_beginning().map_or_else(Vec::new, |beginning| beginning.answers);
        let cursor = Some(status.cursor);
        self.outbox.push(&ServerFrame::Stream(status));
        for id in answers {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.outbox.push(&ServerFrame::Ok { id: id.as_str(), cursor, online: None });
        }
    }

    /// The backplane could not be asked. Who only visits is told; the others get what is theirs as soon as it can, and
    /// nobody's join waits for that: it may take longer than any client does.
    fn on_begin_failed(&mut self, of: &Address, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(beginning) = session.stream(of).and_then(Stream::beginning_mut) else { return };
        if beginning.how == How::Guest && !beginning.answers.is_empty() {
            let message = "the backplane cannot be reached";
            return self.fail_stream(of, ErrorCode::Unavailable, message, Some(UNAVAILABLE_RETRY_MS));
        }
        for id in std::mem::take(&mut beginning.answers) {
            self.in_flight = self.in_flight.saturating_sub(1);
            let message = "the backplane cannot be reached: the stream starts as soon as it can";
            self.answer_error(Some(&id), ErrorCode::UnknownOutcome, message, Some(UNAVAILABLE_RETRY_MS));
        }
        self.retry_stream(of, now.at.plus(RETRY_MS));
    }

    pub(crate) fn retry_stream(&mut self, of: &Address, at: Millis) {
        let Phase::Open(session) = &mut self.phase else { return };
        if let Some(stream) = session.stream(of) {
            stream.retry(at);
            session.wake(at);
        }
    }

    /// What had failed is asked again.
    pub(crate) fn on_stream_retry(&mut self, of: &Address) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.stream(of) else { return };
        let (stage, is_asking) = (stream.stage, stream.is_asking);
        let has_no_seat = std::mem::take(&mut stream.has_no_seat);
        if stage == Stage::Seating || has_no_seat && stage != Stage::Gone {
            self.sit_down(of);
        }
        match stage {
            Stage::Entering if !is_asking => self.want_page(of, None),
            Stage::Running => self.on_stream_doubt(of, PullCause::Retry),
            Stage::Gone | Stage::Seating | Stage::Entering => {}
        }
    }

    /// He has no seat any more. A change with a greater number than his join ended his membership: nothing reaches him from
    /// here on. Else the node does not know the membership that he has, and it is looked at again.
    pub(crate) fn on_ended(&mut self, record: &Text, mseq: u64, now: Millis) {
        let Phase::Open(session) = &mut self.phase else { return };
        let from = session.members_start();
        let Some(stream) = session.by_record(record) else { return };
        let (of, joined, is_lasting) = (stream.of(), stream.joined, stream.is_lasting);
        let how = stream.beginning().map(|beginning| beginning.how);
        match (stream.stage, how) {
            (Stage::Gone, _) => {}
            (_, None | Some(How::Member(_) | How::Guest)) if mseq > joined => self.end_membership(&of, now),
            (Stage::Running, _) if is_lasting => {
                let cursor = stream.consumer.cursor();
                self.follow(&of, Beginning::new(How::Set, vec![Some(cursor)], from));
            }
            (Stage::Running, _) => self.sit_down(&of),
            (Stage::Seating | Stage::Entering, _) => {
                if let Some(beginning) = stream.beginning_mut() {
                    beginning.ended = beginning.ended.max(mseq);
                    if let How::Member(_) = beginning.how {
                        // A number that the node cannot find: without one he is let in, and the group's record decides.
                        (beginning.how, stream.joined) = (How::Set, 0);
                    }
                }
                self.sit_down(&of);
            }
        }
    }

    /// A removal ended the stream. A join behind it may be in the set already, and the set have been read while the stream
    /// still ran: it is read once more, unless that happens anyway.
    fn end_membership(&mut self, of: &Address, now: Millis) {
        let Phase::Open(session) = &mut self.phase else { return };
        if session.stream(of).is_some_and(|stream| stream.is_lasting) {
            let at = now.plus(MISSING_MS);
            session.busy().set_retry_at.get_or_insert(at);
            session.wake(at);
        }
        self.end_stream(of, Some(REMOVED));
    }

    /// Ends a stream, and tells the client, unless it asked for that itself. Joins that wait for it are answered with `why`.
    pub(crate) fn end_stream(&mut self, of: &Address, why: Option<&str>) {
        let Phase::Open(session) = &mut self.phase else { return };
        let user = session.user.clone();
        let Some(stream) = session.stream(of) else { return };
        let is_asked_for = stream.is_leaving;
        let how = stream.beginning().map(|beginning| beginning.how);
        let has_answers = stream.beginning().is_some_and(|beginning| !beginning.answers.is_empty());
        self.fail_stream(of, ErrorCode::Forbidden, why.unwrap_or("the membership ended"), None);
        match (of, how) {
            (_, Some(How::Cursor)) => {
                let message = format!("`cursors`: {of} is not yours to follow");
                self.answer_error(None, ErrorCode::Forbidden, &message, None);
            }
            (Address::Group(group), _) if !is_asked_for && !has_answers => {
                let (group, who) = (group.as_str(), Some((user.as_str(), false)));
                self.outbox.push(&ServerFrame::MemberChange(MemberChange { group, who, members: None }));
            }
            _ => {}
        }
    }

    /// Ends a stream; joins that wait for it are answered with an error.
    pub(crate) fn fail_stream(&mut self, of: &Address, code: ErrorCode, message: &str, retry_ms: Option<u64>) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.stream(of) else { return };
        let answers = stream.end().map_or_else(Vec::new, |beginning| beginning.answers);
        if std::mem::take(&mut stream.is_waiting) {
            session.waiting -= 1;
        }
        self.request(Request::Unseat { of: of.clone() });
        for id in answers {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.answer_error(Some(&id), code, message, retry_ms);
        }
        self.settle(of);
    }

    /// A stream that ended is forgotten, or begins anew.
    pub(crate) fn settle(&mut self, of: &Address) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(stream) = session.stream(of) else { return };
        // An old page could pass for the first of a new stream: it has to come before.
        if stream.stage != Stage::Gone || stream.is_asking {
            return;
        }
        if stream.beginning().is_some() {
            stream.stage = Stage::Seating;
            self.sit_down(of);
        } else if let Address::Group(group) = of {
            session.remove(group.as_str());
        }
    }
}

pub(crate) fn status_of(start: Start) -> (Status, Option<u64>) {
    match start {
        Start::New => (Status::New, None),
        Start::Resumed => (Status::Resumed, None),
        Start::Reset { .. } if sabotage::is_off(Rule::MissingReset) => (Status::Resumed, None),
        Start::Reset { reason, lost } => (Status::Reset(reason.as_str()), lost),
    }
}
