//! Texts that nobody may read in a log, an error or a page.

use std::fmt;

/// A secret text. `Debug` prints its length; there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it. Never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// A Redis URL with its password replaced. What stands before the last `@` of the authority is user and password.
pub(super) fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // Not even a URL: nobody knows what it is, so nothing of it is shown.
        return format!("({} bytes, not shown)", url.len());
    };
    match rest.rsplit_once('@') {
        None => url.to_owned(),
        Some((who, host)) => {
            let user = who.split_once(':').map_or("", |(user, _)| user);
            format!("{scheme}://{user}:***@{host}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret::new("hush")), "Secret(4 bytes)");
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://:hush@h:1/2", "redis://:***@h:1/2"),
            ("redis://me:hush@h", "redis://me:***@h"),
            ("redis://me:hu@sh@h", "redis://me:***@h"),
            ("redis://hush@h", "redis://:***@h"),
            ("hush", "(4 bytes, not shown)"),
        ] {
            assert_eq!(mask_url(url), shown);
        }
    }
}
