//! What others hand to a head. Live messages are bounded in bytes; a full mailbox costs one more read of the inbox.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backplane::{Changes, Memberships, ReadRequest};
use connection::Unavailable;
use delivery::{Attached, Standing};
use parking_lot::Mutex;
use protocol::{ConnectionId, Live, UserId};
use tokio::sync::Notify;

use crate::asker::Who;
use crate::mailbox::Mailbox;

/// Bytes of live messages that wait for one head's task: reached only while the task does not run.
const LIVE_BYTES_MAX: usize = 1024 * 1024;

/// Something for a head to do, or an answer that it asked for.
#[derive(Debug)]
pub(crate) enum Order {
    Live {
        version: u64,
        live: Live,
    },
    Seat {
        id: ConnectionId,
        member: (UserId, u64, bool),
        mailbox: Mailbox,
    },
    Unseat(ConnectionId),
    /// A member reads, also behind the places that are remembered here.
    Read {
        request: ReadRequest,
        who: Who,
    },
    /// What members have read.
    Page {
        answer: Result<Option<Box<Attached>>, Unavailable>,
        members: Vec<Who>,
    },
    /// `None`: nobody could be asked. Without an inner answer: there is no record.
    Attached(Option<Option<Box<Attached>>>),
    Verified(Option<(Standing, u64)>),
    Changes(Option<Changes>),
    Memberships(Option<Memberships>),
    /// A new generation began.
    Generation,
    /// A live message found no room.
    Doubt,
}

#[derive(Debug, Default)]
struct State {
    orders: VecDeque<Order>,
    live_bytes: usize,
    is_dirty: bool,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    wake: Notify,
    /// The number of the last registration.
    reg: AtomicU64,
}

/// The handle of one head. Whoever asked something for it holds one too: what comes after its end is heard by nobody.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeadMailbox(Arc<Inner>);

impl HeadMailbox {
    /// Hands over a live message; false if there was no room, and the inbox is read later.
    pub(crate) fn offer(&self, version: u64, live: &Live) -> bool {
        let weight = live.weight();
        {
            let mut state = self.0.state.lock();
            if state.live_bytes + weight > LIVE_BYTES_MAX && state.live_bytes > 0 {
                // Notices too: what the inbox says names the changes that were missed.
                state.is_dirty = true;
                return false;
            }
            state.live_bytes += weight;
            state.orders.push_back(Order::Live { version, live: live.clone() });
        }
        self.0.wake.notify_one();
        true
    }

    /// Bounded by those who order: members, and the questions of the head itself.
    pub(crate) fn order(&self, order: Order) {
        self.0.state.lock().orders.push_back(order);
        self.0.wake.notify_one();
    }

    pub(crate) fn notify_generation(&self) {
        self.order(Order::Generation);
    }

    /// The next order.
    pub(super) fn take(&self) -> Option<Order> {
        let mut state = self.0.state.lock();
        match state.orders.pop_front() {
            Some(order) => {
                if let Order::Live { live, .. } = &order {
                    state.live_bytes -= live.weight();
                }
                if state.orders.is_empty() {
                    state.orders = VecDeque::new();
                }
                Some(order)
            }
            // Behind what was taken.
            None => std::mem::take(&mut state.is_dirty).then_some(Order::Doubt),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.state.lock().orders.is_empty()
    }

    pub(super) async fn ordered(&self) {
        self.0.wake.notified().await;
    }

    pub(super) fn reg(&self) -> u64 {
        self.0.reg.load(Ordering::Relaxed)
    }

    pub(super) fn set_reg(&self, reg: u64) {
        self.0.reg.store(reg, Ordering::Relaxed);
    }

    /// The same head, not one like it.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
