//! The task of one head: takes orders, and does what `delivery::head` says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backplane::{AttachRequest, DetachRequest, ReadRequest, VerifyRequest};
use connection::{Input, Seated, Shared, Unavailable, What};
use delivery::head::{Gate, Head, Question, Room, Word};
use delivery::{Attached, Registration, record};
use protocol::client::From;
use protocol::{Address, ConnectionId, Cursor, DeviceId, Epoch, Text};

use super::{HeadMailbox, Order};
use crate::asker::{Cause, Who};
use crate::mailbox::{Mailbox, Offer};
use crate::metrics::DropReason;
use crate::node::Node;

/// Orders of one turn.
const ORDERS_PER_TURN: usize = 64;
/// After as many messages were handed out others on this thread have their turn: about a millisecond.
const OFFERS_PER_TURN: usize = 4_096;

/// Runs one head until nobody has sat there for a while.
pub(super) async fn run(node: Arc<Node>, of: Text, address: Address, mailbox: HeadMailbox) {
    let mut hall = Hall::new(node.clone(), of, address, mailbox.clone());
    // Not all at once.
    let check_ms = node.settings.position_check_ms;
    let check_ms = check_ms - check_ms / 5 + rand::random_range(0..=check_ms / 5 * 2);
    let mut head = Head::new(check_ms, node.clock.now(), &mut hall);
    loop {
        for _ in 0..ORDERS_PER_TURN {
            let Some(order) = mailbox.take() else { break };
            hall.perform(&mut head, order);
            if hall.offers >= OFFERS_PER_TURN {
                break;
            }
        }
        hall.offers = 0;
        hall.count_seats(head.seat_count());
        if !mailbox.is_empty() {
            tokio::task::yield_now().await;
            continue;
        }
        let now = node.clock.now();
        if head.is_over(now) && hall.end() {
            return;
        }
        let deadline = head.deadline();
        if now >= deadline {
            hall.users = head.user_count();
            head.on_timer(now, &mut hall);
            continue;
        }
        tokio::select! {
            () = mailbox.ordered() => {}
            () = tokio::time::sleep_until(node.clock.instant(deadline)) => {}
        }
    }
}

/// Where a head sits: the node, and the mailboxes of its members.
struct Hall {
    node: Arc<Node>,
    /// The record.
    of: Text,
    address: Address,
    mailbox: HeadMailbox,
    /// Users who sit here, as the location says, and as it should.
    told_users: usize,
    users: usize,
    /// Pages of members that wait for the changes before them, with their tickets.
    pages: VecDeque<(u64, Attached, Vec<Who>)>,
    /// Messages handed out in this turn.
    offers: usize,
    /// Members, as the metrics say it.
    seats: usize,
}

/// However a head ends, by a panic too: nobody orders anything of one that is not there.
impl Drop for Hall {
    fn drop(&mut self) {
        self.node.registry.heads.remove_if(&self.of, |_, head| head.is_same(&self.mailbox));
        self.count_seats(0);
        self.node.metrics.heads.decrement(1.0);
    }
}

impl Hall {
    fn new(node: Arc<Node>, of: Text, address: Address, mailbox: HeadMailbox) -> Self {
        node.metrics.heads.increment(1.0);
        Self { node, of, address, mailbox, told_users: 0, users: 1, pages: VecDeque::new(), offers: 0, seats: 0 }
    }

    fn count_seats(&mut self, seats: usize) {
        if seats != self.seats {
            #[allow(clippy::cast_precision_loss, reason = "a node has far fewer than 2^52 seats")]
            self.node.metrics.members.increment(seats as f64 - self.seats as f64);
            self.seats = seats;
        }
    }

    fn perform(&mut self, head: &mut Head<Mailbox>, order: Order) {
        let now = self.node.clock.now();
        match order {
            Order::Live { version, live } => head.on_live(version, &live, now, self),
            Order::Seat { id, member, mailbox } => head.seat(id, member, mailbox, now, self),
            Order::Unseat(id) => head.unseat(id, now, self),
            Order::Read { request, who } => self.read(head, request, who),
            Order::Page { answer, members } => self.on_page(head, answer.map(|found| found.map(|page| *page)), members),
            Order::Attached(answer) => head.on_attached(answer.map(|found| found.map(|page| *page)), now, self),
            Order::Verified(answer) => head.on_verified(answer, now, self),
            Order::Changes(answer) => head.on_changes(answer, now, self),
            Order::Memberships(answer) => head.on_memberships(answer, now, self),
            Order::Generation => head.on_generation(self),
            Order::Doubt => head.on_doubt(self),
        }
    }

    fn read(&self, head: &Head<Mailbox>, mut request: ReadRequest, who: Who) {
        let newest = request.after.iter().max_by_key(|place| place.seq).copied();
        let earlier = newest.map(|place| head.places_before(place)).unwrap_or_default();
        request.after.extend(earlier);
        self.node.asker.read(request, who);
    }

    /// A page goes to members once every change before it was applied: who was removed meanwhile has heard of it by then.
    fn on_page(&mut self, head: &mut Head<Mailbox>, answer: Result<Option<Attached>, Unavailable>, members: Vec<Who>) {
        match answer {
            Ok(Some(page)) => match head.gate(page.version, self) {
                Gate::Open => tell_page(&Ok(Some(page)), members),
                Gate::Later(ticket) => self.pages.push_back((ticket, page, members)),
                Gate::Closed => tell_page(&Err(Unavailable), members),
            },
            nothing => tell_page(&nothing, members),
        }
    }

    /// The registration that there is: a verify that finds it in its place writes nothing. Another number of users is
    /// written by another one.
    fn registration(&mut self, is_new: bool) -> Registration {
        if is_new || self.told_users != self.users {
            self.mailbox.set_reg(self.node.registrations.fetch_add(1, Ordering::Relaxed));
            self.told_users = self.users;
        }
        let device = DeviceId::parse(&self.told_users.to_string()).ok();
        Registration { node: self.node.id.get(), connection: ConnectionId::NODE, reg: self.mailbox.reg(), device }
    }

    fn attach(&mut self, places: Vec<Cursor>) {
        let cause = if places.is_empty() { Cause::Opening } else { Cause::Active };
        let cursors = places.into_iter().map(Some).collect();
        let request = record::AttachRequest {
            registration: Some(self.registration(true)),
            cursors,
            from: From::Now,
            ..record::AttachRequest::default()
        };
        let request = AttachRequest { of: self.of.clone(), epoch: Epoch(rand::random()), request };
        self.node.asker.attach(request, self.mailbox.clone(), cause);
    }

    /// Leaves, unless something was ordered meanwhile.
    fn end(&self) -> bool {
        let is_over = |_: &Text, head: &HeadMailbox| head.is_same(&self.mailbox) && head.is_empty();
        let is_gone = self.node.registry.heads.remove_if(&self.of, is_over).is_some();
        if is_gone {
            let reg = self.mailbox.reg();
            self.node.asker.detach(DetachRequest { of: self.of.clone(), connection: ConnectionId::NODE, reg });
        }
        // At the stop of the node it was taken out by others.
        is_gone || self.node.registry.heads.get(&self.of).is_none_or(|head| !head.is_same(&self.mailbox))
    }

    fn hand_out(&mut self, what: What, to: &mut dyn Iterator<Item = &Mailbox>) {
        let is_ephemeral = matches!(what, What::Ephemeral(_));
        let shared = Arc::new(Shared::new(self.of.clone(), what));
        let mut full = 0;
        for mailbox in to {
            self.offers += 1;
            full += u64::from(mailbox.offer_shared(&shared) == Offer::Full);
        }
        if is_ephemeral && full > 0 {
            self.node.metrics.messages_dropped.of(DropReason::MailboxFull).increment(full);
        }
    }
}

fn tell_page(answer: &Result<Option<Attached>, Unavailable>, members: Vec<Who>) {
    for Who { of, mailbox } in members {
        // The entries of a page are shared: a clone is a list of handles.
        mailbox.say_other(Input::Attached { of, result: answer.clone() });
    }
}

impl Room<Mailbox> for Hall {
    fn ask(&mut self, question: Question) {
        let (of, head) = (self.of.clone(), self.mailbox.clone());
        match question {
            Question::Attach { places } => self.attach(places),
            Question::Read { after } => self.node.asker.read(ReadRequest { of, after: vec![after] }, head),
            Question::Verify { cursor } => {
                let registration = self.registration(false);
                self.node.asker.verify(VerifyRequest { of, registration, cursor }, head);
            }
            Question::Changes { after } => self.node.asker.changes(of, after, head),
            Question::Memberships { users } => self.node.asker.memberships(of, users, head),
        }
    }

    fn tell(&mut self, word: &Word, to: &mut dyn Iterator<Item = &Mailbox>) {
        match word {
            Word::Entry(entry) => self.hand_out(What::Entry(entry.clone()), to),
            Word::Ephemeral(one) => self.hand_out(What::Ephemeral(one.clone()), to),
            Word::Members { who, members } => {
                if let Address::Group(group) = &self.address {
                    let what = What::Members { group: group.clone(), who: who.clone(), members: *members };
                    self.hand_out(what, to);
                }
            }
            Word::Read { user, cursor } => {
                self.hand_out(What::Read { user: user.clone(), cursor: *cursor }, to);
            }
            Word::At(cursor) => {
                to.for_each(|mailbox| mailbox.say_other(Input::HeadAt { of: self.of.clone(), cursor: *cursor }));
            }
            Word::Doubt => to.for_each(|mailbox| mailbox.doubt(&self.of)),
            Word::Seated { cursor, version } => to.for_each(|mailbox| {
                let seated = Seated { cursor: *cursor, version: *version };
                mailbox.say_other(Input::Seated { of: self.address.clone(), result: Ok(seated) });
            }),
            Word::Unavailable => to.for_each(|mailbox| {
                mailbox.say_other(Input::Seated { of: self.address.clone(), result: Err(Unavailable) });
            }),
            Word::Renumbered => {
                to.for_each(|mailbox| mailbox.say_other(Input::Ended { of: self.of.clone(), mseq: 0 }));
            }
            Word::Ended { mseq } => {
                to.for_each(|mailbox| mailbox.say_other(Input::Ended { of: self.of.clone(), mseq: *mseq }));
            }
        }
    }

    fn open(&mut self, ticket: u64, is_known: bool) {
        // In the order in which they came; tickets only grow.
        while let Some((_, page, members)) = self.pages.pop_front_if(|(waits_for, ..)| *waits_for <= ticket) {
            tell_page(&if is_known { Ok(Some(page)) } else { Err(Unavailable) }, members);
        }
    }

    fn dropped(&mut self) {
        self.node.metrics.messages_dropped.of(DropReason::MailboxFull).increment(1);
    }
}
