//! A table of credentials, good and bad. Tokens are signed here by hand, so that the library cannot agree with itself.

use jsonwebtoken::crypto::sign;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use super::*;
use crate::config::{Facts, RawConfig, Source, Written};

const SECRET: &str = "a development secret of more than thirty-two bytes";
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const NOW_S: u64 = NOW.0 / 1_000;

fn authenticator(settings: &[(&str, &str)]) -> Authenticator {
    let mut raw = RawConfig::default();
    for (key, text) in settings {
        let written = Some(Written { text: (*text).to_owned(), source: Source::Flag });
        match *key {
            "auth" => raw.auth = written,
            "jwt-secret" => raw.jwt_secret = written,
            "jwt-issuer" => raw.jwt_issuer = written,
            "jwt-audience" => raw.jwt_audience = written,
            "can-send" => raw.can_send = written,
            "can-join" => raw.can_join = written,
            "can-look" => raw.can_look = written,
            other => panic!("{other}"),
        }
    }
    let facts = Facts { host_name: Some("h".to_owned()), cores: 1 };
    Authenticator::new(&Config::check(&raw, &facts).unwrap())
}

fn jwt() -> Authenticator {
    authenticator(&[("auth", "jwt"), ("jwt-secret", SECRET)])
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for piece in bytes.chunks(3) {
        let word = piece.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - piece.len()));
        for index in 0..=piece.len() {
            out.push(char::from(ALPHABET[(word >> (18 - 6 * index)) as usize & 63]));
        }
    }
    out
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()))
}

fn signed(header: &Value, claims: &Value, secret: &str) -> String {
    let message = unsigned(header, claims);
    // The provider is installed by the first Authenticator; a test that runs first must not depend on another.
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let signature = sign(message.as_bytes(), &EncodingKey::from_secret(secret.as_bytes()), Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn token(claims: &Value) -> String {
    signed(&json!({"alg": "HS256", "typ": "JWT"}), claims, SECRET)
}

fn verify(with: &Authenticator, token: &str) -> Result<Identity, Refused> {
    with.verify(&Credential::Token(token.to_owned()), NOW)
}

/// The refusal's text; panics where somebody was let in.
fn refused(with: &Authenticator, token: &str) -> String {
    match verify(with, token) {
        Err(Refused::Unauthorized(text)) => {
            let shown = token.get(..20).unwrap_or("too short to be known");
            assert!(!text.contains(shown), "a credential in a refusal: {text}");
            text
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_good_token_says_who_comes_on_what_device_and_until_when() {
    let claims = json!({
        "sub": "alice", "exp": NOW_S + 60, "nbf": NOW_S, "iat": NOW_S, "device": "phone", "groups": ["den", "a:b"],
        "profile": {"name": "Alice"}, "can": {"send": ["user:*", "all"], "join": ["group:den*"], "look": []}, "own": [1]
    });
    let identity = verify(&jwt(), &token(&claims)).unwrap();
    assert_eq!(identity.user.as_str(), "alice");
    assert_eq!(identity.device.map(|device| device.to_string()).as_deref(), Some("phone"));
    assert_eq!(identity.expires, Some(UnixMillis((NOW_S + 60) * 1_000)));
    assert_eq!(identity.groups.iter().map(ToString::to_string).collect::<Vec<_>>(), ["den", "a:b"]);
    assert_eq!(identity.profile.as_deref(), Some(r#"{"name":"Alice"}"#));
    let identity = verify(&jwt(), &token(&json!({"sub": "bob", "exp": NOW_S as f64 + 0.5}))).unwrap();
    assert!(identity.groups.is_empty() && identity.profile.is_none());
    assert_eq!((identity.device, identity.expires), (None, Some(UnixMillis(NOW.0 + 500))));
    let forever = verify(&jwt(), &token(&json!({"sub": "bob", "exp": 1e300}))).unwrap();
    assert_eq!(forever.expires, Some(UnixMillis(1 << 53)));
}

/// Whether a right names each of these.
fn names(right: &connection::Right, addresses: [&str; 5]) -> [bool; 5] {
    addresses.map(|address| right.names(&protocol::Address::parse(address).unwrap()))
}

const ADDRESSES: [&str; 5] = ["user:bob", "user:eve", "group:den", "group:hall", "all"];

#[test]
fn a_token_with_rights_has_exactly_those() {
    let can = |can: Value| verify(&jwt(), &token(&json!({"sub": "a", "exp": NOW_S + 60, "can": can}))).unwrap().rights;
    let rights = can(json!({"send": ["user:b*", "all"], "join": ["group:den", "own"]}));
    assert_eq!(names(&rights.send, ADDRESSES), [true, false, false, false, true]);
    assert_eq!(names(&rights.join, ADDRESSES), [false, false, true, false, false]);
    assert_eq!((rights.send.own, rights.join.own), (false, true));
    assert_eq!(*rights.look, connection::Right::default(), "a list that is missing allows nothing");
    assert_eq!(can(json!({})), connection::Rights::default());
}

#[test]
fn a_token_without_rights_has_those_of_the_configuration() {
    let plain = token(&json!({"sub": "a", "exp": NOW_S + 60}));
    let rights = verify(&jwt(), &plain).unwrap().rights;
    assert_eq!(names(&rights.send, ADDRESSES), [true, true, false, false, false]);
    assert_eq!(names(&rights.join, ADDRESSES), [false; 5]);
    assert_eq!(names(&rights.look, ADDRESSES), [false; 5]);
    assert!(rights.send.own && rights.join.own && rights.look.own);

    let settings = [("auth", "jwt"), ("jwt-secret", SECRET), ("can-send", "none"), ("can-look", "group:*,user:bob")];
    let with = authenticator(&[&settings[..], &[("can-join", "group:h*")]].concat());
    let rights = verify(&with, &plain).unwrap().rights;
    assert_eq!(*rights.send, connection::Right::default());
    assert_eq!(names(&rights.join, ADDRESSES), [false, false, false, true, false]);
    assert_eq!(names(&rights.look, ADDRESSES), [true, false, true, true, false]);
    assert!(!rights.join.own && !rights.look.own);
    let own = token(&json!({"sub": "a", "exp": NOW_S + 60, "can": {"send": ["all"]}}));
    assert_eq!(names(&verify(&with, &own).unwrap().rights.send, ADDRESSES), [false, false, false, false, true]);
}

#[test]
fn without_authentication_everything_is_allowed_whatever_is_configured() {
    let none = authenticator(&[("auth", "none"), ("can-send", "none"), ("can-join", "none")]);
    let rights = none.verify(&Credential::User("alice".to_owned()), NOW).unwrap().rights;
    for right in [&rights.send, &rights.join, &rights.look] {
        assert_eq!(names(right, ADDRESSES), [true; 5]);
    }
}

#[test]
fn a_group_that_a_token_names_twice_is_joined_once() {
    let claims = json!({"sub": "a", "exp": NOW_S + 60, "groups": ["x", "y", "x"]});
    assert_eq!(verify(&jwt(), &token(&claims)).unwrap().groups.len(), 2);
}

#[test]
fn an_expired_token_is_told_apart() {
    for ago in [0, 1, 29, 3_600] {
        assert_eq!(verify(&jwt(), &token(&json!({"sub": "a", "exp": NOW_S - ago}))), Err(Refused::Expired), "{ago} s");
    }
    let old_and_wrong = token(&json!({"sub": "a/b", "exp": NOW_S - 60}));
    assert!(refused(&jwt(), &old_and_wrong).contains("`sub`"), "a new one like it would be no better");
}

#[test]
fn a_token_works_a_little_before_its_time_and_not_much() {
    let with_nbf = |ahead: u64| token(&json!({"sub": "a", "exp": NOW_S + 600, "nbf": NOW_S + ahead}));
    assert!(verify(&jwt(), &with_nbf(30)).is_ok());
    assert!(refused(&jwt(), &with_nbf(31)).contains("not valid yet"));
}

#[test]
fn claims_that_are_missing_or_have_another_shape_are_named() {
    let good = json!({"sub": "a", "exp": NOW_S + 60});
    assert!(verify(&jwt(), &token(&good)).is_ok());
    for (name, value, expected) in [
        ("sub", None, "`sub` is missing"),
        ("sub", Some(json!("")), "`sub` is no user's ID: an ID has at least 1 byte"),
        ("sub", Some(json!("a/b")), "`sub` is no user's ID"),
        ("sub", Some(json!("a\r\nb")), "`sub` is no user's ID"),
        ("sub", Some(json!("x".repeat(129))), "`sub` is no user's ID"),
        ("sub", Some(json!(7)), "`sub`: expected a text"),
        ("sub", Some(json!(null)), "`sub`: expected a text"),
        ("exp", None, "`exp` is missing"),
        ("exp", Some(json!((NOW_S + 60).to_string())), "`exp`: expected seconds since 1970 as a number"),
        ("exp", Some(json!(null)), "`exp`: expected seconds"),
        ("exp", Some(json!(-1)), "`exp`: expected seconds"),
        ("exp", Some(json!([NOW_S + 60])), "not the JSON of an HS256 token"),
        ("nbf", Some(json!("0")), "`nbf`: expected seconds"),
        ("iss", Some(json!(1)), "`iss`: expected a text"),
        ("aud", Some(json!(1)), "`aud`: expected a text or an array of texts"),
        ("aud", Some(json!([1])), "`aud`: expected a text or an array"),
        ("device", Some(json!("a/b")), "`device` is no ID"),
        ("device", Some(json!(1)), "`device`: expected a text"),
        ("groups", Some(json!("den")), "`groups`: expected an array"),
        ("groups", Some(json!(["a/b"])), "`groups`: expected an array"),
        ("groups", Some(json!(vec!["g"; 257])), "`groups`: expected an array of at most 256"),
        ("profile", Some(json!([])), "`profile`: expected a map"),
        ("profile", Some(json!({"x": "y".repeat(1_024)})), "`profile`: expected a map of at most 1024 bytes"),
        ("can", Some(json!(["send"])), "`can`: expected a map"),
        ("can", Some(json!({"sent": []})), "`can`: expected a map of `send`"),
        ("can", Some(json!({"send": "user:*"})), "`can`: expected a map"),
        ("can", Some(json!({"send": ["*"]})), "`can`: expected a map"),
        ("can", Some(json!({"send": [7]})), "`can`: expected a map"),
        ("can", Some(json!({"look": ["none"]})), "`can`: expected a map"),
        ("can", Some(json!({"join": vec!["group:x"; 257]})), "`can`: expected a map"),
    ] {
        let mut claims = good.clone();
        let map = claims.as_object_mut().unwrap();
        match value.clone() {
            None => map.remove(name),
            Some(value) => map.insert(name.to_owned(), value),
        };
        let text = refused(&jwt(), &token(&claims));
        assert!(text.contains(expected), "{name} = {value:?}: {text}");
    }
}

#[test]
fn issuer_and_audience_are_compared_where_the_node_has_one() {
    let with = authenticator(&[("auth", "jwt"), ("jwt-secret", SECRET), ("jwt-issuer", "me"), ("jwt-audience", "you")]);
    for (iss, aud, expected) in [
        (json!("me"), json!("you"), None),
        (json!("me"), json!(["them", "you"]), None),
        (json!("another"), json!("you"), Some("`iss`")),
        (json!("me."), json!("you"), Some("`iss`")),
        (json!("me"), json!("them"), Some("`aud`")),
        (json!("me"), json!([]), Some("`aud`")),
    ] {
        let token = token(&json!({"sub": "a", "exp": NOW_S + 60, "iss": iss, "aud": aud}));
        match expected {
            None => assert!(verify(&with, &token).is_ok(), "{iss} {aud}"),
            Some(expected) => assert!(refused(&with, &token).contains(expected), "{iss} {aud}"),
        }
    }
    assert!(refused(&with, &token(&json!({"sub": "a", "exp": NOW_S + 60, "aud": "you"}))).contains("`iss` is missing"));
    assert!(refused(&with, &token(&json!({"sub": "a", "exp": NOW_S + 60, "iss": "me"}))).contains("`aud` is missing"));
    // Without such settings: an issuer is not asked for, an audience is somebody else.
    assert!(verify(&jwt(), &token(&json!({"sub": "a", "exp": NOW_S + 60, "iss": "x"}))).is_ok());
    let text = refused(&jwt(), &token(&json!({"sub": "a", "exp": NOW_S + 60, "aud": "x"})));
    assert!(text.contains("no `jwt-audience`"), "{text}");
}

#[test]
fn a_token_that_is_not_signed_with_hs256_and_the_secret_is_refused() {
    let claims = json!({"sub": "a", "exp": NOW_S + 60});
    let good = token(&claims);
    let [head, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let admin = token(&json!({"sub": "admin", "exp": NOW_S + 60}));
    let other_body = admin.split('.').nth(1).unwrap();
    let last = if signature.ends_with('A') { "B" } else { "A" };
    let alg = |alg: &str| signed(&json!({"alg": alg, "typ": "JWT"}), &claims, SECRET);
    for (what, token) in [
        ("none, without a signature", format!("{}.", unsigned(&json!({"alg": "none"}), &claims))),
        ("none, with a good signature", alg("none")),
        ("nOnE", format!("{}.", unsigned(&json!({"alg": "nOnE"}), &claims))),
        // What an attacker sends who knows a public key and hopes that it is used as a secret, or the other way round.
        ("RS256 over our secret", alg("RS256")),
        ("ES256", alg("ES256")),
        ("HS384", alg("HS384")),
        ("HS512", alg("HS512")),
        ("no alg", signed(&json!({"typ": "JWT"}), &claims, SECRET)),
        ("another secret", signed(&json!({"alg": "HS256"}), &claims, "another secret that is just as long as ours")),
        ("an empty secret", signed(&json!({"alg": "HS256"}), &claims, "")),
        ("another body", format!("{head}.{other_body}.{signature}")),
        ("another signature", format!("{head}.{body}.{}{last}", &signature[1..])),
        ("no signature", format!("{head}.{body}.")),
        ("two parts", format!("{head}.{body}")),
        ("four parts", format!("{good}.x")),
        ("a space behind it", format!("{good} ")),
        ("claims that are no map", token(&json!([1]))),
        ("an extension that must be understood", signed(&json!({"alg": "HS256", "crit": ["x"]}), &claims, SECRET)),
        ("nonsense", "nonsense".to_owned()),
        ("dots", "..".to_owned()),
        ("nothing", String::new()),
        ("no base64", "ä.ö.ü".to_owned()),
        ("100 KB", format!("{head}.{}.{signature}", "A".repeat(100_000))),
        ("a kid like a path", signed(&json!({"alg": "HS256", "kid": "../../x"}), &claims, "x".repeat(40).as_str())),
    ] {
        let text = refused(&jwt(), &token);
        assert!(!text.is_empty(), "{what}");
    }
}

#[test]
fn without_authentication_a_user_is_who_he_says_if_it_is_an_id() {
    let none = authenticator(&[("auth", "none")]);
    let say = |user: &str| none.verify(&Credential::User(user.to_owned()), NOW);
    let identity = say("alice").unwrap();
    assert_eq!((identity.user.as_str(), identity.device, identity.expires), ("alice", None, None));
    for user in ["", "a/b", "a\nb", &"x".repeat(129)] {
        assert!(matches!(say(user), Err(Refused::Unauthorized(_))), "{user:?}");
    }
    assert!(refused(&none, "x.y.z").contains("?user=USER"), "a token says that somebody expects more than he gets");
}

#[test]
fn with_tokens_nobody_is_taken_at_his_word() {
    let Err(Refused::Unauthorized(text)) = jwt().verify(&Credential::User("alice".to_owned()), NOW) else {
        panic!("let in")
    };
    assert!(text.contains("--auth jwt") && !text.contains("alice"));
}
