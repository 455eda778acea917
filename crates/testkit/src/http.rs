//! One HTTP request on a connection of its own: health, metrics, the server API. No library, so that a test sees
//! what was sent.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For a whole request. Answers take milliseconds; this is for a machine that is busy with everything else.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of a head that is read; servers send less than one.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The first line and the headers of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first value of a header; the name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Reads the head at the start of `bytes`: it and its length, or `None` while it is not complete.
    ///
    /// # Errors
    /// It is no HTTP, or too long.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            if bytes.len() > HEAD_BYTES_MAX {
                bail!("a head of more than {HEAD_BYTES_MAX} bytes");
            }
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let mut words = first.split(' ');
        let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
        let status = words.next().and_then(|status| status.parse().ok()).filter(|_| is_http);
        let status = status.with_context(|| format!("no HTTP: {first:?}"))?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect();
        Ok(Some((Self { status, headers }, end + 4)))
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Response {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends one request and reads the answer to its end.
///
/// # Errors
/// No connection, no HTTP, or no end within 10 seconds.
pub async fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let asked = timeout(REQUEST_WITHIN, exchange(address, method, target, headers, body)).await;
    asked
        .map_err(anyhow::Error::from)
        .and_then(|answer| answer)
        .with_context(|| format!("{method} {target} of {address}"))
}

/// A `GET` without headers of its own.
///
/// # Errors
/// As [`request`].
pub async fn get(address: SocketAddr, target: &str) -> Result<Response> {
    request(address, "GET", target, &[], b"").await
}

async fn exchange(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let (head, at) = Head::parse(&bytes)?.context("the answer ends within its head")?;
    let rest = &bytes[at..];
    let is_chunked = head.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    let body = if is_chunked { joined(rest).context("a chunk is cut off")? } else { rest.to_vec() };
    if let Some(length) = head.header("content-length")
        && method != "HEAD"
        && length.parse() != Ok(body.len())
    {
        bail!("{length} bytes were announced and {} came", body.len());
    }
    Ok(Response { head, body })
}

/// The content of a body that came in chunks; `None` if it ends before its end.
fn joined(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        let from = line + 2;
        body.extend_from_slice(rest.get(from..from.checked_add(size)?)?);
        rest = rest.get(from + size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server of one answer; gives back what it was asked.
    async fn answering(answer: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let n = stream.read(&mut asked).await.unwrap();
            stream.write_all(answer).await.unwrap();
            asked.truncate(n);
            asked
        });
        (address, server)
    }

    #[tokio::test]
    async fn a_request_carries_its_headers_and_its_body_and_gets_the_whole_answer() {
        let (address, server) = answering(b"HTTP/1.1 201 Created\r\nX-A: b: c\r\nContent-Length: 2\r\n\r\nok").await;
        let response = request(address, "POST", "/x", &[("X-Key", "k")], b"{}").await.unwrap();
        assert_eq!((response.status(), response.header("x-a"), response.text()), (201, Some("b: c"), "ok".to_owned()));
        let asked = String::from_utf8(server.await.unwrap()).unwrap();
        assert!(asked.starts_with("POST /x HTTP/1.1\r\n") && asked.contains("X-Key: k\r\n"), "{asked}");
        assert!(asked.ends_with("Content-Length: 2\r\n\r\n{}"), "{asked}");
    }

    #[tokio::test]
    async fn a_body_in_chunks_is_joined_and_a_short_one_is_an_error() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        let (address, _server) = answering(chunked).await;
        assert_eq!(get(address, "/").await.unwrap().text(), "abcde");
        let (address, _server) = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort").await;
        assert!(get(address, "/").await.is_err());
        let (address, _server) = answering(b"SSH-2.0-x\r\n\r\n").await;
        assert!(get(address, "/").await.is_err());
    }
}
