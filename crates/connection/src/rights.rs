//! What a user may do: whom he may send to, which groups he may join, whom he may look at.

use protocol::Address;

/// Addresses that a right names: one, or all that begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The text of the address, without the `*` at its end.
    text: String,
    is_prefix: bool,
}

impl Pattern {
    /// Reads an address, with `*` for a whole ID or its end.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        Address::parse(text).map_err(|e| format!("{text:?} is no address: {e}"))?;
        let (text, is_prefix) = text.strip_suffix('*').map_or((text, false), |text| (text, true));
        Ok(Self { text: text.to_owned(), is_prefix })
    }

    fn names(&self, address: &str) -> bool {
        if self.is_prefix { address.starts_with(&self.text) } else { address == self.text }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.text, if self.is_prefix { "*" } else { "" })
    }
}

/// One right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Right {
    pub patterns: Vec<Pattern>,
    /// Also the user's own groups; of `look`: also whoever is in one of them.
    pub own: bool,
    pub everything: bool,
}

impl Right {
    /// Whether the patterns name it; what is the user's own is for the caller to know.
    pub fn names(&self, address: &Address) -> bool {
        self.everything || self.patterns.iter().any(|pattern| pattern.names(&address.record().to_string()))
    }
}

/// All rights of a user. Shared by the connections whose tokens say nothing of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    pub send: std::sync::Arc<Right>,
    pub join: std::sync::Arc<Right>,
    pub look: std::sync::Arc<Right>,
}

impl Rights {
    /// Everything is allowed: development.
    pub fn all() -> Self {
        let all = std::sync::Arc::new(Right { everything: true, ..Right::default() });
        Self { send: all.clone(), join: all.clone(), look: all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pattern: &str, address: &str) -> bool {
        let right = Right { patterns: vec![Pattern::parse(pattern).unwrap()], ..Right::default() };
        right.names(&Address::parse(address).unwrap())
    }

    #[test]
    fn a_pattern_names_one_address_or_all_that_begin_alike() {
        assert!(names("user:*", "user:bob") && names("user:*", "user:bob/phone"));
        assert!(names("group:team-*", "group:team-1") && !names("group:team-*", "group:tea"));
        assert!(names("user:bob", "user:bob") && !names("user:bob", "user:bobby"));
        assert!(names("all", "all"));
        assert!(!names("user:*", "all") && !names("group:*", "user:group"), "`all` only when it is named");
        assert!(Pattern::parse("*").is_err() && Pattern::parse("room:x").is_err());
    }
}
