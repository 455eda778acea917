//! Questions about people and streams, read marks and histories, and who may ask them.

use protocol::client::{History, HistoryFrame, Named, ReadChange, ServerFrame};
use protocol::{Address, Cursor, ErrorCode, GroupId, MessageId, Text, UserId};

use crate::asking::{Answer, InCommon, Question, Whom};
use crate::connection::{Connection, Phase};
use crate::io::{HistoryFault, Listing, Now, SendFault, Unavailable};
use crate::output::Request;
use crate::requests::{OVERLOADED_RETRY_MS, UNAVAILABLE_RETRY_MS};
use crate::session::Marking;
use crate::{answers, watching};

/// Histories in flight: each may be 256 KiB, and more in the other encoding.
const HISTORIES_MAX: usize = 2;
/// Questions and read marks in flight: an answer may name a thousand people.
const QUESTIONS_MAX: u16 = 8;

const AWAY: &str = "the backplane cannot be reached";

impl Connection {
    pub(crate) fn on_ask_history(&mut self, history: History) {
        let Phase::Open(session) = &self.phase else { return };
        let History { id, of, with, before, limit } = history;
        let since = match &of {
            Address::All => Some(0),
            of if session.is_own_inbox(of) => Some(0),
            Address::Group(_) if session.rights.look.names(&of) => Some(0),
            Address::Group(group) if session.is_own(group) => match session.group(group.as_str()) {
                // Without the right to look he sees what came since he joined; a guest's number says less than that.
                Some(stream) if stream.is_running() && !stream.is_lasting => None,
                Some(stream) if stream.is_running() => Some(stream.joined),
                _ => {
                    let message = format!("`of`: the stream of {of} has not started");
                    let retry_ms = Some(UNAVAILABLE_RETRY_MS);
                    return self.answer_error(Some(&id), ErrorCode::Unavailable, &message, retry_ms);
                }
            },
            _ => None,
        };
        let Some(since) = since else { return self.refuse_stream(Some(&id), &of) };
        // A history may be large: as many as are asked for at once would be more than any queue.
        if self.histories >= HISTORIES_MAX || self.outbox.is_full() {
            let message = "a history of this connection is on its way already";
            return self.answer_error(Some(&id), ErrorCode::Overloaded, message, Some(OVERLOADED_RETRY_MS));
        }
        if self.begin_request(&id) {
            self.histories += 1;
            self.request(Request::History { id, of, before, limit, with, since });
        }
    }

    pub(crate) fn on_history(&mut self, id: &MessageId, result: Result<Listing, HistoryFault>, now: Now) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.histories = self.histories.saturating_sub(1);
        match result {
            Ok(Listing { mut entries, more, before }) => {
                entries.retain(|entry| !entry.envelope.is_expired(entry.at(), now.wall()));
                let before = before.filter(|_| more);
                let frame = HistoryFrame { id: id.as_str(), messages: &entries, more, before };
                self.outbox.push(&ServerFrame::History(frame));
            }
            Err(HistoryFault::Before) => {
                let message = "`before`: expected a cursor of this stream";
                self.answer_error(Some(id), ErrorCode::BadRequest, message, None);
            }
            Err(HistoryFault::Unavailable) => {
                self.answer_error(Some(id), ErrorCode::Unavailable, AWAY, Some(UNAVAILABLE_RETRY_MS));
            }
        }
    }

    pub(crate) fn on_ask_counts(&mut self, id: MessageId, of: Address, with: Option<UserId>) {
        let Phase::Open(session) = &self.phase else { return };
        let may = match &of {
            Address::Group(group) => session.may_look_into(group),
            of => session.is_own_inbox(of),
        };
        if !may {
            return self.refuse_stream(Some(&id), &of);
        }
        let user = session.user.clone();
        self.ask(id, Question::Counts { of, with, user });
    }

    pub(crate) fn on_ask_receipts(&mut self, id: MessageId, reference: String) {
        let Phase::Open(session) = &self.phase else { return };
        let user = session.user.clone();
        self.ask(id, Question::Receipts { reference, user });
    }

    pub(crate) fn on_ask_members(&mut self, id: MessageId, group: GroupId, after: Option<String>, limit: u64) {
        let Phase::Open(session) = &self.phase else { return };
        if !session.may_look_into(&group) {
            return self.refuse_group(&id, &group);
        }
        self.ask(id, Question::Members { group, after: after.map(Text::from), limit });
    }

    pub(crate) fn on_ask_presence(&mut self, id: MessageId, whom: Named) {
        if let Some(whom) = self.whom(&id, whom) {
            self.ask(id, Question::Presence(whom));
        }
    }

    /// Whom the asker may look at; he is told where he may not.
    pub(crate) fn whom(&mut self, id: &MessageId, whom: Named) -> Option<Whom> {
        let Phase::Open(session) = &self.phase else { return None };
        match whom {
            Named::Group(group) if session.may_look_into(&group) => Some(Whom::Group(group)),
            Named::Group(group) => {
                self.refuse_group(id, &group);
                None
            }
            Named::Users(users) => {
                let others: Vec<UserId> = users.iter().filter(|user| !session.may_look_at(user)).cloned().collect();
                let Some(other) = others.first() else { return Some(Whom::Users { users, shared: None }) };
                let groups = if session.rights.look.own { session.own_groups() } else { Vec::new() };
                if groups.is_empty() {
                    let message = format!("`users`: {other} is not yours to look at");
                    self.answer_error(Some(id), ErrorCode::Forbidden, &message, None);
                    return None;
                }
                Some(Whom::Users { users, shared: Some(InCommon { users: others, groups }) })
            }
        }
    }

    /// Asks, unless too much is on its way.
    pub(crate) fn ask(&mut self, id: MessageId, question: Question) {
        if self.begin_question(Some(&id)) && self.begin_request(&id) {
            self.book_question();
            self.request(Request::Ask { id, question });
        }
    }

    fn begin_question(&mut self, id: Option<&MessageId>) -> bool {
        let Phase::Open(session) = &self.phase else { return false };
        if session.questions < QUESTIONS_MAX && !self.outbox.is_full() {
            return true;
        }
        let message = "too many questions of this connection are on their way";
        self.answer_error(id, ErrorCode::Overloaded, message, Some(OVERLOADED_RETRY_MS));
        false
    }

    fn book_question(&mut self) {
        if let Phase::Open(session) = &mut self.phase {
            session.questions += 1;
        }
    }

    pub(crate) fn on_answered(&mut self, id: &MessageId, result: Result<Answer, SendFault>) {
        let Phase::Open(session) = &mut self.phase else { return };
        session.questions = session.questions.saturating_sub(1);
        self.in_flight = self.in_flight.saturating_sub(1);
        match result {
            Ok(answer) => {
                if let Answer::Watching(people) = &answer {
                    watching::remember(&mut session.busy().heard, people);
                }
                answers::push(&mut self.outbox, id.as_str(), &answer);
            }
            Err(fault) => self.push_fault(id, &fault),
        }
    }

    pub(crate) fn on_read(&mut self, id: Option<MessageId>, of: Address, with: Option<UserId>, cursor: Cursor) {
        let Phase::Open(session) = &self.phase else { return };
        let may = match &of {
            Address::Group(group) => session.is_own(group),
            of => session.is_own_inbox(of),
        };
        if !may {
            return self.refuse_stream(id.as_ref(), &of);
        }
        let user = session.user.clone();
        if !self.begin_question(id.as_ref()) {
            return;
        }
        self.book_question();
        if let (Some(id), Phase::Open(session)) = (id, &mut self.phase) {
            session.busy().marking.push(Marking { id, of: of.clone(), with: with.clone(), cursor });
        }
        self.request(Request::Mark { of, with, user, cursor });
    }

    pub(crate) fn on_marked(
        &mut self,
        of: &Address,
        with: Option<UserId>,
        cursor: Cursor,
        result: Result<delivery::Marked, Unavailable>,
    ) {
        let Phase::Open(session) = &mut self.phase else { return };
        session.questions = session.questions.saturating_sub(1);
        let user = session.user.clone();
        let asked = |m: &Marking| m.of == *of && m.with == with && m.cursor == cursor;
        let marking = session.busy.as_mut().map(|busy| &mut busy.marking);
        let id = marking.and_then(|list| Some(list.remove(list.iter().position(asked)?).id));
        match result {
            Ok(marked) => {
                if let delivery::Marked::NoPlace(_) = marked {
                    let message = format!("`cursor`: expected a place of {of}");
                    return self.answer_error(id.as_ref(), ErrorCode::BadRequest, &message, None);
                }
                if let delivery::Marked::Behind(cursor) = marked {
                    let with = with.map(|with| Address::User(with).to_string());
                    let (of, with) = (&*of.to_string(), with.as_deref());
                    let frame = ReadChange { of, with, user: user.as_str(), cursor };
                    self.outbox.push(&ServerFrame::ReadChange(frame));
                }
                if let Some(id) = id {
                    self.outbox.push(&ServerFrame::Ok { id: id.as_str(), cursor: None, online: None });
                }
            }
            Err(Unavailable) => {
                self.answer_error(id.as_ref(), ErrorCode::Unavailable, AWAY, Some(UNAVAILABLE_RETRY_MS));
            }
        }
    }

    fn refuse_stream(&mut self, id: Option<&MessageId>, of: &Address) {
        let message = format!("`of`: {of} is not yours to read");
        self.answer_error(id, ErrorCode::Forbidden, &message, None);
    }

    fn refuse_group(&mut self, id: &MessageId, group: &GroupId) {
        let message = format!("`group`: {group} is not yours to look into");
        self.answer_error(Some(id), ErrorCode::Forbidden, &message, None);
    }
}
