//! Clients that are loved too much, do not read, do not speak, or speak nonsense.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use protocol::{Cursor, Epoch, Stamp};
use serde_json::json;
use switchboard_client::Status;
use testkit::{Node, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::Stage;
use crate::history::What;
use crate::load::link::open;

/// Fault 28.
pub(super) async fn hot_recipient(stage: &Stage, hold: Duration) -> Result<String> {
    let acked = || stage.load.counts.acked_first.load(Ordering::Relaxed);
    let before = acked();
    stage.load.hot_percent.store(70, Ordering::Relaxed);
    sleep(hold).await;
    stage.load.hot_percent.store(0, Ordering::Relaxed);
    let count = acked() - before;
    let rate = count / hold.as_secs().max(1);
    // His usual share is one message in two hundred.
    ensure!(rate > 50, "recipient 0 got only {count} messages");
    Ok(format!("{count} messages to one recipient, {rate} a second"))
}

/// A connection that is upgraded and greeted, and read no further; the small buffer makes that felt at once.
async fn deaf(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    let mut stream = socket.connect(address).await?;
    stream.write_all(upgrade("user=deaf&auto=1").as_bytes()).await?;
    Ok(stream)
}

fn upgrade(query: &str) -> String {
    format!(
        "GET /v1/connect?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

async fn closed_with(node: &Node, code: &str) -> Result<u64> {
    let text = node.metrics().await?;
    let prefix = format!("switchboard_connections_closed_total{{code=\"{code}\"}} ");
    Ok(text.lines().find_map(|line| line.strip_prefix(&prefix)?.parse().ok()).unwrap_or_default())
}

/// Fault 30.
pub(super) async fn stops_reading(stage: &Stage, hold: Duration) -> Result<String> {
    const COUNT: usize = 8;
    const MESSAGES: usize = 300;
    /// Queue, one page and one message of a connection that stopped reading.
    const CAP_BYTES: u64 = (256 + 64 + 64) * 1024;
    /// Everybody else together.
    const OTHERS_BYTES: u64 = 1024 * 1024;
    let seat = &stage.world.seats[1];
    let address = seat.node().await.listen();
    let internal = seat.node().await.internal();
    let before = closed_with(&*seat.node().await, "4502").await?;
    let rss = seat.node().await.rss_bytes()?;
    let mut streams = Vec::new();
    for _ in 0..COUNT {
        streams.push(deaf(address).await?);
    }
    sleep(Duration::from_millis(300)).await;
    for n in 0..MESSAGES {
        let message = json!({"to": "user:deaf", "id": format!("deaf{n}"), "body": "x".repeat(40_000)});
        // A Redis that is hurt meanwhile refuses some; enough of them is enough.
        let _ = http::request(internal, "POST", "/v1/send", &[], message.to_string().as_bytes()).await;
    }
    let (begun, mut most, mut closed) = (Instant::now(), 0, 0);
    while begun.elapsed() < hold && closed < COUNT as u64 {
        most = most.max(seat.metric("switchboard_queue_bytes").await.unwrap_or_default() as u64);
        closed = closed_with(&*seat.node().await, "4502").await?.saturating_sub(before);
        sleep(Duration::from_millis(200)).await;
    }
    let grown = seat.node().await.rss_bytes()?.saturating_sub(rss);
    let cap = CAP_BYTES * COUNT as u64 + OTHERS_BYTES;
    stage.load.recorder.record(What::Queue { node: seat.name.clone(), bytes: most, cap });
    ensure!(closed > 0, "none of {COUNT} was closed with 4502");
    Ok(format!(
        "{closed} of {COUNT} closed with 4502, at most {most} bytes queued, the node grew by {} KiB",
        grown / 1024
    ))
}

/// Fault 33.
pub(super) async fn endless_handshakes(stage: &Stage, hold: Duration) -> Result<String> {
    const EACH: usize = 20;
    let seat = &stage.world.seats[0];
    let address = seat.node().await.listen();
    let before = closed_with(&*seat.node().await, "4506").await?;
    let mut waiting = Vec::new();
    for n in 0..2 * EACH {
        let text =
            if n < EACH { "GET /v1/connect?user=slow HTTP/1.1\r\nHost: lo".to_owned() } else { upgrade("user=mute") };
        waiting.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(text.as_bytes()).await?;
            let mut heard = Vec::new();
            let is_closed = timeout(hold, stream.read_to_end(&mut heard)).await.is_ok();
            Ok::<bool, std::io::Error>(is_closed)
        }));
    }
    let mut closed = 0;
    for one in waiting {
        closed += usize::from(one.await?.context("a connection that could not be made")?);
    }
    let mute = closed_with(&*seat.node().await, "4506").await?.saturating_sub(before);
    ensure!(
        closed == 2 * EACH && mute >= EACH as u64,
        "of {} {closed} were closed, {mute} of them with 4506",
        2 * EACH
    );
    Ok(format!("{closed} connections that said nothing were closed, {mute} of them with 4506"))
}

/// Fault 34.
pub(super) async fn bad_cursors(stage: &Stage) -> Result<String> {
    let places = stage.load.places();
    let known = |skip: usize| places.iter().filter(|p| p.cursor.is_some_and(|c| c.seq > 0)).nth(skip).cloned();
    let (mine, other) = (known(0).context("nobody has a place yet")?, known(1).context("only one has a place")?);
    let (place, foreign) = (mine.cursor.context("a place")?, other.cursor.context("a place")?);
    let Cursor { epoch, seq, stamp } = place;
    let bad = [
        ("garbage", "AQnonsense".to_owned(), &["epoch"][..]),
        ("empty", String::new(), &["epoch"]),
        ("another epoch", Cursor { epoch: Epoch(*b"nowhere!"), seq, stamp }.to_text(), &["epoch"]),
        ("somebody else's", foreign.to_text(), &["epoch"]),
        ("beyond the end", Cursor { epoch, seq: seq + 1_000_000, stamp }.to_text(), &["ahead"]),
        ("the largest number", Cursor { epoch, seq: u64::MAX, stamp }.to_text(), &["ahead", "epoch"]),
        ("another entry", Cursor { epoch, seq, stamp: Stamp(stamp.0 ^ 1) }.to_text(), &["fork", "retention"]),
    ];
    let mut told = Vec::new();
    for (what, cursor, reasons) in &bad {
        let user = format!("r{}", mine.recipient);
        let cursors = json!({ format!("user:{user}"): cursor });
        let hello = json!({"type": "hello", "device": "liar", "batch": true, "cursors": cursors});
        // Beside other faults a node may be away: tried a few times, on both.
        let mut opened = None;
        for n in 0..40 {
            match open(stage.load.fronts[n % stage.load.fronts.len()], &user, &hello).await {
                Ok(link) => {
                    opened = Some(link);
                    break;
                }
                Err(_) => sleep(Duration::from_millis(250)).await,
            }
        }
        let (socket, welcome, _) = opened.with_context(|| format!("{what}: never welcomed"))?;
        let stream = welcome.streams.first().context("a stream")?;
        let reason = stream.reason.as_deref().unwrap_or_default();
        // A Redis that has lost its newest writes gives other reasons, but always one.
        let is_right = stream.status == Status::Reset && (reasons.contains(&reason) || reason == "epoch");
        ensure!(is_right, "{what}: {:?} {reason:?}, expected a reset by {reasons:?}", stream.status);
        told.push(format!("{what}: {reason}"));
        drop(socket);
    }
    Ok(told.join(", "))
}
