//! Attaches, verifies, acks and detaches of all connections, each kind in batches of its own: what arrives while a call is
//! in flight goes with the next one. Queues are bounded; who finds one full asks again later.

use std::future::Future;
use std::sync::Arc;

use backplane::{
    AttachRequest, BackplaneError, Commands, DetachRequest, HistoryError, HistoryRequest, ReadRequest, VerifyRequest,
};
use delivery::{Standing, Verified};
use protocol::{Address, ConnectionId, Cursor, DeviceId, MessageId, Text};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use connection::{HistoryFault, Input, Listing, Unavailable};

use crate::current::Current;
use crate::mailbox::Mailbox;
use crate::registry::Registry;

/// Requests that wait, of one kind: more connections than a node holds comfortably.
const QUEUE_MAX: usize = 262_144;
/// Requests of one call. A page may come with each, so an attach call carries fewer.
const ATTACH_MAX: usize = 32;
const SMALL_MAX: usize = 256;
/// Reads in flight at once: 64 pages of 64 KiB.
const READS_MAX: usize = 64;
/// Histories in flight at once, of 256 KiB; apart from the reads, which are somebody's delivery.
const HISTORIES_MAX: usize = 16;

/// An attach or a verify, and who asked.
#[derive(Debug)]
pub(crate) struct Asked<T> {
    pub(crate) request: T,
    pub(crate) of: Address,
    pub(crate) mailbox: Mailbox,
}

/// The queues of one node.
#[derive(Debug)]
pub(crate) struct Asker {
    attach: mpsc::Sender<Asked<AttachRequest>>,
    verify: mpsc::Sender<Asked<VerifyRequest>>,
    ack: mpsc::Sender<(Text, DeviceId, Cursor)>,
    detach: mpsc::Sender<DetachRequest>,
    reads: Arc<Semaphore>,
    histories: Arc<Semaphore>,
    current: Arc<Current>,
}

/// The other ends of the queues.
#[derive(Debug)]
pub(crate) struct Queues {
    attach: mpsc::Receiver<Asked<AttachRequest>>,
    verify: mpsc::Receiver<Asked<VerifyRequest>>,
    ack: mpsc::Receiver<(Text, DeviceId, Cursor)>,
    detach: mpsc::Receiver<DetachRequest>,
}

impl Asker {
    pub(crate) fn new(current: Arc<Current>) -> (Self, Queues) {
        let (attach, attach_queue) = mpsc::channel(QUEUE_MAX);
        let (verify, verify_queue) = mpsc::channel(QUEUE_MAX);
        let (ack, ack_queue) = mpsc::channel(QUEUE_MAX);
        let (detach, detach_queue) = mpsc::channel(QUEUE_MAX);
        let (reads, histories) = (Arc::new(Semaphore::new(READS_MAX)), Arc::new(Semaphore::new(HISTORIES_MAX)));
        let queues = Queues { attach: attach_queue, verify: verify_queue, ack: ack_queue, detach: detach_queue };
        (Self { attach, verify, ack, detach, reads, histories, current }, queues)
    }

    pub(crate) fn attach(&self, asked: Asked<AttachRequest>) {
        if let Err(refused) = self.attach.try_send(asked) {
            let Asked { of, mailbox, .. } = refused.into_inner();
            mailbox.answer(Input::Attached { of, result: Err(Unavailable) });
        }
    }

    pub(crate) fn verify(&self, asked: Asked<VerifyRequest>) {
        if let Err(refused) = self.verify.try_send(asked) {
            let Asked { of, mailbox, .. } = refused.into_inner();
            mailbox.answer(Input::Verified { of, result: Err(Unavailable) });
        }
    }

    /// An ack that finds no room is lost: the next one says more.
    pub(crate) fn ack(&self, of: Text, device: DeviceId, cursor: Cursor) {
        let _ = self.ack.try_send((of, device, cursor));
    }

    /// A detach that finds no room is found by the next attach or verify of the address.
    pub(crate) fn detach(&self, request: DetachRequest) {
        let _ = self.detach.try_send(request);
    }

    /// Reads one page, on a task of its own.
    pub(crate) fn read(&self, of: Address, request: ReadRequest, mailbox: Mailbox) {
        let (current, reads) = (self.current.clone(), self.reads.clone());
        tokio::spawn(async move {
            let _permit = reads.acquire().await;
            let result = match current.soon().await {
                Some(commands) => commands.read(&request).await.map_err(|_| Unavailable),
                None => Err(Unavailable),
            };
            mailbox.answer(Input::Attached { of, result });
        });
    }

    pub(crate) fn history(&self, id: MessageId, request: HistoryRequest, mailbox: Mailbox) {
        let (current, permits) = (self.current.clone(), self.histories.clone());
        tokio::spawn(async move {
            let _permit = permits.acquire().await;
            let result = match current.soon().await {
                Some(commands) => commands.history(&request).await,
                None => Err(BackplaneError::NotRun(String::new()).into()),
            };
            let result = match result {
                Ok((page, more)) => Ok(Listing { entries: page.entries.into_iter().rev().collect(), more }),
                Err(HistoryError::Before) => Err(HistoryFault::Before),
                Err(HistoryError::Backplane(_)) => Err(HistoryFault::Unavailable),
            };
            mailbox.answer(Input::History { id, result });
        });
    }
}

/// Runs the queues until `stop`; detaches and acks that are still there then are handed on first.
pub(crate) async fn run(queues: Queues, asker: Arc<Asker>, registry: Arc<Registry>, stop: CancellationToken) {
    let Queues { attach, verify, ack, detach } = queues;
    let current = &asker.current;
    let attaching = drain(attach, ATTACH_MAX, &stop, |list| run_attach(current, &asker, &registry, list));
    let verifying = drain(verify, SMALL_MAX, &stop, |list| run_verify(current, &asker, &registry, list));
    let acking = drain(ack, SMALL_MAX, &stop, |list| async move {
        if let Some(commands) = current.get() {
            let _ = commands.ack(&list).await;
        }
    });
    let detaching = drain(detach, SMALL_MAX, &stop, |list| async move {
        if let Some(commands) = current.get()
            && let Err(error) = commands.detach(&list).await
        {
            tracing::debug!(%error, count = list.len(), "registrations stay until they are found");
        }
    });
    tokio::join!(attaching, verifying, acking, detaching);
}

/// Takes what waits, as one batch, until `stop`; then what is still there.
async fn drain<T, F: Future<Output = ()>>(
    mut queue: mpsc::Receiver<T>,
    batch_max: usize,
    stop: &CancellationToken,
    run: impl Fn(Vec<T>) -> F,
) {
    loop {
        let mut list = Vec::new();
        let received = stop.run_until_cancelled(queue.recv_many(&mut list, batch_max)).await;
        if received.is_none() {
            // Stopping: only what is there already.
            while list.len() < batch_max
                && let Ok(item) = queue.try_recv()
            {
                list.push(item);
            }
        }
        if list.is_empty() {
            return;
        }
        run(list).await;
    }
}

async fn run_attach(current: &Current, asker: &Asker, registry: &Registry, list: Vec<Asked<AttachRequest>>) {
    // A connection that ended while it waited here has been detached already: asking now would leave a ghost.
    let is_here =
        |a: &Asked<AttachRequest>| registry.contains(&a.request.of, a.request.request.registration.connection);
    let here = list.into_iter().filter(is_here);
    let (requests, who): (Vec<_>, Vec<_>) = here.map(|a| (a.request, (a.of, a.mailbox))).unzip();
    if requests.is_empty() {
        return;
    }
    let answers =
        ask(current, requests.len(), |commands| async move { commands.attach(&requests).await.map(|a| (a, requests)) });
    let Some((answers, requests)) = answers.await else {
        return who
            .into_iter()
            .for_each(|(of, mailbox)| mailbox.answer(Input::Attached { of, result: Err(Unavailable) }));
    };
    for ((request, (of, mailbox)), answer) in requests.into_iter().zip(who).zip(answers) {
        let registration = &request.request.registration;
        if let Ok(attached) = &answer {
            detach_strangers(asker, registry, &request.of, &attached.registered);
            // The connection ended while this was under way: no ghost stays.
            if !registry.contains(&request.of, registration.connection) {
                let (connection, reg) = (registration.connection, registration.reg);
                asker.detach(DetachRequest { of: request.of.clone(), connection, reg });
            }
        }
        let result = answer.map(Some).map_err(|error| {
            tracing::debug!(%error, "an attach was refused");
            Unavailable
        });
        mailbox.answer(Input::Attached { of, result });
    }
}

async fn run_verify(current: &Current, asker: &Asker, registry: &Registry, list: Vec<Asked<VerifyRequest>>) {
    let (requests, who): (Vec<_>, Vec<_>) = list.into_iter().map(|a| (a.request, (a.of, a.mailbox))).unzip();
    let answers =
        ask(current, requests.len(), |commands| async move { commands.verify(&requests).await.map(|a| (a, requests)) });
    let Some((answers, requests)) = answers.await else {
        return who
            .into_iter()
            .for_each(|(of, mailbox)| mailbox.answer(Input::Verified { of, result: Err(Unavailable) }));
    };
    for ((request, (of, mailbox)), answer) in requests.into_iter().zip(who).zip(answers) {
        if let Ok(Verified { registered, .. }) = &answer {
            detach_strangers(asker, registry, &request.of, registered);
            let registration = &request.registration;
            if !registry.contains(&request.of, registration.connection) {
                let (connection, reg) = (registration.connection, registration.reg);
                asker.detach(DetachRequest { of: request.of.clone(), connection, reg });
            }
        }
        let result: Result<Standing, _> = answer.map(|v| v.standing).map_err(|_| Unavailable);
        mailbox.answer(Input::Verified { of, result });
    }
}

/// Asks the present generation; `None` where there is none, or where it gave no answer for all.
async fn ask<A, R, F>(current: &Current, count: usize, call: impl FnOnce(Commands) -> F) -> Option<(Vec<A>, R)>
where
    F: Future<Output = Result<(Vec<A>, R), BackplaneError>>,
{
    let answers = call(current.soon().await?).await.ok()?;
    (answers.0.len() == count).then_some(answers)
}

/// Registrations of this node that it does not know are left over from connections that ended.
fn detach_strangers(asker: &Asker, registry: &Registry, of: &Text, registered: &[(ConnectionId, u64)]) {
    for &(connection, reg) in registered {
        if !registry.contains(of, connection) {
            asker.detach(DetachRequest { of: of.clone(), connection, reg });
        }
    }
}
