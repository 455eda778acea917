//! The query string of `/v1/connect`. Other names than ours are somebody else's, and left alone.

/// What the query string said.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Query {
    pub token: Option<String>,
    pub user: Option<String>,
    pub format: Option<String>,
    pub auto: Option<String>,
    pub cursor: Option<String>,
}

impl Query {
    /// Takes the string apart and decodes what is ours.
    ///
    /// # Errors
    /// The name of what comes twice or cannot be decoded; never a value.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let field = match name {
                "token" => &mut query.token,
                "user" => &mut query.user,
                "format" => &mut query.format,
                "auto" => &mut query.auto,
                "cursor" => &mut query.cursor,
                _ => continue,
            };
            // Two tokens are two answers to "who are you": whoever checks one must not let the other in.
            if field.is_some() {
                return Err(format!("`{name}` comes twice"));
            }
            *field = Some(decode(value).ok_or_else(|| format!("`{name}` is not percent-encoded UTF-8"))?);
        }
        Ok(query)
    }
}

/// Undoes what a form or `URLSearchParams` does: `%41` is `A`, `+` is a space.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_decoded_and_the_rest_left_alone() {
        let query = Query::parse("user=%C3%A5lice+b&auto=1&utm=x&cursor=&flag&token=a.b%2Bc%3D").ok().unwrap();
        assert_eq!(query.user.as_deref(), Some("ålice b"));
        assert_eq!(query.auto.as_deref(), Some("1"));
        assert_eq!(query.cursor.as_deref(), Some(""));
        assert_eq!(query.token.as_deref(), Some("a.b+c="));
        assert_eq!(query.format, None);
        assert!(Query::parse("").ok() == Some(Query::default()));
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (text, expected) in [
            ("user=%", "`user` is not percent-encoded UTF-8"),
            ("user=%4", "`user`"),
            ("user=%zz", "`user`"),
            ("user=%+1", "`user`"),
            ("token=%ff", "`token`"),
            ("token=a&token=b", "`token` comes twice"),
        ] {
            let said = Query::parse(text).err().unwrap();
            assert!(said.contains(expected), "{text}: {said}");
        }
        assert!(Query::parse("x=%&y=%ff").is_ok(), "not ours");
    }
}
