//! Who is here, and who wants to know.

use delivery::PresenceOf;
use protocol::{Notice, Text, UserId};

use super::Answer;
use crate::error::BackplaneError;

/// Presence follows from locations: every script that changes the locations of a user compares what is left with what was
/// said last, and publishes the difference to the nodes that watch him; so does who asks. What one call names is of one slot
/// group.
pub trait Presence: Send + Sync {
    /// How users are, in order. With `watch_ms` this node hears of their changes for so long; a shorter time does not take
    /// back a longer one.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn presence<'a>(
        &'a self,
        users: &'a [UserId],
        watch_ms: Option<u64>,
    ) -> Answer<'a, Result<Vec<Result<PresenceOf, BackplaneError>>, BackplaneError>>;

    /// This node does not want to hear of them any more.
    ///
    /// # Errors
    /// See [`BackplaneError`]: what is said nevertheless is ignored.
    fn unwatch<'a>(&'a self, users: &'a [UserId]) -> Answer<'a, Result<(), BackplaneError>>;

    /// How many users are connected to a group, over all nodes: each node says so with its location, about every 30 s.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn audience<'a>(&'a self, of: &'a Text) -> Answer<'a, Result<u64, BackplaneError>>;

    /// Tells every node where an address is. At most once, and nobody hears whether it came.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn notify<'a>(&'a self, notices: &'a [(Text, Notice)]) -> Answer<'a, Result<(), BackplaneError>>;
}
