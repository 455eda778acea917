//! Starts what is measured: two nodes of the product, or two of the Node.js peer, on a Redis of their own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use testkit::node::{Node, NodeOptions, WaitFor};
use testkit::process::Process;
use testkit::redis::Redis;

pub(crate) struct Fleet {
    pub(crate) redis: Redis,
    pub(crate) urls: Vec<String>,
    pub(crate) pids: Vec<u32>,
    _nodes: Vec<Node>,
    _peers: Vec<Process>,
}

impl Fleet {
    /// `count` nodes of the product.
    pub(crate) async fn product(binary: &Path, count: usize, args: &[&str]) -> anyhow::Result<Self> {
        let redis = Redis::start()?;
        let mut nodes = Vec::new();
        for _ in 0..count {
            // The rate limit is for clients that nobody knows; here it would be what is measured.
            let mut all = vec!["--rate-limit".to_owned(), "off".to_owned(), "--log".to_owned(), "warn".to_owned()];
            all.extend(args.iter().map(|&a| a.to_owned()));
            let options = NodeOptions {
                binary: binary.to_owned(),
                redis: Some(redis.url()),
                args: all,
                wait_for: WaitFor::Ready,
                ..NodeOptions::default()
            };
            nodes.push(Node::start(options).await?);
        }
        let urls = nodes.iter().map(|n| format!("ws://{}", n.listen())).collect();
        let pids = nodes.iter().map(Node::pid).collect();
        Ok(Self { redis, urls, pids, _nodes: nodes, _peers: Vec::new() })
    }

    /// A replica of this fleet's Redis that has followed, and then stands still.
    pub(crate) async fn stopped_replica(&self) -> anyhow::Result<Redis> {
        let port = self.redis.port().to_string();
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port])?;
        let within = Duration::from_secs(10);
        testkit::eventually("the replica follows", within, async || {
            replica.cli(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
        })
        .await?;
        replica.stop()?;
        Ok(replica)
    }

    /// Two nodes of the Node.js peer.
    pub(crate) fn peers() -> anyhow::Result<Self> {
        Self::node_js("node", |name| vec!["--name".to_owned(), name.to_owned()])
    }

    /// Two processes of Socket.IO with its Redis adapter.
    pub(crate) fn socket_io() -> anyhow::Result<Self> {
        Self::node_js("socketio", |_| Vec::new())
    }

    /// Two processes of a peer below `benches/peers`.
    fn node_js(peer: &str, arguments: impl Fn(&str) -> Vec<String>) -> anyhow::Result<Self> {
        let folder = Path::new("benches/peers").join(peer);
        if !folder.join("node_modules").exists() {
            let installed =
                Command::new("npm").args(["ci", "--silent"]).current_dir(&folder).status().context("npm")?;
            ensure!(installed.success(), "npm ci failed in {}", folder.display());
        }
        let redis = Redis::start()?;
        let (mut peers, mut urls) = (Vec::new(), Vec::new());
        for name in ["a", "b"] {
            let port = testkit::free_port()?;
            let mut command = Command::new("node");
            command.arg(folder.join("server.js")).args(["--port", &port.to_string(), "--redis", &redis.url()]);
            command.args(arguments(name));
            let peer = Process::spawn(name, &mut command)?;
            let end = std::time::Duration::from_secs(10);
            let mut waited = Duration::ZERO;
            while !peer.log().contains("listening") {
                ensure!(waited < end && peer.is_running(), "the peer does not start: {}", peer.story());
                std::thread::sleep(Duration::from_millis(50));
                waited += Duration::from_millis(50);
            }
            urls.push(format!("ws://127.0.0.1:{port}"));
            peers.push(peer);
        }
        let pids = peers.iter().map(Process::pid).collect();
        Ok(Self { redis, urls, pids, _nodes: Vec::new(), _peers: peers })
    }

    /// A number that this fleet's Redis says of itself: the value behind `name` in a section of INFO.
    pub(crate) fn info(&self, section: &str, name: &str) -> f64 {
        let info = self.redis.cli(&["INFO", section]);
        info.lines().find_map(|l| l.strip_prefix(name)).and_then(|v| v.trim().parse().ok()).unwrap_or(0.0)
    }

    /// How often this fleet's Redis has run PUBLISH, also from scripts.
    pub(crate) fn publishes(&self) -> f64 {
        let info = self.redis.cli(&["INFO", "commandstats"]);
        let line = info.lines().find_map(|l| l.strip_prefix("cmdstat_publish:calls="));
        line.and_then(|l| l.split(',').next()).and_then(|calls| calls.parse().ok()).unwrap_or(0.0)
    }
}
