//! What was read and by whom it was received: nothing of it is kept with a message, only places of devices and readers.

pub use delivery::marks::{CountRequest, FieldsPage, MarkRequest};
use delivery::{Counted, Marked, Sender};
use protocol::{Cursor, Text};

use super::Answer;
use crate::error::BackplaneError;

/// What a mark hears that is one too many.
pub(crate) const NO_ROOM: &str = "this address keeps as many places as it may";

/// Read marks, counts and receipts.
pub trait Marks: Send + Sync {
    /// Moves read marks forward; none goes back. Answers in order.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn mark<'a>(
        &'a self,
        requests: &'a [MarkRequest],
    ) -> Answer<'a, Result<Vec<Result<Marked, BackplaneError>>, BackplaneError>>;

    /// Counts one part of a stream: at most 1,000 entries. Messages past their `expires_ms` are not counted.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn count<'a>(&'a self, request: &'a CountRequest) -> Answer<'a, Result<Counted, BackplaneError>>;

    /// Who sent the message at a place.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn sender<'a>(&'a self, of: &'a Text, at: Cursor) -> Answer<'a, Result<Sender, BackplaneError>>;

    /// A part of the places that a record keeps, about `count`; `from` is 0 or what the part before said.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn fields<'a>(&'a self, of: &'a Text, from: u64, count: usize) -> Answer<'a, Result<FieldsPage, BackplaneError>>;
}
