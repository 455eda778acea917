//! Who is watched. A watch ends with its connection, so the next one begins it again.

use std::collections::BTreeSet;

use crate::requests::Whom;

#[derive(Debug, Default)]
pub(super) struct Watches {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl Watches {
    pub(super) fn add(&mut self, whom: &Whom) {
        match whom {
            Whom::Users(users) => self.users.extend(users.iter().cloned()),
            Whom::Group(group) => self.groups.extend([group.clone()]),
        }
    }

    pub(super) fn remove(&mut self, whom: &Whom) {
        match whom {
            Whom::Users(users) => self.users.retain(|user| !users.contains(user)),
            Whom::Group(group) => self.groups.retain(|watched| watched != group),
        }
    }

    /// Everything, in as few requests as it takes: a server takes all users that it lets one connection watch at once.
    pub(super) fn all(&self) -> Vec<Whom> {
        let users = (!self.users.is_empty()).then(|| Whom::Users(self.users.iter().cloned().collect()));
        users.into_iter().chain(self.groups.iter().cloned().map(Whom::Group)).collect()
    }
}
