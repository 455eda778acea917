//! The claims of a token whose signature holds: their shape, and what they say.
//!
//! Read by hand, not by `derive`: a refusal names the claim and what was expected, and a number written as a text must
//! never count as absent.

use std::collections::HashSet;
use std::sync::Arc;

use connection::{Right, Rights};
use protocol::limits::{GROUPS_MAX, NUMBER_MAX};
use protocol::{DeviceId, GroupId, Text, UserId};
use serde_json::{Map, Value};

use crate::config::rights;

/// Bytes of a `profile`, as JSON: it is sent to others with every presence.
const PROFILE_BYTES_MAX: usize = 1_024;

/// What a token says, as far as a node acts on it.
#[derive(Debug)]
pub(super) struct Claims {
    pub user: UserId,
    pub device: Option<DeviceId>,
    /// Milliseconds since 1970.
    pub expires_ms: u64,
    pub not_before_ms: Option<u64>,
    pub issuer: Option<String>,
    pub audience: Vec<String>,
    /// Joined for the life of the connection.
    pub groups: Vec<GroupId>,
    /// JSON.
    pub profile: Option<Text>,
    /// Of the token's own: exactly what it lists.
    pub rights: Option<Rights>,
}

impl Claims {
    /// Reads all claims of the contract; others are the issuer's own business.
    ///
    /// # Errors
    /// The claim and what was expected; never a value.
    pub(super) fn read(map: &Map<String, Value>) -> Result<Self, String> {
        let user = text(map, "sub")?.ok_or("`sub` is missing: expected the user's ID")?;
        let exp =
            seconds(map, "exp")?.ok_or("`exp` is missing: expected when the token ends, in seconds since 1970")?;
        Ok(Self {
            user: UserId::parse(user).map_err(|e| format!("`sub` is no user's ID: {e}"))?,
            device: match text(map, "device")? {
                None => None,
                Some(device) => Some(DeviceId::parse(device).map_err(|e| format!("`device` is no ID: {e}"))?),
            },
            expires_ms: exp,
            not_before_ms: seconds(map, "nbf")?,
            issuer: text(map, "iss")?.map(ToOwned::to_owned),
            audience: audience(map)?,
            groups: groups(map)?,
            profile: profile(map)?,
            rights: can(map)?,
        })
    }
}

fn text<'m>(map: &'m Map<String, Value>, name: &str) -> Result<Option<&'m str>, String> {
    map.get(name).map(|value| value.as_str().ok_or_else(|| format!("`{name}`: expected a text"))).transpose()
}

/// A NumericDate of RFC 7519 in milliseconds: a number, with or without a fraction, and nothing else.
fn seconds(map: &Map<String, Value>, name: &str) -> Result<Option<u64>, String> {
    let Some(value) = map.get(name) else { return Ok(None) };
    match value.as_f64() {
        // The cast saturates; beyond 2^53 ms there is nothing to tell apart.
        Some(seconds) if seconds >= 0.0 => Ok(Some(((seconds * 1_000.0) as u64).min(NUMBER_MAX))),
        _ => Err(format!("`{name}`: expected seconds since 1970 as a number")),
    }
}

fn audience(map: &Map<String, Value>) -> Result<Vec<String>, String> {
    let fault = || "`aud`: expected a text or an array of texts".to_owned();
    match map.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(many)) => {
            many.iter().map(|value| value.as_str().map(ToOwned::to_owned).ok_or_else(fault)).collect()
        }
        Some(_) => Err(fault()),
    }
}

/// Each group once.
fn groups(map: &Map<String, Value>) -> Result<Vec<GroupId>, String> {
    let expected = || format!("`groups`: expected an array of at most {GROUPS_MAX} IDs of groups");
    let Some(value) = map.get("groups") else { return Ok(Vec::new()) };
    let list = value.as_array().filter(|list| list.len() as u64 <= GROUPS_MAX).ok_or_else(expected)?;
    let group = |value: &Value| GroupId::parse(value.as_str()?).ok();
    let all = list.iter().map(group).collect::<Option<Vec<_>>>().ok_or_else(expected)?;
    let mut seen = HashSet::new();
    Ok(all.into_iter().filter(|group| seen.insert(group.clone())).collect())
}

fn profile(map: &Map<String, Value>) -> Result<Option<Text>, String> {
    let expected = || format!("`profile`: expected a map of at most {PROFILE_BYTES_MAX} bytes");
    let Some(value) = map.get("profile") else { return Ok(None) };
    let text = value.is_object().then(|| value.to_string()).filter(|text| text.len() <= PROFILE_BYTES_MAX);
    text.map(|text| Some(Text::from(text))).ok_or_else(expected)
}

/// A list that is missing allows nothing.
fn can(map: &Map<String, Value>) -> Result<Option<Rights>, String> {
    const EXPECTED: &str =
        "`can`: expected a map of `send`, `join` and `look`, each an array of addresses such as user:*, or own";
    let Some(value) = map.get("can") else { return Ok(None) };
    let can = value.as_object().ok_or(EXPECTED)?;
    let mut rights = Rights { send: Arc::default(), join: Arc::default(), look: Arc::default() };
    for (name, list) in can {
        let right = right(list).ok_or(EXPECTED)?;
        match &**name {
            "send" => rights.send = Arc::new(right),
            "join" => rights.join = Arc::new(right),
            "look" => rights.look = Arc::new(right),
            _ => return Err(EXPECTED.to_owned()),
        }
    }
    Ok(Some(rights))
}

fn right(list: &Value) -> Option<Right> {
    let parts: Option<Vec<&str>> = list.as_array()?.iter().map(Value::as_str).collect();
    rights::of(parts?.into_iter())
}
