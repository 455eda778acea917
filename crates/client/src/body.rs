//! The content of a message: one value, kept as the bytes in which it came or goes.
//!
//! A body is never parsed on its way. It is checked once, where the application hands it over, because a frame that is
//! not valid ends the whole connection with close code 4000.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use protocol::Encoding;
use protocol::client::transcode;
use protocol::client::{json, msgpack};
use protocol::limits::DEPTH_MAX;
use serde_json::Value;

use crate::error::RequestError;

/// The content of a message: any value of JSON, or of MessagePack without ext types.
///
/// Made from texts, numbers, booleans and [`serde_json::Value`] by `into()`, from bytes by [`Body::bytes`], and from a
/// value that is encoded already by [`Body::encoded`]. `Debug` prints the length only.
#[derive(Clone, PartialEq, Eq)]
pub struct Body {
    encoding: Encoding,
    bytes: Bytes,
}

impl Body {
    /// A value that is already written in `encoding`. It is checked when it is sent, not here.
    pub fn encoded(encoding: Encoding, bytes: impl Into<Bytes>) -> Self {
        Self { encoding, bytes: bytes.into() }
    }

    /// Plain bytes: a `bin` in MessagePack, `{"$base64":"…"}` in JSON.
    pub fn bytes(bytes: &[u8]) -> Self {
        Self::json(&serde_json::json!({ "$base64": STANDARD.encode(bytes) }))
    }

    fn json(value: &Value) -> Self {
        Self { encoding: Encoding::Json, bytes: Bytes::from(value.to_string()) }
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The value as it was written, in [`Body::encoding`].
    pub fn raw(&self) -> &Bytes {
        &self.bytes
    }

    /// The value as JSON text; MessagePack is translated, its `bin` becoming `{"$base64":"…"}`.
    pub fn to_json(&self) -> String {
        let mut out = Vec::with_capacity(self.bytes.len() + 16);
        match self.encoding {
            Encoding::Json => out.extend_from_slice(&self.bytes),
            Encoding::MessagePack => transcode::msgpack_to_json(&self.bytes, &mut out),
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    /// The value, parsed; `Null` for bytes that are no value at all.
    pub fn to_value(&self) -> Value {
        serde_json::from_str(&self.to_json()).unwrap_or_default()
    }

    /// Whether a server takes this body: one value, nothing behind it, at most 31 containers within each other (the
    /// frame around it is the 32nd), nothing that the other encoding cannot say.
    pub(crate) fn check(&self) -> Result<(), RequestError> {
        let (end, refusal) = match self.encoding {
            Encoding::Json => json::skip_value(&self.bytes, 0, DEPTH_MAX - 1).map(|scan| (scan.end, scan.refusal)),
            Encoding::MessagePack => {
                msgpack::skip_value(&self.bytes, 0, DEPTH_MAX - 1).map(|scan| (scan.end, scan.refusal))
            }
        }
        .map_err(|e| RequestError::Invalid(format!("the body cannot be sent: {e}")))?;
        match refusal {
            Some(refusal) => Err(RequestError::Invalid(format!("the body cannot be sent: {refusal}"))),
            None if end != self.bytes.len() => {
                Err(RequestError::Invalid("the body cannot be sent: there are bytes behind its value".to_owned()))
            }
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({:?}, {} bytes)", self.encoding, self.bytes.len())
    }
}

impl From<Value> for Body {
    fn from(value: Value) -> Self {
        Self::json(&value)
    }
}

impl From<&Value> for Body {
    fn from(value: &Value) -> Self {
        Self::json(value)
    }
}

macro_rules! from_plain {
    ($($plain:ty),*) => {
        $(impl From<$plain> for Body {
            fn from(value: $plain) -> Self {
                Self::json(&Value::from(value))
            }
        })*
    };
}

from_plain!(&str, String, bool, i32, i64, u32, u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_become_json() {
        assert_eq!(Body::from("a\"b").to_json(), r#""a\"b""#);
        assert_eq!(Body::from(7u64).to_json(), "7");
        assert_eq!(Body::from(serde_json::json!({"a": [1]})).to_value()["a"][0], 1);
        assert_eq!(Body::bytes(b"\x00\xff").to_json(), r#"{"$base64":"AP8="}"#);
    }

    #[test]
    fn a_body_that_would_end_the_connection_is_refused_before_it_is_sent() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let check = |text: &str| Body::encoded(Encoding::Json, text.to_owned()).check();
        assert!(check(&nested(31)).is_ok());
        for bad in [&*nested(32), "1 2", "", "{", "1e999", "nope"] {
            assert!(matches!(check(bad), Err(RequestError::Invalid(_))), "{bad}");
        }
        assert!(Body::encoded(Encoding::MessagePack, &b"\x93\x01\x02\x03"[..]).check().is_ok());
        assert!(Body::encoded(Encoding::MessagePack, &b"\x01\x01"[..]).check().is_err());
        assert!(Body::encoded(Encoding::MessagePack, &b"\xd4\x01\x00"[..]).check().is_err(), "an ext");
    }

    #[test]
    fn debug_never_prints_a_payload() {
        assert_eq!(format!("{:?}", Body::from("secret")), "Body(Json, 8 bytes)");
    }
}
