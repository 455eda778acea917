//! What connections ask about people and streams: counts, receipts, presence, watching, members. Each question is a task of
//! its own that asks the backplane as often as it has to, and answers once.
//!
//! Nothing of it is urgent, and one question may be many calls: so few are under way at a time, fewer of those that go
//! through a whole stream, and who finds too many waiting is told `overloaded`.

mod calls;
mod counts;
mod people;
mod receipts;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backplane::api::record_of;
use connection::{Answer, Input, Question, SendFault, Whom};
use delivery::marks::COUNT_BYTES_MAX;
use protocol::limits::COUNT_ENTRIES_MAX;
use protocol::{Address, ConnectionId, ErrorCode, MessageId, Text, UserId};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::mailbox::Mailbox;
use crate::metrics::QuestionKind;
use crate::node::Node;

pub(crate) use calls::asked;
pub(crate) use people::{count_members, page_of, persons};

/// Questions under way, and those that wait for them.
const UNDER_WAY: usize = 64;
const WAITING_MAX: usize = 1_024;

/// Calls in flight that go through a part of a stream, a member list or a list of places: each may take Redis some
/// milliseconds, which messages wait for.
const SCANS: usize = 4;

/// The bounds of all questions of one node.
#[derive(Debug)]
pub(crate) struct Questions {
    under_way: Semaphore,
    scans: Semaphore,
    /// Under way or waiting.
    count: Arc<AtomicUsize>,
    /// Parts of the longest stream.
    parts_max: u64,
}

/// One question, and who is told.
#[derive(Debug)]
pub(crate) struct Job {
    id: MessageId,
    question: Question,
    connection: ConnectionId,
    user: UserId,
    pub(crate) mailbox: Mailbox,
    _place: Place,
}

/// A place among those that wait; given back when it is dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Questions {
    pub(crate) fn new(inbox_max: u64, inbox_bytes: u64) -> Self {
        Self {
            under_way: Semaphore::new(UNDER_WAY),
            scans: Semaphore::new(SCANS),
            count: Arc::default(),
            // A part ends by its entries or by its bytes, and of two of these at least one is half full. One more for where
            // the first one begins, one for what comes meanwhile.
            parts_max: inbox_max / COUNT_ENTRIES_MAX + 2 * (inbox_bytes / COUNT_BYTES_MAX) + 2,
        }
    }

    /// Answers a question of a connection by [`Input::Answered`], exactly once.
    pub(crate) fn ask(
        node: &Arc<Node>,
        id: MessageId,
        question: Question,
        connection: ConnectionId,
        user: UserId,
        mailbox: Mailbox,
    ) {
        node.metrics.questions.of(kind_of(&question)).increment(1);
        let Some(place) = node.questions.place() else {
            return mailbox.answer(Input::Answered { id, result: Err(overloaded("too many questions wait")) });
        };
        let is_of_watching = matches!(question, Question::Watch(_) | Question::Unwatch(_));
        let job = Job { id, question, connection, user, mailbox, _place: place };
        let node = node.clone();
        if !is_of_watching {
            tokio::spawn(async move { job.run(&node).await });
        } else if node.watches.line_up(connection, job) {
            tokio::spawn(async move {
                while let Some(job) = node.watches.next_of(connection) {
                    job.run(&node).await;
                }
            });
        }
    }

    fn place(&self) -> Option<Place> {
        let taken = self.count.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.count.clone());
        (taken < UNDER_WAY + WAITING_MAX).then_some(place)
    }

    /// Waits for a turn. Nobody closes it.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.under_way.acquire().await.ok()
    }

    /// Waits for a turn to go through a part of something long.
    async fn scan(&self) -> Option<SemaphorePermit<'_>> {
        self.scans.acquire().await.ok()
    }
}

impl Job {
    async fn run(self, node: &Node) {
        let _turn = node.questions.turn().await;
        let Self { id, question, connection, user, mailbox, _place } = self;
        let result = match question {
            Question::Counts { of, with, user } => counts::counts(node, &of, with.as_ref(), &user).await,
            Question::Receipts { reference, user } => receipts::receipts(node, &reference, &user).await,
            Question::Presence(whom) => people::people(node, &user, &whom).await.map(Answer::Presence),
            // It answers by itself: what happens behind the answer must come behind it.
            Question::Watch(whom) => match people::watch(node, connection, &user, &whom, &id).await {
                Ok(()) => return,
                Err(fault) => Err(fault),
            },
            Question::Unwatch(Whom::Users { users, .. }) => {
                node.watches.unwatch(connection, &users);
                Ok(Answer::Unwatched)
            }
            Question::Unwatch(Whom::Group(group)) => {
                node.watches.unwatch_group(connection, &group);
                Ok(Answer::Unwatched)
            }
            Question::Members { group, after, limit } => people::members(node, &group, after.as_deref(), limit).await,
        };
        mailbox.answer(Input::Answered { id, result });
    }
}

/// The record of a user.
pub(crate) fn user_record(user: &UserId) -> Text {
    record_of(&Address::User(user.clone()))
}

fn kind_of(question: &Question) -> QuestionKind {
    match question {
        Question::Counts { .. } => QuestionKind::Counts,
        Question::Receipts { .. } => QuestionKind::Receipts,
        Question::Presence(_) => QuestionKind::Presence,
        Question::Watch(_) => QuestionKind::Watch,
        Question::Unwatch(_) => QuestionKind::Unwatch,
        Question::Members { .. } => QuestionKind::Members,
    }
}

fn bad_request(message: impl Into<String>) -> SendFault {
    fault(ErrorCode::BadRequest, message, None)
}

fn forbidden(message: impl Into<String>) -> SendFault {
    fault(ErrorCode::Forbidden, message, None)
}

fn unavailable() -> SendFault {
    fault(ErrorCode::Unavailable, "the backplane cannot be asked now", Some(jittered(1_000)))
}

fn overloaded(why: &str) -> SendFault {
    fault(ErrorCode::Overloaded, why, Some(jittered(1_000)))
}

fn fault(code: ErrorCode, message: impl Into<String>, retry_ms: Option<u64>) -> SendFault {
    SendFault { code, message: message.into(), retry_ms, is_final: false }
}

/// Spread, so that those who were refused together do not come back together.
fn jittered(ms: u64) -> u64 {
    ms / 2 + rand::random_range(0..=ms)
}

#[cfg(test)]
pub(crate) mod tests;
