//! Sets that take too long, and sets that were decided long ago.

use std::time::Duration;

use lunar_metadata::seams::block_on;
use lunar_metadata::service::Step;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;

use crate::sets::Two;
use crate::world::kind;

impl Two {
    /// Time passes, and the service looks.
    fn after(&self, seconds: u64) -> Step {
        self.world.clock.advance(Duration::from_secs(seconds));
        block_on(self.world.service.step_operations()).expect("a step")
    }
}

#[test]
fn a_set_that_is_not_gathered_in_time_is_aborted() {
    let case = Two::new();
    let set = case.open();
    case.world.ready(set, &case.a).expect("taken down");
    assert_eq!(case.after(0), Step::Idle);
    assert_eq!(case.after(29), Step::Idle);
    assert_eq!(case.world.set(set).state, SetState::Gathering);
    assert_eq!(case.after(1), Step::Worked);
    case.assert_aborted(set, "gathering-timeout");
    assert_eq!(case.after(60), Step::Idle);
}

#[test]
fn a_set_that_does_not_pause_in_time_is_aborted_and_a_late_vote_hears_it() {
    let case = Two::new();
    let set = case.open();
    assert_eq!(case.after(20), Step::Idle);
    case.world.ready(set, &case.a).expect("taken down");
    case.world.ready(set, &case.b).expect("taken down");
    assert_eq!(case.vote(set, &case.a), Vote::Waiting);
    assert_eq!(case.after(14), Step::Idle, "its time begins when it is seen Pausing");
    assert_eq!(case.after(14), Step::Idle);
    assert_eq!(case.after(1), Step::Worked);
    case.assert_aborted(set, "pausing-timeout");
    for held in [&case.a, &case.b] {
        let Vote::Aborted(_) = case.vote(set, held) else { panic!("too late") };
    }
    case.world.assert_clean();
}

/// A holder that has voted goes on after its 5 s, whoever has not heard of it.
#[test]
fn members_that_were_never_paused_together_are_not_sealed() {
    let late: [&dyn Fn(&mut Two); 2] =
        [&|case| case.world.clock.advance(Duration::from_millis(4500)), &|case| {
            case.world.restart()
        }];
    for between in late {
        let mut case = Two::new();
        let set = case.open();
        case.world.ready(set, &case.a).expect("taken down");
        case.world.ready(set, &case.b).expect("taken down");
        assert_eq!(case.vote(set, &case.a), Vote::Waiting);
        between(&mut case);
        let Vote::Aborted(_) = case.vote(set, &case.b) else { panic!("it was sealed") };
        case.assert_aborted(set, "pausing-timeout");
        case.world.assert_clean();
    }
    let case = Two::new();
    let set = case.open();
    case.world.ready(set, &case.a).expect("taken down");
    case.world.ready(set, &case.b).expect("taken down");
    assert_eq!(case.vote(set, &case.a), Vote::Waiting);
    case.world.clock.advance(Duration::from_millis(4400));
    let Vote::Sealed(_) = case.vote(set, &case.b) else { panic!("all are paused") };
}

#[test]
fn a_restarted_service_counts_anew_and_a_decided_set_stays() {
    let mut case = Two::new();
    let set = case.open();
    assert_eq!(case.after(0), Step::Idle);
    case.world.clock.advance(Duration::from_secs(29));
    case.world.restart();
    assert_eq!(case.after(1), Step::Idle);
    assert_eq!(case.after(28), Step::Idle);
    case.world.ready(set, &case.a).expect("taken down");
    case.world.ready(set, &case.b).expect("taken down");
    case.vote(set, &case.a);
    case.vote(set, &case.b);
    assert_eq!(case.after(60), Step::Idle);
    assert_eq!(case.world.set(set).state, SetState::Sealed);
}

#[test]
fn a_decided_set_is_forgotten_with_the_requests_of_its_time() {
    let case = Two::new();
    let set = case.open();
    block_on(case.world.service.abort_snapshots(set)).expect("aborted");
    case.world.settle();
    let mut forgotten = None;
    for minute in 1..60 {
        case.world.clock.advance(Duration::from_secs(60));
        case.world.settle();
        if let Err(error) = block_on(case.world.service.snapshot_set(set)) {
            assert_eq!(error.kind(), ErrorReason::SetNotFound);
            forgotten = Some(minute);
            break;
        }
    }
    let minute = forgotten.expect("it is forgotten");
    assert!((10..=31).contains(&minute), "after {minute} minutes");
    let open = case.open();
    case.world.clock.advance(Duration::from_secs(1));
    assert_eq!(case.world.set(open).state, SetState::Gathering);
    let vote = case.world.vote_of(set, &case.a);
    assert_eq!(kind(case.world.send_vote(&vote)), ErrorReason::SetNotFound);
    let aborted = block_on(case.world.service.abort_snapshots(set));
    assert_eq!(kind(aborted), ErrorReason::SetNotFound);
    case.world.assert_clean();
}
