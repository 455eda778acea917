//! Answers to questions, as frames.

use protocol::client::{MembersFrame, OnlineFrame, PersonFrame, ReceiptsFrame, ServerFrame};

use crate::asking::{Answer, People, Person};
use crate::outbox::Outbox;

/// Queues the frame that answers a question.
pub(crate) fn push(outbox: &mut Outbox, id: &str, answer: &Answer) {
    let frame = match answer {
        Answer::Counts { total, unread, by } => {
            // A user is named by his ID; whoever else sends, by his address.
            let by = by.iter().map(|(from, n)| (from.strip_prefix("user:").unwrap_or(from), *n)).collect();
            ServerFrame::Counts { id, total: *total, unread: *unread, by }
        }
        Answer::Receipts(receipts) => ServerFrame::Receipts(ReceiptsFrame {
            id,
            delivered: &receipts.delivered,
            read: &receipts.read,
            counts: receipts.counts,
            is_expired: receipts.is_expired,
        }),
        Answer::Presence(people) => ServerFrame::Presence { id, online: online(people) },
        Answer::Watching(people) => ServerFrame::Ok { id, cursor: None, online: Some(online(people)) },
        Answer::Unwatched => ServerFrame::Ok { id, cursor: None, online: None },
        Answer::Members { members, total, next } => ServerFrame::Members(MembersFrame {
            id,
            members: members.iter().map(|member| (member.user.as_str(), member.profile.as_deref())).collect(),
            total: *total,
            after: next.as_deref(),
        }),
    };
    outbox.push(&frame);
}

fn online(people: &People) -> OnlineFrame<'_> {
    match people {
        People::Count { online, members } => OnlineFrame::Count { online: *online, members: *members },
        People::Each(people) => OnlineFrame::Each(people.iter().map(person).collect()),
    }
}

fn person(Person { user, presence }: &Person) -> PersonFrame<'_> {
    PersonFrame {
        user: user.as_str(),
        version: presence.version,
        is_online: presence.is_online,
        at: presence.at,
        devices: &presence.devices,
        profile: presence.profile.as_deref(),
    }
}
