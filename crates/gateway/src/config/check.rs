//! From what was written to what it means: every rule about a setting, and about settings together.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use connection::Rights;
use protocol::NodeId;

use super::limits::{
    CAN_JOIN, CAN_LOOK, CAN_SEND, DRAIN_DELAY_MS, DRAIN_MS, DRAIN_MS_RANGE, EMBEDDED_BYTES, EMBEDDED_BYTES_RANGE,
    INBOX_BYTES, INBOX_BYTES_RANGE, INBOX_MAX, INBOX_MAX_RANGE, JWT_SECRET_BYTES_MIN, LANES, LANES_RANGE, MAX_BYTES,
    MAX_BYTES_RANGE, PARTITIONS, PARTITIONS_RANGE, PRESENCE_DELAY_MS, PRESENCE_DELAY_MS_RANGE, REDIS_PREFIX_BYTES_MAX,
    RETENTION_MS, RETENTION_MS_RANGE, WORKERS_RANGE,
};
use super::raw::{RawConfig, Show, Source, Written, setting};
use super::rights;
use super::secret::mask_url;
use super::units::{self, show_duration, show_size};
use super::{Auth, Config, ConfigError, Fault, Jwt, LogFormat, Origins, Scheduler, Secret};

/// What the defaults depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub host_name: Option<String>,
    pub cores: usize,
}

impl Facts {
    pub fn of_this_machine() -> Self {
        let file = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let host_name = file.or_else(|| std::env::var("HOSTNAME").ok()).or_else(|| {
            let said = std::process::Command::new("hostname").output().ok()?;
            String::from_utf8(said.stdout).ok()
        });
        let host_name = host_name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        Self { host_name, cores: std::thread::available_parallelism().map_or(1, usize::from) }
    }
}

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
const INTERNAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8081);

impl Config {
    /// Understands all settings, with the defaults for this machine.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault that was found.
    pub fn check(raw: &RawConfig, facts: &Facts) -> Result<Self, ConfigError> {
        let mut checker = Checker { faults: Vec::new() };
        let config = checker.config(raw, facts);
        match config {
            Some(config) if checker.faults.is_empty() => Ok(config),
            _ => Err(ConfigError { faults: checker.faults }),
        }
    }
}

/// Collects faults, so that nobody has to start five times to learn of five.
struct Checker {
    faults: Vec<Fault>,
}

impl Checker {
    /// `None` only with a fault.
    fn config(&mut self, raw: &RawConfig, facts: &Facts) -> Option<Config> {
        let listen = self.read("listen", &raw.listen, socket_address).unwrap_or(LISTEN);
        let internal = self.read("internal", &raw.internal, socket_address).unwrap_or(INTERNAL);
        if listen == internal && listen.port() != 0 {
            self.together("internal", &raw.internal, format!("is {internal}, as `listen` is. Give it another port"));
        }
        let auth = self.auth(raw, listen);
        let api_key = self.read("api-key", &raw.api_key, api_key);
        if raw.api_key.is_none() && !is_loopback(internal) {
            self.together("api-key", &None, format!(
                "is missing, and `internal` is {internal}, where others can reach it: they could send as anybody. Set \
                 `api-key`, or keep `internal` on loopback, for example {INTERNAL}"
            ));
        }
        let max_bytes = self.amount("max-bytes", &raw.max_bytes, SIZE, MAX_BYTES_RANGE).unwrap_or(MAX_BYTES);
        let inbox_bytes = self.amount("inbox-bytes", &raw.inbox_bytes, SIZE, INBOX_BYTES_RANGE).unwrap_or(INBOX_BYTES);
        if inbox_bytes < max_bytes {
            self.together("inbox-bytes", &raw.inbox_bytes, format!(
                "is {}, less than `max-bytes`, which is {}: not one such message would be kept. Raise it, or lower the other",
                show_size(inbox_bytes), show_size(max_bytes)
            ));
        }
        let node_name = self.node_name(raw, facts);
        Some(Config {
            listen,
            internal,
            redis: self.read("redis", &raw.redis, redis),
            api_key,
            origins: self.read("origins", &raw.origins, Origins::parse).unwrap_or(Origins::SameHost),
            partitions: self.count("partitions", &raw.partitions, PARTITIONS_RANGE).unwrap_or(PARTITIONS),
            lanes: self.count("lanes", &raw.lanes, LANES_RANGE).unwrap_or(LANES),
            workers: self.count("workers", &raw.workers, WORKERS_RANGE).unwrap_or(facts.cores),
            redis_prefix: self.read("redis-prefix", &raw.redis_prefix, redis_prefix).unwrap_or_else(|| "sb".to_owned()),
            retention_ms: self
                .amount("retention", &raw.retention, DURATION, RETENTION_MS_RANGE)
                .unwrap_or(RETENTION_MS),
            inbox_max: self.count("inbox-max", &raw.inbox_max, INBOX_MAX_RANGE).unwrap_or(INBOX_MAX),
            inbox_bytes,
            embedded_bytes: self
                .amount("embedded-bytes", &raw.embedded_bytes, SIZE, EMBEDDED_BYTES_RANGE)
                .unwrap_or(EMBEDDED_BYTES),
            rate: self
                .read("rate-limit", &raw.rate_limit, |text| units::rate(text).ok_or_else(|| units::RATE.to_owned()))
                .unwrap_or(connection::Settings::default().rate),
            max_bytes,
            drain_delay_ms: self
                .amount("drain-delay", &raw.drain_delay, DURATION, DRAIN_MS_RANGE)
                .unwrap_or(DRAIN_DELAY_MS),
            drain_ms: self.amount("drain", &raw.drain, DURATION, DRAIN_MS_RANGE).unwrap_or(DRAIN_MS),
            presence_delay_ms: self
                .amount("presence-delay", &raw.presence_delay, DURATION, PRESENCE_DELAY_MS_RANGE)
                .unwrap_or(PRESENCE_DELAY_MS),
            rights: self.rights(raw),
            strict: self.choice("strict", &raw.strict, &[("true", true), ("false", false)]).unwrap_or(false),
            log: self
                .read("log", &raw.log, |text| not_empty(text, "a log filter"))
                .unwrap_or_else(|| "info".to_owned()),
            log_format: self
                .choice("log-format", &raw.log_format, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
                .unwrap_or(LogFormat::Text),
            scheduler: self
                .choice("scheduler", &raw.scheduler, &[("shared", Scheduler::Shared), ("pinned", Scheduler::Pinned)])
                .unwrap_or(Scheduler::Pinned),
            // Last, so that what is above is read and told in any case.
            auth: auth?,
            node_name: node_name?,
        })
    }

    fn rights(&mut self, raw: &RawConfig) -> Rights {
        let mut right = |key, written, default: &str| {
            let read = self.read(key, written, rights::parse).or_else(|| rights::parse(default).ok());
            Arc::new(read.unwrap_or_default())
        };
        Rights {
            send: right("can-send", &raw.can_send, CAN_SEND),
            join: right("can-join", &raw.can_join, CAN_JOIN),
            look: right("can-look", &raw.can_look, CAN_LOOK),
        }
    }

    fn auth(&mut self, raw: &RawConfig, listen: SocketAddr) -> Option<Auth> {
        let secret = self.read("jwt-secret", &raw.jwt_secret, jwt_secret);
        let issuer = self.read("jwt-issuer", &raw.jwt_issuer, |text| not_empty(text, "the `iss` of the tokens"));
        let audience = self.read("jwt-audience", &raw.jwt_audience, |text| not_empty(text, "the `aud` of the tokens"));
        let has_jwt = raw.jwt_secret.is_some() || raw.jwt_issuer.is_some() || raw.jwt_audience.is_some();
        match raw.auth.as_ref().map(|written| &*written.text) {
            Some("jwt") => {
                if raw.jwt_secret.is_none() {
                    let text = "is missing, and `auth` is jwt. Set it to the HS256 secret of whoever signs the tokens";
                    self.together("jwt-secret", &None, text.to_owned());
                }
                Some(Auth::Jwt(Jwt { secret: secret?, issuer, audience }))
            }
            Some("none") if is_loopback(listen) => Some(Auth::None),
            Some("none") => {
                self.together("auth", &raw.auth, format!(
                    "is none, and `listen` is {listen}, where others can reach it: anybody could be anybody. Use `--auth jwt` \
                     with `--jwt-secret`, or listen on loopback, for example {LISTEN}"
                ));
                None
            }
            Some(_) => self.read("auth", &raw.auth, |_| Err("none or jwt".to_owned())),
            // Who sets a secret wants it to be asked for: the default must not be what lets everybody in.
            None if has_jwt => {
                let text = "is missing, and there are settings for jwt. Add `--auth jwt`, or say `--auth none`";
                self.together("auth", &None, text.to_owned());
                None
            }
            None if is_loopback(listen) => Some(Auth::None),
            None => {
                self.together("auth", &None, format!(
                    "is missing, and `listen` is {listen}, where others can reach it. Use `--auth jwt` with `--jwt-secret`; \
                     without authentication a node listens on loopback only, for example {LISTEN}"
                ));
                None
            }
        }
    }

    fn node_name(&mut self, raw: &RawConfig, facts: &Facts) -> Option<String> {
        let check = |text: &str| NodeId::new(text, 0).map(|_| text.to_owned());
        if raw.node_name.is_some() {
            return self.read("node-name", &raw.node_name, |text| {
                check(text).map_err(|_| "1 to 64 of A-Z a-z 0-9 . _ -".to_owned())
            });
        }
        let name = facts.host_name.as_deref().and_then(|name| check(name).ok());
        if name.is_none() {
            let text = "is missing, and this machine has no usable host name. Set `--node-name`";
            self.together("node-name", &None, text.to_owned());
        }
        name
    }

    /// Reads a setting if it is written. `parse` fails with what it expected.
    fn read<T>(
        &mut self,
        key: &'static str,
        written: &Option<Written>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let written = written.as_ref()?;
        match parse(&written.text) {
            Ok(value) => Some(value),
            Err(expected) => {
                let text = format!("expected {expected}; got {}", got(key, &written.text));
                self.faults.push(Fault { key: key.to_owned(), source: Some(written.source), text });
                None
            }
        }
    }

    fn count<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        written: &Option<Written>,
        range: RangeInclusive<u64>,
    ) -> Option<T> {
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        self.read(key, written, |text| {
            let number = units::digits(text).filter(|number| range.contains(number));
            number.and_then(|number| T::try_from(number).ok()).ok_or_else(expected)
        })
    }

    fn amount(
        &mut self,
        key: &'static str,
        written: &Option<Written>,
        unit: Unit,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        self.read(key, written, |text| match (unit.read)(text) {
            None => Err(unit.expected.to_owned()),
            Some(amount) if range.contains(&amount) => Ok(amount),
            Some(_) => Err(format!("{} to {}", (unit.show)(*range.start()), (unit.show)(*range.end()))),
        })
    }

    fn choice<T: Copy>(&mut self, key: &'static str, written: &Option<Written>, choices: &[(&str, T)]) -> Option<T> {
        self.read(key, written, |text| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| names.join(" or "))
        })
    }

    /// A fault of settings that do not go together.
    fn together(&mut self, key: &str, written: &Option<Written>, text: String) {
        let source: Option<Source> = written.as_ref().map(|written| written.source);
        self.faults.push(Fault { key: key.to_owned(), source, text });
    }
}

#[derive(Clone, Copy)]
struct Unit {
    read: fn(&str) -> Option<u64>,
    show: fn(u64) -> String,
    expected: &'static str,
}

const DURATION: Unit = Unit { read: units::duration_ms, show: show_duration, expected: units::DURATION };
const SIZE: Unit = Unit { read: units::size, show: show_size, expected: units::SIZE };

/// What came, as far as it may be shown.
fn got(key: &str, text: &str) -> String {
    if key == "redis" {
        return mask_url(text);
    }
    if setting(key).is_none_or(|setting| setting.show == Show::Secret) {
        return format!("{} bytes, not shown", text.len());
    }
    let short: String = text.chars().take(80).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
}

/// An IPv4 address in IPv6 clothes counts as what it is.
fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "an IP address and a port, for example 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080".to_owned())
}

fn not_empty(text: &str, expected: &str) -> Result<String, String> {
    if text.is_empty() { Err(expected.to_owned()) } else { Ok(text.to_owned()) }
}

fn jwt_secret(text: &str) -> Result<Secret, String> {
    if text.len() < JWT_SECRET_BYTES_MIN {
        return Err(format!(
            "at least {JWT_SECRET_BYTES_MIN} bytes, because a shorter one can be guessed (make one with `openssl rand -hex 32`)"
        ));
    }
    Ok(Secret::new(text))
}

/// It has to travel in a header.
fn api_key(text: &str) -> Result<Secret, String> {
    let is_sendable = text.bytes().all(|b| (0x20..=0x7e).contains(&b)) && text.trim() == text && !text.is_empty();
    is_sendable.then(|| Secret::new(text)).ok_or_else(|| "printable ASCII without spaces at its ends".to_owned())
}

fn redis_prefix(text: &str) -> Result<String, String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let is_good = (1..=REDIS_PREFIX_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain);
    // Braces would move every key into one slot, and `*` would open an ACL.
    let expected = || format!("1 to {REDIS_PREFIX_BYTES_MAX} of A-Z a-z 0-9 . _ -");
    is_good.then(|| text.to_owned()).ok_or_else(expected)
}

fn redis(text: &str) -> Result<Secret, String> {
    const EXPECTED: &str = "redis://[USER:PASSWORD@]HOST[:PORT][/DB]";
    const SENTINELS: &str = "redis-sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT,…/SERVICE[/DB]";
    const CLUSTER: &str = "redis-cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT,…";
    let expected = || EXPECTED.to_owned();
    let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
    match scheme {
        "redis" => {}
        "redis-sentinel" => {
            return backplane::redis::check_url(text).map(|()| Secret::new(text)).map_err(|_| SENTINELS.to_owned());
        }
        "redis-cluster" => {
            return backplane::redis::check_url(text).map(|()| Secret::new(text)).map_err(|_| CLUSTER.to_owned());
        }
        "rediss" | "rediss-sentinel" | "rediss-cluster" => {
            return Err(format!("{EXPECTED}, {SENTINELS} or {CLUSTER}: TLS comes with a later version of Switchboard"));
        }
        _ => return Err(expected()),
    }
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let (authority, db) = place.split_once('/').unwrap_or((place, ""));
    let after_host = authority.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match authority[after_host..].rfind(':') {
        Some(colon) => (&authority[..after_host + colon], Some(&authority[after_host + colon + 1..])),
        None => (authority, None),
    };
    let is_host = !host.is_empty() && !host.contains(['?', '#', ' ', '@']) && (after_host > 0 || !host.contains(':'));
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let is_db = db.is_empty() || db.parse::<u8>().is_ok();
    if is_host && is_port && is_db { Ok(Secret::new(text)) } else { Err(expected()) }
}

#[cfg(test)]
mod tests;
