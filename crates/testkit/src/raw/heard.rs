//! What a server says, taken apart as far as it has come.

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Outcome, opcode};
use crate::http::Head;

/// The code that stands for a close frame without one.
const NO_CODE: u16 = 1005;

/// What came, taken apart as far as it goes.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) is_upgraded: bool,
    pub(super) unparsed: Vec<u8>,
    /// A message of which not every fragment has come.
    message: Vec<u8>,
    message_opcode: u8,
    pub(super) bytes: u64,
    pub(super) frames: Vec<Value>,
    pub(super) pong_count: u64,
    pub(super) last_pong: Option<Vec<u8>>,
    pub(super) outcome: Option<Outcome>,
}

impl Heard {
    /// Reads once and takes apart what came. Dropping the future loses nothing.
    pub(super) async fn read_from(&mut self, stream: &mut (impl AsyncRead + Unpin)) {
        match stream.read_buf(&mut self.unparsed).await {
            Ok(0) => self.outcome = Some(Outcome::Eof),
            Ok(n) => {
                self.bytes += n as u64;
                self.take_apart();
            }
            Err(_) => self.outcome = Some(Outcome::Reset),
        }
    }

    pub(super) fn take_apart(&mut self) {
        if !self.is_upgraded && !self.take_head() {
            return;
        }
        let mut at = 0;
        while self.outcome.is_none()
            && let Some((first, content, end)) = server_frame(&self.unparsed[at..])
        {
            let payload = self.unparsed[at..][content..end].to_vec();
            at += end;
            self.take_frame(first & 0x0f, first & 0x80 != 0, payload);
        }
        self.unparsed.drain(..at);
    }

    /// True once the head of an upgrade has come.
    fn take_head(&mut self) -> bool {
        match Head::parse(&self.unparsed) {
            Ok(None) => {}
            Ok(Some((head, at))) => {
                self.unparsed.drain(..at);
                self.is_upgraded = head.status == 101;
                if !self.is_upgraded {
                    self.outcome = Some(Outcome::Http(head.status));
                }
            }
            Err(_) => self.outcome = Some(Outcome::Http(0)),
        }
        self.is_upgraded
    }

    fn take_frame(&mut self, opcode: u8, is_final: bool, payload: Vec<u8>) {
        match opcode {
            opcode::CLOSE => {
                let code = payload.first_chunk().map_or(NO_CODE, |code| u16::from_be_bytes(*code));
                let bye = self.frames.last().filter(|frame| frame["type"] == "bye").cloned();
                self.outcome = Some(Outcome::Close { code, bye });
            }
            opcode::PONG => {
                self.pong_count += 1;
                self.last_pong = Some(payload);
            }
            opcode::PING => {}
            _ => {
                if opcode != opcode::CONTINUATION {
                    self.message_opcode = opcode;
                    self.message.clear();
                }
                self.message.extend_from_slice(&payload);
                if is_final {
                    match decoded(self.message_opcode, &self.message) {
                        Value::Array(batch) => self.frames.extend(batch),
                        one => self.frames.push(one),
                    }
                }
            }
        }
    }
}

/// The first byte of a frame, and where its content begins and ends; `None` while it is not complete.
fn server_frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (first, length) = (*bytes.first()?, *bytes.get(1)? & 0x7f);
    let (length, content) = match length {
        126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
        short => (u64::from(short), 2),
    };
    let end = content + usize::try_from(length).ok()?;
    (bytes.len() >= end).then_some((first, content, end))
}

/// A message as JSON; what cannot be read comes as a text.
fn decoded(opcode: u8, message: &[u8]) -> Value {
    let value = match opcode {
        opcode::BINARY => rmp_serde::from_slice(message).ok(),
        _ => serde_json::from_slice(message).ok(),
    };
    value.unwrap_or_else(|| Value::String(String::from_utf8_lossy(message).into_owned()))
}
