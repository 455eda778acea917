//! A configuration as TOML, for `--print-config`: what the settings amount to, secrets masked.

use std::fmt::Write;

use super::raw::{SETTINGS, Show};
use super::rights;
use super::secret::mask_url;
use super::units::{show_duration, show_rate, show_size};
use super::{Auth, Config, LogFormat, Origins, Scheduler};

/// What stands for a secret. Shorter than any that is accepted, so that a printed file cannot be used by mistake.
const MASK: &str = "***";

impl Config {
    /// The settings as TOML in the order of the documentation. What is not set comes as a comment.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for setting in SETTINGS.iter().filter(|setting| setting.show != Show::Hidden) {
            // Writing to a String cannot fail.
            let _ = match self.value(setting.key) {
                Some(value) => writeln!(out, "{} = {value}", setting.key),
                None => writeln!(out, "# {} is not set: {}", setting.key, setting.default),
            };
        }
        out
    }

    /// The Redis URL with its password replaced.
    pub fn redis_shown(&self) -> Option<String> {
        self.redis.as_ref().map(|url| mask_url(url.reveal()))
    }

    /// The value of a setting as TOML; `None`: not set.
    fn value(&self, key: &str) -> Option<String> {
        let text = |text: &str| Some(toml::Value::from(text).to_string());
        let jwt = match &self.auth {
            Auth::Jwt(jwt) => Some(jwt),
            Auth::None => None,
        };
        match key {
            "listen" => text(&self.listen.to_string()),
            "internal" => text(&self.internal.to_string()),
            "redis" => text(&self.redis_shown()?),
            "auth" => text(if jwt.is_some() { "jwt" } else { "none" }),
            "jwt-secret" => jwt.and_then(|_| text(MASK)),
            "jwt-issuer" => text(jwt?.issuer.as_ref()?),
            "jwt-audience" => text(jwt?.audience.as_ref()?),
            "api-key" => self.api_key.as_ref().and_then(|_| text(MASK)),
            "node-name" => text(&self.node_name),
            "origins" => match &self.origins {
                Origins::SameHost => None,
                Origins::List(list) => text(&list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
            },
            "partitions" => Some(self.partitions.to_string()),
            "lanes" => Some(self.lanes.to_string()),
            "workers" => Some(self.workers.to_string()),
            "redis-prefix" => text(&self.redis_prefix),
            "retention" => text(&show_duration(self.retention_ms)),
            "inbox-max" => Some(self.inbox_max.to_string()),
            "inbox-bytes" => text(&show_size(self.inbox_bytes)),
            "embedded-bytes" => text(&show_size(self.embedded_bytes)),
            "rate-limit" => text(&show_rate(self.rate)),
            "max-bytes" => text(&show_size(self.max_bytes)),
            "drain-delay" => text(&show_duration(self.drain_delay_ms)),
            "drain" => text(&show_duration(self.drain_ms)),
            "presence-delay" => text(&show_duration(self.presence_delay_ms)),
            "can-send" => text(&rights::show(&self.rights.send)),
            "can-join" => text(&rights::show(&self.rights.join)),
            "can-look" => text(&rights::show(&self.rights.look)),
            "strict" => Some(self.strict.to_string()),
            "log" => text(&self.log),
            "log-format" => text(match self.log_format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            }),
            "scheduler" => text(match self.scheduler {
                Scheduler::Shared => "shared",
                Scheduler::Pinned => "pinned",
            }),
            other => unreachable_key(other),
        }
    }
}

/// A key that the table has and this file does not: a test walks all of them.
fn unreachable_key(key: &str) -> Option<String> {
    debug_assert!(false, "`{key}` is not printed");
    None
}

#[cfg(test)]
mod tests {
    use super::super::{Facts, RawConfig, Source, Written};
    use super::*;

    fn config(settings: &[(&str, &str)]) -> Config {
        let mut raw = RawConfig::default();
        for (key, text) in settings {
            assert!(raw.set(key, Written { text: (*text).to_owned(), source: Source::Flag }), "{key}");
        }
        let facts = Facts { host_name: Some("host".to_owned()), cores: 4 };
        Config::check(&raw, &facts).unwrap()
    }

    #[test]
    fn what_is_printed_says_the_same_when_it_is_read_again() {
        let settings = [
            ("listen", "127.0.0.1:1"),
            ("redis", "redis://h:1/2"),
            ("node-name", "a.b"),
            ("log", "info,\"x\"=debug"),
            ("origins", "https://a.example,http://b.example:81"),
            ("retention", "90m"),
            ("rate-limit", "off"),
            ("workers", "3"),
            ("log-format", "json"),
            ("drain-delay", "0s"),
            ("strict", "true"),
            ("presence-delay", "1500ms"),
            ("can-send", "none"),
            ("can-join", "own,group:open-*"),
            ("can-look", "user:bob,all,own"),
        ];
        let before = config(&settings);
        let mut raw = RawConfig::default();
        let table: toml::Table = toml::from_str(&before.to_toml()).unwrap();
        for (key, value) in table {
            let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            assert!(raw.set(&key, Written { text, source: Source::File }), "{key}");
        }
        let again = Config::check(&raw, &Facts { host_name: None, cores: 1 }).unwrap();
        assert_eq!(again, before);
    }

    #[test]
    fn secrets_are_masked_and_a_masked_file_does_not_start() {
        let secret = "hush-hush-hush-hush-hush-hush-hush";
        let printed = config(&[
            ("auth", "jwt"),
            ("jwt-secret", secret),
            ("api-key", secret),
            ("redis", &format!("redis://me:{secret}@h:1")),
        ])
        .to_toml();
        assert!(!printed.contains("hush"), "{printed}");
        assert!(printed.contains("jwt-secret = \"***\"") && printed.contains("redis = \"redis://me:***@h:1\""));
        let mut raw = RawConfig::default();
        raw.set("auth", Written { text: "jwt".to_owned(), source: Source::File });
        raw.set("jwt-secret", Written { text: MASK.to_owned(), source: Source::File });
        assert!(Config::check(&raw, &Facts { host_name: Some("h".to_owned()), cores: 1 }).is_err());
    }

    #[test]
    fn every_setting_is_printed_with_the_default_that_the_documentation_says() {
        let printed = config(&[]).to_toml();
        for setting in SETTINGS.iter().filter(|setting| setting.show != Show::Hidden) {
            let line = printed.lines().find(|line| {
                line.starts_with(&format!("{} = ", setting.key))
                    || line.starts_with(&format!("# {} is not set", setting.key))
            });
            let line = line.unwrap_or_else(|| panic!("{} is not printed", setting.key));
            let value = line.split(" = ").nth(1).unwrap_or_default().trim_matches('"');
            match setting.key {
                "node-name" => assert_eq!(value, "host"),
                "workers" => assert_eq!(value, "4"),
                "auth" => assert_eq!(value, "none"),
                _ => assert!(line.starts_with('#') || value == setting.default, "{line} against {}", setting.default),
            }
        }
        assert_eq!(config(&[]).value("scheduler").as_deref(), Some("\"pinned\""));
    }
}
