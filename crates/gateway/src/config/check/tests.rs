//! Settings one by one and together: what passes, and the sentence for what does not.

use super::super::SETTINGS;
use super::*;

fn facts() -> Facts {
    Facts { host_name: Some("host-1".to_owned()), cores: 3 }
}

fn raw(settings: &[(&str, &str)]) -> RawConfig {
    let mut raw = RawConfig::default();
    for (key, text) in settings {
        assert!(raw.set(key, Written { text: (*text).to_owned(), source: Source::Flag }), "no setting {key}");
    }
    raw
}

fn check(settings: &[(&str, &str)]) -> Result<Config, String> {
    Config::check(&raw(settings), &facts()).map_err(|e| e.to_string())
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn without_settings_a_node_runs_on_loopback_without_redis() {
    let config = check(&[]).unwrap();
    assert_eq!((config.listen, config.internal), (LISTEN, INTERNAL));
    assert_eq!((config.auth, config.redis, config.api_key), (Auth::None, None, None));
    assert_eq!((&*config.node_name, config.workers), ("host-1", 3));
    assert_eq!((config.partitions, config.lanes, &*config.redis_prefix), (64, 8, "sb"));
    assert_eq!((config.retention_ms, config.inbox_max, config.inbox_bytes), (604_800_000, 10_000, 16 << 20));
    assert_eq!((config.embedded_bytes, config.max_bytes), (1 << 30, 65_536));
    assert_eq!(config.rate, Some(connection::Rate { per_second: 100, burst: 200 }));
    assert_eq!((config.drain_delay_ms, config.drain_ms), (5_000, 30_000));
    assert_eq!((&*config.log, config.log_format, config.scheduler), ("info", LogFormat::Text, Scheduler::Pinned));
    assert_eq!(config.origins, Origins::SameHost);
    assert_eq!(config.presence_delay_ms, 5_000);
    let Rights { send, join, look } = &config.rights;
    assert_eq!([send, join, look].map(|right| rights::show(right)), ["user:*,own", "own", "own"]);
    assert_eq!(connection::Settings::default().max_bytes, config.max_bytes, "both documents say the same");
}

#[test]
fn good_values_pass() {
    for (key, values) in [
        ("listen", &["127.0.0.1:0", "[::1]:80", "[::ffff:127.0.0.1]:80"][..]),
        (
            "redis",
            &[
                "redis://h",
                "redis://h:1",
                "redis://h/0",
                "redis://u:p@h:1/15",
                "redis://:p@[::1]:6379",
                "redis://u:p@w@h",
            ],
        ),
        ("node-name", &["a", "a.B_c-1", "0123456789012345678901234567890123456789012345678901234567890123"]),
        ("partitions", &["1", "1024"]),
        ("lanes", &["1", "64"]),
        ("workers", &["1"]),
        ("redis-prefix", &["sb", "a_b-c.d"]),
        ("retention", &["1s", "15m", "366d"]),
        ("inbox-max", &["1", "1000000"]),
        ("inbox-bytes", &["64KiB", "1GiB"]),
        ("embedded-bytes", &["1MiB"]),
        ("rate-limit", &["off", "1/1"]),
        ("max-bytes", &["1KiB", "1MiB", "1024"]),
        ("drain", &["0", "0s", "1h"]),
        ("drain-delay", &["0s"]),
        ("api-key", &["k", "a key with spaces"]),
        ("log-format", &["text", "json"]),
        ("scheduler", &["shared", "pinned"]),
        ("strict", &["true", "false"]),
        ("origins", &["https://a.example"]),
        ("presence-delay", &["0", "1m", "250ms"]),
        ("can-send", &["none", "own", "all", "user:*, group:team-*,own"]),
        ("can-join", &["group:*"]),
        ("can-look", &["user:bob,group:den"]),
    ] {
        for value in values {
            let checked = check(&[(key, value)]);
            assert_eq!(checked.as_ref().err(), None, "{key} = {value}");
            assert!(routing::Topology::new(checked.unwrap().routing()).is_ok(), "what passes here passes there");
        }
    }
}

#[test]
fn a_bad_value_is_told_by_key_with_what_was_expected_and_what_came() {
    for (key, value, expected) in [
        ("listen", "8080", "listen (--listen): expected an IP address and a port"),
        ("listen", "localhost:8080", "got \"localhost:8080\""),
        ("internal", "", "internal (--internal): expected an IP address"),
        ("redis", "127.0.0.1:6379", "redis (--redis): expected redis://[USER:PASSWORD@]HOST[:PORT][/DB]"),
        ("redis", "rediss://h", "TLS comes with a later version"),
        ("redis", "redis-sentinel://h", "expected redis-sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT"),
        ("redis", "redis-cluster://h", "expected redis-cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT"),
        ("redis", "redis://", "expected redis://"),
        ("redis", "redis://h:0", "expected redis://"),
        ("redis", "redis://h:port", "expected redis://"),
        ("redis", "redis://h/db", "expected redis://"),
        ("redis", "redis://h?x=1", "expected redis://"),
        ("redis", "redis://a:b:c", "expected redis://"),
        ("auth", "basic", "auth (--auth): expected none or jwt; got \"basic\""),
        ("node-name", "a/b", "node-name (--node-name): expected 1 to 64 of A-Z"),
        ("node-name", "", "expected 1 to 64 of"),
        ("partitions", "0", "partitions (--partitions): expected a whole number from 1 to 1024; got \"0\""),
        ("partitions", "1025", "from 1 to 1024"),
        ("partitions", "+8", "from 1 to 1024"),
        ("partitions", "8.0", "from 1 to 1024"),
        ("lanes", "65", "from 1 to 64"),
        ("workers", "-1", "from 1 to 1024"),
        ("redis-prefix", "a{b}", "expected 1 to 32 of A-Z"),
        ("redis-prefix", "a:b", "of A-Z a-z"),
        ("retention", "7", "expected a whole number with ms, s, m, h or d behind it"),
        ("retention", "999ms", "expected 1s to 366d; got \"999ms\""),
        ("inbox-bytes", "1KB", "expected a whole number of bytes"),
        ("max-bytes", "2MiB", "expected 1KiB to 1MiB; got \"2MiB\""),
        ("rate-limit", "100", "frames a second, a slash and the burst"),
        ("drain", "2h", "expected 0ms to 1h"),
        ("origins", "*", "origins (--origins): expected origins with commas between"),
        ("log-format", "xml", "expected text or json"),
        ("scheduler", "x", "expected shared or pinned"),
        ("presence-delay", "61s", "presence-delay (--presence-delay): expected 0ms to 1m; got \"61s\""),
        ("can-send", "*", "can-send (--can-send): expected at most 256 addresses such as user:* or group:team-*"),
        ("can-join", "", "can-join (--can-join): expected at most 256 addresses"),
        ("can-look", "bob", "and `own`, with commas between; or `none`; got \"bob\""),
        ("strict", "1", "strict (--strict): expected true or false; got \"1\""),
        ("log", "", "expected a log filter"),
        ("jwt-issuer", "", "expected the `iss`"),
    ] {
        let said = check(&[(key, value)]).expect_err(&format!("{key} = {value}"));
        assert!(said.contains(expected), "{key} = {value}: {said}");
    }
}

#[test]
fn secrets_are_never_shown() {
    for (key, value, expected) in [
        ("jwt-secret", "hush", "expected at least 32 bytes"),
        ("api-key", " hush", "expected printable ASCII without spaces at its ends; got 5 bytes, not shown"),
        ("api-key", "hush\n", "printable ASCII"),
        ("api-key", "", "got 0 bytes"),
        ("redis", "redis://u:hush@h:port", "got redis://u:***@h:port"),
        ("redis", "hush", "not shown"),
    ] {
        let said = check(&[(key, value)]).unwrap_err();
        assert!(said.contains(expected) && !said.contains("hush"), "{key}: {said}");
    }
    let config = check(&[("auth", "jwt"), ("jwt-secret", SECRET), ("redis", "redis://u:hush@h")]).unwrap();
    let shown = format!("{config:?}");
    assert!(!shown.contains(SECRET) && !shown.contains("hush"), "{shown}");
}

#[test]
fn nobody_is_let_in_unasked_where_others_can_reach() {
    for listen in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:80", "[::ffff:192.0.2.1]:80"] {
        let said = check(&[("listen", listen), ("auth", "none")]).unwrap_err();
        assert!(said.starts_with("auth (--auth): is none, and `listen` is"), "{said}");
        let said = check(&[("listen", listen)]).unwrap_err();
        assert!(said.starts_with("auth: is missing, and `listen` is") && said.contains("--auth jwt"), "{said}");
        assert!(check(&[("listen", listen), ("auth", "jwt"), ("jwt-secret", SECRET)]).is_ok());
    }
    for internal in ["0.0.0.0:8081", "[::]:8081", "192.0.2.1:81"] {
        let said = check(&[("internal", internal)]).unwrap_err();
        assert!(said.starts_with("api-key: is missing, and `internal` is"), "{said}");
        assert!(check(&[("internal", internal), ("api-key", "k")]).is_ok());
    }
}

#[test]
fn jwt_needs_its_secret_and_a_secret_needs_a_decision() {
    assert!(check(&[("auth", "jwt")]).unwrap_err().starts_with("jwt-secret: is missing"));
    let said = check(&[("jwt-secret", SECRET)]).unwrap_err();
    assert!(said.starts_with("auth: is missing, and there are settings for jwt"), "{said}");
    assert_eq!(check(&[("jwt-secret", SECRET), ("auth", "none")]).unwrap().auth, Auth::None, "said on purpose");
    let jwt = [("auth", "jwt"), ("jwt-secret", SECRET), ("jwt-issuer", "me"), ("jwt-audience", "you")];
    let Auth::Jwt(jwt) = check(&jwt).unwrap().auth else { panic!("not jwt") };
    assert_eq!((jwt.issuer.as_deref(), jwt.audience.as_deref()), (Some("me"), Some("you")));
    assert_eq!(jwt.secret.reveal(), SECRET);
}

#[test]
fn settings_that_do_not_go_together_are_told() {
    let said = check(&[("listen", "127.0.0.1:1"), ("internal", "127.0.0.1:1")]).unwrap_err();
    assert!(said.contains("as `listen` is"), "{said}");
    assert!(check(&[("listen", "127.0.0.1:0"), ("internal", "127.0.0.1:0")]).is_ok(), "any free port, twice");
    let said = check(&[("inbox-bytes", "64KiB"), ("max-bytes", "128KiB")]).unwrap_err();
    assert!(said.contains("is 64KiB, less than `max-bytes`, which is 128KiB"), "{said}");
}

#[test]
fn all_faults_are_told_at_once() {
    let said = check(&[("listen", "x"), ("partitions", "0"), ("auth", "jwt"), ("log-format", "x")]).unwrap_err();
    assert_eq!(said.lines().count(), 4, "{said}");
}

#[test]
fn a_machine_without_a_host_name_has_to_be_named() {
    let nameless = Facts { host_name: None, cores: 1 };
    assert!(Config::check(&raw(&[]), &nameless).unwrap_err().to_string().contains("Set `--node-name`"));
    assert!(Config::check(&raw(&[("node-name", "a")]), &nameless).is_ok());
    assert!(Facts::of_this_machine().cores > 0);
}

#[test]
fn a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default() {
    let command = || <RawConfig as clap::Args>::augment_args(clap::Command::new("serve"));
    let matches = command().try_get_matches_from(["serve", "--partitions", "3"]).unwrap();
    let mut flags = <RawConfig as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
    flags.note_sources(&matches);
    let mut file = raw(&[("partitions", "7"), ("lanes", "7")]);
    file.lanes.as_mut().unwrap().source = Source::File;
    let config = Config::check(&flags.clone().over(file), &facts()).unwrap();
    assert_eq!((config.partitions, config.lanes, config.inbox_max), (3, 7, 10_000));
    assert_eq!(flags.partitions.unwrap().source, Source::Flag);
    for (line, strict) in
        [(&["serve"][..], false), (&["serve", "--strict"], true), (&["serve", "--strict=false"], false)]
    {
        let matches = command().try_get_matches_from(line).unwrap();
        let raw = <RawConfig as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
        assert_eq!(Config::check(&raw, &facts()).unwrap().strict, strict, "{line:?}");
    }
    assert!(command().try_get_matches_from(["serve", "--partition", "3"]).is_err(), "an unknown flag");
    assert_eq!(SETTINGS.len(), 30, "a new setting comes with a row in these tests");
}

#[test]
fn the_place_of_a_fault_is_named() {
    let mut settings = raw(&[("partitions", "0"), ("lanes", "0"), ("redis-prefix", "")]);
    settings.lanes.as_mut().unwrap().source = Source::File;
    settings.redis_prefix.as_mut().unwrap().source = Source::Environment;
    let error = Config::check(&settings, &facts()).unwrap_err();
    let said = error.to_string();
    for place in ["partitions (--partitions):", "lanes (file):", "redis-prefix (SWITCHBOARD_REDIS_PREFIX):"] {
        assert!(said.contains(place), "{said}");
    }
    assert!(error.is_command_line());
    assert!(!Config::check(&raw(&[("auth", "jwt")]), &facts()).unwrap_err().is_command_line());
}
