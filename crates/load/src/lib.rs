//! The load generator behind `switchboard bench`: many light connections, an open-loop schedule, and a check that what
//! was acknowledged arrived, once and in order.
//!
//! It works against any server that speaks the JSON subset of the protocol: `/v1/connect?user=U`, `hello` and `welcome`,
//! `send` and `sent`, `message`. Order and repeats are found by a counter in the body, so a server without `seq` and
//! cursors can be compared too. It signs no tokens: the server runs with `--auth none`.
//!
//! Sockets are driven by slim loops over `switchboard_client::{socket, wire}`, not by the full client, which is made for
//! one user who comes back, not for ten thousand who are counted.

mod clock;
mod crowd;
mod fanout;
mod idle;
mod joins;
mod latency;
mod link;
mod machine;
mod options;
mod p2p;
mod pacer;
mod report;
mod socket_io;

pub use crowd::{Act, Crowd, CrowdOptions};
pub use fanout::{Dialect, FanoutOptions, FanoutReport, Hook, fanout};
pub use idle::idle;
pub use joins::{JoinsOptions, JoinsReport, joins};
pub use latency::LatencyReport;
pub use machine::ProcessReport;
pub use options::{Common, IdleOptions, P2pOptions, Traffic};
pub use p2p::p2p;
pub use report::{IdleReport, P2pReport, Verified};

/// Runs a scenario on a runtime of its own with so many threads; `None`: one a core. Blocks until it is done, so call it
/// from a thread that may block.
///
/// # Errors
/// When the runtime cannot be started.
pub fn on_threads<F: Future>(threads: Option<usize>, scenario: F) -> anyhow::Result<F::Output> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads.max(1));
    }
    Ok(builder.enable_all().build()?.block_on(scenario))
}
