//! A real master, a replica and three sentinels, which a test may fail over.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::ports::free_port;
use crate::process::Process;
use crate::redis::{Redis, ask};
use crate::wait::PAUSE;

/// What the sentinels call the master.
pub const SERVICE: &str = "main";

/// How long a master has to be silent before a sentinel holds it for down.
pub const DOWN_AFTER: Duration = Duration::from_millis(1_000);

const START_WITHIN: Duration = Duration::from_secs(20);

/// One master, one replica, three sentinels. Killed when dropped.
#[derive(Debug)]
pub struct Sentinel {
    pub servers: Vec<Redis>,
    sentinels: Vec<(Process, u16)>,
    _directory: TempDir,
}

impl Sentinel {
    /// Starts all of them, and waits until they know each other.
    ///
    /// # Errors
    /// One of them does not start, or they do not find each other within 20 s.
    pub fn start() -> Result<Self> {
        // A replica is synchronised five seconds after it asks for it, unless told otherwise.
        let at_once = ["--repl-diskless-sync-delay", "0"];
        let master = Redis::start_with(&at_once)?;
        let replica =
            Redis::start_with(&[&at_once[..], &["--replicaof", "127.0.0.1", &master.port().to_string()]].concat())?;
        let directory = tempfile::Builder::new().prefix("switchboard-sentinel-").tempdir()?;
        let mut sentinels = Vec::new();
        for index in 0..3 {
            let port = free_port()?;
            let file = directory.path().join(format!("{index}.conf"));
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {SERVICE} 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds {SERVICE} {}\nsentinel failover-timeout {SERVICE} 3000\n",
                directory.path().display(),
                master.port(),
                DOWN_AFTER.as_millis(),
            );
            std::fs::write(&file, text)?;
            let mut command = Command::new("redis-server");
            command.arg(&file).arg("--sentinel");
            sentinels.push((Process::spawn(&format!("sentinel-{port}"), &mut command)?, port));
        }
        let this = Self { servers: vec![master, replica], sentinels, _directory: directory };
        this.wait_until("the sentinels know each other", |text| {
            text.contains("num-slaves\n1\n")
                && text.contains("num-other-sentinels\n2\n")
                && text.contains("flags\nmaster\n")
        })?;
        Ok(this)
    }

    /// `redis-sentinel://…/main`
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        format!("redis-sentinel://{}/{SERVICE}", hosts.join(","))
    }

    /// The server that the first sentinel holds for the master.
    ///
    /// # Errors
    /// It does not answer, or names a server that is none of ours.
    pub fn master(&self) -> Result<&Redis> {
        let answer = self.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE])?;
        let port: u16 = answer.lines().nth(1).context("no master")?.parse()?;
        self.servers.iter().find(|server| server.port() == port).context("a master that is none of ours")
    }

    /// Asks the first sentinel.
    ///
    /// # Errors
    /// It does not answer.
    pub fn ask(&self, command: &[&str]) -> Result<String> {
        ask(self.sentinels[0].1, command, Duration::from_secs(2))
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&str) -> bool) -> Result<()> {
        let end = Instant::now() + START_WITHIN;
        loop {
            let all = self
                .sentinels
                .iter()
                .map(|(_, port)| ask(*port, &["SENTINEL", "MASTER", SERVICE], Duration::from_secs(1)));
            if all.into_iter().all(|text| text.is_ok_and(|text| holds(&format!("{text}\n")))) {
                return Ok(());
            }
            if Instant::now() >= end {
                let stories: Vec<String> = self.sentinels.iter().map(|(process, _)| process.story()).collect();
                bail!("it does not come true that {what}\n{}", stories.join("\n"));
            }
            std::thread::sleep(PAUSE);
        }
    }
}
