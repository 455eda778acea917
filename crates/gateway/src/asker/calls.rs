//! One call to the backplane: asked of one master, for one slot group, and everybody who waits for it gets the answer.

use std::sync::Arc;

use backplane::{
    AttachRequest, BackplaneError, Commands, DetachRequest, HistoryError, HistoryRequest, ReadRequest, VerifyRequest,
};
use connection::{HistoryFault, Input, Listing, Unavailable};
use delivery::{Attached, Registration, Verified};
use protocol::{Cursor, DeviceId, MessageId, Text};

use super::line::{Class, Line};
use super::load::Flight;
use super::queue::Call;
use super::{Asker, Reader, Request, What, Who, detach_strangers};
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
                What::Attach(request, who) => attaches.push((request, who, tries)),
                What::Verify(request, who) => verifies.push((request, who, tries)),
                What::Read(request) => return self.read(request, readers).await,
                What::History(request, id, mailbox) => return self.history(request, id, mailbox, tries).await,
                What::Ack(of, device, cursor) => acks.push(((of, device, cursor), tries)),
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

    async fn attach(&self, mut list: Vec<(AttachRequest, Who, u32)>) -> Back {
        // A connection that ended while it waited here has been detached already: asking now would leave a ghost.
        list.retain(|(request, ..)| self.is_here(&request.of, &request.request.registration));
        let (requests, who): (Vec<_>, Vec<_>) = list.into_iter().map(|(r, who, tries)| (r, (who, tries))).unzip();
        if requests.is_empty() {
            return Back::default();
        }
        let answers = each(self.commands.attach(&requests).await, requests.len());
        let mut back = Back::default();
        for ((request, (who, tries)), answer) in requests.into_iter().zip(who).zip(answers) {
            if let Ok(Attached { registered, .. }) = &answer {
                detach_strangers(&self.asker, &request.of, registered);
                self.detach_ghost(&request.of, &request.request.registration);
            }
            match answer {
                Err(error) if self.may_again(&error, tries) => {
                    back.requests.push(self.again(What::Attach(request, who), tries));
                }
                answer => {
                    let result = answer.map(Some).map_err(|error| {
                        tracing::debug!(%error, "an attach was refused");
                        Unavailable
                    });
                    who.mailbox.answer(Input::Attached { of: who.of, result });
                }
            }
        }
        back
    }

    async fn verify(&self, mut list: Vec<(VerifyRequest, Who, u32)>) -> Back {
        // It would write the location of a connection that is not here.
        list.retain(|(request, ..)| self.is_here(&request.of, &request.registration));
        let (requests, who): (Vec<_>, Vec<_>) = list.into_iter().map(|(r, who, tries)| (r, (who, tries))).unzip();
        if requests.is_empty() {
            return Back::default();
        }
        let answers = each(self.commands.verify(&requests).await, requests.len());
        let mut back = Back::default();
        for ((request, (who, tries)), answer) in requests.into_iter().zip(who).zip(answers) {
            if let Ok(Verified { registered, .. }) = &answer {
                detach_strangers(&self.asker, &request.of, registered);
                self.detach_ghost(&request.of, &request.registration);
            }
            match answer {
                Err(error) if self.may_again(&error, tries) => {
                    back.requests.push(self.again(What::Verify(request, who), tries));
                }
                answer => {
                    let result = answer.map(|verified| verified.standing).map_err(|_| Unavailable);
                    who.mailbox.answer(Input::Verified { of: who.of, result });
                }
            }
        }
        back
    }

    async fn read(&self, request: ReadRequest, readers: Vec<Reader>) -> Back {
        let answer = self.commands.read(&request).await;
        let (mut back, mut told) = (Vec::new(), Vec::new());
        for reader in readers {
            match &answer {
                Err(error) if self.may_again(error, reader.tries) => {
                    back.push(Reader { tries: reader.tries + 1, ..reader });
                }
                _ => told.push(reader.who),
            }
        }
        // The entries of a page are shared: a clone is a list of handles.
        for Who { of, mailbox } in told {
            mailbox.answer(Input::Attached { of, result: answer.clone().map_err(|_| Unavailable) });
        }
        let readers = (!back.is_empty()).then_some((request, back));
        Back { readers, ..Back::default() }
    }

    async fn history(&self, request: HistoryRequest, id: MessageId, mailbox: Mailbox, tries: u32) -> Back {
        let result = match self.commands.history(&request).await {
            Ok((page, more)) => Ok(Listing { entries: page.entries.into_iter().rev().collect(), more }),
            Err(HistoryError::Before) => Err(HistoryFault::Before),
            Err(HistoryError::Backplane(error)) if self.may_again(&error, tries) => {
                return Back { requests: vec![self.again(What::History(request, id, mailbox), tries)], readers: None };
            }
            Err(HistoryError::Backplane(_)) => Err(HistoryFault::Unavailable),
        };
        mailbox.answer(Input::History { id, result });
        Back::default()
    }

    async fn ack(&self, list: Vec<((Text, DeviceId, Cursor), u32)>) -> Back {
        let (acks, tries): (Vec<_>, Vec<_>) = list.into_iter().unzip();
        let Err(error) = self.commands.ack(&acks).await else { return Back::default() };
        let again = acks.into_iter().zip(tries).filter(|(_, tries)| self.may_again(&error, *tries));
        let requests = again.map(|((of, device, cursor), tries)| self.again(What::Ack(of, device, cursor), tries));
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

    fn is_here(&self, of: &Text, registration: &Registration) -> bool {
        self.asker.registry.contains(of, registration.connection)
    }

    /// The connection ended while this was under way: no ghost stays.
    fn detach_ghost(&self, of: &Text, registration: &Registration) {
        if !self.is_here(of, registration) {
            let (connection, reg) = (registration.connection, registration.reg);
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
                    reader.who.attached_nothing();
                }
            });
        }
        drop(self);
        asker.current.next_after(flight.group, &commands).await;
        asker.state.lock().queue.release(flight.group, from);
        asker.wake.notify_one();
    }
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
