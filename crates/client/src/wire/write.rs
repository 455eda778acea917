//! What a client says, written in either encoding.

use protocol::Encoding;
use protocol::client::write::MapWriter;

use crate::body::Body;
use crate::requests::{Ask, Whom};

/// Where a stream starts for which there is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// With the oldest retained message.
    Oldest,
    /// With the next message.
    Now,
}

/// One frame to the server.
#[derive(Clone, Debug)]
pub enum ClientFrame<'a> {
    Hello(Hello<'a>),
    Send(Send<'a>),
    Ack { of: &'a str, cursor: &'a str },
    History { id: &'a str, of: &'a str, with: Option<&'a str>, before: Option<&'a str>, limit: Option<u64> },
    Ask { id: &'a str, ask: &'a Ask },
    Ping { id: Option<&'a str> },
}

/// The first frame. `Debug` is not derived: it holds the token.
#[derive(Clone, Default)]
pub struct Hello<'a> {
    pub token: Option<&'a str>,
    pub device: Option<&'a str>,
    /// By stream, newest first; at most four a stream.
    pub cursors: Vec<(&'a str, Vec<String>)>,
    pub from: Option<StartFrom>,
    /// The connection that this one replaces.
    pub takes_over: Option<&'a str>,
    /// Other connections of the same device are closed.
    pub exclusive: bool,
    /// Arrays of frames are understood.
    pub batch: bool,
}

impl std::fmt::Debug for Hello<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token_bytes = self.token.map(str::len);
        f.debug_struct("Hello")
            .field("token_bytes", &token_bytes)
            .field("device", &self.device)
            .field("cursors", &self.cursors)
            .field("from", &self.from)
            .field("takes_over", &self.takes_over)
            .field("exclusive", &self.exclusive)
            .field("batch", &self.batch)
            .finish()
    }
}

/// A message on its way.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    pub id: &'a str,
    pub to: &'a str,
    pub body: &'a Body,
    pub ephemeral: bool,
    pub echo: bool,
    pub expires_ms: Option<u64>,
    /// Milliseconds since the first try, if this is not the first.
    pub retry_age_ms: Option<u64>,
    /// `sent` comes when a replica of the backplane has it, too.
    pub replicated: bool,
}

impl ClientFrame<'_> {
    /// Appends the frame as one map.
    pub fn encode(&self, encoding: Encoding, out: &mut Vec<u8>) {
        let mut map = MapWriter::begin(encoding, out);
        match self {
            Self::Hello(hello) => hello.fill(&mut map),
            Self::Send(send) => send.fill(&mut map),
            Self::Ack { of, cursor } => {
                map.text("type", "ack").text("of", of).text("cursor", cursor);
            }
            Self::History { id, of, with, before, limit } => {
                map.text("type", "history").text("id", id).text("of", of);
                optional(&mut map, "with", *with);
                optional(&mut map, "before", *before);
                if let Some(limit) = limit {
                    map.number("limit", *limit);
                }
            }
            Self::Ask { id, ask } => ask.fill(id, &mut map),
            Self::Ping { id } => {
                map.text("type", "ping");
                optional(&mut map, "id", *id);
            }
        }
        map.finish();
    }
}

impl Hello<'_> {
    fn fill(&self, map: &mut MapWriter<'_>) {
        map.text("type", "hello");
        optional(map, "token", self.token);
        optional(map, "device", self.device);
        if !self.cursors.is_empty() {
            // A client has more streams than a map of MapWriter has fields: written as JSON, then put in as a value.
            let streams: serde_json::Map<_, _> =
                self.cursors.iter().map(|(of, list)| ((*of).to_owned(), list.clone().into())).collect();
            map.body("cursors", Encoding::Json, serde_json::Value::Object(streams).to_string().as_bytes());
        }
        let from = self.from.map(|from| match from {
            StartFrom::Oldest => "oldest",
            StartFrom::Now => "now",
        });
        optional(map, "from", from);
        optional(map, "takes_over", self.takes_over);
        if self.exclusive {
            map.bool("exclusive", true);
        }
        if self.batch {
            map.bool("batch", true);
        }
    }
}

impl Send<'_> {
    fn fill(&self, map: &mut MapWriter<'_>) {
        map.text("type", "send").text("id", self.id).text("to", self.to);
        if self.ephemeral {
            map.bool("ephemeral", true);
        }
        if self.echo {
            map.bool("echo", true);
        }
        if let Some(age_ms) = self.retry_age_ms {
            map.bool("retry", true).number("age_ms", age_ms);
        }
        if self.replicated {
            map.text("ack", "replicated");
        }
        if let Some(expires_ms) = self.expires_ms {
            map.number("expires_ms", expires_ms);
        }
        map.body("body", self.body.encoding(), self.body.raw());
    }
}

impl Ask {
    fn fill(&self, id: &str, map: &mut MapWriter<'_>) {
        map.text("type", self.kind()).text("id", id);
        match self {
            Self::Join { group, until_disconnect, cursor } => {
                map.text("group", group);
                if *until_disconnect {
                    map.text("until", "disconnect");
                }
                optional(map, "cursor", cursor.as_deref());
            }
            Self::Leave { group } => {
                map.text("group", group);
            }
            Self::Read { of, with, cursor } => {
                map.text("of", of).text("cursor", cursor);
                optional(map, "with", with.as_deref());
            }
            Self::Counts { of, with } => {
                map.text("of", of);
                optional(map, "with", with.as_deref());
            }
            Self::Receipts { reference } => {
                map.text("ref", reference);
            }
            Self::Presence(whom) | Self::Watch(whom) | Self::Unwatch(whom) => match whom {
                Whom::Users(users) => drop(map.texts("users", users.iter().map(String::as_str))),
                Whom::Group(group) => drop(map.text("group", group)),
            },
            Self::Members { group, after, limit } => {
                map.text("group", group);
                optional(map, "after", after.as_deref());
                if let Some(limit) = limit {
                    map.number("limit", *limit);
                }
            }
        }
    }
}

fn optional(map: &mut MapWriter<'_>, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        map.text(key, value);
    }
}
