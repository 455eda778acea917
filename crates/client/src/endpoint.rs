//! Where a gateway is: what a `ws://` URL says, and the request that opens a WebSocket there.

use std::net::SocketAddr;

use tokio_tungstenite::tungstenite::http::Uri;

use crate::error::{OpenError, UrlError};

/// Where clients connect, for a URL that names no path.
const CONNECT_PATH: &str = "/v1/connect";

/// A gateway's listener for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    path: String,
    query: Option<String>,
}

impl Endpoint {
    /// Reads `ws://HOST:PORT`, with a path and a query if the gateway is behind something that needs them. Without a
    /// path it is `/v1/connect`.
    ///
    /// # Errors
    /// [`UrlError`] says what was expected. `wss://` is not supported yet.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let syntax = || UrlError::Syntax(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| syntax())?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some("wss") => return Err(UrlError::Tls),
            Some(other) => return Err(UrlError::Scheme(other.to_owned())),
            None => return Err(syntax()),
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(syntax)?;
        let path = if matches!(uri.path(), "" | "/") { CONNECT_PATH } else { uri.path() };
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(80),
            path: path.to_owned(),
            query: uri.query().map(str::to_owned),
        })
    }

    /// Host and port as in a `Host` header.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The URL with these parameters added; names and values are escaped.
    pub fn url(&self, parameters: &[(&str, &str)]) -> String {
        let mut url = format!("ws://{}{}", self.authority(), self.path);
        let own = self.query.clone().into_iter();
        let added = parameters.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value)));
        for (index, part) in own.chain(added).enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(&part);
        }
        url
    }

    /// All addresses of the host.
    ///
    /// # Errors
    /// [`OpenError::Resolve`].
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, OpenError> {
        // An IPv6 address stands in brackets in a URL, and without them everywhere else.
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let resolve = |error| OpenError::Resolve { host: self.host.clone(), error };
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, self.port)).await.map_err(resolve)?.collect();
        if found.is_empty() {
            return Err(resolve(std::io::Error::other("it has no address")));
        }
        Ok(found)
    }
}

/// Percent-encoding of everything that could end or split a query parameter.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_path_means_the_connect_path() {
        for url in ["ws://127.0.0.1:8080", "ws://127.0.0.1:8080/"] {
            assert_eq!(Endpoint::parse(url).unwrap().url(&[]), "ws://127.0.0.1:8080/v1/connect");
        }
        let behind = Endpoint::parse("ws://gate.example/chat/v1/connect?zone=b").unwrap();
        assert_eq!(behind.url(&[("user", "ä&b")]), "ws://gate.example:80/chat/v1/connect?zone=b&user=%C3%A4%26b");
    }

    #[test]
    fn a_url_that_cannot_work_says_why() {
        assert_eq!(Endpoint::parse("wss://gate.example"), Err(UrlError::Tls));
        assert!(UrlError::Tls.to_string().contains("wss:// is not supported"));
        assert_eq!(Endpoint::parse("http://gate.example"), Err(UrlError::Scheme("http".into())));
        for url in ["", "gate.example:8080", "ws://", "not a url"] {
            assert!(Endpoint::parse(url).is_err(), "{url:?}");
        }
    }
}
