//! Which web pages may open a WebSocket: the `Origin` header of a browser against an allow-list.
//!
//! Every page of the world can make its visitor's browser connect here; browsers say where the page came from, and do
//! not let it lie. Clients that are no browsers send no `Origin`, and pass. Nothing here is a suffix or a prefix match.

use std::fmt;

/// Where a page came from: scheme, host and port, as a browser writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    /// Host, and port where it is not the scheme's own.
    authority: String,
}

/// Who is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Pages of the host and port that the request itself is for.
    SameHost,
    /// Pages of these, and no others.
    List(Vec<Origin>),
}

impl Origin {
    /// Reads `scheme://host` or `scheme://host:port`; no path, no user, no `null`.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        // The characters of host names, addresses in brackets and ports. Whatever else comes is refused, not cleaned up.
        let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
        if scheme.is_empty()
            || authority.is_empty()
            || !scheme.bytes().all(is_scheme)
            || !authority.bytes().all(is_host)
        {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let authority = without_default_port(&authority.to_ascii_lowercase(), &scheme)?;
        Some(Self { scheme, authority })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

impl Origins {
    /// Reads a list with commas. The error says which one is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "origins with commas between, each scheme://host or scheme://host:port without a path";
        let one = |text: &str| Origin::parse(text.trim()).ok_or_else(|| EXPECTED.to_owned());
        text.split(',').map(one).collect::<Result<Vec<_>, _>>().map(Self::List)
    }

    /// May a page that says to be from `origin` open a connection to `host` (the `Host` header)?
    pub fn allow(&self, origin: &str, host: Option<&str>) -> bool {
        let Some(origin) = Origin::parse(origin) else { return false };
        match self {
            Self::List(list) => list.contains(&origin),
            // A TLS proxy in front changes the scheme, so only host and port are compared, each with the port that the
            // page's own scheme leaves out.
            Self::SameHost => host.is_some_and(|host| {
                matches!(&*origin.scheme, "http" | "https")
                    && without_default_port(&host.to_ascii_lowercase(), &origin.scheme).as_ref()
                        == Some(&origin.authority)
            }),
        }
    }
}

/// True if a `Host` header names this machine itself: `localhost`, or a loopback address. A page whose own name has been
/// pointed at 127.0.0.1 says another, and so is found out where nothing else is asked for.
pub(crate) fn is_this_machine(host: &str) -> bool {
    let Some(name) = without_port(host) else { return false };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn without_port(host: &str) -> Option<&str> {
    let after_host = host.rfind(']').map_or(0, |at| at + 1);
    match host[after_host..].rfind(':') {
        Some(colon) => host[after_host + colon + 1..].parse::<u16>().ok().map(|_| &host[..after_host + colon]),
        None => Some(host),
    }
}

/// Host and port, without the port that the scheme implies; `None` where the port is no number.
fn without_default_port(authority: &str, scheme: &str) -> Option<String> {
    let after_host = authority.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = authority[after_host..].rfind(':') else { return Some(authority.to_owned()) };
    let (host, port) = authority.split_at(after_host + colon);
    let port: u16 = port[1..].parse().ok()?;
    if host.is_empty() || (after_host == 0 && host.contains(':')) {
        return None;
    }
    let implied = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    Some(if implied == Some(port) { host.to_owned() } else { format!("{host}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_this_machine() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1", "127.8.8.8:1", "[::1]", "[::1]:8080"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in
            ["", "evil.example", "evil.example:8080", "localhost.evil.example", "10.0.0.1", "[::2]:1", "127.0.0.1:x"]
        {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn by_default_a_page_of_the_same_host_and_port_may_connect() {
        for (origin, host, is_allowed) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", true),
            ("http://127.0.0.1:8081", "127.0.0.1:8080", false),
            ("https://app.example.com", "app.example.com", true),
            ("https://app.example.com", "APP.example.com:443", true),
            ("https://app.example.com:443", "app.example.com", true),
            ("http://app.example.com", "app.example.com:443", false),
            ("http://app.example.com", "app.example.com:80", true),
            ("http://[::1]:8080", "[::1]:8080", true),
            ("http://[::1]", "[::1]:80", true),
            ("https://app.example.com.evil.com", "app.example.com", false),
            ("https://evil.com", "app.example.com", false),
            ("https://app.example.com@evil.com", "app.example.com", false),
            ("https://app.example.com/", "app.example.com", false),
            ("file://app.example.com", "app.example.com", false),
            ("null", "null", false),
            ("", "", false),
            ("http://", "", false),
        ] {
            assert_eq!(Origins::SameHost.allow(origin, Some(host)), is_allowed, "{origin} at {host}");
        }
        assert!(!Origins::SameHost.allow("http://a", None));
    }

    #[test]
    fn a_list_is_compared_exactly() {
        let list = Origins::parse("https://app.example.com, http://localhost:3000,capacitor://localhost").unwrap();
        for (origin, is_allowed) in [
            ("https://app.example.com", true),
            ("https://APP.example.com", true),
            ("http://app.example.com", false),
            ("https://app.example.com:8443", false),
            ("http://localhost:3000", true),
            ("http://localhost", false),
            ("capacitor://localhost", true),
            ("https://own.example.com", false),
            ("null", false),
        ] {
            assert_eq!(list.allow(origin, Some("own.example.com")), is_allowed, "{origin}");
        }
    }

    #[test]
    fn a_list_with_something_that_is_no_origin_is_refused() {
        for text in
            ["", "*", "null", "app.example.com", "https://a.example/", "https://a,", "https://a:port", "https://*.a"]
        {
            assert!(Origins::parse(text).is_err(), "{text:?}");
        }
    }
}
