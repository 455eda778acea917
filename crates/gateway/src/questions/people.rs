//! How users are, who is in a group, and watching them.

use std::collections::{HashMap, HashSet};

use backplane::api::record_of;
use backplane::{Commands, Groups, Presence};
use connection::{Answer, InCommon, Input, Member, People, Person, SendFault, Whom};
use delivery::PresenceOf;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use protocol::limits::{NAMED_MEMBERS_MAX, WATCHED_MAX};
use protocol::{Address, ConnectionId, GroupId, MessageId, Text, UserId};

use super::receipts::memberships;
use super::{asked, bad_request, forbidden, overloaded, unavailable, user_record};
use crate::door::MembersPage;
use crate::node::Node;
use crate::watches::{Refusal, WATCH_MS};

/// Users of one call, and calls in flight for one question.
const USERS_A_CALL: usize = 100;
const CALLS: usize = 8;

/// Members of one call.
const MEMBERS_A_CALL: usize = 1_000;

/// How those are who are asked about.
pub(super) async fn people(node: &Node, asker: &UserId, whom: &Whom) -> Result<People, SendFault> {
    match whom {
        Whom::Users { users, shared } => {
            let users = distinct(users);
            may_look(node, asker, shared.as_ref()).await?;
            Ok(People::Each(presence_of(node, &users, None).await?))
        }
        Whom::Group(group) => match members_of(node, group).await? {
            Named::Each(users) => Ok(People::Each(presence_of(node, &users, None).await?)),
            Named::Many(members) => {
                let record = group_record(group);
                let asking = |commands: Commands| {
                    let record = &record;
                    async move { Presence::audience(&*commands, record).await }
                };
                Ok(People::Count { online: asked(&node.current, &record, asking).await?, members })
            }
        },
    }
}

/// The connection is told how they are, and from then on of every change. Of a group: its members of this moment.
pub(super) async fn watch(
    node: &Node,
    connection: ConnectionId,
    asker: &UserId,
    whom: &Whom,
    id: &MessageId,
) -> Result<(), SendFault> {
    let (users, of) = match whom {
        Whom::Users { users, shared } => {
            let users = distinct(users);
            may_look(node, asker, shared.as_ref()).await?;
            (users, None)
        }
        Whom::Group(group) => match members_of(node, group).await? {
            Named::Each(users) => (users, Some(group)),
            Named::Many(members) => {
                return Err(bad_request(format!(
                    "`group`: it has {members} members, and a group is watched up to {NAMED_MEMBERS_MAX}: watch some of \
                     its members by `users`"
                )));
            }
        },
    };
    let new = match node.watches.begin(connection, &users, of) {
        Ok(new) => new,
        Err(Refusal::Connection) => {
            return Err(bad_request(format!("a connection watches at most {WATCHED_MAX} users: unwatch others first")));
        }
        Err(Refusal::Node) => return Err(overloaded("this node watches as many users as it may")),
        // Nobody is told.
        Err(Refusal::Gone) => return Ok(()),
    };
    match presence_of(node, &users, Some(WATCH_MS)).await {
        Ok(people) => {
            let answer = Answer::Watching(People::Each(people.clone()));
            node.watches.tell(connection, &people, Input::Answered { id: id.clone(), result: Ok(answer) });
            Ok(())
        }
        Err(fault) => {
            node.watches.take_back(connection, &new);
            Err(fault)
        }
    }
}

/// A part of a group's members, with their profiles.
pub(super) async fn members(
    node: &Node,
    group: &GroupId,
    after: Option<&str>,
    limit: u64,
) -> Result<Answer, SendFault> {
    let page = part_of(node, group, after, limit).await?;
    Ok(Answer::Members { members: page.members, total: page.total, next: page.next })
}

/// The same for the server API.
pub(crate) async fn page_of(
    node: &Node,
    group: &GroupId,
    after: Option<&str>,
    limit: u64,
) -> Result<MembersPage, SendFault> {
    let _turn = node.questions.turn().await;
    part_of(node, group, after, limit).await
}

/// How users are, for the server API.
pub(crate) async fn persons(node: &Node, users: &[UserId]) -> Result<Vec<Person>, SendFault> {
    let _turn = node.questions.turn().await;
    presence_of(node, &distinct(users), None).await
}

/// How many members a group has.
pub(crate) async fn count_members(node: &Node, group: &GroupId) -> Result<u64, SendFault> {
    Ok(memberships(node, &group_record(group), &[]).await?.members)
}

async fn part_of(node: &Node, group: &GroupId, after: Option<&str>, limit: u64) -> Result<MembersPage, SendFault> {
    let from = match after {
        None => Place::default(),
        Some(text) => Place::parse(text)
            .ok_or_else(|| bad_request("`after`: expected the `next` of an answer about members of this group"))?,
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).clamp(1, MEMBERS_A_CALL);
    let mut place = from;
    let (mut users, mut total) = (Vec::<UserId>::new(), 0);
    let next = loop {
        let page = members_page(node, group, place.page, limit).await?;
        total = page.members.max(total);
        // A page is read again for what is left of it, and it may have become shorter.
        let rest = page.users.get(place.skip..).unwrap_or_default();
        let room = limit - users.len();
        users.extend(rest.iter().take(room).cloned());
        if rest.len() > room {
            break Some(Place { page: place.page, skip: place.skip + room });
        }
        place = Place { page: page.next, skip: 0 };
        if place.page == 0 {
            break None;
        }
        if users.len() == limit {
            break Some(place);
        }
    };
    let users = distinct(&users);
    let people = presence_of(node, &users, None).await?;
    let members = people.into_iter().map(|Person { user, presence }| Member { user, profile: presence.profile });
    Ok(MembersPage { members: members.collect(), total, next: next.map(Place::show) })
}

/// Where the next part of a member list begins: a page of the backplane, and how many of it were told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    page: u64,
    skip: usize,
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let (page, skip) = text.split_once('-')?;
        let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_plain(page) || !is_plain(skip) {
            return None;
        }
        Some(Self { page: page.parse().ok()?, skip: skip.parse().ok()? })
    }

    fn show(self) -> Text {
        Text::from(format!("{}-{}", self.page, self.skip))
    }
}

/// Who is meant by a group.
enum Named {
    Each(Vec<UserId>),
    /// Too many to be named.
    Many(u64),
}

/// All members, or how many where they are too many. A group without a record has none.
async fn members_of(node: &Node, group: &GroupId) -> Result<Named, SendFault> {
    let (mut users, mut page) = (HashSet::new(), 0);
    // A hash that grows all the time would never be over.
    for _ in 0..NAMED_MEMBERS_MAX {
        let part = members_page(node, group, page, MEMBERS_A_CALL).await?;
        if part.members > NAMED_MEMBERS_MAX {
            return Ok(Named::Many(part.members));
        }
        users.extend(part.users);
        page = part.next;
        if page == 0 {
            // Some may have left while others came.
            let mut users: Vec<_> = users.into_iter().collect();
            users.sort_unstable();
            users.truncate(MEMBERS_A_CALL);
            return Ok(Named::Each(users));
        }
    }
    Err(unavailable())
}

async fn members_page(
    node: &Node,
    group: &GroupId,
    from: u64,
    count: usize,
) -> Result<backplane::MembersPage, SendFault> {
    let _turn = node.questions.scan().await;
    let record = group_record(group);
    let asking = |commands: Commands| {
        let record = &record;
        async move { Groups::members(&*commands, record, from, count).await }
    };
    asked(&node.current, &record, asking).await
}

/// Whoever may only look at people that share a group with him is told that all do, or nothing.
async fn may_look(node: &Node, asker: &UserId, shared: Option<&InCommon>) -> Result<(), SendFault> {
    let Some(InCommon { users, groups }) = shared else { return Ok(()) };
    let mut left: Vec<UserId> = users.iter().filter(|user| *user != asker).cloned().collect();
    for group in groups {
        if left.is_empty() {
            break;
        }
        let joined = memberships(node, &group_record(group), &left).await?.joined;
        let mut joined = joined.into_iter();
        left.retain(|_| joined.next().flatten().is_none());
    }
    // Nobody is named: who is in which group would show.
    if left.is_empty() { Ok(()) } else { Err(forbidden("you may look at users who share a group with you only")) }
}

/// How users are, in their order.
async fn presence_of(node: &Node, users: &[UserId], watch_ms: Option<u64>) -> Result<Vec<Person>, SendFault> {
    let mut by_group: HashMap<_, Vec<UserId>> = HashMap::new();
    for user in users {
        by_group.entry(node.current.group(&user_record(user))).or_default().push(user.clone());
    }
    let calls: Vec<Vec<UserId>> = by_group
        .into_values()
        .flat_map(|users| users.chunks(USERS_A_CALL).map(<[_]>::to_vec).collect::<Vec<_>>())
        .collect();
    let answers = stream::iter(calls).map(|users| async move {
        let Some(first) = users.first() else { return Ok(Vec::new()) };
        let asking = |commands: Commands| {
            let users = &users;
            async move { Presence::presence(&*commands, users, watch_ms).await }
        };
        let answers = asked(&node.current, &user_record(first), asking).await?;
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>().map_err(|_| unavailable())?;
        Ok::<_, SendFault>(users.into_iter().zip(answers).collect::<Vec<_>>())
    });
    let mut of: HashMap<UserId, PresenceOf> = answers
        .buffer_unordered(CALLS)
        .try_fold(HashMap::new(), |mut all, some| async move {
            all.extend(some);
            Ok(all)
        })
        .await?;
    let person = |user: &UserId| Person { user: user.clone(), presence: of.remove(user).unwrap_or_default() };
    Ok(users.iter().map(person).collect())
}

/// Each once, in their order.
fn distinct(users: &[UserId]) -> Vec<UserId> {
    let mut seen = HashSet::new();
    users.iter().filter(|user| seen.insert(*user)).cloned().collect()
}

fn group_record(group: &GroupId) -> Text {
    record_of(&Address::Group(group.clone()))
}
