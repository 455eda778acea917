//! Who is watched, and what the client was told of each.

use std::collections::BTreeMap;

use delivery::sabotage::{self, Rule};
use protocol::client::{Named, ServerFrame};
use protocol::limits::WATCHED_MAX;
use protocol::{MessageId, UnixMillis, UserId};

use crate::asking::{People, Question, Whom};
use crate::connection::{Connection, Phase};

/// What was heard of one who is watched.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    version: u64,
    /// Whether he is there, and since when: not told yet, because the client does not take it.
    untold: Option<(bool, UnixMillis)>,
}

impl Connection {
    pub(crate) fn on_watch(&mut self, id: MessageId, whom: Named) {
        if let Some(whom) = self.whom(&id, whom) {
            self.ask(id, Question::Watch(whom));
        }
    }

    pub(crate) fn on_unwatch(&mut self, id: MessageId, whom: Named) {
        let Phase::Open(session) = &mut self.phase else { return };
        let whom = match whom {
            Named::Users(users) => {
                for user in &users {
                    session.busy().heard.remove(user);
                }
                Whom::Users { users, shared: None }
            }
            Named::Group(group) => Whom::Group(group),
        };
        self.ask(id, Question::Unwatch(whom));
    }

    /// Somebody who is watched came or went. Versions only grow, so what does not grow is old.
    pub(crate) fn on_presence(&mut self, user: UserId, version: u64, is_online: bool, at: UnixMillis) {
        let Phase::Open(session) = &mut self.phase else { return };
        let heard = &mut session.busy.get_or_insert_default().heard;
        let known = heard.get(&user).copied();
        if known.is_some_and(|heard| heard.version >= version) || sabotage::is_off(Rule::PresenceWrong) {
            return;
        }
        if known.is_none() && heard.len() >= WATCHED_MAX {
            // More than can be watched: there are some among them who are not any more.
            heard.retain(|_, heard| heard.untold.is_some());
        }
        // A client that does not read is told the last of each when it does.
        let untold = self.outbox.is_full().then_some((is_online, at));
        session.is_paused |= untold.is_some();
        if untold.is_none() {
            self.outbox.push(&ServerFrame::PresenceChange { user: user.as_str(), is_online, version, at });
            if sabotage::is_off_now(Rule::PresenceBack) {
                let version = version.saturating_sub(1);
                self.outbox.push(&ServerFrame::PresenceChange { user: user.as_str(), is_online, version, at });
            }
        }
        heard.insert(user, Heard { version, untold });
    }

    /// The client takes frames again.
    pub(crate) fn tell_presence(&mut self) {
        let Phase::Open(session) = &mut self.phase else { return };
        let Some(busy) = &mut session.busy else { return };
        for (user, heard) in &mut busy.heard {
            if let Some((is_online, at)) = heard.untold.take() {
                let (user, version) = (user.as_str(), heard.version);
                self.outbox.push(&ServerFrame::PresenceChange { user, is_online, version, at });
            }
        }
    }
}

/// What the client is told of those whom it watches now.
pub(crate) fn remember(heard: &mut BTreeMap<UserId, Heard>, people: &People) {
    let People::Each(people) = people else { return };
    for person in people {
        let of_him = heard.entry(person.user.clone()).or_default();
        of_him.version = person.presence.version.max(of_him.version);
    }
}
