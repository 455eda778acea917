//! One stream that a connection follows besides its own inbox: a group's, or everybody's.
//!
//! A connection may have 257 of them, and a node thousands of members of one group, so a stream that only runs is small:
//! what is rare lies aside, and the name is the one that the node's head of the group holds.

use delivery::Consumer;
use protocol::client::From;
use protocol::{Address, Cursor, GroupId, MessageId, Millis};

#[derive(Debug)]
pub(crate) struct Stream {
    /// `None`: everybody's.
    pub(crate) group: Option<GroupId>,
    pub(crate) consumer: Consumer,
    /// The number of the join; of a guest that of the newest change when he came. A removal with a greater one ends it.
    pub(crate) joined: u64,
    pub(crate) stage: Stage,
    /// A page is asked for and not answered: nothing begins anew before it is.
    pub(crate) is_asking: bool,
    /// A page is due as soon as the connection has room for one.
    pub(crate) is_waiting: bool,
    /// A member until he leaves; else as long as the connection.
    pub(crate) is_lasting: bool,
    /// What was stored before the join is not for him.
    pub(crate) is_filtered: bool,
    pub(crate) is_leaving: bool,
    /// The read in flight names what the head knows, because the cursor alone did not hold.
    pub(crate) is_asking_all: bool,
    /// There was no seat when it was asked for again.
    pub(crate) has_no_seat: bool,
    /// The next page asks for the membership, too; and the one in flight does.
    pub(crate) check: Check,
    pub(crate) checking: Check,
    aside: Option<Box<Aside>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not followed: an answer is on its way that nobody wants, and then it ends, or begins anew.
    Gone,
    /// Waiting for a seat at the node's table.
    Seating,
    /// Waiting for the first page; nothing is delivered before.
    Entering,
    Running,
}

/// Why a running stream asks whether its user is a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    No,
    /// He is here as a guest, and his set of groups names the group.
    Named,
    /// His set of groups does not name it.
    Unnamed,
}

/// What is rare.
#[derive(Debug, Default)]
struct Aside {
    beginning: Option<Beginning>,
    /// The newest cursor that the device acknowledged, and when it is handed on.
    ack: Option<(Cursor, Millis)>,
    retry_at: Option<Millis>,
    /// Messages up to this number follow a reset: the client may have them.
    again_to: u64,
}

/// How a stream begins.
#[derive(Clone, Debug)]
pub(crate) struct Beginning {
    pub(crate) how: How,
    /// Newest first; `None` stands for one that cannot be read.
    pub(crate) cursors: Vec<Option<Cursor>>,
    /// Where it starts without any.
    pub(crate) from: From,
    /// Joins that are answered when it has started.
    pub(crate) answers: Vec<MessageId>,
    /// The newest removal that was heard of.
    pub(crate) ended: u64,
    /// Since when the group says that he is none of its members.
    pub(crate) missing_since: Option<Millis>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// The stream of everybody.
    Everybody,
    /// The user's set of groups names it; the group's record decides.
    Set,
    /// He has just joined, with this number.
    Member(u64),
    /// For the life of the connection.
    Guest,
    /// A cursor in `hello` names it; whether he is a member, or may be a guest, is looked at.
    Cursor,
}

impl Beginning {
    pub(crate) fn new(how: How, cursors: Vec<Option<Cursor>>, from: From) -> Self {
        Self { how, cursors, from, answers: Vec::new(), ended: 0, missing_since: None }
    }

    /// Whether the backplane has to be asked where it starts: else it starts where the node stands.
    pub(crate) fn has_to_enter(&self, has_device: bool) -> bool {
        match self.how {
            How::Set | How::Cursor => true,
            How::Member(_) if has_device => true,
            How::Member(_) | How::Guest | How::Everybody => !self.cursors.is_empty() || self.from == From::Oldest,
        }
    }
}

impl Stream {
    pub(crate) fn new(group: Option<GroupId>) -> Self {
        Self {
            group,
            consumer: Consumer::following(Cursor::default()),
            joined: 0,
            stage: Stage::Gone,
            is_asking: false,
            is_waiting: false,
            is_lasting: false,
            is_filtered: false,
            is_leaving: false,
            is_asking_all: false,
            has_no_seat: false,
            check: Check::No,
            checking: Check::No,
            aside: None,
        }
    }

    /// It is to begin, as soon as what was asked before is answered.
    pub(crate) fn prepare(&mut self, beginning: Beginning) {
        let (group, is_asking) = (self.group.take(), self.is_asking);
        let (ack, again_to) = (self.ack(), self.again_to());
        *self = Self { is_asking, ..Self::new(group) };
        self.is_lasting = matches!(beginning.how, How::Set | How::Member(_));
        self.is_filtered = self.is_lasting;
        self.joined = if let How::Member(mseq) = beginning.how { mseq } else { 0 };
        self.aside = Some(Box::new(Aside { beginning: Some(beginning), ack, retry_at: None, again_to }));
    }

    pub(crate) fn of(&self) -> Address {
        self.group.clone().map_or(Address::All, Address::Group)
    }

    /// The ID of its group; everybody's has none.
    pub(crate) fn name(&self) -> &str {
        self.group.as_ref().map_or("", GroupId::as_str)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    /// It runs, or will.
    pub(crate) fn is_alive(&self) -> bool {
        self.stage != Stage::Gone || self.beginning().is_some()
    }

    /// A member until he leaves. That the user's set names the group is not enough: on a leave the set is written last, so
    /// it may still name what he has just left.
    pub(crate) fn is_member(&self) -> bool {
        self.is_lasting && self.beginning().is_none_or(|beginning| matches!(beginning.how, How::Member(_)))
    }

    /// Whether he is in the group will be known soon.
    pub(crate) fn is_undecided(&self) -> bool {
        self.is_leaving || self.beginning().is_some_and(|beginning| beginning.how == How::Cursor)
    }

    pub(crate) fn beginning(&self) -> Option<&Beginning> {
        self.aside.as_ref()?.beginning.as_ref()
    }

    pub(crate) fn beginning_mut(&mut self) -> Option<&mut Beginning> {
        self.aside.as_mut()?.beginning.as_mut()
    }

    /// It has ended: what was held for it is dropped.
    pub(crate) fn end(&mut self) -> Option<Beginning> {
        self.stage = Stage::Gone;
        self.aside.take()?.beginning
    }

    pub(crate) fn take_beginning(&mut self) -> Option<Beginning> {
        let beginning = self.aside.as_mut()?.beginning.take();
        self.tidy();
        beginning
    }

    pub(crate) fn again_to(&self) -> u64 {
        self.aside.as_ref().map_or(0, |aside| aside.again_to)
    }

    pub(crate) fn set_again_to(&mut self, seq: u64) {
        if seq > 0 || self.aside.is_some() {
            self.aside.get_or_insert_default().again_to = seq;
            self.tidy();
        }
    }

    pub(crate) fn ack(&self) -> Option<(Cursor, Millis)> {
        self.aside.as_ref()?.ack
    }

    pub(crate) fn hold_ack(&mut self, cursor: Cursor, due: Millis) {
        self.aside.get_or_insert_default().ack = Some((cursor, due));
    }

    pub(crate) fn take_ack(&mut self) -> Option<(Cursor, Millis)> {
        let ack = self.aside.as_mut()?.ack.take();
        self.tidy();
        ack
    }

    pub(crate) fn retry(&mut self, at: Millis) {
        self.aside.get_or_insert_default().retry_at = Some(at);
    }

    /// True once, when the time for it has come.
    pub(crate) fn is_retry_due(&mut self, now: Millis) -> bool {
        let Some(aside) = &mut self.aside else { return false };
        let is_due = aside.retry_at.is_some_and(|at| at <= now);
        if is_due {
            aside.retry_at = None;
            self.tidy();
        }
        is_due
    }

    /// When something of it is due.
    pub(crate) fn due(&self) -> Option<Millis> {
        let aside = self.aside.as_ref()?;
        aside.ack.map(|(_, due)| due).into_iter().chain(aside.retry_at).min()
    }

    /// A stream that only runs has nothing aside.
    fn tidy(&mut self) {
        let is_empty = |a: &Aside| a.beginning.is_none() && a.ack.is_none() && a.retry_at.is_none() && a.again_to == 0;
        if self.aside.as_deref().is_some_and(is_empty) {
            self.aside = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thousands of members of a group on a node: each byte here is one a member.
    #[test]
    fn a_stream_that_only_runs_is_small_and_has_nothing_aside() {
        assert!(size_of::<Stream>() <= 88, "{}", size_of::<Stream>());
        let mut stream = Stream::new(None);
        stream.prepare(Beginning::new(How::Guest, Vec::new(), From::Now));
        stream.hold_ack(Cursor::default(), Millis(5));
        stream.retry(Millis(3));
        assert_eq!(stream.due(), Some(Millis(3)));
        stream.take_beginning();
        assert!(!stream.is_retry_due(Millis(2)) && stream.is_retry_due(Millis(3)) && !stream.is_retry_due(Millis(4)));
        stream.take_ack();
        assert!(stream.aside.is_none());
    }
}
