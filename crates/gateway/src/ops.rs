//! What probes and operators read: health, readiness, metrics. No key is asked for.

use hyper::StatusCode;
use hyper::header::HeaderValue;

use crate::door::Door;
use crate::listener::respond::{self, Answer, JSON};

const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The process runs. It does not depend on Redis: a restart would not bring that back.
pub(crate) fn health() -> Answer {
    respond::text(StatusCode::OK, "ok")
}

fn status(is_ready: bool) -> StatusCode {
    if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// For load balancers, where anybody can ask: the status only.
pub(crate) fn ready_status(door: &dyn Door) -> Answer {
    let is_ready = door.readiness().is_ok();
    respond::text(status(is_ready), if is_ready { "ready" } else { "not ready" })
}

/// For operators: the reason, too.
pub(crate) fn ready_reason(door: &dyn Door) -> Answer {
    let readiness = door.readiness();
    let body = match &readiness {
        Ok(()) => serde_json::json!({"ready": true}),
        Err(why) => serde_json::json!({"ready": false, "reason": why}),
    };
    respond::answer(status(readiness.is_ok()), JSON, body.to_string())
}

pub(crate) fn metrics(door: &dyn Door) -> Answer {
    respond::answer(StatusCode::OK, PROMETHEUS, door.metrics().render())
}
