//! One call to the backplane: asked of one master, for one slot group, and everybody who waits for it gets the answer.

use std::sync::Arc;

use backplane::{
    AttachRequest, BackplaneError, Commands, DetachRequest, HistoryError, HistoryRequest, ReadRequest, VerifyRequest,
};
use connection::{HistoryFault, Input, Listing, Unavailable};
use delivery::{Ack, Attached, Registration, Verified};
use protocol::{MessageId, Text};

use super::line::{Class, Line};
use super::load::Flight;
use super::queue::Call;
use super::{Asker, Asking, Reader, Request, What, Who, compare_registered};
use crate::heads::{self, HeadMailbox, Order};
use crate::mailbox::Mailbox;

/// How often a detach is asked before it is left to be found.
const DETACH_TRIES: u32 = 3;

/// A call in flight. Its end makes room, whatever it ends by.
struct Flying {
    asker: Arc<Asker>,
    flight: Flight,
    /// Also what makes the master's number its own.
    commands: Commands,
}

impl Drop for Flying {
    fn drop(&mut self) {
        self.asker.state.lock().queue.finish(&self.flight);
        self.asker.wake.notify_one();
    }
}

/// Requests that were asked in vain, to be asked again.
#[derive(Default)]
struct Back {
    requests: Vec<Request>,
    readers: Option<(ReadRequest, Vec<Reader>)>,
}

pub(super) fn start(asker: &Arc<Asker>, call: Call<Request>, readers: Vec<Reader>, commands: Commands) {
    let flying = Flying { asker: asker.clone(), flight: call.flight, commands };
    tokio::spawn(async move {
        let back = flying.run(call.items, readers).await;
        flying.come_back(back).await;
    });
}

impl Flying {
    async fn run(&self, items: Vec<Request>, readers: Vec<Reader>) -> Back {
        let (mut attaches, mut verifies, mut acks, mut detaches) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        // All of one line: one of these is filled.
        for Request { what, since, tries } in items {
            let waited_ms = self.asker.clock.now().since(since);
            if self.flight.line.class() == Class::Check && waited_ms > self.asker.measures.late_ms {
                self.asker.measures.late_checks.increment(1);
            }
            match what {
                What::Attach(request, asking) => attaches.push((request, asking, tries)),
                What::Verify(request, asking) => verifies.push((request, asking, tries)),
                What::Changes(..) | What::Memberships(..) => return self.membership(what, tries).await,
                What::Read(request) => return self.read(request, readers).await,
                What::History(request, id, mailbox) => return self.history(request, id, mailbox, tries).await,
                What::Ack(ack) => acks.push((ack, tries)),
                What::Detach(request) => detaches.push((request, tries)),
            }
        }
        match self.flight.line {
            Line::Verify => self.verify(verifies).await,
            Line::Ack => self.ack(acks).await,
            Line::Detach => self.detach(detaches).await,
            _ => self.attach(attaches).await,
        }
    }

    async fn attach(&self, mut list: Vec<(AttachRequest, Asking, u32)>) -> Back {
        // A connection that ended while it waited here has been detached already: asking now would leave a ghost.
        list.retain(|(request, ..)| self.is_here(&request.of, request.request.registration.as_ref()));
        let (requests, asking): (Vec<_>, Vec<_>) =
            list.into_iter().map(|(r, asking, tries)| (r, (asking, tries))).unzip();
        if requests.is_empty() {
            return Back::default();
        }
        let answers = each(self.commands.attach(&requests).await, requests.len());
        let mut back = Back::default();
        for ((request, (asking, tries)), answer) in requests.into_iter().zip(asking).zip(answers) {
            if let Ok(Attached { registered, .. }) = &answer {
                compare_registered(&self.asker, &request.of, registered);
                self.detach_ghost(&request.of, request.request.registration.as_ref());
            }
            match answer {
                Err(error) if self.may_again(&error, tries) => {
                    back.requests.push(self.again(What::Attach(request, asking), tries));
                }
                answer => asking.attached(answer.map(Some).map_err(|error| {
                    tracing::debug!(%error, "an attach was refused");
                    Unavailable
                })),
            }
        }
        back
    }

    async fn verify(&self, mut list: Vec<(VerifyRequest, Asking, u32)>) -> Back {
        // It would write the location of a connection that is not here.
        list.retain(|(request, ..)| self.is_here(&request.of, Some(&request.registration)));
        let (requests, asking): (Vec<_>, Vec<_>) =
            list.into_iter().map(|(r, asking, tries)| (r, (asking, tries))).unzip();
        if requests.is_empty() {
            return Back::default();
        }
        let answers = each(self.commands.verify(&requests).await, requests.len());
        let mut back = Back::default();
        for ((request, (asking, tries)), answer) in requests.into_iter().zip(asking).zip(answers) {
            if let Ok(Verified { registered, .. }) = &answer {
                compare_registered(&self.asker, &request.of, registered);
                self.detach_ghost(&request.of, Some(&request.registration));
            }
            match answer {
                Err(error) if self.may_again(&error, tries) => {
                    back.requests.push(self.again(What::Verify(request, asking), tries));
                }
                answer => {
                    let result = answer.map(|verified| (verified.standing, verified.version));
                    asking.verified(result.map_err(|_| Unavailable));
                }
            }
        }
        back
    }

    async fn read(&self, request: ReadRequest, readers: Vec<Reader>) -> Back {
        let answer = self.commands.read(&request).await;
        let (mut back, mut members) = (Vec::new(), Vec::new());
        for reader in readers {
            match (&answer, reader.asking) {
                (Err(error), asking) if self.may_again(error, reader.tries) => {
                    back.push(Reader { asking, tries: reader.tries + 1 });
                }
                // What a member may still read is for the head to say.
                (_, Asking::Connection(who)) if heads::is_headed(&request.of) => members.push(who),
                // The entries of a page are shared: a clone is a list of handles.
                (answer, asking) => asking.attached(answer.clone().map_err(|_| Unavailable)),
            }
        }
        if !members.is_empty() {
            self.tell_members(&request.of, answer.map_err(|_| Unavailable), members);
        }
        let readers = (!back.is_empty()).then_some((request, back));
        Back { readers, ..Back::default() }
    }

    /// Hands a page to members of a group, by way of their head.
    fn tell_members(&self, of: &Text, answer: Result<Option<Attached>, Unavailable>, members: Vec<Who>) {
        let head = self.asker.registry.heads.get(of).map(|head| head.clone());
        match head {
            Some(head) => head.order(Order::Page { answer: answer.map(|found| found.map(Box::new)), members }),
            // Nobody sits there any more: neither does he.
            None => members.into_iter().for_each(|who| Asking::Connection(who).attached(Err(Unavailable))),
        }
    }

    /// What a head asks about members.
    async fn membership(&self, what: What, tries: u32) -> Back {
        let error = match &what {
            What::Changes(of, after, head) => match self.commands.changes(of, *after).await {
                Ok(changes) => return answered(head, Order::Changes(Some(changes))),
                Err(error) => error,
            },
            What::Memberships(of, users, head) => match self.commands.memberships(of, users).await {
                Ok(memberships) => return answered(head, Order::Memberships(Some(memberships))),
                Err(error) => error,
            },
            _ => return Back::default(),
        };
        if self.may_again(&error, tries) {
            return Back { requests: vec![self.again(what, tries)], readers: None };
        }
        tracing::debug!(%error, "the members of a group cannot be told");
        what.refuse();
        Back::default()
    }

    async fn history(&self, request: HistoryRequest, id: MessageId, mailbox: Mailbox, tries: u32) -> Back {
        let result = match self.commands.history(&request).await {
            Ok((page, more)) => {
                // Where none of them can be read, a page further back begins at the newest of them.
                let before = more.then(|| page.entries.first().map_or(page.end, |oldest| oldest.cursor));
                Ok(Listing { entries: page.entries.into_iter().rev().collect(), more, before })
            }
            Err(HistoryError::Before) => Err(HistoryFault::Before),
            Err(HistoryError::Backplane(error)) if self.may_again(&error, tries) => {
                return Back { requests: vec![self.again(What::History(request, id, mailbox), tries)], readers: None };
            }
            Err(HistoryError::Backplane(_)) => Err(HistoryFault::Unavailable),
        };
        mailbox.answer(Input::History { id, result });
        Back::default()
    }

    async fn ack(&self, list: Vec<(Ack, u32)>) -> Back {
        let (acks, tries): (Vec<_>, Vec<_>) = list.into_iter().unzip();
        let Err(error) = self.commands.ack(&acks).await else { return Back::default() };
        let again = acks.into_iter().zip(tries).filter(|(_, tries)| self.may_again(&error, *tries));
        let requests = again.map(|(ack, tries)| self.again(What::Ack(ack), tries));
        Back { requests: requests.collect(), readers: None }
    }

    async fn detach(&self, list: Vec<(DetachRequest, u32)>) -> Back {
        let (requests, tries): (Vec<_>, Vec<_>) = list.into_iter().unzip();
        let Err(error) = self.commands.detach(&requests).await else { return Back::default() };
        tracing::debug!(%error, count = requests.len(), "registrations stay for now");
        // Nobody says it again, and twice does no harm.
        let again = requests.into_iter().zip(tries).filter(|(_, tries)| tries + 1 < DETACH_TRIES);
        let requests = again.map(|(request, tries)| self.again(What::Detach(request), tries)).collect();
        Back { requests, readers: None }
    }

    /// Another master has it: asked once more, of that one.
    fn may_again(&self, error: &BackplaneError, tries: u32) -> bool {
        let is_wanted = self.flight.line.class() == Class::Behind || !self.asker.state.lock().queue.is_stopped();
        matches!(error, BackplaneError::Elsewhere(_)) && tries == 0 && is_wanted
    }

    fn again(&self, what: What, tries: u32) -> Request {
        Request { what, since: self.asker.clock.now(), tries: tries + 1 }
    }

    /// Nothing is written for a member of a group: his node is there.
    fn is_here(&self, of: &Text, registration: Option<&Registration>) -> bool {
        registration.is_none_or(|registration| self.asker.registry.contains(of, registration.connection))
    }

    /// The connection ended while this was under way: no ghost stays.
    fn detach_ghost(&self, of: &Text, registration: Option<&Registration>) {
        if let Some(&Registration { connection, reg, .. }) = registration
            && !self.is_here(of, registration)
        {
            self.asker.detach(DetachRequest { of: of.clone(), connection, reg });
        }
    }

    /// Queues again what was asked in vain, and holds it until there is another master to ask, or the grace is over.
    async fn come_back(self, back: Back) {
        if back.requests.is_empty() && back.readers.is_none() {
            return;
        }
        let (asker, flight) = (self.asker.clone(), self.flight);
        let commands = self.commands.clone();
        // A master that does not have the slots has nothing for anybody.
        let from = if flight.line.class() == Class::Behind { Class::Behind } else { Class::Client };
        {
            let mut state = asker.state.lock();
            state.queue.hold(flight.group, from);
            state.queue.put_back(flight.group, flight.line, back.requests);
        }
        if let Some((request, readers)) = back.readers {
            readers.into_iter().for_each(|reader| {
                if let Some(reader) = asker.share(flight.group, request.clone(), reader) {
                    reader.asking.attached(Err(Unavailable));
                }
            });
        }
        drop(self);
        asker.current.next_after(flight.group, &commands).await;
        asker.state.lock().queue.release(flight.group, from);
        asker.wake.notify_one();
    }
}

fn answered(head: &HeadMailbox, order: Order) -> Back {
    head.order(order);
    Back::default()
}

/// The answers, one each; where the whole call failed, or they are not as many, the same for all.
fn each<T>(
    answers: Result<Vec<Result<T, BackplaneError>>, BackplaneError>,
    count: usize,
) -> Vec<Result<T, BackplaneError>> {
    let error = match answers {
        Ok(answers) if answers.len() == count => return answers,
        Ok(answers) => BackplaneError::Unknown(format!("{} answers to {count} requests", answers.len())),
        Err(error) => error,
    };
    std::iter::repeat_with(|| Err(error.clone())).take(count).collect()
}
