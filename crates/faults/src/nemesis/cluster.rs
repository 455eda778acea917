//! What only a cluster can suffer: slots on their way, and the death of the server that a subscription is at.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::Redis;
use tokio::time::{Instant, sleep};

use super::Stage;
use super::server::run_id;
use crate::world::servers::error_count;

/// Slots that migrate in one fault.
const SLOTS: usize = 6;

/// Keys of one step.
const KEYS: usize = 3;

/// Until a replica serves in place of a dead master.
const TAKES_OVER_WITHIN: Duration = Duration::from_secs(30);

/// Fault 13.
pub(super) async fn slots_migrate(stage: &Stage, hold: Duration) -> Result<String> {
    let redirects = |stage: &Stage| {
        stage.sum(|server| {
            Ok(error_count(server, "MOVED")? + error_count(server, "ASK")? + error_count(server, "TRYAGAIN")?)
        })
    };
    let (begun, masters) = (redirects(stage), stage.servers(|servers| servers.masters())?);
    let mut moved = 0;
    for _ in 0..SLOTS {
        let from = masters[stage.below(masters.len())];
        let others: Vec<usize> = masters.iter().copied().filter(|&n| n != from).collect();
        let to = others[stage.below(others.len())];
        let slot = some_slot(stage, from)?;
        let migration = stage.servers(|servers| servers.cluster()?.begin_migration(slot, to))?;
        // A stop half way, where some keys are here and some there.
        moved += stage.servers(|servers| servers.cluster()?.move_keys(migration, KEYS))?;
        sleep(hold / SLOTS as u32).await;
        loop {
            let more = stage.servers(|servers| servers.cluster()?.move_keys(migration, KEYS))?;
            if more == 0 {
                break;
            }
            moved += more;
        }
        stage.servers(|servers| servers.cluster()?.finish_migration(migration))?;
    }
    sleep(Duration::from_secs(1)).await;
    stage.servers(|servers| servers.cluster()?.wait_well(TAKES_OVER_WITHIN))?;
    let redirected = redirects(stage).saturating_sub(begun);
    ensure!(moved > 0 && redirected > 0, "{moved} keys moved, {redirected} commands were redirected");
    Ok(format!("{SLOTS} slots with {moved} keys moved, {redirected} commands were redirected"))
}

/// The slot of an inbox that this master has.
fn some_slot(stage: &Stage, master: usize) -> Result<u16> {
    let keys = stage.server(master, |server| server.try_cli(&["KEYS", "sb:*:i:user:r*"]))?;
    let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
    let key = keys.get(stage.below(keys.len())).context("a master without inboxes")?;
    stage.servers(|servers| servers.cluster()?.slot_of(key))
}

/// Fault 14.
pub(super) async fn subscription_dies(stage: &Stage) -> Result<String> {
    let subscribers = |server: &Redis| -> Result<u64> {
        let list = server.try_cli(&["CLIENT", "LIST", "TYPE", "pubsub"])?;
        Ok(list.lines().filter(|line| !line.is_empty()).count() as u64)
    };
    let masters = stage.servers(|servers| servers.masters())?;
    let counted: Vec<(u64, usize)> =
        masters.iter().map(|&n| Ok((stage.server(n, subscribers)?, n))).collect::<Result<_>>()?;
    let (count, old) = counted.into_iter().max().context("no master")?;
    ensure!(count > 0, "nobody is subscribed at any master");
    let new = stage.servers(|servers| servers.replica_of(old))?;
    let before = stage.server(old, run_id)?;
    stage.server(old, Redis::kill);
    let end = Instant::now() + TAKES_OVER_WITHIN;
    while !stage.servers(|servers| servers.masters()).is_ok_and(|masters| masters.contains(&new)) {
        ensure!(Instant::now() < end, "server {new} did not become a master");
        sleep(Duration::from_millis(50)).await;
    }
    stage.servers(|servers| servers.get_mut(old).restart())?;
    stage.wait_well()?;
    ensure!(before != stage.server(old, run_id)?, "the old master was not started anew");
    Ok(format!("server {old} died with {count} subscriptions, server {new} took over"))
}
