//! Members of groups and presence over a real socket.

use serde_json::json;

use crate::fake::{Fixture, Reply, request, settings, with_key};

/// A call without a body.
async fn call(fixture: &Fixture, method: &str, path: &str) -> Reply {
    request(fixture.internal, &format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n\r\n", fixture.internal)).await
}

#[tokio::test]
async fn a_member_is_put_in_and_taken_out_by_the_names_in_the_path() {
    let fixture = Fixture::start(settings()).await;
    let put = call(&fixture, "PUT", "/v1/groups/den/members/bob").await;
    assert_eq!((put.status, put.json()), (200, json!({"mseq": 17, "members": 3})));
    let gone = call(&fixture, "DELETE", "/v1/groups/den/members/bob").await;
    assert_eq!((gone.status, gone.json()), (200, json!({"members": 2})));
    let gone = call(&fixture, "DELETE", "/v1/groups/unknown/members/bob").await;
    assert_eq!((gone.status, gone.json()), (200, json!({})), "how many are left may not be known");
    // Names with spaces, signs and other letters; a plus in a path is a plus.
    call(&fixture, "PUT", "/v1/groups/a%3Ab%20c/members/%C3%A5lice+1").await;
    let asked = fixture.node.asked.lock();
    assert_eq!(*asked, ["join den bob", "remove den bob", "remove unknown bob", "join a:b c ålice+1"]);
    assert_eq!(fixture.metric("switchboard_api_requests_total{code=\"200\"}"), 4.0);
}

#[tokio::test]
async fn a_group_that_takes_nobody_and_a_master_that_is_away_answer_as_a_send_does() {
    let fixture = Fixture::start(settings()).await;
    let full = call(&fixture, "PUT", "/v1/groups/full/members/bob").await;
    let expected = json!({"error": {"code": "forbidden", "message": "as the test says"}});
    assert_eq!((full.status, full.json()), (403, expected));
    for (method, path) in [
        ("PUT", "/v1/groups/away/members/b"),
        ("DELETE", "/v1/groups/away/members/b"),
        ("GET", "/v1/groups/away/members"),
    ] {
        let away = call(&fixture, method, path).await;
        assert_eq!((away.status, away.header("retry-after")), (503, Some("1")), "{method}");
        assert_eq!(away.json()["error"]["code"], "unavailable");
    }
}

#[tokio::test]
async fn members_come_in_parts_with_their_profiles() {
    let fixture = Fixture::start(settings()).await;
    let first = call(&fixture, "GET", "/v1/groups/den/members?limit=2").await;
    let expected = json!({
        "members": [{"user": "alice", "profile": {"name": "Alice"}}, {"user": "bob"}],
        "total": 3, "more": true, "after": "here"
    });
    assert_eq!((first.status, first.json()), (200, expected));
    let rest = call(&fixture, "GET", "/v1/groups/den/members?after=here&limit=1000").await;
    assert_eq!(rest.json(), json!({"members": [{"user": "carol"}], "total": 3, "more": false}));
    call(&fixture, "GET", "/v1/groups/den/members?").await;
    let asked = fixture.node.asked.lock();
    assert_eq!(*asked, ["members den None 2", "members den Some(\"here\") 1000", "members den None 100"]);
}

#[tokio::test]
async fn presence_names_everybody_who_was_asked_about() {
    let fixture = Fixture::start(settings()).await;
    let reply = call(&fixture, "GET", "/v1/presence?user=alice&user=nobody&user=%C3%A5+b").await;
    let here = json!({
        "version": 5, "online": true, "at": 7, "devices": [{"device": "phone", "since": 6}], "profile": {"name": "A"}
    });
    let away = json!({"version": 0, "online": false, "at": 0, "devices": []});
    assert_eq!((reply.status, reply.json()), (200, json!({"online": {"alice": here, "nobody": away, "å b": here}})));
}

#[tokio::test]
async fn what_is_no_call_is_told_by_what_was_expected() {
    let fixture = Fixture::start(settings()).await;
    let long = "x".repeat(129);
    let many = "user=x&".repeat(1_001);
    for (method, path, expected) in [
        ("PUT", format!("/v1/groups/{long}/members/bob"), "the group in the path: an ID has at most 128 bytes"),
        ("PUT", format!("/v1/groups/den/members/{long}"), "`user`: an ID has at most 128 bytes"),
        ("PUT", "/v1/groups//members/bob".into(), "the group in the path: an ID has at least 1 byte"),
        ("PUT", "/v1/groups/den/members/".into(), "`user`: an ID has at least 1 byte"),
        ("PUT", "/v1/groups/a%2Fb/members/bob".into(), "the group in the path: an ID has no '/'"),
        ("DELETE", "/v1/groups/den/members/a%0Ab".into(), "`user`: an ID has no control characters"),
        ("DELETE", "/v1/groups/den/members/%ff".into(), "the user in the path is not percent-encoded UTF-8"),
        ("PUT", "/v1/groups/%/members/bob".into(), "the group in the path is not percent-encoded UTF-8"),
        ("PUT", "/v1/groups/den/members/bob?until=x".into(), "\"until\" is no parameter of this path: expected none"),
        ("GET", "/v1/groups/den/members?limit=0".into(), "`limit`: expected 1 to 1000, got \"0\""),
        ("GET", "/v1/groups/den/members?limit=1000000".into(), "`limit`: expected 1 to 1000"),
        ("GET", "/v1/groups/den/members?limit=-1".into(), "`limit`: expected 1 to 1000"),
        ("GET", "/v1/groups/den/members?limit=".into(), "`limit`: expected 1 to 1000"),
        ("GET", "/v1/groups/den/members?limit=1&limit=2".into(), "`limit` comes twice"),
        ("GET", "/v1/groups/den/members?from=1".into(), "\"from\" is no parameter of this path: expected after, limit"),
        ("GET", "/v1/presence".into(), "`user`: expected 1 to 1000 of them, got 0"),
        ("GET", format!("/v1/presence?{many}"), "`user`: expected 1 to 1000 of them, got 1001"),
        ("GET", "/v1/presence?user=a/b".into(), "`user`: an ID has no '/'"),
        ("GET", "/v1/presence?user=".into(), "`user`: an ID has at least 1 byte"),
        ("GET", "/v1/presence?group=den".into(), "\"group\" is no parameter of this path: expected user"),
    ] {
        let reply = call(&fixture, method, &path).await;
        let (path, error) = (&path[..path.len().min(60)], &reply.json()["error"]);
        assert_eq!((reply.status, &error["code"]), (400, &json!("bad_request")), "{path}: {error}");
        assert!(error["message"].as_str().unwrap().contains(expected), "{path}: {error}");
    }
    assert!(fixture.node.asked.lock().is_empty(), "nothing was executed");
}

#[tokio::test]
async fn a_method_that_a_path_does_not_take_and_a_path_that_is_none() {
    let fixture = Fixture::start(settings()).await;
    for (method, path, allowed) in [
        ("POST", "/v1/groups/den/members/bob", "put, delete"),
        ("GET", "/v1/groups/den/members/bob", "put, delete"),
        ("PUT", "/v1/groups/den/members", "get"),
        ("POST", "/v1/presence", "get"),
    ] {
        let reply = call(&fixture, method, path).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allowed)), "{method} {path}");
    }
    for path in ["/v1/groups", "/v1/groups/den", "/v1/groups/den/people", "/v1/groups/den/members/b/c", "/v1/presences"]
    {
        let reply = call(&fixture, "GET", path).await;
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &json!("not_found")), "{path}");
        assert!(reply.body.contains("/v1/groups/GROUP/members"), "{}", reply.body);
    }
}

#[tokio::test]
async fn calls_about_people_take_no_body_and_bound_what_comes() {
    let fixture = Fixture::start(settings()).await;
    let with = |body: &str| {
        let length = body.len();
        format!("PUT /v1/groups/den/members/bob HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let reply = request(fixture.internal, &with(r#"{"role":"admin"}"#)).await;
    assert_eq!((reply.status, &reply.json()["error"]["message"]), (400, &json!("this call takes no body")));
    assert_eq!(request(fixture.internal, &with(&"x".repeat((1 << 20) + 1))).await.status, 413);
    let unfinished = "PUT /v1/groups/den/members/bob HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{";
    assert_eq!(request(fixture.internal, unfinished).await.status, 408);
    assert!(fixture.node.asked.lock().is_empty());
    assert_eq!(request(fixture.internal, &with("")).await.status, 200);
}

#[tokio::test]
async fn without_the_key_nobody_learns_who_is_there() {
    let fixture = Fixture::start(with_key("the key")).await;
    for (method, path) in [
        ("PUT", "/v1/groups/den/members/bob"),
        ("DELETE", "/v1/groups/den/members/bob"),
        ("GET", "/v1/groups/den/members"),
        ("GET", "/v1/presence?user=bob"),
        ("GET", "/v1/groups/den/members?limit=0"),
    ] {
        assert_eq!(call(&fixture, method, path).await.status, 401, "{method} {path}");
    }
    let page = "GET /v1/presence?user=bob HTTP/1.1\r\nHost: h\r\nOrigin: https://evil.example\r\n\r\n";
    assert_eq!(request(fixture.internal, page).await.status, 403);
    assert!(fixture.node.asked.lock().is_empty());
    let good = "GET /v1/presence?user=bob HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer the key\r\n\r\n";
    assert_eq!(request(fixture.internal, good).await.status, 200);
}
