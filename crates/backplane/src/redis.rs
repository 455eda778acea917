//! The backplane of a fleet: Redis, through the scripts in `redis/lua`. The only code that knows the library `fred`.
//!
//! A generation is one subscriber client and one command client on the same master, both without a reconnect policy: what
//! a library re-subscribes by itself mixes two masters' messages in one queue. It is built, used, and thrown away whole.

mod address;
mod append;
mod commands;
mod connect;
pub mod doctor;
mod replicas;
mod requests;
mod scripts;
mod subscription;

use std::sync::Arc;
use std::time::Duration;

use delivery::Limits;
use routing::Topology;

use crate::api::{Answer, Backplane, Commands, Opened, SharedNode, Source, Subscription};

/// What a node has to know to use a Redis. `Debug` shows no password.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://[user:password@]host:port[/database]`, or
    /// `redis-sentinel://[user:password@]host:port,host:port,…/service[/database]`.
    pub url: String,
    pub node: SharedNode,
    pub topology: Topology,
    pub limits: Limits,
    /// Random, of this process start: the ledger's name. A new incarnation of the node keeps it.
    pub process: u64,
    /// How long one command may take.
    pub command_timeout: Duration,
    pub connect_timeout: Duration,
}

impl std::fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSettings").field("node", &self.node).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The default of [`RedisSettings::command_timeout`]: twenty times what a loaded Redis takes, and short enough that a
/// sender who is told `unknown_outcome` still waits for it.
pub const COMMAND_TIMEOUT: Duration = Duration::from_millis(1_500);

/// One Redis master, alone or behind sentinels.
#[derive(Clone)]
pub struct RedisBackplane {
    settings: Arc<RedisSettings>,
    place: address::Place,
}

impl std::fmt::Debug for RedisBackplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisBackplane").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl RedisBackplane {
    /// # Errors
    /// The text says what is wrong with the URL, without its password.
    pub fn new(settings: RedisSettings) -> Result<Self, String> {
        let place = address::Place::parse(&settings.url)?;
        Ok(Self { settings: Arc::new(settings), place })
    }
}

/// Checks a URL without connecting.
///
/// # Errors
/// What was expected; never the URL, which may hold a password.
pub fn check_url(url: &str) -> Result<(), String> {
    address::Place::parse(url).map(drop)
}

impl Backplane for RedisBackplane {
    fn sources(&self) -> Vec<Source> {
        vec![Source(0)]
    }

    fn open(&self, _source: Source) -> Answer<'_, Opened> {
        Box::pin(async move {
            let (commands, subscription) = connect::open(&self.settings, &self.place).await?;
            let commands: Commands = Arc::new(commands);
            let subscription: Box<dyn Subscription> = Box::new(subscription);
            Ok((commands, subscription))
        })
    }
}
