//! Changes of members while a slot is on its way: refused at once, done once when it has arrived.

use std::time::Duration;

use backplane::{BackplaneError, ChangeResult, Changed, MarkRequest, Op, RegroupRequest};
use protocol::{Cursor, GroupId, Text};
use routing::SlotGroup;
use tokio::time::Instant;

use super::moving::{Phase, Way};
use super::{LATER, Member, start, topology};
use crate::groups::{change_all, request, user};

/// A group whose record is in this slot group.
pub(super) fn group_in(group: u16) -> String {
    let topology = topology();
    (0..).map(|n| format!("group:g{n}")).find(|of| topology.group(of) == SlotGroup(group)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_in_a_slot_that_moves_is_refused_at_once_and_done_once_when_it_has_arrived() {
    let cluster = start().await;
    let mut a = Member::start(cluster.url(), "a").await;
    let phases =
        [Phase::Before, Phase::Migrating, Phase::MetaMoved, Phase::RecordMoved, Phase::AllMoved, Phase::Finished];
    for (n, phase) in (0..).zip(phases) {
        let of = group_in(n);
        let known = change_all(a.of(&of), &[request(&of, "ann", Op::Join, None)]).await.remove(0).unwrap();
        let Changed::Done { mseq: known, .. } = known else { panic!("{known:?}") };
        let mut way = Way::new(&cluster, &of);
        way.enter(phase);
        let commands = a.of(&of).commands.clone();
        let begun = Instant::now();
        let answer = commands.change(LATER, &[request(&of, "bob", Op::Join, None)]).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{phase:?}: answered after {:?}", begun.elapsed());
        let is_done = match &answer {
            Ok(ChangeResult::Answered(answers)) => answers[0].is_ok(),
            Err(BackplaneError::NotRun(_) | BackplaneError::Elsewhere(_)) => false,
            other => panic!("{phase:?}: {other:?}"),
        };
        assert_eq!(is_done, phase == Phase::Before, "{phase:?}: {answer:?}");
        way.finish(phase);
        a.open_all(Duration::from_secs(20)).await;
        let bob = change_all(a.of(&of), &[request(&of, "bob", Op::Join, None)]).await.remove(0).unwrap();
        assert_eq!(matches!(bob, Changed::Already { .. }), is_done, "{phase:?}: {bob:?}");
        let list = a.of(&of).commands.changes(&Text::from(&*of), known).await.unwrap().list.unwrap();
        assert_eq!(list.len(), 1, "{phase:?}: {list:?}");
    }
}

/// The other calls have no way of their own through a move, either: nobody is told anything that is not so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_a_group_in_a_slot_that_moves_is_right_or_refused() {
    let cluster = start().await;
    let a = Member::start(cluster.url(), "a").await;
    let of = group_in(3);
    change_all(a.of(&of), &[request(&of, "ann", Op::Join, None)]).await.remove(0).unwrap();
    let mut way = Way::new(&cluster, &of);
    way.enter(Phase::MetaMoved);
    let (commands, of) = (a.of(&of).commands.clone(), Text::from(&*of));
    let begun = Instant::now();
    assert!(matches!(commands.changes(&of, 0).await, Err(BackplaneError::NotRun(_))));
    assert!(matches!(commands.memberships(&of, &[user("ann")]).await, Err(BackplaneError::NotRun(_))));
    // One key, which is here still.
    assert_eq!(commands.members(&of, 0, 10).await.unwrap().users, [user("ann")]);
    let mark = MarkRequest { of: of.clone(), field: "/r/ann".into(), cursor: Cursor::default() };
    assert!(matches!(commands.mark(&[mark]).await, Err(BackplaneError::NotRun(_))));
    assert!(matches!(commands.sender(&of, Cursor::default()).await, Err(BackplaneError::NotRun(_))));
    assert!(begun.elapsed() < Duration::from_secs(1), "at once");
    way.finish(Phase::MetaMoved);
    // A user's set is of his own slot.
    let put = RegroupRequest { user: user("ann"), group: GroupId::parse("g").unwrap(), is_in: true };
    let his = "user:ann";
    let regrouped = a.of(his).commands.regroup(LATER, &[put]).await;
    assert!(matches!(regrouped, Ok(_) | Err(BackplaneError::Elsewhere(_))), "{regrouped:?}");
}
