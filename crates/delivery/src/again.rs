//! What is asked again of a master that may have lost it, and in which order. Pure: the shell asks.
//!
//! Messages and membership changes of one record keep their order: whoever joined between two messages is to get the
//! second one, and not the first. Rule: docs/delivery.md, Promises.

use std::collections::HashMap;

use protocol::{GroupId, Text, UserId};

use crate::window::{Acknowledged, Answered};

/// Something that this node answered for, as its window keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    Message(Acknowledged),
    Member(Membership),
    Set(InSet),
}

/// A change of a group's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The group's record.
    pub record: Text,
    pub user: UserId,
    pub is_join: bool,
    /// Its number.
    pub mseq: u64,
}

/// A group in the set of a user's groups, or out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InSet {
    pub user: UserId,
    pub group: GroupId,
    pub is_in: bool,
}

impl Answered for Promise {
    fn weight(&self) -> usize {
        match self {
            Self::Message(message) => message.weight(),
            Self::Member(change) => change.record.len() + change.user.as_str().len() + 160,
            Self::Set(set) => set.user.as_str().len() + set.group.as_str().len() + 160,
        }
    }
}

/// Everything to be asked again: the names in users' sets, which only say where to look, then one round after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Again {
    /// Names to be put in. What was taken out is not taken out again: a set has no numbers, and the user may have joined
    /// by another node since. A name too many is found by the next attach; a member whom his set does not name, by nobody.
    pub sets: Vec<InSet>,
    pub rounds: Vec<Round>,
}

/// Its messages come before its changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    pub messages: Vec<Acknowledged>,
    pub changes: Vec<Membership>,
}

impl Again {
    /// Of what is kept, oldest first. Of one user in one group only the newest change is asked: an older one would get a
    /// newer number than it. There are as many rounds as messages and changes alternate in one record.
    pub fn of<'a>(kept: impl Iterator<Item = &'a Promise> + Clone) -> Self {
        let (mut changed, mut set) = (HashMap::new(), HashMap::new());
        for (index, promise) in kept.clone().enumerate() {
            match promise {
                Promise::Message(_) => {}
                Promise::Member(change) => drop(changed.insert((&change.record, &change.user), index)),
                Promise::Set(one) => drop(set.insert((&one.user, &one.group), index)),
            }
        }
        let mut again = Self::default();
        // Of each record: how often messages gave way to changes, or changes to messages.
        let mut turns: HashMap<&Text, usize> = HashMap::new();
        for (index, promise) in kept.enumerate() {
            match promise {
                Promise::Message(message) => {
                    let turn = turns.entry(&message.record).or_default();
                    *turn += *turn % 2;
                    again.round(*turn / 2).messages.push(message.clone());
                }
                Promise::Member(change) if changed.get(&(&change.record, &change.user)) == Some(&index) => {
                    let turn = turns.entry(&change.record).or_default();
                    *turn += 1 - *turn % 2;
                    again.round(*turn / 2).changes.push(change.clone());
                }
                Promise::Set(one) if one.is_in && set.get(&(&one.user, &one.group)) == Some(&index) => {
                    again.sets.push(one.clone());
                }
                Promise::Member(_) | Promise::Set(_) => {}
            }
        }
        again
    }

    fn round(&mut self, index: usize) -> &mut Round {
        if self.rounds.len() <= index {
            self.rounds.resize_with(index + 1, Round::default);
        }
        &mut self.rounds[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Kind, NewMessage};
    use bytes::Bytes;
    use protocol::{Cursor, Tag};

    fn message(record: &str, n: u64) -> Promise {
        let message = NewMessage { kind: Kind::Durable, tag: Tag(n), envelope: Bytes::new(), search_us: None };
        Promise::Message(Acknowledged { record: record.into(), message, cursor: Cursor::default(), first_us: 0 })
    }

    fn change(record: &str, user: &str, mseq: u64, is_join: bool) -> Promise {
        Promise::Member(Membership { record: record.into(), user: UserId::parse(user).unwrap(), is_join, mseq })
    }

    fn set(group: &str, is_in: bool) -> Promise {
        let (user, group) = (UserId::parse("bob").unwrap(), GroupId::parse(group).unwrap());
        Promise::Set(InSet { user, group, is_in })
    }

    fn rounds(kept: &[Promise]) -> Vec<(Vec<u64>, Vec<u64>)> {
        let numbers = |round: &Round| {
            let messages = round.messages.iter().map(|message| message.message.tag.0);
            (messages.collect(), round.changes.iter().map(|change| change.mseq).collect())
        };
        Again::of(kept.iter()).rounds.iter().map(numbers).collect()
    }

    #[test]
    fn messages_and_changes_of_one_group_keep_their_order_and_other_groups_do_not_wait() {
        let den = |n| message("group:den", n);
        let kept = [den(1), change("group:den", "bob", 2, true), den(3), message("group:x", 4), den(5)];
        assert_eq!(rounds(&kept), [(vec![1, 4], vec![2]), (vec![3, 5], vec![])]);
        let late = [change("group:den", "bob", 1, true), message("group:x", 2), change("group:x", "bob", 3, true)];
        assert_eq!(rounds(&late), [(vec![2], vec![1, 3])]);
        assert_eq!(rounds(&[]), []);
    }

    /// A join that is asked again gets a new number: the leave behind it, with its old one, would be taken for the older.
    #[test]
    fn of_one_user_only_the_newest_change_is_asked_again() {
        let kept = [
            change("group:den", "bob", 1, true),
            change("group:den", "eve", 2, true),
            change("group:den", "bob", 3, false),
        ];
        assert_eq!(rounds(&kept), [(vec![], vec![2, 3])]);
    }

    /// Who left here may have joined again by another node: taken out of his set once more he was a member who did not know.
    #[test]
    fn a_name_is_put_in_again_and_none_is_taken_out_again() {
        let sets = [set("den", true), set("x", true), set("den", false), set("y", false), set("y", true)];
        let again = Again::of(sets.iter());
        let asked: Vec<_> = again.sets.iter().map(|one| (one.group.as_str(), one.is_in)).collect();
        assert_eq!(asked, [("x", true), ("y", true)]);
    }
}
