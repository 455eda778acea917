//! Whether a user is here: what follows from his locations, and what was said of it last.
//!
//! Whatever changes the locations of a user compares them with this, so that nobody has to be told of an end: a detach, a
//! crash and a lost record are all found by who looks next. Versions only grow, across crashes too, so that a late
//! "offline" is told from a newer "online". Rules and reasons: docs/delivery.md.

use std::collections::{BTreeMap, HashMap};

use protocol::{NodeId, Notice, Text, UnixMillis};

use crate::record::Located;
use crate::types::{PresenceOf, Registration};

/// How long a presence is kept of who does not come.
pub const KEPT_MS: u64 = 30 * 24 * 3_600 * 1_000;

/// What is known of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// 0: he was never here.
    pub version: u64,
    pub is_online: bool,
    /// Since when.
    pub at: UnixMillis,
    /// His devices that are here, and since when.
    pub devices: HashMap<Text, UnixMillis>,
    /// As JSON.
    pub profile: Option<Text>,
}

impl Presence {
    /// Compares with where he is: what those who watch him are to hear. `profile` is what an attach said; `None` leaves it.
    pub fn settle(&mut self, locations: &[Located], now_us: u64, profile: Option<&Text>) -> Option<Notice> {
        let now = UnixMillis(now_us / 1_000);
        let here = locations.iter().map(|located| name_of(&located.registration));
        let was_here = std::mem::take(&mut self.devices);
        self.devices = here.map(|name| (name.clone(), was_here.get(&name).copied().unwrap_or(now))).collect();
        if profile.is_some() {
            self.profile = profile.cloned();
        }
        if self.is_online != locations.is_empty() {
            return None;
        }
        self.is_online = !locations.is_empty();
        self.version = (self.version + 1).max(now.0);
        self.at = now;
        Some(Notice::Presence { version: self.version, is_online: self.is_online, at: now })
    }

    pub fn answer(&self) -> PresenceOf {
        PresenceOf {
            version: self.version,
            is_online: self.is_online,
            at: self.at,
            devices: self.devices.iter().map(|(name, since)| (name.clone(), *since)).collect(),
            profile: self.profile.clone(),
        }
    }

    /// Nobody has seen him for so long that he is forgotten.
    pub fn is_over(&self, now_us: u64) -> bool {
        !self.is_online && self.at.0 + KEPT_MS <= now_us / 1_000
    }
}

/// What a location counts as: its device, or its connection where none is named.
fn name_of(registration: &Registration) -> Text {
    match &registration.device {
        Some(device) => Text::from(device.as_str()),
        None => Text::from(registration.connection.to_string()),
    }
}

/// The nodes that want to hear of one user, each until some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watchers(BTreeMap<NodeId, u64>);

impl Watchers {
    /// A shorter time does not take back a longer one.
    pub fn watch(&mut self, node: &NodeId, until_ms: u64) {
        let there = self.0.entry(node.clone()).or_insert(0);
        *there = until_ms.max(*there);
    }

    pub fn unwatch(&mut self, node: &NodeId) {
        self.0.remove(node);
    }

    /// Those who are to hear now; the others are forgotten.
    pub fn at(&mut self, now_us: u64) -> impl Iterator<Item = &NodeId> {
        self.0.retain(|_, until_ms| *until_ms > now_us / 1_000);
        self.0.keys()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use protocol::{ConnectionId, DeviceId};

    use super::*;

    fn at(connection: u64, device: Option<&str>) -> Located {
        let device = device.map(|name| DeviceId::parse(name).unwrap());
        let node = NodeId::new("a", 1).unwrap();
        Located {
            registration: Registration { node, connection: ConnectionId(connection), reg: 1, device },
            hand_over: None,
        }
    }

    #[test]
    fn a_user_is_here_from_his_first_location_to_his_last() {
        let mut bob = Presence::default();
        let both = [at(1, Some("phone")), at(2, None)];
        let came = bob.settle(&both[..1], 5_000_000, None);
        assert_eq!(came, Some(Notice::Presence { version: 5_000, is_online: true, at: UnixMillis(5_000) }));
        assert_eq!(bob.settle(&both, 6_000_000, None), None);
        assert_eq!(bob.settle(&both[1..], 7_000_000, None), None, "another location is left");
        assert_eq!(bob.answer().devices, [("0000000000000002".into(), UnixMillis(6_000))]);
        let left = bob.settle(&[], 8_000_000, None);
        assert_eq!(left, Some(Notice::Presence { version: 8_000, is_online: false, at: UnixMillis(8_000) }));
        assert_eq!(bob.settle(&[], 9_000_000, None), None, "a late detach says nothing");
    }

    /// The clock of another master may be behind, and two changes may be of one millisecond.
    #[test]
    fn versions_grow_whatever_the_clock_says() {
        let mut bob = Presence::default();
        let here = [at(1, None)];
        let mut last = 0;
        for now_us in [5_000_000, 5_000_100, 4_000_000, 9_000_000] {
            for locations in [&here[..], &[]] {
                let Some(Notice::Presence { version, .. }) = bob.settle(locations, now_us, None) else { panic!() };
                assert!(version > last);
                last = version;
            }
        }
    }

    #[test]
    fn a_profile_stays_until_another_one_is_given() {
        let mut bob = Presence::default();
        let (here, profile) = ([at(1, None)], Text::from("{}"));
        bob.settle(&here, 1_000, Some(&profile));
        bob.settle(&[], 2_000, None);
        assert_eq!(bob.answer().profile, Some(profile));
        assert!(!bob.is_over(2_000) && bob.is_over(2_000 + KEPT_MS * 1_000));
    }

    #[test]
    fn who_watches_hears_until_the_longest_time_that_was_said() {
        let [a, b] = ["a", "b"].map(|name| NodeId::new(name, 1).unwrap());
        let mut watchers = Watchers::default();
        for (node, until) in [(&a, 10), (&a, 5), (&b, 7)] {
            watchers.watch(node, until);
        }
        assert_eq!(watchers.at(6_999).collect::<Vec<_>>(), [&a, &b]);
        assert_eq!(watchers.at(7_000).collect::<Vec<_>>(), [&a]);
        watchers.unwatch(&a);
        assert!(watchers.is_empty());
    }
}
