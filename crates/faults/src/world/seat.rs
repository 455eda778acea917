//! A node's place: a name, a proxy in front that keeps its address, and whichever process serves there now.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use testkit::{Node, NodeOptions, Proxy, WaitFor};
use tokio::sync::{Mutex, MutexGuard};

use super::WorldOptions;

/// Short, so that a drained node is seen to end; the clients' `reconnect_ms` is at most 3.5 s.
const DRAIN: [&str; 4] = ["--drain-delay", "500ms", "--drain", "10s"];

/// One node of the fleet.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) name: String,
    pub(crate) front: Proxy,
    options: NodeOptions,
    node: Mutex<Node>,
}

impl Seat {
    /// # Errors
    /// The node does not start; the error has its log.
    pub(crate) async fn start(name: &str, options: &WorldOptions, redis: &str) -> Result<Self> {
        let options = node_options(name, &options.binary, redis, &options.args);
        let node = Node::start(options.clone()).await?;
        let front = Proxy::start(node.listen()).await?;
        Ok(Self { name: name.to_owned(), front, options, node: Mutex::new(node) })
    }

    /// The process that serves here now.
    pub(crate) async fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().await
    }

    /// Starts a new process in place of the present one, which is killed if it still runs.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) async fn renew(&self) -> Result<()> {
        self.renew_with(&[]).await
    }

    /// As [`Seat::renew`], with this environment.
    ///
    /// # Errors
    /// As [`Seat::renew`].
    pub(crate) async fn renew_with(&self, env: &[(&str, &str)]) -> Result<()> {
        let mut node = self.node.lock().await;
        node.kill();
        let fresh = Box::pin(self.another(env)).await?;
        self.front.retarget(fresh.listen());
        *node = fresh;
        Ok(())
    }

    /// Starts one more process with the same name and settings, beside the one that serves here.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) async fn another(&self, env: &[(&str, &str)]) -> Result<Node> {
        let mut options = self.options.clone();
        options.env.extend(env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())));
        Node::start(options).await
    }

    /// One metric of the node, or `None` when it does not answer within a moment.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let node = self.node.lock().await;
        tokio::time::timeout(Duration::from_secs(2), node.metric(name)).await.ok()?.ok()
    }
}

fn node_options(name: &str, binary: &std::path::Path, redis: &str, args: &[String]) -> NodeOptions {
    // Some faults take a Redis away for a while: a node is started when it runs, and becomes ready by itself.
    let mut all = vec!["--node-name".to_owned(), name.to_owned(), "--rate-limit".to_owned(), "off".to_owned()];
    all.extend(["--workers".to_owned(), "1".to_owned()]);
    all.extend(DRAIN.map(str::to_owned));
    all.extend_from_slice(args);
    NodeOptions {
        binary: PathBuf::from(binary),
        redis: Some(redis.to_owned()),
        args: all,
        env: Vec::new(),
        wait_for: WaitFor::Ready,
    }
}
