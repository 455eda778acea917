//! `switchboard doctor`: checks the settings as `serve` reads them, and the Redis they name; says what loses messages and
//! what to change.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{anyhow, bail};
use backplane::doctor::{Finding, Severity, examine, fine};
use backplane::redis::doctor::ask_masters;
use clap::{ArgMatches, Args};
use gateway::config::{Config, RawConfig};

use crate::{block_on, serve};

/// For one step of asking: people wait for it.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// The settings of `serve`: whoever has a command line that does not do puts `doctor` in the place of `serve`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    settings: RawConfig,
}

/// Prints what was found. `matches` knows which settings came from the environment.
///
/// # Errors
/// The settings are wrong, Redis cannot be asked, or it loses messages: all of them end with status 1 or 2.
pub(crate) fn run(mut args: DoctorArgs, matches: Option<&ArgMatches>) -> anyhow::Result<()> {
    if let Some(matches) = matches {
        args.settings.note_sources(matches);
    }
    if args.settings.print_config {
        bail!("`doctor` prints no settings: expected `switchboard serve --print-config`");
    }
    let config = Config::load(args.settings)?;
    serve::filter(&config.log)?;
    say("Settings: fine\n")?;
    let (Some(url), Some(shown)) = (&config.redis, config.redis_shown()) else {
        return say(&report("No Redis: the embedded backplane", &[embedded()], &[]));
    };
    let mut masters = Vec::new();
    block_on(async {
        masters = ask_masters(url.reveal(), ASK_WITHIN, now_us).await.map_err(|e| anyhow!("Redis {shown}: {e}"))?;
        Ok(())
    })?;
    let mut loses = 0;
    for (place, (address, facts)) in masters.iter().enumerate() {
        let master = address.as_ref().map(|address| format!(", master {address}")).unwrap_or_default();
        let found = examine(facts);
        if place > 0 {
            say("\n")?;
        }
        say(&report(&format!("Redis {shown}{master}"), &found, &fine(facts)))?;
        loses += found.iter().filter(|finding| finding.severity == Severity::Loses).count();
    }
    match loses {
        0 => Ok(()),
        1 => bail!("this Redis can lose messages: see the finding above"),
        count => bail!("this Redis can lose messages: see the {count} findings above"),
    }
}

/// What there is to say about a node without Redis.
fn embedded() -> Finding {
    Finding {
        severity: Severity::Risk,
        what: "messages are kept in the memory of one node only".to_owned(),
        why: "a restart of the node loses every inbox, and there can be no second node",
        how: "fine for development; otherwise name a Redis with `--redis` or SWITCHBOARD_REDIS",
    }
}

fn report(place: &str, found: &[Finding], fine: &[String]) -> String {
    let mut out = format!("{place}\n");
    for severity in Severity::ALL {
        let heading = match severity {
            Severity::Loses => "LOSES MESSAGES",
            Severity::Risk => "RISKS",
            Severity::Note => "NOTES",
        };
        let of_it: Vec<_> = found.iter().filter(|finding| finding.severity == severity).collect();
        if !of_it.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(out, "\n{heading}\n");
        }
        for finding in of_it {
            let _ = writeln!(out, "  {finding}");
        }
    }
    if !fine.is_empty() {
        let _ = write!(out, "\nFine: {}\n", fine.join(", "));
    }
    out
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    Ok(out.write_all(text.as_bytes()).and_then(|()| out.flush())?)
}

#[allow(clippy::disallowed_methods, reason = "the clock of this machine is what Redis' is compared with")]
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_grouped_the_worst_first() {
        let finding = |severity, what: &str| Finding { severity, what: what.to_owned(), why: "because", how: "so" };
        let found = [finding(Severity::Note, "a note"), finding(Severity::Loses, "it evicts")];
        let said = report("Redis redis://h", &found, &["a master".to_owned(), "near".to_owned()]);
        let expected = "Redis redis://h\n\nLOSES MESSAGES\n  it evicts\n    why: because\n    how: so\n\n\
                        NOTES\n  a note\n    why: because\n    how: so\n\nFine: a master, near\n";
        assert_eq!(said, expected);
    }
}
