//! A server that does what it is told, one call at a time.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// How long a test waits for what must come; far above what is normal, because CI is slow.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(20)
}

pub(crate) struct Fake {
    listener: TcpListener,
}

/// One connection of the client.
pub(crate) struct Session {
    socket: WebSocketStream<TcpStream>,
    /// What the client asked for, with the query.
    pub(crate) path: String,
    pub(crate) heartbeat_ms: u64,
    pub(crate) closed_with: Option<u16>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) async fn start_at(url: &str) -> Self {
        Self { listener: TcpListener::bind(url.trim_start_matches("ws://")).await.unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.listener.local_addr().unwrap())
    }

    pub(crate) async fn accept(&self) -> Session {
        let (io, _) = tokio::time::timeout(patience(), self.listener.accept()).await.expect("a client").unwrap();
        let mut path = String::new();
        #[allow(clippy::result_large_err, reason = "the type is the library's")]
        let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            path = request.uri().to_string();
            Ok(response)
        };
        let socket = accept_hdr_async(io, look).await.unwrap();
        Session { socket, path, heartbeat_ms: 25_000, closed_with: None }
    }
}

impl Session {
    pub(crate) async fn hear(&mut self) -> Value {
        self.hear_until_closed().await.expect("a frame, not the end")
    }

    /// The next frame; `None` when the client has closed or is gone.
    pub(crate) async fn hear_until_closed(&mut self) -> Option<Value> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).unwrap()),
                Ok(Message::Close(frame)) => self.closed_with = frame.map(|frame| frame.code.into()),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    pub(crate) async fn hear_hello(&mut self) -> Value {
        let hello = self.hear().await;
        assert_eq!(hello["type"], "hello");
        hello
    }

    pub(crate) async fn hear_binary(&mut self) -> Vec<u8> {
        match self.socket.next().await {
            Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn say(&mut self, frame: Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    pub(crate) async fn say_binary(&mut self, frame: &'static [u8]) {
        self.socket.send(Message::binary(frame)).await.unwrap();
    }

    /// A welcome for the user `me`, whose own inbox stands at `cursor`.
    pub(crate) async fn welcome(&mut self, status: &str, cursor: &str) {
        let stream = json!({"of": "user:me", "status": status, "cursor": cursor, "head": 0, "replay": 0});
        self.say(json!({"type": "welcome", "user": "me", "device": "d", "connection": "connection-1", "node": "a",
            "heartbeat_ms": self.heartbeat_ms, "max_bytes": 65_536, "streams": [stream]}))
            .await;
    }

    /// The durable message number `n` of the own inbox; its cursor is "cN".
    pub(crate) fn message(&self, n: u64) -> Value {
        json!({"type": "message", "to": "user:me", "from": "user:you", "id": format!("m{n}"), "at": 1, "seq": n,
            "cursor": format!("c{n}"), "body": n})
    }

    /// Closes with a code, and waits for the client's answer.
    pub(crate) async fn close(mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "".into() };
        let _ = self.socket.close(Some(frame)).await;
        while self.hear_until_closed().await.is_some() {}
    }

    /// The connection dies with half a frame on its way, as when a machine is lost.
    pub(crate) async fn cut_in_a_frame(mut self) {
        let io = self.socket.get_mut();
        io.write_all(b"\x81\x20{\"type\":").await.unwrap();
        io.shutdown().await.unwrap();
    }
}
