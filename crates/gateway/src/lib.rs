//! One gateway node as a library: `run(config, shutdown, ready)`.
//!
//! Invariants of absence: no Redis key or command, no wire bytes by hand, and no delivery decision in here (`delivery`
//! decides, `connection` obeys). Only `clock.rs` asks the system for the time.

mod agreement;
pub mod api;
mod asker;
pub mod auth;
mod clock;
pub mod config;
mod current;
mod departures;
mod doctor;
pub mod door;
mod driver;
mod fleet;
mod generation;
mod heads;
mod joins;
mod keeper;
mod lifecycle;
pub mod listener;
mod mailbox;
pub mod metrics;
mod node;
pub mod ops;
mod publisher;
mod questions;
mod registry;
mod suspects;
mod watches;
mod workers;

#[cfg(feature = "sabotage")]
pub use delivery::sabotage;
pub use driver::{Counted, Socket};
#[doc(hidden)]
pub use driver::{close, close_code};
pub use lifecycle::{Addresses, Shutdown, run, run_blocking};
pub use node::Node;
