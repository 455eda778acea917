//! What the server says about people: who is there, who is in a group, who has received and read what.

use super::write::{MapWriter, write_map, write_number, write_texts};
use crate::cursor::Cursor;
use crate::node::Encoding;
use crate::text::Text;
use crate::time::UnixMillis;

/// How people are.
#[derive(Clone, Debug)]
pub enum OnlineFrame<'a> {
    Each(Vec<PersonFrame<'a>>),
    /// Of a group that is too large to name each: connected ones, of how many.
    Count {
        online: u64,
        members: u64,
    },
}

/// How one user is.
#[derive(Clone, Debug)]
pub struct PersonFrame<'a> {
    pub user: &'a str,
    /// Only grows; 0: he was never here.
    pub version: u64,
    pub is_online: bool,
    /// Since when.
    pub at: UnixMillis,
    /// Each with since when.
    pub devices: &'a [(Text, UnixMillis)],
    /// As JSON.
    pub profile: Option<&'a str>,
}

/// Who has received and read a message.
#[derive(Clone, Debug)]
pub struct ReceiptsFrame<'a> {
    pub id: &'a str,
    /// Devices by user.
    pub delivered: &'a [(Text, Vec<Text>)],
    pub read: &'a [Text],
    /// How many have received and read it, where they are too many for names.
    pub counts: Option<(u64, u64)>,
    /// It is not kept any more: nobody can tell.
    pub is_expired: bool,
}

/// A group has other members.
#[derive(Clone, Debug)]
pub struct MemberChange<'a> {
    pub group: &'a str,
    /// Who, and whether he joined; none where the group is too large to name each.
    pub who: Option<(&'a str, bool)>,
    /// How many there are now, where that is known.
    pub members: Option<u64>,
}

/// Somebody has read a stream up to a place.
#[derive(Clone, Debug)]
pub struct ReadChange<'a> {
    pub of: &'a str,
    /// One conversation of an inbox; an address.
    pub with: Option<&'a str>,
    pub user: &'a str,
    pub cursor: Cursor,
}

/// Members of a group: each with his profile, as JSON.
#[derive(Clone, Debug)]
pub struct MembersFrame<'a> {
    pub id: &'a str,
    pub members: Vec<(&'a str, Option<&'a str>)>,
    /// Of the whole group.
    pub total: u64,
    /// What the next question says as `after`, if there are more.
    pub after: Option<&'a str>,
}

impl OnlineFrame<'_> {
    pub(super) fn fill(&self, map: &mut MapWriter<'_>) {
        match self {
            Self::Each(people) => {
                let items = people.iter().map(|person| (person.user, person));
                map.named("online", items, |encoding, out, person| write_map(encoding, out, |m| person.fill(m)));
            }
            Self::Count { online, members } => {
                map.number("count", *online).number("members", *members);
            }
        }
    }
}

impl PersonFrame<'_> {
    fn fill(&self, map: &mut MapWriter<'_>) {
        map.number("version", self.version).bool("online", self.is_online).number("at", self.at.0);
        map.maps("devices", self.devices.iter(), |m, (device, since)| {
            m.text("device", device).number("since", since.0);
        });
        profile(map, self.profile);
    }
}

impl ReceiptsFrame<'_> {
    pub(super) fn fill(&self, map: &mut MapWriter<'_>) {
        map.text("type", "receipts").text("id", self.id);
        if let Some((delivered, read)) = self.counts {
            map.number("delivered_count", delivered).number("read_count", read);
        } else {
            let items = self.delivered.iter().map(|(user, devices)| (user.as_str(), devices));
            map.named("delivered", items, |encoding, out, devices| {
                write_texts(encoding, out, devices.iter().map(Text::as_str));
            });
            map.texts("read", self.read.iter().map(Text::as_str));
        }
        if self.is_expired {
            map.bool("expired", true);
        }
    }
}

impl MemberChange<'_> {
    pub(super) fn fill(&self, map: &mut MapWriter<'_>) {
        map.text("type", "member_change").text("group", self.group);
        if let Some((user, joined)) = self.who {
            map.text("user", user).bool("joined", joined);
        }
        if let Some(members) = self.members {
            map.number("members", members);
        }
    }
}

impl ReadChange<'_> {
    pub(super) fn fill(&self, map: &mut MapWriter<'_>) {
        map.text("type", "read_change").text("of", self.of);
        if let Some(with) = self.with {
            map.text("with", with);
        }
        map.text("user", self.user).text("cursor", &self.cursor.to_text());
    }
}

impl MembersFrame<'_> {
    pub(super) fn fill(&self, map: &mut MapWriter<'_>) {
        map.text("type", "members").text("id", self.id);
        map.maps("members", self.members.iter(), |m, (user, of_his)| {
            m.text("user", user);
            profile(m, *of_his);
        });
        map.number("total", self.total).bool("more", self.after.is_some());
        if let Some(after) = self.after {
            map.text("after", after);
        }
    }
}

/// Messages by sender.
pub(super) fn counts(map: &mut MapWriter<'_>, id: &str, total: u64, unread: u64, by: &[(&str, u64)]) {
    map.text("type", "counts").text("id", id).number("total", total).number("unread", unread);
    map.named("by", by.iter().copied(), write_number);
}

fn profile(map: &mut MapWriter<'_>, json: Option<&str>) {
    if let Some(json) = json {
        map.body("profile", Encoding::Json, json.as_bytes());
    }
}
