//! How a group is spoken to: by the frames of this protocol, or by a room of Socket.IO. Everything else of the scenario is
//! the same for both.

use bytes::Bytes;
use protocol::Encoding;
use protocol::client::fields::{self, Fields};
use switchboard_client::socket::{Incoming, Socket};
use switchboard_client::wire::write::{ClientFrame, Send};
use switchboard_client::{Ask, Body};

use crate::idle::Opening;
use crate::link::Target;
use crate::socket_io::{self, Packet};

/// Which server is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `join` of a group, for good; `send`, `sent`, `message`.
    Switchboard,
    /// The events `join` and `send` with acknowledgements, and `message`, of `benches/peers/socketio`.
    SocketIo,
}

/// What a server said that counts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said<'a> {
    /// The body of a message.
    Message(&'a [u8]),
    /// What was asked under this number is done.
    Answered(u64),
    Refused {
        id: Option<u64>,
        code: String,
    },
    /// Has to be written now.
    Reply(Vec<u8>),
    Malformed,
}

impl Dialect {
    pub(super) async fn open(
        self,
        opening: &Opening,
        target: &Target,
        user: &str,
        index: usize,
    ) -> Result<Socket, String> {
        match self {
            Self::Switchboard => opening.open(target, user, index).await,
            Self::SocketIo => opening.open_socket_io(target, index).await,
        }
    }

    /// Makes an open connection one of the group, and waits until it is.
    pub(super) async fn join(self, socket: &mut Socket, group: &str) -> Result<(), String> {
        socket.queue(match self {
            Self::Switchboard => {
                ask("0", &Ask::Join { group: group.to_owned(), until_disconnect: false, cursor: None })
            }
            Self::SocketIo => socket_io::join(0, group),
        })?;
        loop {
            let frame = match socket.drive(true).await {
                Incoming::Frame(frame) => frame,
                Incoming::Alive => continue,
                Incoming::Closed { code, reason } => return Err(format!("closed with {code:?} at the join: {reason}")),
            };
            let (mut is_in, mut refused, mut replies) = (false, None, Vec::new());
            self.read(&frame, |said| match said {
                Said::Answered(_) => is_in = true,
                Said::Refused { code, .. } => refused = Some(code),
                Said::Reply(reply) => replies.push(reply),
                Said::Message(_) | Said::Malformed => {}
            });
            replies.into_iter().try_for_each(|reply| socket.queue(reply))?;
            match refused {
                Some(code) => return Err(format!("join: {code}")),
                None if is_in => return Ok(()),
                None => {}
            }
        }
    }

    /// A message to the group; its answer names `id`.
    pub(super) fn send(self, id: u64, group: &str, body: &[u8]) -> Vec<u8> {
        match self {
            Self::SocketIo => socket_io::send(id, group, body),
            Self::Switchboard => {
                let (id, to) = (id.to_string(), format!("group:{group}"));
                let send = Send {
                    id: &id,
                    to: &to,
                    body: &Body::encoded(Encoding::Json, Bytes::copy_from_slice(body)),
                    ephemeral: false,
                    echo: false,
                    expires_ms: None,
                    retry_age_ms: None,
                    replicated: false,
                };
                encoded(&ClientFrame::Send(send))
            }
        }
    }

    /// Takes a frame apart.
    pub(crate) fn read(self, frame: &[u8], mut each: impl FnMut(Said<'_>)) {
        match self {
            Self::SocketIo => match socket_io::read(frame) {
                Packet::Ping => each(Said::Reply(socket_io::pong())),
                Packet::Ack(id) => each(Said::Answered(id)),
                Packet::Event(arguments) => each(socket_io::body(arguments).map_or(Said::Malformed, Said::Message)),
                Packet::Open | Packet::Connected | Packet::Other => {}
            },
            Self::Switchboard => match fields::split(Encoding::Json, frame) {
                Ok(frames) => frames.iter().filter_map(said).for_each(each),
                Err(_) => each(Said::Malformed),
            },
        }
    }
}

fn said<'a>(fields: &'a Fields<'_>) -> Option<Said<'a>> {
    let number = || fields.get("id")?.text()?.parse().ok();
    match &*fields.get("type")?.text()? {
        "message" => Some(fields.get("body").map_or(Said::Malformed, |body| Said::Message(body.bytes))),
        "sent" | "ok" => Some(number().map_or(Said::Malformed, Said::Answered)),
        "error" => {
            let code = fields.get("code").and_then(|code| code.text()).unwrap_or_default().into_owned();
            Some(Said::Refused { id: number(), code })
        }
        // Changes of members, the group's stream and the like.
        _ => None,
    }
}

pub(crate) fn ask(id: &str, ask: &Ask) -> Vec<u8> {
    encoded(&ClientFrame::Ask { id, ask })
}

fn encoded(frame: &ClientFrame<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    frame.encode(Encoding::Json, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(dialect: Dialect, frame: &str) -> Vec<String> {
        let mut heard = Vec::new();
        dialect.read(frame.as_bytes(), |said| heard.push(format!("{said:?}")));
        heard
    }

    #[test]
    fn both_dialects_say_the_same() {
        let ours = r#"[{"type":"ok","id":"3","cursor":"x"},{"type":"member_change","group":"g","members":2}]"#;
        assert_eq!(heard(Dialect::Switchboard, ours), heard(Dialect::SocketIo, "433[]"));
        let ours =
            r#"{"type":"message","to":"group:g","from":"user:a","id":"1","at":5,"body":"abc","seq":1,"cursor":"c"}"#;
        let theirs = r#"42["message",{"to":"g","from":"a","id":"1","at":5,"body":"abc"}]"#;
        assert_eq!(heard(Dialect::Switchboard, ours), heard(Dialect::SocketIo, theirs));
        assert_eq!(heard(Dialect::SocketIo, "2").len(), 1, "a ping is answered");
        assert!(
            heard(Dialect::Switchboard, r#"{"type":"error","id":"3","code":"forbidden"}"#)[0].contains("forbidden")
        );
        assert_eq!(heard(Dialect::Switchboard, "{"), ["Malformed"]);
    }
}
