//! Groups, read marks and presence: requests of the handle.

use super::{Client, What, mixed, new_id};
use crate::core::Answer;
use crate::error::RequestError;
use crate::requests::{Ask, AskRequest, Whom};
use crate::wire::people::{Counts, Done, Members, Online, Receipts};

/// How a group is joined, where becoming a member from now on is not what is meant.
#[derive(Clone, Debug, Default)]
pub struct JoinOptions {
    /// Only as long as this session lasts, over its reconnects; the group does not list the user.
    pub until_disconnect: bool,
    /// Where the stream goes on.
    pub cursor: Option<String>,
}

/// All of these wait for a connection while there is none, for 30 s at most, and are asked again after a reconnect.
/// Dropping the future of one takes nothing back. Groups and users are bare IDs; `of` and `with` are addresses.
impl Client {
    /// Becomes a member of a group until [`Client::leave`]: on all devices, and for messages that come while nobody is
    /// connected. Gives the cursor at which the group's stream begins.
    ///
    /// # Errors
    /// [`RequestError`] says what to do; `forbidden` if this user may not join.
    pub async fn join(&self, group: &str) -> Result<Option<String>, RequestError> {
        self.join_with(group, JoinOptions::default()).await
    }

    /// As [`Client::join`], with options.
    ///
    /// # Errors
    /// As [`Client::join`].
    pub async fn join_with(&self, group: &str, options: JoinOptions) -> Result<Option<String>, RequestError> {
        let JoinOptions { until_disconnect, cursor } = options;
        let ask = Ask::Join { group: group.to_owned(), until_disconnect, cursor };
        self.done(ask).await.map(|done| done.cursor)
    }

    /// Leaves a group, on all devices.
    ///
    /// # Errors
    /// [`RequestError`] says what to do; `not_found` if the user is not in it.
    pub async fn leave(&self, group: &str) -> Result<(), RequestError> {
        self.done(Ask::Leave { group: group.to_owned() }).await.map(drop)
    }

    /// The user has read everything of a stream up to the cursor; `with`: of one conversation of the own inbox.
    ///
    /// # Errors
    /// [`RequestError`] says what to do.
    pub async fn read(&self, of: &str, with: Option<&str>, cursor: &str) -> Result<(), RequestError> {
        let ask = Ask::Read { of: of.to_owned(), with: with.map(str::to_owned), cursor: cursor.to_owned() };
        self.done(ask).await.map(drop)
    }

    /// How many messages a stream has, by sender, and how many of them are unread; `with`: of one conversation.
    ///
    /// # Errors
    /// [`RequestError`] says what to do.
    pub async fn counts(&self, of: &str, with: Option<&str>) -> Result<Counts, RequestError> {
        match self.asked(Ask::Counts { of: of.to_owned(), with: with.map(str::to_owned) }).await? {
            Answer::Counts(counts) => Ok(counts),
            _ => Err(mixed()),
        }
    }

    /// Who has received and read an own message, which [`crate::Sent::reference`] names.
    ///
    /// # Errors
    /// [`RequestError`] says what to do.
    pub async fn receipts(&self, reference: &str) -> Result<Receipts, RequestError> {
        match self.asked(Ask::Receipts { reference: reference.to_owned() }).await? {
            Answer::Receipts(receipts) => Ok(receipts),
            _ => Err(mixed()),
        }
    }

    /// How users are now.
    ///
    /// # Errors
    /// [`RequestError`] says what to do.
    pub async fn presence(&self, whom: Whom) -> Result<Online, RequestError> {
        match self.asked(Ask::Presence(whom)).await? {
            Answer::Presence(presence) => Ok(presence.online),
            _ => Err(mixed()),
        }
    }

    /// How users are now, and as events how they are from now on, until [`Client::unwatch`]: over all reconnects.
    ///
    /// # Errors
    /// [`RequestError`] says what to do.
    pub async fn watch(&self, whom: Whom) -> Result<Online, RequestError> {
        self.done(Ask::Watch(whom)).await?.online.ok_or_else(mixed)
    }

    /// # Errors
    /// [`RequestError`] says what to do.
    pub async fn unwatch(&self, whom: Whom) -> Result<(), RequestError> {
        self.done(Ask::Unwatch(whom)).await.map(drop)
    }

    /// A part of a group's members, with their profiles. `after`: behind the one where the last part ended.
    ///
    /// # Errors
    /// [`RequestError`] says what to do.
    pub async fn members(
        &self,
        group: &str,
        after: Option<String>,
        limit: Option<u64>,
    ) -> Result<Members, RequestError> {
        match self.asked(Ask::Members { group: group.to_owned(), after, limit }).await? {
            Answer::Members(members) => Ok(members),
            _ => Err(mixed()),
        }
    }

    async fn done(&self, ask: Ask) -> Result<Done, RequestError> {
        match self.asked(ask).await? {
            Answer::Done(done) => Ok(done),
            _ => Err(mixed()),
        }
    }

    async fn asked(&self, ask: Ask) -> Result<Answer, RequestError> {
        self.ask(What::Ask(AskRequest { id: new_id(), ask }), None).await
    }
}
