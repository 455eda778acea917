//! The backplane of a fleet: Redis, through the scripts in `redis/lua`. The only code that knows the library `fred`.
//!
//! A generation is one subscriber client and one command client on the same master, both without a reconnect policy: what
//! a library re-subscribes by itself mixes two masters' messages in one queue. It is built, used, and thrown away whole.

mod address;
mod append;
mod askings;
mod cluster;
mod commands;
mod connect;
pub mod doctor;
mod groups;
mod marks;
mod moving;
mod presence;
mod replicas;
mod requests;
mod scripts;
mod subscription;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use delivery::Limits;
use fred::types::config::Config;
use routing::{Layout, Topology};
use tokio::sync::watch;

use crate::api::{Answer, Backplane, Commands, Opened, SharedNode, Source, Subscription};
use crate::error::BackplaneError;
use connect::{Target, Watch};

/// What a node has to know to use a Redis. `Debug` shows no password.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://[user:password@]host:port[/database]`,
    /// `redis-sentinel://[user:password@]host:port,host:port,…/service[/database]`, or
    /// `redis-cluster://[user:password@]host:port,host:port,…`.
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

/// One Redis master, alone or behind sentinels, or the masters of a Cluster.
#[derive(Clone)]
pub struct RedisBackplane {
    settings: Arc<RedisSettings>,
    place: address::Place,
    scripts: Arc<scripts::Scripts>,
    map: Arc<OnceLock<Arc<cluster::Map>>>,
}

impl std::fmt::Debug for RedisBackplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisBackplane").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl RedisBackplane {
    /// # Errors
    /// The text says what is wrong with the URL, without its password, or that the topology has another layout.
    pub fn new(settings: RedisSettings) -> Result<Self, String> {
        Self::with_script_edit(settings, &str::to_owned)
    }

    /// With other scripts: tests take a rule away, and see that it is missed.
    ///
    /// # Errors
    /// See [`Self::new`].
    #[doc(hidden)]
    pub fn with_script_edit(settings: RedisSettings, edit: &dyn Fn(&str) -> String) -> Result<Self, String> {
        let place = address::Place::parse(&settings.url)?;
        if place.layout() != settings.topology.layout() {
            return Err("the topology is not laid out for what the URL names".to_owned());
        }
        let scripts = Arc::new(scripts::Scripts::new(edit));
        Ok(Self { settings: Arc::new(settings), place, scripts, map: Arc::default() })
    }

    /// The map of a cluster; asking begins with the first use.
    fn map(&self, seeds: &[(String, u16)], servers: &Config) -> &Arc<cluster::Map> {
        self.map.get_or_init(|| cluster::Map::start(self.settings.clone(), seeds, servers.clone()))
    }

    async fn target(&self, source: &Source) -> Result<Target, BackplaneError> {
        let address::Place::Cluster { seeds, servers } = &self.place else {
            let config = self.place.master(self.settings.connect_timeout).await?;
            let groups = self.settings.topology.groups().collect();
            return Ok(Target { config, groups, is_home: true, watch: Watch::Place(self.place.clone()) });
        };
        let (map, address) = (self.map(seeds, servers), source.0.clone());
        let table = map.table().borrow().clone();
        let (groups, is_home) = (table.groups_of(&address), table.is_home(&address));
        if groups.is_empty() && !is_home {
            let why = map.trouble();
            let colon = if why.is_empty() { "" } else { ": " };
            return Err(BackplaneError::NotRun(format!("{address} has no slots of this fleet{colon}{why}")));
        }
        Ok(Target { config: map.server(&address)?, groups, is_home, watch: Watch::Map { map: map.clone(), address } })
    }
}

/// How keys are spread over what a URL names.
///
/// # Errors
/// See [`check_url`].
pub fn layout_of(url: &str) -> Result<Layout, String> {
    address::Place::parse(url).map(|place| place.layout())
}

/// Checks a URL without connecting.
///
/// # Errors
/// What was expected; never the URL, which may hold a password.
pub fn check_url(url: &str) -> Result<(), String> {
    address::Place::parse(url).map(drop)
}

impl Backplane for RedisBackplane {
    fn sources(&self) -> watch::Receiver<Vec<Source>> {
        match &self.place {
            address::Place::Cluster { seeds, servers } => self.map(seeds, servers).sources(),
            // Nobody sends: there is one, always.
            _ => watch::channel(vec![Source::default()]).1,
        }
    }

    fn open<'a>(&'a self, source: &'a Source) -> Answer<'a, Opened> {
        Box::pin(async move {
            let target = self.target(source).await?;
            let opened = connect::open(&self.settings, &self.scripts, target).await;
            // Whoever does not answer may have a successor.
            if let (Err(_), Some(map)) = (&opened, self.map.get()) {
                map.doubt();
            }
            let (commands, subscription) = opened?;
            let commands: Commands = Arc::new(commands);
            let subscription: Box<dyn Subscription> = Box::new(subscription);
            Ok((commands, subscription))
        })
    }
}
