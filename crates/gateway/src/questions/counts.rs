//! How many messages a stream has, by sender, and how many are unread.

use std::collections::BTreeMap;

use backplane::api::record_of;
use backplane::{Commands, CountRequest, Marks};
use connection::{Answer, SendFault};
use delivery::fields;
use protocol::{Address, Text, UserId};

use super::receipts::memberships;
use super::{asked, user_record};
use crate::node::Node;

/// Counts a stream part by part. What is stored meanwhile may be in it or not.
pub(super) async fn counts(
    node: &Node,
    of: &Address,
    with: Option<&UserId>,
    user: &UserId,
) -> Result<Answer, SendFault> {
    let record = record_of(of);
    let reader = user_record(user);
    let mut request = CountRequest {
        of: record.clone(),
        after: None,
        between: with.map(|with| (reader.clone(), user_record(with))),
        since: 0,
        mark: mark_field(of, with, user),
        reader,
    };
    if matches!(of, Address::Group(_)) {
        // A member counts what is for him.
        let joined = memberships(node, &record, std::slice::from_ref(user)).await?.joined;
        request.since = joined.first().copied().flatten().unwrap_or(0);
    }
    let (mut total, mut unread, mut by) = (0, 0, BTreeMap::<String, u64>::new());
    for _ in 0..node.questions.parts_max {
        let part = {
            let _turn = node.questions.scan().await;
            let asking = |commands: Commands| {
                let request = &request;
                async move { Marks::count(&*commands, request).await }
            };
            asked(&node.current, &record, asking).await?
        };
        unread += part.unread;
        for (sender, count) in part.by {
            total += count;
            *by.entry(whose(&sender)).or_default() += count;
        }
        request.after = part.next;
        if request.after.is_none() {
            break;
        }
    }
    let by = by.into_iter().map(|(sender, count)| (Text::from(sender), count)).collect();
    Ok(Answer::Counts { total, unread, by })
}

/// Where it is kept up to where a user has read a stream.
pub(crate) fn mark_field(of: &Address, with: Option<&UserId>, user: &UserId) -> Text {
    match of {
        Address::User(_) | Address::Device(..) => fields::read(with),
        _ => fields::read_by(user),
    }
}

/// The address of a sender: a device sends for its user.
fn whose(address: &str) -> String {
    Address::parse(address).map_or_else(|_| address.to_owned(), |address| address.record().to_string())
}
