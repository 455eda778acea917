//! Who is in which group.
//!
//! A group's record decides. A user's set of groups only says where to look: it is written before the group's record on a
//! join and behind it on a leave, so that a crash between the two leaves a name too many, which is found and removed.

pub use delivery::members::{ChangeRequest, Changed, Changes, MembersPage, Memberships, Op};
use protocol::{GroupId, Text, UserId};

use super::Answer;
use crate::error::BackplaneError;

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeResult {
    Answered(Vec<Result<Changed, BackplaneError>>),
    /// It did not run and never will: its deadline has passed.
    Stale,
}

/// One change of a user's set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegroupRequest {
    pub user: UserId,
    pub group: GroupId,
    /// Put in, or taken out.
    pub is_in: bool,
}

/// The members of groups. What one call names is of one slot group, and of one that this generation has.
pub trait Groups: Send + Sync {
    /// Changes members, and publishes each change to the nodes where the group is. Answers in order. Not after the deadline,
    /// by the backplane's clock in microseconds: so a call that was given up cannot run behind its successor.
    ///
    /// # Errors
    /// Of the whole call.
    fn change<'a>(
        &'a self,
        deadline_us: u64,
        requests: &'a [ChangeRequest],
    ) -> Answer<'a, Result<ChangeResult, BackplaneError>>;

    /// Changes users' sets of groups, and tells the nodes where those users are. Answers in order; false: he is in as many
    /// groups as a user may be.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn regroup<'a>(
        &'a self,
        deadline_us: u64,
        requests: &'a [RegroupRequest],
    ) -> Answer<'a, Result<Vec<Result<bool, BackplaneError>>, BackplaneError>>;

    /// The changes of a group behind a number; none, and number 0, where there is no record.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn changes<'a>(&'a self, of: &'a Text, after: u64) -> Answer<'a, Result<Changes, BackplaneError>>;

    /// Which of these users are members: at most 1,000.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn memberships<'a>(&'a self, of: &'a Text, users: &'a [UserId]) -> Answer<'a, Result<Memberships, BackplaneError>>;

    /// A part of the members, about `count`; `from` is 0 or what the part before said.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn members<'a>(&'a self, of: &'a Text, from: u64, count: usize) -> Answer<'a, Result<MembersPage, BackplaneError>>;

    /// The groups of a user, and the version of the set.
    ///
    /// # Errors
    /// See [`BackplaneError`].
    fn groups_of<'a>(&'a self, user: &'a UserId) -> Answer<'a, Result<(u64, Vec<GroupId>), BackplaneError>>;
}
