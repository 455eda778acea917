//! One node for many tests, and somebody on it who must notice nothing.
//!
//! Goal: whatever a test does to its own connections, the node and everybody else go on. Method: all tests of this
//! binary share one `switchboard serve` on the embedded backplane; a bystander sends and receives from the first test
//! to the last. Whenever no test is running, the node has to be as it was: alive, no panic in its log, nothing missing
//! at the bystander, the gauge of connections back, its memory within a bound.

use std::cell::Cell;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use testkit::{Client, Node, NodeOptions, Raw, eventually};
use tokio::runtime::Runtime;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

/// What a test waits for comes in milliseconds; this is for a machine that is busy with everything else.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// How much the node may grow by all tests together: what an allocator keeps, not what an attacker asks for.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// How much it may grow while one flood is running.
const FLOOD_GROWTH_BYTES_MAX: u64 = 16 << 20;

/// Connections of the bystander.
const BYSTANDER_CONNECTIONS: f64 = 2.0;

/// Between two messages of the bystander: half of the rate that a connection is allowed.
const BYSTANDER_PAUSE: Duration = Duration::from_millis(20);

/// The longest that a message of the bystander may take. On a quiet machine it is a millisecond; floods share two
/// cores with the node here, so this tells a stall from a wait.
const BYSTANDER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Messages of the bystander before the memory of the idle node is taken as its base.
const WARM_UP_MESSAGES: u64 = 25;

/// The node that the tests share.
pub(crate) struct Gateway {
    node: Node,
    runtime: Runtime,
    bystander: Bystander,
    base_bytes: u64,
    users: AtomicU64,
    visits: Mutex<Visits>,
    /// Held by the flood whose memory is being watched.
    flood: AsyncMutex<()>,
}

#[derive(Default)]
struct Visits {
    open: usize,
    /// Tests since the node was last found unharmed.
    names: Vec<String>,
}

/// A test, or a part of one that runs beside the others.
pub(crate) type Case = fn(&'static Gateway) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Runs one test against the shared node. Its failure comes with the node's log of that time.
///
/// # Panics
/// The test fails, or it was the last one running and the node is not as it was.
pub(crate) fn check<F>(test: impl FnOnce(&'static Gateway) -> F)
where
    F: Future<Output = Result<()>>,
{
    let gateway = shared();
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let visit = gateway.enter(name);
    let result = gateway.runtime.block_on(test(gateway));
    if let Err(error) = result {
        panic!("{error:?}");
    }
    visit.leave();
}

/// Cases that take seconds run beside each other and beside everything else, whatever the number of test threads: all
/// of them start when the first one is asked for.
pub(crate) struct Beside(Mutex<Vec<(&'static str, Running)>>);

type Running = JoinHandle<Result<()>>;

impl Beside {
    pub(crate) fn start(gateway: &'static Gateway, cases: &[(&'static str, Case)]) -> Self {
        let start = |&(name, case): &(&'static str, Case)| {
            let visit = gateway.enter(name.to_owned());
            let running = gateway.runtime.spawn(async move {
                let result = case(gateway).await;
                visit.leave_quietly();
                result
            });
            (name, running)
        };
        Self(Mutex::new(cases.iter().map(start).collect()))
    }

    /// Waits for the end of one case.
    ///
    /// # Errors
    /// As the case; asked twice; no such case.
    pub(crate) async fn end_of(&self, name: &str) -> Result<()> {
        let running = {
            let mut cases = lock(&self.0);
            let place = cases.iter().position(|(other, _)| *other == name);
            cases.swap_remove(place.with_context(|| format!("no case {name:?} is running"))?).1
        };
        match running.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(error.into()),
            },
        }
    }
}

fn shared() -> &'static Gateway {
    static GATEWAY: OnceLock<Result<Gateway, String>> = OnceLock::new();
    match GATEWAY.get_or_init(|| Gateway::start().map_err(|error| format!("{error:?}"))) {
        Ok(gateway) => gateway,
        Err(error) => panic!("the node that the tests share did not start: {error}"),
    }
}

/// The binary under test; `SWITCHBOARD_BIN` names another one, for example a release build.
fn binary() -> PathBuf {
    std::env::var_os("SWITCHBOARD_BIN").map_or_else(|| env!("CARGO_BIN_EXE_switchboard").into(), PathBuf::from)
}

impl Gateway {
    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (node, bystander) = runtime.block_on(async {
            let options = NodeOptions {
                binary: binary(),
                args: ["--auth", "none", "--node-name", "shared"].map(str::to_owned).to_vec(),
                ..NodeOptions::default()
            };
            let node = Node::start(options).await?;
            let bystander = Bystander::start(&node).await.context("the bystander")?;
            eventually("the bystander has settled", SOON, || async {
                (bystander.received() >= WARM_UP_MESSAGES).then_some(())
            })
            .await?;
            anyhow::Ok((node, bystander))
        })?;
        Ok(Self {
            base_bytes: node.rss_bytes()?,
            node,
            runtime,
            bystander,
            users: AtomicU64::new(0),
            visits: Mutex::default(),
            flood: AsyncMutex::new(()),
        })
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// A user that no other test has.
    pub(crate) fn user(&self) -> String {
        format!("user-{}", self.users.fetch_add(1, Ordering::Relaxed))
    }

    /// A client that has its `welcome`; `extra` goes into its `hello`.
    pub(crate) async fn client(&self, user: &str, format: &str, extra: &[(&str, Value)]) -> Result<Client> {
        let (client, _) = self.welcomed(user, format, extra).await?;
        Ok(client)
    }

    /// As [`Gateway::client`], with the `welcome`.
    pub(crate) async fn welcomed(&self, user: &str, format: &str, extra: &[(&str, Value)]) -> Result<(Client, Value)> {
        let mut client = Client::connect(&self.node.ws_url(&format!("user={user}&format={format}")), None).await?;
        client.send(&hello(extra)).await?;
        let welcome = client.expect_type("welcome").await?;
        Ok((client, welcome))
    }

    /// A raw connection that has its `welcome` already.
    pub(crate) async fn raw(&self, format: &str) -> Result<Raw> {
        let target = format!("/v1/connect?user={}&auto=1&format={format}", self.user());
        let mut raw = Raw::open(self.node.listen(), &target, &[]).await?;
        raw.wait_for(SOON, |frame| frame["type"] == "welcome").await.context("no welcome")?;
        Ok(raw)
    }

    /// Runs a flood while nobody else runs one, and watches the node's memory.
    pub(crate) async fn flood<T>(&self, flood: impl Future<Output = Result<T>>) -> Result<T> {
        let _alone = self.flood.lock().await;
        let before = self.node.rss_bytes()?;
        let mut peak = before;
        let mut tick = interval(Duration::from_millis(10));
        tokio::pin!(flood);
        let result = loop {
            tokio::select! {
                result = &mut flood => break result?,
                _ = tick.tick() => peak = peak.max(self.node.rss_bytes()?),
            }
        };
        let grown = peak.max(self.node.rss_bytes()?) - before;
        ensure!(grown < FLOOD_GROWTH_BYTES_MAX, "the node grew by {grown} bytes during the flood");
        Ok(result)
    }

    fn enter(&'static self, name: String) -> Visit {
        let mut visits = lock(&self.visits);
        visits.open += 1;
        visits.names.push(name);
        Visit { gateway: self, mark: self.node.log().mark(), is_over: false }
    }

    /// What has to be true whenever nobody hurts the node.
    async fn unharmed(&self) -> Result<()> {
        ensure!(self.node.is_running(), "the node has ended: {:?}", self.node.process().exit_status());
        let panics = self.node.log().panics();
        ensure!(panics.is_empty(), "the node has panicked: {panics:?}");
        self.bystander.undisturbed().await?;
        let last = Cell::new(f64::NAN);
        let is_back = eventually("switchboard_connections is back", SOON, || async {
            last.set(self.node.metric("switchboard_connections").await.unwrap_or(f64::NAN));
            (last.get() == BYSTANDER_CONNECTIONS).then_some(())
        });
        is_back.await.with_context(|| format!("it is {}, expected {BYSTANDER_CONNECTIONS}", last.get()))?;
        let grown = self.node.rss_bytes()?.saturating_sub(self.base_bytes);
        ensure!(grown < GROWTH_BYTES_MAX, "the node has grown by {grown} bytes since its start");
        Ok(())
    }
}

/// The presence of one test. The last one to leave looks whether the node is unharmed.
struct Visit {
    gateway: &'static Gateway,
    mark: usize,
    is_over: bool,
}

impl Visit {
    fn leave(mut self) {
        self.is_over = true;
        let mut visits = lock(&self.gateway.visits);
        visits.open -= 1;
        if visits.open > 0 {
            return;
        }
        // The lock is held, so that no test begins meanwhile.
        let names = std::mem::take(&mut visits.names);
        if let Err(error) = self.gateway.runtime.block_on(self.gateway.unharmed()) {
            drop(visits);
            eprintln!("{}", self.gateway.node.process().story());
            panic!("not as it was before {}: {error:?}", names.join(", "));
        }
    }

    /// For a case whose test looks at the node later.
    fn leave_quietly(mut self) {
        self.is_over = true;
        lock(&self.gateway.visits).open -= 1;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if !self.is_over {
            lock(&self.gateway.visits).open -= 1;
            eprintln!("--- what the node logged meanwhile ---\n{}", self.gateway.node.log().since(self.mark));
        }
    }
}

/// Two well-behaved users: one sends numbers, the other receives them, in the other encoding.
struct Bystander {
    shared: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    sent: AtomicU64,
    received: AtomicU64,
    slowest_us: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Bystander {
    async fn start(node: &Node) -> Result<Self> {
        let mut receiver = Client::connect(&node.ws_url("user=bystander-b"), Some("switchboard.v1.msgpack")).await?;
        receiver.send(&hello(&[])).await?;
        receiver.expect_type("welcome").await?;
        let mut sender = Client::connect(&node.ws_url("user=bystander-a"), Some("switchboard.v1.json")).await?;
        sender.send(&hello(&[])).await?;
        sender.expect_type("welcome").await?;
        let shared = Arc::new(Seen::default());
        tokio::spawn(noting(Arc::clone(&shared), "sending", send_numbers(sender, Arc::clone(&shared))));
        tokio::spawn(noting(Arc::clone(&shared), "receiving", receive_numbers(receiver, Arc::clone(&shared))));
        Ok(Self { shared })
    }

    fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// Everything sent until now has arrived, once and in order, and nothing took long.
    async fn undisturbed(&self) -> Result<()> {
        let sent = self.shared.sent.load(Ordering::SeqCst);
        let arrived = eventually("every message of the bystander has arrived", SOON, || async {
            let is_over = self.received() > sent || lock(&self.shared.trouble).is_some();
            is_over.then_some(())
        });
        arrived.await.with_context(|| format!("{sent} sent, {} received", self.received()))?;
        if let Some(trouble) = &*lock(&self.shared.trouble) {
            bail!("the bystander was disturbed: {trouble}");
        }
        let slowest = Duration::from_micros(self.shared.slowest_us.load(Ordering::SeqCst));
        ensure!(slowest < BYSTANDER_WAIT_MAX, "a message of the bystander took {slowest:?}");
        Ok(())
    }
}

async fn noting(shared: Arc<Seen>, what: &str, work: impl Future<Output = Result<()>>) {
    if let Err(error) = work.await {
        lock(&shared.trouble).get_or_insert_with(|| format!("{what}: {error:?}"));
    }
}

async fn send_numbers(mut sender: Client, shared: Arc<Seen>) -> Result<()> {
    let mut tick = interval(BYSTANDER_PAUSE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for n in 0u64.. {
        tick.tick().await;
        let begun = Instant::now();
        let answer = sender
            .ask(&json!({"type": "send", "id": n.to_string(), "to": "user:bystander-b", "body": {"n": n}}))
            .await?;
        ensure!(answer["type"] == "sent", "instead of sent: {answer}");
        shared.sent.store(n, Ordering::SeqCst);
        let until = eventually("the message arrives", SOON, || async {
            (shared.received.load(Ordering::SeqCst) > n).then_some(())
        });
        until.await?;
        shared.slowest_us.fetch_max(begun.elapsed().as_micros() as u64, Ordering::SeqCst);
    }
    Ok(())
}

async fn receive_numbers(mut receiver: Client, shared: Arc<Seen>) -> Result<()> {
    let mut last_seq = None;
    for n in 0u64.. {
        // Without an end of its own: the sender says how long a message may take.
        let message = receiver.next_json(Duration::from_secs(3_600)).await?;
        ensure!(message["type"] == "message" && message["body"]["n"] == n, "instead of message {n}: {message}");
        let seq = message["seq"].as_u64().context("a message without seq")?;
        ensure!(last_seq.is_none_or(|last: u64| seq == last + 1), "message {n} follows {last_seq:?}: {message}");
        last_seq = Some(seq);
        shared.received.store(n + 1, Ordering::SeqCst);
    }
    Ok(())
}

/// A `hello` with more fields.
pub(crate) fn hello(extra: &[(&str, Value)]) -> Value {
    let mut frame = json!({"type": "hello"});
    for (name, value) in extra {
        frame[*name] = value.clone();
    }
    frame
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
