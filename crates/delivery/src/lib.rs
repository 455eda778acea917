//! The delivery rules as pure functions over plain values: what the gateway, the embedded backplane, the fuzzer and the
//! model checker run. No runtime, no clock, no chance, no Redis. The rules and their reasons: docs/delivery.md.

pub mod again;
pub mod batch;
pub mod consumer;
pub mod death;
pub mod fields;
pub mod head;
pub mod invariants;
pub mod ledger;
pub mod marks;
pub mod members;
pub mod presence;
pub mod record;
pub mod sabotage;
pub mod types;
pub mod window;

pub use again::{Again, InSet, Membership, Promise};
pub use batch::{BatchNumber, Batcher, Full};
pub use consumer::{Consumer, Step};
pub use head::Head;
pub use members::Members;
pub use presence::Presence;
pub use record::Record;
pub use types::{
    Ack, Attached, BadBefore, Claim, Counted, Kind, Limits, Marked, NewMessage, OfUser, Place, Placed, PresenceOf,
    Reason, Registered, Registration, Sender, Standing, Start, Verified,
};
pub use window::{Acknowledged, Replication, Window};
