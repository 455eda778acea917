//! How a head follows its inbox: an attach, reads behind gaps, pages, the position check, and a fork. As a connection does
//! with the own inbox, but for all who sit here at once, and never ahead of the changes of the membership.

use protocol::Millis;

use crate::consumer::Step;
use crate::types::{Attached, Standing, Start};

use super::{Applied, Gate, Head, Pull, Question, RETRY_MS, Room, Waiting, Word};

/// A head whose location could not be written is checked this often: nobody else would tell it.
const UNROUTED_CHECK_MS: u64 = 5_000;

impl<S> Head<S> {
    /// Every location is written again in a new generation, and every place checked.
    pub fn on_generation(&mut self, room: &mut impl Room<S>) {
        self.reattach = true;
        self.tell_place = true;
        self.doubt(room);
    }

    /// The answer to [`Question::Attach`] and [`Question::Read`]; `None`: it could not be asked, or what was asked could not
    /// be answered. `Some(None)`: there is no record.
    #[allow(clippy::option_option, reason = "no answer is another thing than no record")]
    pub fn on_attached(&mut self, answer: Option<Option<Attached>>, now: Millis, room: &mut impl Room<S>) {
        let Some(pull) = self.pull.take() else { return };
        self.postpone_check(now);
        match answer {
            None => {
                self.reattach |= pull == Pull::Attach;
                self.consumer.on_failed();
                self.retry_at = Some(now.plus(RETRY_MS));
                self.refuse_newcomers(room, |_| true);
            }
            // It is gone: an attach begins another one, and says that it is.
            Some(None) => {
                self.reattach = true;
                self.ask_inbox(room);
            }
            Some(Some(attached)) => {
                if pull != Pull::Read {
                    self.routed = attached.routed;
                }
                let ticket = if self.is_begun {
                    match self.gate(attached.version, room) {
                        Gate::Later(ticket) => ticket,
                        Gate::Open | Gate::Closed => 0,
                    }
                } else {
                    self.is_begun = true;
                    self.applied = Applied::at(attached.version);
                    self.take_early(now, room);
                    self.ask_wanted(room);
                    0
                };
                self.page = Some(Waiting { attached: Box::new(attached), is_jump: pull == Pull::Jump, ticket });
                if ticket == 0 {
                    self.take_page(now, room);
                }
            }
        }
        self.look_for_empty(now);
    }

    /// Hands out the page that has come; the changes before it are known.
    pub(super) fn take_page(&mut self, now: Millis, room: &mut impl Room<S>) {
        let Some(Waiting { attached, is_jump, .. }) = self.page.take() else { return };
        self.jump &= !is_jump;
        if let Start::Reset { .. } = attached.start {
            // Members are at places of their own: each reads, and hears of it. The head goes on at the end.
            self.old_places = self.consumer.places();
            (self.jump, self.tell_doubt) = (true, true);
            return self.ask_inbox(room);
        }
        let newest = attached.page.entries.iter().filter_map(|entry| entry.mseq).max();
        if newest > Some(self.applied.number()) {
            // Another master's: what was asked of this one says nothing about it.
            self.consumer.on_failed();
            self.retry_at = Some(now.plus(RETRY_MS));
            return;
        }
        for entry in &attached.page.entries {
            room.tell(&Word::Entry(entry.clone()), &mut self.seats.at(entry.mseq.unwrap_or(0)));
        }
        let places = attached.page.entries.iter().map(|entry| entry.cursor);
        match self.consumer.on_page(attached.cursor, places, attached.page.end, attached.page.more) {
            Step::Pull => self.ask_inbox(room),
            _ if self.reattach => self.doubt(room),
            _ => self.arrive(now, room),
        }
    }

    /// The head is where its inbox is.
    fn arrive(&mut self, now: Millis, room: &mut impl Room<S>) {
        if std::mem::take(&mut self.tell_doubt) {
            self.tell_place = false;
            room.tell(&Word::Doubt, &mut self.seats.all());
        }
        if std::mem::take(&mut self.tell_place) {
            room.tell(&Word::At(self.consumer.cursor()), &mut self.seats.all());
        }
        self.admit(now, room);
    }

    /// The answer to [`Question::Verify`]: where the place stands, and the number of the newest change.
    pub fn on_verified(&mut self, answer: Option<(Standing, u64)>, now: Millis, room: &mut impl Room<S>) {
        self.verifying = false;
        self.postpone_check(now);
        let Some((standing, version)) = answer else { return };
        if version != self.applied.number() && standing != Standing::Gone {
            self.ask_changes(version, room);
        }
        self.reattach |= standing == Standing::Gone;
        if standing != Standing::Current {
            self.doubt(room);
        }
    }

    pub(super) fn doubt(&mut self, room: &mut impl Room<S>) {
        if self.consumer.on_doubt() == Step::Pull {
            self.ask_inbox(room);
        }
    }

    /// Asks for what follows.
    pub(super) fn ask_inbox(&mut self, room: &mut impl Room<S>) {
        self.retry_at = None;
        let (pull, question) = if self.jump {
            self.reattach = false;
            (Pull::Jump, Question::Attach { places: Vec::new() })
        } else if std::mem::take(&mut self.reattach) {
            (Pull::Attach, Question::Attach { places: self.consumer.places() })
        } else {
            (Pull::Read, Question::Read { after: self.consumer.cursor() })
        };
        self.pull = Some(pull);
        room.ask(question);
    }

    pub(super) fn postpone_check(&mut self, now: Millis) {
        self.check_at = now.plus(if self.routed { self.check_ms } else { UNROUTED_CHECK_MS.min(self.check_ms) });
    }

    /// True if a newcomer would miss nothing and get nothing that is not his.
    pub(super) fn is_ready(&self) -> bool {
        self.is_begun && !self.asking.is_on() && self.consumer.is_live() && !self.jump && self.retry_at.is_none()
    }
}
