//! What a server of a cluster says of all of them.

use anyhow::Result;

use super::ANSWER_WITHIN;
use crate::redis::{Redis, ask};

/// One line of CLUSTER NODES, as far as tests need it.
pub(super) struct Line {
    pub(super) id: String,
    pub(super) flags: String,
    pub(super) master: String,
    pub(super) epoch: u64,
    pub(super) slots: Vec<(u16, u16)>,
}

/// What a server says of all, in its own words.
pub(super) fn nodes(server: &Redis) -> Result<Vec<Line>> {
    let text = ask(server.port(), &["CLUSTER", "NODES"], ANSWER_WITHIN)?;
    Ok(text.lines().filter_map(Line::parse).collect())
}

/// Slots and their masters, sorted.
pub(super) fn view(lines: &[Line]) -> Vec<(u16, u16, String)> {
    let mut all: Vec<(u16, u16, String)> =
        lines.iter().flat_map(|line| line.slots.iter().map(|&(a, b)| (a, b, line.id.clone()))).collect();
    all.sort_unstable();
    all
}

impl Line {
    /// `ID ADDRESS FLAGS MASTER PING PONG EPOCH LINK SLOT…`; slots on their way stand in brackets.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [id, _, flags, master, _, _, epoch, _, ..] = words[..] else { return None };
        let range = |word: &str| match word.split_once('-') {
            Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
            None => word.parse().ok().map(|slot| (slot, slot)),
        };
        let slots = words[8..].iter().filter_map(|word| range(word)).collect();
        let (id, flags, master) = (id.to_owned(), flags.to_owned(), master.to_owned());
        Some(Self { id, flags, master, epoch: epoch.parse().ok()?, slots })
    }
}
