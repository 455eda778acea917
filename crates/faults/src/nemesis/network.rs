//! The network between clients and nodes: it stops, cuts, swallows, and goes in small pieces.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Stage;
use crate::load::SENDER_PATIENCE_MS;
use crate::load::link::open;

/// One way.
const DELAY: Duration = Duration::from_millis(200);

/// Bytes of one segment.
const SLICE_BYTES: usize = 20;

/// Of a sender that changes networks: it does not wait for an answer.
const IMPATIENT_MS: u64 = 2_000;

/// After a storm: clients wait for 2 s at most between their tries.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// Fault 21.
pub(super) async fn double_location(stage: &Stage, hold: Duration) -> Result<String> {
    let front = &stage.world.seats[0].front;
    let open = stage.wait_for_crowd(front).await;
    let left = stage.load.counts.named("silent");
    front.pause();
    sleep(hold).await;
    front.resume();
    let left = stage.load.counts.named("silent") - left;
    ensure!(open > 0 && left > 0, "of {open} clients {left} went to the other node");
    Ok(format!("of {open} clients {left} went to the other node while their sockets were half open"))
}

/// Fault 41.
pub(super) async fn overtaken(stage: &Stage, hold: Duration) -> Result<String> {
    let (front, counts, patience) = (&stage.world.seats[0].front, &stage.load.counts, &stage.load.sender_patience_ms);
    stage.wait_for_crowd(front).await;
    let before = counts.unanswered.load(Ordering::Relaxed);
    patience.store(IMPATIENT_MS, Ordering::Relaxed);
    front.pause();
    sleep(hold).await;
    patience.store(SENDER_PATIENCE_MS, Ordering::Relaxed);
    let retried = counts.unanswered.load(Ordering::Relaxed) - before;
    front.resume();
    ensure!(retried > 0, "no sender went to the other node");
    Ok(format!("{retried} messages were tried again at the other node while their first tries were on their way"))
}

/// Fault 27.
pub(super) async fn storm(stage: &Stage, hold: Duration) -> Result<String> {
    let fronts = || stage.world.seats.iter().map(|seat| &seat.front);
    let (cut, opened) = (fronts().map(|front| front.open_count()).sum::<usize>(), &stage.load.counts.opened);
    fronts().for_each(|front| {
        front.refuse(true);
        front.cut();
    });
    sleep(hold).await;
    let before = opened.load(Ordering::Relaxed);
    fronts().for_each(|front| front.refuse(false));
    let begun = Instant::now();
    // Some were away anyway, and some come and go: nine of ten are everybody who stays.
    let back = || opened.load(Ordering::Relaxed) - before;
    // Beside a node that stands still not all can be; that everybody comes to the end is judged anyway.
    while back() < cut as u64 * 9 / 10 && begun.elapsed() < BACK_WITHIN {
        sleep(Duration::from_millis(20)).await;
    }
    ensure!(cut > 0 && back() > 0, "{cut} were connected, and {} came back", back());
    Ok(format!("{cut} connections cut, {} back within {} ms", back(), begun.elapsed().as_millis()))
}

/// Fault 31.
pub(super) async fn half_open(stage: &Stage, hold: Duration) -> Result<String> {
    let seat = &stage.world.seats[1];
    let closed = async || -> Result<u64> {
        let text = seat.node().await.metrics().await?;
        let line =
            text.lines().find_map(|line| line.strip_prefix("switchboard_connections_closed_total{code=\"4501\"} "));
        Ok(line.and_then(|count| count.parse().ok()).unwrap_or_default())
    };
    let before = closed().await?;
    seat.front.pause();
    sleep(hold).await;
    let count = closed().await? - before;
    seat.front.resume();
    ensure!(count > 0, "no connection was closed with 4501");
    Ok(format!("{count} connections were closed with 4501"))
}

/// Fault 32.
pub(super) async fn slow(stage: &Stage, hold: Duration) -> Result<String> {
    let fronts = || stage.world.seats.iter().map(|seat| &seat.front);
    let slices = || fronts().map(|front| front.slice_count()).sum::<u64>();
    let before = slices();
    fronts().for_each(|front| {
        front.delay(DELAY);
        front.slice(SLICE_BYTES);
    });
    let begun = Instant::now();
    let opened = open(stage.load.fronts[0], "measure", &json!({"type": "hello"})).await;
    let took = begun.elapsed();
    sleep(hold.saturating_sub(took)).await;
    fronts().for_each(|front| {
        front.delay(Duration::ZERO);
        front.slice(0);
    });
    let slices = slices() - before;
    // A handshake and a hello go to and fro twice.
    ensure!(opened.is_err() || took >= 4 * DELAY, "a connection was open after {took:?}");
    ensure!(slices > 0, "nothing came in pieces");
    Ok(format!("a connection was open after {} ms, {slices} pieces of {SLICE_BYTES} bytes", took.as_millis()))
}
