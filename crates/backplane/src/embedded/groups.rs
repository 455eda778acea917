//! Groups in memory: the rules are `delivery::members`.

use std::sync::atomic::Ordering;

use delivery::Record;
use delivery::members::{self, Bounds, Members, Regrouped, Told};
use protocol::bundle::Item;
use protocol::{Address, GroupId, Live, Notice, Text, UserId};

use super::{Handle, Shared};
use crate::api::{
    Answer, ChangeRequest, ChangeResult, Changed, Changes, Groups, MembersPage, Memberships, Op, RegroupRequest,
    record_of,
};
use crate::error::BackplaneError;

/// Where the version of a user's set is.
fn record_of_user(user: &UserId) -> Text {
    record_of(&Address::User(user.clone()))
}

impl Shared {
    fn change_one(&self, now_us: u64, request: &ChangeRequest) -> Result<Changed, BackplaneError> {
        let is_full = self.bytes.load(Ordering::Relaxed) >= self.bytes_max;
        if is_full && request.op == Op::Join {
            let why = "the embedded backplane is full: raise --embedded-bytes or use Redis";
            return Err(BackplaneError::NotRun(why.to_owned()));
        }
        Ok(self.with(&request.of, |record| {
            let mut all = self.members.lock();
            let mut members = all.remove(&request.of).unwrap_or_default();
            let before = members.weight();
            let changed = members::change(record, &mut members, now_us, request, &Bounds::default(), &self.limits);
            self.bytes.fetch_add(members.weight().wrapping_sub(before), Ordering::Relaxed);
            if members != Members::default() {
                all.insert(request.of.clone(), members);
            }
            changed
        }))
    }

    fn change(&self, requests: &[ChangeRequest]) -> Vec<Result<Changed, BackplaneError>> {
        let now_us = self.tick(1);
        let answers: Vec<_> = requests.iter().map(|request| self.change_one(now_us, request)).collect();
        let done =
            requests.iter().zip(&answers).filter_map(|(request, answer)| Some((request, *answer.as_ref().ok()?)));
        let items = members::told(done).into_iter().filter(|told| self.is_located(&told.of));
        let item = |Told { of, version, notice }: Told| Item { record: of, version, live: Live::Notice(notice) };
        self.fan_out(items.map(item).collect());
        answers
    }

    fn regroup(&self, requests: &[RegroupRequest]) -> Vec<Result<bool, BackplaneError>> {
        let now_us = self.tick(1);
        let (mut answers, mut items) = (Vec::with_capacity(requests.len()), Vec::<Item>::new());
        for RegroupRequest { user, group, is_in } in requests {
            let of = record_of_user(user);
            let regrouped = self.with(&of, |record| {
                let mut all = self.groups.lock();
                let mut set = all.remove(user).unwrap_or_default();
                let done = members::regroup(record.as_mut(), &mut set, now_us, group, *is_in, &Bounds::default());
                if !set.is_empty() {
                    all.insert(user.clone(), set);
                }
                done
            });
            if let Regrouped::Changed(Some(version)) = regrouped {
                match items.iter_mut().find(|item| item.record == of) {
                    Some(item) => item.version = version,
                    None => items.push(Item { record: of, version, live: Live::Notice(Notice::Groups) }),
                }
            }
            answers.push(Ok(regrouped != Regrouped::Full));
        }
        items.retain(|item| self.is_located(&item.record));
        self.fan_out(items);
        answers
    }

    fn is_located(&self, of: &Text) -> bool {
        self.records.lock().get(of).is_some_and(|record| record.nodes().contains(&&self.node))
    }

    /// Asks something of one group: of its record, if it lives, and of its members.
    fn of_group<R>(&self, of: &Text, ask: impl FnOnce(Option<&Record>, &Members) -> R) -> R {
        let records = self.records.lock();
        let record = records.get(of).filter(|record| record.is_alive((self.clock)() / 1_000));
        let (all, none) = (self.members.lock(), Members::default());
        ask(record, all.get(of).unwrap_or(&none))
    }

    /// The log of a group without members goes with its record.
    pub(super) fn forget_logs(&self) {
        let (records, mut freed) = (self.records.lock(), 0);
        self.members.lock().retain(|of, members| {
            let keep = !members.joined.is_empty() || records.contains_key(of);
            freed += if keep { 0 } else { members.weight() };
            keep
        });
        self.bytes.fetch_sub(freed, Ordering::Relaxed);
    }
}

impl Groups for Handle {
    fn change<'a>(
        &'a self,
        deadline_us: u64,
        requests: &'a [ChangeRequest],
    ) -> Answer<'a, Result<ChangeResult, BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            let is_stale = (shared.clock)() > deadline_us;
            Ok(if is_stale { ChangeResult::Stale } else { ChangeResult::Answered(shared.change(requests)) })
        })
    }

    fn regroup<'a>(
        &'a self,
        deadline_us: u64,
        requests: &'a [RegroupRequest],
    ) -> Answer<'a, Result<Vec<Result<bool, BackplaneError>>, BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            if (shared.clock)() > deadline_us {
                return Err(BackplaneError::NotRun("its deadline has passed".to_owned()));
            }
            Ok(shared.regroup(requests))
        })
    }

    fn changes<'a>(&'a self, of: &'a Text, after: u64) -> Answer<'a, Result<Changes, BackplaneError>> {
        Box::pin(async move { Ok(self.0.shared.of_group(of, |record, members| members.changes(record, after))) })
    }

    fn memberships<'a>(&'a self, of: &'a Text, users: &'a [UserId]) -> Answer<'a, Result<Memberships, BackplaneError>> {
        Box::pin(async move { Ok(self.0.shared.of_group(of, |record, members| members.memberships(record, users))) })
    }

    fn members<'a>(&'a self, of: &'a Text, from: u64, count: usize) -> Answer<'a, Result<MembersPage, BackplaneError>> {
        Box::pin(async move { Ok(self.0.shared.of_group(of, |_, members| members.page(from, count))) })
    }

    fn groups_of<'a>(&'a self, user: &'a UserId) -> Answer<'a, Result<(u64, Vec<GroupId>), BackplaneError>> {
        let shared = &self.0.shared;
        Box::pin(async move {
            let records = shared.records.lock();
            let alive = records.get(&record_of_user(user)).filter(|record| record.is_alive((shared.clock)() / 1_000));
            let groups = shared.groups.lock().get(user).into_iter().flatten().cloned().collect();
            Ok((alive.map_or(0, |record| record.version), groups))
        })
    }
}
