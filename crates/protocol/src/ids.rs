//! Names as types: a user cannot be passed where a device is meant, and nothing invalid can be held.

use std::fmt;
use std::sync::Arc;

use crate::limits::ID_BYTES_MAX;

/// Why a text is no ID. The message says what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("an ID has at least 1 byte")]
    Empty,
    #[error("an ID has at most 128 bytes of UTF-8, this one has {0}")]
    Long(usize),
    #[error("an ID has no control characters")]
    Control,
    #[error("an ID has no '/'")]
    Slash,
    #[error("the name of a node has 1 to 64 of A-Z a-z 0-9 . _ -")]
    Node,
}

/// Checks what every ID has to keep: 1-128 bytes of UTF-8, no control characters, no `/`.
pub fn check(text: &str) -> Result<(), IdError> {
    match text.len() {
        0 => return Err(IdError::Empty),
        n if n > ID_BYTES_MAX => return Err(IdError::Long(n)),
        _ => {}
    }
    // Almost every ID is plain ASCII: bytes are checked first, characters only where there are others.
    if text.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
        return Ok(());
    }
    for c in text.chars() {
        if c == '/' {
            return Err(IdError::Slash);
        }
        if c.is_control() {
            return Err(IdError::Control);
        }
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses an ID: 1-128 bytes of UTF-8 without control characters and without `/`.
            ///
            /// # Errors
            /// [`IdError`] says which rule the text breaks.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check(text)?;
                Ok(Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &*self.0)
            }
        }
    };
}

id!(/** A user: whom messages are for. */ UserId);
id!(/** One device of a user; cursors are kept by device. */ DeviceId);
id!(/** A group of users. */ GroupId);
id!(/** A back end that takes messages. */ ServiceName);
id!(/** What a sender calls one message or one request. */ MessageId);
id!(/** One gateway process: its name, a dot and its incarnation, which is never used twice. */ NodeId);

impl NodeId {
    /// Joins an operator's name for the node with the incarnation of this start.
    ///
    /// # Errors
    /// [`IdError::Node`]: the name is a part of a channel's name, so it has 1 to 64 of `A-Z a-z 0-9 . _ -` only.
    pub fn new(name: &str, incarnation: u64) -> Result<Self, IdError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(IdError::Node);
        }
        Self::parse(&format!("{name}.{incarnation:016x}"))
    }
}

/// One WebSocket. Random, so that it is unique in the fleet without asking anybody; as text 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// Stands for a node itself, where it is registered for a group: no connection has it.
    pub const NODE: Self = Self(0);

    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if digits { u64::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_1_to_128_bytes_without_control_characters_and_slashes() {
        assert!(UserId::parse("alice").is_ok());
        assert!(UserId::parse("ålice 🦀{}*").is_ok());
        assert_eq!(UserId::parse(""), Err(IdError::Empty));
        assert_eq!(UserId::parse(&"a".repeat(129)), Err(IdError::Long(129)));
        assert!(UserId::parse(&"a".repeat(128)).is_ok());
        assert_eq!(UserId::parse("a/b"), Err(IdError::Slash));
        assert_eq!(UserId::parse("a\r\nb"), Err(IdError::Control));
        assert_eq!(UserId::parse("a\u{0}"), Err(IdError::Control));
    }

    #[test]
    fn a_connection_id_is_read_back_from_its_text() {
        let id = ConnectionId(0x0123_4567_89ab_cdef);
        assert_eq!(ConnectionId::parse(&id.to_string()), Some(id));
        assert_eq!(ConnectionId::parse("12"), None);
        assert_eq!(ConnectionId::parse("+123456789abcdef"), None, "no sign is taken for a digit");
    }
}
