//! `switchboard listen`: a client for the terminal. Prints what arrives, comes back, resumes.
//!
//! On stdout one line of JSON a frame: every `message` as it came; `welcome`, `stream` and `reset`, which say where a stream
//! stands; `member_change`, `presence_change` and `read_change`. On stderr what is for people.

use std::io::{ErrorKind, Write};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use switchboard_client::{Client, Config, Credentials, Event, Events, JoinOptions, StartFrom, StopReason};
use tokio::signal::unix::{SignalKind, signal};

use crate::send::Target;

#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Whose messages, on a node with `--auth none`; elsewhere the token says it
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// A name of this device: what was printed is acknowledged, and the next start goes on behind it
    #[arg(long)]
    device: Option<String>,
    /// Follow this group too, as long as this command runs; may be given several times. Groups of which the user is a
    /// member are followed anyway
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Where to start without a cursor
    #[arg(long, value_enum)]
    from: Option<From>,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    /// With the oldest message that is kept
    Oldest,
    /// With the next message
    Now,
}

pub(crate) async fn run(args: ListenArgs) -> anyhow::Result<()> {
    let (device, groups) = (args.device.clone(), args.groups.clone());
    let (client, events) = Client::connect(config(args)?)?;
    groups.into_iter().for_each(|group| follow(&client, group));
    let mut terminate = signal(SignalKind::terminate())?;
    let result = tokio::select! {
        result = print_all(&client, events, device.is_some()) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    // Says goodbye, after the last acknowledgement.
    client.close().await;
    result
}

fn config(args: ListenArgs) -> anyhow::Result<Config> {
    let Target { url, token, .. } = args.target;
    let credentials = match (token.filter(|token| !token.reveal().is_empty()), args.user) {
        (Some(token), _) => Credentials::Token(token.reveal().to_owned()),
        (None, Some(user)) => Credentials::User(user),
        // A ticket may be in the URL.
        (None, None) if url.contains('?') => Credentials::Url,
        (None, None) => {
            bail!("who listens? expected --user USER (a node with `--auth none`), --token or SWITCHBOARD_TOKEN")
        }
    };
    let mut config = Config::new(url, credentials);
    config.device = args.device;
    config.from = args.from.map(|from| match from {
        From::Oldest => StartFrom::Oldest,
        From::Now => StartFrom::Now,
    });
    Ok(config)
}

/// Joins beside the printing: the answer comes behind what is printed first. The task ends with its answer, or with the
/// client.
fn follow(client: &Client, group: String) {
    let client = client.clone();
    tokio::spawn(async move {
        let options = JoinOptions { until_disconnect: true, ..JoinOptions::default() };
        if let Err(e) = client.join_with(&group, options).await {
            eprintln!("group {group} is not followed: {e}");
        }
    });
}

async fn print_all(client: &Client, mut events: Events, acknowledges: bool) -> anyhow::Result<()> {
    while let Some(event) = events.next().await {
        let is_heard = match &event {
            Event::Message(message) => {
                let is_heard = print(message.to_json()).await?;
                if acknowledges && is_heard {
                    client.ack(message).await;
                }
                is_heard
            }
            Event::Welcome(welcome) => {
                eprintln!("connected to {} as {} ({})", welcome.node, welcome.user, welcome.device);
                print(welcome.to_json()).await?
            }
            Event::Stream(stream) => print(stream.to_json()).await?,
            Event::Reset(reset) => print(reset.to_json()).await?,
            Event::MemberChange(change) => print(change.to_json()).await?,
            Event::PresenceChange(change) => print(change.to_json()).await?,
            Event::ReadChange(change) => print(change.to_json()).await?,
            Event::Error(error) => {
                eprintln!("the server answered {}: {}", error.code, error.message);
                true
            }
            Event::Disconnected { code, reason, again_ms } => {
                let code = code.map(|code| format!(" with {code}")).unwrap_or_default();
                eprintln!("disconnected{code}: {reason}; back in {again_ms} ms");
                true
            }
            Event::Stopped(StopReason::Own) => return Ok(()),
            Event::Stopped(reason) => bail!(advice(reason)),
            // What a newer client tells and this command does not know.
            _ => true,
        };
        if !is_heard {
            return Ok(());
        }
    }
    Ok(())
}

/// Why it is over, and what to do.
fn advice(reason: &StopReason) -> String {
    let hint = match reason {
        StopReason::Closed { code: 4001, .. } => {
            "; get a token with `switchboard token --user USER`, or start the node with `--auth none`"
        }
        StopReason::NoToken(_) => "; get a new one with `switchboard token --user USER`",
        StopReason::Own | StopReason::Closed { .. } => "",
    };
    format!("{reason}{hint}")
}

/// Prints one line; false if nobody reads any more, as after `| head -1`. On a thread that may block, so that a slow
/// reader does not keep the client from answering the server.
async fn print(mut line: String) -> anyhow::Result<bool> {
    line.push('\n');
    let writing = tokio::task::spawn_blocking(move || {
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes()).and_then(|()| out.flush())
    });
    match writing.await.context("the thread that prints has ended")? {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e).context("stdout cannot be written to"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::send::Secret;

    fn args(user: Option<&str>, token: Option<&str>, url: &str) -> ListenArgs {
        let target = Target { url: url.into(), api: String::new(), token: token.and_then(Secret::new), api_key: None };
        ListenArgs { user: user.map(str::to_owned), device: None, groups: Vec::new(), from: Some(From::Now), target }
    }

    #[test]
    fn the_token_says_who_listens_and_otherwise_the_user() {
        let credentials = |args| config(args).map(|config| format!("{:?}", config.credentials));
        assert_eq!(credentials(args(Some("u"), Some("abc"), "ws://h")).unwrap(), "Token(3 bytes)");
        assert_eq!(credentials(args(Some("u"), None, "ws://h")).unwrap(), "User(\"u\")");
        assert_eq!(credentials(args(None, None, "ws://h/?token=ticket")).unwrap(), "Url");
        assert!(credentials(args(None, None, "ws://h")).unwrap_err().to_string().contains("expected --user"));
        assert_eq!(config(args(Some("u"), None, "ws://h")).unwrap().from, Some(StartFrom::Now));
    }

    #[test]
    fn who_is_refused_is_told_what_to_do() {
        let refused = StopReason::Closed { code: 4001, reason: "unauthorized".into() };
        assert!(advice(&refused).contains("4001: unauthorized; get a token with"));
        assert_eq!(
            advice(&StopReason::Closed { code: 4005, reason: "bye".into() }),
            "the server closed with 4005: bye"
        );
    }
}
