//! What hostile or broken clients get: one connection ends, with a reason; the node and everybody else go on.
//!
//! Goal: every row of docs/protocol.md, "What bad input gets", that one node can show, with its exact outcome, and every
//! way to ask for memory or time that servers of this kind have fallen for. Method: see `gateway`: one shared node, a
//! bystander that must notice nothing, and a look at the node whenever no test is running.

mod frames;
mod http;
mod rate;
mod rfc6455;
mod slow;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Outcome, Report};

/// Our own close: the code, and directly before it the `bye` that says the same to those who cannot see the code.
fn said_goodbye(report: &Report, code: u16) -> Result<()> {
    match &report.outcome {
        Outcome::Close { code: closed, bye } if *closed == code => {
            check_bye(bye.as_ref().with_context(|| format!("{code} without a bye before it"))?, code)
        }
        _ => Err(unexpected(report, &format!("a bye and the close code {code}"))),
    }
}

/// A close after which a `bye` may be missing: the peer has broken RFC 6455.
fn closed_with(report: &Report, codes: &[u16]) -> Result<()> {
    match &report.outcome {
        Outcome::Close { code, bye } if codes.contains(code) => {
            bye.as_ref().map_or(Ok(()), |bye| check_bye(bye, *code))
        }
        _ => Err(unexpected(report, &format!("a close code of {codes:?}"))),
    }
}

fn check_bye(bye: &Value, code: u16) -> Result<()> {
    ensure!(bye["type"] == "bye" && bye["code"] == code, "expected a bye with {code}, got {bye}");
    ensure!(bye["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "a bye says what happened: {bye}");
    if code >= 4500 {
        ensure!(bye["reconnect_ms"].is_u64(), "a client that shall come back is told when: {bye}");
    }
    Ok(())
}

/// What a refused HTTP request gets: one of these statuses, or an end without a word.
fn refused_or_cut(report: &Report, statuses: &[u16]) -> Result<()> {
    match &report.outcome {
        Outcome::Http(status) if statuses.contains(status) => Ok(()),
        outcome if outcome.is_cut() => Ok(()),
        _ => Err(unexpected(report, &format!("one of {statuses:?}, or an end"))),
    }
}

fn unexpected(report: &Report, expected: &str) -> anyhow::Error {
    let last = report.frames.last();
    anyhow::anyhow!(
        "expected {expected}, got {:?} after {:?}, {} bytes sent and {} received; the last frame was {last:?}",
        report.outcome,
        report.elapsed,
        report.bytes_sent,
        report.bytes_received,
    )
}

/// An `error` that answers one frame: its code, its page, and a text that names the field.
fn check_error(error: &Value, code: &str, id: Option<&str>, field: &str) -> Result<()> {
    ensure!(error["type"] == "error" && error["code"] == code, "expected an error {code}, got {error}");
    ensure!(error.get("id").and_then(Value::as_str) == id, "expected the id {id:?}: {error}");
    ensure!(error["docs"] == format!("/docs/{code}"), "no page for {code}: {error}");
    let message = error["message"].as_str().context("an error without a message")?;
    ensure!(!message.is_empty() && message.contains(field), "the message does not name {field:?}: {error}");
    Ok(())
}
