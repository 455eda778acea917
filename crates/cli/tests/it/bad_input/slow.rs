//! Floods, and clients that make others wait. They take seconds, so they run beside each other and beside all the rest.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::raw::upgrade_request;
use testkit::{Burst, Frame, Outcome, Raw, Report};
use tokio::time::Instant;

use super::{closed_with, refused_or_cut, said_goodbye, unexpected};
use crate::gateway::{Beside, Case, Gateway, SOON, check};

/// The longest that a client may hold what it does not use: a header, a message that never ends. Deadlines of the node
/// are 10 s at most, the rest is a busy machine.
const DEADLINE: Duration = Duration::from_secs(16);

/// What an unfinished message may end with: it is too long, too many frames, or too slow.
const UNFINISHED: [u16; 3] = [1009, 4504, 1002];

const CASES: &[(&str, Case)] = &[
    ("bighdr", |gateway| Box::pin(bighdr(gateway))),
    ("slowhdr", |gateway| Box::pin(slowhdr(gateway))),
    ("manyhdr", |gateway| Box::pin(manyhdr(gateway))),
    ("nohello", |gateway| Box::pin(nohello(gateway))),
    ("giantlen", |gateway| Box::pin(giantlen(gateway))),
    ("overlimit", |gateway| Box::pin(overlimit(gateway))),
    ("emptyfrags", |gateway| Box::pin(fragments(gateway, b""))),
    ("tinyfrags", |gateway| Box::pin(fragments(gateway, b"x"))),
    ("pings", |gateway| Box::pin(pings(gateway))),
    ("mpdepth", |gateway| Box::pin(unreadable(gateway, [&[0x91; 20_000][..], b"\xc0"].concat()))),
    ("mpbomb", |gateway| Box::pin(unreadable(gateway, b"\xdd\xff\xff\xff\xff".to_vec()))),
    ("mpbin", |gateway| Box::pin(unreadable(gateway, b"\xc6\xff\xff\xff\xff".to_vec()))),
    ("halfframe", |gateway| Box::pin(halfframe(gateway))),
    ("flood", |gateway| Box::pin(flood_of_frames(gateway))),
    ("little after the close", |gateway| Box::pin(little_after_the_close(gateway))),
    ("much after the close", |gateway| Box::pin(much_after_the_close(gateway))),
];

fn ends_well(case: &'static str) {
    static BESIDE: OnceLock<Beside> = OnceLock::new();
    check(|gateway| BESIDE.get_or_init(|| Beside::start(gateway, CASES)).end_of(case));
}

#[test]
fn bighdr_a_header_of_20_mib_is_refused_or_cut_and_not_kept() {
    ends_well("bighdr");
}

async fn bighdr(gateway: &'static Gateway) -> Result<()> {
    const TIMES: usize = 320;
    let piece = vec![b'a'; 65_536];
    let script = [Burst::once("GET /v1/connect HTTP/1.1\r\nHost: x\r\nX-A: "), Burst::times(piece.clone(), TIMES)];
    let flood = async { Ok(Raw::connect(gateway.node().listen()).await?.play(&script, DEADLINE).await) };
    let report = gateway.flood(flood).await?;
    refused_or_cut(&report, &[431, 400])?;
    ensure!(report.bytes_sent < (piece.len() * TIMES) as u64, "all of it was taken");
    Ok(())
}

#[test]
fn slowhdr_a_header_that_never_ends_is_cut_at_a_deadline() {
    ends_well("slowhdr");
}

async fn slowhdr(gateway: &'static Gateway) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);
    let start = b"GET /v1/connect HTTP/1.1\r\nHost: x\r\nX-Slow: ";
    let mut script: Vec<Burst> = start.iter().map(|&byte| Burst::once([byte]).every(PAUSE)).collect();
    script.push(Burst::times("a", 10_000).every(PAUSE));
    let report = Raw::connect(gateway.node().listen()).await?.play(&script, DEADLINE).await;
    refused_or_cut(&report, &[408, 400, 431])
}

#[test]
fn manyhdr_two_thousand_headers_are_refused_or_cut() {
    ends_well("manyhdr");
}

async fn manyhdr(gateway: &'static Gateway) -> Result<()> {
    let names: Vec<String> = (0..2_000).map(|n| format!("H{n}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let request = upgrade_request(gateway.node().listen(), "/v1/connect?user=many", &headers);
    let script = [Burst::once(request)];
    let flood = async { Ok(Raw::connect(gateway.node().listen()).await?.play(&script, DEADLINE).await) };
    refused_or_cut(&gateway.flood(flood).await?, &[431, 400])
}

#[test]
fn nohello_a_client_that_never_says_hello_gets_a_bye_and_4506_after_8_seconds() {
    ends_well("nohello");
}

async fn nohello(gateway: &'static Gateway) -> Result<()> {
    let target = format!("/v1/connect?user={}", gateway.user());
    let mut raw = Raw::open(gateway.node().listen(), &target, &[]).await?;
    let report = raw.outcome(DEADLINE).await;
    said_goodbye(&report, 4506)?;
    ensure!(report.frames.len() == 1, "nothing but the bye: {:?}", report.frames);
    ensure!((7.5..12.0).contains(&report.elapsed.as_secs_f64()), "8 seconds were {:?}", report.elapsed);
    Ok(())
}

#[test]
fn giantlen_a_frame_that_claims_2_to_the_63_bytes_gets_a_bye_and_1009_at_its_header() {
    ends_well("giantlen");
}

async fn giantlen(gateway: &'static Gateway) -> Result<()> {
    let frames = [("msgpack", Frame::binary("")), ("json", Frame::text("")), ("json", Frame::text("").unfinished())];
    for (format, frame) in frames {
        let mut raw = gateway.raw(format).await?;
        let frame = frame.claiming(i64::MAX as u64);
        let report = gateway.flood(async { Ok(raw.play(&[frame.into()], SOON).await) }).await?;
        said_goodbye(&report, 1009)?;
    }
    Ok(())
}

#[test]
fn overlimit_a_frame_of_2_mib_gets_a_bye_and_1009() {
    ends_well("overlimit");
}

async fn overlimit(gateway: &'static Gateway) -> Result<()> {
    for format in ["msgpack", "json"] {
        let mut raw = gateway.raw(format).await?;
        let payload = vec![b'x'; 2 << 20];
        let frame = if format == "json" { Frame::text(payload) } else { Frame::binary(payload) };
        let report = gateway.flood(async { Ok(raw.play(&[frame.into()], SOON).await) }).await?;
        said_goodbye(&report, 1009)?;
    }
    Ok(())
}

#[test]
fn emptyfrags_a_message_of_endless_empty_fragments_is_closed_within_seconds() {
    ends_well("emptyfrags");
}

#[test]
fn tinyfrags_a_message_of_endless_tiny_fragments_is_closed_within_seconds() {
    ends_well("tinyfrags");
}

/// A million fragments, and then silence: the message never ends, but the connection does.
async fn fragments(gateway: &'static Gateway, content: &'static [u8]) -> Result<()> {
    let mut raw = gateway.raw("msgpack").await?;
    let piece = Frame::continuation(content).unfinished().to_bytes().repeat(10_000);
    let script = [Frame::binary(content).unfinished().into(), Burst::times(piece, 100)];
    // The others may flood as soon as the last byte is out; only the waiting is done together.
    let sent = gateway.flood(async { Ok(raw.play_out(&script, DEADLINE).await) }).await?;
    let report = if sent.outcome == Outcome::StillOpen { raw.outcome(DEADLINE).await } else { sent };
    closed_with(&report, &UNFINISHED)
}

#[test]
fn pings_a_flood_of_200_000_pings_is_closed_with_4504_or_answered_within_bounds() {
    ends_well("pings");
}

async fn pings(gateway: &'static Gateway) -> Result<()> {
    const LAST: &[u8] = b"the last one";
    let mut raw = gateway.raw("json").await?;
    let flood = Frame::ping([b'p'; 125]).to_bytes().repeat(1_000);
    let script = [Burst::times(flood, 200), Frame::ping(LAST).into()];
    gateway
        .flood(async {
            let end = Instant::now() + DEADLINE;
            let mut report = raw.play_out(&script, DEADLINE).await;
            // Either the connection survives the flood, which its last ping shows, or it is closed for it.
            while report.outcome == Outcome::StillOpen && report.last_pong.as_deref() != Some(LAST) {
                if Instant::now() >= end {
                    return Err(unexpected(&report, "4504, or an answer to the last ping"));
                }
                report = raw.outcome(Duration::from_millis(20)).await;
            }
            match report.outcome {
                Outcome::StillOpen => Ok(()),
                _ => said_goodbye(&report, 4504),
            }
        })
        .await
}

#[test]
fn mpdepth_20_000_nested_arrays_get_a_bye_and_4000() {
    ends_well("mpdepth");
}

#[test]
fn mpbomb_an_array_that_claims_four_billion_items_gets_a_bye_and_4000() {
    ends_well("mpbomb");
}

#[test]
fn mpbin_a_bin_that_claims_four_gigabytes_gets_a_bye_and_4000() {
    ends_well("mpbin");
}

async fn unreadable(gateway: &'static Gateway, payload: Vec<u8>) -> Result<()> {
    let mut raw = gateway.raw("msgpack").await?;
    let script = [Frame::binary(payload).into()];
    let report = gateway.flood(async { Ok(raw.play(&script, SOON).await) }).await?;
    said_goodbye(&report, 4000)
}

#[test]
fn halfframe_a_frame_of_which_half_has_come_may_take_its_time() {
    ends_well("halfframe");
}

async fn halfframe(gateway: &'static Gateway) -> Result<()> {
    let mut raw = gateway.raw("msgpack").await?;
    let half = Frame::binary([b'x'; 1_000]).to_bytes()[..500].to_vec();
    let report = raw.play(&[Burst::once(half)], Duration::from_secs(3)).await;
    if report.outcome != Outcome::StillOpen {
        return Err(unexpected(&report, "an open connection"));
    }
    Ok(())
}

#[test]
fn ten_seconds_of_frames_over_the_rate_get_a_bye_and_4504() {
    ends_well("flood");
}

/// Four times the allowed rate, for as long as it takes.
async fn flood_of_frames(gateway: &'static Gateway) -> Result<()> {
    let mut raw = gateway.raw("json").await?;
    let frames = Frame::text("{\"type\":\"ping\"}").to_bytes().repeat(20);
    let script = [Burst::times(frames, 1_000).every(Duration::from_millis(50))];
    let report: Report = raw.play(&script, DEADLINE).await;
    said_goodbye(&report, 4504)?;
    ensure!(report.elapsed > Duration::from_secs(9), "10 seconds were {:?}", report.elapsed);
    let refused = report.frames.iter().filter(|frame| frame["code"] == "rate_limited").count();
    let answered = report.frames.iter().filter(|frame| frame["type"] == "pong").count();
    ensure!(answered >= 900, "what the rate allows is answered all the while: {answered} pongs");
    ensure!(refused > answered, "what it does not allow is refused: {refused} against {answered}");
    Ok(())
}

#[test]
fn what_comes_after_our_close_is_thrown_away_and_the_connection_ends_without_a_reset() {
    ends_well("little after the close");
}

/// The node decides to close at the first frame while the others are in its socket already. If it went away without
/// reading them, the system would reset the connection, and with it the bye that is still on its way.
async fn little_after_the_close(gateway: &'static Gateway) -> Result<()> {
    let mut raw = gateway.raw("json").await?;
    let ping = Frame::text(format!("{{\"type\":\"ping\",\"pad\":\"{}\"}}", "x".repeat(1_000)));
    let frames = [vec![Frame::text("}")], vec![ping; 30]].concat();
    let begun = Instant::now();
    raw.send(&frames).await?;
    said_goodbye(&raw.outcome(SOON).await, 4000)?;
    let report = raw.after_close(&[], SOON).await;
    if report.outcome != Outcome::Eof {
        return Err(unexpected(&report, "the end of the connection, and no reset"));
    }
    ensure!(begun.elapsed() < Duration::from_secs(6), "2 seconds were {:?}", begun.elapsed());
    ensure!(!report.frames.iter().any(|frame| frame["type"] == "pong"), "nothing of it was executed");
    Ok(())
}

#[test]
fn who_goes_on_talking_after_our_close_is_cut() {
    ends_well("much after the close");
}

async fn much_after_the_close(gateway: &'static Gateway) -> Result<()> {
    const TIMES: usize = 1_000;
    let mut raw = gateway.raw("json").await?;
    raw.send(&[Frame::text("}")]).await?;
    said_goodbye(&raw.outcome(SOON).await, 4000)?;
    let piece = Frame::text(vec![b'x'; 60_000]).to_bytes();
    let bytes = (piece.len() * TIMES) as u64;
    let report = gateway.flood(async { Ok(raw.after_close(&[Burst::times(piece, TIMES)], DEADLINE).await) }).await?;
    if !report.outcome.is_cut() || report.bytes_sent >= bytes {
        return Err(unexpected(&report, "an end before everything was taken"));
    }
    Ok(())
}
