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
use super::moving::redirect;
use super::scripts::classify;
use crate::error::{BackplaneError, Loss};

/// How long Redis waits for one replica, in milliseconds: less than a command may take.
const WAIT_MS: &str = "1000";
/// The write before it expires by itself.
const KEY_MS: &str = "60000";

type Asker = oneshot::Sender<bool>;

struct Queue {
    /// None once nobody answers any more.
    waiting: Mutex<Option<Vec<Asker>>>,
    wake: Notify,
}

/// Ends with the task that answers, however that ends.
struct Answering(Arc<Queue>);

impl Drop for Answering {
    fn drop(&mut self) {
        // Dropping the askers answers them.
        *self.0.waiting.lock() = None;
    }
}

/// The waiting connection of one generation.
pub(super) struct Replicas {
    queue: Arc<Queue>,
    task: JoinHandle<()>,
    connection: AbortHandle,
}

impl Replicas {
    /// `keys`: what may be written before a WAIT; the next is taken where one is refused, because its slot is on its way
    /// to another master.
    pub(super) fn new(connected: (Client, ConnectHandle), keys: Vec<String>, doubt: Arc<Doubt>) -> Self {
        let queue = Arc::new(Queue { waiting: Mutex::new(Some(Vec::new())), wake: Notify::new() });
        let abort = connected.1.abort_handle();
        let answering = Answering(queue.clone());
        let task = tokio::spawn(async move { run(connected, keys, &answering, doubt).await });
        Self { queue, task, connection: abort }
    }

    /// Waits until one replica has everything that was stored before this call.
    pub(super) async fn confirm(&self) -> Result<(), BackplaneError> {
        let (asker, answer) = oneshot::channel();
        match &mut *self.queue.waiting.lock() {
            Some(waiting) => waiting.push(asker),
            // Asked when the generation was over already: a batch was answered just before it ended.
            None => return Err(BackplaneError::Unknown("the generation ended".to_owned())),
        }
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

async fn run(
    (client, connection): (Client, ConnectHandle),
    keys: Vec<String>,
    Answering(queue): &Answering,
    doubt: Arc<Doubt>,
) {
    let mut key = 0;
    loop {
        queue.wake.notified().await;
        // Whoever asks while this WAIT is under way goes with the next one.
        let askers = queue.waiting.lock().as_mut().map(std::mem::take).unwrap_or_default();
        let mut is_written = false;
        for _ in 0..keys.len() {
            match write(&client, &keys[key]).await {
                Ok(()) => is_written = true,
                Err(error) if redirect(&error).is_some() => {
                    key = (key + 1) % keys.len();
                    continue;
                }
                Err(_) => {}
            }
            break;
        }
        let is_confirmed = is_written && wait(&client).await.is_some_and(|replicas| replicas >= 1);
        // An asker that went away does not wait for it.
        for asker in askers {
            let _ = asker.send(is_confirmed);
        }
        if connection.is_finished() {
            return doubt.raise(Loss::Commands);
        }
    }
}

async fn write(client: &Client, key: &str) -> Result<(), BackplaneError> {
    client.custom::<Value, _>(command("SET"), vec![key, "1", "PX", KEY_MS]).await.map(drop).map_err(classify)
}

async fn wait(client: &Client) -> Option<u64> {
    client.custom::<Value, _>(command("WAIT"), vec!["1", WAIT_MS]).await.ok()?.as_u64()
}

fn command(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, ClusterHash::FirstKey, false)
}
