//! Whatever comes, in whatever order: every `id` is answered once, and nothing panics.

use std::collections::{HashMap, HashSet, VecDeque};

use connection::{
    Answer, HistoryFault, Input, Joined, Listing, People, Receipts, Request, Seated, SendFault, Settings, Unavailable,
    What,
};
use delivery::{Marked, Place, Placed, Reason, Start};
use protocol::{ErrorCode, Live, Notice, UnixMillis};
use serde_json::json;

use crate::harness::{Harness, at, entered, group, group_entry, page, user};

/// Chance that can be had again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

const GROUPS: [&str; 3] = ["attic", "den", "yard"];

fn frame(dice: &mut Dice, id: u64) -> serde_json::Value {
    let id = id.to_string();
    let name = GROUPS[dice.below(3) as usize];
    let of = format!("group:{name}");
    let cursor = at(dice.below(9)).to_text();
    match dice.below(14) {
        0..=2 => json!({"type": "join", "id": id, "group": name}),
        3 => json!({"type": "join", "id": id, "group": name, "until": "disconnect"}),
        4 => json!({"type": "join", "id": id, "group": name, "until": "disconnect", "cursor": cursor}),
        5 | 6 => json!({"type": "leave", "id": id, "group": name}),
        7 => json!({"type": "read", "id": id, "of": of, "cursor": cursor}),
        8 => json!({"type": "history", "id": id, "of": of}),
        9 => json!({"type": "counts", "id": id, "of": of}),
        10 => json!({"type": "watch", "id": id, "group": name}),
        11 => json!({"type": "members", "id": id, "group": name}),
        12 => json!({"type": "receipts", "id": id, "ref": at(3).to_ref(&of)}),
        _ => json!({"type": "send", "id": id, "to": of, "body": 1}),
    }
}

fn fault() -> SendFault {
    SendFault { code: ErrorCode::Unavailable, message: "away".into(), retry_ms: Some(1), is_final: false }
}

/// What the node says to a request; each is answered once, sooner or later.
fn answer(dice: &mut Dice, request: Request) -> Option<Input> {
    let fails = dice.one_in(5);
    let mseq = dice.below(6);
    let attached = |dice: &mut Dice, of: &str| {
        let start = match dice.below(4) {
            0 => Start::Reset { reason: Reason::Fork, lost: None },
            1 => Start::Reset { reason: Reason::Retention, lost: Some(1) },
            _ => Start::Resumed,
        };
        let joined = Some(mseq).filter(|_| !dice.one_in(3));
        let after = dice.below(5);
        entered(of, joined, start, after, after + dice.below(4))
    };
    Some(match request {
        Request::Seat(seat) if fails => Input::Seated { of: seat.of, result: Err(Unavailable) },
        Request::Seat(seat) => {
            Input::Seated { of: seat.of, result: Ok(Seated { cursor: at(dice.below(9)), version: mseq }) }
        }
        Request::Enter(enter) if fails => Input::Attached { of: enter.of, result: Err(Unavailable) },
        Request::Enter(enter) => {
            Input::Attached { result: Ok(Some(attached(dice, &enter.of.to_string()))), of: enter.of }
        }
        Request::Read { of, .. } if fails => Input::Attached { of, result: Ok(None) },
        Request::Read { of, .. } => Input::Attached { result: Ok(Some(attached(dice, &of.to_string()))), of },
        Request::Attach(attach) if fails => Input::Attached { of: attach.of, result: Err(Unavailable) },
        Request::Attach(attach) => Input::Attached { of: attach.of, result: Ok(Some(page(Start::Resumed, 0, 0, 0))) },
        Request::Join { id, group, .. } => {
            let result = if fails { Err(fault()) } else { Ok(Joined { mseq, members: 2 }) };
            Input::Joined { id, group, result }
        }
        Request::Leave { id, group, .. } => {
            Input::Left { id, group, result: if fails { Err(fault()) } else { Ok(()) } }
        }
        Request::Groups { .. } if fails => Input::Groups { result: Err(Unavailable) },
        Request::Groups { .. } => {
            let groups = GROUPS.iter().filter(|_| dice.one_in(2)).map(|name| group(name)).collect();
            Input::Groups { result: Ok((dice.below(9), groups)) }
        }
        Request::Ask { id, .. } if fails => Input::Answered { id, result: Err(fault()) },
        Request::Ask { id, question } => {
            let answer = match question {
                connection::Question::Counts { .. } => Answer::Counts { total: 0, unread: 0, by: Vec::new() },
                connection::Question::Receipts { .. } => Answer::Receipts(Receipts::default()),
                connection::Question::Members { .. } => Answer::Members { members: Vec::new(), total: 0, next: None },
                _ => Answer::Watching(People::Count { online: 1, members: 2 }),
            };
            Input::Answered { id, result: Ok(answer) }
        }
        Request::Mark { of, with, cursor, .. } => {
            let result = match dice.below(4) {
                0 => Err(Unavailable),
                1 => Ok(Marked::Behind(at(9))),
                2 => Ok(Marked::NoPlace(Reason::Ahead)),
                _ => Ok(Marked::Moved),
            };
            Input::Marked { of, with, cursor, result }
        }
        Request::History { id, .. } if fails => Input::History { id, result: Err(HistoryFault::Unavailable) },
        Request::History { id, .. } => {
            Input::History { id, result: Ok(Listing { entries: Vec::new(), more: false, before: None }) }
        }
        Request::Append { message, .. } => {
            let placed = Placed { place: Place::Stored(at(4)), at: UnixMillis(4), online: true };
            Input::Appended { id: message.id, to: message.to, result: if fails { Err(fault()) } else { Ok(placed) } }
        }
        _ => return None,
    })
}

/// Takes what the connection asks. A seat is answered only to who does not sit, and not to who left meanwhile.
fn take(dice: &mut Dice, bob: &mut Harness, sits: &mut HashSet<String>, waiting: &mut VecDeque<Request>) {
    while !bob.asked_nothing() {
        let request = bob.asked();
        match &request {
            Request::Seat(seat) if !sits.insert(seat.of.to_string()) => continue,
            Request::Unseat { of } => {
                sits.remove(&of.to_string());
                if dice.one_in(2) {
                    waiting.retain(|asked| !matches!(asked, Request::Seat(seat) if seat.of == *of));
                }
            }
            _ => {}
        }
        waiting.push_back(request);
    }
}

/// What happens by itself.
fn event(dice: &mut Dice, bob: &mut Harness, sits: &mut HashSet<String>, waiting: &mut VecDeque<Request>) {
    let of = format!("group:{}", GROUPS[dice.below(3) as usize]);
    match dice.below(9) {
        // Of one who sits, or instead of the answer to one who waits for a seat.
        0 if sits.remove(&of) => {
            waiting.retain(|asked| !matches!(asked, Request::Seat(seat) if seat.of.to_string() == of));
            bob.input(Input::Ended { of: of.as_str().into(), mseq: dice.below(6) });
        }
        0 => {}
        1 => bob.input(Input::Doubt { of: of.as_str().into() }),
        2 => bob.input(Input::HeadAt { of: of.as_str().into(), cursor: at(dice.below(9)) }),
        3 => bob.live_with(Live::Notice(Notice::Groups), dice.below(9)),
        4 => bob.whispered(&of),
        5 => bob.input(Input::Generation),
        6 => bob.pass(dice.below(3_000)),
        7 => bob.input(Input::Presence {
            user: user("alice"),
            version: dice.below(9),
            is_online: true,
            at: UnixMillis(1),
        }),
        _ => bob.shared(&of, What::Entry(group_entry(&of, 1 + dice.below(9), dice.below(6)))),
    }
}

#[test]
fn every_id_is_answered_once_whatever_comes() {
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let settings = Settings { rate: None, heartbeat_ms: u64::MAX / 4, queue_bytes: 2_000, ..Settings::default() };
        let mut bob = Harness::open(settings, 0);
        let mut waiting: VecDeque<Request> = VecDeque::new();
        let mut answers: HashMap<String, u32> = HashMap::new();
        let mut said = 0;
        let mut sits = HashSet::new();
        let hear = |bob: &mut Harness, answers: &mut HashMap<String, u32>| {
            for got in bob.get_all() {
                if let Some(id) = got["id"].as_str().filter(|_| got["type"] != "message") {
                    *answers.entry(id.to_owned()).or_default() += 1;
                }
            }
        };
        for _ in 0..300 {
            take(&mut dice, &mut bob, &mut sits, &mut waiting);
            match dice.below(4) {
                0 if bob.connection.wants_input() => {
                    said += 1;
                    bob.say(&frame(&mut dice, said).to_string());
                }
                1 | 2 if !waiting.is_empty() => {
                    let at = dice.below(waiting.len() as u64) as usize;
                    let request = waiting.remove(at).unwrap();
                    if let Some(input) = answer(&mut dice, request) {
                        if let Input::Seated { of, result: Err(_) } = &input {
                            sits.remove(&of.to_string());
                        }
                        bob.input(input);
                    }
                }
                3 => event(&mut dice, &mut bob, &mut sits, &mut waiting),
                _ => hear(&mut bob, &mut answers),
            }
            assert!(answers.values().all(|n| *n == 1), "seed {seed}: twice: {answers:?}");
        }
        // Everything is answered in the end.
        for _ in 0..2_000 {
            hear(&mut bob, &mut answers);
            take(&mut dice, &mut bob, &mut sits, &mut waiting);
            match waiting.pop_front() {
                Some(request) => {
                    if let Some(input) = answer(&mut dice, request) {
                        if let Input::Seated { of, result: Err(_) } = &input {
                            sits.remove(&of.to_string());
                        }
                        bob.input(input);
                    }
                }
                None if (1..=said).all(|id| answers.contains_key(&id.to_string())) => break,
                None => bob.pass(1_000),
            }
        }
        let silent: Vec<u64> = (1..=said).filter(|id| !answers.contains_key(&id.to_string())).collect();
        assert!(silent.is_empty(), "seed {seed}: not answered: {silent:?}");
        assert!(answers.values().all(|n| *n == 1) && bob.closed.is_none(), "seed {seed}: {answers:?} {:?}", bob.closed);
    }
}
