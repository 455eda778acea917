//! Random operations on three users and two groups of one history.

use backplane::{
    AttachRequest, Batch, BatchBuilder, ChangeRequest, DetachRequest, HistoryRequest, Op, ReadRequest, RegroupRequest,
    VerifyRequest,
};
use delivery::{Ack, BatchNumber, Claim, Kind, fields, record};
use protocol::client::From;
use protocol::{ConnectionId, Cursor, DeviceId, Epoch, GroupId, Notice, Stamp, Text, UserId};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::LATER;
use crate::fixtures::{epoch, message, registration, topology};

#[derive(Clone, Debug)]
pub(super) enum Operation {
    Append(Batch),
    Attach(Vec<AttachRequest>),
    Read(ReadRequest),
    Verify(Vec<VerifyRequest>),
    Detach(Vec<DetachRequest>),
    History(HistoryRequest),
    Ack(Vec<Ack>),
    Change(Vec<ChangeRequest>),
    Regroup(Vec<RegroupRequest>),
    Presence(Vec<UserId>, Option<u64>),
    Unwatch(Vec<UserId>),
    Audience(Text),
    Notify(Vec<(Text, Notice)>),
}

pub(super) struct Generator {
    history: u64,
    /// Places that were seen, whatever became of them.
    pub(super) cursors: Vec<Cursor>,
    number: u64,
    epochs: u64,
}

impl Generator {
    pub(super) fn new(history: u64) -> Self {
        Self { history, cursors: Vec::new(), number: history * 1_000, epochs: 0 }
    }

    fn user(&self, rng: &mut StdRng) -> UserId {
        UserId::parse(&format!("{}-{}", self.history, rng.random_range(0..3))).unwrap()
    }

    fn group(&self, rng: &mut StdRng) -> GroupId {
        GroupId::parse(&format!("{}-{}", self.history, rng.random_range(0..2))).unwrap()
    }

    fn address(&self, rng: &mut StdRng) -> Text {
        match rng.random_range(0..20) {
            0 => Text::from(format!("service:{}", self.history)),
            1..8 => Text::from(format!("group:{}", self.group(rng))),
            _ => Text::from(format!("user:{}", self.user(rng))),
        }
    }

    fn epoch(&mut self) -> Epoch {
        self.epochs += 1;
        epoch(&format!("{}/{}", self.history, self.epochs))
    }

    fn cursor(&self, rng: &mut StdRng) -> Cursor {
        let Some(mut cursor) = self.cursors.choose(rng).copied() else { return Cursor::default() };
        match rng.random_range(0..12) {
            0 => cursor.seq += rng.random_range(1..20),
            1 => cursor.stamp = Stamp(cursor.stamp.0 + 1),
            2 => cursor.seq = protocol::limits::NUMBER_MAX - 1,
            3 => cursor.seq = cursor.seq.saturating_sub(rng.random_range(1..20)),
            4 => cursor.epoch = epoch("nobody's"),
            _ => {}
        }
        cursor
    }

    fn batch(&mut self, rng: &mut StdRng) -> Batch {
        let mut builder = BatchBuilder::default();
        for _ in 0..rng.random_range(1..7) {
            let mut one = message(&format!("m{}", rng.random_range(0..30)));
            match rng.random_range(0..8) {
                0 => one.kind = Kind::Ephemeral,
                what @ 1..=3 => {
                    one.search_us = Some([70_000_000, 3_000, 0][rng.random_range(0..3)]);
                    one.kind = if what == 3 { Kind::Late } else { Kind::Durable };
                }
                _ => {}
            }
            let (of, epoch) = (self.address(rng), self.epoch());
            builder.push(&of, one, || epoch);
        }
        self.number += 1;
        builder.finish(topology("c").lane("x"), Some(BatchNumber(self.number)), LATER)
    }

    fn many<T>(&mut self, rng: &mut StdRng, one: impl Fn(&mut Self, &mut StdRng) -> T) -> Vec<T> {
        (0..rng.random_range(1..4)).map(|_| one(self, rng)).collect()
    }

    pub(super) fn operation(&mut self, rng: &mut StdRng) -> Operation {
        match rng.random_range(0..100) {
            0..32 => Operation::Append(self.batch(rng)),
            32..50 => Operation::Attach(self.many(rng, Self::attach)),
            50..55 => {
                let after = (0..rng.random_range(1..4)).map(|_| self.cursor(rng)).collect();
                Operation::Read(ReadRequest { of: self.address(rng), after })
            }
            55..62 => Operation::Verify(self.many(rng, |this, rng| {
                let device = [None, Some("phone"), Some("3")][rng.random_range(0..3)];
                let registration = registration("a", rng.random_range(1..4), rng.random_range(1..9), device);
                VerifyRequest { of: this.address(rng), registration, cursor: this.cursor(rng) }
            })),
            62..66 => {
                // Everything of this node goes.
                let of = self.address(rng);
                let one = |connection| DetachRequest { of: of.clone(), connection: ConnectionId(connection), reg: 9 };
                Operation::Detach((1..4).map(one).collect())
            }
            66..70 => Operation::Detach(self.many(rng, |this, rng| {
                let (connection, reg) = (ConnectionId(rng.random_range(1..4)), rng.random_range(1..9));
                DetachRequest { of: this.address(rng), connection, reg }
            })),
            70..73 => {
                let before = rng.random_bool(0.6).then(|| self.cursor(rng));
                Operation::History(HistoryRequest { of: self.address(rng), before, limit: rng.random_range(1..12) })
            }
            73..79 => Operation::Ack(self.many(rng, Self::ack)),
            79..84 => Operation::Change(self.many(rng, |this, rng| {
                let of = Text::from(format!("group:{}", this.group(rng)));
                let op = [Op::Join, Op::Join, Op::Leave, Op::Remove][rng.random_range(0..4)];
                ChangeRequest { of, epoch: this.epoch(), user: this.user(rng), op, again: None }
            })),
            84..88 => Operation::Regroup(self.many(rng, |this, rng| RegroupRequest {
                user: this.user(rng),
                group: this.group(rng),
                is_in: rng.random_bool(0.6),
            })),
            88..94 => {
                let watch_ms = [None, Some(1), Some(10), Some(600_000)][rng.random_range(0..4)];
                Operation::Presence(self.many(rng, |this, rng| this.user(rng)), watch_ms)
            }
            94..95 => Operation::Unwatch(self.many(rng, |this, rng| this.user(rng))),
            95..97 => Operation::Audience(self.address(rng)),
            _ => Operation::Notify(self.many(rng, |this, rng| {
                let (user, cursor) = (this.user(rng), this.cursor(rng));
                (this.address(rng), Notice::Read { of: "all".into(), with: None, user, cursor })
            })),
        }
    }

    fn attach(&mut self, rng: &mut StdRng) -> AttachRequest {
        let of = self.address(rng);
        let name = if rng.random_bool(0.9) { "a" } else { "b" };
        let devices = if of.starts_with("user:") { ["phone", "tablet"] } else { ["3", "12"] };
        let device = [None, Some(devices[0]), Some(devices[1])][rng.random_range(0..3)];
        let registration = registration(name, rng.random_range(1..4), rng.random_range(1..9), device);
        let one = |rng: &mut StdRng| rng.random_bool(0.9).then(|| self.cursor(rng));
        let cursors = (0..rng.random_range(0..4)).map(|_| one(rng)).collect();
        let from = if rng.random_bool(0.5) { From::Oldest } else { From::Now };
        let mut request = record::AttachRequest::of(registration, cursors, from);
        if of.starts_with("user:") {
            request.groups_known = [None, Some(0), Some(7)][rng.random_range(0..3)];
            request.claim = match rng.random_range(0..6) {
                0 => Some(Claim::TakesOver(ConnectionId(rng.random_range(1..4)))),
                1 => Some(Claim::Exclusive),
                _ => None,
            };
            request.profile =
                [None, None, Some("{}".into()), Some("{\"name\":\"Bob\"}".into())][rng.random_range(0..4)].clone();
        } else if rng.random_bool(0.6) {
            // A member, whose node is there already.
            request.registration = None;
            let user = self.user(rng);
            request.stored = Some(fields::member_device(&user, &DeviceId::parse("phone").unwrap()));
            request.member = Some(user);
            if rng.random_bool(0.7) {
                request.cursors = Vec::new();
            }
        }
        AttachRequest { of, epoch: self.epoch(), request }
    }

    fn ack(&mut self, rng: &mut StdRng) -> Ack {
        let of = self.address(rng);
        let device = DeviceId::parse(["phone", "tablet"][rng.random_range(0..2)]).unwrap();
        let field = match of.starts_with("group:") {
            true => fields::member_device(&self.user(rng), &device),
            false if rng.random_bool(0.5) => fields::all_device(&device),
            false => fields::device(&device),
        };
        Ack { of, field, cursor: self.cursor(rng) }
    }
}
