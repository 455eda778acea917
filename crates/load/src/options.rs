//! What a run is told. Every field is public; the defaults are those of the command line.

use std::time::Duration;

/// What every scenario needs.
#[derive(Clone, Debug)]
pub struct Common {
    /// Connections that are being opened at one moment.
    pub opening_max: usize,
    /// For TCP, handshake and `welcome` of one connection.
    pub open_timeout: Duration,
    /// Say that arrays of frames are understood.
    pub batch: bool,
    /// Processes whose CPU time and resident memory are read: the servers.
    pub pids: Vec<u32>,
    /// What the names of this run's users begin with; random by default, so that runs do not find each other's messages.
    pub user_prefix: Option<String>,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            opening_max: 256,
            open_timeout: Duration::from_secs(30),
            batch: true,
            pids: Vec::new(),
            user_prefix: None,
        }
    }
}

/// Connections that do nothing.
#[derive(Clone, Debug)]
pub struct IdleOptions {
    /// The nodes; connections go to them in turn.
    pub urls: Vec<String>,
    pub connections: usize,
    /// How long all of them are held.
    pub hold: Duration,
    pub common: Common,
}

/// Pairs of a sender and a receiver.
#[derive(Clone, Debug)]
pub struct P2pOptions {
    /// Where senders connect.
    pub from_url: String,
    /// Where receivers connect; another node, to measure the way between nodes.
    pub to_url: String,
    pub pairs: usize,
    /// Bytes of a body as JSON, quotes included; at least 34.
    pub body_bytes: usize,
    pub traffic: Traffic,
    pub ephemeral: bool,
    /// Each so-manieth message of a sender asks that a replica has it, too.
    pub replicated_every: Option<u64>,
    /// Not counted.
    pub warmup: Duration,
    /// Counted.
    pub measure: Duration,
    /// After the last message is due: how long answers and messages are waited for.
    pub drain: Duration,
    pub common: Common,
}

/// When messages are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Traffic {
    /// As many as are answered: every sender keeps so many without an answer. Shows throughput.
    Saturate { window: usize },
    /// By a schedule that waits for nobody, all senders together. Shows latency: it counts from the moment that the
    /// schedule names, so a server that stalls cannot make its own measurement stall.
    Rate { per_second: f64 },
}
