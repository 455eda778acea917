//! A master that answers as the test says: at once, never, or that it has nothing any more.

use std::future::{pending, ready};

use backplane::api::{Answer, Pulse};
use backplane::{BackplaneError, Batch, BatchResult, HistoryError, Log};
use delivery::{Attached, Replication, Standing, Start, Verified};
use protocol::{Bundle, NodeId, Page};

use super::super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Answers,
    Hangs,
    /// Others have its slots.
    Moved,
}

/// Notes what it was asked.
#[derive(Debug)]
pub(super) struct Fake {
    groups: Vec<SlotGroup>,
    pub(super) mode: Mutex<Mode>,
    pub(super) asked: Mutex<Vec<String>>,
}

impl Fake {
    pub(super) fn new(groups: impl IntoIterator<Item = SlotGroup>, mode: Mode) -> Arc<Self> {
        let groups = groups.into_iter().collect();
        Arc::new(Self { groups, mode: Mutex::new(mode), asked: Mutex::default() })
    }

    fn answer<'a, T: Send + 'a>(&'a self, asked: String, answer: T) -> Answer<'a, Result<T, BackplaneError>> {
        self.asked.lock().push(asked);
        match *self.mode.lock() {
            Mode::Answers => Box::pin(ready(Ok(answer))),
            Mode::Hangs => Box::pin(pending()),
            Mode::Moved => Box::pin(ready(Err(BackplaneError::Elsewhere("MOVED".to_owned())))),
        }
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
    fn append<'a>(&'a self, _: &'a Batch) -> Answer<'a, Result<BatchResult, BackplaneError>> {
        self.unasked()
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
        self.unasked()
    }

    fn bury<'a>(&'a self, _: &'a NodeId, _: &'a str) -> Answer<'a, Result<bool, BackplaneError>> {
        self.unasked()
    }

    fn agree<'a>(&'a self, _: &'a str) -> Answer<'a, Result<String, BackplaneError>> {
        self.unasked()
    }

    fn holds<'a>(&'a self, _: &'a [(Text, Cursor)]) -> Answer<'a, Result<Vec<bool>, BackplaneError>> {
        self.unasked()
    }

    fn reap<'a>(&'a self, _: &'a NodeId) -> Answer<'a, Result<u64, BackplaneError>> {
        self.unasked()
    }

    fn groups(&self) -> &[SlotGroup] {
        &self.groups
    }

    fn is_home(&self) -> bool {
        false
    }

    fn lineage(&self) -> Option<&str> {
        None
    }

    fn replication(&self) -> Answer<'_, Result<Replication, BackplaneError>> {
        self.unasked()
    }

    fn now_us(&self) -> u64 {
        0
    }
}
