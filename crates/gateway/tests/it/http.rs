//! What both listeners answer to plain HTTP, and how long they wait for it.

use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake::{Fixture, PATIENCE, TIMEOUT, read_to_end, request, settings};

#[tokio::test]
async fn the_listener_for_clients_has_probes_pages_and_nothing_internal() {
    let fixture = Fixture::start(settings()).await;
    for (path, status, body) in [
        ("/", 200, "GET /v1/connect"),
        ("/healthz", 200, "ok"),
        ("/readyz", 200, "ready"),
        ("/docs/bad_request", 200, "error bad_request"),
        ("/docs/4001", 200, "close 4001 unauthorized"),
        ("/docs/", 200, "/docs/4001  unauthorized"),
        ("/docs", 200, "/docs/unknown_outcome"),
        ("/docs/nonsense", 404, "/docs/rate_limited"),
        ("/docsx", 404, "Nothing is here"),
        ("/metrics", 404, "Nothing is here"),
        ("/v1/send", 404, "GET /v1/connect"),
        ("/socket.io/?EIO=4&transport=polling", 404, "Nothing is here"),
    ] {
        let reply = fixture.get(path).await;
        assert_eq!(reply.status, status, "{path}");
        assert!(reply.body.contains(body), "{path}: {}", reply.body);
        assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    }
}

#[tokio::test]
async fn a_method_that_a_path_does_not_take_is_405_and_says_which_it_takes() {
    let fixture = Fixture::start(settings()).await;
    for (path, allowed) in [
        ("/v1/connect", "get"),
        ("/healthz", "get, head"),
        ("/readyz", "get, head"),
        ("/", "get, head"),
        ("/docs/4001", "get, head"),
    ] {
        let reply =
            request(fixture.client, &format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allowed)), "{path}");
    }
    let text = "DELETE /metrics HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(request(fixture.internal, text).await.status, 405);
    let text = "GET /v1/send HTTP/1.1\r\nHost: h\r\n\r\n";
    let reply = request(fixture.internal, text).await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("post")));
}

#[tokio::test]
async fn a_node_that_is_not_ready_says_so_and_why_to_operators_only() {
    let fixture = Fixture::start(settings()).await;
    assert_eq!(fixture.get_internal("/readyz").await.json(), serde_json::json!({"ready": true}));
    fixture.node.is_ready.store(false, Ordering::Relaxed);
    let outside = fixture.get("/readyz").await;
    assert_eq!((outside.status, outside.body.trim()), (503, "not ready"));
    let inside = fixture.get_internal("/readyz").await;
    assert_eq!(inside.status, 503);
    assert_eq!(inside.json(), serde_json::json!({"ready": false, "reason": "the backplane is away"}));
    for reply in [fixture.get("/healthz").await, fixture.get_internal("/healthz").await] {
        assert_eq!(reply.status, 200, "the process runs all the same");
    }
}

#[tokio::test]
async fn metrics_are_on_the_internal_listener_in_the_format_of_prometheus() {
    let fixture = Fixture::start(settings()).await;
    let reply = fixture.get_internal("/metrics").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(reply.body.contains("# TYPE switchboard_connections gauge"));
    assert_eq!(fixture.get_internal("/nothing").await.status, 404);
    assert!(fixture.get_internal("/").await.body.contains("POST /v1/send"));
}

/// Slow and silent peers hold a file descriptor for a bounded time: nothing at all, half a header, an idle connection
/// that was used before.
#[tokio::test]
async fn who_does_not_finish_his_request_is_closed() {
    let fixture = Fixture::start(settings()).await;
    for start in ["", "GET / HTTP/1.1\r\nHos", "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"] {
        let mut stream = TcpStream::connect(fixture.client).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        let begin = tokio::time::Instant::now();
        let end = read_to_end(&mut stream).await;
        assert!(end.is_some(), "still open after {start:?}");
        assert!(begin.elapsed() >= TIMEOUT / 2, "closed too early after {start:?}");
    }
}

/// The time is for the whole head: a byte now and then does not buy more of it.
#[tokio::test]
async fn who_sends_his_headers_byte_by_byte_is_closed() {
    let fixture = Fixture::start(settings()).await;
    let (mut read, mut write) = TcpStream::connect(fixture.client).await.unwrap().into_split();
    let drip = tokio::spawn(async move {
        let _ = write.write_all(b"GET / HTTP/1.1\r\nX: ").await;
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(TIMEOUT / 10).await;
        }
    });
    let mut got = Vec::new();
    let end = tokio::time::timeout(PATIENCE, read.read_to_end(&mut got)).await;
    assert!(end.is_ok(), "still open");
    drip.await.unwrap();
}

#[tokio::test]
async fn a_flood_of_headers_is_refused() {
    let fixture = Fixture::start(settings()).await;
    let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(100));
    for text in [long, many] {
        assert_eq!(request(fixture.client, &text).await.status, 431);
    }
    for text in ["\u{1}\u{2}\r\n\r\n", "GET / SIP/2.0\r\n\r\n"] {
        assert_eq!(request(fixture.client, text).await.status, 400);
    }
    assert_eq!(fixture.get("/healthz").await.status, 200);
}
