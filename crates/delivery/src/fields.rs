//! The names under which a record keeps places of devices and readers (`c:`). A device or user ID has no `/`, so none can
//! be taken for another kind.

use protocol::{DeviceId, Text, UserId};

/// A device's place in the own inbox of its user.
pub fn device(device: &DeviceId) -> Text {
    Text::from(device.as_str())
}

/// A member's device's place in a group.
pub fn member_device(user: &UserId, device: &DeviceId) -> Text {
    Text::from(format!("{user}/{device}"))
}

/// A device's place in everybody's stream, kept in the record of its user.
pub fn all_device(device: &DeviceId) -> Text {
    Text::from(format!("/all/{device}"))
}

/// Up to where a user has read his own inbox, or one conversation of it.
pub fn read(with: Option<&UserId>) -> Text {
    Text::from(with.map_or_else(|| "/r".to_owned(), |with| format!("/r/{with}")))
}

/// Up to where a member has read a group.
pub fn read_by(user: &UserId) -> Text {
    Text::from(format!("/r/{user}"))
}

/// What a field of a group's record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// A device, of a user or of a member.
    Device {
        user: Option<&'a str>,
        device: &'a str,
    },
    AllDevice(&'a str),
    /// A read mark; of the whole inbox, or of a conversation or member.
    Read(Option<&'a str>),
}

pub fn parse(field: &str) -> Field<'_> {
    match field.strip_prefix('/') {
        Some("r") => Field::Read(None),
        Some(rest) => match rest.split_once('/') {
            Some(("r", user)) => Field::Read(Some(user)),
            Some((_, device)) => Field::AllDevice(device),
            None => Field::AllDevice(rest),
        },
        None => match field.split_once('/') {
            Some((user, device)) => Field::Device { user: Some(user), device },
            None => Field::Device { user: None, device: field },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_read_back_as_what_it_is() {
        let (bob, phone) = (UserId::parse("bob").unwrap(), DeviceId::parse("r").unwrap());
        assert_eq!(parse(&device(&phone)), Field::Device { user: None, device: "r" });
        assert_eq!(parse(&member_device(&bob, &phone)), Field::Device { user: Some("bob"), device: "r" });
        assert_eq!(parse(&all_device(&phone)), Field::AllDevice("r"));
        assert_eq!(parse(&read(None)), Field::Read(None));
        assert_eq!(parse(&read(Some(&bob))), Field::Read(Some("bob")));
        assert_eq!(parse(&read_by(&bob)), Field::Read(Some("bob")));
    }
}
