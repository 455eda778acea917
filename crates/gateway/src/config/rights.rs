//! How a right is written: addresses with commas between, `own`, or `none`.

use connection::{Pattern, Right};

use super::limits::PATTERNS_MAX;

/// Nothing is allowed.
const NONE: &str = "none";

/// The user's own groups.
pub(crate) const OWN: &str = "own";

/// Reads a list as a setting has it.
///
/// # Errors
/// What was expected.
pub(super) fn parse(text: &str) -> Result<Right, String> {
    if text == NONE {
        return Ok(Right::default());
    }
    of(text.split(',').map(str::trim)).ok_or_else(|| {
        format!(
            "at most {PATTERNS_MAX} addresses such as user:* or group:team-*, and `own`, with commas between; or `none`"
        )
    })
}

/// A right of these parts; `None` if one of them is none, or they are too many.
pub(crate) fn of<'t>(parts: impl Iterator<Item = &'t str>) -> Option<Right> {
    let mut right = Right::default();
    for (index, part) in parts.enumerate() {
        if index >= PATTERNS_MAX {
            return None;
        }
        match part {
            OWN => right.own = true,
            pattern => right.patterns.push(Pattern::parse(pattern).ok()?),
        }
    }
    Some(right)
}

/// Writes what [`parse`] reads.
pub(super) fn show(right: &Right) -> String {
    let mut parts: Vec<String> = right.patterns.iter().map(ToString::to_string).collect();
    if right.own {
        parts.push(OWN.to_owned());
    }
    if parts.is_empty() { NONE.to_owned() } else { parts.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_written_back() {
        for text in ["user:*,own", "own", "none", "all", "group:team-*,user:bob,own"] {
            assert_eq!(show(&parse(text).unwrap()), text);
        }
        assert_eq!(show(&parse("own, user:*").unwrap()), "user:*,own", "spaces are for people");
    }

    #[test]
    fn what_is_no_list_says_what_was_expected() {
        let many = vec!["user:x"; PATTERNS_MAX + 1].join(",");
        for text in ["", "*", "users", "user:*,", "user:*,none", "own group:x", &many] {
            assert!(parse(text).is_err_and(|expected| expected.contains("group:team-*")), "{text:?}");
        }
        assert!(parse(&vec!["user:x"; PATTERNS_MAX].join(",")).is_ok());
    }
}
