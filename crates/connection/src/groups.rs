//! Joining and leaving, and the set of the user's groups: it says which streams he has, on all his connections.

use protocol::client::{From, Join, ServerFrame};
use protocol::limits::GROUPS_MAX;
use protocol::{Address, ErrorCode, GroupId, MessageId};

use crate::connection::{Connection, Phase};
use crate::counts::PullCause;
use crate::inbox::RETRY_MS;
use crate::io::{Joined, Now, SendFault, Unavailable};
use crate::output::Request;
use crate::requests::OVERLOADED_RETRY_MS;
use crate::session::{Joining, Session};
use crate::stream::{Beginning, Check, How, Stage, Stream};

const ON_ITS_WAY: &str = "`group`: a join or leave of this group is on its way";
const LEFT: &str = "the group was left before its stream began";

impl Connection {
    pub(crate) fn on_join(&mut self, join: Join) {
        let Phase::Open(session) = &mut self.phase else { return };
        let of = Address::Group(join.group.clone());
        let is_joining = session.is_joining(&join.group);
        let stream = session.stream(&of).filter(|stream| stream.is_alive());
        if is_joining || stream.as_deref().is_some_and(Stream::is_undecided) {
            return self.answer_error(Some(&join.id), ErrorCode::Overloaded, ON_ITS_WAY, Some(OVERLOADED_RETRY_MS));
        }
        match stream {
            // In it already: where it stands, or will.
            Some(stream) if stream.is_member() || join.until_disconnect => {
                if stream.is_running() {
                    let cursor = Some(stream.consumer.cursor());
                    self.outbox.push(&ServerFrame::Ok { id: join.id.as_str(), cursor, online: None });
                } else if self.begin_request(&join.id) {
                    self.answer_when_started(&of, join.id);
                }
            }
            Some(_) => self.begin_join(join, true),
            None => self.begin_join(join, false),
        }
    }

    fn begin_join(&mut self, join: Join, has_stream: bool) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Join { id, group, until_disconnect, cursors } = join;
        if !session.may_join(&group) {
            let message = format!("`group`: {group} is not yours to join");
            return self.answer_error(Some(&id), ErrorCode::Forbidden, &message, None);
        }
        if !has_stream && !session.has_room_for_a_group() {
            let message = format!("`group`: a connection has at most {GROUPS_MAX} groups");
            return self.answer_error(Some(&id), ErrorCode::Forbidden, &message, None);
        }
        if !self.begin_request(&id) {
            return;
        }
        if until_disconnect {
            let beginning = Beginning { answers: vec![id], ..Beginning::new(How::Guest, cursors, From::Now) };
            return self.follow(&Address::Group(group), beginning);
        }
        let Phase::Open(session) = &mut self.phase else { return };
        let user = session.user.clone();
        session.busy().joining.push(Joining { id: id.clone(), group: group.clone(), cursors });
        self.request(Request::Join { id, group, user });
    }

    fn answer_when_started(&mut self, of: &Address, id: MessageId) {
        let Phase::Open(session) = &mut self.phase else { return };
        if let Some(beginning) = session.stream(of).and_then(|stream| stream.beginning_mut()) {
            beginning.answers.push(id);
            beginning.missing_since = None;
        }
    }

    pub(crate) fn on_joined(&mut self, id: MessageId, group: GroupId, result: Result<Joined, SendFault>) {
        let Phase::Open(session) = &mut self.phase else { return };
        let joining = &mut session.busy().joining;
        let Some(at) = joining.iter().position(|joining| joining.id == id && joining.group == group) else { return };
        let cursors = joining.swap_remove(at).cursors;
        let mseq = match result {
            Ok(joined) => joined.mseq,
            Err(fault) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.push_fault(&id, &fault);
                // It may have happened all the same.
                return self.ask_groups();
            }
        };
        let from = session.members_start();
        let of = Address::Group(group);
        let Some(stream) = session.stream(&of).filter(|stream| stream.is_alive()) else {
            let beginning = Beginning { answers: vec![id], ..Beginning::new(How::Member(mseq), cursors, from) };
            return self.follow(&of, beginning);
        };
        // He was a guest, or his set of groups was faster.
        (stream.is_lasting, stream.joined) = (true, stream.joined.max(mseq));
        let has_begun = stream.stage != Stage::Gone;
        // Between two looks at a membership that was not there: now it is.
        let is_idle = stream.stage == Stage::Entering && !stream.is_asking;
        if stream.is_running() {
            let cursor = Some(stream.consumer.cursor());
            self.in_flight = self.in_flight.saturating_sub(1);
            self.outbox.push(&ServerFrame::Ok { id: id.as_str(), cursor, online: None });
        } else {
            self.answer_when_started(&of, id);
        }
        // One that waits for an old page asks for its seat behind it: asked twice, it would be answered once, and too early.
        if has_begun {
            self.sit_down(&of);
        }
        if is_idle {
            self.want_page(&of, None);
        }
    }

    pub(crate) fn on_leave(&mut self, id: MessageId, group: GroupId) {
        let Phase::Open(session) = &mut self.phase else { return };
        let (user, is_joining) = (session.user.clone(), session.is_joining(&group));
        let of = Address::Group(group.clone());
        let stream = session.stream(&of).filter(|stream| stream.is_alive());
        if is_joining || stream.as_ref().is_some_and(|stream| stream.is_leaving) {
            return self.answer_error(Some(&id), ErrorCode::Overloaded, ON_ITS_WAY, Some(OVERLOADED_RETRY_MS));
        }
        match stream.map(|stream| stream.is_lasting) {
            None => {
                let message = format!("`group`: this connection has not joined {group}");
                self.answer_error(Some(&id), ErrorCode::NotFound, &message, None);
            }
            Some(false) => {
                self.fail_stream(&of, ErrorCode::NotFound, LEFT, None);
                self.outbox.push(&ServerFrame::Ok { id: id.as_str(), cursor: None, online: None });
            }
            Some(true) => {
                if self.begin_request(&id) {
                    self.mark_leaving(&of, true);
                    self.request(Request::Leave { id, group, user });
                }
            }
        }
    }

    pub(crate) fn on_left(&mut self, id: &MessageId, group: GroupId, result: Result<(), SendFault>) {
        let Phase::Open(session) = &mut self.phase else { return };
        self.in_flight = self.in_flight.saturating_sub(1);
        let of = Address::Group(group);
        match result {
            Ok(()) => {
                if session.stream(&of).is_some_and(|stream| stream.is_alive() && stream.is_leaving) {
                    self.fail_stream(&of, ErrorCode::NotFound, LEFT, None);
                }
                self.outbox.push(&ServerFrame::Ok { id: id.as_str(), cursor: None, online: None });
            }
            Err(fault) => {
                self.mark_leaving(&of, false);
                self.push_fault(id, &fault);
            }
        }
    }

    fn mark_leaving(&mut self, of: &Address, is_leaving: bool) {
        let Phase::Open(session) = &mut self.phase else { return };
        if let Some(stream) = session.stream(of) {
            stream.is_leaving = is_leaving;
        }
    }

    /// The set of the user's groups had this version somewhere.
    pub(crate) fn on_version(&mut self, version: u64) {
        let Phase::Open(session) = &mut self.phase else { return };
        if version == session.set_known {
            return;
        }
        if session.is_asking_set {
            session.busy().set_heard = Some(version);
        } else {
            self.ask_groups();
        }
    }

    /// The same, with the set where it came along.
    pub(crate) fn on_set_version(&mut self, version: u64, groups: Option<Vec<GroupId>>) {
        match groups {
            Some(groups) => self.take_groups(version, &groups),
            None => self.on_version(version),
        }
    }

    pub(crate) fn ask_groups(&mut self) {
        let Phase::Open(session) = &mut self.phase else { return };
        if let Some(busy) = &mut session.busy {
            busy.set_retry_at = None;
        }
        if std::mem::replace(&mut session.is_asking_set, true) {
            session.busy().set_heard = Some(u64::MAX);
            return;
        }
        let user = session.user.clone();
        self.request(Request::Groups { user });
    }

    pub(crate) fn on_groups(&mut self, result: Result<(u64, Vec<GroupId>), Unavailable>, now: Now) {
        let Phase::Open(session) = &mut self.phase else { return };
        session.is_asking_set = false;
        let Ok((version, groups)) = result else {
            let at = now.at.plus(RETRY_MS);
            session.busy().set_retry_at = Some(at);
            return session.wake(at);
        };
        // Another version was heard of while this one was asked for: it may be newer. Asked once more, and no further.
        let heard = session.busy.as_mut().and_then(|busy| busy.set_heard.take());
        let is_old = heard.is_some_and(|heard| heard != version);
        self.take_groups(version, &groups);
        if is_old {
            self.ask_groups();
        }
    }

    /// Begins the streams of groups that are new, and asks the groups that are not in the set any more: they decide.
    fn take_groups(&mut self, version: u64, groups: &[GroupId]) {
        let Phase::Open(session) = &mut self.phase else { return };
        session.set_known = version;
        let from = session.members_start();
        let (mut new, mut doubtful) = (Vec::new(), Vec::new());
        for group in groups {
            let of = Address::Group(group.clone());
            if session.is_joining(group) {
                continue;
            }
            match session.stream(&of).filter(|stream| stream.is_alive()) {
                None => new.push(of),
                Some(stream) if !stream.is_lasting && stream.is_running() => {
                    stream.check = Check::Named;
                    doubtful.push(of);
                }
                Some(_) => {}
            }
        }
        let streams =
            session.groups.iter().filter(|stream| stream.is_running() && stream.is_lasting && !stream.is_leaving);
        let names = streams.filter_map(|stream| stream.group.clone());
        let gone: Vec<GroupId> = names.filter(|name| !groups.contains(name) && !session.is_joining(name)).collect();
        for of in gone.into_iter().map(Address::Group) {
            if let Some(stream) = session.stream(&of) {
                stream.check = Check::Unnamed;
            }
            doubtful.push(of);
        }
        for of in new {
            self.follow(&of, Beginning::new(How::Set, Vec::new(), from));
        }
        for of in doubtful {
            self.on_stream_doubt(&of, PullCause::Check);
        }
    }
}

impl Session {
    /// Where a member's stream starts without any cursor: a named device gets what came since he joined.
    pub(crate) fn members_start(&self) -> From {
        self.from.unwrap_or(if self.device.is_some() { From::Oldest } else { From::Now })
    }
}
