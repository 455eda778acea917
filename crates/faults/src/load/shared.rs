//! What the clients of a run have in common: where the nodes are, what is asked of them, what was counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::Cursor;

use super::presence::Views;
use crate::history::To;
use crate::run::recorder::Recorder;

/// Longer than any fault. A sender that leaves a silent node earlier may be overtaken by its own first tries, which is a
/// fault of its own (41).
pub(crate) const SENDER_PATIENCE_MS: u64 = 80_000;

/// How much is sent, by whom, to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) senders: u32,
    pub(crate) recipients: u32,
    /// Messages a second, of all senders together.
    pub(crate) rate: u32,
    /// One message in ten asks for `replicated`.
    pub(crate) has_replicas: bool,
    pub(crate) seed: u64,
}

/// One a run. Faults turn its knobs and read its counts.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) recorder: Arc<Recorder>,
    /// The fronts of the nodes; these never change.
    pub(crate) fronts: Vec<SocketAddr>,
    pub(crate) counts: Counts,
    /// No new messages from here on.
    pub(crate) is_over: AtomicBool,
    /// Every receiver comes online and stays.
    pub(crate) all_online: AtomicBool,
    /// Bytes that every body gets in addition.
    pub(crate) padding_bytes: AtomicUsize,
    /// Of a hundred messages, how many go to recipient 0 beside its usual share.
    pub(crate) hot_percent: AtomicU32,
    /// A sender whose node is silent for longer, with requests in flight, goes to another one.
    pub(crate) sender_patience_ms: AtomicU64,
    pub(crate) sessions: AtomicU32,
    /// Where each receiver stands.
    pub(crate) places: Mutex<Vec<Place>>,
    /// Who is there, and who watchers think is there.
    pub(crate) views: Mutex<Views>,
}

/// A receiver: one device of a recipient, over all its connections.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) recipient: u32,
    pub(crate) session: Option<u32>,
    /// In its inbox.
    pub(crate) cursor: Option<Cursor>,
    /// In the further streams of this session.
    pub(crate) streams: BTreeMap<To, Option<Cursor>>,
}

/// Everything that proofs are made of.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acked: AtomicU64,
    /// Those to recipient 0.
    pub(crate) acked_first: AtomicU64,
    pub(crate) acked_replicated: AtomicU64,
    pub(crate) replicated_unknown: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) opened: AtomicU64,
    pub(crate) unanswered: AtomicU64,
    /// Errors by code, ends of connections by close code, resets by reason.
    named: Mutex<BTreeMap<String, u64>>,
    /// What no fault excuses: the protocol was broken, by us or by the node.
    pub(crate) complaints: Mutex<Vec<String>>,
}

impl Counts {
    pub(crate) fn count(&self, name: &str) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        match named.get_mut(name) {
            Some(count) => *count += 1,
            None => drop(named.insert(name.to_owned(), 1)),
        }
    }

    pub(crate) fn named(&self, name: &str) -> u64 {
        self.named.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied().unwrap_or_default()
    }

    pub(crate) fn all_named(&self) -> BTreeMap<String, u64> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn complain(&self, what: String) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        // The first ones say what is wrong; a million of them say no more.
        if complaints.len() < 20 {
            complaints.push(what);
        }
    }

    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    pub(crate) fn new(plan: Plan, recorder: Arc<Recorder>, fronts: Vec<SocketAddr>) -> Self {
        Self {
            plan,
            recorder,
            fronts,
            counts: Counts::default(),
            is_over: AtomicBool::new(false),
            all_online: AtomicBool::new(false),
            padding_bytes: AtomicUsize::new(0),
            hot_percent: AtomicU32::new(0),
            sender_patience_ms: AtomicU64::new(SENDER_PATIENCE_MS),
            sessions: AtomicU32::new(0),
            places: Mutex::new(Vec::new()),
            views: Mutex::default(),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub(crate) fn all_online(&self) -> bool {
        self.all_online.load(Ordering::Relaxed)
    }

    pub(crate) fn next_session(&self) -> u32 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters a receiver; the answer is its index in [`Shared::places`].
    pub(crate) fn enter(&self, recipient: u32) -> usize {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.push(Place { recipient, session: None, cursor: None, streams: BTreeMap::new() });
        places.len() - 1
    }

    pub(crate) fn stands(&self, index: usize, change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.places.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
            change(place);
        }
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
