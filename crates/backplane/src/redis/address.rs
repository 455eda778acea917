//! Where the master is: said by the URL, or asked of the sentinels.

use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::{Config, Server, ServerConfig};
use fred::types::{ClusterHash, CustomCommand, Value};
use tokio::time::timeout;

use super::scripts::items_of;
use crate::error::BackplaneError;

const SINGLE: &str = "redis://";
const SENTINEL: &str = "redis-sentinel://";
const EXPECTED: &str = "expected redis://[user:password@]host:port[/database], or \
                        redis-sentinel://[user:password@]host:port,host:port,…/service[/database]";

/// What a URL names. Made once, at start; `Debug` would show a password, so there is none.
#[derive(Clone)]
pub(super) enum Place {
    Single(Config),
    Sentinel {
        sentinels: Vec<(String, u16)>,
        service: String,
        /// User, password and database of the servers behind the sentinels.
        servers: Config,
    },
}

impl Place {
    /// # Errors
    /// What was expected; never the URL itself, which may hold a password.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let expected = || EXPECTED.to_owned();
        if url.starts_with(SINGLE) {
            return Config::from_url(url).map(Self::Single).map_err(|_| expected());
        }
        let rest = url.strip_prefix(SENTINEL).ok_or_else(expected)?;
        let (credentials, rest) = rest.rsplit_once('@').map_or(("", rest), |(before, after)| (before, after));
        let (hosts, path) = rest.split_once('/').ok_or_else(expected)?;
        let (service, database) = path.split_once('/').map_or((path, ""), |(service, database)| (service, database));
        let one = |text: &str| {
            let (host, port) = text.rsplit_once(':')?;
            let port = port.parse().ok()?;
            (!host.is_empty()).then(|| (host.to_owned(), port))
        };
        let sentinels: Option<Vec<_>> = hosts.split(',').map(one).collect();
        let sentinels = sentinels.filter(|list| !list.is_empty()).ok_or_else(expected)?;
        if service.is_empty() {
            return Err(expected());
        }
        // The library reads credentials and database; the host is put in once it is known.
        let at = if credentials.is_empty() { String::new() } else { format!("{credentials}@") };
        let slash = if database.is_empty() { String::new() } else { format!("/{database}") };
        let servers = Config::from_url(&format!("{SINGLE}{at}master:6379{slash}")).map_err(|_| expected())?;
        Ok(Self::Sentinel { sentinels, service: service.to_owned(), servers })
    }

    /// Where the master is now. The sentinels are asked one after the other; the first that knows is believed, for whoever
    /// is there has to say `master` himself.
    ///
    /// # Errors
    /// No sentinel answered, or none knows the service.
    pub(super) async fn master(&self, within: Duration) -> Result<Config, BackplaneError> {
        let (sentinels, service, servers) = match self {
            Self::Single(config) => return Ok(config.clone()),
            Self::Sentinel { sentinels, service, servers } => (sentinels, service, servers),
        };
        // Each has its share of the time, so that one that hangs does not use up that of the others.
        let share = within / u32::try_from(sentinels.len()).unwrap_or(1).max(1);
        let mut answered = 0;
        for (host, port) in sentinels {
            match timeout(share, ask(host, *port, service)).await {
                Ok(Some(Some((host, port)))) => {
                    return Ok(Config {
                        server: ServerConfig::Centralized { server: Server::new(host, port) },
                        ..servers.clone()
                    });
                }
                Ok(Some(None)) => answered += 1,
                Ok(None) | Err(_) => {}
            }
        }
        Err(BackplaneError::NotRun(format!(
            "{answered} of {} sentinels answered, and none knows a master of {service:?}",
            sentinels.len()
        )))
    }
}

/// The server that a configuration names, to compare.
pub(super) fn server_of(config: &Config) -> Option<&Server> {
    match &config.server {
        ServerConfig::Centralized { server } => Some(server),
        _ => None,
    }
}

/// Asks one sentinel: `None` if it does not answer, `Some(None)` if it does not know the service.
async fn ask(host: &str, port: u16, service: &str) -> Option<Option<(String, u16)>> {
    let config = Config { server: ServerConfig::new_centralized(host, port), fail_fast: true, ..Config::default() };
    let client = Client::new(config, None, None, None);
    let task = client.connect();
    let answer = async {
        client.wait_for_connect().await.ok()?;
        let command = CustomCommand::new_static("SENTINEL", ClusterHash::FirstKey, false);
        client.custom::<Value, _>(command, vec!["GET-MASTER-ADDR-BY-NAME", service]).await.ok()
    };
    let answer = answer.await;
    task.abort();
    let parts: Vec<String> = items_of(answer?).into_iter().filter_map(Value::into_string).collect();
    Some(match &parts[..] {
        [host, port] => port.parse().ok().map(|port| (host.clone(), port)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentinel_url_names_hosts_service_credentials_and_database() {
        let place = Place::parse("redis-sentinel://me:secret@a:1,b:2,[::1]:3/main/4").ok().unwrap();
        let Place::Sentinel { sentinels, service, servers } = place else { panic!("no sentinel") };
        assert_eq!(sentinels, [("a".to_owned(), 1), ("b".to_owned(), 2), ("[::1]".to_owned(), 3)]);
        assert_eq!((service.as_str(), servers.database), ("main", Some(4)));
        assert_eq!((servers.username.as_deref(), servers.password.as_deref()), (Some("me"), Some("secret")));
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_shown() {
        for url in [
            "",
            "http://x:secret@y",
            "redis-sentinel://a:1",
            "redis-sentinel:///s",
            "redis-sentinel://a/s",
            "redis-sentinel://a:secret/s",
        ] {
            let error = Place::parse(url).err().unwrap();
            assert!(error.starts_with("expected redis://") && !error.contains("secret"), "{url}: {error}");
        }
    }
}
