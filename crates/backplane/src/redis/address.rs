//! Where the master is: said by the URL, or asked of the sentinels.

use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::{Config, Server, ServerConfig};
use fred::types::{ClusterHash, ConnectHandle, CustomCommand, Value};
use routing::Layout;
use tokio::time::timeout;

use super::scripts::items_of;
use crate::error::BackplaneError;

const SINGLE: &str = "redis://";
const SENTINEL: &str = "redis-sentinel://";
const CLUSTER: &str = "redis-cluster://";
const EXPECTED: &str = "expected redis://[user:password@]host:port[/database], \
                        redis-sentinel://[user:password@]host:port,host:port,…/service[/database], or \
                        redis-cluster://[user:password@]host:port,host:port,…";

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
    Cluster {
        /// Some of its servers; they name the others.
        seeds: Vec<(String, u16)>,
        /// User and password of all of them.
        servers: Config,
    },
}

/// What may stand before the hosts.
fn with_credentials(credentials: &str, database: &str) -> Option<Config> {
    // The library reads credentials and database; the host is put in once it is known.
    let at = if credentials.is_empty() { String::new() } else { format!("{credentials}@") };
    let slash = if database.is_empty() { String::new() } else { format!("/{database}") };
    Config::from_url(&format!("{SINGLE}{at}master:6379{slash}")).ok()
}

fn hosts_of(text: &str) -> Option<Vec<(String, u16)>> {
    let one = |text: &str| {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        (!host.is_empty()).then(|| (host.to_owned(), port))
    };
    text.split(',').map(one).collect()
}

impl Place {
    /// # Errors
    /// What was expected; never the URL itself, which may hold a password.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let expected = || EXPECTED.to_owned();
        if url.starts_with(SINGLE) {
            return Config::from_url(url).map(Self::Single).map_err(|_| expected());
        }
        if let Some(rest) = url.strip_prefix(CLUSTER) {
            let (credentials, hosts) = rest.rsplit_once('@').unwrap_or(("", rest));
            let seeds = hosts_of(hosts.trim_end_matches('/')).ok_or_else(expected)?;
            let servers = with_credentials(credentials, "").ok_or_else(expected)?;
            return Ok(Self::Cluster { seeds, servers });
        }
        let rest = url.strip_prefix(SENTINEL).ok_or_else(expected)?;
        let (credentials, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (hosts, path) = rest.split_once('/').ok_or_else(expected)?;
        let (service, database) = path.split_once('/').unwrap_or((path, ""));
        let sentinels = hosts_of(hosts).ok_or_else(expected)?;
        if service.is_empty() {
            return Err(expected());
        }
        let servers = with_credentials(credentials, database).ok_or_else(expected)?;
        Ok(Self::Sentinel { sentinels, service: service.to_owned(), servers })
    }

    /// A master to be looked at: of a cluster, that of the first server that answers.
    ///
    /// # Errors
    /// Nobody answered.
    pub(super) async fn any(&self, within: Duration) -> Result<Config, BackplaneError> {
        let Self::Cluster { seeds, servers } = self else { return self.master(within).await };
        let share = within / u32::try_from(seeds.len()).unwrap_or(1).max(1);
        let at = |host: &str, port| server_at(servers, host, port);
        for (host, port) in seeds {
            let role = one_command(at(host, *port), "ROLE", vec![]);
            let Ok(Some(role)) = timeout(share, role).await else { continue };
            let parts: Vec<String> = items_of(role).into_iter().filter_map(Value::into_string).collect();
            return Ok(match &parts[..] {
                [role, host, port, ..] if role == "slave" => match port.parse() {
                    Ok(port) => at(host, port),
                    Err(_) => continue,
                },
                _ => at(host, *port),
            });
        }
        Err(BackplaneError::NotRun(format!("none of {} servers answered", seeds.len())))
    }

    /// The masters that `CLUSTER NODES` names, sorted.
    pub(super) fn masters_in(&self, nodes: &str) -> Vec<(String, Config)> {
        let Self::Cluster { servers, .. } = self else { return Vec::new() };
        let config = |address: &String| {
            let (host, port) = address.rsplit_once(':')?;
            Some(server_at(servers, host, port.parse().ok()?))
        };
        let masters = super::cluster::masters(nodes);
        masters.into_iter().filter_map(|address| config(&address).map(|config| (address, config))).collect()
    }

    pub(super) fn layout(&self) -> Layout {
        match self {
            Self::Single(_) | Self::Sentinel { .. } => Layout::Whole,
            Self::Cluster { .. } => Layout::Cluster,
        }
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
            Self::Cluster { .. } => return Err(BackplaneError::NotRun("a cluster has several masters".to_owned())),
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

fn server_at(servers: &Config, host: &str, port: u16) -> Config {
    Config { server: ServerConfig::Centralized { server: Server::new(host, port) }, ..servers.clone() }
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
    let config = Config { server: ServerConfig::new_centralized(host, port), ..Config::default() };
    let answer = one_command(config, "SENTINEL", vec!["GET-MASTER-ADDR-BY-NAME", service]).await;
    let parts: Vec<String> = items_of(answer?).into_iter().filter_map(Value::into_string).collect();
    Some(match &parts[..] {
        [host, port] => port.parse().ok().map(|port| (host.clone(), port)),
        _ => None,
    })
}

/// One question on a connection of its own, which ends with the asking, also with one that is dropped half-way.
async fn one_command(config: Config, name: &'static str, words: Vec<&str>) -> Option<Value> {
    struct Connection(ConnectHandle);
    impl Drop for Connection {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    let client = Client::new(Config { fail_fast: true, ..config }, None, None, None);
    let _connection = Connection(client.connect());
    client.wait_for_connect().await.ok()?;
    let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
    client.custom::<Value, _>(command, words).await.ok()
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
    fn a_cluster_url_names_some_of_its_servers() {
        for url in ["redis-cluster://me:secret@a:1,b:2", "redis-cluster://me:secret@a:1,b:2/"] {
            let Ok(Place::Cluster { seeds, servers }) = Place::parse(url) else { panic!("no cluster") };
            assert_eq!(seeds, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
            assert_eq!((servers.username.as_deref(), servers.password.as_deref()), (Some("me"), Some("secret")));
        }
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
            "redis-cluster://",
            "redis-cluster://me:secret@a",
            "redis-cluster://a:1/3",
        ] {
            let error = Place::parse(url).err().unwrap();
            assert!(error.starts_with("expected redis://") && !error.contains("secret"), "{url}: {error}");
        }
    }
}
