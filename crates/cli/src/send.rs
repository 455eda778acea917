//! `switchboard send`: one message through the server API. Also what every command needs that talks to a node: where it
//! is, and one plain HTTP call.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use protocol::Address;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// One call, from the connect to the last byte of the answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// More than any answer to these commands has.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// For whom: user:ID, user:ID/DEVICE, group:ID, all or service:NAME
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// From whom: a user's ID, or an address [default: service:api]
    #[arg(long, value_name = "USER")]
    from: Option<String>,
    /// At most once, to those who are connected now; nothing is kept
    #[arg(long)]
    ephemeral: bool,
    /// JSON, or text
    #[arg(allow_negative_numbers = true)]
    body: String,
    #[command(flatten)]
    target: Target,
}

/// Where the node is, and with what right one comes.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The node's listener for clients
    // Hidden from `--help`: a ticket may be in it.
    #[arg(long, env = "SWITCHBOARD_URL", hide_env_values = true, default_value = "ws://127.0.0.1:8080")]
    pub(crate) url: String,
    /// The node's internal listener
    #[arg(long, env = "SWITCHBOARD_API", default_value = "http://127.0.0.1:8081")]
    pub(crate) api: String,
    /// A user's token
    #[arg(long, env = "SWITCHBOARD_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<Secret>,
    /// What the server API asks for
    #[arg(long, env = "SWITCHBOARD_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) api_key: Option<Secret>,
}

/// A text that is never printed. An empty one, as an unset variable of a script leaves it, is none.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

pub(crate) async fn run(args: SendArgs) -> anyhow::Result<()> {
    let message = message(&args)?;
    let key = args.target.api_key.filter(|key| !key.reveal().is_empty());
    let call = Call { method: Method::POST, path: "/v1/send", key: key.as_ref(), body: Some(message.to_string()) };
    let answer = call.to(&args.target.api).await?;
    println!("{}", accepted(&answer)?);
    Ok(())
}

fn message(args: &SendArgs) -> anyhow::Result<Value> {
    let to = Address::parse(&args.to).map_err(|e| anyhow!("--to {:?}: {e}", args.to))?;
    let body: Value = serde_json::from_str(&args.body).unwrap_or_else(|_| Value::from(&*args.body));
    let mut message = json!({ "to": to.to_string(), "body": body });
    if let Some(from) = &args.from {
        // People write the user's name; whoever writes an address means it.
        let text = if from.contains(':') { from.clone() } else { format!("user:{from}") };
        let from = Address::parse(&text).map_err(|e| anyhow!("--from {from:?}: expected a user's ID: {e}"))?;
        message["from"] = from.to_string().into();
    }
    if args.ephemeral {
        message["ephemeral"] = true.into();
    }
    Ok(message)
}

/// The answer's line, if it says that the message was taken.
fn accepted(answer: &Answer) -> anyhow::Result<String> {
    let parsed: Option<Value> = serde_json::from_str(&answer.text).ok();
    match parsed {
        Some(value) if answer.status == 200 && value["type"] == "sent" => Ok(value.to_string()),
        // The server API says `{"error": {…}}`; an answer to one of several messages is an `error` frame.
        Some(value) => {
            let error = value.get("error").unwrap_or(&value);
            let (code, message) = (error["code"].as_str(), error["message"].as_str());
            let hint = match (code, error["retry_ms"].as_u64()) {
                (Some("unauthorized"), _) => "; give the node's key with --api-key or SWITCHBOARD_API_KEY".to_owned(),
                (_, Some(ms)) => format!("; try again in {ms} ms"),
                _ => String::new(),
            };
            match (code, message) {
                (Some(code), Some(message)) => bail!("not sent: {code}: {message}{hint}"),
                _ => bail!("expected the answer of /v1/send, got HTTP status {}: {}", answer.status, shown(answer)),
            }
        }
        None => bail!(
            "expected JSON from /v1/send, got HTTP status {}: {}; is --api the internal listener of a node?",
            answer.status,
            shown(answer)
        ),
    }
}

/// The beginning of an answer, for an error message.
fn shown(answer: &Answer) -> String {
    let text = answer.text.trim();
    let short: String = text.chars().take(200).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
}

/// One HTTP call.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) key: Option<&'a Secret>,
    /// JSON.
    pub(crate) body: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Call<'_> {
    /// Makes the call to `base`, `http://HOST:PORT`, over a connection of its own.
    pub(crate) async fn to(self, base: &str) -> anyhow::Result<Answer> {
        let authority = authority(base)?;
        let calling = self.make(&authority);
        match tokio::time::timeout(CALL_TIMEOUT, calling).await {
            Ok(answer) => answer.with_context(|| format!("{base} did not answer; expected a node there")),
            Err(_) => bail!("no answer from {base} within {} s", CALL_TIMEOUT.as_secs()),
        }
    }

    async fn make(self, authority: &str) -> anyhow::Result<Answer> {
        let io = TcpStream::connect(authority).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        // Ends with the one call, when `sender` is dropped; its error is the call's error too.
        tokio::spawn(connection);
        let mut request = Request::builder().method(self.method).uri(self.path).header(HOST, authority);
        if let Some(key) = self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {}", key.reveal()));
        }
        if self.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(self.body.unwrap_or_default()));
        // A key with a line break in it is no header; the error must not show it, and hyper's does not.
        let request = request.body(body).context("the API key is not one that a header can carry")?;
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let bytes = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| anyhow!("its answer could not be read: {e}"))?
            .to_bytes();
        Ok(Answer { status, text: String::from_utf8_lossy(&bytes).into_owned() })
    }
}

/// Host and port of `http://HOST:PORT`.
fn authority(base: &str) -> anyhow::Result<String> {
    let uri: Uri = base.parse().ok().with_context(|| format!("{base:?} is no URL: expected http://HOST:PORT"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => bail!("{base:?}: https:// is not supported here; expected http://HOST:PORT"),
        _ => bail!("{base:?}: expected http://HOST:PORT"),
    }
    let host = uri.host().with_context(|| format!("{base:?} has no host: expected http://HOST:PORT"))?;
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(80)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(body: &str, from: Option<&str>) -> SendArgs {
        let target = Target { url: String::new(), api: String::new(), token: None, api_key: Secret::new("geheim") };
        SendArgs { to: "user:bob".into(), from: from.map(str::to_owned), ephemeral: false, body: body.into(), target }
    }

    #[test]
    fn a_body_is_json_or_text() {
        for (text, body) in [
            ("{\"n\": 1}", json!({"n": 1})),
            ("-5", json!(-5)),
            ("plain words", json!("plain words")),
            ("\"quoted\"", json!("quoted")),
            ("", json!("")),
        ] {
            assert_eq!(message(&args(text, None)).unwrap(), json!({"to": "user:bob", "body": body}));
        }
    }

    #[test]
    fn a_sender_is_a_user_or_an_address() {
        assert_eq!(message(&args("1", Some("alice"))).unwrap()["from"], "user:alice");
        assert_eq!(message(&args("1", Some("service:billing"))).unwrap()["from"], "service:billing");
        assert!(message(&args("1", Some("a/b/c"))).unwrap_err().to_string().contains("--from"));
        let mut bad = args("1", None);
        bad.to = "bob".into();
        assert!(message(&bad).unwrap_err().to_string().contains("expected user:ID"));
    }

    #[test]
    fn an_answer_is_a_line_or_an_error_that_says_what_to_do() {
        let answer = |status, text: &str| accepted(&Answer { status, text: text.to_owned() });
        let sent = "{\"type\": \"sent\", \"id\": \"1\", \"at\": 5}";
        assert_eq!(answer(200, sent).unwrap(), r#"{"type":"sent","id":"1","at":5}"#);
        let error = |status, text| answer(status, text).unwrap_err().to_string();
        let said = error(401, r#"{"error":{"code":"unauthorized","message":"no key"}}"#);
        assert!(said.contains("unauthorized: no key") && said.contains("--api-key"), "{said}");
        let said = error(503, r#"{"error":{"code":"unavailable","message":"no Redis","retry_ms":70}}"#);
        assert!(said.contains("unavailable: no Redis; try again in 70 ms"), "{said}");
        assert!(error(200, r#"{"type":"error","code":"forbidden","message":"no"}"#).contains("forbidden: no"));
        assert!(error(404, "not here").contains("404"));
        assert!(error(200, "{}").contains("expected the answer"));
    }

    #[test]
    fn an_api_is_http() {
        assert_eq!(authority("http://127.0.0.1:8081").unwrap(), "127.0.0.1:8081");
        assert_eq!(authority("http://node/").unwrap(), "node:80");
        for bad in ["https://node", "ws://node", "node:80", "", "http://"] {
            assert!(authority(bad).unwrap_err().to_string().contains("expected http://HOST:PORT"), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!format!("{:?}", args("1", None)).contains("geheim"));
    }
}
