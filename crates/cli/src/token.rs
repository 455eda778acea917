//! `switchboard token`: signs a token for development, with the secret that the node has.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use protocol::{Address, DeviceId, GroupId, UserId};
use serde_json::{Value, json};

use crate::send::{Secret, Target};

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Whose token: the claim `sub`
    #[arg(long, value_name = "USER")]
    user: String,
    /// Which device of the user
    #[arg(long)]
    device: Option<String>,
    /// A group that is joined for the life of the connection; may be given several times
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Whom the user may send to, with commas between: addresses, `*` for an ID or its end, or `own` for the user's own
    /// groups. With one of the three lists the claim `can` is made, and allows exactly what they name
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    can_send: Vec<String>,
    /// Which groups he may join, written alike
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    can_join: Vec<String>,
    /// Which users and groups he may look at, written alike
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    can_look: Vec<String>,
    /// What others are shown of the user: a JSON map, for example {"name":"Alice"}
    #[arg(long, value_name = "JSON")]
    profile: Option<String>,
    /// How long it is valid: 30s, 15m, 1h or 7d
    #[arg(long, default_value = "1h")]
    ttl: String,
    /// The secret that the node checks tokens with (HS256)
    #[arg(long, env = "SWITCHBOARD_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    jwt_secret: Option<Secret>,
    /// The claim `iss`, where the node asks for one
    #[arg(long, env = "SWITCHBOARD_JWT_ISSUER", value_name = "ISSUER")]
    jwt_issuer: Option<String>,
    /// The claim `aud`, where the node asks for one
    #[arg(long, env = "SWITCHBOARD_JWT_AUDIENCE", value_name = "AUDIENCE")]
    jwt_audience: Option<String>,
    /// The node's configuration; what is not given here is read from it
    #[arg(long, env = "SWITCHBOARD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    // Scripts give every command the same flags; signing needs no node.
    #[command(flatten)]
    target: Target,
}

/// What the node and this command have to agree on.
#[derive(Debug, Default)]
struct Signing {
    secret: Option<Secret>,
    issuer: Option<String>,
    audience: Option<String>,
}

pub(crate) async fn run(args: TokenArgs) -> anyhow::Result<()> {
    #[allow(clippy::disallowed_methods, reason = "a token says when it ends, and this command is where it begins")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock of this machine is before 1970")?;
    println!("{}", sign(args, now)?);
    Ok(())
}

fn sign(args: TokenArgs, now: Duration) -> anyhow::Result<String> {
    let claims = claims(&args, now.as_secs())?;
    let signing = signing(args)?;
    let secret = signing.secret.context(
        "no secret to sign with: expected --jwt-secret, SWITCHBOARD_JWT_SECRET, or `jwt-secret` in the file of --config",
    )?;
    let mut claims = claims;
    for (name, value) in [("iss", signing.issuer), ("aud", signing.audience)] {
        if let Some(value) = value {
            claims[name] = value.into();
        }
    }
    let key = EncodingKey::from_secret(secret.reveal().as_bytes());
    // The error of the library may quote what it was given.
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .map_err(|_| anyhow!("the token could not be signed"))
}

fn claims(args: &TokenArgs, now_s: u64) -> anyhow::Result<Value> {
    let user = UserId::parse(&args.user).map_err(|e| anyhow!("--user {:?}: {e}", args.user))?;
    let ttl_s = ttl_s(&args.ttl)?;
    let mut claims = json!({ "sub": user.as_str(), "iat": now_s, "exp": now_s.saturating_add(ttl_s) });
    if let Some(device) = &args.device {
        let device = DeviceId::parse(device).map_err(|e| anyhow!("--device {device:?}: {e}"))?;
        claims["device"] = device.as_str().into();
    }
    for group in &args.groups {
        GroupId::parse(group).map_err(|e| anyhow!("--group {group:?}: expected a group's ID: {e}"))?;
    }
    if !args.groups.is_empty() {
        claims["groups"] = args.groups.clone().into();
    }
    let lists = [("send", &args.can_send), ("join", &args.can_join), ("look", &args.can_look)];
    for (right, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        if let Some(bad) = list.iter().find(|text| *text != "own" && Address::parse(text).is_err()) {
            bail!("--can-{right} {bad:?}: expected an address such as user:* or group:team-*, or own");
        }
        claims["can"][right] = list.clone().into();
    }
    if let Some(profile) = &args.profile {
        let is_map = serde_json::from_str::<Value>(profile).ok().filter(Value::is_object);
        claims["profile"] = is_map.ok_or_else(|| anyhow!("--profile {profile:?}: expected a JSON map"))?;
    }
    Ok(claims)
}

/// Flag, then environment, then file, as for the node itself.
fn signing(args: TokenArgs) -> anyhow::Result<Signing> {
    let mut signing = match &args.config {
        None => Signing::default(),
        Some(path) => {
            let shown = path.display();
            let text = std::fs::read_to_string(path).with_context(|| format!("--config {shown} cannot be read"))?;
            from_toml(&text).with_context(|| format!("--config {shown}"))?
        }
    };
    // An empty variable is one that a script left unset.
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    signing.secret = args.jwt_secret.filter(|secret| !secret.reveal().is_empty()).or(signing.secret);
    signing.issuer = given(args.jwt_issuer).or(signing.issuer);
    signing.audience = given(args.jwt_audience).or(signing.audience);
    Ok(signing)
}

fn from_toml(text: &str) -> anyhow::Result<Signing> {
    // The error of the parser quotes the line, and a line may hold a secret: only its place is told.
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        anyhow!("not TOML, line {}", line.map_or_else(|| "unknown".to_owned(), |line| line.to_string()))
    })?;
    let get = |key: &str| match table.get(key) {
        None => Ok(None),
        Some(toml::Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(anyhow!("`{key}`: expected a text, got {}", other.type_str())),
    };
    Ok(Signing {
        secret: get("jwt-secret")?.as_deref().and_then(Secret::new),
        issuer: get("jwt-issuer")?,
        audience: get("jwt-audience")?,
    })
}

fn ttl_s(text: &str) -> anyhow::Result<u64> {
    let expected = || anyhow!("--ttl {text:?}: expected a time such as 30s, 15m, 1h or 7d");
    let unit = text.chars().last().ok_or_else(expected)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(expected()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| expected())?;
    match number.checked_mul(factor) {
        Some(seconds) if seconds > 0 => Ok(seconds),
        _ => bail!(expected()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TokenArgs,
    }

    fn args(flags: &[&str]) -> TokenArgs {
        let mut args = Line::parse_from([&["token"], flags].concat()).args;
        // Tests do not depend on the environment of whoever runs them.
        if !flags.contains(&"--jwt-secret") {
            args.jwt_secret = None;
        }
        args
    }

    fn decoded(token: &str, secret: &str) -> Value {
        let mut rules = jsonwebtoken::Validation::new(Algorithm::HS256);
        (rules.validate_exp, rules.validate_aud) = (false, false);
        let key = jsonwebtoken::DecodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::decode::<Value>(token, &key, &rules).unwrap().claims
    }

    #[test]
    fn a_token_has_the_claims_that_the_node_reads() {
        let flags = ["--user", "alice", "--device", "phone", "--group", "a", "--group", "b", "--ttl", "2m"];
        let token = sign(args(&[&flags[..], &["--jwt-secret", "s"]].concat()), Duration::from_secs(1_000)).unwrap();
        let expected = json!({"sub": "alice", "iat": 1_000, "exp": 1_120, "device": "phone", "groups": ["a", "b"]});
        assert_eq!(decoded(&token, "s"), expected);
        let plain = sign(args(&["--user", "alice", "--jwt-secret", "s"]), Duration::from_secs(1_000)).unwrap();
        assert_eq!(decoded(&plain, "s"), json!({"sub": "alice", "iat": 1_000, "exp": 4_600}));
    }

    #[test]
    fn rights_and_a_profile_are_claims_as_the_node_reads_them() {
        let flags = ["--user", "u", "--jwt-secret", "s", "--can-send", "user:*,own", "--can-look", "group:a"];
        let more = ["--can-look", "own", "--profile", r#"{"name": "Alice"}"#];
        let token = sign(args(&[&flags[..], &more].concat()), Duration::ZERO).unwrap();
        let claims = decoded(&token, "s");
        assert_eq!(claims["can"], json!({"send": ["user:*", "own"], "look": ["group:a", "own"]}));
        assert_eq!(claims["profile"], json!({"name": "Alice"}));
    }

    #[test]
    fn the_secret_comes_from_the_flag_then_from_the_nodes_file() {
        let path = std::env::temp_dir().join(format!("switchboard-token-{}.toml", std::process::id()));
        std::fs::write(&path, "jwt-secret = \"file\"\njwt-issuer = \"me\"\nlisten = \"0.0.0.0:1\"\n").unwrap();
        let file = path.to_str().unwrap();
        let token = sign(args(&["--user", "u", "--config", file]), Duration::ZERO).unwrap();
        assert_eq!(decoded(&token, "file")["iss"], "me");
        let token = sign(args(&["--user", "u", "--config", file, "--jwt-secret", "flag"]), Duration::ZERO).unwrap();
        assert_eq!(decoded(&token, "flag")["sub"], "u");
        std::fs::remove_file(&path).unwrap();
        let error = format!("{:#}", sign(args(&["--user", "u", "--config", file]), Duration::ZERO).unwrap_err());
        assert!(error.contains("cannot be read"), "{error}");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_and_no_secret_is_shown() {
        let error = |flags: &[&str]| format!("{:#}", sign(args(flags), Duration::ZERO).unwrap_err());
        assert!(error(&["--user", "u"]).contains("SWITCHBOARD_JWT_SECRET"));
        assert!(error(&["--user", "a/b", "--jwt-secret", "s"]).contains("--user \"a/b\""));
        assert!(error(&["--user", "u", "--group", "", "--jwt-secret", "s"]).contains("--group"));
        for list in ["*", "bob", "user:b,", "none"] {
            let said = error(&["--user", "u", "--can-join", list, "--jwt-secret", "s"]);
            assert!(said.contains("--can-join") && said.contains("or own"), "{said}");
        }
        for profile in ["Alice", "[]", "{"] {
            assert!(error(&["--user", "u", "--profile", profile, "--jwt-secret", "s"]).contains("--profile"));
        }
        for ttl in ["", "h", "1", "0s", "1w", "-1h", "1ä", "99999999999999999999d"] {
            let said = error(&["--user", "u", &format!("--ttl={ttl}"), "--jwt-secret", "s"]);
            assert!(said.contains("expected a time such as 30s"), "{said}");
        }
        let said = format!("{:#}", from_toml("a = 1\njwt-secret = \"geheim").unwrap_err());
        assert!(said.contains("line 2") && !said.contains("geheim"), "{said}");
        assert!(from_toml("jwt-secret = 7").unwrap_err().to_string().contains("`jwt-secret`: expected a text"));
        assert!(!format!("{:?}", args(&["--user", "u", "--jwt-secret", "geheim"])).contains("geheim"));
    }
}
