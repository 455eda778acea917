//! The Lua scripts, and how one is run: by its hash, loaded again where Redis has forgotten it.

use std::future::Future;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::LuaInterface;
use fred::types::Value;

use crate::error::BackplaneError;

/// A script's text and hash.
#[derive(Debug)]
pub(super) struct Script {
    text: String,
    hash: String,
}

/// What tests do to a text before it is loaded.
pub(super) type Edit<'a> = &'a dyn Fn(&str) -> String;

/// All of them.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) append: Script,
    pub(super) attach: Script,
    pub(super) verify: Script,
    pub(super) detach: Script,
    pub(super) history: Script,
    pub(super) ack: Script,
    pub(super) heartbeat: Script,
    pub(super) bury: Script,
    pub(super) reap: Script,
    pub(super) agree: Script,
    pub(super) holds: Script,
    pub(super) begin_inbox: Script,
    pub(super) begin_meta: Script,
    pub(super) stored: Script,
    pub(super) presence: Script,
    pub(super) unwatch: Script,
    pub(super) audience: Script,
    pub(super) notify: Script,
    pub(super) change: Script,
    pub(super) regroup: Script,
    pub(super) changes: Script,
    pub(super) memberships: Script,
    pub(super) groups_of: Script,
    pub(super) part: Script,
    pub(super) mark: Script,
    pub(super) count: Script,
    pub(super) sender: Script,
}

impl Script {
    fn new(text: &str, edit: Edit<'_>) -> Self {
        let text = edit(&format!("{}\n{text}", include_str!("lua/common.lua")));
        let hash = fred::util::sha1_hash(&text);
        Self { text, hash }
    }

    /// Runs the script. Redis may have lost it (a restart, `SCRIPT FLUSH`, a promoted replica): then it did not run, and it
    /// is loaded and asked once more.
    pub(super) async fn run(
        &self,
        client: &Client,
        keys: Vec<String>,
        args: Vec<Value>,
    ) -> Result<Value, BackplaneError> {
        let first: Result<Value, Error> = client.evalsha(self.hash.as_str(), keys.clone(), args.clone()).await;
        match first {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                self.load(client).await?;
                client.evalsha(self.hash.as_str(), keys, args).await.map_err(classify)
            }
            other => other.map_err(classify),
        }
    }

    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    pub(super) async fn load(&self, client: &Client) -> Result<(), BackplaneError> {
        client.script_load::<(), _>(self.text.as_str()).await.map_err(classify)
    }
}

impl Scripts {
    pub(super) fn new(edit: Edit<'_>) -> Self {
        let script = |text| Script::new(text, edit);
        let telling = |text: &str| Script::new(&format!("{}\n{text}", include_str!("lua/told.lua")), edit);
        Self {
            append: script(include_str!("lua/append.lua")),
            attach: telling(include_str!("lua/attach.lua")),
            verify: telling(include_str!("lua/verify.lua")),
            detach: telling(include_str!("lua/detach.lua")),
            history: script(include_str!("lua/history.lua")),
            ack: script(include_str!("lua/ack.lua")),
            heartbeat: script(include_str!("lua/heartbeat.lua")),
            bury: script(include_str!("lua/bury.lua")),
            reap: telling(include_str!("lua/reap.lua")),
            agree: script(include_str!("lua/agree.lua")),
            holds: script(include_str!("lua/holds.lua")),
            begin_inbox: script(include_str!("lua/begin_inbox.lua")),
            begin_meta: script(include_str!("lua/begin_meta.lua")),
            stored: script(include_str!("lua/stored.lua")),
            presence: telling(include_str!("lua/presence.lua")),
            unwatch: script(include_str!("lua/unwatch.lua")),
            audience: script(include_str!("lua/audience.lua")),
            notify: telling(include_str!("lua/notify.lua")),
            change: telling(include_str!("lua/change.lua")),
            regroup: telling(include_str!("lua/regroup.lua")),
            changes: script(include_str!("lua/changes.lua")),
            memberships: script(include_str!("lua/memberships.lua")),
            groups_of: script(include_str!("lua/groups_of.lua")),
            part: script(include_str!("lua/part.lua")),
            mark: script(include_str!("lua/mark.lua")),
            count: script(include_str!("lua/count.lua")),
            sender: script(include_str!("lua/sender.lua")),
        }
    }

    pub(super) fn load<'a>(&'a self, client: &'a Client) -> impl Future<Output = Result<(), BackplaneError>> + 'a {
        let first = [&self.append, &self.attach, &self.verify, &self.detach, &self.history, &self.ack];
        let all = first.into_iter().chain([&self.heartbeat, &self.bury, &self.reap, &self.agree]);
        async move {
            for script in all {
                script.load(client).await?;
            }
            Ok(())
        }
    }
}

/// Whether a failed command may have run.
#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` takes")]
pub(super) fn classify(error: Error) -> BackplaneError {
    let text = format!("{}: {}", error.kind().to_str(), error.details());
    match error.kind() {
        // Refused before it was written, or answered with an error: scripts catch what fails after their first write.
        ErrorKind::Backpressure
        | ErrorKind::Config
        | ErrorKind::Auth
        | ErrorKind::Routing
        | ErrorKind::InvalidCommand
        | ErrorKind::InvalidArgument
        | ErrorKind::Url
        | ErrorKind::NotFound => BackplaneError::NotRun(text),
        _ if ["MOVED", "READONLY"].iter().any(|code| error.details().starts_with(code)) => {
            BackplaneError::Elsewhere(text)
        }
        // The library ends the connection with this one, and gives it to every call in flight: also to those for slots that
        // are served.
        _ if error.details().starts_with("CLUSTERDOWN Hash slot") => BackplaneError::Unknown(text),
        // An error reply has a code in capitals; a script error that broke a script in its middle would be one of ours.
        _ if is_reply(error.details()) => BackplaneError::NotRun(text),
        _ => BackplaneError::Unknown(text),
    }
}

/// Errors that Redis answers when it refuses a command as a whole.
fn is_reply(details: &str) -> bool {
    const REFUSALS: [&str; 12] = [
        "ASK",
        "TRYAGAIN",
        "NOSCRIPT",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOREPLICAS",
        "OOM",
        "NOAUTH",
        "NOPERM",
        "BUSY",
        "CLUSTERDOWN",
    ];
    REFUSALS.iter().any(|code| details.starts_with(code))
}

/// The bytes of a text reply; empty for anything else.
pub(super) fn bytes_of(value: Value) -> Bytes {
    value.into_bytes().unwrap_or_default()
}

/// The items of an array reply; empty for anything else.
pub(super) fn items_of(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}
