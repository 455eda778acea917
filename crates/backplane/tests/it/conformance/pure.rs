//! The pure rules over plain maps: what both backplanes have to answer, and what node a hears of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use backplane::{
    AttachRequest, Batch, ChangeRequest, Changed, DetachRequest, HistoryRequest, ReadRequest, RegroupRequest,
    VerifyRequest,
};
use delivery::members::{self, Bounds, Members, Regrouped, Told};
use delivery::presence::{Presence, Watchers};
use delivery::record::{self, Beside, Record, Whose};
use delivery::{Ack, Attached, BadBefore, Kind, Limits, Placed, PresenceOf, Standing, Verified};
use protocol::bundle::Item;
use protocol::{Entry, Envelope, Ephemeral, GroupId, Live, NodeId, Notice, Page, Text, UserId};

use crate::fixtures::node;

pub(super) struct Pure {
    limits: Limits,
    pub(super) now_us: u64,
    records: HashMap<Text, Option<Record>>,
    members: HashMap<Text, Members>,
    groups: HashMap<UserId, BTreeSet<GroupId>>,
    people: HashMap<Text, (Presence, Watchers)>,
}

fn own(user: &UserId) -> Text {
    Text::from(format!("user:{user}"))
}

impl Pure {
    pub(super) fn new(limits: Limits) -> Self {
        let (records, members, groups, people) = Default::default();
        Self { limits, now_us: 0, records, members, groups, people }
    }

    fn alive(&mut self, of: &Text) -> Option<&mut Record> {
        self.records.get_mut(of)?.as_mut()
    }

    /// Node a is where the record is.
    fn is_here(&self, of: &Text) -> bool {
        self.records.get(of).into_iter().flatten().any(|record| record.nodes().contains(&&node("a")))
    }

    /// Answers, what node a hears, and whom the script names.
    pub(super) fn append(&mut self, batch: &Batch) -> (Vec<Vec<Placed>>, Vec<Item>, Vec<NodeId>) {
        let (mut groups, mut items, mut nodes, mut place) = (Vec::new(), Vec::new(), BTreeSet::new(), 0);
        for group in &batch.groups {
            let (whose, of) = (Whose::of(&group.record), &group.record);
            let record = self.records.entry(of.clone()).or_default();
            let appended =
                record::append(record, whose, batch.epoch, self.now_us, place, &group.messages, &self.limits);
            place += group.messages.len() as u64;
            let version = record.as_ref().map_or(0, |record| record.version);
            if !appended.live.is_empty() {
                nodes.extend(record.iter().flat_map(Record::nodes).cloned());
            }
            if self.is_here(of) {
                let item = |row| Item { record: of.clone(), version, live: live(row) };
                items.extend(appended.live.iter().map(item));
            }
            groups.push(appended.placed);
        }
        (groups, items, nodes.into_iter().collect())
    }

    pub(super) fn attach(&mut self, request: &AttachRequest, items: &mut Vec<Item>) -> Option<Attached> {
        let AttachRequest { of, epoch, request } = request;
        let record = self.records.entry(of.clone()).or_default();
        let told = record::claim(record, self.now_us, request);
        let user = of.strip_prefix("user:").map(|id| UserId::parse(id).unwrap());
        let beside = Beside {
            whose: Whose::of(of),
            members: self.members.get(of),
            groups: user.as_ref().and_then(|user| self.groups.get(user)),
        };
        let attached = record::attach(record, *epoch, self.now_us, request, &beside, &self.limits)?;
        let here = told.into_iter().filter(|(to, _)| *to == node("a"));
        items.extend(here.map(|(_, notice)| Item {
            record: of.clone(),
            version: attached.version,
            live: Live::Notice(notice),
        }));
        if request.registration.is_some() {
            self.settle(of, request.profile.as_ref(), items);
        }
        Some(attached)
    }

    pub(super) fn read(&mut self, request: &ReadRequest) -> Option<Attached> {
        let now_us = self.now_us;
        record::read(self.alive(&request.of).as_deref(), now_us, &request.after)
    }

    pub(super) fn verify(&mut self, request: &VerifyRequest, items: &mut Vec<Item>) -> Verified {
        let VerifyRequest { of, registration, cursor } = request;
        let record = self.records.entry(of.clone()).or_default();
        let verified = record::verify(record, self.now_us, registration, *cursor, &self.limits);
        if verified.standing != Standing::Gone {
            self.settle(of, None, items);
        }
        verified
    }

    pub(super) fn detach(&mut self, request: &DetachRequest, items: &mut Vec<Item>) {
        if let Some(record) = self.alive(&request.of) {
            record.detach(&node("a"), request.connection, request.reg);
        }
        self.settle(&request.of, None, items);
    }

    fn settle(&mut self, of: &Text, profile: Option<&Text>, items: &mut Vec<Item>) {
        if Whose::of(of) != Whose::User {
            return;
        }
        let record = self.records.get(of).and_then(Option::as_ref);
        let locations = record.map(|record| record.locations.clone()).unwrap_or_default();
        let version = record.map_or(0, |record| record.version);
        let (presence, watchers) = self.people.entry(of.clone()).or_default();
        let Some(notice) = presence.settle(&locations, self.now_us, profile) else { return };
        if watchers.at(self.now_us).any(|watcher| *watcher == node("a")) {
            items.push(Item { record: of.clone(), version, live: Live::Notice(notice) });
        }
    }

    pub(super) fn history(&mut self, request: &HistoryRequest) -> Result<(Page, bool), BadBefore> {
        let (before, limit) = (request.before, request.limit);
        self.alive(&request.of).map_or(Ok(Default::default()), |record| record.history(before, limit))
    }

    pub(super) fn ack(&mut self, Ack { of, field, cursor }: &Ack) {
        let (whose, cursor) = (Whose::of(of), *cursor);
        if let Some(record) = self.alive(of) {
            record.ack(whose, field, cursor);
        }
    }

    pub(super) fn change(&mut self, list: &[ChangeRequest], items: &mut Vec<Item>) -> Vec<Changed> {
        let mut answers = Vec::new();
        for request in list {
            let record = self.records.entry(request.of.clone()).or_default();
            let members = self.members.entry(request.of.clone()).or_default();
            answers.push(members::change(record, members, self.now_us, request, &Bounds::default(), &self.limits));
        }
        for Told { of, version, notice } in members::told(list.iter().zip(answers.iter().copied())) {
            if self.is_here(&of) {
                items.push(Item { record: of, version, live: Live::Notice(notice) });
            }
        }
        answers
    }

    pub(super) fn regroup(&mut self, list: &[RegroupRequest], items: &mut Vec<Item>) -> Vec<bool> {
        let mut answers = Vec::new();
        for RegroupRequest { user, group, is_in } in list {
            let (of, now_us) = (own(user), self.now_us);
            let record = self.records.get_mut(&of).and_then(Option::as_mut);
            let set = self.groups.entry(user.clone()).or_default();
            let done = members::regroup(record, set, now_us, group, *is_in, &Bounds::default());
            if let Regrouped::Changed(Some(version)) = done
                && self.is_here(&of)
            {
                match items.iter_mut().find(|item| item.record == of) {
                    Some(item) => item.version = version,
                    None => items.push(Item { record: of, version, live: Live::Notice(Notice::Groups) }),
                }
            }
            answers.push(done != Regrouped::Full);
        }
        answers
    }

    pub(super) fn presence(&mut self, user: &UserId, watch_ms: Option<u64>, items: &mut Vec<Item>) -> PresenceOf {
        self.settle(&own(user), None, items);
        let (presence, watchers) = self.people.entry(own(user)).or_default();
        if let Some(watch_ms) = watch_ms {
            watchers.watch(&node("a"), self.now_us / 1_000 + watch_ms);
        }
        presence.answer()
    }

    pub(super) fn unwatch(&mut self, user: &UserId) {
        self.people.entry(own(user)).or_default().1.unwatch(&node("a"));
    }

    pub(super) fn audience(&mut self, of: &Text) -> u64 {
        self.alive(of).map_or(0, |record| record.audience())
    }

    pub(super) fn notify(&mut self, list: &[(Text, Notice)], items: &mut Vec<Item>) {
        for (of, notice) in list {
            if self.is_here(of) {
                let version = self.alive(of).map_or(0, |record| record.version);
                items.push(Item { record: of.clone(), version, live: Live::Notice(notice.clone()) });
            }
        }
    }
}

fn live(row: &record::LiveRow) -> Live {
    let envelope = Arc::new(Envelope::decode(&row.stored.envelope).unwrap());
    match row.kind {
        Kind::Durable | Kind::Late => Live::Entry(Entry {
            cursor: row.cursor,
            link: row.link,
            tag: row.stored.tag,
            mseq: row.stored.mseq,
            envelope,
        }),
        Kind::Ephemeral => Live::Ephemeral(Ephemeral { at: row.stored.stamp.at(), envelope }),
    }
}
