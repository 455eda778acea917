//! The door between the HTTP side and the node: all that a listener may ask of it.
//!
//! Listeners know HTTP, the node knows connections and messages; tests put another node behind the same door.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use connection::{Joined, Member, Opening, Person, SendFault};
use protocol::client::Body;
use protocol::{Address, GroupId, MessageId, Text, UnixMillis, UserId};

use crate::metrics::Metrics;

/// A future on the heap: one allocation a connection or a call of the server API.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub use crate::driver::Socket;

/// What listeners ask of a node.
pub trait Door: Send + Sync + 'static {
    /// Ready to take connections, or why not, for people.
    fn readiness(&self) -> Result<(), String>;

    fn metrics(&self) -> &Metrics;

    /// Runs one upgraded connection until it ends. Nobody else holds the socket. The future is spawned as a task of its
    /// own, on the runtime that accepted the connection.
    fn open(self: Arc<Self>, socket: Socket, opening: Opening, peer: SocketAddr) -> BoxFuture<'static, ()>;

    /// Sends one message of the server API.
    ///
    /// The first poll puts it in line behind those polled before, so that the messages of one call to one address are
    /// stored in their order while all of them are under way.
    ///
    /// # Errors
    /// [`SendFault`], as a client would be told.
    fn send(&self, message: OutgoingMessage) -> BoxFuture<'_, Result<SendAnswer, SendFault>>;

    /// Makes a user a member of a group; who is one already stays one.
    ///
    /// # Errors
    /// [`SendFault`], as a client would be told.
    fn join(&self, group: GroupId, user: UserId) -> BoxFuture<'_, Result<Joined, SendFault>>;

    /// Ends a user's membership, and whatever he has of the group for the life of a connection; answers how many members
    /// there are then, if that can be told.
    ///
    /// # Errors
    /// [`SendFault`]; none for who is no member.
    fn remove(&self, group: GroupId, user: UserId) -> BoxFuture<'_, Result<Option<u64>, SendFault>>;

    /// A part of a group's members, from where the part before ended.
    ///
    /// # Errors
    /// [`SendFault`], as a client would be told.
    fn members(
        &self,
        group: GroupId,
        after: Option<String>,
        limit: u64,
    ) -> BoxFuture<'_, Result<MembersPage, SendFault>>;

    /// How users are, in their order.
    ///
    /// # Errors
    /// [`SendFault`], as a client would be told.
    fn presence(&self, users: Vec<UserId>) -> BoxFuture<'_, Result<Vec<Person>, SendFault>>;
}

/// A part of a group's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersPage {
    pub members: Vec<Member>,
    /// Of the whole group.
    pub total: u64,
    /// What the next call says as `after`, if there are more.
    pub next: Option<Text>,
}

/// A message of the server API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingMessage {
    pub to: Address,
    pub from: Address,
    pub id: MessageId,
    pub body: Body,
    pub ephemeral: bool,
    /// Milliseconds since the first try, if this is not the first.
    pub retry_age_ms: Option<u64>,
    pub expires_ms: Option<u64>,
    /// The answer waits until a replica of the backplane has it.
    pub replicated: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendAnswer {
    /// The stored message's name; durable ones only.
    pub reference: Option<String>,
    pub at: UnixMillis,
    pub online: Option<bool>,
}
