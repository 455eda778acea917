//! Nodes that die, leave, freeze, have a double, a wrong clock, or nothing left to open.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::Stage;
use super::clock::WrongClock;
use crate::world::Seat;

/// A drain waits for its clients, who stay for 3.5 s at most.
const DRAINS_WITHIN: Duration = Duration::from_secs(20);

/// A frozen node is buried after 15 to 20 s; a Redis that is hurt meanwhile makes it later.
const BURIED_WITHIN: Duration = Duration::from_secs(120);

/// Until somebody is told to leave.
const DRAINS: usize = 3;
const BETWEEN_DRAINS: Duration = Duration::from_secs(3);

/// Fault 17.
pub(super) async fn killed(stage: &Stage, hold: Duration) -> Result<String> {
    let seat = &stage.world.seats[0];
    let open = stage.wait_for_crowd(&seat.front).await;
    let before = seat.node().await.pid();
    seat.node().await.kill();
    sleep(hold).await;
    seat.renew().await?;
    let after = seat.node().await.pid();
    ensure!(before != after && open > 0, "process {before}, now {after}, with {open} connections");
    Ok(format!("{open} connections died with process {before}"))
}

/// Fault 18.
pub(super) async fn drained(stage: &Stage) -> Result<String> {
    let seat = &stage.world.seats[1];
    // Beside a Redis that refuses writes connections are there, and nobody has been let in yet: then it is drained again.
    for _ in 0..DRAINS {
        stage.wait_for_crowd(&seat.front).await;
        let goodbyes = stage.load.counts.named("bye 4500");
        seat.node().await.terminate()?;
        let status = seat.node().await.wait(DRAINS_WITHIN).await?;
        seat.renew().await?;
        ensure!(status.success(), "the drained node ended with {status}");
        let goodbyes = stage.load.counts.named("bye 4500") - goodbyes;
        if goodbyes > 0 {
            return Ok(format!("{goodbyes} clients were told 4500, exit status 0"));
        }
        sleep(BETWEEN_DRAINS).await;
    }
    anyhow::bail!("nobody was told to leave")
}

/// Fault 19.
pub(super) async fn killed_in_drain(stage: &Stage) -> Result<String> {
    let seat = &stage.world.seats[1];
    let goodbyes = stage.load.counts.named("bye 4500");
    // Behind another fault of this node its clients are still on their way back.
    let open = stage.wait_for_crowd(&seat.front).await;
    seat.node().await.terminate()?;
    let end = Instant::now() + DRAINS_WITHIN;
    while stage.load.counts.named("bye 4500") == goodbyes {
        ensure!(Instant::now() < end, "nobody was told to leave");
        sleep(Duration::from_millis(2)).await;
    }
    let left = seat.front.open_count();
    let ended = seat.node().await.process().exit_status();
    seat.node().await.kill();
    seat.renew().await?;
    // All goodbyes are said in one moment, so that there may be none left; that it did not end by itself is what counts.
    ensure!(open > 0 && ended.is_none(), "of {open} connections {left} were left, the node had ended: {ended:?}");
    Ok(format!("killed in its drain, with {left} of {open} connections left"))
}

/// Fault 20.
pub(super) async fn frozen(stage: &Stage, hold: Duration) -> Result<String> {
    const BURIED: &str = "switchboard_nodes_buried_total";
    let (seat, other) = (&stage.world.seats[0], &stage.world.seats[1]);
    let before = other.metric(BURIED).await.unwrap_or_default();
    seat.node().await.stop()?;
    let begun = Instant::now();
    // The other node may be started anew meanwhile, with a count that begins again.
    let mut is_buried = false;
    while !is_buried && begun.elapsed() < BURIED_WITHIN.max(hold) {
        sleep(Duration::from_millis(500)).await;
        is_buried = other.metric(BURIED).await.is_some_and(|now| now > 0.0 && now != before);
    }
    let stood = begun.elapsed();
    seat.node().await.cont()?;
    let end = Instant::now() + DRAINS_WITHIN;
    while !seat.node().await.log().contains("it goes on under a new name") {
        ensure!(Instant::now() < end, "after {stood:?} (buried: {is_buried}) the node did not take a new name");
        sleep(Duration::from_millis(100)).await;
    }
    ensure!(is_buried, "nobody declared the node dead");
    Ok(format!("buried, and thawed after {} ms under a new name", stood.as_millis()))
}

/// Fault 24.
pub(super) async fn twins(stage: &Stage, hold: Duration) -> Result<String> {
    let (seat, named) = (&stage.world.seats[0], &stage.world.seats[1]);
    let twin = named.another(&[]).await?;
    seat.front.retarget(twin.listen());
    seat.front.cut();
    sleep(hold).await;
    let connections = twin.metric("switchboard_connections").await.unwrap_or_default();
    let ids = stage.servers(|servers| {
        let of = |server: &testkit::Redis| -> Result<Vec<String>> {
            let keys = server.try_cli(&["KEYS", "*sb*:nodes"])?;
            let Some(key) = keys.lines().find(|key| !key.is_empty()) else { return Ok(Vec::new()) };
            Ok(server.try_cli(&["HKEYS", key])?.lines().map(str::to_owned).collect())
        };
        servers.all().iter().find_map(|server| of(server).ok().filter(|ids| !ids.is_empty())).unwrap_or_default()
    });
    let namesakes = ids.iter().filter(|id| id.starts_with(&format!("{}.", named.name))).count();
    seat.front.retarget(seat.node().await.listen());
    twin.terminate()?;
    let status = twin.wait(DRAINS_WITHIN).await?;
    ensure!(connections > 0.0 && status.success(), "{connections} connections, and the twin ended with {status}");
    ensure!(namesakes >= 2, "Redis knows {namesakes} nodes of that name: {ids:?}");
    Ok(format!("{namesakes} incarnations of {} at once, {connections} connections at the second", named.name))
}

/// Fault 25.
pub(super) async fn clock_jumps(stage: &Stage, hold: Duration) -> Result<String> {
    let seat = &stage.world.seats[0];
    let clock = WrongClock::build()?;
    clock.set(-3_600)?;
    let env = clock.env()?;
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    seat.renew_with(&env).await?;
    let behind = apart(seat, &stage.world.seats[1]).await?;
    sleep(hold / 3).await;
    clock.set(3_600)?;
    sleep(hold / 3).await;
    let ahead = apart(seat, &stage.world.seats[1]).await?;
    // And back, which its answers do not show: the HTTP library keeps a date until the clock is past it.
    clock.set(-3_600)?;
    sleep(hold / 3).await;
    seat.renew().await?;
    ensure!((3_500..3_700).contains(&ahead) && (-3_700..-3_500).contains(&behind), "{behind} s and then {ahead} s");
    Ok(format!("the node's clock was {behind} s off, then {ahead} s"))
}

/// How far ahead of another node's clock this one's is, in seconds, as HTTP headers say.
async fn apart(one: &Seat, other: &Seat) -> Result<i64> {
    let mut clocks = Vec::new();
    for seat in [one, other] {
        let answer = seat.node().await.internal_get("/healthz").await?;
        let date = answer.header("date").context("no Date in the answer")?.to_owned();
        let time = date.split(' ').nth(4).with_context(|| format!("no time in {date}"))?.to_owned();
        let parts: Vec<i64> = time.split(':').map(str::parse).collect::<Result<_, _>>()?;
        let [hours, minutes, seconds] = parts[..] else { bail!("no time in {date}") };
        clocks.push(hours * 3_600 + minutes * 60 + seconds);
    }
    // Over midnight too: the shorter way round.
    Ok((clocks[0] - clocks[1] + 43_200).rem_euclid(86_400) - 43_200)
}

/// Fault 29.
pub(super) async fn no_descriptors(stage: &Stage, hold: Duration) -> Result<String> {
    const CROWD: usize = 60;
    const SPARE: usize = 12;
    let seat = &stage.world.seats[1];
    let pid = seat.node().await.pid();
    let address = seat.node().await.listen();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let mark = seat.node().await.log().mark();
    let before = limit(pid, None)?;
    limit(pid, Some(&format!("{}:", open + SPARE)))?;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(TcpStream::connect(address).await?);
    }
    sleep(hold).await;
    let told = seat.node().await.log().since(mark).matches("cannot accept connections").count();
    drop(crowd);
    limit(pid, Some(&format!("{}:", before.trim())))?;
    ensure!(told > 0, "a crowd of {CROWD} was no problem with {SPARE} descriptors left");
    let end = Instant::now() + DRAINS_WITHIN;
    while seat.node().await.get("/readyz").await.is_err() {
        ensure!(Instant::now() < end, "the node takes nobody any more");
        sleep(Duration::from_millis(100)).await;
    }
    Ok(format!("the node had {SPARE} descriptors for {CROWD} connections and said so {told} times"))
}

/// Sets or asks the soft limit of open files of a process.
fn limit(pid: u32, to: Option<&str>) -> Result<String> {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string()]);
    match to {
        Some(to) => command.arg(format!("--nofile={to}")),
        None => command.args(["--nofile", "--noheadings", "--output", "SOFT"]),
    };
    let output = command.output().context("prlimit, of util-linux")?;
    ensure!(output.status.success(), "prlimit: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
