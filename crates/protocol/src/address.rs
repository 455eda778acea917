//! Who a message is for.

use std::fmt;

use crate::ids::{DeviceId, GroupId, IdError, ServiceName, UserId};

/// Who a message is for. The text form is `user:ID`, `user:ID/DEVICE`, `group:ID`, `all` or `service:NAME`; nothing
/// else is an address, so that no user can be named like a broadcast.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    User(UserId),
    /// One device of a user: ephemeral messages only. It lives in the record of the user.
    Device(UserId, DeviceId),
    Group(GroupId),
    /// Everybody who is connected.
    All,
    /// A back end, by hook or Redis stream.
    Service(ServiceName),
}

/// Why a text is no address. The message says how one is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("expected user:ID, user:ID/DEVICE, group:ID, all or service:NAME; a bare ID is no address")]
    Kind,
    #[error("{0}")]
    Id(#[from] IdError),
}

impl Address {
    /// Parses the text form.
    ///
    /// # Errors
    /// [`AddressError`] says what was expected.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text == "all" {
            return Ok(Self::All);
        }
        let (kind, id) = text.split_once(':').ok_or(AddressError::Kind)?;
        match kind {
            "user" => match id.split_once('/') {
                None => Ok(Self::User(UserId::parse(id)?)),
                Some((user, device)) => Ok(Self::Device(UserId::parse(user)?, DeviceId::parse(device)?)),
            },
            "group" => Ok(Self::Group(GroupId::parse(id)?)),
            "service" => Ok(Self::Service(ServiceName::parse(id)?)),
            _ => Err(AddressError::Kind),
        }
    }

    /// The address whose record keeps the messages: a device's is its user's, every other its own.
    pub fn record(&self) -> Self {
        match self {
            Self::Device(user, _) => Self::User(user.clone()),
            other => other.clone(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user:{user}"),
            Self::Device(user, device) => write!(f, "user:{user}/{device}"),
            Self::Group(group) => write!(f, "group:{group}"),
            Self::All => f.write_str("all"),
            Self::Service(name) => write!(f, "service:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_back_from_its_text() {
        for text in ["user:alice", "user:a:b", "user:alice/phone", "group:den", "all", "service:api", "user:ä{x}*"] {
            assert_eq!(Address::parse(text).map(|a| a.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn nothing_else_is_an_address() {
        for text in ["alice", "", "ALL", "User:alice", "all:", "room:x"] {
            assert_eq!(Address::parse(text), Err(AddressError::Kind), "{text:?}");
        }
        assert_eq!(Address::parse("user:"), Err(AddressError::Id(IdError::Empty)));
        assert_eq!(Address::parse("user:a/b/c"), Err(AddressError::Id(IdError::Slash)));
        assert_eq!(Address::parse("group:a/b"), Err(AddressError::Id(IdError::Slash)));
    }

    #[test]
    fn a_device_lives_in_the_record_of_its_user() {
        let device = Address::parse("user:alice/phone").unwrap();
        assert_eq!(device.record().to_string(), "user:alice");
    }
}
