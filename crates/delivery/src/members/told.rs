//! What one call says of the groups that it changed.

use protocol::{Change, Notice, Text};

use super::{ChangeRequest, Changed, Op};

/// All that one call changed in one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub of: Text,
    /// The number of the last change.
    pub version: u64,
    pub notice: Notice,
}

/// One notice a group, in the order in which they were asked.
pub fn told<'a>(done: impl IntoIterator<Item = (&'a ChangeRequest, Changed)>) -> Vec<Told> {
    let mut list: Vec<Told> = Vec::new();
    for (request, changed) in done {
        let Changed::Done { mseq, before, members } = changed else { continue };
        let change = Change { mseq, user: request.user.clone(), is_join: request.op == Op::Join };
        let told = list.iter_mut().find(|told| told.of == request.of);
        if let Some(Told { version, notice: Notice::Members { count, changes, .. }, .. }) = told {
            (*version, *count) = (mseq, members);
            changes.push(change);
        } else {
            let notice = Notice::Members { before, count: members, changes: vec![change] };
            list.push(Told { of: request.of.clone(), version: mseq, notice });
        }
    }
    list
}
