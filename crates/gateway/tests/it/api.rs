//! `POST /v1/send` over a real socket.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::fake::{Fixture, read_to_end, request, settings, with_key};

#[tokio::test]
async fn one_message_is_sent_with_its_body_as_it_came() {
    let fixture = Fixture::start(settings()).await;
    let reply = fixture
        .post("", r#" {"to":"user:bob","body": {"n": 1.50, "a":[ ]} ,"id":"m1","from":"service:billing"} "#)
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let expected = json!({"type": "sent", "id": "m1", "ref": "ref-1", "at": 1_700_000_000_000u64, "online": true});
    assert_eq!(reply.json(), expected);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let sent = fixture.node.sent.lock();
    assert_eq!(
        (sent[0].to.to_string(), sent[0].from.to_string()),
        ("user:bob".to_owned(), "service:billing".to_owned())
    );
    assert_eq!(&*sent[0].body.bytes, br#"{"n": 1.50, "a":[ ]}"#, "byte for byte");
    assert!(!sent[0].ephemeral && sent[0].retry_age_ms.is_none() && sent[0].expires_ms.is_none());
}

#[tokio::test]
async fn what_is_left_out_has_its_default() {
    let fixture = Fixture::start(settings()).await;
    let ids: Vec<Value> = [
        fixture.post("", r#"{"to":"user:b","body":null,"id":null}"#).await.json()["id"].clone(),
        fixture.post("", r#"{"to":"user:b","body":0,"ephemeral":true}"#).await.json()["id"].clone(),
    ]
    .into();
    assert_ne!(ids[0], ids[1], "an id of its own");
    assert!(ids[0].as_str().unwrap().len() >= 16);
    let again = r#"{"to":"user:b/phone","body":"x","ephemeral":true,"expires_ms":5}"#;
    assert_eq!(fixture.post("", again).await.status, 200);
    let again = r#"{"to":"user:b","body":"x","retry":true,"age_ms":300}"#;
    assert_eq!(fixture.post("", again).await.status, 200);
    let sent = fixture.node.sent.lock();
    assert_eq!(sent[0].from.to_string(), "service:api");
    assert_eq!(&*sent[0].body.bytes, b"null");
    assert!(sent[1].ephemeral);
    assert_eq!(sent[2].expires_ms, Some(5));
    assert_eq!(sent[3].retry_age_ms, Some(300));
}

#[tokio::test]
async fn an_array_is_sent_in_order_and_answered_in_order() {
    let fixture = Fixture::start(settings()).await;
    let mut wanted: Vec<Value> = (0..50).map(|n| json!({"to": "user:bob", "body": n, "id": format!("m{n}")})).collect();
    wanted[7] = json!({"to": "bob", "body": 7, "id": "m7"});
    wanted[8] = json!({"to": "user:busy", "body": 8, "id": "m8"});
    wanted[9] = json!({"to": "user:lost", "body": 9, "id": "m9"});
    let reply = fixture.post("", &json!(wanted).to_string()).await;
    assert_eq!(reply.status, 200);
    let answers = reply.json();
    for n in 0..50 {
        let answer = &answers[n];
        assert_eq!(answer["id"], format!("m{n}"));
        assert_eq!(answer["type"], if (7..10).contains(&n) { "error" } else { "sent" }, "{answer}");
    }
    assert_eq!(answers[7]["code"], "bad_request");
    assert!(answers[7]["message"].as_str().unwrap().contains("`to`: expected user:ID"));
    assert_eq!((&answers[8]["code"], &answers[8]["retry_ms"]), (&json!("overloaded"), &json!(1_200)));
    assert_eq!((&answers[9]["code"], &answers[9]["final"]), (&json!("unknown_outcome"), &json!(true)));
    let bodies: Vec<String> =
        fixture.node.sent.lock().iter().map(|m| String::from_utf8_lossy(&m.body.bytes).into_owned()).collect();
    let expected: Vec<String> = (0..50).filter(|n| *n != 7).map(|n| n.to_string()).collect();
    assert_eq!(bodies, expected);
    assert_eq!(fixture.post("", "[]").await.json(), json!([]));
}

#[tokio::test]
async fn a_fault_of_the_one_message_is_the_call_s_own() {
    let fixture = Fixture::start(settings()).await;
    let busy = fixture.post("", r#"{"to":"user:busy","body":1}"#).await;
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("2")));
    let expected = json!({"error": {"code": "overloaded", "message": "as the test says", "retry_ms": 1_200}});
    assert_eq!(busy.json(), expected);
    let lost = fixture.post("", r#"{"to":"user:lost","body":1}"#).await;
    assert_eq!((lost.status, &lost.json()["error"]["final"]), (503, &json!(true)));
    assert_eq!(fixture.metric("switchboard_api_requests_total{code=\"503\"}"), 2.0);
}

#[tokio::test]
async fn what_is_no_message_is_told_by_field() {
    let fixture = Fixture::start(settings()).await;
    for (body, expected) in [
        ("", "expected a JSON map"),
        ("7", "expected a JSON map, or an array of maps"),
        ("null", "expected a JSON map"),
        ("\"text\"", "expected a JSON map"),
        ("[1]", "expected a JSON map, or an array of maps"),
        ("{\"to\":\"user:b\",\"body\":1", "ends in the middle"),
        ("{\"to\":\"user:b\",\"body\":1} x", "bytes behind"),
        ("{}", "`to` is missing: expected an address"),
        (r#"{"to":"user:bob"}"#, "`body` is missing: expected any value"),
        (r#"{"to":"bob","body":1}"#, "`to`: expected user:ID"),
        (r#"{"to":7,"body":1}"#, "`to`: expected a text, got a number"),
        (r#"{"to":"user:b","body":1,"from":"me"}"#, "`from`: expected user:ID"),
        (r#"{"to":"user:b","body":1,"id":""}"#, "`id`: an ID has at least 1 byte"),
        (r#"{"to":"user:b","body":1,"id":7}"#, "`id`: expected a text, got a number"),
        (r#"{"to":"user:b","body":1,"ephemeral":"yes"}"#, "`ephemeral`: expected true or false, got a text"),
        (r#"{"to":"user:b","body":1,"retry":true}"#, "`age_ms` is missing"),
        (r#"{"to":"user:b","body":1,"retry":true,"age_ms":-1}"#, "`age_ms`: expected a whole number from 0 on"),
        (r#"{"to":"user:b","body":1,"retry":true,"age_ms":1,"ephemeral":true}"#, "`retry`: an ephemeral message"),
        (r#"{"to":"user:b","body":1,"expires_ms":0}"#, "`expires_ms`: expected at least 1"),
        (r#"{"to":"user:b","body":1,"ack":"soon"}"#, "`ack`: expected"),
        (r#"{"to":"user:b","body":1,"ephemeral":true,"ack":"replicated"}"#, "`ack`: an ephemeral message"),
        (r#"{"to":"user:b/phone","body":1}"#, "`to`: one device takes ephemeral messages only"),
        (r#"{"to":"user:b","body":1,"recipient":"x"}"#, "`recipient` is no field of a message: expected to, body, id"),
        (r#"{"to":"user:b","body":1,"type":"send"}"#, "`type` is no field of a message"),
    ] {
        let reply = fixture.post("", body).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.body);
        let error = &reply.json()["error"];
        assert_eq!(error["code"], "bad_request", "{body}");
        assert!(error["message"].as_str().unwrap().contains(expected), "{body}: {error}");
    }
    assert!(fixture.node.sent.lock().is_empty(), "nothing was executed");
}

#[tokio::test]
async fn an_idempotency_key_is_the_id_of_the_one_message() {
    let fixture = Fixture::start(settings()).await;
    let key = "Idempotency-Key: order-7\r\n";
    assert_eq!(fixture.post(key, r#"{"to":"user:b","body":1}"#).await.json()["id"], "order-7");
    assert_eq!(fixture.post(key, r#"{"to":"user:b","body":1,"id":"order-7"}"#).await.status, 200);
    let reply = fixture.post(key, r#"{"to":"user:b","body":1,"id":"order-8"}"#).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (409, &json!("conflict")));
    assert_eq!(fixture.post(key, r#"[{"to":"user:b","body":1}]"#).await.status, 400);
    assert_eq!(fixture.post("Idempotency-Key: a/b\r\n", r#"{"to":"user:b","body":1}"#).await.status, 400);
    assert_eq!(fixture.node.sent.lock().len(), 2);
}

#[tokio::test]
async fn without_the_key_nobody_gets_in_and_probes_need_none() {
    let fixture = Fixture::start(with_key("the key")).await;
    let body = r#"{"to":"user:b","body":1}"#;
    let with = |key: &str| format!("Authorization: {key}\r\n");
    for headers in [
        "",
        &with("Bearer "),
        &with("Bearer the ke"),
        &with("Bearer the keyx"),
        &with("Basic the key"),
        &with("the key"),
    ] {
        let reply = fixture.post(headers, body).await;
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (401, &json!("unauthorized")), "{headers}");
        assert_eq!(reply.header("www-authenticate"), Some("bearer"));
    }
    assert_eq!(fixture.post(&with("Bearer the key"), body).await.status, 200);
    assert_eq!(fixture.get_internal("/v1/nothing").await.status, 401, "nor learns what there is");
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(fixture.get_internal(path).await.status, 200);
    }
    let text = "GET /v1/nothing HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer the key\r\n\r\n";
    let reply = request(fixture.internal, text).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &json!("not_found")));
}

/// A browser on the operator's machine reaches loopback, too, and a simple POST needs no permission of ours.
#[tokio::test]
async fn a_page_of_elsewhere_cannot_call() {
    let fixture = Fixture::start(settings()).await;
    let reply = fixture.post("Origin: https://evil.example\r\n", r#"{"to":"user:b","body":1}"#).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (403, &json!("forbidden")));
    assert!(fixture.node.sent.lock().is_empty());
}

#[tokio::test]
async fn too_much_is_413() {
    let fixture = Fixture::start(settings()).await;
    let large = format!(r#"{{"to":"user:b","body":"{}"}}"#, "x".repeat(1 << 20));
    let reply = fixture.post("", &large).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (413, &json!("too_large")));
    let asked = fixture.post("Expect: 100-continue\r\n", &large).await;
    assert_eq!(asked.status, 413);
    let chunked = format!(
        "POST /v1/send HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    assert_eq!(request(fixture.internal, &chunked).await.status, 413);
    let many = json!(vec![json!({"to": "user:b", "body": 1}); 1_001]).to_string();
    let reply = fixture.post("", &many).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (413, &json!("too_large")));
    assert!(fixture.node.sent.lock().is_empty());
    let most = json!(vec![json!({"to": "user:b", "body": 1}); 1_000]).to_string();
    assert_eq!(fixture.post("", &most).await.json().as_array().unwrap().len(), 1_000);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let fixture = Fixture::start(settings()).await;
    let reply = request(fixture.internal, "POST /v1/send HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{").await;
    assert_eq!(reply.status, 408);
    let mut stream = TcpStream::connect(fixture.internal).await.unwrap();
    stream.write_all(b"POST /v1/send HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{").await.unwrap();
    assert!(read_to_end(&mut stream).await.is_some(), "and the connection ends");
}
