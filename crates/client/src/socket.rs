//! One WebSocket, driven from one task: bytes in, bytes out, no rules.
//!
//! For those who keep the rules themselves: this crate's driver and the load generator.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream};
use protocol::Encoding;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::error::OpenError;

/// How a socket is opened.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    pub encoding: Encoding,
    /// Allocated for every socket from the start, and filled with zeros before every read.
    pub read_buffer_bytes: usize,
    /// Larger messages end the connection.
    pub message_bytes_max: usize,
    /// For the whole way from TCP to the end of the WebSocket handshake, in milliseconds.
    pub open_timeout_ms: u64,
    /// The local address to connect from: one address has about 28,000 ports.
    pub source: Option<IpAddr>,
}

/// What came from the other side.
#[derive(Debug)]
pub enum Incoming {
    Frame(Bytes),
    /// A ping, which is answered by itself, or a pong.
    Alive,
    /// The connection is over. `code` is that of a close frame, if one came.
    Closed {
        code: Option<u16>,
        reason: String,
    },
}

/// An open WebSocket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    encoding: Encoding,
    unflushed: bool,
}

impl Socket {
    /// Connects to `address` and makes the WebSocket handshake for `url`.
    ///
    /// # Errors
    /// [`OpenError`]: every one is worth another try after a pause.
    ///
    /// # Cancellation
    /// Dropping the future drops the socket.
    pub async fn open(address: SocketAddr, url: &str, options: SocketOptions) -> Result<Self, OpenError> {
        let limit = Duration::from_millis(options.open_timeout_ms);
        // Boxed: the state of a handshake is much larger than what stays for the life of the connection.
        let opening = Box::pin(Self::handshake(address, url, options));
        tokio::time::timeout(limit, opening).await.unwrap_or(Err(OpenError::Timeout(options.open_timeout_ms)))
    }

    async fn handshake(address: SocketAddr, url: &str, options: SocketOptions) -> Result<Self, OpenError> {
        let io = connect(address, options.source).await.map_err(|error| OpenError::Connect { address, error })?;
        let request = url.into_client_request().map_err(|e| OpenError::Handshake(e.to_string()))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(options.read_buffer_bytes)
            .write_buffer_size(16 * 1024)
            .max_message_size(Some(options.message_bytes_max))
            .max_frame_size(Some(options.message_bytes_max));
        let (stream, _) = client_async_with_config(request, io, Some(config)).await.map_err(|e| match e {
            WsError::Http(answer) => OpenError::Http { status: answer.status().as_u16() },
            other => OpenError::Handshake(other.to_string()),
        })?;
        Ok(Self { stream, encoding: options.encoding, unflushed: false })
    }

    /// Puts one frame into the buffer of what goes out; [`Socket::drive`] writes it. Never waits: whoever queues bounds.
    ///
    /// # Errors
    /// A text for people; the connection is over.
    pub fn queue(&mut self, frame: Vec<u8>) -> Result<(), String> {
        let message = match self.encoding {
            // The codec writes UTF-8; anything else would be a fault of ours that the server answers with 1007.
            Encoding::Json => Message::Text(Utf8Bytes::try_from(frame).map_err(|e| e.to_string())?),
            Encoding::MessagePack => Message::Binary(frame.into()),
        };
        self.put(message)
    }

    /// Queues a WebSocket ping.
    ///
    /// # Errors
    /// As [`Socket::queue`].
    pub fn ping(&mut self) -> Result<(), String> {
        self.put(Message::Ping(Bytes::new()))
    }

    fn put(&mut self, message: Message) -> Result<(), String> {
        self.unflushed = true;
        // `poll_ready` is left out on purpose: it would wait for the peer to read, and the peer may be waiting for us.
        Pin::new(&mut self.stream).start_send(message).map_err(|e| e.to_string())
    }

    /// Writes what is queued, and with `read` takes the next thing that comes. Without `read` it only writes, and never
    /// returns unless that fails.
    ///
    /// # Cancellation
    /// Nothing is lost: it goes on where it was.
    pub async fn drive(&mut self, read: bool) -> Incoming {
        poll_fn(|cx| self.poll_drive(cx, read)).await
    }

    /// Takes what has come, at least one thing and at most so many, in order.
    ///
    /// # Cancellation
    /// Nothing is lost: what was taken is in `out`.
    pub async fn drive_bundle(&mut self, frames_max: usize, out: &mut Vec<Incoming>) {
        poll_fn(|cx| {
            while out.len() < frames_max {
                match self.poll_drive(cx, true) {
                    Poll::Ready(incoming) => {
                        let is_end = matches!(incoming, Incoming::Closed { .. });
                        out.push(incoming);
                        if is_end {
                            break;
                        }
                    }
                    Poll::Pending => break,
                }
            }
            if out.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// What [`Socket::drive`] awaits.
    pub fn poll_drive(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Incoming> {
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(e)) => return Poll::Ready(ended(None, &e.to_string())),
                Poll::Pending => {}
            }
        }
        if read { self.poll_incoming(cx) } else { Poll::Pending }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            let message = match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
                Some(Ok(message)) => message,
                Some(Err(e)) => return Poll::Ready(ended(None, &e.to_string())),
                None => return Poll::Ready(ended(None, "the connection was closed")),
            };
            return Poll::Ready(match message {
                Message::Text(text) => Incoming::Frame(text.into()),
                Message::Binary(bytes) => Incoming::Frame(bytes),
                Message::Ping(_) | Message::Pong(_) => Incoming::Alive,
                Message::Close(frame) => {
                    // The library has queued the answer. One try to write it: whether it arrives changes nothing here.
                    let _ = Pin::new(&mut self.stream).poll_flush(cx);
                    match frame {
                        Some(frame) => ended(Some(frame.code.into()), &frame.reason),
                        None => ended(None, "closed without a code"),
                    }
                }
                // Only written, never read.
                Message::Frame(_) => continue,
            });
        }
    }

    /// Says goodbye with `code`, and reads and throws away what still comes until the other side has closed too, for
    /// `patience` at most. A socket that is just dropped while the peer sends would answer it with a reset, and the
    /// peer might never see the goodbye.
    pub async fn close(mut self, code: u16, patience: Duration) {
        let goodbye = async {
            let frame = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::default() };
            if self.stream.send(Message::Close(Some(frame))).await.is_ok() {
                while !matches!(self.drive(true).await, Incoming::Closed { .. }) {}
            }
        };
        // After the time is over the peer sees an ended connection, which is all that can still be done.
        let _ = tokio::time::timeout(patience, goodbye).await;
    }
}

fn ended(code: Option<u16>, reason: &str) -> Incoming {
    Incoming::Closed { code, reason: reason.to_owned() }
}

async fn connect(address: SocketAddr, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    // Small frames are the rule, and nobody wants them held back.
    socket.set_nodelay(true)?;
    socket.connect(address).await
}
