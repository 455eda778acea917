//! Configuration: what was written ([`RawConfig`]) becomes what it means ([`Config`]), or stops the start.
//!
//! A flag wins over the environment, that over the file, that over the default. Every fault is told at once, with its key,
//! where it was written, what was expected, and what came, except for secrets. Nothing below takes the whole [`Config`]
//! where a part will do.

mod check;
#[cfg(test)]
pub(crate) mod docs;
mod file;
mod limits;
mod origins;
mod print;
mod raw;
pub(crate) mod rights;
mod secret;
mod units;

use std::fmt;
use std::net::SocketAddr;

use connection::{Rate, Rights, Settings};

pub use check::Facts;
pub(crate) use origins::is_this_machine;
pub use origins::{Origin, Origins};
pub use raw::{RawConfig, SETTINGS, Setting, Show, Source, Written};
pub use secret::Secret;

/// What one node does, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub listen: SocketAddr,
    pub internal: SocketAddr,
    /// A `redis://` URL; `None`: the embedded backplane.
    pub redis: Option<Secret>,
    pub auth: Auth,
    /// `None`: the server API asks for nothing, which is possible on loopback only.
    pub api_key: Option<Secret>,
    /// An ID that leaves room for the incarnation.
    pub node_name: String,
    pub origins: Origins,
    pub partitions: u16,
    pub lanes: u16,
    pub workers: usize,
    pub redis_prefix: String,
    pub retention_ms: u64,
    pub inbox_max: u64,
    pub inbox_bytes: u64,
    pub embedded_bytes: u64,
    /// `None`: unlimited.
    pub rate: Option<Rate>,
    pub max_bytes: u64,
    pub drain_delay_ms: u64,
    pub drain_ms: u64,
    /// Refuse to start on a Redis that can lose messages.
    pub strict: bool,
    /// How long the location of a connection that ended stays.
    pub presence_delay_ms: u64,
    /// Of users whose tokens say nothing of their own.
    pub rights: Rights,
    /// A filter of `tracing`, not yet read.
    pub log: String,
    pub log_format: LogFormat,
    pub scheduler: Scheduler,
}

/// How clients say who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// They just say it. Loopback only.
    None,
    Jwt(Jwt),
}

/// What a token must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// Of HS256.
    pub secret: Secret,
    pub issuer: Option<String>,
    pub audience: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// One work-stealing runtime.
    Shared,
    /// One current-thread runtime a worker.
    Pinned,
}

impl Config {
    /// Puts the file named by `config` under what was written, and checks all of it and the names in the environment.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault that was found.
    pub fn load(written: RawConfig) -> Result<Self, ConfigError> {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let environment = file::check_environment(names);
        let raw = match &written.config {
            None => written,
            Some(path) => {
                let below = file::read(path)?;
                written.over(below)
            }
        };
        match (Self::check(&raw, &Facts::of_this_machine()), environment) {
            (Ok(config), Ok(())) => Ok(config),
            (Err(mut faults), Err(more)) => {
                faults.faults.extend(more.faults);
                Err(faults)
            }
            (Err(faults), _) | (_, Err(faults)) => Err(faults),
        }
    }

    /// What all nodes of the fleet agree on.
    pub fn routing(&self) -> routing::Settings {
        // The URL has been checked.
        let layout = self.redis.as_ref().and_then(|url| backplane::redis::layout_of(url.reveal()).ok());
        routing::Settings {
            prefix: self.redis_prefix.clone(),
            partitions: self.partitions,
            lanes: self.lanes,
            layout: layout.unwrap_or_default(),
        }
    }

    /// What connections are told.
    pub fn connection(&self, node: &str) -> Settings {
        Settings { node: node.to_owned(), max_bytes: self.max_bytes, rate: self.rate, ..Settings::default() }
    }
}

/// Why the node does not start: every fault of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    faults: Vec<Fault>,
}

/// One fault: the key, where it was written if it was, and the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    key: String,
    source: Option<Source>,
    text: String,
}

impl ConfigError {
    fn one(fault: Fault) -> Self {
        Self { faults: vec![fault] }
    }

    /// A fault of a setting that is understood elsewhere, for example the log filter.
    pub fn of(key: &str, text: impl Into<String>) -> Self {
        Self::one(Fault { key: key.to_owned(), source: None, text: text.into() })
    }

    /// True if a flag is to blame: the exit status tells a bad command line from a failed start.
    pub fn is_command_line(&self) -> bool {
        self.faults.iter().any(|fault| fault.source == Some(Source::Flag))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            let place = match fault.source {
                None => String::new(),
                Some(Source::Flag) => format!(" (--{})", fault.key),
                Some(Source::Environment) => {
                    format!(" (SWITCHBOARD_{})", fault.key.to_ascii_uppercase().replace('-', "_"))
                }
                Some(Source::File) => " (file)".to_owned(),
            };
            write!(f, "{gap}{}{place}: {}", fault.key, fault.text)?;
        }
        Ok(())
    }
}
