//! Groups in Redis: the arguments of the group scripts and their replies.
//!
//! While a slot is on its way nothing of this is done key by key: it is refused at once, and asked again.

use bytes::{Buf, Bytes};
use delivery::members::Bounds;
use fred::types::Value;
use protocol::limits::NUMBER_MAX;
use protocol::{Address, Change, GroupId, Text, UserId};

use super::commands::RedisCommands;
use super::requests::{channel_args, number, odd, refused, text};
use super::scripts::{bytes_of, items_of};
use crate::api::{
    Answer, ChangeRequest, ChangeResult, Changed, Changes, Groups, MembersPage, Memberships, Op, RegroupRequest,
    record_of,
};
use crate::error::BackplaneError;

/// Where the version of a user's set is.
fn record_of_user(user: &UserId) -> Text {
    record_of(&Address::User(user.clone()))
}

/// A number that a script wrote.
pub(super) fn take(bytes: &mut Bytes) -> Option<u64> {
    bytes.try_get_u64().ok().filter(|number| *number < NUMBER_MAX)
}

/// What a script caught, behind its mark.
fn caught<T>(bytes: &Bytes) -> Result<T, BackplaneError> {
    Err(refused(bytes.get(1..).unwrap_or_default()))
}

fn user(bytes: Bytes) -> Option<UserId> {
    UserId::parse(&Text::from_bytes(bytes)?).ok()
}

fn changed(mut bytes: Bytes) -> Result<Changed, BackplaneError> {
    let whole = bytes.clone();
    let parsed = match bytes.try_get_u8() {
        Ok(1) => (|| {
            let (mseq, before) = (take(&mut bytes)?, take(&mut bytes)?);
            Some(Changed::Done { mseq, before, members: take(&mut bytes)? })
        })(),
        Ok(2) => (|| Some(Changed::Already { mseq: take(&mut bytes)?, members: take(&mut bytes)? }))(),
        Ok(3) => Some(Changed::NotMember),
        Ok(4) => Some(Changed::Full),
        Ok(5) => Some(Changed::InForce),
        Ok(255) => return caught(&whole),
        _ => None,
    };
    parsed.ok_or_else(odd)
}

/// A row of a log: the change, and where it was asked again the number that it was given first.
fn change_of(row: &Bytes) -> Result<Change, BackplaneError> {
    let end = row.get(9).map_or(0, |length| 10 + usize::from(*length));
    let row = row.get(..end).map(|bytes| row.slice_ref(bytes)).ok_or_else(odd)?;
    Change::decode(&row).map_err(|_| odd())
}

/// The head of an answer behind its mark; what the script caught is an error.
pub(super) fn head(mut head: Bytes, mark: u8) -> Result<Bytes, BackplaneError> {
    match head.first() {
        Some(first) if *first == mark => {
            head.advance(1);
            Ok(head)
        }
        Some(b'E') => caught(&head),
        _ => Err(odd()),
    }
}

impl RedisCommands {
    /// The head of a call that may have come too late; true if it has.
    fn is_stale(&self, head: Option<Value>) -> Result<bool, BackplaneError> {
        let mut head = head.map(bytes_of).unwrap_or_default();
        let is_stale = match head.try_get_u8() {
            Ok(b'S') => true,
            Ok(b'R') => false,
            _ => return Err(odd()),
        };
        self.clock.set(take(&mut head).ok_or_else(odd)?);
        Ok(is_stale)
    }

    async fn run_change(&self, deadline_us: u64, list: &[ChangeRequest]) -> Result<ChangeResult, BackplaneError> {
        let Some(first) = list.first() else { return Ok(ChangeResult::Answered(Vec::new())) };
        let (names, bounds) = (self.settings.topology.keys(), Bounds::default());
        let head = [deadline_us, self.settings.limits.retention_ms, bounds.members, bounds.changes as u64];
        let mut args: Vec<Value> = head.map(number).into();
        args.extend(channel_args(&self.settings, Some(&first.of)));
        let mut keys = Vec::with_capacity(5 * list.len());
        for ChangeRequest { of, epoch, user, op, again } in list {
            let record = names.record(of);
            keys.extend([record.meta, record.inbox, record.cursors, names.members(of), names.changes(of)]);
            let op = match op {
                Op::Join => "j",
                Op::Leave => "l",
                Op::Remove => "r",
            };
            let again = again.map_or_else(|| text(""), number);
            args.extend([
                text(of),
                Value::Bytes(Bytes::copy_from_slice(&epoch.0)),
                text(user.as_str()),
                text(op),
                again,
            ]);
        }
        let answer = self.book(self.scripts.change.run(&self.client, keys, args).await)?;
        let mut answers = items_of(answer).into_iter();
        if self.is_stale(answers.next())? {
            return Ok(ChangeResult::Stale);
        }
        Ok(ChangeResult::Answered(answers.map(|one| self.book(changed(bytes_of(one)))).collect()))
    }

    async fn run_regroup(
        &self,
        deadline_us: u64,
        list: &[RegroupRequest],
    ) -> Result<Vec<Result<bool, BackplaneError>>, BackplaneError> {
        let Some(first) = list.first() else { return Ok(Vec::new()) };
        let names = self.settings.topology.keys();
        let mut args = vec![number(deadline_us), number(Bounds::default().groups)];
        args.extend(channel_args(&self.settings, Some(&record_of_user(&first.user))));
        let mut keys = Vec::with_capacity(2 * list.len());
        for RegroupRequest { user, group, is_in } in list {
            let of = record_of_user(user);
            keys.extend([names.record(&of).meta, names.members(&of)]);
            args.extend([text(&of), text(group.as_str()), text(if *is_in { "1" } else { "0" })]);
        }
        let answer = self.book(self.scripts.regroup.run(&self.client, keys, args).await)?;
        let mut answers = items_of(answer).into_iter();
        if self.is_stale(answers.next())? {
            return Err(BackplaneError::NotRun("its deadline has passed".to_owned()));
        }
        let one = |answer: Value| {
            let bytes = bytes_of(answer);
            match bytes.first() {
                Some(1) => Ok(true),
                Some(0) => Ok(false),
                Some(255) => self.book(caught(&bytes)),
                _ => Err(odd()),
            }
        };
        Ok(answers.map(one).collect())
    }

    async fn run_changes(&self, of: &Text, after: u64) -> Result<Changes, BackplaneError> {
        let names = self.settings.topology.keys();
        let keys = vec![names.record(of).meta, names.members(of), names.changes(of)];
        let answer = self.book(self.scripts.changes.run(&self.client, keys, vec![number(after)]).await)?;
        let mut items = items_of(answer).into_iter();
        let mut head = head(items.next().map(bytes_of).unwrap_or_default(), b'C')?;
        let (version, members) = (take(&mut head).ok_or_else(odd)?, take(&mut head).ok_or_else(odd)?);
        let is_known = head.try_get_u8().map_err(|_| odd())? != 0;
        let list: Result<Vec<Change>, BackplaneError> = items.map(|row| change_of(&bytes_of(row))).collect();
        Ok(Changes { version, members, list: is_known.then_some(list?) })
    }

    async fn run_memberships(&self, of: &Text, users: &[UserId]) -> Result<Memberships, BackplaneError> {
        let names = self.settings.topology.keys();
        let keys = vec![names.record(of).meta, names.members(of)];
        let args = users.iter().map(|user| text(user.as_str())).collect();
        let answer = self.book(self.scripts.memberships.run(&self.client, keys, args).await)?;
        let mut bytes = head(bytes_of(answer), b'M')?;
        let (version, members) = (take(&mut bytes).ok_or_else(odd)?, take(&mut bytes).ok_or_else(odd)?);
        let joined = users.iter().map(|_| take(&mut bytes).map(|joined| Some(joined).filter(|joined| *joined > 0)));
        Ok(Memberships { version, members, joined: joined.collect::<Option<_>>().ok_or_else(odd)? })
    }

    /// A part of a hash: how many fields there are, where to go on, and some fields with their values.
    pub(super) async fn run_part(
        &self,
        key: String,
        from: u64,
        count: usize,
    ) -> Result<(u64, u64, Vec<(Bytes, Bytes)>), BackplaneError> {
        // A place in a hash is a number of 64 bits.
        let args = vec![text(&from.to_string()), number(count.max(1) as u64)];
        let answer = self.book(self.scripts.part.run(&self.client, vec![key], args).await)?;
        let mut items = items_of(answer).into_iter();
        let mut head = head(items.next().map(bytes_of).unwrap_or_default(), b'P')?;
        let total = take(&mut head).ok_or_else(odd)?;
        let next = items.next().and_then(Value::into_string).and_then(|next| next.parse().ok()).ok_or_else(odd)?;
        let mut pairs = Vec::with_capacity(items.len() / 2);
        while let (Some(field), Some(value)) = (items.next(), items.next()) {
            pairs.push((bytes_of(field), bytes_of(value)));
        }
        Ok((total, next, pairs))
    }

    async fn run_groups_of(&self, user: &UserId) -> Result<(u64, Vec<GroupId>), BackplaneError> {
        let (names, of) = (self.settings.topology.keys(), record_of_user(user));
        let keys = vec![names.record(&of).meta, names.members(&of)];
        let answer = self.book(self.scripts.groups_of.run(&self.client, keys, Vec::new()).await)?;
        let mut items = items_of(answer).into_iter();
        let mut head = head(items.next().map(bytes_of).unwrap_or_default(), b'G')?;
        let group = |item: Value| GroupId::parse(&Text::from_bytes(bytes_of(item))?).ok();
        Ok((take(&mut head).ok_or_else(odd)?, items.filter_map(group).collect()))
    }
}

impl Groups for RedisCommands {
    fn change<'a>(
        &'a self,
        deadline_us: u64,
        requests: &'a [ChangeRequest],
    ) -> Answer<'a, Result<ChangeResult, BackplaneError>> {
        Box::pin(self.run_change(deadline_us, requests))
    }

    fn regroup<'a>(
        &'a self,
        deadline_us: u64,
        requests: &'a [RegroupRequest],
    ) -> Answer<'a, Result<Vec<Result<bool, BackplaneError>>, BackplaneError>> {
        Box::pin(self.run_regroup(deadline_us, requests))
    }

    fn changes<'a>(&'a self, of: &'a Text, after: u64) -> Answer<'a, Result<Changes, BackplaneError>> {
        Box::pin(self.run_changes(of, after))
    }

    fn memberships<'a>(&'a self, of: &'a Text, users: &'a [UserId]) -> Answer<'a, Result<Memberships, BackplaneError>> {
        Box::pin(self.run_memberships(of, users))
    }

    fn members<'a>(&'a self, of: &'a Text, from: u64, count: usize) -> Answer<'a, Result<MembersPage, BackplaneError>> {
        Box::pin(async move {
            let key = self.settings.topology.keys().members(of);
            let (members, next, pairs) = self.run_part(key, from, count).await?;
            Ok(MembersPage { members, users: pairs.into_iter().filter_map(|(name, _)| user(name)).collect(), next })
        })
    }

    fn groups_of<'a>(&'a self, user: &'a UserId) -> Answer<'a, Result<(u64, Vec<GroupId>), BackplaneError>> {
        Box::pin(self.run_groups_of(user))
    }
}
