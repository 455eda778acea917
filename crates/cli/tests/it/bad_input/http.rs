//! Faults of the HTTP request: refused before the upgrade. Bad credentials are not among them: browsers cannot see a
//! refused upgrade, so they get a `bye`.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::http::{self, Head};
use testkit::{Burst, Frame, Outcome, Raw};

use super::{refused_or_cut, said_goodbye, unexpected};
use crate::gateway::{Gateway, SOON, check, hello};

/// The head of the answer to a request for an upgrade.
async fn upgrade(gateway: &Gateway, query: &str, headers: &[(&str, &str)]) -> Result<Head> {
    Ok(Raw::upgrade(gateway.node().listen(), &format!("/v1/connect?{query}"), headers).await?.1)
}

/// The answer to a request that is written out in full.
async fn answer_to(gateway: &Gateway, request: &str) -> Result<Head> {
    let mut raw = Raw::connect(gateway.node().listen()).await?;
    raw.write(request.as_bytes()).await?;
    raw.head().await
}

#[test]
fn badorigin_a_page_of_another_site_is_refused_with_403_before_the_upgrade() {
    check(async |gateway| {
        let own = gateway.node().listen();
        let origins = [
            "https://evil.example".to_owned(),
            "null".to_owned(),
            format!("http://{own}.evil.example"),
            format!("http://{own}@evil.example"),
            format!("http://evil.example/?{own}"),
            format!("http://127.0.0.1:{}", own.port() ^ 1),
            format!("file://{own}"),
            "x".to_owned(),
        ];
        for origin in &origins {
            let head = upgrade(gateway, &format!("user={}", gateway.user()), &[("Origin", origin)]).await?;
            ensure!(head.status == 403, "{origin}: {}", head.status);
        }
        Ok(())
    });
}

#[test]
fn a_page_of_the_same_host_and_a_client_without_an_origin_are_let_in() {
    check(async |gateway| {
        let own = format!("http://{}", gateway.node().listen());
        for headers in [&[("Origin", own.as_str())][..], &[]] {
            let head = upgrade(gateway, &format!("user={}", gateway.user()), headers).await?;
            ensure!(head.status == 101, "{headers:?}: {}", head.status);
        }
        Ok(())
    });
}

#[test]
fn a_request_for_connect_that_is_no_upgrade_gets_426_and_what_to_ask_for() {
    check(async |gateway| {
        let answer = gateway.node().get("/v1/connect?user=x").await?;
        ensure!(answer.status() == 426, "{}", answer.status());
        let upgrade = answer.header("Upgrade").context("426 without `Upgrade`")?;
        ensure!(upgrade.eq_ignore_ascii_case("websocket"), "{upgrade}");
        ensure!(answer.header("Sec-WebSocket-Version") == Some("13"), "{:?}", answer.head);
        Ok(())
    });
}

#[test]
fn another_version_of_websocket_gets_426_with_the_one_that_is_spoken() {
    check(async |gateway| {
        let host = gateway.node().listen();
        for version in ["8", "12", "14", "x"] {
            let head = answer_to(
                gateway,
                &format!(
                    "GET /v1/connect?user=x HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: {version}\r\n\r\n"
                ),
            )
            .await?;
            ensure!(head.status == 426, "version {version}: {}", head.status);
            ensure!(head.header("Sec-WebSocket-Version") == Some("13"), "{head:?}");
        }
        Ok(())
    });
}

#[test]
fn an_upgrade_without_a_key_is_a_bad_request() {
    check(async |gateway| {
        let host = gateway.node().listen();
        let head = answer_to(
            gateway,
            &format!(
                "GET /v1/connect?user=x HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\n\r\n"
            ),
        )
        .await?;
        ensure!(head.status == 400, "{}", head.status);
        Ok(())
    });
}

#[test]
fn a_query_that_cannot_be_read_is_a_bad_request() {
    check(async |gateway| {
        for query in ["user=x&format=xml", "user=%zz", "user=%ff", "user=x&auto=yes"] {
            let head = upgrade(gateway, query, &[]).await?;
            ensure!(head.status == 400, "?{query}: {}", head.status);
        }
        Ok(())
    });
}

#[test]
fn other_methods_and_other_paths_are_refused_with_their_status() {
    check(async |gateway| {
        let address = gateway.node().listen();
        for (method, target, allowed) in [
            ("POST", "/v1/connect?user=x", &[400, 405][..]),
            ("PUT", "/v1/connect", &[400, 405]),
            ("GET", "/v1", &[404]),
            ("GET", "/v1/connect/", &[404]),
            ("GET", "/v2/connect", &[404]),
            ("GET", "/../v1/connect", &[404, 400]),
            ("GET", "/socket.io/?EIO=4&transport=polling", &[404]),
            ("GET", "/metrics", &[404]),
            ("POST", "/v1/send", &[404, 405]),
        ] {
            let body: &[u8] = if method == "GET" { b"" } else { b"{}" };
            let answer = http::request(address, method, target, &[], body).await?;
            ensure!(allowed.contains(&answer.status()), "{method} {target}: {}", answer.status());
        }
        Ok(())
    });
}

#[test]
fn every_code_has_a_page_and_nothing_else_has() {
    check(async |gateway| {
        for (path, says) in [
            ("/docs/bad_request", "field"),
            ("/docs/rate_limited", "retry_ms"),
            ("/docs/4001", "4001"),
            ("/docs/1009", "max_bytes"),
        ] {
            let page = gateway.node().get(path).await?;
            ensure!(page.status() == 200, "{path}: {}", page.status());
            let kind = page.header("Content-Type").unwrap_or_default();
            ensure!(kind.starts_with("text/"), "{path} is {kind:?}");
            ensure!(page.text().contains(says), "{path} does not say {says:?}: {}", page.text());
        }
        for path in ["/docs/nothing", "/docs/4007", "/docs/bad_request/x", "/docs/%2e%2e"] {
            let page = gateway.node().get(path).await?;
            ensure!(page.status() == 404, "{path}: {}", page.status());
        }
        Ok(())
    });
}

#[test]
fn noise_instead_of_http_is_refused_or_cut() {
    check(async |gateway| {
        let noise: Vec<u8> = (0..2_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(50);
        let requests: [&[u8]; 5] = [
            &noise,
            &tls_hello,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /v1/connect\r\n\r\n",
            b"GET /v1/connect HTTP/1.1\r\nNo colon here\r\n\r\n",
        ];
        for request in requests {
            let mut raw = Raw::connect(gateway.node().listen()).await?;
            // Noise without an end of line is cut at the deadline for headers; that is `slowhdr`.
            let script = [Burst::once(request), Burst::once("\r\n\r\n")];
            let report = raw.play(&script, SOON).await;
            refused_or_cut(&report, &[400, 404, 414, 431, 505]).with_context(|| format!("{:?}", request.get(..20)))?;
        }
        Ok(())
    });
}

#[test]
fn a_subprotocol_is_echoed_only_when_it_was_offered() {
    check(async |gateway| {
        for (offered, expected) in [
            (None, None),
            (Some("switchboard.v1.json"), Some("switchboard.v1.json")),
            (Some("switchboard.v1.msgpack"), Some("switchboard.v1.msgpack")),
            (Some("chat, switchboard.v1.msgpack"), Some("switchboard.v1.msgpack")),
            (Some("chat"), None),
        ] {
            let offer = offered.map(|names| ("Sec-WebSocket-Protocol", names));
            let query = format!("user={}", gateway.user());
            let head = upgrade(gateway, &query, offer.as_slice()).await?;
            ensure!(head.status == 101, "{offered:?}: {}", head.status);
            let echoed = head.header("Sec-WebSocket-Protocol");
            ensure!(echoed == expected, "{offered:?}: {echoed:?}");
            ensure!(head.header("Sec-WebSocket-Extensions").is_none(), "no extension is spoken: {head:?}");
        }
        Ok(())
    });
}

#[test]
fn an_extension_that_is_offered_is_not_taken() {
    check(async |gateway| {
        let offer = [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")];
        let head = upgrade(gateway, &format!("user={}", gateway.user()), &offer).await?;
        ensure!(head.status == 101 && head.header("Sec-WebSocket-Extensions").is_none(), "{head:?}");
        Ok(())
    });
}

/// Several mini-program hosts cannot set a subprotocol.
#[test]
fn the_encoding_is_that_of_the_subprotocol_else_of_format_else_json() {
    check(async |gateway| {
        for (format, subprotocol, packs) in [
            (None, None, false),
            (Some("json"), None, false),
            (Some("msgpack"), None, true),
            (Some("json"), Some("switchboard.v1.msgpack"), true),
            (Some("msgpack"), Some("switchboard.v1.json"), false),
        ] {
            let format = format.map(|format| format!("&format={format}")).unwrap_or_default();
            let target = format!("/v1/connect?user={}{format}", gateway.user());
            let offer = subprotocol.map(|name| ("Sec-WebSocket-Protocol", name));
            let mut raw = Raw::open(gateway.node().listen(), &target, offer.as_slice()).await?;
            let hello =
                if packs { Frame::binary(b"\x81\xa4type\xa5hello") } else { Frame::text(hello(&[]).to_string()) };
            raw.send(&[hello]).await?;
            let welcome = raw.wait_for(SOON, |frame| frame["type"] == "welcome").await;
            welcome.with_context(|| format!("no welcome: {format:?} {subprotocol:?}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_user_that_is_no_id_gets_a_bye_and_4001_after_a_completed_upgrade() {
    check(async |gateway| {
        let long = "x".repeat(129);
        for query in ["user=a%2Fb", "user=a%00b", "user=", "", &format!("user={long}"), "user=%0d%0aX:y"] {
            let mut raw = Raw::open(gateway.node().listen(), &format!("/v1/connect?{query}"), &[]).await?;
            // Said at once or after the hello: the credentials could still have been in it.
            raw.send(&[Frame::text(hello(&[]).to_string())]).await?;
            let report = raw.outcome(SOON).await;
            said_goodbye(&report, 4001).with_context(|| format!("?{query}"))?;
            ensure!(report.frames.len() == 1, "nothing but the bye: {:?}", report.frames);
        }
        Ok(())
    });
}

#[test]
fn credentials_and_auto_in_the_request_get_a_welcome_without_a_hello() {
    check(async |gateway| {
        let user = gateway.user();
        let target = format!("/v1/connect?user={user}&auto=1");
        let mut raw = Raw::open(gateway.node().listen(), &target, &[]).await?;
        let welcome = raw.wait_for(SOON, |_| true).await.context("no frame")?;
        ensure!(welcome["type"] == "welcome" && welcome["user"] == json!(user), "{welcome}");
        ensure!(welcome["max_bytes"] == 65_536 && welcome["heartbeat_ms"] == 25_000, "{welcome}");
        let report = raw.outcome(std::time::Duration::from_millis(1)).await;
        if report.outcome != Outcome::StillOpen {
            return Err(unexpected(&report, "an open connection"));
        }
        Ok(())
    });
}
