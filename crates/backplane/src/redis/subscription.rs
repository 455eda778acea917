//! The receiving half of a generation, and everything that ends it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fred::clients::Client;
use fred::interfaces::{ClientLike, PubsubInterface};
use fred::types::{ConnectHandle, Message, Value};
use protocol::Bundle;
use routing::Layout;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::commands::{Doubt, RedisClock};
use super::scripts::classify;
use crate::api::{Answer, Subscription};
use crate::error::{BackplaneError, Loss};

/// What a probe's payload begins with: no version of a bundle.
const PROBE: u8 = 0xf0;

/// How often the node publishes to itself. Pub/sub has no other sign of life.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// How long a probe may take to come back after its PUBLISH was answered.
const PROBE_BACK: Duration = Duration::from_secs(2);
/// With nothing answered for this long, a connection is held for dead whatever TCP says.
const SILENCE: Duration = Duration::from_secs(5);
/// A timer late by more than this: the whole node stood still, and nobody knows what it missed.
const STALL: Duration = Duration::from_secs(5);

/// A message to oneself under way.
pub(super) struct Probe {
    process: u64,
    count: u64,
    next: Instant,
    /// Set when its PUBLISHs were answered.
    back_by: Option<Instant>,
    /// How many have not come back: one a channel.
    away: usize,
}

impl Probe {
    pub(super) fn new(process: u64) -> Self {
        Self { process, count: 0, next: Instant::now() + PROBE_EVERY, back_by: None, away: 0 }
    }

    fn payload(&mut self) -> Bytes {
        self.count += 1;
        let mut payload = BytesMut::with_capacity(17);
        payload.put_u8(PROBE);
        payload.put_u64(self.process);
        payload.put_u64(self.count);
        payload.freeze()
    }

    /// True if a payload is the newest probe of this process, back on the last of its channels.
    fn is_back(&mut self, mut payload: Bytes) -> bool {
        payload.advance(1);
        if payload.try_get_u64() != Ok(self.process) || payload.try_get_u64() != Ok(self.count) {
            return false;
        }
        self.away = self.away.saturating_sub(1);
        if self.away == 0 {
            self.back_by = None;
        }
        self.away == 0
    }
}

/// The receiving half of a generation.
pub(super) struct RedisSubscription {
    pub(super) messages: Receiver<Message>,
    pub(super) subscriber: Client,
    pub(super) subscriber_task: ConnectHandle,
    pub(super) commands: Client,
    pub(super) commands_task: ConnectHandle,
    pub(super) doubt: Arc<Doubt>,
    pub(super) clock: Arc<RedisClock>,
    /// The node's own, one a slot group.
    pub(super) channels: Vec<String>,
    pub(super) layout: Layout,
    pub(super) probe: Probe,
    /// Asks who is the master.
    pub(super) watch: JoinHandle<()>,
}

enum Event {
    Message(Result<Message, RecvError>),
    SubscriberEnded,
    CommandsEnded,
    Doubted(Loss),
    Tick,
}

impl RedisSubscription {
    /// Subscribes to the channels of one slot group.
    pub(super) async fn subscribe(&mut self, channels: [String; 2]) -> Result<(), BackplaneError> {
        match self.layout {
            Layout::Whole => {
                self.subscriber.subscribe(channels.to_vec()).await.map_err(classify)?;
                // `subscribe` answers before the server has: an answer to PING behind it is the barrier.
                self.subscriber.ping::<Value>(None).await.map_err(classify)?;
            }
            Layout::Cluster => {
                // One by one: the library takes the first reply of several for all of them.
                for channel in channels {
                    self.subscriber.ssubscribe(channel).await.map_err(classify)?;
                }
            }
        }
        Ok(())
    }

    /// Publishes to each own channel and waits for it: only then is the node subscribed.
    pub(super) async fn hear_itself(&mut self, within: Duration) -> Result<(), BackplaneError> {
        if self.channels.is_empty() {
            return Ok(());
        }
        self.publish_probe().await?;
        let back = async {
            while let Ok(message) = self.messages.recv().await {
                let payload = payload(message);
                if payload.first() == Some(&PROBE) && self.probe.is_back(payload) {
                    return true;
                }
            }
            false
        };
        match timeout(within, back).await {
            Ok(true) => Ok(()),
            _ => Err(BackplaneError::NotRun("the node does not hear its own channel".to_owned())),
        }
    }

    async fn publish_probe(&mut self) -> Result<(), BackplaneError> {
        let payload = Value::Bytes(self.probe.payload());
        self.probe.away = self.channels.len();
        let mut is_heard = true;
        for channel in &self.channels {
            let heard = publish(&self.commands, self.layout, channel, payload.clone()).await;
            if matches!(heard, Err(BackplaneError::Elsewhere(_))) {
                self.doubt.raise(if self.layout == Layout::Cluster { Loss::Slots } else { Loss::NotMaster });
            }
            is_heard &= heard? > 0;
        }
        self.clock.answered();
        self.probe.next = Instant::now() + PROBE_EVERY;
        // Those that came back while the last were published are counted already.
        self.probe.back_by = (self.probe.away > 0).then(|| Instant::now() + PROBE_BACK);
        if !is_heard {
            self.doubt.raise(Loss::Unheard);
        }
        Ok(())
    }

    async fn next_bundle(&mut self) -> Result<Bundle, Loss> {
        loop {
            if let Some(loss) = self.doubt.get() {
                return Err(loss);
            }
            let tick = self.probe.back_by.unwrap_or(self.probe.next).min(self.probe.next);
            // Each branch is safe to drop: the channel keeps its place, the handles their result.
            let event = tokio::select! {
                message = self.messages.recv() => Event::Message(message),
                _ = &mut self.subscriber_task => Event::SubscriberEnded,
                _ = &mut self.commands_task => Event::CommandsEnded,
                loss = self.doubt.wait() => Event::Doubted(loss),
                () = sleep_until(tick) => Event::Tick,
            };
            match event {
                Event::Message(Ok(message)) => {
                    if let Some(bundle) = self.on_message(message) {
                        return Ok(bundle);
                    }
                }
                Event::Message(Err(RecvError::Lagged(_))) => self.doubt.raise(Loss::Lagged),
                Event::Message(Err(RecvError::Closed)) | Event::SubscriberEnded => self.doubt.raise(Loss::Subscriber),
                Event::CommandsEnded => self.doubt.raise(Loss::Commands),
                Event::Doubted(loss) => return Err(loss),
                Event::Tick => self.on_tick(tick).await,
            }
        }
    }

    fn on_message(&mut self, message: Message) -> Option<Bundle> {
        let payload = payload(message);
        if payload.first() == Some(&PROBE) {
            self.probe.is_back(payload);
            return None;
        }
        match Bundle::decode(&payload) {
            Ok(bundle) => Some(bundle),
            Err(error) => {
                // Nothing of it is used: whoever it was for has a gap, and a gap pulls.
                tracing::warn!(%error, bytes = payload.len(), "a bundle could not be read");
                None
            }
        }
    }

    async fn on_tick(&mut self, due: Instant) {
        let now = Instant::now();
        if now.saturating_duration_since(due) > STALL {
            return self.doubt.raise(Loss::Stalled);
        }
        if self.probe.back_by.is_some_and(|by| by <= now) {
            return self.doubt.raise(Loss::Probe);
        }
        if self.probe.next <= now && self.publish_probe().await.is_err() {
            if self.clock.silence_us() > SILENCE.as_micros() as u64 {
                return self.doubt.raise(Loss::Silent);
            }
            // Asked again soon: nothing answered for five seconds ends the generation.
            self.probe.next = Instant::now() + Duration::from_millis(200);
        }
    }
}

/// Publishes as the layout has it; answers how many heard it.
pub(super) async fn publish(
    client: &Client,
    layout: Layout,
    channel: &str,
    payload: Value,
) -> Result<u64, BackplaneError> {
    let heard = match layout {
        Layout::Whole => client.publish(channel, payload).await,
        Layout::Cluster => client.spublish(channel, payload).await,
    };
    heard.map_err(classify)
}

fn payload(message: Message) -> Bytes {
    message.value.into_bytes().unwrap_or_default()
}

impl Subscription for RedisSubscription {
    fn next(&mut self) -> Answer<'_, Result<Bundle, Loss>> {
        Box::pin(self.next_bundle())
    }
}

impl Drop for RedisSubscription {
    /// The generation is thrown away whole: no client of it lives on.
    fn drop(&mut self) {
        self.doubt.raise(Loss::Subscriber);
        self.subscriber_task.abort();
        self.commands_task.abort();
        self.watch.abort();
    }
}
