//! The client protocol `switchboard.v1`: frames as typed values, in JSON and MessagePack.
//!
//! A frame is one map, or an array of maps. It is read in two steps: a scanner without recursion finds where each
//! field's value starts and ends and checks depth, lengths and grammar; then the fields that a frame knows are read. A
//! body is never parsed when both sides speak the same encoding.

pub mod codec;
pub mod event;
pub mod fields;
pub mod frame;
pub mod json;
pub mod msgpack;
mod people;
mod raw;
mod read;
pub mod transcode;
pub mod write;

pub use codec::{Codec, Decoded, WireFrame};
pub use event::{Bye, ErrorFrame, HistoryFrame, MessageFrame, ServerFrame, Status, StreamStatus, Welcome};
pub use fields::{Fields, Malformed, Raw, Refusal};
pub use frame::{Body, ClientFrame, FrameError, From, Hello, History, Join, Named, Send};
pub use people::{MemberChange, MembersFrame, OnlineFrame, PersonFrame, ReadChange, ReceiptsFrame};
