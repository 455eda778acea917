//! Waits for replicas: one WAIT at a time, for everybody who asked before it.
//!
//! WAIT counts from the last write of its own connection, so it goes behind a write of its own, on a connection that does
//! nothing else: lanes never wait for it. Rule 12 of docs/delivery.md ("On the node").

use std::sync::Arc;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, ConnectHandle, CustomCommand, Value};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, JoinHandle};

use super::commands::Doubt;
use crate::error::{BackplaneError, Loss};

/// How long Redis waits for one replica, in milliseconds: less than a command may take.
const WAIT_MS: &str = "1000";
/// The write before it expires by itself.
const KEY_MS: &str = "60000";

type Asker = oneshot::Sender<bool>;

#[derive(Default)]
struct Queue {
    waiting: Mutex<Vec<Asker>>,
    wake: Notify,
}

/// The waiting connection of one generation.
pub(super) struct Replicas {
    queue: Arc<Queue>,
    task: JoinHandle<()>,
    connection: AbortHandle,
}

impl Replicas {
    pub(super) fn new(client: Client, connection: ConnectHandle, key: String, doubt: Arc<Doubt>) -> Self {
        let queue = Arc::new(Queue::default());
        let abort = connection.abort_handle();
        let task = tokio::spawn(run((client, connection), key, queue.clone(), doubt));
        Self { queue, task, connection: abort }
    }

    /// Waits until one replica has everything that was stored before this call.
    pub(super) async fn confirm(&self) -> Result<(), BackplaneError> {
        let (asker, answer) = oneshot::channel();
        self.queue.waiting.lock().push(asker);
        self.queue.wake.notify_one();
        match answer.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(BackplaneError::Unknown("no replica confirmed it in time".to_owned())),
            Err(_) => Err(BackplaneError::Unknown("the generation ended".to_owned())),
        }
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        self.task.abort();
        self.connection.abort();
    }
}

async fn run((client, connection): (Client, ConnectHandle), key: String, queue: Arc<Queue>, doubt: Arc<Doubt>) {
    loop {
        queue.wake.notified().await;
        // Whoever asks while this WAIT is under way goes with the next one.
        let askers = std::mem::take(&mut *queue.waiting.lock());
        let is_confirmed = ask(&client, &key).await.is_some_and(|replicas| replicas >= 1);
        // An asker that went away does not wait for it.
        for asker in askers {
            let _ = asker.send(is_confirmed);
        }
        if connection.is_finished() {
            return doubt.raise(Loss::Commands);
        }
    }
}

async fn ask(client: &Client, key: &str) -> Option<u64> {
    let command = |name| CustomCommand::new_static(name, ClusterHash::FirstKey, false);
    client.custom::<Value, _>(command("SET"), vec![key, "1", "PX", KEY_MS]).await.ok()?;
    client.custom::<Value, _>(command("WAIT"), vec!["1", WAIT_MS]).await.ok()?.as_u64()
}
