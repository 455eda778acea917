//! The backplane: where inboxes are kept and how nodes reach each other. One set of traits ([`api`]), two
//! implementations: [`embedded`] (one node, in its memory) and [`redis`] (a fleet).
//!
//! Invariants of absence: no connection, WebSocket or HTTP type in here, and no type of the Redis library in the public
//! API. Only the folder `redis` knows that library.

pub mod api;
pub mod doctor;
pub mod embedded;
pub mod error;
pub mod redis;

pub use api::{
    Answer, AttachRequest, Backplane, Batch, BatchAnswer, BatchBuilder, BatchResult, ChangeRequest, ChangeResult,
    Changed, Changes, Commands, CountRequest, DetachRequest, FieldsPage, Generation, Group, Groups, HistoryRequest,
    Log, MarkRequest, Marks, MembersPage, Memberships, Op, Opened, Presence, Pulse, ReadRequest, RegroupRequest,
    SharedNode, Slot, Source, Subscription, VerifyRequest,
};
pub use embedded::Embedded;
pub use error::{BackplaneError, HistoryError, Loss};
pub use redis::{RedisBackplane, RedisSettings};
