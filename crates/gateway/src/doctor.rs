//! The look at Redis when a node starts: what loses messages is said loudly, or refused where `strict` is set.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use backplane::doctor::{Facts, Finding, Severity, examine};
use backplane::redis::doctor::{AskError, ask_masters};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::clock::wall_us;
use crate::config::Secret;
use crate::node::Node;

/// How long `strict` waits for Redis: the two are often started together.
const REQUIRED_WITHIN: Duration = Duration::from_secs(10);

/// For one step of asking.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// Between two tries of `strict`.
const PAUSE: Duration = Duration::from_millis(250);

/// Between two tries of a node that serves meanwhile; the backplane's first generation ends the wait.
const REPORT_PAUSE: Duration = Duration::from_secs(15);

/// Examines Redis before anything else is started.
///
/// # Errors
/// It loses messages, with all that was found; or it cannot be asked.
pub(crate) async fn require(url: &Secret) -> anyhow::Result<()> {
    let deadline = Instant::now() + REQUIRED_WITHIN;
    let mut last = "no answer".to_owned();
    loop {
        match timeout_at(deadline, ask_masters(url.reveal(), ASK_WITHIN, wall_us)).await {
            Ok(Ok(masters)) => return masters.iter().try_for_each(|(address, facts)| judge(address.as_deref(), facts)),
            Ok(Err(AskError::Unreachable(why))) => {
                if why != last {
                    tracing::warn!(%why, "strict: Redis cannot be reached; trying again");
                }
                last = why;
            }
            Ok(Err(error)) => bail!("`strict` is set, and Redis cannot be examined: {error}"),
            Err(_) => bail!("`strict` is set, and Redis cannot be reached within {REQUIRED_WITHIN:?}: {last}"),
        }
        sleep(PAUSE).await;
    }
}

/// `address`: which one, where there are several.
fn judge(address: Option<&str>, facts: &Facts) -> anyhow::Result<()> {
    let found = examine(facts);
    let losing: Vec<&Finding> = found.iter().filter(|finding| finding.severity == Severity::Loses).collect();
    if losing.is_empty() {
        say(address, facts, &found);
        return Ok(());
    }
    let at = address.map(|address| format!(" at {address}")).unwrap_or_default();
    let mut text = format!("`strict` is set, and this Redis ({}{at}) can lose messages:", facts.server());
    for finding in losing {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {finding}");
    }
    bail!(text)
}

/// Examines Redis once it can be reached, and logs what is wrong with it.
pub(crate) async fn report(node: Arc<Node>, url: Secret, stop: CancellationToken) {
    let reporting = async {
        loop {
            match ask_masters(url.reveal(), ASK_WITHIN, wall_us).await {
                Ok(masters) => {
                    return masters.iter().for_each(|(at, facts)| say(at.as_deref(), facts, &examine(facts)));
                }
                Err(AskError::Unreachable(why)) => tracing::debug!(%why, "Redis cannot be examined yet"),
                Err(error) => return tracing::warn!(%error, "Redis cannot be examined"),
            }
            // Whether it can be reached is the generation's to say. One that is there, but not for this, is asked rarely.
            if node.current.is_up() {
                sleep(REPORT_PAUSE).await;
            } else {
                node.current.wait(routing::SlotGroup(0), REPORT_PAUSE).await;
            }
        }
    };
    stop.run_until_cancelled(reporting).await;
}

fn say(address: Option<&str>, facts: &Facts, found: &[Finding]) {
    let (server, address) = (facts.server(), address.unwrap_or_default());
    for Finding { severity, what, why, how } in found {
        match severity {
            Severity::Loses => tracing::error!(server, address, why, how, "Redis can lose messages: {what}"),
            Severity::Risk => tracing::warn!(server, address, why, how, "Redis is at risk: {what}"),
            Severity::Note => {}
        }
    }
}
