//! Attach with all that it says and takes, and who is here and who wants to know.

use delivery::record::{self, Beside, Record, Whose};
use delivery::{Attached, PresenceOf};
use protocol::bundle::Item;
use protocol::{Address, Live, Notice, Text, UserId};

use super::{Handle, Shared};
use crate::api::{Answer, AttachRequest, Presence, record_of};
use crate::error::BackplaneError;

impl Shared {
    /// One attach; `items` gets what this node is to hear of it.
    pub(super) fn attach(
        &self,
        AttachRequest { of, epoch, request }: &AttachRequest,
        now_us: u64,
        items: &mut Vec<Item>,
    ) -> Result<Attached, BackplaneError> {
        let whose = Whose::of(of);
        self.with(of, |record| {
            let told = record::claim(record, now_us, request);
            let (members, groups) = (self.members.lock(), self.groups.lock());
            let user = of.strip_prefix("user:").and_then(|id| UserId::parse(id).ok());
            let beside =
                Beside { whose, members: members.get(of), groups: user.as_ref().and_then(|user| groups.get(user)) };
            let attached = record::attach(record, *epoch, now_us, request, &beside, &self.limits);
            let gone = || BackplaneError::NotRun("no record, and none was begun".to_owned());
            let attached = attached.ok_or_else(gone)?;
            let own = told.into_iter().filter(|(node, _)| *node == self.node);
            items.extend(own.map(|(_, notice)| Item {
                record: of.clone(),
                version: attached.version,
                live: Live::Notice(notice),
            }));
            if request.registration.is_some() {
                items.extend(self.settle(of, record.as_ref(), now_us, request.profile.as_ref()));
            }
            Ok(attached)
        })
    }

    /// Compares where a user is with what was said of him last: what this node is to hear of it.
    pub(super) fn settle(
        &self,
        of: &Text,
        record: Option<&Record>,
        now_us: u64,
        profile: Option<&Text>,
    ) -> Option<Item> {
        if Whose::of(of) != Whose::User {
            return None;
        }
        let record = record.filter(|r| r.is_alive(now_us / 1_000));
        let locations = record.map_or(&[][..], |r| &r.locations);
        let mut people = self.people.lock();
        if locations.is_empty() && !people.contains_key(of) {
            return None;
        }
        let person = people.entry(of.clone()).or_default();
        let notice = person.presence.settle(locations, now_us, profile)?;
        let is_watched = person.watchers.at(now_us).any(|node| *node == self.node);
        let version = record.map_or(0, |r| r.version);
        is_watched.then(|| Item { record: of.clone(), version, live: Live::Notice(notice) })
    }

    /// Nobody keeps those who have not come for long, unless somebody still waits for them.
    pub(super) fn forget_people(&self, now_us: u64) {
        self.people
            .lock()
            .retain(|_, person| person.watchers.at(now_us).next().is_some() || !person.presence.is_over(now_us));
    }
}

impl Presence for Handle {
    fn presence<'a>(
        &'a self,
        users: &'a [UserId],
        watch_ms: Option<u64>,
    ) -> Answer<'a, Result<Vec<Result<PresenceOf, BackplaneError>>, BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            let (now_us, mut items) = ((shared.clock)(), Vec::new());
            let records = shared.records.lock();
            let one = |user: &UserId| {
                let of = record_of(&Address::User(user.clone()));
                items.extend(shared.settle(&of, records.get(&of), now_us, None));
                let mut people = shared.people.lock();
                let Some(watch_ms) = watch_ms else {
                    return Ok(people.get(&of).map(|person| person.presence.answer()).unwrap_or_default());
                };
                let person = people.entry(of).or_default();
                person.watchers.watch(&shared.node, now_us / 1_000 + watch_ms);
                Ok(person.presence.answer())
            };
            let answers = users.iter().map(one).collect();
            drop(records);
            shared.fan_out(items);
            Ok(answers)
        })
    }

    fn unwatch<'a>(&'a self, users: &'a [UserId]) -> Answer<'a, Result<(), BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            let mut people = shared.people.lock();
            for user in users {
                if let Some(person) = people.get_mut(&record_of(&Address::User(user.clone()))) {
                    person.watchers.unwatch(&shared.node);
                }
            }
            Ok(())
        })
    }

    fn audience<'a>(&'a self, of: &'a Text) -> Answer<'a, Result<u64, BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            let records = shared.records.lock();
            let alive = records.get(of).filter(|r| r.is_alive((shared.clock)() / 1_000));
            Ok(alive.map_or(0, Record::audience))
        })
    }

    fn notify<'a>(&'a self, notices: &'a [(Text, Notice)]) -> Answer<'a, Result<(), BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            let records = shared.records.lock();
            let one = |(of, notice): &(Text, Notice)| {
                let record = records.get(of).filter(|r| r.is_alive((shared.clock)() / 1_000))?;
                let is_here = record.nodes().contains(&&shared.node);
                let live = Live::Notice(notice.clone());
                is_here.then(|| Item { record: of.clone(), version: record.version, live })
            };
            let items = notices.iter().filter_map(one).collect();
            drop(records);
            shared.fan_out(items);
            Ok(())
        })
    }
}
