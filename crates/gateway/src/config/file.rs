//! The TOML file and the names in the environment: reads keys, refuses those that nobody knows.

use std::path::Path;

use super::raw::{RawConfig, SETTINGS, Source, Written, setting};
use super::{ConfigError, Fault};

/// Settings of later versions. One in the environment would be ignored in silence, and somebody relies on it.
const LATER: [&str; 11] = [
    "jwks-url",
    "jwt-public-key",
    "tls-cert",
    "tls-key",
    "trusted-proxies",
    "max-age",
    "new-inboxes",
    "can-send",
    "can-join",
    "can-look",
    "demo",
];

const ENV_PREFIX: &str = "SWITCHBOARD_";

/// Reads the file.
///
/// # Errors
/// It cannot be read, is no TOML, or holds a key that is no setting or a value that is no text or number.
pub(super) fn read(path: &Path) -> Result<RawConfig, ConfigError> {
    let fault = |text: String| ConfigError::one(Fault { key: "config".to_owned(), source: None, text });
    let text = std::fs::read_to_string(path)
        .map_err(|e| fault(format!("cannot read {}: {e}. Name a file that this user may read", path.display())))?;
    parse(&text, &path.display().to_string())
}

fn parse(text: &str, name: &str) -> Result<RawConfig, ConfigError> {
    let table: toml::Table = toml::from_str(text).map_err(|e| {
        // Only the message and the line: the library's own text shows the line itself, and that may hold a secret.
        let line = e.span().map_or(1, |span| text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1);
        let text = format!("{name}, line {line}: {}. Correct the TOML there", one_line(e.message()));
        ConfigError::one(Fault { key: "config".to_owned(), source: None, text })
    })?;
    let mut raw = RawConfig::default();
    let mut faults = Vec::new();
    for (key, value) in table {
        let mut fault = |text: String| faults.push(Fault { key: key.clone(), source: Some(Source::File), text });
        match written(&key, &value) {
            _ if !SETTINGS.iter().any(|setting| setting.key == key) => fault(format!("{} ({name})", unknown(&key))),
            None => fault(format!("expected a text or a whole number, got {}", kind(&value))),
            Some(text) => {
                raw.set(&key, Written { text, source: Source::File });
            }
        }
    }
    if faults.is_empty() { Ok(raw) } else { Err(ConfigError { faults }) }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A value as a flag would say it.
fn written(key: &str, value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::Boolean(is_on) if setting(key).is_some_and(|setting| setting.is_switch) => Some(is_on.to_string()),
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            Some(texts?.join(","))
        }
        _ => None,
    }
}

fn kind(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::String(_) => "a text",
        toml::Value::Integer(_) => "a whole number",
        toml::Value::Float(_) => "a number with a fraction",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Datetime(_) => "a date",
        toml::Value::Array(_) => "an array with something that is no text",
        toml::Value::Table(_) => "a table",
    }
}

fn unknown(key: &str) -> String {
    if LATER.contains(&key) {
        return "comes with a later version of Switchboard. Take it out until then".to_owned();
    }
    match nearest(key) {
        Some(near) => format!("is no setting. Did you mean `{near}`?"),
        None => "is no setting. `switchboard serve --help` lists them".to_owned(),
    }
}

/// The setting that differs in at most two letters, a fat finger's distance.
fn nearest(key: &str) -> Option<&'static str> {
    let distance = |setting: &&str| edit_distance(key, setting);
    let keys = SETTINGS.iter().map(|setting| setting.key).chain(["config"]);
    keys.min_by_key(|key| distance(key)).filter(|key| distance(key) <= 2 && key.len() > 4)
}

/// Names in the environment that were meant for us and do nothing: misspelled, or of a later version. Others with our
/// prefix are left alone: Kubernetes puts `SWITCHBOARD_SERVICE_HOST` and its like into every container that lives beside a
/// service called `switchboard`, and the other commands and deployments have their own.
///
/// # Errors
/// All such names.
pub(super) fn check_environment(names: impl Iterator<Item = String>) -> Result<(), ConfigError> {
    let mut faults = Vec::new();
    for name in names {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
        let key = rest.to_ascii_lowercase().replace('_', "-");
        let is_known = SETTINGS.iter().any(|setting| setting.env == name) || key == "config";
        if !is_known && (LATER.contains(&&*key) || nearest(&key).is_some()) {
            let text = unknown(&key);
            faults.push(Fault { key, source: Some(Source::Environment), text });
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(ConfigError { faults }) }
}

/// How many letters have to be put in, taken out or changed.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_flags_names() {
        let raw = parse(
            "listen = \"127.0.0.1:1\"\npartitions = 8\norigins = [\"http://a\", \"http://b\"]\njwt-secret = \"x\"\nstrict = true",
            "f",
        )
        .unwrap();
        let text = |written: &Option<Written>| written.clone().map(|w| w.text).unwrap_or_default();
        assert_eq!(text(&raw.listen), "127.0.0.1:1");
        assert_eq!(text(&raw.partitions), "8");
        assert_eq!(text(&raw.strict), "true");
        assert_eq!(text(&raw.origins), "http://a,http://b");
        assert_eq!(raw.jwt_secret.map(|w| w.source), Some(Source::File));
        assert!(raw.redis.is_none());
    }

    #[test]
    fn a_fault_in_the_file_is_told_by_key_and_never_shows_a_value() {
        for (text, expected) in [
            ("listne = \"hush\"", "listne (file): is no setting. Did you mean `listen`?"),
            ("jwt_secret = \"hush\"", "Did you mean `jwt-secret`?"),
            ("nonsense = 1", "nonsense (file): is no setting. `switchboard serve --help` lists them"),
            ("jwks-url = \"hush\"", "jwks-url (file): comes with a later version"),
            ("jwt-secret = true", "jwt-secret (file): expected a text or a whole number, got true or false"),
            ("[jwt-secret]\nx = \"hush\"", "jwt-secret (file): expected a text or a whole number, got a table"),
            ("\njwt-secret = \"hush\n", "config: f, line 2:"),
            ("jwt-secret = hush", "config: f, line 1:"),
            ("log = \"a\"\nlog = \"hush\"", "config: f, line 2:"),
        ] {
            let said = parse(text, "f").unwrap_err().to_string();
            assert!(said.contains(expected), "{text:?}: {said}");
            assert!(!said.contains("hush"), "{said}");
        }
    }

    #[test]
    fn a_name_in_the_environment_that_was_meant_for_us_is_refused() {
        let check = |name: &str| check_environment([name.to_owned()].into_iter()).map_err(|e| e.to_string());
        for name in [
            "SWITCHBOARD_LISTEN",
            "SWITCHBOARD_CONFIG",
            "SWITCHBOARD_SERVICE_HOST",
            "SWITCHBOARD_PORT",
            "SWITCHBOARD_PORT_8080_TCP",
            "SWITCHBOARD_INTERNAL_SERVICE_HOST",
            "SWITCHBOARD_REDIS_PORT",
            "SWITCHBOARD_URL",
            "SWITCHBOARD_API",
            "SWITCHBOARD_TOKEN",
            "SWITCHBOARD_BIN",
            "SWITCHBOARD_NODE_A",
            "SWITCHBOARD_LB_BIND",
            "SWITCHBOARD_GRACE",
            "PATH",
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        assert!(check("SWITCHBOARD_API_KY").unwrap_err().contains("Did you mean `api-key`?"));
        assert!(check("SWITCHBOARD_RETENTON").unwrap_err().contains("Did you mean `retention`?"));
        assert!(check("SWITCHBOARD_JWKS_URL").unwrap_err().contains("later version"));
    }
}
