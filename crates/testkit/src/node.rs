//! One `switchboard serve` process on ports of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::http::{self, Response};
use crate::ports::free_port;
use crate::process::{Log, Process, Signal};
use crate::wait::eventually;

/// A debug build on two busy cores needs about a second; this is for the day when it needs ten.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Another process may take a port between the look and the bind.
const START_TRIES: usize = 4;

/// What a node is started with. `--listen` and `--internal` are given by [`Node::start`]; everything else is the
/// node's own default.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// The `switchboard` binary, `env!("CARGO_BIN_EXE_switchboard")` in its own tests.
    pub binary: PathBuf,
    /// What `--redis` gets; without it the node has the embedded backplane.
    pub redis: Option<String>,
    /// Arguments after the usual ones.
    pub args: Vec<String>,
    /// Environment beside that of the test; `SWITCHBOARD_…` of the test itself is not passed on.
    pub env: Vec<(String, String)>,
    pub wait_for: WaitFor,
}

/// What has to be true before a start is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitFor {
    /// `/readyz` says 200: it takes clients.
    #[default]
    Ready,
    /// `/healthz` says 200: it runs, maybe without its backplane.
    Healthy,
    /// Nothing: the test looks itself, or expects it to refuse.
    Nothing,
}

/// A running node. Killed when dropped; its log is printed when a test panics.
#[derive(Debug)]
pub struct Node {
    process: Process,
    listen: SocketAddr,
    internal: SocketAddr,
}

impl Node {
    /// Starts a process and waits for what `options.wait_for` says.
    ///
    /// # Errors
    /// It ended, or was not there in time; the error has its log.
    pub async fn start(options: NodeOptions) -> Result<Self> {
        let mut last = anyhow!("never tried");
        for _ in 0..START_TRIES {
            let node = Self::spawn(&options)?;
            let path = match options.wait_for {
                WaitFor::Ready => "/readyz",
                WaitFor::Healthy => "/healthz",
                WaitFor::Nothing => return Ok(node),
            };
            let hoped = format!("{} says 200 at {path}", node.process.name());
            let up = eventually(&hoped, START_WITHIN, || async {
                let running = node.is_running();
                let up = running && node.get(path).await.is_ok_and(|response| response.status() == 200);
                (up || !running).then_some(up)
            });
            match up.await {
                Ok(true) => return Ok(node),
                Ok(false) => {
                    node.process.settle().await;
                    let status = node.process.exit_status();
                    last = anyhow!("the node ended at its start: {status:?}\n{}", node.process.story());
                    // Others run here too: somebody else's port is worth another try, anything else is not.
                    if !node.log().contains("in use") {
                        return Err(last);
                    }
                }
                Err(error) => return Err(error.context(node.process.story())),
            }
        }
        Err(last)
    }

    fn spawn(options: &NodeOptions) -> Result<Self> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let internal = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut command = Command::new(&options.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SWITCHBOARD_") {
                command.env_remove(&name);
            }
        }
        command.env("RUST_BACKTRACE", "1").envs(options.env.iter().map(|(name, value)| (name, value)));
        command.args(["serve", "--listen", &listen.to_string(), "--internal", &internal.to_string()]);
        if let Some(url) = &options.redis {
            command.args(["--redis", url]);
        }
        command.args(&options.args);
        let process = Process::spawn(&format!("node-{}", listen.port()), &mut command)
            .with_context(|| format!("starting {}", options.binary.display()))?;
        Ok(Self { process, listen, internal })
    }

    /// Where clients connect.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where operators and back ends connect.
    pub fn internal(&self) -> SocketAddr {
        self.internal
    }

    /// The URL of a WebSocket; `query` as it stands in the request: `user=alice&auto=1`.
    pub fn ws_url(&self, query: &str) -> String {
        format!("ws://{}/v1/connect?{query}", self.listen)
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn log(&self) -> &Log {
        self.process.log()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Resident memory.
    ///
    /// # Errors
    /// It has ended.
    pub fn rss_bytes(&self) -> Result<u64> {
        self.process.rss_bytes()
    }

    /// SIGKILL: no goodbye, as in a crash or a lost machine.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// SIGSTOP and SIGCONT: a machine that is paused and goes on.
    ///
    /// # Errors
    /// It is not running.
    pub fn stop(&self) -> Result<()> {
        self.process.signal(Signal::Stop)
    }

    /// See [`Node::stop`].
    ///
    /// # Errors
    /// It is not running.
    pub fn cont(&self) -> Result<()> {
        self.process.signal(Signal::Continue)
    }

    /// SIGTERM: begins a drain. A second one ends it at once.
    ///
    /// # Errors
    /// It is not running.
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::Terminate)
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// It still runs after `within`.
    pub async fn wait(&self, within: Duration) -> Result<ExitStatus> {
        self.process.wait(within).await
    }

    /// Asks the listener for clients.
    ///
    /// # Errors
    /// No answer.
    pub async fn get(&self, target: &str) -> Result<Response> {
        http::get(self.listen, target).await
    }

    /// Asks the internal listener.
    ///
    /// # Errors
    /// No answer.
    pub async fn internal_get(&self, target: &str) -> Result<Response> {
        http::get(self.internal, target).await
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// No answer, or another status than 200.
    pub async fn metrics(&self) -> Result<String> {
        let response = self.internal_get("/metrics").await?;
        if response.status() != 200 {
            bail!("/metrics answers {}", response.status());
        }
        Ok(response.text())
    }

    /// One metric, summed over its labels; 0 while it is not there.
    ///
    /// # Errors
    /// As [`Node::metrics`].
    pub async fn metric(&self, name: &str) -> Result<f64> {
        Ok(sum_of(&self.metrics().await?, name))
    }
}

/// The sum of all samples of `name` in the Prometheus text format.
fn sum_of(metrics: &str, name: &str) -> f64 {
    let sample = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split_whitespace().next()?.parse::<f64>().ok()
    };
    metrics.lines().filter_map(sample).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stand-in for the binary: what it is started with goes to its log, and what it says is `script`.
    fn options(script: &str) -> (NodeOptions, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let binary = directory.path().join("stand-in");
        std::fs::write(&binary, format!("#!/bin/sh\necho \"started: $*\"\n{script}\n")).unwrap();
        std::fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let options = NodeOptions {
            binary,
            redis: Some("redis://127.0.0.1:1".to_owned()),
            args: vec!["--auth".to_owned(), "none".to_owned()],
            env: vec![("SWITCHBOARD_LOG".to_owned(), "debug".to_owned())],
            wait_for: WaitFor::Ready,
        };
        (options, directory)
    }

    #[tokio::test]
    async fn a_node_that_ends_at_its_start_is_an_error_with_its_log() {
        let (options, _directory) = options("echo \"log: $SWITCHBOARD_LOG\"; echo 'no such flag' >&2; exit 2");
        let error = Node::start(options).await.unwrap_err().to_string();
        assert!(error.contains("no such flag") && error.contains("log: debug"), "{error}");
        assert!(error.contains("started: serve --listen 127.0.0.1:"), "{error}");
        assert!(error.contains("--redis redis://127.0.0.1:1 --auth none"), "{error}");
    }

    #[tokio::test]
    async fn a_taken_port_is_worth_another_try() {
        let (options, directory) = options("echo x >> \"$0.tries\"; echo 'Address already in use' >&2; exit 1");
        assert!(Node::start(options).await.is_err());
        let tries = std::fs::read_to_string(directory.path().join("stand-in.tries")).unwrap();
        assert_eq!(tries.lines().count(), START_TRIES);
    }

    #[tokio::test]
    async fn a_terminated_node_leaves_its_exit_status() {
        let (mut options, _directory) = options("trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done");
        options.wait_for = WaitFor::Nothing;
        let node = Node::start(options).await.unwrap();
        eventually("it is up", Duration::from_secs(10), || async { node.log().contains("up").then_some(()) })
            .await
            .unwrap();
        assert!(node.is_running() && node.rss_bytes().unwrap() > 0);
        node.terminate().unwrap();
        assert_eq!(node.wait(Duration::from_secs(10)).await.unwrap().code(), Some(0));
    }

    #[test]
    fn a_metric_is_the_sum_over_its_labels() {
        let text = "# TYPE a counter\na 1\na{code=\"x }\"} 2\na_total 8\nab 16\na{c=\"d\"} 4 1700000000\n";
        assert_eq!(sum_of(text, "a"), 7.0);
        assert_eq!(sum_of(text, "a_total"), 8.0);
        assert_eq!(sum_of(text, "nothing"), 0.0);
    }
}
