//! As much of Socket.IO as a member of a room needs: Engine.IO 4 packets in text frames, Socket.IO 5 packets within them.
//!
//! `0{…}` is the server's opening, `2` its ping and `3` the answer; `40` connects to the namespace `/`, `42["name",…]` is an
//! event, `42ID[…]` one that wants an acknowledgement, which is `43ID[…]`.

use bytes::Bytes;
use switchboard_client::socket::{Incoming, Socket};

/// What a server said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Open,
    Connected,
    Ping,
    /// The arguments: an array in JSON.
    Event(&'a [u8]),
    Ack(u64),
    Other,
}

pub(crate) fn read(frame: &[u8]) -> Packet<'_> {
    match frame {
        [b'0', ..] => Packet::Open,
        [b'2', ..] => Packet::Ping,
        [b'4', b'0', ..] => Packet::Connected,
        [b'4', b'2', arguments @ ..] => Packet::Event(arguments),
        [b'4', b'3', ack @ ..] => {
            let digits = ack.iter().take_while(|byte| byte.is_ascii_digit());
            Packet::Ack(digits.fold(0, |id: u64, digit| id.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))))
        }
        _ => Packet::Other,
    }
}

/// The answer to a ping, without which the server hangs up.
pub(crate) fn pong() -> Vec<u8> {
    b"3".to_vec()
}

pub(crate) fn join(id: u64, room: &str) -> Vec<u8> {
    format!(r#"42{id}["join","{room}"]"#).into_bytes()
}

/// `body` is JSON.
pub(crate) fn send(id: u64, room: &str, body: &[u8]) -> Vec<u8> {
    let mut frame = format!(r#"42{id}["send","{room}","{id}","#).into_bytes();
    frame.extend_from_slice(body);
    frame.push(b']');
    frame
}

/// The body of `["message",{…,"body":BODY}]`, a text in JSON without escapes.
pub(crate) fn body(arguments: &[u8]) -> Option<&[u8]> {
    let inner = arguments.strip_suffix(b"}]")?;
    let text = inner.strip_suffix(b"\"")?;
    let begin = text.iter().rposition(|byte| *byte == b'"')?;
    inner.get(begin..).filter(|_| arguments.starts_with(b"[\"message\","))
}

/// From the open socket to the namespace.
pub(crate) async fn connected(socket: &mut Socket) -> Result<(), String> {
    loop {
        let frame: Bytes = match socket.drive(true).await {
            Incoming::Frame(frame) => frame,
            Incoming::Alive => continue,
            Incoming::Closed { code, reason } => return Err(format!("closed with {code:?} while opening: {reason}")),
        };
        match read(&frame) {
            Packet::Open => socket.queue(b"40".to_vec())?,
            Packet::Ping => socket.queue(pong())?,
            Packet::Connected => return Ok(()),
            other => return Err(format!("{other:?} while opening")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_apart() {
        assert_eq!(read(br#"0{"sid":"x"}"#), Packet::Open);
        assert_eq!(read(b"2"), Packet::Ping);
        assert_eq!(read(br#"40{"sid":"y"}"#), Packet::Connected);
        assert_eq!(read(b"4317[]"), Packet::Ack(17));
        assert_eq!(read(b"41"), Packet::Other);
        let Packet::Event(arguments) = read(br#"42["message",{"id":"7","body":"0123xx"}]"#) else { panic!("no event") };
        assert_eq!(body(arguments), Some(&br#""0123xx""#[..]));
        assert_eq!(body(br#"["other",{"body":"1"}]"#), None);
        assert_eq!(body(br#"["message",7]"#), None);
    }

    #[test]
    fn what_is_said_is_a_packet() {
        assert_eq!(join(0, "r"), br#"420["join","r"]"#);
        assert_eq!(send(5, "r", b"\"b\""), br#"425["send","r","5","b"]"#);
    }
}
