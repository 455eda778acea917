//! Does what a connection asks for: hands it to whoever answers, and returns at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use backplane::{AttachRequest, DetachRequest, HistoryRequest, ReadRequest, VerifyRequest};
use connection::{Attach, Enter, Input, Message, Question, Request};
use delivery::{Ack, Kind, Registration, fields, record, sabotage};
use protocol::{Address, ConnectionId, Cursor, DeviceId, Epoch, GroupId, MessageId, Text, UserId};

use super::errands::{self, Wanted};
use crate::asker::{Cause, Who};
use crate::joins::{self, Wish};
use crate::mailbox::Mailbox;
use crate::node::Node;
use crate::publisher::reply::unavailable;
use crate::publisher::{Outgoing, Reply};
use crate::questions::Questions;

/// What the shell of one connection has to remember.
#[derive(Debug)]
pub(super) struct Desk {
    id: ConnectionId,
    mailbox: Mailbox,
    /// Who it is, once that is known.
    user: Option<UserId>,
    /// Where this connection is registered, and the number of its last registration there.
    registered: Vec<(Text, u64)>,
    /// It took a seat at a group's table.
    has_sat: bool,
}

impl Desk {
    pub(super) fn new(id: ConnectionId, mailbox: Mailbox) -> Self {
        Self { id, mailbox, user: None, registered: Vec::new(), has_sat: false }
    }

    /// Hands a request over. What can be answered at once is.
    pub(super) fn perform(&mut self, node: &Arc<Node>, request: Request) -> Option<Input> {
        match request {
            Request::Authenticate(credential) => {
                let identity = node.authenticator.verify(&credential, crate::clock::wall());
                self.user = identity.as_ref().ok().map(|identity| identity.user.clone());
                return Some(Input::Authenticated(identity));
            }
            Request::Attach(attach) => return self.attach(node, attach),
            Request::Read { of, after, with_head } => {
                let request = ReadRequest { of: record_text(&of), after };
                if with_head {
                    node.heads.read(request, self.who(of));
                } else {
                    node.asker.read(request, self.who(of));
                }
            }
            Request::Seat(seat) => {
                self.has_sat = true;
                node.heads.seat(node, seat, self.id, &self.mailbox);
            }
            Request::Unseat { of } => node.heads.unseat(&record_text(&of), self.id),
            Request::Enter(enter) => self.enter(node, enter),
            Request::Join { id, group, user } => self.join(node, Wish::Join, user, group, Some(id)),
            Request::Leave { id, group, user } => self.join(node, Wish::Leave, user, group, Some(id)),
            // What the group's record says counts, whatever is believed here.
            Request::Repair { group, user, is_in: _ } => self.join(node, Wish::Repair, user, group, None),
            Request::Groups { user } => errands::groups(node, user, &self.mailbox),
            Request::Ask { id, question } => return self.ask(node, id, question),
            Request::Mark { of, with, user, cursor } => {
                errands::mark(node, of, with, user, cursor, &self.mailbox);
            }
            Request::Verify { of, cursor, device } => {
                let record = record_text(&of);
                let registration = self.present(node, &record, device);
                let request = VerifyRequest { of: record, registration, cursor };
                node.asker.verify(request, self.who(of));
            }
            Request::Append { message, retry_age_ms, late_ms, replicated, echo } => {
                let (kind, age_ms) = match (retry_age_ms, late_ms) {
                    // Its age is what it was when it was written.
                    (Some(age), late) => (Kind::Durable, Some(age.saturating_add(late.unwrap_or(0)))),
                    (None, Some(late)) => (Kind::Late, Some(late)),
                    (None, None) => (Kind::Durable, None),
                };
                self.send(node, message, kind, age_ms, replicated, echo);
            }
            Request::Publish { message, echo } => self.send(node, message, Kind::Ephemeral, None, false, echo),
            Request::History { id, of, before, limit, with, since } => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let request = HistoryRequest { of: record_text(&of), before, limit };
                if with.is_none() && since == 0 {
                    node.asker.history(id, request, self.mailbox.clone());
                } else {
                    let between = with.map(|with| (request.of.clone(), record_text(&Address::User(with))));
                    errands::history(node, id, request, Wanted { between, since }, &self.mailbox);
                }
            }
            Request::Ack { of, user, device, cursor } => node.asker.ack(ack(&of, user, &device, cursor)),
        }
        None
    }

    fn attach(&mut self, node: &Arc<Node>, attach: Attach) -> Option<Input> {
        let Attach { of, device, cursors, from, groups_known, claim, profile } = attach;
        let record = sabotage::inbox_of(record_text(&of));
        // In the map before it is asked: a message published right behind the attach finds it.
        if !node.registry.insert(&record, self.id, &self.mailbox) {
            return Some(Input::TooMany);
        }
        let cause = self.cause(node, &record);
        let registration = self.registration(node, &record, device);
        let request = record::AttachRequest::of(registration, cursors, from);
        let request = record::AttachRequest { groups_known, claim, profile, ..request };
        let request = AttachRequest { of: record, epoch: Epoch(rand::random()), request };
        node.asker.attach(request, self.who(of), cause);
        None
    }

    /// The node is registered for the group already: nothing is written, and only his own place is looked for.
    fn enter(&self, node: &Arc<Node>, Enter { of, user, device, cursors, from }: Enter) {
        let is_group = matches!(of, Address::Group(_));
        let request = record::AttachRequest {
            cursors,
            from,
            stored: device.filter(|_| is_group).map(|device| fields::member_device(&user, &device)),
            member: Some(user).filter(|_| is_group),
            ..record::AttachRequest::default()
        };
        let request = AttachRequest { of: record_text(&of), epoch: Epoch(rand::random()), request };
        node.asker.attach(request, self.who(of), Cause::Opening);
    }

    fn join(&self, node: &Node, wish: Wish, user: UserId, group: GroupId, id: Option<MessageId>) {
        let reply = id.map_or(joins::Reply::Nobody, |id| joins::Reply::Connection(id, self.mailbox.clone()));
        node.joins.submit(wish, user, group, reply);
    }

    fn ask(&self, node: &Arc<Node>, id: MessageId, question: Question) -> Option<Input> {
        let Some(user) = self.user.clone() else {
            // Nobody asks before he has said who he is.
            return Some(Input::Answered { id, result: Err(unavailable("nobody asks")) });
        };
        Questions::ask(node, id, question, self.id, user, self.mailbox.clone());
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

    fn send(&self, node: &Node, message: Message, kind: Kind, age_ms: Option<u64>, replicated: bool, echo: bool) {
        let sender = echo.then(|| message.from.clone());
        let reply = Reply::Connection(self.mailbox.clone());
        let outgoing = Outgoing::new(message, kind, age_ms, node.clock.now(), reply);
        let outgoing = Outgoing { replicated, ..outgoing };
        let (outgoing, own) = match sender {
            Some(sender) => outgoing.echoed(&sender, &self.mailbox),
            None => (outgoing, None),
        };
        node.publisher.submit(outgoing);
        if let Some(own) = own {
            node.publisher.submit(own);
        }
    }

    /// The connection ended: exactly its own registrations go, a moment later.
    pub(super) fn leave(&mut self, node: &Arc<Node>) {
        node.registry.close(self.id);
        for (of, reg) in self.registered.drain(..) {
            node.registry.remove(&of, self.id);
            node.departures.leave(DetachRequest { of, connection: self.id, reg });
        }
        if std::mem::take(&mut self.has_sat) {
            node.heads.leave(self.id);
        }
        node.watches.leave(self.id);
    }
}

/// Where a device's place is kept: with the stream, but that in everybody's with its user.
fn ack(of: &Address, user: UserId, device: &DeviceId, cursor: Cursor) -> Ack {
    match of {
        Address::All => Ack { of: record_text(&Address::User(user)), field: fields::all_device(device), cursor },
        Address::Group(_) => Ack { of: record_text(of), field: fields::member_device(&user, device), cursor },
        _ => Ack { of: record_text(of), field: fields::device(device), cursor },
    }
}

fn record_text(of: &Address) -> Text {
    backplane::api::record_of(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_with_its_stream_and_that_in_everybodys_with_its_user() {
        let (bob, phone) = (UserId::parse("bob").unwrap(), DeviceId::parse("phone").unwrap());
        let kept = |of: &str| {
            let ack = ack(&Address::parse(of).unwrap(), bob.clone(), &phone, Cursor::default());
            format!("{} {}", ack.of.as_str(), ack.field.as_str())
        };
        assert_eq!(kept("user:bob"), "user:bob phone");
        assert_eq!(kept("group:den"), "group:den bob/phone");
        assert_eq!(kept("all"), "user:bob /all/phone");
    }
}
