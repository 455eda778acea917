//! Who sent a message, and what he is told when it was not stored.

use std::sync::Arc;

use backplane::{Commands, Slot};
use connection::{Input, SendFault};
use delivery::Placed;
use protocol::{Address, ErrorCode, MessageId};
use tokio::sync::oneshot;

use super::echo::{Echo, Side};
use crate::mailbox::Mailbox;

/// Who is told.
#[derive(Debug)]
pub(crate) enum Reply {
    Connection(Mailbox),
    /// Together with the other half.
    Half(Arc<Echo>, Side),
    Api(oneshot::Sender<Result<Placed, SendFault>>),
}

/// Who has been told what became of a message; each is told once.
pub(super) struct Waiting {
    pub(super) slot: Slot,
    pub(super) id: MessageId,
    pub(super) to: Address,
    pub(super) reply: Option<Reply>,
    pub(super) replicated: bool,
}

impl Reply {
    pub(super) fn tell(self, id: &MessageId, to: &Address, result: Result<Placed, SendFault>) {
        match self {
            Self::Connection(mailbox) => mailbox.answer(Input::Appended { id: id.clone(), to: to.clone(), result }),
            Self::Half(echo, side) => echo.tell(side, id, to, result),
            // A caller that went away does not wait for it.
            Self::Api(sender) => drop(sender.send(result)),
        }
    }
}

/// Answers once a replica of the master that stored it has it. The lane goes on meanwhile.
pub(super) fn wait_for_replica(waiting: &mut Waiting, placed: Placed, commands: Commands) {
    let Some(reply) = waiting.reply.take() else { return };
    let (id, to) = (waiting.id.clone(), waiting.to.clone());
    tokio::spawn(async move {
        let result = commands.replicated().await.map(|()| placed).map_err(|error| {
            tracing::debug!(%error, "a message is stored, and not known to be replicated");
            not_replicated()
        });
        reply.tell(&id, &to, result);
    });
}

pub(super) fn tell_waiting(waiting: &mut Waiting, result: Result<Placed, SendFault>) {
    if let Some(reply) = waiting.reply.take() {
        reply.tell(&waiting.id, &waiting.to, result);
    }
}

pub(crate) fn unavailable(why: &str) -> SendFault {
    let message = format!("nothing was stored: {why}");
    SendFault { code: ErrorCode::Unavailable, message, retry_ms: Some(jittered(1_000)), is_final: false }
}

pub(super) fn unknown() -> SendFault {
    let message =
        "the backplane did not answer in time; send it again with the same id, `retry` and `age_ms`".to_owned();
    SendFault { code: ErrorCode::UnknownOutcome, message, retry_ms: Some(jittered(1_000)), is_final: false }
}

pub(super) fn not_replicated() -> SendFault {
    let message = "it is stored, but no replica confirmed it in time; ask again with `retry` and `age_ms`".to_owned();
    SendFault { code: ErrorCode::UnknownOutcome, message, retry_ms: Some(jittered(1_000)), is_final: false }
}

pub(crate) fn overloaded() -> SendFault {
    let message = "a queue of this node is full".to_owned();
    SendFault { code: ErrorCode::Overloaded, message, retry_ms: Some(jittered(200)), is_final: false }
}

/// Spread, so that those who were refused together do not come back together.
pub(crate) fn jittered(ms: u64) -> u64 {
    ms / 2 + rand::random_range(0..=ms)
}
