//! Members of groups and who is there: `PUT` and `DELETE /v1/groups/GROUP/members/USER`, `GET /v1/groups/GROUP/members`,
//! `GET /v1/presence`. A back end may change and ask everything; whom clients may join and look at is not its concern.

use connection::Person;
use hyper::Method;
use protocol::limits::{MEMBERS_LIMIT_MAX, WATCHED_MAX};
use protocol::{GroupId, UserId};
use serde_json::{Map, Value, json};

use super::Refused;
use super::answer::{done, refused};
use crate::door::{Door, MembersPage};
use crate::listener::decode;
use crate::listener::respond::Answer;

/// Members of one answer where nobody says how many.
const LIMIT: u64 = 100;

/// One call.
pub(super) enum Call {
    Join(GroupId, UserId),
    Remove(GroupId, UserId),
    Members { group: GroupId, after: Option<String>, limit: u64 },
    Presence(Vec<UserId>),
}

impl Call {
    /// Reads a path with its query; `None`: it is none of these.
    pub(super) fn read(method: &Method, path: &str, query: Option<&str>) -> Option<Result<Self, Refused>> {
        let query = query.unwrap_or_default();
        if path == "/v1/presence" {
            return Some(if *method == Method::GET { Self::presence(query) } else { Err(Refused::Method("GET")) });
        }
        let (group, rest) = path.strip_prefix("/v1/groups/")?.split_once('/')?;
        let user = match rest.strip_prefix("members")? {
            "" => None,
            rest => Some(rest.strip_prefix('/').filter(|user| !user.contains('/'))?),
        };
        Some(match (user, method) {
            (None, &Method::GET) => Self::members(group, query),
            (None, _) => Err(Refused::Method("GET")),
            (Some(user), &Method::PUT) => Self::member(group, user, query).map(|(group, user)| Self::Join(group, user)),
            (Some(user), &Method::DELETE) => {
                Self::member(group, user, query).map(|(group, user)| Self::Remove(group, user))
            }
            (Some(_), _) => Err(Refused::Method("PUT, DELETE")),
        })
    }

    fn member(group: &str, user: &str, query: &str) -> Result<(GroupId, UserId), Refused> {
        pairs(query, &[])?;
        Ok((group_of(group)?, user_of(&in_path("the user", user)?)?))
    }

    fn members(group: &str, query: &str) -> Result<Self, Refused> {
        let (mut after, mut limit) = (None, None);
        for (name, value) in pairs(query, &["after", "limit"])? {
            let field = if name == "after" { &mut after } else { &mut limit };
            if field.replace(value).is_some() {
                return Err(Refused::Input(format!("`{name}` comes twice")));
            }
        }
        let limit = limit.map_or(Ok(LIMIT), |text| {
            let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let number = if is_plain { text.parse().ok() } else { None };
            number.filter(|limit| (1..=MEMBERS_LIMIT_MAX).contains(limit)).ok_or_else(|| {
                Refused::Input(format!("`limit`: expected 1 to {MEMBERS_LIMIT_MAX}, got {}", shown(&text)))
            })
        })?;
        Ok(Self::Members { group: group_of(group)?, after, limit })
    }

    fn presence(query: &str) -> Result<Self, Refused> {
        let named = pairs(query, &["user"])?;
        if !(1..=WATCHED_MAX).contains(&named.len()) {
            let count = named.len();
            return Err(Refused::Input(format!("`user`: expected 1 to {WATCHED_MAX} of them, got {count}")));
        }
        named.iter().map(|(_, user)| user_of(user)).collect::<Result<_, _>>().map(Self::Presence)
    }
}

/// Executes one call.
pub(super) async fn answer(door: &dyn Door, call: Call) -> Answer {
    let result = match call {
        Call::Join(group, user) => {
            door.join(group, user).await.map(|joined| json!({"mseq": joined.mseq, "members": joined.members}))
        }
        Call::Remove(group, user) => door.remove(group, user).await.map(|members| match members {
            Some(members) => json!({"members": members}),
            None => json!({}),
        }),
        Call::Members { group, after, limit } => door.members(group, after, limit).await.map(members),
        Call::Presence(users) => door.presence(users).await.map(|people| {
            let online: Map<String, Value> = people.iter().map(person).collect();
            json!({"online": online})
        }),
    };
    match result {
        Ok(value) => done(&value),
        Err(fault) => refused(&fault),
    }
}

fn members(page: MembersPage) -> Value {
    let member =
        |member: &connection::Member| with_profile(json!({"user": member.user.as_str()}), member.profile.as_deref());
    let members: Vec<Value> = page.members.iter().map(member).collect();
    let mut answer = json!({"members": members, "total": page.total, "more": page.next.is_some()});
    if let Some(next) = page.next {
        answer["after"] = next.as_str().into();
    }
    answer
}

/// As the frame `presence` says it.
fn person(Person { user, presence }: &Person) -> (String, Value) {
    let device =
        |(device, since): &(protocol::Text, protocol::UnixMillis)| json!({"device": device.as_str(), "since": since.0});
    let devices: Vec<Value> = presence.devices.iter().map(device).collect();
    let value = json!({
        "version": presence.version, "online": presence.is_online, "at": presence.at.0, "devices": devices
    });
    (user.to_string(), with_profile(value, presence.profile.as_deref()))
}

/// A profile that is no JSON is none: only tokens make them.
fn with_profile(mut value: Value, profile: Option<&str>) -> Value {
    if let Some(profile) = profile.and_then(|text| serde_json::from_str(text).ok()) {
        value["profile"] = profile;
    }
    value
}

/// The names and values of a query, decoded; each name is one of these.
fn pairs<'q>(query: &'q str, names: &[&str]) -> Result<Vec<(&'q str, String)>, Refused> {
    let read = |pair: &'q str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !names.contains(&name) {
            let expected = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(Refused::Input(format!("{} is no parameter of this path: expected {expected}", shown(name))));
        }
        let value = decode(value).ok_or_else(|| Refused::Input(format!("`{name}` is not percent-encoded UTF-8")))?;
        Ok((name, value))
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(read).collect()
}

/// A part of a path, decoded. There a plus is a plus.
fn in_path(what: &str, text: &str) -> Result<String, Refused> {
    decode(&text.replace('+', "%2B"))
        .ok_or_else(|| Refused::Input(format!("{what} in the path is not percent-encoded UTF-8")))
}

fn group_of(text: &str) -> Result<GroupId, Refused> {
    GroupId::parse(&in_path("the group", text)?).map_err(|e| Refused::Input(format!("the group in the path: {e}")))
}

fn user_of(text: &str) -> Result<UserId, Refused> {
    UserId::parse(text).map_err(|e| Refused::Input(format!("`user`: {e}")))
}

/// A caller's text in a message: quoted, and no longer than a line.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    format!("{short:?}")
}
