//! Who has received and read a message. Nothing is kept with a message for it: a device has it if its place is at or behind
//! the message's, a user has read it if his read mark is.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use backplane::{Commands, Groups, Marks, Memberships};
use connection::{Answer, Receipts, SendFault};
use delivery::Sender;
use delivery::fields::{self, Field};
use protocol::limits::NAMED_MEMBERS_MAX;
use protocol::{Address, Cursor, Text, UserId};

use super::{asked, bad_request, forbidden, unavailable};
use crate::node::Node;

/// Places that are read in one call.
const FIELDS_A_CALL: usize = 1_000;

/// Users whose membership is asked in one call.
const USERS_A_CALL: usize = 1_000;

pub(super) async fn receipts(node: &Node, reference: &str, asker: &UserId) -> Result<Answer, SendFault> {
    let no_ref = || bad_request("`ref`: expected what `sent` said of a message to a user or a group");
    let (at, record) = Cursor::from_ref(reference).ok_or_else(no_ref)?;
    let address = Address::parse(record).map_err(|_| no_ref())?;
    let record = Text::from(record);
    if !is_senders(node, &record, at, asker).await? {
        return Ok(Answer::Receipts(Receipts { is_expired: true, ..Receipts::default() }));
    }
    let receipts = match &address {
        Address::User(user) => of_user(node, &record, at, user, asker).await?,
        Address::Group(_) => of_group(node, &record, at, asker).await?,
        _ => return Err(no_ref()),
    };
    Ok(Answer::Receipts(receipts))
}

/// False: the message is not kept any more, so nobody can tell.
async fn is_senders(node: &Node, record: &Text, at: Cursor, asker: &UserId) -> Result<bool, SendFault> {
    let asking = |commands: Commands| async move { Marks::sender(&*commands, record, at).await };
    match asked(&node.current, record, asking).await? {
        Sender::Expired => Ok(false),
        Sender::NoPlace => Err(bad_request("`ref`: no message has or had this name")),
        Sender::From(address) => match Address::parse(&address) {
            Ok(Address::User(user) | Address::Device(user, _)) if user == *asker => Ok(true),
            _ => Err(forbidden("receipts are for the sender of a message only")),
        },
    }
}

/// A device's place or a read mark that is at or behind the message.
fn has(place: &Cursor, at: Cursor) -> bool {
    place.epoch == at.epoch && place.seq >= at.seq
}

async fn of_user(node: &Node, record: &Text, at: Cursor, user: &UserId, asker: &UserId) -> Result<Receipts, SendFault> {
    let (mut devices, mut is_read) = (BTreeSet::new(), false);
    each_field(node, record, |field, place| {
        if !has(&place, at) {
            return;
        }
        match field {
            Field::Device { user: None, device } => drop(devices.insert(device.to_owned())),
            // He read everything up to there, or the conversation with the sender.
            Field::Read(None) => is_read = true,
            Field::Read(Some(with)) => is_read |= with == asker.as_str(),
            _ => {}
        }
    })
    .await?;
    let name = Text::from(user.as_str());
    let delivered = if devices.is_empty() { Vec::new() } else { vec![(name.clone(), texts(devices))] };
    Ok(Receipts { delivered, read: is_read.then_some(name).into_iter().collect(), ..Receipts::default() })
}

/// Of the members who were members when it was sent, without the sender.
async fn of_group(node: &Node, record: &Text, at: Cursor, asker: &UserId) -> Result<Receipts, SendFault> {
    let members = memberships(node, record, std::slice::from_ref(asker)).await?.members;
    let (mut delivered, mut read) = (BTreeMap::<String, BTreeSet<String>>::new(), BTreeSet::<String>::new());
    each_field(node, record, |field, place| {
        if !has(&place, at) {
            return;
        }
        match field {
            Field::Device { user: Some(user), device } if user != asker.as_str() => {
                delivered.entry(user.to_owned()).or_default().insert(device.to_owned());
            }
            Field::Read(Some(user)) if user != asker.as_str() => drop(read.insert(user.to_owned())),
            _ => {}
        }
    })
    .await?;
    let named: HashSet<&String> = delivered.keys().chain(&read).collect();
    let there = were_members(node, record, at, named).await?;
    delivered.retain(|user, _| there.contains(user));
    read.retain(|user| there.contains(user));
    if members > NAMED_MEMBERS_MAX {
        let counts = Some((delivered.len() as u64, read.len() as u64));
        return Ok(Receipts { counts, ..Receipts::default() });
    }
    let delivered = delivered.into_iter().map(|(user, devices)| (Text::from(user), texts(devices))).collect();
    Ok(Receipts { delivered, read: texts(read), ..Receipts::default() })
}

fn texts(names: BTreeSet<String>) -> Vec<Text> {
    names.into_iter().map(Text::from).collect()
}

/// Which of these are members, and joined before the message was stored: whoever joined later may stand behind it without
/// having had it. Joins and messages are numbered by the same clock.
async fn were_members(
    node: &Node,
    record: &Text,
    at: Cursor,
    users: HashSet<&String>,
) -> Result<HashSet<String>, SendFault> {
    let users: Vec<UserId> = users.into_iter().filter_map(|user| UserId::parse(user).ok()).collect();
    let mut there = HashSet::new();
    for some in users.chunks(USERS_A_CALL) {
        let joined = memberships(node, record, some).await?.joined;
        let is_one = |joined: &Option<u64>| joined.is_some_and(|joined| joined <= at.stamp.0);
        there.extend(some.iter().zip(joined).filter(|(_, joined)| is_one(joined)).map(|(user, _)| user.to_string()));
    }
    Ok(there)
}

pub(super) async fn memberships(node: &Node, record: &Text, users: &[UserId]) -> Result<Memberships, SendFault> {
    let asking = |commands: Commands| async move { Groups::memberships(&*commands, record, users).await };
    asked(&node.current, record, asking).await
}

/// Goes through all places that a record keeps.
async fn each_field(node: &Node, record: &Text, mut take: impl FnMut(Field<'_>, Cursor)) -> Result<(), SendFault> {
    let mut from = 0;
    // A hash that grows all the time would never be over.
    for _ in 0..PAGES_MAX {
        let page = {
            let _turn = node.questions.scan().await;
            let asking =
                |commands: Commands| async move { Marks::fields(&*commands, record, from, FIELDS_A_CALL).await };
            asked(&node.current, record, asking).await?
        };
        page.fields.iter().for_each(|(field, place)| take(fields::parse(field), *place));
        from = page.next;
        if from == 0 {
            return Ok(());
        }
    }
    Err(unavailable())
}

/// Pages of one record: as many devices and read marks as the largest group can have, and more.
const PAGES_MAX: usize = 2_000;
