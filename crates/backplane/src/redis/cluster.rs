//! Who has which slots of a Redis Cluster: asked of every server every two seconds, and at once after a doubt.
//!
//! All known servers are asked, and the claim with the highest config epoch counts: a master that the majority has given
//! up goes on claiming its slots, and whoever asks only it believes it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::types::ConnectHandle;
use fred::types::config::{Config, Server, ServerConfig};
use parking_lot::Mutex;
use routing::{SlotGroup, Topology};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::askings::Askings;
use super::scripts::bytes_of;
use super::{RedisSettings, connect};
use crate::api::Source;
use crate::error::BackplaneError;

const ASK_EVERY: Duration = Duration::from_secs(2);
/// However many doubts there are.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// A server that does not answer within this has nothing to say.
const ASK_WITHIN: Duration = Duration::from_millis(1_000);
/// How long the others are waited for once most have answered: a frozen master must not hold up the news of its successor.
const STRAGGLERS: Duration = Duration::from_millis(250);

/// Who has what: for each slot group, and for the fleet's own keys, the address of a master.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    owners: Vec<Option<Arc<str>>>,
    home: Option<Arc<str>>,
}

impl Table {
    pub(super) fn groups_of(&self, address: &str) -> Vec<SlotGroup> {
        let is_own = |owner: &Option<Arc<str>>| owner.as_deref() == Some(address);
        (0u16..).zip(&self.owners).filter(|(_, owner)| is_own(owner)).map(|(group, _)| SlotGroup(group)).collect()
    }

    pub(super) fn is_home(&self, address: &str) -> bool {
        self.home.as_deref() == Some(address)
    }

    fn sources(&self) -> Vec<Source> {
        let masters: BTreeSet<&str> = self.owners.iter().chain([&self.home]).flatten().map(|a| &**a).collect();
        masters.into_iter().map(|address| Source(address.to_owned())).collect()
    }

    /// The claims of all servers that answered, each with its epoch. Whoever gets a slot has a higher epoch than whoever
    /// had it, so that what is said of the past, by a server that has not heard, counts less by itself.
    fn of(claims: &[Claim], topology: &Topology) -> Self {
        let owner = |slot: u16| {
            let claimants = claims.iter().filter(|c| c.slots.iter().any(|&(from, to)| (from..=to).contains(&slot)));
            claimants.max_by_key(|c| c.epoch).map(|c| Arc::from(&*c.address))
        };
        let owners = topology.groups().map(|group| owner(topology.slot(group))).collect();
        Self { owners, home: owner(topology.fleet_slot()) }
    }
}

/// A master and its slots, as one server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    address: String,
    epoch: u64,
    slots: Vec<(u16, u16)>,
}

/// Reads `CLUSTER NODES`: the masters with their slots, and the addresses of all servers. `asked` stands for the server that
/// answers, where it does not know its own address yet.
fn read_nodes(text: &str, asked: &str) -> (Vec<Claim>, Vec<String>) {
    let (mut claims, mut addresses) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, place, flags, _, _, _, epoch, _, slots @ ..] = &fields[..] else { continue };
        let address = place.split(['@', ',']).next().unwrap_or_default();
        let flags: Vec<&str> = flags.split(',').collect();
        // An address of IPv6 may begin with a colon.
        let address = match address.rsplit_once(':') {
            Some((host, _)) if !host.is_empty() => address,
            _ if flags.contains(&"myself") => asked,
            _ => continue,
        };
        if flags.contains(&"noaddr") || address.is_empty() {
            continue;
        }
        addresses.push(address.to_owned());
        if !flags.contains(&"master") || flags.contains(&"fail") || slots.is_empty() {
            continue;
        }
        // `[93-<-id]` is a slot that is on its way; it still belongs to whom another entry says.
        let range = |text: &&str| {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            Some((from.parse().ok()?, to.parse().ok()?))
        };
        let slots = slots.iter().filter_map(range).collect();
        claims.push(Claim { address: address.to_owned(), epoch: epoch.parse().unwrap_or(0), slots });
    }
    (claims, addresses)
}

/// The addresses of the masters that have slots, sorted.
pub(super) fn masters(nodes: &str) -> BTreeSet<String> {
    read_nodes(nodes, "").0.into_iter().map(|claim| claim.address).collect()
}

/// A connection for single questions; it ends when nobody keeps it and nobody asks it any more.
pub(super) struct Asked {
    pub(super) client: Client,
    task: ConnectHandle,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The map of one cluster, kept by a task as long as somebody holds it.
pub(super) struct Map {
    settings: Arc<RedisSettings>,
    servers: Config,
    seeds: Vec<String>,
    table: watch::Sender<Arc<Table>>,
    sources: watch::Sender<Vec<Source>>,
    doubt: Notify,
    clients: Mutex<HashMap<String, Arc<Asked>>>,
    /// Why nothing is known; empty where something is.
    trouble: Mutex<String>,
    pub(super) askings: Askings,
}

impl Map {
    /// Starts to ask.
    pub(super) fn start(settings: Arc<RedisSettings>, seeds: &[(String, u16)], servers: Config) -> Arc<Self> {
        let map = Arc::new(Self {
            settings,
            servers,
            seeds: seeds.iter().map(|(host, port)| format!("{host}:{port}")).collect(),
            table: watch::Sender::default(),
            sources: watch::Sender::default(),
            doubt: Notify::new(),
            clients: Mutex::default(),
            trouble: Mutex::default(),
            askings: Askings::default(),
        });
        tokio::spawn(keep(Arc::downgrade(&map)));
        map
    }

    pub(super) fn table(&self) -> watch::Receiver<Arc<Table>> {
        self.table.subscribe()
    }

    pub(super) fn sources(&self) -> watch::Receiver<Vec<Source>> {
        self.sources.subscribe()
    }

    /// Why nobody has any slots; empty where somebody has.
    pub(super) fn trouble(&self) -> String {
        self.trouble.lock().clone()
    }

    /// Somebody was sent elsewhere: asked again now.
    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// The configuration of one server.
    ///
    /// # Errors
    /// Its address is none.
    pub(super) fn server(&self, address: &str) -> Result<Config, BackplaneError> {
        let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        let (host, port) = parts.ok_or_else(|| BackplaneError::NotRun(format!("{address:?} is no host:port")))?;
        let server = Server::new(host, port);
        Ok(Config { server: ServerConfig::Centralized { server }, ..self.servers.clone() })
    }

    /// A client for single questions to one server, kept for the next one.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(super) async fn client(&self, address: &str) -> Result<Arc<Asked>, BackplaneError> {
        if let Some(held) = self.clients.lock().get(address).filter(|held| !held.task.is_finished()) {
            return Ok(held.clone());
        }
        let connected = timeout(ASK_WITHIN, connect::connect(&self.settings, self.server(address)?, 32)).await;
        let late = |_| BackplaneError::NotRun("no connection in time".to_owned());
        let (client, task) = connected.map_err(late)??;
        let asked = Arc::new(Asked { client, task });
        self.clients.lock().insert(address.to_owned(), asked.clone());
        Ok(asked)
    }

    async fn ask(&self, address: &str) -> Result<(Vec<Claim>, Vec<String>), BackplaneError> {
        let asked = self.client(address).await?;
        let answered = timeout(ASK_WITHIN, connect::ask(&asked.client, "CLUSTER", vec!["NODES"])).await;
        let late = |_| BackplaneError::NotRun("no answer in time".to_owned());
        match answered.map_err(late).flatten() {
            Ok(answer) => Ok(read_nodes(&String::from_utf8_lossy(&bytes_of(answer)), address)),
            Err(error) => {
                self.clients.lock().remove(address);
                Err(error)
            }
        }
    }

    /// Asks all servers that are known; answers those that there are now.
    async fn ask_all(self: &Arc<Self>, known: &BTreeSet<String>) -> BTreeSet<String> {
        let mut asking = JoinSet::new();
        for address in known.iter().chain(&self.seeds).collect::<BTreeSet<_>>() {
            let (map, address) = (self.clone(), address.clone());
            asking.spawn(async move { map.ask(&address).await.map_err(|error| format!("{address}: {error}")) });
        }
        let (asked, mut answered, mut end) = (asking.len(), 0, Instant::now() + 2 * ASK_WITHIN);
        let (mut claims, mut addresses, mut trouble) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        while let Ok(Some(answer)) = timeout_at(end, asking.join_next()).await {
            match answer {
                Ok(Ok((said, servers))) => {
                    claims.extend(said);
                    addresses.extend(servers);
                    answered += 1;
                    if 2 * answered > asked {
                        end = end.min(Instant::now() + STRAGGLERS);
                    }
                }
                Ok(Err(why)) => drop(trouble.insert(why)),
                Err(_) => {}
            }
        }
        // Who is late may still connect, for the next time.
        asking.detach_all();
        let table = Table::of(&claims, &self.settings.topology);
        let sources = table.sources();
        self.report(&sources, trouble);
        if addresses.is_empty() {
            return known.clone();
        }
        self.table.send_if_modified(|held| (**held != table).then(|| *held = Arc::new(table)).is_some());
        self.sources.send_if_modified(|held| (*held != sources).then(|| *held = sources).is_some());
        self.clients.lock().retain(|address, _| addresses.contains(address) || self.seeds.contains(address));
        addresses
    }

    /// Without any master there is nothing to open, and nothing else would say why.
    fn report(&self, sources: &[Source], trouble: BTreeSet<String>) {
        let why = match (sources.is_empty(), trouble.is_empty()) {
            (false, _) => String::new(),
            (true, false) => trouble.into_iter().collect::<Vec<_>>().join("; "),
            (true, true) => "no server says that a master has slots".to_owned(),
        };
        let mut held = self.trouble.lock();
        if *held != why {
            if !why.is_empty() {
                tracing::warn!(why, "the cluster cannot be used");
            }
            *held = why;
        }
    }
}

async fn keep(map: std::sync::Weak<Map>) {
    let mut known = BTreeSet::new();
    loop {
        let Some(held) = map.upgrade() else { return };
        known = held.ask_all(&known).await;
        // Before the first answer nobody can do anything.
        let wait = if known.is_empty() { ASK_PAUSE * 5 } else { ASK_EVERY };
        sleep(ASK_PAUSE).await;
        let doubted = timeout(wait, held.doubt.notified());
        let _ = doubted.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::{Layout, Settings};

    const NODES: &str = "\
        07c37dfeb235213a872192d90877d0cd55635b91 127.0.0.1:30004@31004 slave e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca 0 1426238317239 4 connected\n\
        67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1 127.0.0.1:30002@31002,host2 master - 0 1426238316232 2 connected 5461-10922 [93-<-292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f]\n\
        292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f 127.0.0.1:30003@31003 master,fail - 0 1426238318243 3 connected 10923-16383\n\
        e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca :0@0 myself,master - 0 0 1 connected 0-5459 5460\n\
        aa d ee\n";

    const IPV6: &str = "\
        07c37dfeb235213a872192d90877d0cd55635b91 ::1:30004@31004 master - 0 1426238317239 4 connected 0-99\n\
        67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1 :30002@31002 master - 0 1426238316232 2 connected 100-199\n\
        e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca fd00::1:30001@31001 myself,master - 0 0 1 connected 200-299\n";

    #[test]
    fn masters_and_their_slots_are_read_and_the_failed_are_not_believed() {
        let (claims, addresses) = read_nodes(NODES, "127.0.0.1:30001");
        let claim = |address: &str, epoch, slots: &[(u16, u16)]| Claim {
            address: address.to_owned(),
            epoch,
            slots: slots.to_vec(),
        };
        assert_eq!(
            claims,
            [claim("127.0.0.1:30002", 2, &[(5461, 10922)]), claim("127.0.0.1:30001", 1, &[(0, 5459), (5460, 5460)])]
        );
        assert_eq!(addresses.len(), 4);
    }

    /// `::1` was taken for no address, and its slots for those of the server that was asked.
    #[test]
    fn an_address_that_begins_with_a_colon_is_one_and_only_the_asked_server_may_have_none() {
        let (claims, addresses) = read_nodes(IPV6, "fd00::1:30001");
        assert_eq!(addresses, ["::1:30004", "fd00::1:30001"]);
        let claimed = claims.iter().map(|claim| (claim.address.as_str(), claim.slots[0].0)).collect::<Vec<_>>();
        assert_eq!(claimed, [("::1:30004", 0), ("fd00::1:30001", 200)]);
    }

    /// An old master that lost its majority claims its slots until it hears of the new one.
    #[test]
    fn of_two_that_claim_a_slot_the_one_with_the_higher_epoch_has_it() {
        let topology = Topology::new(Settings { layout: Layout::Cluster, ..Settings::default() }).unwrap();
        let claim = |address: &str, epoch| Claim { address: address.to_owned(), epoch, slots: vec![(0, 16_383)] };
        let table = Table::of(&[claim("new:1", 9), claim("old:1", 3)], &topology);
        assert_eq!((table.groups_of("new:1").len(), table.groups_of("old:1").len()), (64, 0));
        assert!(table.is_home("new:1"));
        assert_eq!(table.sources(), [Source("new:1".to_owned())]);
        assert_eq!(Table::of(&[], &topology).sources(), []);
    }

    /// A master that has the highest epoch already gets a slot without a new one. A server that was cut off before named it
    /// with fewer slots, and that was believed for as long as it was asked: the slot had no master.
    #[test]
    fn who_has_not_heard_of_a_slots_way_is_not_believed() {
        let topology = Topology::new(Settings { layout: Layout::Cluster, ..Settings::default() }).unwrap();
        let claim =
            |address: &str, epoch, from, to| Claim { address: address.to_owned(), epoch, slots: vec![(from, to)] };
        let present = [claim("a:1", 1, 0, 4_999), claim("b:1", 9, 5_000, 16_383)];
        let past = [claim("a:1", 1, 0, 7_999), claim("b:1", 9, 8_000, 16_383)];
        for said in [[present.clone(), past.clone()].concat(), [past.clone(), present.clone()].concat()] {
            assert_eq!(Table::of(&said, &topology), Table::of(&present, &topology));
        }
    }
}
