//! The two listeners: accepting, HTTP, and the way from a request to a WebSocket.
//!
//! Everything here is before anybody is known: each wait has an end, each buffer a size, and the number of connections
//! that have not finished their request is bounded. No query string is ever logged: tokens travel in it.

pub mod accept;
pub mod http;
mod query;
pub(crate) mod respond;
mod upgrade;

pub use accept::{Arrival, bind};
pub use http::{Http, HttpSettings};
pub(crate) use query::decode;
pub(crate) use upgrade::bearer;
