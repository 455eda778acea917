//! A master that answers as the test says: at once, never, or that it has nothing any more. Other tests use it too.

use std::future::{pending, ready};
use std::sync::atomic::{AtomicBool, Ordering};

use backplane::api::{Answer, Pulse};
use backplane::{BackplaneError, Batch, BatchAnswer, BatchResult, HistoryError, Log};
use delivery::{Attached, Place, Placed, Replication, Standing, Start, Verified};
use protocol::{Bundle, NodeId, Page, UnixMillis};

use super::super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Answers,
    Hangs,
    /// Others have its slots.
    Moved,
}

/// Notes what it was asked.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) groups: Vec<SlotGroup>,
    pub(crate) mode: Mutex<Mode>,
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) is_home: bool,
    /// What the fleet holds to; `None`: what the node would say.
    pub(crate) said: Option<String>,
    pub(crate) lineage: Option<String>,
    /// Its clock, which stands still.
    pub(crate) now_us: u64,
    /// Others have declared the node dead.
    pub(crate) is_dead: AtomicBool,
    /// A record that cannot be written.
    pub(crate) broken: Option<Text>,
    pub(crate) gone: Notify,
}

impl Fake {
    pub(crate) fn of(groups: impl IntoIterator<Item = SlotGroup>, mode: Mode) -> Self {
        Self {
            groups: groups.into_iter().collect(),
            mode: Mutex::new(mode),
            asked: Mutex::default(),
            is_home: false,
            said: None,
            lineage: None,
            now_us: 0,
            is_dead: AtomicBool::new(false),
            broken: None,
            gone: Notify::new(),
        }
    }

    fn answer<'a, T: Send + 'a>(&'a self, asked: String, answer: T) -> Answer<'a, Result<T, BackplaneError>> {
        self.asked.lock().push(asked);
        match *self.mode.lock() {
            Mode::Answers => Box::pin(ready(Ok(answer))),
            Mode::Hangs => Box::pin(async {
                self.gone.notified().await;
                Err(BackplaneError::Unknown("it is gone".to_owned()))
            }),
            Mode::Moved => Box::pin(ready(Err(BackplaneError::Elsewhere("MOVED".to_owned())))),
        }
    }

    /// Whoever waits for it does so no longer.
    pub(crate) fn go(&self) {
        self.gone.notify_waiters();
    }

    fn unasked<'a, T: Send + 'a>(&'a self) -> Answer<'a, T> {
        unreachable!("the queue does not ask this")
    }
}

pub(super) fn attached() -> Attached {
    Attached {
        start: Start::Resumed,
        cursor: Cursor::default(),
        head: 0,
        page: Page::default(),
        routed: true,
        registered: Vec::new(),
    }
}

impl Log for Fake {
    fn append<'a>(&'a self, batch: &'a Batch) -> Answer<'a, Result<BatchResult, BackplaneError>> {
        let placed = Placed { place: Place::Stored(Cursor::default()), at: UnixMillis(0), online: false };
        let groups = batch.groups.iter().map(|group| match &self.broken {
            Some(broken) if *broken == group.record => Err("WRONGTYPE".to_owned()),
            _ => Ok(vec![placed; group.messages.len()]),
        });
        let answer = BatchAnswer { groups: groups.collect(), receivers: Vec::new(), is_elsewhere: false };
        self.answer(format!("append {}", batch.groups.len()), BatchResult::Answered(answer))
    }

    fn publish<'a>(&'a self, _: &'a NodeId, _: &'a Bundle) -> Answer<'a, Result<u64, BackplaneError>> {
        self.unasked()
    }

    fn attach<'a>(
        &'a self,
        requests: &'a [AttachRequest],
    ) -> Answer<'a, Result<Vec<Result<Attached, BackplaneError>>, BackplaneError>> {
        let answers = requests.iter().map(|_| Ok(attached())).collect();
        self.answer(format!("attach {}", requests.len()), answers)
    }

    fn read<'a>(&'a self, request: &'a ReadRequest) -> Answer<'a, Result<Option<Attached>, BackplaneError>> {
        self.answer(format!("read {} {}", request.of.as_str(), request.after[0].seq), Some(attached()))
    }

    fn verify<'a>(
        &'a self,
        requests: &'a [VerifyRequest],
    ) -> Answer<'a, Result<Vec<Result<Verified, BackplaneError>>, BackplaneError>> {
        let verified = || Ok(Verified { standing: Standing::Current, registered: Vec::new() });
        let answers = requests.iter().map(|_| verified()).collect();
        self.answer(format!("verify {}", requests.len()), answers)
    }

    fn detach<'a>(&'a self, requests: &'a [DetachRequest]) -> Answer<'a, Result<(), BackplaneError>> {
        self.answer(format!("detach {}", requests.len()), ())
    }

    fn history<'a>(&'a self, _: &'a HistoryRequest) -> Answer<'a, Result<(Page, bool), HistoryError>> {
        let answer = self.answer("history".to_owned(), (Page::default(), false));
        Box::pin(async move { Ok(answer.await?) })
    }

    fn ack<'a>(&'a self, acks: &'a [(Text, DeviceId, Cursor)]) -> Answer<'a, Result<(), BackplaneError>> {
        self.answer(format!("ack {}", acks.len()), ())
    }

    fn replicated(&self) -> Answer<'_, Result<(), BackplaneError>> {
        self.unasked()
    }

    fn heartbeat<'a>(&'a self, _: &'a str) -> Answer<'a, Result<Pulse, BackplaneError>> {
        // Death is final for a name; the next generation has another one.
        let is_dead = self.is_dead.swap(false, Ordering::Relaxed);
        self.answer("heartbeat".to_owned(), Pulse { is_dead, nodes: Vec::new() })
    }

    fn bury<'a>(&'a self, _: &'a NodeId, _: &'a str) -> Answer<'a, Result<bool, BackplaneError>> {
        self.unasked()
    }

    fn agree<'a>(&'a self, own: &'a str) -> Answer<'a, Result<String, BackplaneError>> {
        self.answer("agree".to_owned(), self.said.clone().unwrap_or_else(|| own.to_owned()))
    }

    fn holds<'a>(&'a self, entries: &'a [(Text, Cursor)]) -> Answer<'a, Result<Vec<bool>, BackplaneError>> {
        self.answer(format!("holds {}", entries.len()), vec![false; entries.len()])
    }

    fn reap<'a>(&'a self, _: &'a NodeId) -> Answer<'a, Result<u64, BackplaneError>> {
        self.unasked()
    }

    fn groups(&self) -> &[SlotGroup] {
        &self.groups
    }

    fn is_home(&self) -> bool {
        self.is_home
    }

    fn lineage(&self) -> Option<&str> {
        self.lineage.as_deref()
    }

    fn replication(&self) -> Answer<'_, Result<Replication, BackplaneError>> {
        Box::pin(pending())
    }

    fn now_us(&self) -> u64 {
        self.now_us
    }
}
