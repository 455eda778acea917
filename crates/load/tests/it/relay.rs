//! The smallest server that speaks the JSON subset, in two listeners with one memory, like a fleet of two nodes. On demand
//! it breaks its promise, to see whether the load generator notices.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Says `sent`, and loses every tenth message.
    Loses,
    /// Delivers every tenth message twice.
    Repeats,
    /// Delivers every tenth message after its successor.
    Swaps,
    /// Refuses every tenth message, properly.
    Refuses,
    /// Refuses every tenth message, and delivers it all the same.
    Lies,
    /// Closes every connection at its 20th message.
    Dies,
    /// Never welcomes.
    Deaf,
}

type Users = Arc<Mutex<HashMap<String, mpsc::UnboundedSender<Value>>>>;

/// Starts two listeners; gives their URLs.
pub(crate) async fn start(fault: Fault) -> [String; 2] {
    let users = Users::default();
    let mut urls = Vec::new();
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        urls.push(format!("ws://{}", listener.local_addr().unwrap()));
        let users = Arc::clone(&users);
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                tokio::spawn(serve(io, Arc::clone(&users), fault));
            }
        });
    }
    urls.try_into().unwrap()
}

/// To one user, or to every member: a member of a group stands in the map as `group:G#USER`.
fn deliver(users: &Users, to: &str, message: &Value) {
    let members = format!("{to}#");
    for (name, inbox) in &*users.lock().unwrap() {
        if name == to || name.starts_with(&members) {
            // Its connection may be gone.
            let _ = inbox.send(message.clone());
        }
    }
}

async fn serve(io: TcpStream, users: Users, fault: Fault) {
    io.set_nodelay(true).unwrap();
    let mut user = String::new();
    #[allow(clippy::result_large_err, reason = "the type is the library's")]
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        user = request.uri().query().unwrap().trim_start_matches("user=").to_owned();
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr_async(io, look).await else { return };
    let (sender, mut inbox) = mpsc::unbounded_channel();
    users.lock().unwrap().insert(format!("user:{user}"), sender.clone());
    let mut held: Option<(String, Value)> = None;
    let mut count = 0;
    loop {
        tokio::select! {
            Some(frame) = inbox.recv() => {
                if socket.send(Message::text(frame.to_string())).await.is_err() { return }
            }
            came = socket.next() => {
                let Some(Ok(came)) = came else {
                    // A sender hangs up as soon as its last message is answered.
                    if let Some((to, message)) = held.take() {
                        deliver(&users, &to, &message);
                    }
                    return;
                };
                let Ok(text) = came.to_text() else { continue };
                let Ok(frame) = serde_json::from_str::<Value>(text) else { continue };
                if frame["type"] == "hello" && fault != Fault::Deaf {
                    let _ = sender.send(json!({"type": "welcome", "user": user}));
                }
                if frame["type"] == "join" || frame["type"] == "leave" {
                    let name = format!("group:{}#{user}", frame["group"].as_str().unwrap());
                    match frame["type"] == "join" {
                        true => drop(users.lock().unwrap().insert(name, sender.clone())),
                        false => drop(users.lock().unwrap().remove(&name)),
                    }
                    let _ = sender.send(json!({"type": "ok", "id": frame["id"]}));
                }
                if frame["type"] != "send" { continue }
                count += 1;
                if fault == Fault::Dies && count == 20 { return }
                let is_tenth = count % 10 == 0;
                let to = frame["to"].as_str().unwrap().to_owned();
                let message = json!({"type": "message", "to": to, "from": user, "id": frame["id"], "at": 0, "body": frame["body"]});
                let refused = is_tenth && matches!(fault, Fault::Refuses | Fault::Lies);
                match (fault, is_tenth) {
                    (Fault::Loses | Fault::Refuses, true) => {}
                    (Fault::Swaps, true) => held = Some((to.clone(), message)),
                    (Fault::Repeats, true) => {
                        deliver(&users, &to, &message);
                        deliver(&users, &to, &message);
                    }
                    _ => deliver(&users, &to, &message),
                }
                if !is_tenth && let Some((to, message)) = held.take() {
                    deliver(&users, &to, &message);
                }
                let _ = sender.send(match refused {
                    true => json!({"type": "error", "id": frame["id"], "code": "overloaded", "message": "full"}),
                    false => json!({"type": "sent", "id": frame["id"], "at": 0}),
                });
            }
        }
    }
}
