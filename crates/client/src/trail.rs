//! The cursors that a client keeps of one stream: where to go on, and where to go on if that place is gone.

use std::sync::Arc;

/// Distances in messages of the marks behind the newest cursor. With them a fork replays about as much as it is long.
const STEPS: [u64; 3] = [8, 64, 512];

/// The last cursor of a stream, and those of about 8, 64 and 512 messages ago.
///
/// Push the cursor of every message as it is handled; keep [`CursorTrail::newest_first`] with what was handled, and give
/// it to [`crate::Config::cursors`] at the next start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorTrail {
    last: Arc<str>,
    count: u64,
    marks: [Mark; STEPS.len()],
}

/// Moves once every step: `older` is between one and two steps behind the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    older: Arc<str>,
    newer: Arc<str>,
}

impl CursorTrail {
    /// A stream that stands at `cursor`: what `welcome`, `stream` and `reset` name.
    pub fn starting_at(cursor: &str) -> Self {
        let cursor: Arc<str> = cursor.into();
        let mark = || Mark { older: Arc::clone(&cursor), newer: Arc::clone(&cursor) };
        Self { last: Arc::clone(&cursor), count: 0, marks: [mark(), mark(), mark()] }
    }

    /// Takes back what [`CursorTrail::newest_first`] gave; `None` for an empty list.
    pub fn from_newest_first<'a>(cursors: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut cursors = cursors.into_iter();
        let mut trail = Self::starting_at(cursors.next()?);
        let mut known = Arc::clone(&trail.last);
        for mark in &mut trail.marks {
            if let Some(cursor) = cursors.next() {
                known = cursor.into();
            }
            *mark = Mark { older: Arc::clone(&known), newer: Arc::clone(&known) };
        }
        Some(trail)
    }

    /// Takes the cursor of the next message.
    pub fn push(&mut self, cursor: &str) {
        self.last = cursor.into();
        self.count += 1;
        for (mark, step) in self.marks.iter_mut().zip(STEPS) {
            if self.count.is_multiple_of(step) {
                mark.older = std::mem::replace(&mut mark.newer, Arc::clone(&self.last));
            }
        }
    }

    pub fn last(&self) -> &str {
        &self.last
    }

    /// At most four different cursors, newest first, as `hello` names them.
    pub fn newest_first(&self) -> Vec<String> {
        let mut list: Vec<String> = vec![self.last.to_string()];
        for mark in &self.marks {
            if !list.iter().any(|cursor| **cursor == *mark.older) {
                list.push(mark.older.to_string());
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(messages: u64) -> Vec<u64> {
        let mut trail = CursorTrail::starting_at("0");
        (1..=messages).for_each(|n| trail.push(&n.to_string()));
        trail.newest_first().iter().map(|cursor| cursor.parse().unwrap()).collect()
    }

    #[test]
    fn a_short_stream_keeps_its_start() {
        assert_eq!(after(0), [0]);
        assert_eq!(after(1), [1, 0]);
        assert_eq!(after(7), [7, 0]);
        assert_eq!(after(16), [16, 8, 0]);
    }

    /// Goal: whatever the number of messages, the marks are about 8, 64 and 512 behind. Method: every length up to 3,000.
    #[test]
    fn the_marks_are_one_to_two_steps_behind() {
        for n in 1_200..3_000 {
            let list = after(n);
            assert_eq!(list.len(), 4, "at {n}: {list:?}");
            assert_eq!(list[0], n);
            for (cursor, step) in list[1..].iter().zip(STEPS) {
                assert!((step..2 * step).contains(&(n - cursor)), "at {n}: {list:?}");
            }
        }
    }

    #[test]
    fn a_kept_trail_goes_on() {
        let mut trail = CursorTrail::from_newest_first(["9", "5", "1"]).unwrap();
        assert_eq!(trail.newest_first(), ["9", "5", "1"]);
        trail.push("10");
        assert_eq!(trail.newest_first(), ["10", "5", "1"]);
        assert_eq!(CursorTrail::from_newest_first([]), None);
    }
}
