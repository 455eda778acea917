//! This node's heads: for each group that somebody here follows, and for everybody's stream, one task that takes its messages
//! once and hands them to those who sit there. What is decided is in `delivery::head`; this is how connections reach it.
//!
//! A head's end and a newcomer meet at the map: a seat is ordered under its lock, and a head goes only with nothing ordered.
//! So none is lost.

mod mailbox;
mod task;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use backplane::{DetachRequest, ReadRequest};
use connection::{Input, Seat, Unavailable};
use dashmap::DashMap;
use delivery::sabotage;
use protocol::{ConnectionId, Text};

use crate::asker::Who;
use crate::mailbox::Mailbox;
use crate::node::Node;
use crate::registry::Registry;

pub(crate) use mailbox::{HeadMailbox, Order};

/// True of records that this node follows by a head: groups, and everybody's.
pub(crate) fn is_headed(record: &str) -> bool {
    record == "all" || record.starts_with("group:")
}

/// What connections ask of heads.
#[derive(Debug)]
pub(crate) struct Heads {
    registry: Arc<Registry>,
    /// Where each connection took a seat: it ends without saying so. A handle costs a member less than a name.
    sitting: DashMap<ConnectionId, Vec<HeadMailbox>>,
}

impl Heads {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self { registry, sitting: DashMap::new() }
    }

    /// Gives a connection a seat; answered by [`Input::Seated`]. Said again by one that sits, only what is new of the member
    /// is learned, and nothing is answered. A lasting member without the number of his join is not asked about: his
    /// connection asks the group's record behind its seat.
    pub(crate) fn seat(&self, node: &Arc<Node>, seat: Seat, id: ConnectionId, mailbox: &Mailbox) {
        let Seat { of, user, joined, is_lasting } = seat;
        let of_text = sabotage::inbox_of(backplane::api::record_of(&of));
        let mut begun = None;
        let head = self.registry.heads.entry(of_text.clone()).or_insert_with(|| {
            let head = HeadMailbox::default();
            begun = Some(head.clone());
            head
        });
        head.order(Order::Seat { id, member: (user, joined, is_lasting), mailbox: mailbox.clone() });
        let at = head.clone();
        drop(head);
        let mut sits = self.sitting.entry(id).or_default();
        if !sits.iter().any(|there| there.is_same(&at)) {
            sits.reserve_exact(1);
            sits.push(at);
        }
        drop(sits);
        if let Some(head) = begun {
            // Where its first member lives.
            tokio::spawn(task::run(node.clone(), of_text, of, head));
        }
    }

    pub(crate) fn unseat(&self, of: &Text, id: ConnectionId) {
        let Some(head) = self.registry.heads.get(of).map(|head| head.clone()) else { return };
        self.sitting.remove_if_mut(&id, |_, sits| {
            sits.retain(|there| !there.is_same(&head));
            sits.is_empty()
        });
        head.order(Order::Unseat(id));
    }

    /// The connection ended.
    pub(crate) fn leave(&self, id: ConnectionId) {
        let Some((_, sits)) = self.sitting.remove(&id) else { return };
        sits.iter().for_each(|head| head.order(Order::Unseat(id)));
    }

    /// Reads for a member; also behind the places that the head remembers, after those that he names.
    pub(crate) fn read(&self, request: ReadRequest, who: Who) {
        let head = self.registry.heads.get(&request.of).map(|head| head.clone());
        match head {
            Some(head) => head.order(Order::Read { request, who }),
            // He has no seat any more.
            None => who.mailbox.answer(Input::Attached { of: who.of, result: Err(Unavailable) }),
        }
    }

    /// The node is being stopped: every head's location goes. Nothing else of it is cleaned up.
    pub(crate) fn end(&self, node: &Node) {
        let all: Vec<(Text, u64)> = self.registry.heads.iter().map(|head| (head.key().clone(), head.reg())).collect();
        for (of, reg) in all {
            self.registry.heads.remove(&of);
            node.asker.detach(DetachRequest { of, connection: ConnectionId::NODE, reg });
        }
    }
}
