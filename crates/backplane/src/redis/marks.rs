//! Read marks, counts and receipts in Redis: the arguments of their scripts and their replies.

use bytes::{Buf, Bytes};
use delivery::marks::{COUNT_BYTES_MAX, fields_max};
use delivery::record::Whose;
use delivery::{Counted, Marked, Sender};
use fred::types::Value;
use protocol::limits::{COUNT_ENTRIES_MAX, NUMBER_MAX};
use protocol::node::Stored;
use protocol::{Cursor, Envelope, Epoch, Stamp, Text};

use super::commands::RedisCommands;
use super::groups::{head, take};
use super::requests::{cursor, number, odd, reason, refused, text};
use super::scripts::{bytes_of, items_of};
use crate::api::marks::NO_ROOM;
use crate::api::{Answer, CountRequest, FieldsPage, MarkRequest, Marks};
use crate::error::BackplaneError;

/// Reads what [`cursor`] wrote.
fn place(mut bytes: Bytes) -> Option<Cursor> {
    let mut epoch = Epoch::default();
    bytes.try_copy_to_slice(&mut epoch.0).ok()?;
    let (seq, stamp) = (bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
    (seq < NUMBER_MAX && bytes.is_empty()).then_some(Cursor { epoch, seq, stamp: Stamp(stamp) })
}

fn marked(mut bytes: Bytes) -> Result<Marked, BackplaneError> {
    match bytes.try_get_u8() {
        Ok(1) => Ok(Marked::Moved),
        Ok(2) => place(bytes).map(Marked::Behind).ok_or_else(odd),
        Ok(3) => Err(BackplaneError::NotRun(NO_ROOM.to_owned())),
        Ok(255) => Err(refused(&bytes)),
        Ok(code) => reason(code.wrapping_sub(10)).map(Marked::NoPlace).ok_or_else(odd),
        Err(_) => Err(odd()),
    }
}

fn counted(answer: Value) -> Result<Counted, BackplaneError> {
    let mut items = items_of(answer).into_iter();
    let mut head = head(items.next().map(bytes_of).unwrap_or_default(), b'C')?;
    let unread = take(&mut head).ok_or_else(odd)?;
    let next = if head.is_empty() { None } else { Some(place(head).ok_or_else(odd)?) };
    let mut by = Vec::with_capacity(items.len() / 2);
    while let (Some(from), Some(count)) = (items.next(), items.next()) {
        let from = Text::from_bytes(bytes_of(from)).ok_or_else(odd)?;
        by.push((from, take(&mut bytes_of(count)).ok_or_else(odd)?));
    }
    Ok(Counted { by, unread, next })
}

/// The sender of what the script found.
fn sender(answer: Value) -> Result<Sender, BackplaneError> {
    let mut items = items_of(answer).into_iter();
    let head = items.next().map(bytes_of).unwrap_or_default();
    match head.first() {
        Some(b'F') => {}
        Some(b'X') => return Ok(Sender::Expired),
        Some(b'N') => return Ok(Sender::NoPlace),
        Some(b'E') => return Err(refused(&head[1..])),
        _ => return Err(odd()),
    }
    let stored = Stored::decode(&items.next().map(bytes_of).unwrap_or_default());
    let envelope = stored.and_then(|stored| Envelope::decode(&stored.envelope));
    Ok(envelope.map_or(Sender::NoPlace, |envelope| Sender::From(envelope.from)))
}

impl RedisCommands {
    async fn run_mark(&self, list: &[MarkRequest]) -> Result<Vec<Result<Marked, BackplaneError>>, BackplaneError> {
        let names = self.settings.topology.keys();
        let (mut keys, mut args) = (Vec::with_capacity(3 * list.len()), Vec::with_capacity(3 * list.len()));
        for MarkRequest { of, field, cursor: at } in list {
            let record = names.record(of);
            keys.extend([record.meta, record.inbox, record.cursors]);
            args.extend([text(field), cursor(Some(at)), number(fields_max(Whose::of(of)))]);
        }
        let answers = self.book(self.scripts.mark.run(&self.client, keys, args).await)?;
        Ok(items_of(answers).into_iter().map(|one| self.book(marked(bytes_of(one)))).collect())
    }

    async fn run_count(&self, request: &CountRequest) -> Result<Counted, BackplaneError> {
        let record = self.settings.topology.keys().record(&request.of);
        let keys = vec![record.meta, record.inbox, record.cursors];
        let (one, other) = request.between.as_ref().map_or(("", ""), |(one, other)| (one.as_str(), other.as_str()));
        let args = vec![
            cursor(request.after.as_ref()),
            number(COUNT_ENTRIES_MAX),
            number(COUNT_BYTES_MAX),
            text(&request.mark),
            text(&request.reader),
            number(request.since),
            text(one),
            text(other),
        ];
        counted(self.book(self.scripts.count.run(&self.client, keys, args).await)?)
    }
}

impl Marks for RedisCommands {
    fn mark<'a>(
        &'a self,
        requests: &'a [MarkRequest],
    ) -> Answer<'a, Result<Vec<Result<Marked, BackplaneError>>, BackplaneError>> {
        Box::pin(self.run_mark(requests))
    }

    fn count<'a>(&'a self, request: &'a CountRequest) -> Answer<'a, Result<Counted, BackplaneError>> {
        Box::pin(self.run_count(request))
    }

    fn sender<'a>(&'a self, of: &'a Text, at: Cursor) -> Answer<'a, Result<Sender, BackplaneError>> {
        Box::pin(async move {
            let record = self.settings.topology.keys().record(of);
            let (keys, args) = (vec![record.meta, record.inbox], vec![cursor(Some(&at))]);
            sender(self.book(self.scripts.sender.run(&self.client, keys, args).await)?)
        })
    }

    fn fields<'a>(&'a self, of: &'a Text, from: u64, count: usize) -> Answer<'a, Result<FieldsPage, BackplaneError>> {
        Box::pin(async move {
            let key = self.settings.topology.keys().record(of).cursors;
            let (total, next, pairs) = self.run_part(key, from, count).await?;
            let field = |(name, at): (Bytes, Bytes)| Some((Text::from_bytes(name)?, place(at)?));
            Ok(FieldsPage { total, fields: pairs.into_iter().filter_map(field).collect(), next })
        })
    }
}
