//! What is written into the log, at its loudest: never a token, a key, or the query string that carries them.

use std::fmt::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::fake::{Fixture, request, with_key};

/// Keeps all that is logged on this thread, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut Line(&mut self.0.lock()));
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut Line(&mut self.0.lock()));
    }
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut log = self.0.lock();
        event.record(&mut Line(&mut log));
        log.push('\n');
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn no_credential_and_no_body_is_ever_logged() {
    let log = Log::default();
    // One thread, so that this catches what all tasks of this test say.
    let _guard = tracing::subscriber::set_default(log.clone());
    let fixture = Fixture::start(with_key("hush-key")).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    for (query, headers) in [
        ("?token=hush-token", ""),
        ("?token=hush-token&format=xml", ""),
        ("?user=hush-user", "Authorization: Bearer hush-bearer\r\n"),
        ("?token=hush-token", "Origin: https://hush.example\r\n"),
    ] {
        let text = format!("GET /v1/connect{query} HTTP/1.1\r\nHost: h\r\n{upgrade}{headers}\r\n");
        let _ = request(fixture.client, &text).await;
    }
    let _ = fixture.get("/docs/4001?token=hush-token").await;
    let _ = fixture.get("/nothing?token=hush-token").await;
    for key in ["hush-key", "hush-wrong"] {
        let _ =
            fixture.post(&format!("Authorization: Bearer {key}\r\n"), r#"{"to":"user:b","body":"hush-body"}"#).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let said = log.0.lock();
    assert!(said.contains("/v1/connect") && said.contains("status=101"), "the log is heard: {said}");
    assert!(!said.contains("hush"), "{said}");
}
