//! What tests of the fleet share: real processes, a proxy that hurts, a client that behaves and one that lies.
//!
//! A dev-dependency for files under `tests/`. It speaks the wire (`protocol`) and knows nothing of the server's inside:
//! what it starts are processes, what it sees are bytes, status codes and logs. Nothing here outlives the test that
//! started it: children are ended by their own process id, on drop and even when the test process is killed.

pub mod cluster;
pub mod http;
pub mod node;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod redis;
pub mod sentinel;
pub mod wait;
pub mod ws;

mod ports;

pub use cluster::{Cluster, ClusterOptions};
pub use node::{Node, NodeOptions, WaitFor};
pub use proxy::Proxy;
pub use raw::{Burst, Frame, Outcome, Raw, Report};
pub use redis::Redis;
pub use sentinel::Sentinel;
pub use wait::eventually;
pub use ws::Client;

pub use ports::free_port;
