//! The order of what a node asks the backplane for its connections, and how much of it is asked at once. Pure: the shell
//! in `asker.rs` hands in what there is to ask and which master has it, and starts the calls that come out.
//!
//! Every master has an order and caps of its own, so that one that hangs holds up nobody but itself. Rule:
//! docs/delivery.md, On the node, 5.

use std::collections::VecDeque;

use routing::SlotGroup;

use super::line::{Class, Line};
use super::load::{Flight, Load, Master, Share};

/// Requests that wait, all together: more connections than a node holds comfortably.
const WAITING_MAX: usize = 262_144;
/// Of these, acks and detaches: they may wait long for a master that is away, and leave room to those who want an answer.
const BEHIND_MAX: usize = WAITING_MAX / 2;

/// There is no room, or the node is being stopped; the request comes back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full<T>(pub(crate) T);

/// What is to be asked now, of one master. To be ended by [`Queue::finish`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call<T> {
    pub(crate) flight: Flight,
    pub(crate) items: Vec<T>,
}

/// What waits for one slot group. Each array has a place a line.
#[derive(Debug)]
struct Group<T> {
    master: Option<Master>,
    lines: [VecDeque<T>; Line::COUNT],
    /// Which master a call of a batched line is in flight on.
    asking: [Option<Master>; Line::COUNT],
    /// It stands in its master's list.
    is_listed: [bool; Line::COUNT],
    /// How many calls that failed hold it back.
    held: [u32; Line::COUNT],
}

/// All that waits. `T`: one request.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    groups: Vec<Group<T>>,
    loads: Vec<Load>,
    /// Which master is looked at first.
    turn: usize,
    /// What each master may have in flight.
    share: Share,
    waiting: [usize; 4],
    /// Those who wait for a request of somebody else.
    joined: usize,
    holds: usize,
    is_stopped: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new(groups: usize) -> Self {
        let group = || Group {
            master: None,
            lines: Default::default(),
            asking: [None; Line::COUNT],
            is_listed: [false; Line::COUNT],
            held: [0; Line::COUNT],
        };
        Self {
            groups: std::iter::repeat_with(group).take(groups).collect(),
            loads: Vec::new(),
            turn: 0,
            share: Share::of(1),
            waiting: [0; 4],
            joined: 0,
            holds: 0,
            is_stopped: false,
        }
    }

    /// Takes one request. `at`: which master has the slot group now, if any.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn push(&mut self, group: SlotGroup, line: Line, item: T, at: Option<Master>) -> Result<(), Full<T>> {
        let is_behind = line.class() == Class::Behind;
        let is_full = self.len() >= WAITING_MAX || (is_behind && self.waiting(Class::Behind) >= BEHIND_MAX);
        if is_full || (self.is_stopped && !is_behind) {
            return Err(Full(item));
        }
        if self.group(group).master.is_none() {
            self.place(group, at);
        }
        self.put(group, line, item);
        Ok(())
    }

    /// One more waits for a request that is here already.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn join(&mut self) -> Result<(), Full<()>> {
        if self.len() >= WAITING_MAX || self.is_stopped {
            return Err(Full(()));
        }
        self.joined += 1;
        Ok(())
    }

    /// So many that had joined wait no longer.
    pub(crate) fn part(&mut self, count: usize) {
        self.joined -= count.min(self.joined);
    }

    /// Takes requests back that were asked in vain: they had their room before.
    pub(crate) fn put_back(&mut self, group: SlotGroup, line: Line, items: Vec<T>) {
        items.into_iter().for_each(|item| self.put(group, line, item));
    }

    fn put(&mut self, group: SlotGroup, line: Line, item: T) {
        self.waiting[line.class() as usize] += 1;
        self.group(group).lines[line as usize].push_back(item);
        self.list(group, line);
    }

    /// The next call. `at` is asked for the group that is about to be called: it may have another master by now, or none.
    pub(crate) fn next(&mut self, at: impl Fn(SlotGroup) -> Option<Master>) -> Option<Call<T>> {
        let mut looked_at = 0;
        while looked_at < self.loads.len() {
            let index = self.turn % self.loads.len();
            let Some(line) = self.loads[index].choose(self.share, self.is_stopped) else {
                (self.turn, looked_at) = (index + 1, looked_at + 1);
                continue;
            };
            let master = self.loads[index].master;
            let Some(group) = self.loads[index].ready[line as usize].pop_front() else { continue };
            // It stands in the list of another master since.
            if self.group(group).master != Some(master) {
                continue;
            }
            self.group(group).is_listed[line as usize] = false;
            if !self.is_askable(group, line) {
                continue;
            }
            let there = at(group);
            if there != Some(master) {
                self.place(group, there);
                // Whoever has it now may have been looked at before.
                looked_at = 0;
                continue;
            }
            self.turn = index + 1;
            return Some(self.take(index, group, line));
        }
        None
    }

    fn take(&mut self, index: usize, group: SlotGroup, line: Line) -> Call<T> {
        let pages_left = self.share.pages.saturating_sub(self.loads[index].pages);
        let most = if line.answers_pages() { line.call_max().min(pages_left) } else { line.call_max() };
        let waiting = &mut self.group(group).lines[line as usize];
        let items: Vec<T> = waiting.drain(..most.min(waiting.len())).collect();
        if waiting.is_empty() {
            // What a storm needed is given back.
            *waiting = VecDeque::new();
        }
        self.waiting[line.class() as usize] -= items.len();
        let flight = Flight { master: self.loads[index].master, group, line, count: items.len() };
        self.group(group).asking[line as usize] = line.is_batched().then_some(flight.master);
        self.list(group, line);
        self.loads[index].begin(&flight);
        Call { flight, items }
    }

    /// A call has ended.
    pub(crate) fn finish(&mut self, flight: &Flight) {
        if let Some(load) = self.loads.iter_mut().find(|load| load.master == flight.master) {
            load.end(flight);
        }
        // Another master may have been asked meanwhile.
        self.group(flight.group).asking[flight.line as usize].take_if(|master| *master == flight.master);
        self.list(flight.group, flight.line);
    }

    /// The requests of a slot group wait, those of this class and behind it, until as many [`Queue::release`].
    pub(crate) fn hold(&mut self, group: SlotGroup, from: Class) {
        self.holds += 1;
        let group = self.group(group);
        Line::ALL.iter().filter(|line| line.class() >= from).for_each(|line| group.held[*line as usize] += 1);
    }

    pub(crate) fn release(&mut self, group: SlotGroup, from: Class) {
        self.holds -= 1;
        for line in Line::ALL.into_iter().filter(|line| line.class() >= from) {
            self.group(group).held[line as usize] -= 1;
            self.list(group, line);
        }
    }

    /// Masters came or went: every slot group is where `at` says.
    pub(crate) fn place_all(&mut self, at: impl Fn(SlotGroup) -> Option<Master>) {
        for n in 0..self.groups.len() {
            let group = SlotGroup(u16::try_from(n).unwrap_or(u16::MAX));
            self.place(group, at(group));
        }
        let groups = &self.groups;
        let has_groups = |load: &Load| groups.iter().any(|group| group.master == Some(load.master));
        self.loads.retain(|load| load.calls > 0 || has_groups(load));
        self.share = Share::of(self.loads.iter().filter(|load| has_groups(load)).count());
    }

    /// Takes what waits for slot groups that no master has and that are given up. Detaches stay: nobody says them again.
    pub(crate) fn abandon(&mut self, is_gone: impl Fn(SlotGroup) -> bool) -> Vec<T> {
        let mut gone = Vec::new();
        for (group, n) in self.groups.iter_mut().zip(0..) {
            if group.master.is_none() && group.lines.iter().any(|line| !line.is_empty()) && is_gone(SlotGroup(n)) {
                for line in Line::ALL.into_iter().filter(|line| *line != Line::Detach) {
                    let taken = std::mem::take(&mut group.lines[line as usize]);
                    self.waiting[line.class() as usize] -= taken.len();
                    gone.extend(taken);
                }
            }
        }
        gone
    }

    /// From now on only acks and detaches are asked and taken; what else waits comes back.
    pub(crate) fn stop(&mut self) -> Vec<T> {
        self.is_stopped = true;
        let mut rest = Vec::new();
        for group in &mut self.groups {
            for line in Line::ALL.into_iter().filter(|line| line.class() != Class::Behind) {
                rest.extend(std::mem::take(&mut group.lines[line as usize]));
            }
        }
        Class::ALL.into_iter().filter(|class| *class != Class::Behind).for_each(|c| self.waiting[c as usize] = 0);
        self.joined = 0;
        rest
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// True when nothing is in flight and no master is there that could be asked for anything that waits.
    pub(crate) fn is_idle(&self) -> bool {
        let is_wanted = |line: &Line| !self.is_stopped || line.class() == Class::Behind;
        let has_ready = |load: &Load| Line::ALL.iter().filter(|line| is_wanted(line)).any(|line| load.has_ready(*line));
        self.holds == 0 && !self.loads.iter().any(|load| load.calls > 0 || has_ready(load))
    }

    /// Those who wait, with those who joined.
    pub(crate) fn len(&self) -> usize {
        self.waiting.iter().sum::<usize>() + self.joined
    }

    pub(crate) fn waiting(&self, class: Class) -> usize {
        self.waiting[class as usize] + if class == Class::Gap { self.joined } else { 0 }
    }

    fn group(&mut self, group: SlotGroup) -> &mut Group<T> {
        &mut self.groups[usize::from(group.0)]
    }

    fn is_askable(&self, group: SlotGroup, line: Line) -> bool {
        let (group, line) = (&self.groups[usize::from(group.0)], line as usize);
        let is_asking = group.asking[line].is_some() && group.asking[line] == group.master;
        !group.lines[line].is_empty() && !is_asking && group.held[line] == 0
    }

    /// A slot group has this master now, or none.
    fn place(&mut self, group: SlotGroup, master: Option<Master>) {
        if self.group(group).master == master {
            return;
        }
        self.group(group).master = master;
        // What stands in the old master's lists is skipped there.
        self.group(group).is_listed = [false; Line::COUNT];
        if let Some(master) = master
            && !self.loads.iter().any(|load| load.master == master)
        {
            self.loads.push(Load::new(master));
        }
        Line::ALL.into_iter().for_each(|line| self.list(group, line));
    }

    /// Enters a slot group in its master's list, if there is something to ask.
    fn list(&mut self, group: SlotGroup, line: Line) {
        let Some(master) = self.group(group).master else { return };
        if !self.is_askable(group, line) || self.group(group).is_listed[line as usize] {
            return;
        }
        self.group(group).is_listed[line as usize] = true;
        if let Some(load) = self.loads.iter_mut().find(|load| load.master == master) {
            load.ready[line as usize].push_back(group);
        }
    }
}

#[cfg(test)]
mod tests;
