//! What the server said, as one line of JSON: for terminals, logs and scripts, whatever the connection's encoding is.

use protocol::Encoding;
use protocol::client::write::MapWriter;

use super::people::{MemberChange, PresenceChange, ReadChange};
use super::{ErrorAnswer, Message, Reset, Status, StreamStart, Welcome};

impl Message {
    /// The frame, exactly as a server writes it in JSON.
    pub fn to_json(&self) -> String {
        line("message", |map| {
            map.text("to", &self.to).text("from", &self.from).text("id", &self.id).number("at", self.at.0);
            number(map, "seq", self.seq);
            text(map, "cursor", self.cursor.as_deref());
            if self.again {
                map.bool("again", true);
            }
            map.body("body", self.body.encoding(), self.body.raw());
        })
    }
}

impl Welcome {
    pub fn to_json(&self) -> String {
        line("welcome", |map| {
            map.text("user", &self.user).text("device", &self.device);
            map.text("connection", &self.connection).text("node", &self.node);
            map.number("heartbeat_ms", self.heartbeat_ms);
            // Left out by a server that has no bound.
            if self.bytes_max != u64::MAX {
                map.number("max_bytes", self.bytes_max);
            }
            map.maps("streams", self.streams.iter(), |map, stream| stream.fill(map));
            map.texts("groups", self.groups.iter().map(String::as_str));
        })
    }
}

impl StreamStart {
    pub fn to_json(&self) -> String {
        line("stream", |map| self.fill(map))
    }

    fn fill(&self, map: &mut MapWriter<'_>) {
        let status = match self.status {
            Status::New => "new",
            Status::Resumed => "resumed",
            Status::Reset => "reset",
        };
        map.text("of", &self.of).text("status", status).text("cursor", &self.cursor);
        map.number("head", self.head).number("replay", self.replay);
        text(map, "reason", self.reason.as_deref());
        number(map, "lost", self.lost);
    }
}

impl Reset {
    pub fn to_json(&self) -> String {
        line("reset", |map| {
            map.text("of", &self.of).text("reason", &self.reason).text("cursor", &self.cursor);
            number(map, "lost", self.lost);
        })
    }
}

impl PresenceChange {
    pub fn to_json(&self) -> String {
        line("presence_change", |map| {
            map.text("user", &self.user).bool("online", self.is_online);
            map.number("version", self.version).number("at", self.at.0);
        })
    }
}

impl MemberChange {
    pub fn to_json(&self) -> String {
        line("member_change", |map| {
            map.text("group", &self.group);
            if let Some((user, joined)) = &self.who {
                map.text("user", user).bool("joined", *joined);
            }
            number(map, "members", self.members);
        })
    }
}

impl ReadChange {
    pub fn to_json(&self) -> String {
        line("read_change", |map| {
            map.text("of", &self.of);
            text(map, "with", self.with.as_deref());
            map.text("user", &self.user).text("cursor", &self.cursor);
        })
    }
}

impl ErrorAnswer {
    pub fn to_json(&self) -> String {
        line("error", |map| {
            text(map, "id", self.id.as_deref());
            map.text("code", &self.code).text("message", &self.message);
            number(map, "retry_ms", self.retry_ms);
            if self.is_final {
                map.bool("final", true);
            }
        })
    }
}

fn line(kind: &str, fill: impl FnOnce(&mut MapWriter<'_>)) -> String {
    let mut out = Vec::with_capacity(256);
    let mut map = MapWriter::begin(Encoding::Json, &mut out);
    map.text("type", kind);
    fill(&mut map);
    map.finish();
    String::from_utf8_lossy(&out).into_owned()
}

fn text(map: &mut MapWriter<'_>, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        map.text(key, value);
    }
}

fn number(map: &mut MapWriter<'_>, key: &str, value: Option<u64>) {
    if let Some(value) = value {
        map.number(key, value);
    }
}
