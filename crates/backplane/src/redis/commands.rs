//! The asking half of a generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use delivery::marks::fields_max;
use delivery::record::Whose;
use delivery::{Ack, Attached, Replication, Verified};
use fred::clients::Client;
use fred::interfaces::SetsInterface;
use fred::types::Value;
use protocol::{Bundle, Cursor, NodeId, Page, Text};
use routing::SlotGroup;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::askings::Asking;
use super::cluster::Map;
use super::moving::redirect;
use super::replicas::Replicas;
use super::requests::Known;
use super::scripts::{Scripts, bytes_of, classify, items_of};
use super::{RedisSettings, append, requests};
use crate::api::{
    Answer, AttachRequest, Batch, BatchResult, DetachRequest, HistoryRequest, Log, Pulse, ReadRequest, VerifyRequest,
};
use crate::error::{BackplaneError, HistoryError, Loss};

/// What both halves of a generation know about its end.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    why: parking_lot::Mutex<Option<Loss>>,
    raised: Notify,
}

impl Doubt {
    /// The first doubt counts; it ends the generation.
    pub(super) fn raise(&self, loss: Loss) {
        self.why.lock().get_or_insert(loss);
        self.raised.notify_waiters();
        self.raised.notify_one();
    }

    pub(super) fn get(&self) -> Option<Loss> {
        *self.why.lock()
    }

    pub(super) async fn wait(&self) -> Loss {
        loop {
            let raised = self.raised.notified();
            if let Some(loss) = self.get() {
                return loss;
            }
            raised.await;
        }
    }
}

/// The asking half of a generation.
pub(super) struct RedisCommands {
    pub(super) client: Client,
    pub(super) settings: Arc<RedisSettings>,
    pub(super) scripts: Arc<Scripts>,
    pub(super) doubt: Arc<Doubt>,
    pub(super) clock: Arc<RedisClock>,
    pub(super) replicas: Replicas,
    /// The node's name in this generation.
    pub(super) node: NodeId,
    /// `master_replid` when the generation began.
    pub(super) lineage: String,
    pub(super) groups: Vec<SlotGroup>,
    pub(super) is_home: bool,
    /// Of a cluster.
    pub(super) map: Option<Arc<Map>>,
}

impl std::fmt::Debug for RedisCommands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisCommands").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Redis' clock without asking it: its time at some moment, and how long ago that was.
#[derive(Debug)]
pub(super) struct RedisClock {
    start: Instant,
    /// Redis' microseconds at `start`.
    offset_us: AtomicU64,
    /// Microseconds from `start` to the last answer.
    answered_us: AtomicU64,
}

impl RedisClock {
    pub(super) fn new(now_us: u64) -> Self {
        Self { start: Instant::now(), offset_us: AtomicU64::new(now_us), answered_us: AtomicU64::new(0) }
    }

    /// What Redis' clock says now, for the first time.
    pub(super) fn start_at(&self, now_us: u64) {
        self.set(now_us);
        self.answered();
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn now_us(&self) -> u64 {
        self.offset_us.load(Ordering::Relaxed) + self.elapsed_us()
    }

    pub(super) fn set(&self, now_us: u64) {
        self.offset_us.store(now_us.saturating_sub(self.elapsed_us()), Ordering::Relaxed);
    }

    pub(super) fn answered(&self) {
        self.answered_us.store(self.elapsed_us(), Ordering::Relaxed);
    }

    /// How long nothing has been answered.
    pub(super) fn silence_us(&self) -> u64 {
        self.elapsed_us().saturating_sub(self.answered_us.load(Ordering::Relaxed))
    }
}

impl RedisCommands {
    /// Books what a call says about the generation: an answer, or a refusal that only another master can mend.
    pub(super) fn book<T>(&self, result: Result<T, BackplaneError>) -> Result<T, BackplaneError> {
        match &result {
            Ok(_) => self.clock.answered(),
            Err(BackplaneError::NotRun(why) | BackplaneError::Elsewhere(why)) => {
                self.clock.answered();
                self.book_refusal(why);
            }
            Err(BackplaneError::Unknown(_)) => {}
        }
        result
    }

    fn book_refusal(&self, why: &str) {
        let loss = match why {
            why if why.contains("MOVED") && self.map.is_some() => Loss::Slots,
            why if why.contains("READONLY") || why.contains("MOVED") => Loss::NotMaster,
            _ => return,
        };
        self.doubt.raise(loss);
        if let Some(map) = &self.map {
            map.doubt();
        }
    }

    async fn run_append(&self, batch: &Batch) -> Result<BatchResult, BackplaneError> {
        let Some(map) = &self.map else { return self.append_as(batch, Asking::default()).await };
        let asking = map.askings.begin(batch);
        let result = match asking.is_moving {
            true => self.append_moving(batch, asking).await,
            false => self.append_as(batch, asking).await,
        };
        if matches!(result, Err(BackplaneError::NotRun(_) | BackplaneError::Elsewhere(_))) {
            map.askings.undo(batch, asking);
        }
        result
    }

    async fn append_as(&self, batch: &Batch, asking: Asking) -> Result<BatchResult, BackplaneError> {
        let (keys, args) = append::call(&self.settings, batch);
        let reply = match self.book(self.scripts.append.run(&self.client, keys, args).await) {
            Err(error) if redirect(&error).is_some() => return self.append_moving(batch, asking).await,
            reply => reply?,
        };
        let (result, now_us) = append::answer(batch, bytes_of(reply))?;
        if let Some(now_us) = now_us {
            self.clock.set(now_us);
        }
        if let BatchResult::Answered(answer) = &result {
            if answer.receivers.iter().any(|(node, heard)| *node == self.node && *heard == 0) {
                self.doubt.raise(Loss::Unheard);
            }
            answer.groups.iter().filter_map(|g| g.as_ref().err()).for_each(|why| self.book_refusal(why));
        }
        Ok(result)
    }

    async fn run_ack(&self, acks: &[Ack]) -> Result<(), BackplaneError> {
        let names = self.settings.topology.keys();
        let (mut keys, mut args) = (Vec::with_capacity(3 * acks.len()), Vec::with_capacity(3 * acks.len()));
        for Ack { of, field, cursor } in acks {
            let record = names.record(of);
            keys.extend([record.meta, record.inbox, record.cursors]);
            // A group has as many as its members have devices.
            args.extend([
                requests::text(field),
                requests::cursor(Some(cursor)),
                requests::number(fields_max(Whose::of(of))),
            ]);
        }
        self.book(self.scripts.ack.run(&self.client, keys, args).await).map(drop)
    }

    async fn run_detach(&self, list: &[DetachRequest]) -> Result<(), BackplaneError> {
        let (keys, args) = requests::detach_call(&self.settings, &self.node, list);
        let answers = match self.book(self.scripts.detach.run(&self.client, keys, args).await) {
            Err(error) if redirect(&error).is_some() => {
                let mut answers = Vec::new();
                for one in list {
                    answers.push(self.detach_moving(one).await?);
                }
                answers
            }
            answers => items_of(answers?),
        };
        let failed = answers.into_iter().map(bytes_of).find(|answer| answer.first() == Some(&255));
        failed.map_or(Ok(()), |why| self.book(Err(requests::refused(&why[1..]))))
    }
}

/// Addresses of a dead node that one call cleans.
const REAP_MAX: usize = 128;

impl RedisCommands {
    async fn run_heartbeat(&self, counter: &str) -> Result<Pulse, BackplaneError> {
        let names = self.settings.topology.keys();
        let args = vec![requests::text(self.node.as_str()), requests::text(counter)];
        let answer = self.scripts.heartbeat.run(&self.client, vec![names.nodes(), names.dead()], args).await;
        let parts: Vec<String> = items_of(self.book(answer)?).into_iter().filter_map(Value::into_string).collect();
        let is_dead = parts.first().is_some_and(|flag| flag == "1");
        let pair = |two: &[String]| Some((NodeId::parse(two.first()?).ok()?, two.get(1)?.clone()));
        Ok(Pulse { is_dead, nodes: parts.get(1..).unwrap_or_default().chunks(2).filter_map(pair).collect() })
    }

    async fn run_reap(&self, node: &NodeId) -> Result<u64, BackplaneError> {
        let names = self.settings.topology.keys();
        let mut cleaned = 0;
        for located in names.located_in(node, &self.groups) {
            loop {
                let some = self.client.srandmember::<Vec<String>, _>(located.as_str(), Some(REAP_MAX)).await;
                let some = self.book(some.map_err(classify))?;
                if some.is_empty() {
                    break;
                }
                let (keys, args) = requests::reap_call(&self.settings, node, &located, &some);
                let answer = self.scripts.reap.run(&self.client, keys, args).await;
                cleaned += self.book(answer)?.as_u64().unwrap_or(0);
            }
        }
        Ok(cleaned)
    }
}

impl Log for RedisCommands {
    fn replicated(&self) -> Answer<'_, Result<(), BackplaneError>> {
        Box::pin(self.replicas.confirm())
    }

    fn heartbeat<'a>(&'a self, counter: &'a str) -> Answer<'a, Result<Pulse, BackplaneError>> {
        Box::pin(self.run_heartbeat(counter))
    }

    fn bury<'a>(&'a self, node: &'a NodeId, counter: &'a str) -> Answer<'a, Result<bool, BackplaneError>> {
        Box::pin(async move {
            let names = self.settings.topology.keys();
            let args = vec![requests::text(node.as_str()), requests::text(counter)];
            let answer = self.scripts.bury.run(&self.client, vec![names.nodes(), names.dead()], args).await;
            Ok(self.book(answer)?.as_u64() == Some(1))
        })
    }

    fn reap<'a>(&'a self, node: &'a NodeId) -> Answer<'a, Result<u64, BackplaneError>> {
        Box::pin(self.run_reap(node))
    }

    fn agree<'a>(&'a self, own: &'a str) -> Answer<'a, Result<String, BackplaneError>> {
        Box::pin(async move {
            let key = self.settings.topology.keys().fleet();
            let answer = self.scripts.agree.run(&self.client, vec![key], vec![requests::text(own)]).await;
            let said = bytes_of(self.book(answer)?);
            Ok(String::from_utf8_lossy(&said).into_owned())
        })
    }

    fn holds<'a>(&'a self, entries: &'a [(Text, Cursor)]) -> Answer<'a, Result<Vec<bool>, BackplaneError>> {
        Box::pin(async move {
            let (keys, args) = requests::holds_call(&self.settings, entries);
            let answer = bytes_of(self.book(self.scripts.holds.run(&self.client, keys, args).await)?);
            Ok(answer.iter().map(|&byte| byte == b'1').collect())
        })
    }

    fn groups(&self) -> &[SlotGroup] {
        &self.groups
    }

    fn is_home(&self) -> bool {
        self.is_home
    }

    fn append<'a>(&'a self, batch: &'a Batch) -> Answer<'a, Result<BatchResult, BackplaneError>> {
        Box::pin(self.run_append(batch))
    }

    fn publish<'a>(&'a self, node: &'a NodeId, bundle: &'a Bundle) -> Answer<'a, Result<u64, BackplaneError>> {
        Box::pin(async move {
            let group = self.groups.first().copied().ok_or_else(|| BackplaneError::NotRun("no slots".to_owned()))?;
            let channel = self.settings.topology.channel(node, group).0;
            let payload = Value::Bytes(Bytes::from(bundle.encode()));
            let layout = self.settings.topology.layout();
            self.book(super::subscription::publish(&self.client, layout, &channel, payload).await)
        })
    }

    fn attach<'a>(
        &'a self,
        list: &'a [AttachRequest],
    ) -> Answer<'a, Result<Vec<Result<Attached, BackplaneError>>, BackplaneError>> {
        Box::pin(async move {
            let (keys, args) = requests::attach_call(&self.settings, list, Known::Nothing);
            let answers = match self.book(self.scripts.attach.run(&self.client, keys, args).await) {
                Err(error) if redirect(&error).is_some() => {
                    let mut answers = Vec::with_capacity(list.len());
                    for one in list {
                        answers.push(self.attach_moving(one).await);
                    }
                    answers
                }
                answers => items_of(answers?).into_iter().map(requests::attached).collect(),
            };
            let gone = || BackplaneError::NotRun("no record, and none was begun".to_owned());
            let one = |answer: Result<Option<Attached>, _>| self.book(answer.and_then(|found| found.ok_or_else(gone)));
            Ok(answers.into_iter().map(one).collect())
        })
    }

    fn read<'a>(&'a self, request: &'a ReadRequest) -> Answer<'a, Result<Option<Attached>, BackplaneError>> {
        Box::pin(async move {
            let (keys, args) = requests::read_call(&self.settings, request);
            let answer = self.book(self.scripts.attach.run(&self.client, keys.clone(), args.clone()).await);
            let answers = match answer {
                Err(error) if redirect(&error).is_some() => items_of(
                    self.read_moving(&self.scripts.attach, (keys, args), Value::Array(vec![requests::no_record()]))
                        .await?,
                ),
                answer => items_of(answer?),
            };
            requests::attached(answers.into_iter().next().unwrap_or(Value::Null))
        })
    }

    fn verify<'a>(
        &'a self,
        list: &'a [VerifyRequest],
    ) -> Answer<'a, Result<Vec<Result<Verified, BackplaneError>>, BackplaneError>> {
        Box::pin(async move {
            let (keys, args) = requests::verify_call(&self.settings, list);
            match self.book(self.scripts.verify.run(&self.client, keys, args).await) {
                Err(error) if redirect(&error).is_some() => {
                    let mut answers = Vec::with_capacity(list.len());
                    for one in list {
                        answers.push(self.verify_moving(one).await.and_then(requests::verified));
                    }
                    Ok(answers)
                }
                answers => Ok(items_of(answers?).into_iter().map(requests::verified).collect()),
            }
        })
    }

    fn detach<'a>(&'a self, list: &'a [DetachRequest]) -> Answer<'a, Result<(), BackplaneError>> {
        Box::pin(self.run_detach(list))
    }

    fn history<'a>(&'a self, request: &'a HistoryRequest) -> Answer<'a, Result<(Page, bool), HistoryError>> {
        Box::pin(async move {
            let (keys, args) = requests::history_call(&self.settings, request);
            match self.book(self.scripts.history.run(&self.client, keys.clone(), args.clone()).await) {
                Err(error) if redirect(&error).is_some() => requests::history(
                    self.read_moving(&self.scripts.history, (keys, args), requests::no_record()).await?,
                ),
                answer => requests::history(answer?),
            }
        })
    }

    fn ack<'a>(&'a self, acks: &'a [Ack]) -> Answer<'a, Result<(), BackplaneError>> {
        Box::pin(self.run_ack(acks))
    }

    fn lineage(&self) -> Option<&str> {
        Some(&self.lineage)
    }

    fn replication(&self) -> Answer<'_, Result<Replication, BackplaneError>> {
        Box::pin(async move { self.book(super::connect::replication(&self.client).await) })
    }

    fn now_us(&self) -> u64 {
        self.clock.now_us()
    }
}
