//! `switchboard serve`: reads the settings, starts the log, says what to try, and runs the node.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::{ArgMatches, Args};
use gateway::config::{Auth, Config, ConfigError, LogFormat, RawConfig};
use tracing_subscriber::EnvFilter;

/// Libraries that say too much below this, frames and commands with their payloads among it.
const QUIET: &str = "fred=warn,tungstenite=warn,tokio_tungstenite=warn,hyper=warn,hyper_util=warn";

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    settings: RawConfig,
}

/// Runs a node until it is told to end. `matches` knows which settings came from the environment.
pub(crate) fn run(mut args: ServeArgs, matches: Option<&ArgMatches>) -> anyhow::Result<()> {
    if let Some(matches) = matches {
        args.settings.note_sources(matches);
    }
    let is_print = args.settings.print_config;
    let config = Config::load(args.settings)?;
    let filter = filter(&config.log)?;
    #[cfg(feature = "sabotage")]
    if let Ok(rule) = std::env::var("SWITCHBOARD_SABOTAGE") {
        gateway::sabotage::switch_off(&rule).map_err(anyhow::Error::msg)?;
    }
    let mut out = std::io::stdout().lock();
    if is_print {
        out.write_all(config.to_toml().as_bytes())?;
        return Ok(());
    }
    drop(out);
    start_log(filter, config.log_format);
    let shown = config.clone();
    gateway::run_blocking(config, move |addresses| {
        if shown.redis.is_none() {
            let text =
                first_steps(&Config { listen: addresses.listen, internal: addresses.internal, ..shown }, &program());
            // A closed stdout is no reason not to serve.
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    })
}

pub(crate) fn filter(log: &str) -> Result<EnvFilter, ConfigError> {
    // Who wants silence, or errors only, gets no warnings of libraries either.
    let directives = if matches!(log, "off" | "error") { log.to_owned() } else { format!("{QUIET},{log}") };
    EnvFilter::builder().parse(directives).map_err(|e| {
        let expected = "expected error, warn, info, debug or trace, or directives such as info,gateway=debug";
        ConfigError::of("log", format!("{expected}; got {log:?} ({e})"))
    })
}

/// On stderr, so that stdout is for what was asked for.
fn start_log(filter: EnvFilter, format: LogFormat) {
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

/// What to paste next, for somebody who started a node to see what it is.
fn first_steps(config: &Config, program: &str) -> String {
    let (listen, internal) = (reachable(config.listen), reachable(config.internal));
    let url = if listen.to_string() == "127.0.0.1:8080" { String::new() } else { format!(" --url ws://{listen}") };
    let api =
        if internal.to_string() == "127.0.0.1:8081" { String::new() } else { format!(" --api http://{internal}") };
    let who = match &config.auth {
        Auth::None => "--user bob".to_owned(),
        Auth::Jwt(_) => format!("--token \"$({program} token --user bob)\""),
    };
    let (key, header) = match config.api_key {
        None => ("", ""),
        Some(_) => (" --api-key \"$SWITCHBOARD_API_KEY\"", " -H \"Authorization: Bearer $SWITCHBOARD_API_KEY\""),
    };
    format!(
        "Switchboard without Redis: one node, messages in its memory. Try it in other terminals:\n\n  \
         {program} listen{url} {who}\n  \
         {program} send{api}{key} --to user:bob '{{\"hello\":\"world\"}}'\n  \
         curl{header} http://{internal}/v1/send -d '{{\"to\":\"user:bob\",\"body\":{{\"hello\":\"world\"}}}}'\n\n\
         Metrics: http://{internal}/metrics\n\n"
    )
}

/// How this program was called, so that what is printed can be pasted: from `cargo run` it is on nobody's path.
fn program() -> String {
    let called = std::env::args().next().unwrap_or_default();
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+".contains(&b);
    match called.as_str() {
        "" => "switchboard".to_owned(),
        plain if plain.bytes().all(is_plain) => called,
        other => format!("'{}'", other.replace('\'', "'\\''")),
    }
}

/// Where somebody on this machine finds a listener that listens everywhere.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway::config::Facts;

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let facts = Facts { host_name: Some("h".to_owned()), cores: 1 };
        let mut config = Config::check(&RawConfig::default(), &facts).unwrap();
        change(&mut config);
        config
    }

    #[test]
    fn a_filter_that_cannot_be_read_names_its_key() {
        for good in ["info", "off", "error", "warn,gateway=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        let said = filter("info,=x=").unwrap_err().to_string();
        assert!(said.starts_with("log: expected error, warn, info"), "{said}");
        let both = filter("debug,hyper=trace").unwrap().to_string();
        assert!(both.contains("fred=warn") && both.contains("hyper=trace") && !both.contains("hyper=warn"), "{both}");
    }

    #[test]
    fn the_first_steps_fit_the_settings() {
        let plain = first_steps(&config(|_| {}), "switchboard");
        assert!(plain.contains("\n  switchboard listen --user bob\n"), "{plain}");
        assert!(plain.contains("\n  switchboard send --to user:bob '{\"hello\":\"world\"}'\n"), "{plain}");
        assert!(plain.contains("curl http://127.0.0.1:8081/v1/send -d '{\"to\":\"user:bob\""), "{plain}");
        let other = first_steps(
            &config(|config| {
                config.listen = "0.0.0.0:9000".parse().unwrap();
                config.internal = "[::]:9001".parse().unwrap();
            }),
            "target/debug/switchboard",
        );
        assert!(
            other.contains("\n  target/debug/switchboard listen --url ws://127.0.0.1:9000")
                && other.contains("--api http://[::1]:9001"),
            "{other}"
        );
    }
}
