//! What a connection asks for that takes more than one call, or has no queue of its own: a user's groups, read marks,
//! histories of which only a part is wanted. Each is a task that answers once; a connection has only so many requests in
//! flight, and of all tasks only so many ask at a time.

use std::sync::Arc;

use backplane::api::record_of;
use backplane::{BackplaneError, HistoryRequest, MarkRequest};
use connection::{HistoryFault, Input, Listing, Unavailable};
use delivery::{Marked, fields};
use protocol::limits::{HISTORY_BYTES_MAX, HISTORY_LIMIT_MAX, SCAN_ENTRIES_MAX};
use protocol::{Address, Cursor, Entry, MessageId, Notice, Text, UnixMillis, UserId};
use tokio::sync::Semaphore;

use crate::mailbox::{Mailbox, mailbox};
use crate::node::Node;
use crate::questions::asked;

/// Errands that ask at a time, of all connections: a page of a history may come with each.
const UNDER_WAY_MAX: usize = 64;

/// The bound of all errands of one node.
#[derive(Debug)]
pub(crate) struct Errands(Semaphore);

impl Default for Errands {
    fn default() -> Self {
        Self(Semaphore::new(UNDER_WAY_MAX))
    }
}

/// Which messages of a history are wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// One conversation: the addresses of both sides.
    pub(super) between: Option<(Text, Text)>,
    /// What was stored behind this membership change.
    pub(super) since: u64,
}

/// Does something once there is room for it, and hands its answer to the connection.
fn run(node: &Arc<Node>, mailbox: &Mailbox, errand: impl Future<Output = Input> + Send + 'static) {
    let (node, mailbox) = (node.clone(), mailbox.clone());
    tokio::spawn(async move {
        // Never closed.
        let _room = node.errands.0.acquire().await;
        mailbox.answer(errand.await);
    });
}

/// Which groups the user is in.
pub(super) fn groups(node: &Arc<Node>, user: UserId, mailbox: &Mailbox) {
    let (on, record) = (node.clone(), record_of(&Address::User(user.clone())));
    run(node, mailbox, async move {
        let answer = asked(&on.current, &record, |commands| {
            let user = user.clone();
            async move { commands.groups_of(&user).await }
        });
        Input::Groups { result: answer.await.map_err(|_| Unavailable) }
    });
}

/// The user has read up to a place; whoever has to know is told.
pub(super) fn mark(
    node: &Arc<Node>,
    of: Address,
    with: Option<UserId>,
    user: UserId,
    cursor: Cursor,
    mailbox: &Mailbox,
) {
    let on = node.clone();
    run(node, mailbox, async move {
        let result = on.mark(&of, with.as_ref(), &user, cursor).await;
        if result == Ok(Marked::Moved) {
            on.tell_read(&of, with.as_ref(), user, cursor).await;
        }
        Input::Marked { of, with, cursor, result }
    });
}

/// A history of which only some messages are wanted.
pub(super) fn history(node: &Arc<Node>, id: MessageId, request: HistoryRequest, wanted: Wanted, mailbox: &Mailbox) {
    let on = node.clone();
    run(node, mailbox, async move {
        let result = on.some_history(&id, request, &wanted).await;
        Input::History { id, result }
    });
}

impl Node {
    async fn mark(
        &self,
        of: &Address,
        with: Option<&UserId>,
        user: &UserId,
        cursor: Cursor,
    ) -> Result<Marked, Unavailable> {
        let field = match of {
            Address::Group(_) => fields::read_by(user),
            _ => fields::read(with),
        };
        let request = MarkRequest { of: record_of(of), field, cursor };
        let answer = asked(&self.current, &request.of, |commands| {
            let request = request.clone();
            async move {
                let no_answer = || Err(BackplaneError::NotRun("no answer".to_owned()));
                commands.mark(std::slice::from_ref(&request)).await?.pop().unwrap_or_else(no_answer)
            }
        });
        answer.await.map_err(|_| Unavailable)
    }

    /// A hint: a mark that nobody heard of is there when it is asked for.
    async fn tell_read(&self, of: &Address, with: Option<&UserId>, user: UserId, cursor: Cursor) {
        let with = with.map(|with| (with, record_of(&Address::User(with.clone()))));
        let others = with.as_ref().filter(|(with, _)| **with != user).map(|(_, record)| record.clone());
        let (of, with) = (record_of(of), with.map(|(_, record)| record));
        let notice = Notice::Read { of: of.clone(), with, user, cursor };
        // The stream's own record: the user's other connections, or the members of a group.
        for record in std::iter::once(of).chain(others) {
            let Some(commands) = self.current.get(self.current.group(&record)) else { continue };
            if let Err(error) = commands.notify(&[(record, notice.clone())]).await {
                tracing::debug!(%error, "a read mark is not told");
            }
        }
    }

    /// Goes through a stream, page by page, until there are as many messages as were asked for, or it has looked at enough.
    async fn some_history(
        &self,
        id: &MessageId,
        request: HistoryRequest,
        wanted: &Wanted,
    ) -> Result<Listing, HistoryFault> {
        // The pages go by the queue of everybody, to a mailbox of their own.
        let (sender, mut receiver) = mailbox();
        let now = self.now().wall();
        let mut found =
            Found { limit: request.limit, entries: Vec::new(), bytes: 0, looked_at: 0, before: request.before };
        loop {
            let page = HistoryRequest { of: request.of.clone(), before: found.before, limit: found.page(wanted) };
            let started_at = found.before;
            self.asker.history(id.clone(), page, sender.clone());
            let answer = std::future::poll_fn(|cx| receiver.poll(cx)).await;
            let Input::History { result, .. } = answer else { return Err(HistoryFault::Unavailable) };
            let Listing { entries, more, before } = result?;
            if let Some(has_more) = found.take(entries, wanted, now, more) {
                return Ok(found.listing(has_more));
            }
            // Where nothing on the page could be read, the page says where it ends.
            if found.before == started_at {
                found.before = before;
            }
            if !more || found.before == started_at {
                return Ok(found.listing(false));
            }
        }
    }
}

/// What a history has found so far.
#[derive(Debug)]
struct Found {
    limit: usize,
    entries: Vec<Entry>,
    bytes: usize,
    looked_at: usize,
    /// The oldest entry that was looked at.
    before: Option<Cursor>,
}

impl Found {
    /// How many entries to ask for next.
    fn page(&self, wanted: &Wanted) -> usize {
        let most = usize::try_from(HISTORY_LIMIT_MAX).unwrap_or(usize::MAX);
        if wanted.between.is_some() { most } else { (self.limit - self.entries.len()).min(most) }
    }

    /// Takes what is wanted of a page, newest first. At the end says whether there is more.
    fn take(&mut self, page: Vec<Entry>, wanted: &Wanted, now: UnixMillis, more: bool) -> Option<bool> {
        let count = page.len();
        for (index, entry) in page.into_iter().enumerate() {
            // Numbers never grow towards older entries.
            if entry.mseq.unwrap_or(0) < wanted.since {
                return Some(false);
            }
            let is_wanted = wanted.names(&entry) && !entry.envelope.is_expired(entry.at(), now);
            if is_wanted {
                self.bytes += entry.envelope.weight();
                if self.bytes > HISTORY_BYTES_MAX && !self.entries.is_empty() {
                    return Some(true);
                }
            }
            (self.before, self.looked_at) = (Some(entry.cursor), self.looked_at + 1);
            if is_wanted {
                self.entries.push(entry);
            }
            if self.entries.len() >= self.limit || self.looked_at >= SCAN_ENTRIES_MAX {
                return Some(more || index + 1 < count);
            }
        }
        None
    }

    fn listing(self, more: bool) -> Listing {
        Listing { entries: self.entries, more, before: self.before.filter(|_| more) }
    }
}

impl Wanted {
    fn names(&self, entry: &Entry) -> bool {
        let Some((one, other)) = &self.between else { return true };
        let (from, to) = (&entry.envelope.from, &entry.envelope.to);
        (from == one && to == other) || (from == other && to == one)
    }
}

#[cfg(test)]
mod tests;
