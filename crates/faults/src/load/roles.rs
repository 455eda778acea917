//! Who is in which group, and how: fixed by a recipient's number, so that a run with the same seed has the same members.

/// Groups of a run. Each has some ten members, some guests, and some who come and go.
pub(crate) const GROUPS: u32 = 8;

/// What somebody is to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A member from the beginning to the end.
    Member,
    /// Follows it for the life of a connection, and goes on with a cursor in the next one.
    Guest,
    /// Joins and leaves all the time, and is a member at the end, or is not.
    Mover { ends_inside: bool },
}

/// The groups of a recipient.
pub(crate) fn of(recipient: u32) -> Vec<(u32, Part)> {
    let (tens, group) = (recipient / 10, recipient / 10 % GROUPS);
    match recipient % 10 {
        0 => vec![(group, Part::Member), ((group + 1) % GROUPS, Part::Member)],
        4 | 7 => vec![(group, Part::Member)],
        // Slow ones: every second.
        5 if tens.is_multiple_of(2) => vec![(group, Part::Member)],
        1 | 3 => vec![(group, Part::Guest)],
        2 => vec![(group, Part::Mover { ends_inside: tens.is_multiple_of(2) })],
        _ => Vec::new(),
    }
}

/// Whether this device asks for it. A mover's second device joins and leaves, through whichever node it is at; the first
/// one only hears of it.
pub(crate) fn asks(part: Part, device: u32) -> bool {
    match part {
        Part::Member => device == 0,
        Part::Guest => true,
        Part::Mover { .. } => device == 1,
    }
}
