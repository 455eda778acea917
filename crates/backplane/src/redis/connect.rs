//! Opens a generation: two clients on one master, scripts loaded, subscribed, and heard by itself.

use std::sync::Arc;
use std::time::Duration;

use delivery::Replication;
use fred::clients::Client;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::config::{Config, TcpConfig};
use fred::types::{Builder, ClusterHash, ConnectHandle, CustomCommand, Value};
use tokio::time::timeout;

use super::RedisSettings;
use super::address::{self, Place};
use super::commands::{Doubt, RedisClock, RedisCommands};
use super::replicas::Replicas;
use super::scripts::{Scripts, bytes_of, classify, items_of};
use super::subscription::{Probe, RedisSubscription};
use crate::error::{BackplaneError, Loss};

/// Commands that wait to be written; more are refused rather than kept.
const COMMANDS_MAX: usize = 50_000;

/// Messages between the socket and the dispatcher; a generation that lags behind more ends and is built anew.
const MESSAGES_MAX: usize = 16_384;

struct Connected {
    client: Client,
    task: ConnectHandle,
}

async fn connect(
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
    let task = client.connect();
    match timeout(settings.connect_timeout, client.wait_for_connect()).await {
        Ok(Ok(())) => Ok(Connected { client, task }),
        Ok(Err(error)) => {
            task.abort();
            Err(not_run(classify(error)))
        }
        Err(_) => {
            task.abort();
            Err(BackplaneError::NotRun("no connection in time".to_owned()))
        }
    }
}

/// Nothing was asked yet, so nothing can have run.
fn not_run(error: BackplaneError) -> BackplaneError {
    match error {
        BackplaneError::Unknown(why) => BackplaneError::NotRun(why),
        other => other,
    }
}

async fn ask(client: &Client, command: &'static str) -> Result<Value, BackplaneError> {
    let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
    client.custom(command, Vec::<Value>::new()).await.map_err(classify)
}

async fn time_us(client: &Client) -> Result<u64, BackplaneError> {
    let parts: Vec<u64> = items_of(ask(client, "TIME").await?).into_iter().filter_map(|v| v.convert().ok()).collect();
    match parts[..] {
        [seconds, micros] => Ok(seconds * 1_000_000 + micros),
        _ => Err(BackplaneError::NotRun("TIME has another form".to_owned())),
    }
}

/// How often the master is asked whether it still is one, and the sentinels who is.
const MASTER_EVERY: Duration = Duration::from_secs(2);

/// Raises a doubt when the server is no master any more, or when the sentinels name another one: a demoted master keeps its
/// subscribers, and nothing else would tell.
async fn watch_master(client: Client, place: Place, master: Config, doubt: Arc<Doubt>) {
    loop {
        tokio::time::sleep(MASTER_EVERY).await;
        let role = ask(&client, "ROLE").await.ok().and_then(role_of);
        if role.is_some_and(|role| role != "master") {
            return doubt.raise(Loss::NotMaster);
        }
        // A sentinel that cannot be asked says nothing about the master.
        if let Ok(named) = place.master(MASTER_EVERY).await
            && address::server_of(&named) != address::server_of(&master)
        {
            return doubt.raise(Loss::NotMaster);
        }
    }
}

/// What ROLE says of a master: its offset, and how far each replica has confirmed.
pub(super) async fn replication(client: &Client) -> Result<Replication, BackplaneError> {
    let odd = || BackplaneError::NotRun("ROLE says that this is no master".to_owned());
    let mut parts = items_of(ask(client, "ROLE").await?).into_iter();
    if parts.next().and_then(Value::into_string).as_deref() != Some("master") {
        return Err(odd());
    }
    let master_offset = parts.next().and_then(|v| v.convert().ok()).ok_or_else(odd)?;
    let replicas = parts.next().map(items_of).unwrap_or_default();
    let offset = |replica| items_of(replica).into_iter().nth(2).and_then(|v| v.convert().ok()).unwrap_or(0);
    Ok(Replication { master_offset, replica_offsets: replicas.into_iter().map(offset).collect() })
}

/// Names the history of writes that this master has.
async fn lineage(client: &Client) -> Result<String, BackplaneError> {
    let command = CustomCommand::new_static("INFO", ClusterHash::FirstKey, false);
    let info: Value = client.custom(command, vec!["replication"]).await.map_err(classify)?;
    let info = String::from_utf8_lossy(&bytes_of(info)).into_owned();
    let line = info.lines().find_map(|line| line.strip_prefix("master_replid:"));
    line.map(|id| id.trim().to_owned()).ok_or_else(|| BackplaneError::NotRun("INFO has no master_replid".to_owned()))
}

fn role_of(answer: Value) -> Option<String> {
    items_of(answer).into_iter().next().and_then(Value::into_string)
}

/// Opens one generation.
pub(super) async fn open(
    settings: &Arc<RedisSettings>,
    place: &Place,
) -> Result<(RedisCommands, RedisSubscription), BackplaneError> {
    // Both on the same server: asked once.
    let master = place.master(settings.connect_timeout).await?;
    let commands = connect(settings, master.clone(), 32).await?;
    let subscriber = match connect(settings, master.clone(), MESSAGES_MAX).await {
        Ok(subscriber) => subscriber,
        Err(error) => {
            commands.task.abort();
            return Err(error);
        }
    };
    match prepare(settings, (place, master), commands, subscriber).await {
        Ok(generation) => Ok(generation),
        Err(error) => Err(not_run(error)),
    }
}

async fn prepare(
    settings: &Arc<RedisSettings>,
    (place, master): (&Place, Config),
    commands: Connected,
    subscriber: Connected,
) -> Result<(RedisCommands, RedisSubscription), BackplaneError> {
    let doubt = Arc::new(Doubt::default());
    let node = settings.node.get();
    // Built first, so that whatever fails below ends both clients with it.
    let messages = subscriber.client.message_rx();
    let clock = Arc::new(RedisClock::new(0));
    let mut subscription = RedisSubscription {
        messages,
        subscriber: subscriber.client,
        subscriber_task: subscriber.task,
        commands: commands.client.clone(),
        commands_task: commands.task,
        doubt: doubt.clone(),
        clock: clock.clone(),
        channel: settings.topology.channel(&node, routing::SlotGroup(0)).0,
        probe: Probe::new(settings.process),
        watch: tokio::spawn(watch_master(commands.client.clone(), place.clone(), master.clone(), doubt.clone())),
    };
    let client = commands.client;
    let role = role_of(ask(&client, "ROLE").await?).unwrap_or_default();
    if role != "master" {
        return Err(BackplaneError::NotRun(format!("this Redis is a {role}, not a master")));
    }
    let scripts = Arc::new(Scripts::new());
    scripts.load(&client).await?;
    let channels: Vec<String> = settings.topology.own_channels(&node).into_iter().map(|c| c.0).collect();
    subscription.subscriber.subscribe(channels).await.map_err(classify)?;
    // `subscribe` answers before the server has: an answer to PING behind it is the barrier.
    subscription.subscriber.ping::<Value>(None).await.map_err(classify)?;
    clock.start_at(time_us(&client).await?);
    subscription.hear_itself(Duration::from_secs(2)).await?;
    let lineage = lineage(&client).await?;
    let waiting = connect(settings, master, 32).await?;
    let replicas = Replicas::new(waiting.client, waiting.task, settings.topology.keys().wait(&node), doubt.clone());
    let commands = RedisCommands { client, settings: settings.clone(), scripts, doubt, clock, replicas, node, lineage };
    Ok((commands, subscription))
}
