//! What was written: one table of settings, from which come the command line, the environment, the keys of the file and
//! docs/config.md. Nothing is understood here; that is `check`'s business.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ArgMatches;
use clap::parser::ValueSource;

/// Where a setting was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Flag,
    Environment,
    File,
}

/// A setting as it was written. `Debug` prints its length: it may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Written {
    pub text: String,
    pub source: Source,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Written({} bytes, {:?})", self.text.len(), self.source)
    }
}

impl FromStr for Written {
    type Err = Infallible;
    /// What clap calls, for flags and environment alike; [`RawConfig::note_sources`] tells them apart.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self { text: text.to_owned(), source: Source::Flag })
    }
}

/// How a setting is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    Plain,
    /// Never in a help text, an error or a printed configuration.
    Secret,
    /// Not in help and documentation: for developers.
    Hidden,
}

impl Show {
    const fn is_secret(self) -> bool {
        matches!(self, Self::Secret)
    }

    const fn is_hidden(self) -> bool {
        matches!(self, Self::Hidden)
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The flag without its dashes, and the key in the file.
    pub key: &'static str,
    pub env: &'static str,
    pub default: &'static str,
    pub meaning: &'static str,
    pub show: Show,
    /// True or false; its flag alone says true.
    pub is_switch: bool,
}

/// What stands for the value of a switch in a help text.
const fn is_switch(value_name: &str) -> bool {
    matches!(value_name.as_bytes(), b"true|false")
}

macro_rules! settings {
    ($($field:ident, $key:literal, $env:literal, $value:literal, $show:ident, $default:literal, $meaning:expr;)*) => {
        /// Every setting, in the order of the documentation.
        pub const SETTINGS: &[Setting] = &[
            $(Setting {
                key: $key, env: $env, default: $default, meaning: $meaning, show: Show::$show, is_switch: is_switch($value),
            },)*
        ];

        /// What was written, in one layer or in all of them. `None`: nothing.
        #[derive(Clone, Debug, Default, clap::Args)]
        pub struct RawConfig {
            $(
                #[arg(
                    long = $key,
                    env = $env,
                    value_name = $value,
                    num_args = if is_switch($value) { 0..=1 } else { 1..=1 },
                    require_equals = is_switch($value),
                    default_missing_value = "true",
                    help = format!("{} [default: {}]", $meaning, $default),
                    hide_env_values = Show::$show.is_secret(),
                    hide = Show::$show.is_hidden()
                )]
                pub $field: Option<Written>,
            )*
            /// TOML file with the same keys as the flags
            #[arg(long, env = "SWITCHBOARD_CONFIG", value_name = "FILE")]
            pub config: Option<PathBuf>,
            /// Print what the settings amount to, with secrets masked, and end
            #[arg(long)]
            pub print_config: bool,
        }

        impl RawConfig {
            /// This layer, and where it says nothing the one below.
            #[must_use]
            pub fn over(self, below: Self) -> Self {
                Self {
                    $($field: self.$field.or(below.$field),)*
                    config: self.config.or(below.config),
                    print_config: self.print_config || below.print_config,
                }
            }

            /// Takes a setting by its key; `false` where there is no such key.
            pub(super) fn set(&mut self, key: &str, value: Written) -> bool {
                match key {
                    $($key => self.$field = Some(value),)*
                    _ => return false,
                }
                true
            }

            /// Learns which settings came from the environment. clap knows, and errors name the place.
            pub fn note_sources(&mut self, matches: &ArgMatches) {
                $(
                    if matches.value_source(stringify!($field)) == Some(ValueSource::EnvVariable)
                        && let Some(written) = &mut self.$field
                    {
                        written.source = Source::Environment;
                    }
                )*
            }
        }
    };
}

settings! {
    listen, "listen", "SWITCHBOARD_LISTEN", "IP:PORT", Plain, "127.0.0.1:8080",
        "Where clients connect";
    internal, "internal", "SWITCHBOARD_INTERNAL", "IP:PORT", Plain, "127.0.0.1:8081",
        "Where back ends and operators connect: server API, metrics, health";
    redis, "redis", "SWITCHBOARD_REDIS", "URL", Secret, "none",
        "Redis of the fleet, `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, `redis-sentinel://HOST:PORT,HOST:PORT,…/SERVICE[/DB]` or `redis-cluster://HOST:PORT,HOST:PORT,…`; without one the embedded backplane, for one node";
    auth, "auth", "SWITCHBOARD_AUTH", "HOW", Plain, "none on a loopback `listen`, else it has to be given",
        "Who clients are: `none` (they say so themselves; loopback only) or `jwt`";
    jwt_secret, "jwt-secret", "SWITCHBOARD_JWT_SECRET", "SECRET", Secret, "none",
        "HS256 secret of the tokens, at least 32 bytes";
    jwt_issuer, "jwt-issuer", "SWITCHBOARD_JWT_ISSUER", "TEXT", Plain, "any",
        "What a token's `iss` must be";
    jwt_audience, "jwt-audience", "SWITCHBOARD_JWT_AUDIENCE", "TEXT", Plain, "tokens without `aud` only",
        "What a token's `aud` must be or contain";
    api_key, "api-key", "SWITCHBOARD_API_KEY", "KEY", Secret, "none",
        "Key that the server API asks for; required where `internal` is not on loopback";
    node_name, "node-name", "SWITCHBOARD_NODE_NAME", "NAME", Plain, "host name",
        "Name of this node in logs, `welcome` and the fleet";
    origins, "origins", "SWITCHBOARD_ORIGINS", "LIST", Plain, "same host",
        "Web pages that may connect: origins with commas between, for example `https://app.example.com`";
    partitions, "partitions", "SWITCHBOARD_PARTITIONS", "COUNT", Plain, "64",
        "Partitions of the fleet, 1 to 1024; fixed at its first start";
    lanes, "lanes", "SWITCHBOARD_LANES", "COUNT", Plain, "8",
        "Append batches in flight, 1 to 64";
    workers, "workers", "SWITCHBOARD_WORKERS", "COUNT", Plain, "number of cores",
        "Threads that run connections, 1 to 1024";
    redis_prefix, "redis-prefix", "SWITCHBOARD_REDIS_PREFIX", "TEXT", Plain, "sb",
        "What all keys and channels in Redis begin with";
    retention, "retention", "SWITCHBOARD_RETENTION", "DURATION", Plain, "7d",
        "How long a message is kept, 1s to 366d";
    inbox_max, "inbox-max", "SWITCHBOARD_INBOX_MAX", "COUNT", Plain, "10000",
        "Messages that an inbox keeps, 1 to 1000000";
    inbox_bytes, "inbox-bytes", "SWITCHBOARD_INBOX_BYTES", "SIZE", Plain, "16MiB",
        "Bytes that an inbox keeps, 64KiB to 1GiB";
    embedded_bytes, "embedded-bytes", "SWITCHBOARD_EMBEDDED_BYTES", "SIZE", Plain, "1GiB",
        "Bytes of all inboxes of the embedded backplane, 1MiB to 1024GiB";
    rate_limit, "rate-limit", "SWITCHBOARD_RATE_LIMIT", "RATE", Plain, "100/200",
        "Frames a second / burst that a connection may send, or `off`";
    max_bytes, "max-bytes", "SWITCHBOARD_MAX_BYTES", "SIZE", Plain, "64KiB",
        "Bytes of one frame of a client, 1KiB to 1MiB";
    drain_delay, "drain-delay", "SWITCHBOARD_DRAIN_DELAY", "DURATION", Plain, "5s",
        "After SIGTERM: unready, but still serving, so that load balancers notice; up to 1h";
    drain, "drain", "SWITCHBOARD_DRAIN", "DURATION", Plain, "30s",
        "How long SIGTERM waits for connections to leave, up to 1h; a second SIGTERM stops at once";
    presence_delay, "presence-delay", "SWITCHBOARD_PRESENCE_DELAY", "DURATION", Plain, "5s",
        "How long who lost his last connection still counts as present, up to 1m: who comes back within it was never away";
    can_send, "can-send", "SWITCHBOARD_CAN_SEND", "LIST", Plain, "user:*,own",
        "Whom users may send to whose tokens have no `can`: addresses with commas between, `*` for an ID or its end, `own` for the user's own groups, or `none`; with `--auth none` everybody may do everything";
    can_join, "can-join", "SWITCHBOARD_CAN_JOIN", "LIST", Plain, "own",
        "Which groups they may join, written alike";
    can_look, "can-look", "SWITCHBOARD_CAN_LOOK", "LIST", Plain, "own",
        "Which users and groups they may look at, written alike; `own` is also whoever shares a group";
    strict, "strict", "SWITCHBOARD_STRICT", "true|false", Plain, "false",
        "Refuse to start on a Redis that can lose messages, or that cannot be asked within 10 s";
    log, "log", "SWITCHBOARD_LOG", "FILTER", Plain, "info",
        "What is logged: `error`, `warn`, `info`, `debug`, `trace`, or by module as in `info,gateway=debug`";
    log_format, "log-format", "SWITCHBOARD_LOG_FORMAT", "FORMAT", Plain, "text",
        "How it is logged: `text` or `json`";
    scheduler, "scheduler", "SWITCHBOARD_SCHEDULER", "HOW", Hidden, "pinned",
        "`shared`: one work-stealing runtime; `pinned`: one runtime a worker";
}

/// The row of a key that is in the table.
pub(super) fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}
