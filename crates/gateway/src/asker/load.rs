//! One master: what is in flight there, and whose turn it is.

use std::collections::VecDeque;

use routing::SlotGroup;

use super::line::{Class, Line};

/// Pages in flight of all masters together, 64 KiB each: 4 MiB.
const PAGES_MAX: usize = 64;
/// Histories in flight of all masters together, 256 KiB each; apart from pages, which are somebody's delivery.
const HISTORIES_MAX: usize = 16;
/// A master's share of these, however many masters there are.
const PAGES_MIN: usize = 8;
const HISTORIES_MIN: usize = 2;
/// Calls in flight on one master: as many as pages and histories can be, and room for small ones.
const CALLS_MAX: usize = 128;
/// When there are so many, checks and what is behind them begin no more.
const CALLS_MAX_BEHIND: usize = CALLS_MAX / 2;
/// At least every so many turns a class that waits gets one, whatever is before it.
const FLOOR: u32 = 8;

/// A master, as whoever asks it tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Master(pub(crate) usize);

/// What a call occupies until it is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flight {
    pub(crate) master: Master,
    pub(crate) group: SlotGroup,
    pub(crate) line: Line,
    pub(super) count: usize,
}

/// What one master may have in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) pages: usize,
    histories: usize,
}

impl Share {
    /// Of so many masters, each gets the same.
    pub(super) fn of(masters: usize) -> Self {
        let masters = masters.max(1);
        Self { pages: (PAGES_MAX / masters).max(PAGES_MIN), histories: (HISTORIES_MAX / masters).max(HISTORIES_MIN) }
    }
}

/// What is in flight on one master, and which of its slot groups could be asked, a list a line.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) master: Master,
    pub(super) ready: [VecDeque<SlotGroup>; Line::COUNT],
    pub(super) calls: usize,
    pub(super) pages: usize,
    reads: usize,
    histories: usize,
    /// Turns that others had since this class had one.
    passed: [u32; 4],
    last: Line,
}

impl Load {
    pub(super) fn new(master: Master) -> Self {
        Self {
            master,
            ready: Default::default(),
            calls: 0,
            pages: 0,
            reads: 0,
            histories: 0,
            passed: [0; 4],
            last: Line::Ack,
        }
    }

    pub(super) fn has_ready(&self, line: Line) -> bool {
        !self.ready[line as usize].is_empty()
    }

    fn has_room(&self, line: Line, share: Share) -> bool {
        let calls_max = if line.class() >= Class::Check { CALLS_MAX_BEHIND } else { CALLS_MAX };
        let has_pages = match line {
            Line::History => self.histories < share.histories,
            // Half of the pages is left to attaches: they come many in a call, and would never find room for one.
            Line::Read => self.pages < share.pages && self.reads < share.pages / 2,
            line => !line.answers_pages() || self.pages < share.pages,
        };
        self.calls < calls_max && has_pages
    }

    /// Whose turn it is: the first class, unless another one has been passed over too often. `is_stopped`: only what
    /// nobody waits for.
    pub(super) fn choose(&mut self, share: Share, is_stopped: bool) -> Option<Line> {
        let may = |line: &Line| {
            (!is_stopped || line.class() == Class::Behind) && self.has_ready(*line) && self.has_room(*line, share)
        };
        let there: Vec<Line> = Line::ALL.into_iter().filter(may).collect();
        let passed = |line: &Line| self.passed[line.class() as usize];
        let overdue = there.iter().filter(|line| passed(line) >= FLOOR - 1).max_by_key(|line| passed(line));
        let class = overdue.or_else(|| there.first())?.class();
        for other in Class::ALL {
            let is_passed = other != class && there.iter().any(|line| line.class() == other);
            self.passed[other as usize] = match is_passed {
                true => self.passed[other as usize] + 1,
                false if other == class => 0,
                false => self.passed[other as usize],
            };
        }
        // The lines of a class take turns.
        let of_class = || there.iter().copied().filter(|line| line.class() == class);
        let is_behind = |line: &Line| *line as usize > self.last as usize;
        self.last = of_class().find(is_behind).or_else(|| of_class().next())?;
        Some(self.last)
    }

    pub(super) fn begin(&mut self, flight: &Flight) {
        self.calls += 1;
        match flight.line {
            Line::History => self.histories += 1,
            Line::Read => (self.reads, self.pages) = (self.reads + 1, self.pages + 1),
            line if line.answers_pages() => self.pages += flight.count,
            _ => {}
        }
    }

    pub(super) fn end(&mut self, flight: &Flight) {
        self.calls -= 1;
        match flight.line {
            Line::History => self.histories -= 1,
            Line::Read => (self.reads, self.pages) = (self.reads - 1, self.pages - 1),
            line if line.answers_pages() => self.pages -= flight.count,
            _ => {}
        }
    }
}
