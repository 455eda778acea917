//! Two encodings behind one door.

use bytes::Bytes;

use super::event::ServerFrame;
use super::fields::{self, Malformed};
use super::frame::{ClientFrame, FrameError};
use super::write;
use crate::node::Encoding;

/// What one frame held, in order: one item, or those of a batch.
pub type Decoded = Vec<Result<ClientFrame, FrameError>>;

/// One WebSocket message, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireFrame {
    pub encoding: Encoding,
    pub bytes: Bytes,
}

impl WireFrame {
    /// True for a text message, false for a binary one.
    pub fn is_text(&self) -> bool {
        self.encoding == Encoding::Json
    }
}

/// How a connection writes its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec(pub Encoding);

impl Codec {
    pub const JSON: Self = Self(Encoding::Json);
    pub const MSGPACK: Self = Self(Encoding::MessagePack);

    /// The WebSocket subprotocol that names this encoding.
    pub const fn subprotocol(self) -> &'static str {
        match self.0 {
            Encoding::Json => "switchboard.v1.json",
            Encoding::MessagePack => "switchboard.v1.msgpack",
        }
    }

    /// The codec of a subprotocol or of a value of `?format=`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "switchboard.v1.json" | "json" => Some(Self::JSON),
            "switchboard.v1.msgpack" | "msgpack" => Some(Self::MSGPACK),
            _ => None,
        }
    }

    /// Reads one WebSocket message.
    ///
    /// # Errors
    /// [`Malformed`] when nothing of it can be used; a fault of one frame of a batch is in the list.
    pub fn decode(self, frame: &Bytes) -> Result<Decoded, Malformed> {
        let frames = fields::split(self.0, frame)?;
        Ok(frames.iter().map(|fields| ClientFrame::read(frame, fields)).collect())
    }

    /// Writes one frame as a map.
    pub fn encode(self, frame: &ServerFrame<'_>) -> Bytes {
        let mut out = Vec::with_capacity(192);
        frame.encode(self.0, &mut out);
        Bytes::from(out)
    }

    /// Joins frames that are already written: one as it is, several as an array.
    pub fn join(self, frames: &[Bytes]) -> WireFrame {
        let bytes = match frames {
            [one] => one.clone(),
            many => {
                let mut out = Vec::with_capacity(many.iter().map(|b| b.len() + 1).sum::<usize>() + 8);
                write::begin_array(self.0, &mut out, many.len());
                for (index, bytes) in many.iter().enumerate() {
                    if index > 0 {
                        write::separate(self.0, &mut out);
                    }
                    out.extend_from_slice(bytes);
                }
                write::end_array(self.0, &mut out);
                Bytes::from(out)
            }
        };
        WireFrame { encoding: self.0, bytes }
    }
}

#[cfg(test)]
mod tests;
