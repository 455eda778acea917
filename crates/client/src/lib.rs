//! A client of the Switchboard WebSocket gateway: connects, comes back by itself, resumes where it was, and sends each
//! message so that it is stored once.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use switchboard_client::{Client, Config, Credentials, Event};
//!
//! let config = Config::new("ws://127.0.0.1:8080", Credentials::User("alice".to_owned()));
//! let (client, mut events) = Client::connect(config)?;
//! tokio::spawn(async move {
//!     while let Some(event) = events.next().await {
//!         if let Event::Message(message) = event {
//!             println!("{} says {}", message.from, message.body.to_json());
//!         }
//!     }
//! });
//! let sent = client.send("user:bob", "hello").await?;
//! println!("stored as {:?}", sent.reference);
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! The rules are docs/protocol.md. They live in [`core`], without a socket, clock or runtime; [`Client`] runs them on
//! tokio. Whoever drives many sockets from a loop of their own takes [`wire`], [`socket`] and [`endpoint`].
//!
//! This crate knows nothing of the server but the protocol.

mod acks;
pub mod backoff;
mod body;
mod config;
pub mod core;
mod driver;
pub mod endpoint;
mod error;
mod event;
pub mod leaving;
mod requests;
pub mod socket;
mod trail;
pub mod window;
pub mod wire;

pub use body::Body;
pub use config::{Config, Credentials, TokenSource, Url};
pub use driver::{Client, Events, HistoryOptions, JoinOptions, SendOptions};
pub use error::{OpenError, RequestError, SendError, StopReason, UrlError};
pub use event::Event;
pub use protocol::{Encoding, Millis, UnixMillis};
pub use requests::{Ask, AskRequest, HistoryRequest, Now, SendRequest, Whom};
pub use trail::CursorTrail;
pub use wire::people::{
    Counts, Delivered, Device, Member, MemberChange, Members, Online, PresenceChange, ReadChange, Readers, Receipts,
    UserPresence,
};
pub use wire::write::StartFrom;
pub use wire::{ErrorAnswer, History, Message, Reset, Sent, Status, StreamStart, Welcome};
