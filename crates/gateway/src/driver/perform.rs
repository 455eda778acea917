//! Does what a connection asks for: hands it to whoever answers, and returns at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backplane::{AttachRequest, DetachRequest, HistoryRequest, ReadRequest, VerifyRequest};
use connection::{Attach, Input, Message, Request};
use delivery::{Kind, Registration, record, sabotage};
use protocol::{Address, ConnectionId, DeviceId, Epoch, Text};

use crate::asker::{Cause, Who};
use crate::mailbox::Mailbox;
use crate::node::Node;
use crate::publisher::{Outgoing, Reply};

/// What the shell of one connection has to remember.
#[derive(Debug)]
pub(super) struct Desk {
    id: ConnectionId,
    mailbox: Mailbox,
    /// Where this connection is registered, and the number of its last registration there.
    registered: Vec<(Text, u64)>,
}

impl Desk {
    pub(super) fn new(id: ConnectionId, mailbox: Mailbox) -> Self {
        Self { id, mailbox, registered: Vec::new() }
    }

    /// Hands a request over. What can be answered at once is.
    pub(super) fn perform(&mut self, node: &Arc<Node>, request: Request) -> Option<Input> {
        match request {
            Request::Authenticate(credential) => {
                return Some(Input::Authenticated(node.authenticator.verify(&credential, crate::clock::wall())));
            }
            Request::Attach(attach) => return self.attach(node, attach),
            Request::Read { of, after } => {
                let request = ReadRequest { of: record_text(&of), after };
                node.asker.read(request, self.who(of));
            }
            Request::Verify { of, cursor, device } => {
                let record = record_text(&of);
                let registration = self.present(node, &record, device);
                let request = VerifyRequest { of: record, registration, cursor };
                node.asker.verify(request, self.who(of));
            }
            Request::Append { message, retry_age_ms, late_ms, replicated } => {
                let (kind, age_ms) = match (retry_age_ms, late_ms) {
                    // Its age is what it was when it was written.
                    (Some(age), late) => (Kind::Durable, Some(age.saturating_add(late.unwrap_or(0)))),
                    (None, Some(late)) => (Kind::Late, Some(late)),
                    (None, None) => (Kind::Durable, None),
                };
                self.send(node, message, kind, age_ms, replicated);
            }
            Request::Publish(message) => self.send(node, message, Kind::Ephemeral, None, false),
            Request::History { id, of, before, limit } => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let request = HistoryRequest { of: record_text(&of), before, limit };
                node.asker.history(id, request, self.mailbox.clone());
            }
            Request::Ack { of, device, cursor } => node.asker.ack(record_text(&of), device, cursor),
        }
        None
    }

    fn attach(&mut self, node: &Arc<Node>, Attach { of, device, cursors, from }: Attach) -> Option<Input> {
        let record = sabotage::inbox_of(record_text(&of));
        // In the map before it is asked: a message published right behind the attach finds it.
        if !node.registry.insert(&record, self.id, &self.mailbox) {
            return Some(Input::TooMany);
        }
        let cause = self.cause(node, &record);
        let registration = self.registration(node, &record, device);
        let request = record::AttachRequest { registration, cursors, from };
        let request = AttachRequest { of: record, epoch: Epoch(rand::random()), request };
        node.asker.attach(request, self.who(of), cause);
        None
    }

    fn who(&self, of: Address) -> Who {
        Who { of, mailbox: self.mailbox.clone() }
    }

    /// The first attach opens a stream, and its client waits. Those behind it write locations again, of many connections
    /// at once: what came to one lately is likely to come again, so it goes before those that are quiet.
    fn cause(&self, node: &Node, record: &Text) -> Cause {
        if !self.registered.iter().any(|(there, _)| there == record) {
            return Cause::Opening;
        }
        let quiet_ms = node.clock.now().since(self.mailbox.active_at());
        if quiet_ms <= node.settings.position_check_ms { Cause::Active } else { Cause::Quiet }
    }

    /// The next registration of this connection: a higher number than all before it.
    fn registration(&mut self, node: &Node, record: &Text, device: Option<DeviceId>) -> Registration {
        let reg = node.registrations.fetch_add(1, Ordering::Relaxed);
        match self.registered.iter_mut().find(|(there, _)| there == record) {
            Some((_, last)) => *last = reg,
            None => self.registered.push((record.clone(), reg)),
        }
        Registration { node: node.id.get(), connection: self.id, reg, device }
    }

    /// The registration that there is: a verify that finds it in its place writes nothing.
    fn present(&mut self, node: &Node, record: &Text, device: Option<DeviceId>) -> Registration {
        match self.registered.iter().find(|(there, _)| there == record) {
            Some((_, reg)) => Registration { node: node.id.get(), connection: self.id, reg: *reg, device },
            None => self.registration(node, record, device),
        }
    }

    fn send(&self, node: &Node, message: Message, kind: Kind, age_ms: Option<u64>, replicated: bool) {
        let reply = Reply::Connection(self.mailbox.clone());
        let outgoing = Outgoing::new(message, kind, age_ms, node.clock.now(), reply);
        node.publisher.submit(Outgoing { replicated, ..outgoing });
    }

    /// The connection ended: exactly its own registrations go.
    pub(super) fn leave(&mut self, node: &Node) {
        node.registry.close(self.id);
        for (of, reg) in self.registered.drain(..) {
            node.registry.remove(&of, self.id);
            node.asker.detach(DetachRequest { of, connection: self.id, reg });
        }
    }
}

fn record_text(of: &Address) -> Text {
    backplane::api::record_of(of)
}
