//! A device's way into its groups and out of them: one request at a time for a group, tried again until it is answered.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::roles::Part;
use crate::history::{Step, To, What};
use crate::run::recorder::Recorder;

/// Behind a `welcome` streams begin by themselves; who asks earlier asks for what he has.
const SETTLES: Duration = Duration::from_millis(1_500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Join,
    Leave,
}

/// One group of one device.
pub(crate) struct Way {
    user: u32,
    pub(crate) group: u32,
    part: Part,
    asked: Option<(Wish, String)>,
    /// What the last answer said; `None`: none did, or the connection ended before it came.
    is_in: Option<bool>,
    due: Instant,
    count: u32,
}

impl Way {
    pub(crate) fn new(user: u32, group: u32, part: Part) -> Self {
        Self { user, group, part, asked: None, is_in: None, due: Instant::now(), count: 0 }
    }

    pub(crate) fn begin_session(&mut self) {
        if self.part != Part::Member {
            self.due = self.due.max(Instant::now() + SETTLES);
        }
    }

    /// What is asked now, if anything. `runs` says whether the group's stream stands in this session.
    pub(crate) fn ask(&mut self, runs: bool, is_ending: bool, recorder: &Recorder) -> Option<Value> {
        if self.asked.is_some() || self.due > Instant::now() {
            return None;
        }
        let wish = match self.part {
            Part::Member => (self.is_in != Some(true)).then_some(Wish::Join),
            Part::Guest => (!runs).then_some(Wish::Join),
            Part::Mover { ends_inside } if is_ending && self.is_in == Some(ends_inside) => None,
            Part::Mover { ends_inside: true } if is_ending => Some(Wish::Join),
            // Only who has joined can leave: also one who does not know it.
            Part::Mover { .. } => Some(if runs { Wish::Leave } else { Wish::Join }),
        }?;
        self.count += 1;
        let id = format!("g{}:{}", self.group, self.count);
        let group = format!("f{}", self.group);
        let frame = match wish {
            Wish::Join if self.part == Part::Guest => {
                json!({"type": "join", "id": id, "group": group, "until": "disconnect"})
            }
            Wish::Join => json!({"type": "join", "id": id, "group": group}),
            Wish::Leave => json!({"type": "leave", "id": id, "group": group}),
        };
        self.record(recorder, if wish == Wish::Join { Step::AsksToJoin } else { Step::AsksToLeave });
        self.asked = Some((wish, id));
        Some(frame)
    }

    /// Takes an answer if it is this one's; `error` is its code, if it is one.
    pub(crate) fn answered(
        &mut self,
        id: &str,
        error: Option<&str>,
        chance: &mut StdRng,
        recorder: &Recorder,
    ) -> Answer {
        let Some((wish, _)) = self.asked.take_if(|(_, asked)| asked == id) else { return Answer::Foreign };
        let pause_ms = match (wish, error) {
            (_, Some(_)) => 500..1_500,
            (Wish::Join, None) => 2_000..10_000,
            (Wish::Leave, None) => 1_000..5_000,
        };
        self.due = Instant::now() + Duration::from_millis(chance.random_range(pause_ms));
        let step = match (wish, error) {
            (Wish::Join, None) => Step::Joined,
            (Wish::Leave, None) => Step::Left,
            (_, Some("unavailable" | "overloaded" | "rate_limited" | "not_found")) => Step::Refused,
            (_, Some(_)) => Step::Unknown,
        };
        self.is_in = match step {
            Step::Joined => Some(true),
            Step::Left => Some(false),
            _ => None,
        };
        self.record(recorder, step);
        match step {
            Step::Left => Answer::Left,
            _ => Answer::Taken,
        }
    }

    /// The connection ended, and its answer with it.
    pub(crate) fn lose(&mut self, recorder: &Recorder) {
        if self.asked.take().is_some() {
            self.is_in = None;
            self.record(recorder, Step::Unknown);
        }
    }

    /// Whether the device ought to have the group's stream when everything has come to rest.
    pub(crate) fn is_owed(part: Part) -> bool {
        !matches!(part, Part::Mover { ends_inside: false })
    }

    fn record(&self, recorder: &Recorder, step: Step) {
        let is_guest = self.part == Part::Guest;
        recorder.record(What::Membership { user: self.user, group: self.group, step, is_guest });
    }

    pub(crate) fn of(&self) -> To {
        To::Group(self.group)
    }
}

/// What an answer was to a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// To somebody else's question.
    Foreign,
    Taken,
    /// He is out, and the stream is over.
    Left,
}
