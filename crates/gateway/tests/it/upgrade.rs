//! From a request to a WebSocket: what is refused and with what status, and what reaches the node.

use connection::{Credential, Opening};
use futures_util::{SinkExt, StreamExt};
use gateway::config::Origins;
use gateway::listener::HttpSettings;
use protocol::client::Codec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::fake::{Fixture, PATIENCE, Reply, request, settings};

const KEY: &str = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";

/// A good handshake with more headers, each with its line end.
async fn upgrade(fixture: &Fixture, query: &str, headers: &str) -> Reply {
    let host = fixture.client;
    let text = format!("GET /v1/connect{query} HTTP/1.1\r\nHost: {host}\r\n{UPGRADE}{KEY}{headers}\r\n");
    request(host, &text).await
}

/// The opening that reached the node.
async fn opening(fixture: &mut Fixture, query: &str, headers: &str) -> Opening {
    let reply = upgrade(fixture, query, headers).await;
    assert_eq!(reply.status, 101, "{query} {headers}: {}", reply.body);
    tokio::time::timeout(PATIENCE, fixture.openings.recv()).await.unwrap().unwrap()
}

fn token(text: &str) -> Option<Credential> {
    Some(Credential::Token(text.to_owned()))
}

fn user(text: &str) -> Option<Credential> {
    Some(Credential::User(text.to_owned()))
}

#[tokio::test]
async fn what_is_no_websocket_handshake_is_refused_with_its_own_status() {
    let fixture = Fixture::start(settings()).await;
    let plain = fixture.get("/v1/connect?user=alice").await;
    assert_eq!(plain.status, 426);
    assert_eq!(plain.header("upgrade"), Some("websocket"));
    assert_eq!(plain.header("sec-websocket-version"), Some("13"));
    for (headers, status) in [
        (format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{KEY}"), 426),
        (format!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n{KEY}"), 426),
        (UPGRADE.to_owned(), 400),
        (format!("{UPGRADE}Sec-WebSocket-Key: short\r\n"), 400),
        (format!("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{KEY}"), 400),
    ] {
        let text = format!("GET /v1/connect HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        assert_eq!(request(fixture.client, &text).await.status, status, "{headers}");
    }
    let old = format!("GET /v1/connect HTTP/1.0\r\nHost: h\r\n{UPGRADE}{KEY}\r\n");
    assert_eq!(request(fixture.client, &old).await.status, 400);
    assert_eq!(fixture.metric("switchboard_upgrades_refused_total{reason=\"not_upgrade\"}"), 3.0);
    assert_eq!(fixture.metric("switchboard_upgrades_refused_total{reason=\"handshake\"}"), 4.0);
}

/// DNS rebinding: a page whose own name has been pointed at 127.0.0.1 has the same host as its requests. Where nobody has
/// to show who he is, that was enough to be anybody.
#[tokio::test]
async fn a_page_whose_name_was_pointed_at_this_machine_is_refused_where_users_are_taken_at_their_word() {
    let fixture = Fixture::start(settings()).await;
    let port = fixture.client.port();
    let host = format!("evil.example:{port}");
    let text =
        format!("GET /v1/connect?user=a HTTP/1.1\r\nHost: {host}\r\n{UPGRADE}{KEY}Origin: http://{host}\r\n\r\n");
    assert_eq!(request(fixture.client, &text).await.status, 403);
    let local = text.replace("evil.example", "localhost");
    assert_eq!(request(fixture.client, &local).await.status, 101);
    let body = r#"{"to":"user:b","body":1}"#;
    let host = format!("evil.example:{}", fixture.internal.port());
    let head = format!(
        "POST /v1/send HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    assert_eq!(request(fixture.internal, &(head + body)).await.status, 403);
    assert!(fixture.node.sent.lock().is_empty());
}

#[tokio::test]
async fn a_page_of_another_origin_is_refused_before_the_upgrade() {
    let mut fixture = Fixture::start(settings()).await;
    let own = fixture.client;
    for origin in
        ["https://evil.example", "null", "", &format!("http://{own}.evil.example"), &format!("http://evil@{own}")]
    {
        let reply = upgrade(&fixture, "?user=a", &format!("Origin: {origin}\r\n")).await;
        assert_eq!(reply.status, 403, "{origin}");
    }
    let two = format!("Origin: http://{own}\r\nOrigin: http://evil.example\r\n");
    assert_eq!(upgrade(&fixture, "?user=a", &two).await.status, 403);
    assert_eq!(fixture.metric("switchboard_upgrades_refused_total{reason=\"origin\"}"), 6.0);
    opening(&mut fixture, "?user=a", &format!("Origin: http://{own}\r\n")).await;
    opening(&mut fixture, "?user=a", "").await;
}

#[tokio::test]
async fn an_allow_list_replaces_the_own_host() {
    let list = "https://app.example.com".to_owned();
    let origin = gateway::config::Origin::parse(&list).unwrap();
    let mut fixture = Fixture::start(HttpSettings { origins: Origins::List(vec![origin]), ..settings() }).await;
    opening(&mut fixture, "", "Origin: https://app.example.com\r\n").await;
    for origin in [&format!("http://{}", fixture.client), "https://app.example.com.evil.com", "http://app.example.com"]
    {
        assert_eq!(upgrade(&fixture, "", &format!("Origin: {origin}\r\n")).await.status, 403, "{origin}");
    }
}

#[tokio::test]
async fn the_encoding_comes_from_the_subprotocol_else_from_the_query_else_it_is_json() {
    let mut fixture = Fixture::start(settings()).await;
    let offer = |names: &str| format!("Sec-WebSocket-Protocol: {names}\r\n");
    for (query, headers, codec, echoed) in [
        ("", String::new(), Codec::JSON, None),
        ("?format=json", String::new(), Codec::JSON, None),
        ("?format=msgpack", String::new(), Codec::MSGPACK, None),
        ("", offer("switchboard.v1.msgpack"), Codec::MSGPACK, Some("switchboard.v1.msgpack")),
        ("", offer("chat, switchboard.v1.json, switchboard.v1.msgpack"), Codec::JSON, Some("switchboard.v1.json")),
        ("", offer("chat") + &offer("switchboard.v1.msgpack"), Codec::MSGPACK, Some("switchboard.v1.msgpack")),
        ("?format=msgpack", offer("switchboard.v1.json"), Codec::JSON, Some("switchboard.v1.json")),
        ("?format=msgpack", offer("chat"), Codec::MSGPACK, None),
        ("", offer("msgpack"), Codec::JSON, None),
    ] {
        let reply = upgrade(&fixture, query, &headers).await;
        assert_eq!(reply.status, 101, "{query} {headers}");
        assert_eq!(reply.header("sec-websocket-protocol"), echoed, "{query} {headers}");
        let opening = fixture.openings.recv().await.unwrap();
        assert_eq!(opening.codec, codec, "{query} {headers}");
    }
}

#[tokio::test]
async fn a_query_that_cannot_be_understood_is_refused() {
    let fixture = Fixture::start(settings()).await;
    for (query, expected) in [
        ("?format=xml", "expected json or msgpack"),
        ("?format=", "expected json or msgpack"),
        ("?format=switchboard.v1.json", "expected json or msgpack"),
        ("?auto=yes", "`auto`"),
        ("?user=%ff", "`user`"),
        ("?token=hush1&token=hush2", "`token` comes twice"),
    ] {
        let reply = upgrade(&fixture, query, "").await;
        assert_eq!(reply.status, 400, "{query}");
        assert!(reply.body.contains(expected) && !reply.body.contains("hush"), "{query}: {}", reply.body);
    }
    assert_eq!(fixture.metric("switchboard_upgrades_refused_total{reason=\"query\"}"), 6.0);
}

#[tokio::test]
async fn credentials_are_taken_along_and_not_looked_at() {
    let mut fixture = Fixture::start(settings()).await;
    for (query, headers, credential) in [
        ("", "", None),
        ("?user=alice", "", user("alice")),
        ("?user=%C3%A5%2Fb", "", user("å/b")),
        ("?token=nonsense", "", token("nonsense")),
        ("?token=", "", token("")),
        ("?user=alice&token=t", "", token("t")),
        ("?token=t", "Authorization: Bearer h.e.ad\r\n", token("h.e.ad")),
        ("?user=alice", "Authorization: bearer x\r\n", token("x")),
        ("?user=alice", "Authorization: Basic eDp5\r\n", user("alice")),
    ] {
        assert_eq!(opening(&mut fixture, query, headers).await.credential, credential, "{query} {headers}");
    }
    let said = opening(&mut fixture, "?user=a&auto=1&cursor=abc%2F", "").await;
    assert!(said.auto);
    assert_eq!(said.cursor.as_deref(), Some("abc/"));
    let said = opening(&mut fixture, "?auto=0", "").await;
    assert_eq!((said.auto, said.cursor), (false, None));
}

#[tokio::test]
async fn with_tokens_a_user_in_the_query_is_no_credential() {
    let mut fixture = Fixture::start(HttpSettings { takes_users: false, ..settings() }).await;
    assert_eq!(opening(&mut fixture, "?user=alice", "").await.credential, None);
    assert_eq!(opening(&mut fixture, "?user=alice&token=t", "").await.credential, token("t"));
}

#[tokio::test]
async fn after_the_upgrade_frames_pass_both_ways() {
    let fixture = Fixture::start(settings()).await;
    let request = format!("ws://{}/v1/connect?user=alice", fixture.client).into_client_request().unwrap();
    let stream = TcpStream::connect(fixture.client).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    for text in ["short".to_owned(), "x".repeat(65_536)] {
        socket.send(Message::text(text.clone())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap().as_str(), text);
    }
    // More than `max_bytes`: the node's end reads an error, and the connection ends.
    let _ = socket.send(Message::text("x".repeat(65_537))).await;
    assert!(!matches!(socket.next().await, Some(Ok(Message::Text(_)))));
}

/// A client need not wait for the answer: what it sends right behind its request is read with it, and must not be lost.
#[tokio::test]
async fn a_frame_that_comes_with_the_request_is_not_lost() {
    let fixture = Fixture::start(settings()).await;
    let mut stream = TcpStream::connect(fixture.client).await.unwrap();
    let mut bytes = format!("GET /v1/connect HTTP/1.1\r\nHost: h\r\n{UPGRADE}{KEY}\r\n").into_bytes();
    bytes.extend_from_slice(b"\x81\x85\0\0\0\0early");
    stream.write_all(&bytes).await.unwrap();
    let mut got = Vec::new();
    let read = async {
        while !got.ends_with(b"\x81\x05early") {
            let mut piece = [0; 512];
            let count = stream.read(&mut piece).await.unwrap();
            assert_ne!(count, 0, "closed after {:?}", String::from_utf8_lossy(&got));
            got.extend_from_slice(&piece[..count]);
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap();
}
