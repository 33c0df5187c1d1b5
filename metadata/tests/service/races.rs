//! Two processes of the service on one store at the same time: whatever the order of their
//! transactions, one of the legal outcomes comes of it.

use std::sync::{Arc, Barrier};

use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::sets::Two;
use crate::world::{World, hole, name, solid};

/// How often each race is run.
const ROUNDS: usize = 20;

/// A second process on the store of a world; its ids are others.
fn replica(world: &World) -> World {
    let replica = World::on(world.service.store().clone());
    for _ in 0..1 << 20 {
        lunar_metadata::seams::RandomIds::next(&*replica.ids);
    }
    replica
}

/// Runs both at the same moment.
fn race<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    let start = Arc::new(Barrier::new(2));
    let at = Arc::clone(&start);
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            at.wait();
            b()
        });
        start.wait();
        (a(), other.join().expect("no panic"))
    })
}

#[test]
fn a_snapshot_that_is_deleted_and_cloned_at_once_is_one_or_the_other_first() {
    let world = World::new();
    let other = replica(&world);
    world.pool(64);
    for round in 0..ROUNDS {
        let volume = world.volume(&format!("v{round}"));
        let snapshot = world.cut(volume.id, &format!("s{round}")).expect("cut").id;
        let (deleted, cloned) = race(
            || world.delete_snapshot(snapshot),
            || other.clone_of(snapshot, &format!("c{round}")),
        );
        deleted.expect("it begins");
        world.assert_clean();
        if let Err(error) = &cloned {
            assert_eq!(error.kind(), ErrorReason::SnapshotNotReady);
        }
        race(|| world.settle(), || other.settle());
        world.assert_clean();
        let found = block_on(world.service.snapshot(&Selector::Id(snapshot)));
        assert!(found.is_err(), "with a clone the layer is a fork, without it is merged");
    }
}

#[test]
fn the_last_children_of_a_fork_that_go_at_once_take_it_along() {
    let world = World::new();
    let other = replica(&world);
    world.pool(64);
    for round in 0..ROUNDS {
        let volume = world.volume(&format!("v{round}"));
        let snapshot = world.cut(volume.id, &format!("s{round}")).expect("cut");
        let clone = world.clone_of(snapshot.id, &format!("c{round}")).expect("made");
        world.delete_snapshot(snapshot.id).expect("it begins");
        world.settle();
        world.delete(volume.id).expect("it begins");
        world.delete(clone.id).expect("it begins");
        race(|| world.settle(), || other.settle());
        world.settle();
        assert!(world.layer(snapshot.layer.expect("it has one")).is_none());
        assert!(world.operations().is_empty());
        world.assert_clean();
    }
}

#[test]
fn last_votes_at_once_cut_the_set_once() {
    for _ in 0..ROUNDS {
        let case = Two::new();
        let set = case.pausing();
        let [a, b] = [&case.a, &case.b].map(|held| case.world.vote_of(set, held));
        let (at_a, at_b) = race(|| case.world.send_vote(&a), || case.world.send_vote(&b));
        let votes = [at_a.expect("taken down"), at_b.expect("taken down")];
        let sealed = votes.iter().filter(|vote| matches!(vote, Vote::Sealed(_))).count();
        assert!(sealed >= 1, "{votes:?}");
        assert_eq!(case.world.set(set).state, SetState::Sealed);
        for (held, vote) in [(&case.a, a), (&case.b, b)] {
            let now = case.world.resumed(held).expect("held");
            assert_eq!(
                (now.volume.head, now.last_commit),
                (vote.next_head, vote.last_commit.next())
            );
        }
        case.world.assert_clean();
    }
}

type Rival = fn(&World, &Two) -> Result<(), ServiceError>;

/// What may come at the same time as the last vote, of another member.
const RIVALS: &[Rival] = &[
    |at, case| at.detach(&case.a, DetachMode::KeepJournal),
    |at, case| at.commit(&case.a, vec![hole(0)]),
    |at, _| at.join_as("a", 7, Some(1)).map(drop),
    |at, case| block_on(at.service.declare_fenced(case.a.node)),
    |at, case| at.attach(case.idle.id, case.b_caller()).map(drop),
    |at, case| at.delete(case.idle.id).map(drop),
    |at, case| at.send_seal(&at.seal_of(&case.a)).map(drop),
    |at, case| {
        let set = case.world.set(case.only_set());
        block_on(at.service.abort_snapshots(set.id)).map(drop)
    },
];

impl Two {
    fn b_caller(&self) -> NodeSession {
        self.world.caller_of(&self.b)
    }

    /// The set of the snapshot that every case cuts.
    fn only_set(&self) -> SnapshotSetId {
        let found = block_on(self.world.service.snapshots(None, &PageRequest::first()));
        let found = found.expect("a page").items;
        found.first().map_or(SnapshotSetId::from_u128(0), |snapshot| snapshot.set)
    }
}

#[test]
fn a_member_that_changes_during_the_last_vote_is_cut_before_or_not_at_all() {
    for (index, rival) in RIVALS.iter().enumerate() {
        for _ in 0..ROUNDS / 2 {
            let case = Two::new();
            let other = replica(&case.world);
            let set = case.pausing();
            case.vote(set, &case.a);
            let vote = case.world.vote_of(set, &case.b);
            let heads = [case.a.volume.head, case.b.volume.head];
            let (voted, change) = race(|| case.world.send_vote(&vote), || rival(&other, &case));
            let state = case.world.set(set).state;
            assert!(!state.is_open(), "rival {index}");
            case.world.assert_clean();
            match voted.expect("decided") {
                Vote::Sealed(now) => {
                    assert_eq!((state, now.head), (SetState::Sealed, vote.next_head));
                }
                Vote::Aborted(_) => {
                    assert_eq!(state, SetState::Aborted);
                    change.expect("who is first is carried out");
                    let b = block_on(case.world.service.volume(&Selector::Id(vote.volume)));
                    assert_eq!(b.expect("there").head, heads[1], "rival {index}");
                }
                Vote::Waiting => panic!("rival {index}: all have voted"),
            }
            case.world.settle();
            case.world.assert_clean();
        }
    }
}

#[test]
fn a_grant_and_a_cut_of_a_volume_at_rest_do_not_both_think_they_were_first() {
    let world = World::new();
    let other = replica(&world);
    let pool = world.pool(200);
    let node = world.node("a");
    for round in 0..ROUNDS {
        let volume = world.volume(&format!("v{round}"));
        let asked = format!("s{round}");
        let asked = [(volume.id, asked.as_str())];
        let (held, set) = race(|| world.attach(volume.id, node), || other.cut_set(&asked));
        let (held, set) = (held.expect("granted"), set.expect("stored"));
        let held = world.resumed(&held).expect("held");
        match set.state {
            SetState::Sealed => assert_ne!(held.volume.head, volume.head),
            _ => assert_eq!(held.volume.head, volume.head),
        }
        world.assert_clean();
        let extents = world.extents(node, pool.id, 1);
        world.commit(&held, vec![solid(0, extents[0])]).expect("the head is its own");
        let found = block_on(world.service.snapshot(&Selector::Name(name(asked[0].1))));
        found.expect("it is Ready, or waits for its holder");
        world.assert_clean();
    }
}
