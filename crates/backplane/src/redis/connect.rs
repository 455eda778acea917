//! Opens a generation: two clients on one master, scripts loaded, subscribed, and heard by itself.

use std::sync::Arc;
use std::time::Duration;

use delivery::Replication;
use fred::clients::Client;
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::config::{Config, TcpConfig};
use fred::types::{Builder, ClusterHash, ConnectHandle, CustomCommand, Value};
use protocol::limits::NUMBER_MAX;
use routing::{Layout, SlotGroup};
use tokio::time::timeout;

use super::RedisSettings;
use super::address::{self, Place};
use super::cluster::Map;
use super::commands::{Doubt, RedisClock, RedisCommands};
use super::replicas::Replicas;
use super::scripts::{Scripts, bytes_of, classify, items_of};
use super::subscription::{Probe, RedisSubscription};
use crate::error::{BackplaneError, Loss};

/// Commands that wait to be written; more are refused rather than kept.
const COMMANDS_MAX: usize = 50_000;

/// Messages between the socket and the dispatcher; a generation that lags behind more ends and is built anew.
const MESSAGES_MAX: usize = 16_384;

/// Where a generation is opened.
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) groups: Vec<SlotGroup>,
    pub(super) is_home: bool,
    pub(super) watch: Watch,
}

/// Who says that it is the right place still.
#[derive(Clone)]
pub(super) enum Watch {
    /// The server itself, and its sentinels if there are any.
    Place(Place),
    /// The map of a cluster, in which this is the address.
    Map { map: Arc<Map>, address: String },
}

type Connected = (Client, ConnectHandle);

/// One connection that lives as long as its handle, and is not opened again by itself.
///
/// # Errors
/// It cannot be reached: nothing was asked.
pub(super) async fn connect(
    settings: &RedisSettings,
    mut config: Config,
    messages_max: usize,
) -> Result<Connected, BackplaneError> {
    config.fail_fast = true;
    let mut builder = Builder::from_config(config);
    builder.with_connection_config(|c| {
        c.connection_timeout = settings.connect_timeout;
        c.internal_command_timeout = settings.connect_timeout;
        // A command is written once: what is asked again is asked by the lane, with the same number.
        c.max_command_attempts = 1;
        c.max_command_buffer_len = COMMANDS_MAX;
        c.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
    });
    builder.with_performance_config(|p| {
        p.default_command_timeout = settings.command_timeout;
        // Each client has eight channels of this size, and their slots are made at once.
        p.broadcast_channel_capacity = messages_max;
    });
    // No reconnect policy: this client is of one generation.
    let client = builder.build().map_err(classify)?;
    let task = Unfinished(Some(client.connect()));
    match timeout(settings.connect_timeout, client.wait_for_connect()).await {
        Ok(Ok(())) => task.finish().map(|task| (client, task)),
        Ok(Err(error)) => Err(not_run(classify(error))),
        Err(_) => Err(BackplaneError::NotRun("no connection in time".to_owned())),
    }
}

/// A connection that nobody has yet: it ends with whoever waits for it, or it would live for ever beside the next one.
struct Unfinished(Option<ConnectHandle>);

impl Unfinished {
    fn finish(mut self) -> Result<ConnectHandle, BackplaneError> {
        self.0.take().ok_or_else(|| BackplaneError::NotRun("no connection".to_owned()))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Nothing was asked yet, so nothing can have run.
fn not_run(error: BackplaneError) -> BackplaneError {
    match error {
        BackplaneError::Unknown(why) | BackplaneError::Elsewhere(why) => BackplaneError::NotRun(why),
        other => other,
    }
}

/// One command with plain words.
///
/// # Errors
/// See [`classify`].
pub(super) async fn ask(
    client: &Client,
    command: &'static str,
    words: Vec<&'static str>,
) -> Result<Value, BackplaneError> {
    let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
    client.custom(command, words).await.map_err(classify)
}

async fn time_us(client: &Client) -> Result<u64, BackplaneError> {
    let parts: Vec<u64> =
        items_of(ask(client, "TIME", vec![]).await?).into_iter().filter_map(|v| v.convert().ok()).collect();
    match parts[..] {
        // A clock is reckoned with: it has to be far from where numbers end.
        [seconds, micros] if seconds < NUMBER_MAX / 1_000_000 => Ok(seconds * 1_000_000 + micros.min(999_999)),
        _ => Err(BackplaneError::NotRun("TIME has another form".to_owned())),
    }
}

/// How often the master is asked whether it still is one, and the sentinels who is.
const MASTER_EVERY: Duration = Duration::from_secs(2);

/// Raises a doubt when the server is no master any more, or when the sentinels name another one: a demoted master keeps its
/// subscribers, and nothing else would tell.
async fn watch_master(client: Client, place: Place, master: Config, doubt: Arc<Doubt>) {
    let is_sentinel = matches!(place, Place::Sentinel { .. });
    loop {
        tokio::time::sleep(MASTER_EVERY).await;
        let role = ask(&client, "ROLE", vec![]).await.ok().and_then(role_of);
        if role.is_some_and(|role| role != "master") {
            return doubt.raise(Loss::NotMaster);
        }
        // A sentinel that cannot be asked says nothing about the master.
        if is_sentinel
            && let Ok(named) = place.master(MASTER_EVERY).await
            && address::server_of(&named) != address::server_of(&master)
        {
            return doubt.raise(Loss::NotMaster);
        }
    }
}

/// Raises a doubt when the cluster says that this master has other slots than the generation was opened for.
async fn watch_slots(map: Arc<Map>, address: String, groups: Vec<SlotGroup>, is_home: bool, doubt: Arc<Doubt>) {
    let mut table = map.table();
    loop {
        let is_same = {
            let table = table.borrow_and_update();
            table.groups_of(&address) == groups && table.is_home(&address) == is_home
        };
        if !is_same {
            return doubt.raise(Loss::Slots);
        }
        if table.changed().await.is_err() {
            return;
        }
    }
}

/// What ROLE says of a master: its offset, and how far each replica has confirmed.
pub(super) async fn replication(client: &Client) -> Result<Replication, BackplaneError> {
    let odd = || BackplaneError::NotRun("ROLE says that this is no master".to_owned());
    let mut parts = items_of(ask(client, "ROLE", vec![]).await?).into_iter();
    if parts.next().and_then(Value::into_string).as_deref() != Some("master") {
        return Err(odd());
    }
    let master_offset = parts.next().and_then(|v| v.convert().ok()).ok_or_else(odd)?;
    let replicas = parts.next().map(items_of).unwrap_or_default();
    let offset = |replica| items_of(replica).into_iter().nth(2).and_then(|v| v.convert().ok()).unwrap_or(0);
    Ok(Replication { master_offset, replica_offsets: replicas.into_iter().map(offset).collect() })
}

async fn info_of(client: &Client, section: &'static str) -> Result<String, BackplaneError> {
    let info = ask(client, "INFO", vec![section]).await?;
    Ok(String::from_utf8_lossy(&bytes_of(info)).into_owned())
}

/// Names the history of writes that this master has.
async fn lineage(client: &Client) -> Result<String, BackplaneError> {
    let info = info_of(client, "replication").await?;
    let line = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
    line.map(|id| id.trim().to_owned()).ok_or_else(|| BackplaneError::NotRun("INFO has no master_replid".to_owned()))
}

/// A server of a cluster has some of the keys only, and runs no script on several slots.
async fn refuse_cluster(client: &Client, layout: Layout) -> Result<(), BackplaneError> {
    if layout == Layout::Whole && info_of(client, "cluster").await?.contains("cluster_enabled:1") {
        let why = "this Redis is a server of a cluster: the URL has to begin with redis-cluster://";
        return Err(BackplaneError::NotRun(why.to_owned()));
    }
    Ok(())
}

fn role_of(answer: Value) -> Option<String> {
    items_of(answer).into_iter().next().and_then(Value::into_string)
}

/// Opens one generation.
///
/// # Errors
/// Nothing was asked of the records.
pub(super) async fn open(
    settings: &Arc<RedisSettings>,
    scripts: &Arc<Scripts>,
    target: Target,
) -> Result<(RedisCommands, RedisSubscription), BackplaneError> {
    // Both on the same server.
    let (client, task) = connect(settings, target.config.clone(), 32).await?;
    let task = Unfinished(Some(task));
    let subscriber = connect(settings, target.config.clone(), MESSAGES_MAX).await?;
    prepare((settings, scripts), target, (client, task.finish()?), subscriber).await.map_err(not_run)
}

async fn prepare(
    (settings, scripts): (&Arc<RedisSettings>, &Arc<Scripts>),
    Target { config, groups, is_home, watch }: Target,
    (client, commands_task): Connected,
    (subscriber, subscriber_task): Connected,
) -> Result<(RedisCommands, RedisSubscription), BackplaneError> {
    let doubt = Arc::new(Doubt::default());
    let node = settings.node.get();
    // Built first, so that whatever fails below ends both clients with it.
    let messages = subscriber.message_rx();
    let clock = Arc::new(RedisClock::new(0));
    let channel = |group: &SlotGroup| settings.topology.channel(&node, *group).0;
    let watching = match watch.clone() {
        Watch::Place(place) => tokio::spawn(watch_master(client.clone(), place, config.clone(), doubt.clone())),
        Watch::Map { map, address } => tokio::spawn(watch_slots(map, address, groups.clone(), is_home, doubt.clone())),
    };
    let mut subscription = RedisSubscription {
        messages,
        subscriber,
        subscriber_task,
        commands: client.clone(),
        commands_task,
        doubt: doubt.clone(),
        clock: clock.clone(),
        channels: groups.iter().map(channel).collect(),
        layout: settings.topology.layout(),
        probe: Probe::new(settings.process),
        watch: watching,
    };
    refuse_cluster(&client, settings.topology.layout()).await?;
    let role = role_of(ask(&client, "ROLE", vec![]).await?).unwrap_or_default();
    if role != "master" {
        return Err(BackplaneError::NotRun(format!("this Redis is a {role}, not a master")));
    }
    scripts.load(&client).await?;
    for group in &groups {
        subscription.subscribe(settings.topology.own_channels(&node, *group).map(|channel| channel.0)).await?;
    }
    clock.start_at(time_us(&client).await?);
    subscription.hear_itself(Duration::from_secs(2)).await?;
    let lineage = lineage(&client).await?;
    let waiting = connect(settings, config, 32).await?;
    let keys = groups.iter().map(|group| settings.topology.keys().wait(&node, *group)).collect();
    let replicas = Replicas::new(waiting, keys, doubt.clone());
    let map = if let Watch::Map { map, .. } = watch { Some(map) } else { None };
    let (settings, scripts) = (settings.clone(), scripts.clone());
    let commands =
        RedisCommands { client, settings, scripts, doubt, clock, replicas, node, lineage, groups, is_home, map };
    Ok((commands, subscription))
}
