//! A client that behaves, thin enough that a test sees every frame: JSON values in, JSON values out, in both encodings.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use protocol::Encoding;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, client_async};

/// What [`Client::send_message`] takes.
pub use tokio_tungstenite::tungstenite::Message as WsMessage;

/// What a test waits for comes in milliseconds; this is for a machine that is busy with everything else.
pub const SOON: Duration = Duration::from_secs(10);

/// How a connection ended, seen from the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Goodbye {
    /// The close code; 1005 if the close frame had none.
    pub code: u16,
    /// The `bye` directly before it.
    pub bye: Option<Value>,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<TcpStream>,
    encoding: Encoding,
    subprotocol: Option<String>,
    /// Came before something that was waited for.
    unread: VecDeque<Value>,
    /// How the streams besides the own inbox began: beside everything else, when each is ready.
    streams: Vec<Value>,
}

impl Client {
    /// Opens a WebSocket. It speaks MessagePack if the server echoes that subprotocol, or without one if the URL asks
    /// for it by `format=msgpack`.
    ///
    /// # Errors
    /// No connection, or no upgrade within 10 seconds.
    pub async fn connect(url: &str, subprotocol: Option<&str>) -> Result<Self> {
        timeout(SOON, Self::open(url, subprotocol))
            .await
            .map_err(anyhow::Error::from)
            .and_then(|opened| opened)
            .with_context(|| format!("connecting to {url}"))
    }

    async fn open(url: &str, subprotocol: Option<&str>) -> Result<Self> {
        let mut request = url.into_client_request()?;
        if let Some(name) = subprotocol {
            request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_str(name)?);
        }
        let authority = request.uri().authority().context("a URL without a host")?.as_str().to_owned();
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let (socket, response) = client_async(request, stream).await?;
        let subprotocol = response.headers().get("Sec-WebSocket-Protocol");
        let subprotocol = subprotocol.and_then(|name| name.to_str().ok()).map(str::to_owned);
        let packs = match &subprotocol {
            Some(name) => name.ends_with(".msgpack"),
            None => url.split(['?', '&']).any(|part| part == "format=msgpack"),
        };
        let encoding = if packs { Encoding::MessagePack } else { Encoding::Json };
        Ok(Self { socket, encoding, subprotocol, unread: VecDeque::new(), streams: Vec::new() })
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// What the server echoed.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// Sends one frame, or a batch if it is an array.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send(&mut self, frame: &Value) -> Result<()> {
        let message = match self.encoding {
            Encoding::Json => Message::text(frame.to_string()),
            Encoding::MessagePack => Message::binary(rmp_serde::to_vec_named(frame)?),
        };
        self.send_message(message).await
    }

    /// Sends bytes as a text frame or a binary one, whatever the encoding.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send_message(&mut self, message: Message) -> Result<()> {
        timeout(SOON, self.socket.send(message)).await.context("nothing is taken")?.context("sending")
    }

    /// The next frame; those of a batch come one by one.
    ///
    /// # Errors
    /// Nothing came in time, the connection ended (the error says how), or a frame in the wrong encoding came.
    pub async fn next_json(&mut self, within: Duration) -> Result<Value> {
        let end = Instant::now() + within;
        loop {
            if let Some(frame) = self.unread.pop_front() {
                return Ok(frame);
            }
            self.receive(end).await?;
        }
    }

    /// The next frame, which must be of this type.
    ///
    /// # Errors
    /// As [`Client::next_json`], or another type.
    pub async fn expect_type(&mut self, kind: &str) -> Result<Value> {
        let frame = self.next_json(SOON).await.with_context(|| format!("waiting for {kind}"))?;
        ensure!(frame["type"] == kind, "expected {kind}, got {frame}");
        Ok(frame)
    }

    /// The first frame that fits; what comes before it is kept for later.
    ///
    /// # Errors
    /// As [`Client::next_json`]; the error has what came instead.
    pub async fn wait_for(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + SOON;
        let mut looked = 0;
        loop {
            while let Some(frame) = self.unread.get(looked) {
                if fits(frame) {
                    return self.unread.remove(looked).context("a frame that was there");
                }
                looked += 1;
            }
            if let Err(error) = self.receive(end).await {
                return Err(error.context(format!("waiting for {what}; unread: {:?}", self.unread)));
            }
        }
    }

    /// The answer to a request, by its `id`.
    ///
    /// # Errors
    /// As [`Client::wait_for`].
    pub async fn answer(&mut self, id: &str) -> Result<Value> {
        self.wait_for(&format!("the answer to {id:?}"), |frame| frame["id"] == id && frame["type"] != "message").await
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::answer`]; a frame without an `id`.
    pub async fn ask(&mut self, frame: &Value) -> Result<Value> {
        let id = frame["id"].as_str().ok_or_else(|| anyhow!("no id to be answered: {frame}"))?;
        self.send(frame).await?;
        self.answer(id).await
    }

    /// What came and was not asked for.
    pub fn unread(&self) -> impl Iterator<Item = &Value> {
        self.unread.iter()
    }

    /// The `stream` frames that have come so far.
    pub fn streams(&self) -> &[Value] {
        &self.streams
    }

    /// Closes with 1000 and waits for the server's close.
    ///
    /// # Errors
    /// It does not come.
    pub async fn close(mut self) -> Result<Goodbye> {
        self.socket.close(Some(CloseFrame { code: 1000.into(), reason: "".into() })).await?;
        self.goodbye(SOON).await
    }

    /// Reads until the connection is closed; frames before that are kept in [`Client::unread`].
    ///
    /// # Errors
    /// It is still open after `within`, or ends without a close frame.
    pub async fn goodbye(&mut self, within: Duration) -> Result<Goodbye> {
        let end = Instant::now() + within;
        loop {
            match self.event(end).await? {
                Event::Frames(frames) => self.unread.extend(frames),
                Event::Closed(code) => {
                    let bye = self.unread.back().filter(|frame| frame["type"] == "bye").cloned();
                    return Ok(Goodbye { code, bye });
                }
            }
        }
    }

    /// The close code of a connection that the server ends.
    ///
    /// # Errors
    /// As [`Client::goodbye`].
    pub async fn close_code(&mut self, within: Duration) -> Result<u16> {
        Ok(self.goodbye(within).await?.code)
    }

    /// Reads one message into `unread`.
    async fn receive(&mut self, end: Instant) -> Result<()> {
        match self.event(end).await? {
            Event::Frames(frames) => self.unread.extend(frames),
            Event::Closed(code) => bail!("closed with {code}; unread: {:?}", self.unread),
        }
        Ok(())
    }

    async fn event(&mut self, end: Instant) -> Result<Event> {
        loop {
            let message = timeout_at(end, self.socket.next()).await.context("nothing came in time")?;
            let message = message.context("the connection ended without a close frame")?.context("receiving")?;
            let frame: Value = match (&message, self.encoding) {
                (Message::Text(text), Encoding::Json) => serde_json::from_str(text).context("no JSON")?,
                (Message::Binary(bytes), Encoding::MessagePack) => {
                    rmp_serde::from_slice(bytes).context("no MessagePack")?
                }
                (Message::Close(frame), _) => {
                    return Ok(Event::Closed(frame.as_ref().map_or(1005, |frame| frame.code.into())));
                }
                (Message::Ping(_) | Message::Pong(_), _) => continue,
                (other, encoding) => bail!("on a connection that speaks {encoding:?} came {other:?}"),
            };
            let frames = match frame {
                Value::Array(batch) => batch,
                one => vec![one],
            };
            let (streams, frames): (Vec<_>, Vec<_>) = frames.into_iter().partition(|frame| frame["type"] == "stream");
            self.streams.extend(streams);
            return Ok(Event::Frames(frames));
        }
    }
}

enum Event {
    Frames(Vec<Value>),
    Closed(u16),
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::TcpListener;
    use tokio_tungstenite::accept_hdr_async;
    use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

    use super::*;

    /// A server that takes the first subprotocol offered, sends every message back, and says goodbye when it is told.
    async fn parrot() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/v1/connect?user=a", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    #[expect(clippy::result_large_err, reason = "the type of the library's callback")]
                    let choose = |request: &Request, mut response: Response| {
                        if let Some(name) = request.headers().get("Sec-WebSocket-Protocol") {
                            response.headers_mut().insert("Sec-WebSocket-Protocol", name.clone());
                        }
                        Ok(response)
                    };
                    let mut socket = accept_hdr_async(stream, choose).await.unwrap();
                    while let Some(Ok(message)) = socket.next().await {
                        if message.to_text().is_ok_and(|text| text.contains("\"bye\"")) {
                            socket.send(message).await.unwrap();
                            let frame = CloseFrame { code: 4500.into(), reason: "".into() };
                            socket.close(Some(frame)).await.unwrap();
                        } else if !message.is_close() {
                            socket.send(message).await.unwrap();
                        }
                    }
                });
            }
        });
        url
    }

    #[tokio::test]
    async fn it_speaks_what_the_server_echoes_or_what_the_url_asks_for() {
        let url = parrot().await;
        let packed = format!("{url}&format=msgpack");
        for (url, subprotocol, encoding) in [
            (&url, None, Encoding::Json),
            (&url, Some("switchboard.v1.msgpack"), Encoding::MessagePack),
            (&packed, None, Encoding::MessagePack),
            (&packed, Some("switchboard.v1.json"), Encoding::Json),
        ] {
            let mut client = Client::connect(url, subprotocol).await.unwrap();
            assert_eq!((client.encoding(), client.subprotocol()), (encoding, subprotocol));
            let frame = json!({"type": "ping", "id": "1", "n": [1, null, "x"]});
            client.send(&frame).await.unwrap();
            assert_eq!(client.expect_type("ping").await.unwrap(), frame);
            assert_eq!(client.close().await.unwrap().code, 1000);
        }
    }

    #[tokio::test]
    async fn an_answer_is_found_behind_other_frames_and_these_are_kept_in_order() {
        let mut client = Client::connect(&parrot().await, None).await.unwrap();
        client.send(&json!({"type": "message", "id": "c"})).await.unwrap();
        client.send(&json!([{"type": "a"}, {"type": "b"}, {"type": "sent", "id": "c"}, {"type": "d"}])).await.unwrap();
        assert_eq!(client.answer("c").await.unwrap()["type"], "sent");
        for kind in ["message", "a", "b", "d"] {
            client.expect_type(kind).await.unwrap();
        }
        let silence = client.next_json(Duration::from_millis(20)).await;
        assert!(format!("{:#}", silence.unwrap_err()).contains("nothing came"));
    }

    #[tokio::test]
    async fn how_streams_begin_is_set_aside() {
        let mut client = Client::connect(&parrot().await, None).await.unwrap();
        let stream = json!({"type": "stream", "of": "all"});
        client.send(&json!([stream, {"type": "a"}])).await.unwrap();
        client.expect_type("a").await.unwrap();
        assert_eq!(client.streams(), [stream]);
    }

    #[tokio::test]
    async fn a_goodbye_is_the_close_code_and_the_bye_before_it() {
        let mut client = Client::connect(&parrot().await, None).await.unwrap();
        client.send(&json!({"type": "x"})).await.unwrap();
        client.send(&json!({"type": "bye", "code": 4500})).await.unwrap();
        let goodbye = client.goodbye(SOON).await.unwrap();
        assert_eq!(goodbye, Goodbye { code: 4500, bye: Some(json!({"type": "bye", "code": 4500})) });
        assert_eq!(client.unread().count(), 2);
    }
}
