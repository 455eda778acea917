//! Asks a Redis what it is: INFO, a few settings, its clock, and how far away it is. What that means is
//! [`crate::doctor`]'s business.

use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::ClientLike;
use fred::types::config::{Config, TcpConfig};
use fred::types::{Builder, ClusterHash, ConnectHandle, CustomCommand, Value};
use tokio::time::{Instant, timeout};

use super::address::Place;
use super::scripts::{bytes_of, items_of};
use crate::doctor::{Facts, Measured};
use crate::error::BackplaneError;

/// Enough for a median that one slow answer does not move.
const PINGS: usize = 20;

/// Why nothing is known about a Redis. No text has the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("the URL: {0}")]
    Url(String),
    /// Nobody is there, or not yet: worth another try.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It answers, but not this user or not this question.
    #[error("it answers, but refuses: {0}")]
    Refused(String),
}

/// Ends the client's task, also when the asking is dropped half-way.
struct Connection {
    client: Client,
    task: ConnectHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks the Redis at `url`; behind sentinels, the master that they name; of a cluster, a master. `within` is for each step:
/// finding, connecting, a command, all round trips together. `now_us` is this machine's clock, microseconds since 1970.
///
/// # Errors
/// [`AskError`]; a refused CONFIG GET is none.
///
/// # Cancellation
/// Dropping the future closes the connection.
pub async fn ask(url: &str, within: Duration, now_us: impl Fn() -> u64 + Send) -> Result<Facts, AskError> {
    let place = Place::parse(url).map_err(AskError::Url)?;
    let config = place.any(within).await.map_err(unreachable)?;
    let facts = ask_server(&connect(config, within).await?.client, within, now_us).await?;
    let is_cluster = matches!(place, Place::Cluster { .. });
    Ok(facts.behind_sentinels(matches!(place, Place::Sentinel { .. })).named_as_cluster(is_cluster))
}

/// As [`ask`], but every master of a cluster, each with its address; `None` for the only one of anything else.
///
/// # Errors
/// As [`ask`]: also where one master of several cannot be asked.
pub async fn ask_masters(
    url: &str,
    within: Duration,
    now_us: impl Fn() -> u64 + Send + Sync,
) -> Result<Vec<(Option<String>, Facts)>, AskError> {
    let place = Place::parse(url).map_err(AskError::Url)?;
    if !matches!(place, Place::Cluster { .. }) {
        return Ok(vec![(None, ask(url, within, now_us).await?)]);
    }
    let first = connect(place.any(within).await.map_err(unreachable)?, within).await?;
    let nodes = bytes_of(command(&first.client, "CLUSTER", &["NODES"]).await.map_err(failed)?);
    let mut all = Vec::new();
    for (address, config) in place.masters_in(&String::from_utf8_lossy(&nodes)) {
        let at = |error: AskError| error.at(&address);
        let connection = connect(config, within).await.map_err(at)?;
        let facts = ask_server(&connection.client, within, &now_us).await.map_err(at)?;
        all.push((Some(address), facts.named_as_cluster(true)));
    }
    if all.is_empty() {
        return Err(AskError::Refused("no master of this cluster has slots".to_owned()));
    }
    Ok(all)
}

impl AskError {
    fn at(self, address: &str) -> Self {
        match self {
            Self::Url(why) => Self::Url(why),
            Self::Unreachable(why) => Self::Unreachable(format!("{address}: {why}")),
            Self::Refused(why) => Self::Refused(format!("{address}: {why}")),
        }
    }
}

async fn ask_server(client: &Client, within: Duration, now_us: impl Fn() -> u64 + Send) -> Result<Facts, AskError> {
    let info = bytes_of(command(client, "INFO", &[]).await.map_err(failed)?);
    let mut config = Vec::new();
    for key in Facts::CONFIG_KEYS {
        // Managed services refuse CONFIG; a broken connection shows below.
        let Ok(answer) = command(client, "CONFIG", &["GET", key]).await else { continue };
        if let [_, value] = items_of(answer).as_slice() {
            config.push((key.to_owned(), value.as_string().unwrap_or_default()));
        }
    }
    let clock_offset_us = clock_offset_us(client, now_us).await?;
    let latency_us = latency_us(client, within).await?;
    Ok(Facts::parse(&String::from_utf8_lossy(&info), &config, Measured { latency_us, clock_offset_us }))
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` takes")]
fn unreachable(error: BackplaneError) -> AskError {
    match error {
        BackplaneError::NotRun(why) | BackplaneError::Unknown(why) | BackplaneError::Elsewhere(why) => {
            AskError::Unreachable(why)
        }
    }
}

async fn connect(mut config: Config, within: Duration) -> Result<Connection, AskError> {
    config.fail_fast = true;
    let mut builder = Builder::from_config(config);
    builder.with_connection_config(|c| {
        c.connection_timeout = within;
        c.internal_command_timeout = within;
        c.max_command_attempts = 1;
        c.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
    });
    builder.with_performance_config(|p| p.default_command_timeout = within);
    // No reconnect policy: whoever asks decides whether to ask again.
    let client = builder.build().map_err(failed)?;
    let task = client.connect();
    let connection = Connection { client, task };
    match timeout(within, connection.client.wait_for_connect()).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => return Err(AskError::Unreachable(format!("no connection within {within:?}"))),
    }
    Ok(connection)
}

async fn command(client: &Client, name: &'static str, args: &[&'static str]) -> Result<Value, Error> {
    let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
    let args: Vec<Value> = args.iter().map(|&argument| Value::from_static_str(argument)).collect();
    client.custom(command, args).await
}

/// The server's clock minus this machine's. Half of the round trip is the error of this.
async fn clock_offset_us(client: &Client, now_us: impl Fn() -> u64 + Send) -> Result<i64, AskError> {
    let before = now_us();
    let answer = command(client, "TIME", &[]).await.map_err(failed)?;
    let middle = u64::midpoint(before, now_us());
    let parts: Vec<u64> = items_of(answer).into_iter().filter_map(|value| value.convert().ok()).collect();
    let [seconds, micros] = parts[..] else {
        return Err(AskError::Refused("TIME has another form".to_owned()));
    };
    let there = i128::from(seconds) * 1_000_000 + i128::from(micros);
    Ok(i64::try_from(there - i128::from(middle)).unwrap_or(i64::MAX))
}

/// The median round trip. A far Redis is asked less often, rather than for longer.
async fn latency_us(client: &Client, within: Duration) -> Result<u64, AskError> {
    let start = Instant::now();
    let mut times = Vec::with_capacity(PINGS);
    while times.is_empty() || times.len() < PINGS && start.elapsed() < within {
        let asked = Instant::now();
        match client.ping::<Value>(None).await {
            Err(error) if is_broken(&error) => return Err(failed(error)),
            // An error of the server, such as LOADING, came as far as an answer does.
            Ok(_) | Err(_) => times.push(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX)),
        }
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// True if nothing was answered.
fn is_broken(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Backpressure)
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` takes")]
fn failed(error: Error) -> AskError {
    const REFUSALS: [&str; 4] = ["NOAUTH", "WRONGPASS", "NOPERM", "ERR"];
    let text = error.details().to_owned();
    let is_refusal = REFUSALS.iter().any(|code| text.starts_with(code));
    match error.kind() {
        ErrorKind::Auth => AskError::Refused(text),
        _ if is_refusal => AskError::Refused(text),
        kind if text.is_empty() => AskError::Unreachable(kind.to_str().to_owned()),
        _ => AskError::Unreachable(text),
    }
}
