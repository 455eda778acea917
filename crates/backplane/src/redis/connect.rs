//! Opens a generation: two clients on one master, scripts loaded, subscribed, and heard by itself.

use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::config::{Config, TcpConfig};
use fred::types::{Builder, ClusterHash, ConnectHandle, CustomCommand, Value};
use tokio::time::timeout;

use super::RedisSettings;
use super::address::Place;
use super::commands::{Doubt, RedisClock, RedisCommands};
use super::scripts::{Scripts, classify, items_of};
use super::subscription::{Probe, RedisSubscription};
use crate::error::BackplaneError;

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

/// Opens one generation.
pub(super) async fn open(
    settings: &Arc<RedisSettings>,
    place: &Place,
) -> Result<(RedisCommands, RedisSubscription), BackplaneError> {
    // Both on the same server: asked once.
    let master = place.master(settings.connect_timeout).await?;
    let commands = connect(settings, master.clone(), 32).await?;
    let subscriber = match connect(settings, master, MESSAGES_MAX).await {
        Ok(subscriber) => subscriber,
        Err(error) => {
            commands.task.abort();
            return Err(error);
        }
    };
    match prepare(settings, commands, subscriber).await {
        Ok(generation) => Ok(generation),
        Err(error) => Err(not_run(error)),
    }
}

async fn prepare(
    settings: &Arc<RedisSettings>,
    commands: Connected,
    subscriber: Connected,
) -> Result<(RedisCommands, RedisSubscription), BackplaneError> {
    let doubt = Arc::new(Doubt::default());
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
        channel: settings.topology.channel(&settings.node, routing::SlotGroup(0)).0,
        probe: Probe::new(settings.process),
    };
    let client = commands.client;
    let role =
        items_of(ask(&client, "ROLE").await?).into_iter().next().and_then(|v| v.into_string()).unwrap_or_default();
    if role != "master" {
        return Err(BackplaneError::NotRun(format!("this Redis is a {role}, not a master")));
    }
    let scripts = Arc::new(Scripts::new());
    scripts.load(&client).await?;
    let channels: Vec<String> = settings.topology.own_channels(&settings.node).into_iter().map(|c| c.0).collect();
    subscription.subscriber.subscribe(channels).await.map_err(classify)?;
    // `subscribe` answers before the server has: an answer to PING behind it is the barrier.
    subscription.subscriber.ping::<Value>(None).await.map_err(classify)?;
    clock.start_at(time_us(&client).await?);
    subscription.hear_itself(Duration::from_secs(2)).await?;
    let commands = RedisCommands { client, settings: settings.clone(), scripts, doubt, clock };
    Ok((commands, subscription))
}
