//! Frames of a client, true or not.

/// Opcodes of RFC 6455, section 5.2.
pub mod opcode {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// Any mask will do; a fixed one makes a recorded failure readable.
const MASK: [u8; 4] = [1, 2, 3, 4];

/// One frame of a client, true or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    opcode: u8,
    payload: Vec<u8>,
    is_final: bool,
    rsv: u8,
    is_masked: bool,
    claimed_bytes: Option<u64>,
}

impl Frame {
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { opcode, payload: payload.into(), is_final: true, rsv: 0, is_masked: true, claimed_bytes: None }
    }

    pub fn text(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(opcode::TEXT, payload)
    }

    pub fn binary(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(opcode::BINARY, payload)
    }

    pub fn continuation(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(opcode::CONTINUATION, payload)
    }

    pub fn ping(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(opcode::PING, payload)
    }

    /// A close frame with a code and an empty reason.
    pub fn close(code: u16) -> Self {
        Self::new(opcode::CLOSE, code.to_be_bytes())
    }

    /// More fragments follow.
    pub fn unfinished(mut self) -> Self {
        self.is_final = false;
        self
    }

    /// Sets the three reserved bits: 4 is RSV1, 2 is RSV2, 1 is RSV3.
    pub fn with_rsv(mut self, bits: u8) -> Self {
        self.rsv = bits & 7;
        self
    }

    /// Leaves the mask out, as only servers may.
    pub fn unmasked(mut self) -> Self {
        self.is_masked = false;
        self
    }

    /// Says that the payload has this many bytes, whatever it has.
    pub fn claiming(mut self, bytes: u64) -> Self {
        self.claimed_bytes = Some(bytes);
        self
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.payload.len() + 14);
        out.push(u8::from(self.is_final) << 7 | self.rsv << 4 | self.opcode);
        let mask_bit = u8::from(self.is_masked) << 7;
        let bytes = self.claimed_bytes.unwrap_or(self.payload.len() as u64);
        match bytes {
            0..=125 => out.push(mask_bit | bytes as u8),
            126..=0xffff => {
                out.push(mask_bit | 126);
                out.extend_from_slice(&(bytes as u16).to_be_bytes());
            }
            _ => {
                out.push(mask_bit | 127);
                out.extend_from_slice(&bytes.to_be_bytes());
            }
        }
        if self.is_masked {
            out.extend_from_slice(&MASK);
            out.extend(self.payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
        } else {
            out.extend_from_slice(&self.payload);
        }
        out
    }
}
