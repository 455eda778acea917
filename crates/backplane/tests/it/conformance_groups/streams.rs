//! Messages, locations, marks and counts of a random history.

use std::collections::HashMap;

use backplane::{AttachRequest, BatchBuilder, BatchResult, CountRequest, MarkRequest};
use bytes::Bytes;
use delivery::marks;
use delivery::record::{self, Beside, Whose};
use delivery::{Counted, Kind, Marked, NewMessage, Place, Sender};
use protocol::client::From;
use protocol::{Encoding, Envelope, Text, UserId};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use routing::hash;

use super::{LATER, LIMITS, World, next};
use crate::fixtures::{Generation, registration, topology};

impl World {
    /// `conformance.rs` compares appends and attaches; here they only have to happen alike.
    pub(super) async fn append(&mut self, redis: &mut Generation, rng: &mut StdRng) {
        let (of, epoch) = (self.address(rng), self.epoch());
        let messages: Vec<NewMessage> = (0..rng.random_range(1..4)).map(|_| self.message(&of, rng)).collect();
        let mut builder = BatchBuilder::default();
        for message in &messages {
            builder.push(&of, message.clone(), || epoch);
        }
        let batch = builder.finish(topology("real").lane(&of), None, LATER);
        let BatchResult::Answered(lua) = redis.commands.append(&batch).await.unwrap() else { panic!("stale") };
        if let Ok([delivery::Placed { place: Place::Stored(cursor), .. }, ..]) = lua.groups[0].as_deref() {
            self.set_clock(cursor.stamp.0);
        }
        if let Some(embedded) = &self.embedded {
            drop(embedded.commands.append(&batch).await.unwrap());
        }
        let (now_us, record) = (self.now_us, self.records.entry(of.clone()).or_default());
        let appended = record::append(record, Whose::of(&of), epoch, now_us, 0, &messages, &LIMITS);
        self.cursors.extend(appended.placed.iter().filter_map(|placed| Some((of.clone(), placed.place.cursor()?))));
        if self.is_here(&of) {
            next(redis).await;
            if let Some(embedded) = &mut self.embedded {
                next(embedded).await;
            }
        }
    }

    pub(super) fn message(&self, of: &Text, rng: &mut StdRng) -> NewMessage {
        let from = format!("user:{}", self.user(rng));
        let length = *[0, 7, 90, 300, 70_000].choose(rng).unwrap();
        // One to the partner of a conversation lies in the sender's own inbox too.
        let is_own = of.starts_with("user:") && rng.random_bool(0.3);
        let (from, to) = if is_own { (of.to_string(), from) } else { (from, of.to_string()) };
        let envelope = Envelope {
            to: to.into(),
            from: from.into(),
            id: format!("{:x}", rng.random::<u64>()).repeat(*[1, 3].choose(rng).unwrap()).into(),
            encoding: if rng.random_bool(0.5) { Encoding::Json } else { Encoding::MessagePack },
            body: Bytes::from(vec![b'1'; if rng.random_bool(0.05) { length } else { length.min(300) }]),
            expires_ms: *[None, None, Some(0), Some(60_000), Some(600_000), Some(1 << 40)].choose(rng).unwrap(),
            traceparent: rng.random_bool(0.1).then(|| "00-1-2-3".into()),
            flags: 0,
        };
        let tag = hash::tag(&envelope.from, &envelope.id);
        NewMessage { kind: Kind::Durable, tag, envelope: Bytes::from(envelope.encode()), search_us: None }
    }

    pub(super) async fn attach(&mut self, redis: &mut Generation, rng: &mut StdRng) {
        let (of, epoch) = (self.address(rng), self.epoch());
        let name = if rng.random_bool(0.8) { "a" } else { "b" };
        let registration = registration(name, rng.random_range(1..4), 1, None);
        let request = record::AttachRequest::of(registration, Vec::new(), From::Now);
        let list = [AttachRequest { of: of.clone(), epoch, request }];
        let lua = redis.commands.attach(&list).await.unwrap().remove(0).unwrap();
        let user = of.strip_prefix("user:").map(|id| UserId::parse(id).unwrap());
        let groups = user.and_then(|user| self.sets.get(&user).cloned());
        match self.record(&of) {
            None => self.set_clock(lua.cursor.stamp.0),
            Some(record) if record.version == 0 && lua.version > 0 => self.set_clock(lua.version),
            Some(_) => {}
        }
        if let Some(embedded) = &self.embedded {
            embedded.commands.attach(&list).await.unwrap().remove(0).unwrap();
        }
        let beside = Beside { whose: Whose::of(&of), groups: groups.as_ref(), ..Beside::default() };
        let (now_us, record) = (self.now_us, self.records.entry(of.clone()).or_default());
        let pure = record::attach(record, epoch, now_us, &list[0].request, &beside, &LIMITS).unwrap();
        assert_eq!((lua.version, lua.cursor), (pure.version, pure.cursor));
        self.cursors.push((of, pure.cursor));
    }

    pub(super) fn field(&self, rng: &mut StdRng) -> Text {
        let user = self.user(rng);
        if rng.random_bool(0.5) { "/r".into() } else { delivery::fields::read_by(&user) }
    }

    pub(super) async fn mark(&mut self, redis: &mut Generation, rng: &mut StdRng, context: &str) {
        let one = |rng: &mut StdRng| {
            let of = self.address(rng);
            MarkRequest { field: self.field(rng), cursor: self.cursor(&of, rng), of }
        };
        let list: Vec<MarkRequest> = (0..rng.random_range(1..4)).map(|_| one(rng)).collect();
        let context = format!("{context}: {list:?}");
        let unwrap = |answers: Vec<Result<Marked, _>>| answers.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        let lua = unwrap(redis.commands.mark(&list).await.unwrap());
        let mut pure = Vec::new();
        for MarkRequest { of, field, cursor } in &list {
            let record = self.records.get_mut(of).and_then(Option::as_mut);
            pure.push(marks::mark(record, Whose::of(of), field, *cursor).unwrap());
        }
        assert_eq!(lua, pure, "{context}");
        if let Some(embedded) = &self.embedded {
            assert_eq!(unwrap(embedded.commands.mark(&list).await.unwrap()), pure, "{context}");
        }
        for marked in pure {
            self.saw(match marked {
                Marked::Moved => "moved",
                Marked::Behind(_) => "behind",
                Marked::NoPlace(_) => "no place",
            });
        }
    }

    pub(super) async fn count(&mut self, redis: &mut Generation, rng: &mut StdRng, context: &str) {
        let of = self.address(rng);
        let both = (Text::from(format!("user:{}", self.user(rng))), Text::from(format!("user:{}", self.user(rng))));
        let request = CountRequest {
            after: rng.random_bool(0.5).then(|| self.cursor(&of, rng)),
            between: (of.starts_with("user:") && rng.random_bool(0.5)).then_some((of.clone(), both.0)),
            since: if rng.random_bool(0.3) { self.number(rng) } else { 0 },
            mark: self.field(rng),
            reader: both.1,
            of,
        };
        let context = format!("{context}: {request:?}");
        let sorted = |mut counted: Counted| {
            counted.by.sort_by_key(|(from, _)| from.to_string());
            counted
        };
        let (entries, bytes) = self.count;
        let pure = sorted(marks::count(self.record(&request.of), self.now_us, &request, entries, bytes));
        assert_eq!(sorted(redis.commands.count(&request).await.unwrap()), pure, "{context}");
        if let Some(embedded) = &self.embedded {
            assert_eq!(sorted(embedded.commands.count(&request).await.unwrap()), pure, "{context}");
        }
        if pure.next.is_some() {
            self.saw("more to count");
        }
        if pure.unread > 0 {
            self.saw("unread");
        }
        let fields = self.record(&request.of).map(|r| r.cursors.clone()).unwrap_or_default();
        for generation in [Some(&*redis), self.embedded.as_ref()].into_iter().flatten() {
            let part = generation.commands.fields(&request.of, 0, 100).await.unwrap();
            assert_eq!((part.total, part.next), (fields.len() as u64, 0), "{context}");
            assert_eq!(part.fields.into_iter().collect::<HashMap<_, _>>(), fields, "{context}");
        }
    }

    pub(super) async fn sender(&mut self, redis: &mut Generation, rng: &mut StdRng, context: &str) {
        let of = self.address(rng);
        let at = self.cursor(&of, rng);
        let pure = marks::sender(self.record(&of), &at);
        assert_eq!(redis.commands.sender(&of, at).await.unwrap(), pure, "{context}: {of:?} {at:?}");
        if let Some(embedded) = &self.embedded {
            assert_eq!(embedded.commands.sender(&of, at).await.unwrap(), pure, "{context}: {of:?} {at:?}");
        }
        self.saw(match pure {
            Sender::From(_) => "from",
            Sender::Expired => "expired",
            Sender::NoPlace => "nobody",
        });
    }
}
