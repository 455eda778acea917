//! The delivery rules as pure functions over plain values: what the gateway, the embedded backplane, the fuzzer and the
//! model checker run. No runtime, no clock, no chance, no Redis. The rules and their reasons: docs/delivery.md.

pub mod batch;
pub mod consumer;
pub mod death;
pub mod invariants;
pub mod ledger;
pub mod record;
pub mod sabotage;
pub mod types;
pub mod window;

pub use batch::{BatchNumber, Batcher, Full};
pub use consumer::{Consumer, Step};
pub use record::Record;
pub use types::{
    Attached, BadBefore, Kind, Limits, NewMessage, Place, Placed, Reason, Registration, Standing, Start, Verified,
};
pub use window::{Acknowledged, Replication, Window};
