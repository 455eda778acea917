//! The claims of a token whose signature holds: their shape, and what they say.
//!
//! Read by hand, not by `derive`: a refusal names the claim and what was expected, and a number written as a text must
//! never count as absent.

use protocol::limits::NUMBER_MAX;
use protocol::{Address, DeviceId, GroupId, UserId};
use serde_json::{Map, Value};

/// A user's groups at most: as many as one `hello` may name.
const GROUPS_MAX: usize = 256;

/// Bytes of a `profile`, as JSON: it is sent to others with every presence.
const PROFILE_BYTES_MAX: usize = 1_024;

/// Patterns of one right, so that asking stays cheap.
const PATTERNS_MAX: usize = 256;

/// What a token says, as far as this version acts on it. `groups`, `profile` and `can` are only checked.
#[derive(Debug)]
pub(super) struct Claims {
    pub user: UserId,
    pub device: Option<DeviceId>,
    /// Milliseconds since 1970.
    pub expires_ms: u64,
    pub not_before_ms: Option<u64>,
    pub issuer: Option<String>,
    pub audience: Vec<String>,
    /// The token asks for rights of its own, which this version cannot narrow to.
    pub has_rights: bool,
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
        groups(map)?;
        profile(map)?;
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
            has_rights: rights(map)?,
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

fn groups(map: &Map<String, Value>) -> Result<(), String> {
    let Some(value) = map.get("groups") else { return Ok(()) };
    let list = value.as_array().filter(|list| list.len() <= GROUPS_MAX);
    let is_group = |value: &Value| value.as_str().is_some_and(|text| GroupId::parse(text).is_ok());
    match list {
        Some(list) if list.iter().all(is_group) => Ok(()),
        _ => Err(format!("`groups`: expected an array of at most {GROUPS_MAX} IDs of groups")),
    }
}

fn profile(map: &Map<String, Value>) -> Result<(), String> {
    match map.get("profile") {
        None => Ok(()),
        Some(value @ Value::Object(_)) if value.to_string().len() <= PROFILE_BYTES_MAX => Ok(()),
        Some(_) => Err(format!("`profile`: expected a map of at most {PROFILE_BYTES_MAX} bytes")),
    }
}

/// True if the token has `can`. A pattern is an address with `*` for an ID or its end, which is an address itself.
fn rights(map: &Map<String, Value>) -> Result<bool, String> {
    const EXPECTED: &str =
        "`can`: expected a map of `send`, `join` and `look`, each an array of addresses such as user:*";
    let Some(value) = map.get("can") else { return Ok(false) };
    let can = value.as_object().ok_or(EXPECTED)?;
    let is_pattern = |value: &Value| value.as_str().is_some_and(|text| Address::parse(text).is_ok());
    let is_list =
        |value: &Value| value.as_array().is_some_and(|list| list.len() <= PATTERNS_MAX && list.iter().all(is_pattern));
    let is_right = |(name, list): (&String, &Value)| matches!(&**name, "send" | "join" | "look") && is_list(list);
    if can.iter().all(is_right) { Ok(true) } else { Err(EXPECTED.to_owned()) }
}
