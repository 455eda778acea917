//! What the keeper's shell does around the shipped window: it keeps, asks for offsets, and appends again.

use delivery::window::{Question, Replication};
use delivery::{Acknowledged, Window};
use protocol::{Cursor, Millis, Text};

use super::master::{Master, Told};
use super::{Action, Item, Lane, Mutant, State};
use crate::model::client::breach;
use crate::model::rules::{Post, bit, message};

/// A question for the offsets of the replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Watch {
    #[default]
    Idle,
    Asked(Question),
    Answered(Question, Replication),
}

impl Lane {
    pub(super) fn keeper_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.at + 1 < state.masters.len() {
            actions.push(Action::Move);
        }
        if state.owes {
            actions.push(Action::AppendAgain);
        }
        match &state.watch {
            Watch::Idle if !state.window.is_empty() => actions.push(Action::Question),
            // The late question has something to cover only if something comes.
            Watch::Idle if self.mutant == Some(Mutant::QuestionLate) => actions.push(Action::Question),
            Watch::Idle => {}
            Watch::Asked(_) => actions.push(Action::Offsets),
            Watch::Answered(..) => actions.push(Action::Confirm),
        }
    }

    /// Before anybody hears `sent`.
    pub(super) fn keep(&self, state: &mut State, item: Item, told: Told) {
        let stamp = match told {
            Told::Found(_) if self.mutant == Some(Mutant::FoundNotKept) => return,
            Told::Stored(stamp) | Told::Found(stamp) => stamp,
            Told::Published | Told::Unprovable => return,
        };
        let message = message(Post::first(item.m));
        if self.failovers > 0 {
            let now = state.window_now();
            let cursor = Cursor { stamp, ..Cursor::default() };
            state.window.push(Acknowledged { record: Text::from("user:b"), message, cursor, first_us: stamp.0 }, now);
        }
    }

    /// The master of the generation says how far its replica is: the node may still ask one that is none any more.
    pub(super) fn offsets(state: &mut State) {
        let Watch::Asked(question) = state.watch else { return };
        let is_present = state.at + 1 == state.masters.len();
        let master_offset = state.masters[state.at].offset;
        // A replica that became a master follows nobody.
        let replica_offsets = if is_present { vec![state.replica.offset] } else { Vec::new() };
        state.watch = Watch::Answered(question, Replication { master_offset, replica_offsets });
    }

    pub(super) fn confirm(&self, state: &mut State) {
        let Watch::Answered(question, answer) = std::mem::take(&mut state.watch) else { return };
        let question = if self.mutant == Some(Mutant::QuestionLate) { state.window.question() } else { question };
        let now = state.window_now();
        if self.mutant == Some(Mutant::WindowByTime) {
            let alone = Replication { replica_offsets: Vec::new(), ..answer };
            state.window.on_replication(question, &alone, now);
            let _ = state.window.take_unconfirmed();
            return;
        }
        state.window.on_replication(question, &answer, now);
        state.unconfirmed += u32::try_from(state.window.take_unconfirmed()).unwrap_or(u32::MAX);
    }

    /// The generation on the old master ends, and what it still had to say with it; one on the present master begins.
    pub(super) fn move_on(&self, state: &mut State) {
        state.at = state.masters.len() - 1;
        state.watch = Watch::Idle;
        if self.ephemeral == 0 {
            state.forget_the_old();
        }
        if self.mutant != Some(Mutant::OldAnswers) {
            state.answers.clear();
        }
        if state.current.is_some() {
            state.may_have_run = true;
            state.is_other = true;
            state.is_due = true;
        }
        match self.mutant {
            Some(Mutant::NoAppendAgain) => {}
            Some(Mutant::AppendAgainLate) => state.owes = true,
            _ => self.append_again(state),
        }
    }

    /// Everything that is not known to be safe, to the present master.
    pub(super) fn append_again(&self, state: &mut State) {
        state.owes = false;
        let mut with_marks = state.window.clone();
        let replay: &mut Window =
            if self.mutant == Some(Mutant::OldMarks) { &mut with_marks } else { &mut state.window };
        // The model's tags are one more than its messages.
        let kept: Vec<u8> = replay.replay().map(|kept| (kept.message.tag.0 - 1) as u8).collect();
        let is_retry = self.mutant != Some(Mutant::AppendAgainUnseen);
        for m in kept {
            self.store(state, state.masters.len() - 1, &[Item { m, is_retry }]);
        }
    }

    /// The node comes to the present master, and nothing else happens. What is broken then?
    fn healed(&self, state: &State) -> u16 {
        let mut healed = state.clone();
        if healed.at + 1 < healed.masters.len() {
            self.move_on(&mut healed);
        }
        if healed.owes {
            self.append_again(&mut healed);
        }
        let (stored, mut broken) = (healed.stored(), healed.broken);
        if (healed.promised & !stored).count_ones() > healed.unconfirmed {
            broken |= breach::LOST;
        }
        if healed.unavailable & !healed.retried & stored != 0 {
            broken |= breach::REFUSED;
        }
        let counts = healed.promised & !healed.retried;
        if !healed.log().map(bit).filter(|m| m & counts != 0).is_sorted() {
            broken |= breach::ORDER;
        }
        broken
    }

    pub(super) fn holds(&self, state: &State, what: u16) -> bool {
        state.memo.get(|| self.healed(state)) & what == 0
    }
}

impl State {
    /// What still happens on a master whose end is lost is of no account where nothing is ephemeral.
    pub(super) fn forget_the_old(&mut self) {
        self.network.retain(|copy| copy.master == self.at);
        self.masters[..self.at].fill(Master::default());
    }

    /// The window's time: one timeout of the model is what it waits where there is no replica.
    fn window_now(&self) -> Millis {
        Millis(u64::from(self.ticks) * 10_000)
    }
}
