//! Every byte that leaves a process: what clients and nodes say to each other, as typed values.
//!
//! No IO, no clock, no chance. Two languages are spoken here: the client protocol `switchboard.v1` (module [`client`],
//! JSON or MessagePack) and the fleet's own binary forms (module [`node`]: what an inbox and a channel carry).

pub mod address;
pub mod bundle;
pub mod client;
pub mod code;
pub mod cursor;
pub mod ids;
pub mod limits;
pub mod node;
pub mod notice;
pub mod text;
pub mod time;

pub use address::{Address, AddressError};
pub use bundle::{Bundle, Item, Live};
pub use code::{CloseCode, ErrorCode};
pub use cursor::{Cursor, Epoch, Stamp, Tag};
pub use ids::{ConnectionId, DeviceId, GroupId, IdError, MessageId, NodeId, ServiceName, UserId};
pub use node::{Encoding, Entry, Envelope, Ephemeral, Page};
pub use notice::{Change, HandOver, Notice};
pub use text::Text;
pub use time::{Millis, UnixMillis};
