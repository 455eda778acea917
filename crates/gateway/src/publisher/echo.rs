//! A message that its sender wants in his own inbox, too: two messages in two lanes, and one answer.

use connection::{Input, SendFault};
use delivery::{Place, Placed};
use parking_lot::Mutex;
use protocol::{Address, ErrorCode, MessageId};

use super::Outgoing;
use super::reply::{Reply, jittered};
use crate::mailbox::Mailbox;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Recipient,
    Sender,
}

#[derive(Debug, Default)]
struct Told {
    recipient: Option<Result<Placed, SendFault>>,
    sender: Option<Result<Placed, SendFault>>,
}

/// What both were told so far.
#[derive(Debug)]
pub(crate) struct Echo {
    mailbox: Mailbox,
    told: Mutex<Told>,
}

impl Echo {
    pub(super) fn tell(&self, side: Side, id: &MessageId, to: &Address, result: Result<Placed, SendFault>) {
        let both = {
            let mut told = self.told.lock();
            match side {
                Side::Recipient => told.recipient = Some(result),
                Side::Sender => told.sender = Some(result),
            }
            match (told.recipient.take(), told.sender.take()) {
                (Some(recipient), Some(sender)) => Some(both(recipient, sender)),
                (recipient, sender) => {
                    *told = Told { recipient, sender };
                    None
                }
            }
        };
        if let Some(result) = both {
            self.mailbox.answer(Input::Appended { id: id.clone(), to: to.clone(), result });
        }
    }
}

impl Outgoing {
    /// The same message for its recipient and for its sender's own inbox; to oneself it goes once.
    pub(crate) fn echoed(self, sender: &Address, mailbox: &Mailbox) -> (Self, Option<Self>) {
        let record = backplane::api::record_of(sender);
        if record == self.record {
            return (self, None);
        }
        let echo = std::sync::Arc::new(Echo { mailbox: mailbox.clone(), told: Mutex::default() });
        let own = Self {
            id: self.id.clone(),
            to: self.to.clone(),
            record,
            message: self.message.clone(),
            reply: Reply::Half(echo.clone(), Side::Sender),
            ..self
        };
        (Self { reply: Reply::Half(echo, Side::Recipient), ..self }, Some(own))
    }
}

/// The answer to both: the recipient's place, if the sender has it as well.
fn both(recipient: Result<Placed, SendFault>, sender: Result<Placed, SendFault>) -> Result<Placed, SendFault> {
    match (recipient, sender) {
        (Ok(placed), Ok(Placed { place: Place::Unprovable, .. })) => Ok(Placed { place: Place::Unprovable, ..placed }),
        (Ok(placed), Ok(_)) => Ok(placed),
        // `unavailable` would say that nothing was stored.
        (Ok(placed), Err(_)) | (Err(_), Ok(placed)) if placed.place.cursor().is_some() => Err(half()),
        (_, Err(fault)) if fault.code == ErrorCode::UnknownOutcome => Err(fault),
        (Err(fault), _) | (_, Err(fault)) => Err(fault),
    }
}

fn half() -> SendFault {
    let message = "one of both inboxes has it; send it again with the same id, `retry` and `age_ms`".to_owned();
    SendFault { code: ErrorCode::UnknownOutcome, message, retry_ms: Some(jittered(1_000)), is_final: false }
}

#[cfg(test)]
mod tests {
    use super::super::reply::{overloaded, unavailable, unknown};
    use super::*;
    use protocol::{Cursor, Stamp, UnixMillis};

    fn placed(place: Place, online: bool) -> Placed {
        Placed { place, at: UnixMillis(1), online }
    }

    fn stored(n: u64, online: bool) -> Placed {
        placed(Place::Stored(Cursor { stamp: Stamp(n), ..Cursor::default() }), online)
    }

    #[test]
    fn the_answer_to_both_is_the_recipients_and_any_failure_is_the_failure() {
        assert_eq!(both(Ok(stored(1, false)), Ok(stored(2, true))), Ok(stored(1, false)));
        let published = placed(Place::Published, true);
        assert_eq!(both(Ok(published), Ok(placed(Place::Published, false))), Ok(published));
        let code = |recipient, sender| both(recipient, sender).unwrap_err().code;
        assert_eq!(code(Err(overloaded()), Err(unavailable("x"))), ErrorCode::Overloaded);
        assert_eq!(code(Err(unavailable("x")), Err(unknown())), ErrorCode::UnknownOutcome);
        assert_eq!(code(Ok(published), Err(overloaded())), ErrorCode::Overloaded, "it is kept nowhere");
        let unprovable = both(Ok(stored(1, true)), Ok(placed(Place::Unprovable, true))).unwrap();
        assert_eq!(unprovable.place, Place::Unprovable);
    }

    /// `unavailable` invites to send something else under the same id.
    #[test]
    fn what_only_one_inbox_has_is_not_called_unavailable() {
        let code = |recipient, sender| both(recipient, sender).unwrap_err().code;
        assert_eq!(code(Ok(stored(1, true)), Err(unavailable("x"))), ErrorCode::UnknownOutcome);
        assert_eq!(code(Err(overloaded()), Ok(stored(1, true))), ErrorCode::UnknownOutcome);
    }
}
