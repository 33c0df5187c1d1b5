//! Heads that are sealed without a set: engines whose vote was not answered, and their journals.

use lunar_metadata::keyspace::LayerName;
use lunar_metadata::seams::block_on;
use lunar_metadata::store::{Fault, FaultPlan, FaultyStore, RedbStore};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::sets::Two;
use crate::world::{World, hole, kind, name, solid};

#[test]
fn a_head_that_the_set_has_sealed_is_found_so() {
    let case = Two::new();
    let set = case.pausing();
    let seal = case.world.seal_of(&case.a);
    case.vote(set, &case.a);
    case.vote(set, &case.b);
    for _ in 0..2 {
        let found = case.world.send_seal(&seal).expect("told");
        let now = case.world.resumed(&case.a).expect("held");
        assert!(found.before);
        assert_eq!(found.now.head, seal.next_head);
        assert_eq!((found.now.head, found.now.next_head), (now.volume.head, now.next_head));
        assert_eq!(found.now.last_commit, seal.number, "the cut has taken the number");
    }
    assert_eq!(case.world.set(set).state, SetState::Sealed);
    assert!(case.world.operations().is_empty());
    case.world.assert_clean();
}

#[test]
fn an_open_set_is_aborted_by_a_member_that_seals_alone() {
    let case = Two::new();
    let set = case.pausing();
    let vote = case.world.vote_of(set, &case.a);
    case.world.send_vote(&vote).expect("taken down");
    let seal = SealLayer { checkpoint: vote.checkpoint, ..case.world.seal_of(&case.a) };
    let sealed = case.world.send_seal(&seal).expect("sealed");
    assert_eq!((sealed.before, sealed.now.head), (false, case.a.next_head));
    assert_eq!(sealed.now.last_commit, seal.number);
    case.assert_aborted(set, "sealed-without-the-set");
    let old = case.world.layer(case.a.volume.head).expect("kept");
    assert!(old.sealed && old.name == LayerName::Nameless);
    let work = OperationWork::DropLayer(case.a.volume.head);
    assert!(case.world.operations().iter().any(|operation| operation.work == work));
    let Vote::Aborted(_) = case.vote(set, &case.b) else { panic!("it cannot be cut any more") };
    let now = case.world.resumed(&case.a).expect("held");
    assert_eq!((now.checkpoint, now.next_head), (vote.checkpoint, sealed.now.next_head));
    case.world.commit(&now, vec![hole(0)]).expect("it goes on above");
    case.world.assert_clean();
}

#[test]
fn a_member_seals_alone_after_its_set_was_aborted_or_forgotten() {
    let case = Two::new();
    let set = case.pausing();
    let seal = case.world.seal_of(&case.a);
    case.vote(set, &case.a);
    case.world.fail(set, &case.b).expect("aborted");
    let sealed = case.world.send_seal(&seal).expect("sealed");
    assert_eq!((sealed.before, sealed.now.head), (false, case.a.next_head));
    let fresh = SealLayer { request: case.world.request(), ..seal };
    let again = case.world.send_seal(&fresh).expect("told");
    assert_eq!((again.before, again.now), (true, sealed.now));
    assert_eq!(case.world.send_seal(&seal).expect("remembered"), sealed);
    case.world.assert_clean();
}

#[test]
fn a_late_copy_of_a_seal_is_refused_two_cuts_later() {
    let case = Two::new();
    let world = &case.world;
    let late = world.seal_of(&case.a);
    for snapshot in ["first", "second"] {
        let set = world.cut_set(&[(case.a.volume.id, snapshot)]).expect("stored").id;
        world.ready(set, &case.a).expect("taken down");
        let Vote::Sealed(_) = case.vote(set, &case.a) else { panic!("alone") };
    }
    let error = world.send_seal(&late).expect_err("it is late");
    assert_eq!(error.kind(), ErrorReason::NextHeadMismatch);
    assert_eq!(error.facts()["next_head_given"], late.next_head.to_string());
    let seal = world.seal_of(&case.a);
    for number in [seal.number.next(), case.a.last_commit] {
        let wrong = SealLayer { number, ..seal };
        assert_eq!(kind(world.send_seal(&wrong)), ErrorReason::CommitOutOfOrder);
    }
    let checkpoint = JournalSeq::new(seal.checkpoint.get() - 1);
    let back = SealLayer { checkpoint, ..seal };
    assert_eq!(kind(world.send_seal(&back)), ErrorReason::CheckpointRegression);
    let foreign = SealLayer { next_head: case.b.next_head, ..seal };
    assert_eq!(kind(world.send_seal(&foreign)), ErrorReason::NextHeadMismatch);
    let over = SealLayer { epoch: Epoch::new(9), ..seal };
    assert_eq!(kind(world.send_seal(&over)), ErrorReason::StaleEpoch);
    let journal = SealLayer { replay_of: Some(Epoch::new(1)), ..seal };
    assert_eq!(kind(world.send_seal(&journal)), ErrorReason::JournalNotFound);
    world.send_seal(&seal).expect("the right one is carried out");
    world.assert_clean();
}

#[test]
fn a_seal_is_carried_out_once_whatever_the_store_does() {
    for fault in [Fault::Conflict, Fault::CommittedUnknown, Fault::LostUnknown] {
        let plan = FaultPlan::default();
        let store = FaultyStore::new(RedbStore::in_memory(), plan.clone());
        let case = Two::on(World::on(store));
        let seal = case.world.seal_of(&case.a);
        plan.push(fault);
        let sealed = case.world.send_seal(&seal).expect("sealed");
        assert_eq!(plan.remaining(), 0);
        let now = case.world.resumed(&case.a).expect("held");
        assert_eq!(now.last_commit, case.a.last_commit.next().next());
        assert_eq!((now.volume.head, now.next_head), (sealed.now.head, sealed.now.next_head));
        case.world.assert_clean();
    }
}

/// The first grant is lost with a power failure, after a vote of its engine; the volume is taken
/// over.
fn lost_while_undecided(case: &Two, sealed_before: bool) -> (SnapshotSetId, Attachment) {
    let set = case.pausing();
    case.vote(set, &case.a);
    if sealed_before {
        case.vote(set, &case.b);
    }
    let node = case.world.boot_as("a", 8);
    let taken = case.world.attach(case.a.volume.id, node).expect("taken over");
    (set, taken)
}

#[test]
fn records_of_the_next_head_are_replayed_into_it_after_power_loss() {
    let case = Two::new();
    let world = &case.world;
    let (set, taken) = lost_while_undecided(&case, false);
    case.assert_aborted(set, "volume-attached");
    let [stale] = taken.stale_journals.clone().try_into().expect("one journal");
    assert_eq!(stale.next_head, case.a.next_head);
    assert_eq!(taken.volume.head, case.a.volume.head);
    let seal = SealLayer {
        next_head: stale.next_head,
        checkpoint: JournalSeq::new(11),
        ..world.seal_of(&taken)
    };
    assert_eq!(kind(world.send_seal(&seal)), ErrorReason::StaleJournals, "not its own head yet");
    let seal = SealLayer { replay_of: Some(stale.epoch), ..seal };
    let sealed = world.send_seal(&seal).expect("sealed");
    assert_eq!((sealed.before, sealed.now.head), (false, stale.next_head));
    assert_eq!(sealed.now.next_head, taken.next_head, "the new grant's own is kept");
    world.assert_clean();
    let fresh = SealLayer { request: world.request(), ..seal };
    let again = world.send_seal(&fresh).expect("told");
    assert_eq!((again.before, again.now), (true, sealed.now));

    let taken = world.resumed(&taken).expect("held");
    assert_eq!(taken.stale_journals[0].checkpoint, JournalSeq::new(11));
    let runs = block_on(world.service.reservations(case.a.node, &PageRequest::first()));
    let runs = runs.expect("a page").items;
    let extent = runs[0].runs[0].first();
    let replay = world.commit_of(&taken, vec![solid(3, extent)]);
    let replay = CommitMap { replay_of: Some(stale.epoch), ..replay };
    block_on(world.service.commit_map(&replay)).expect("replayed into the next head");
    world.retire(&taken, stale.epoch).expect("retired");
    assert_eq!(world.map(case.a.volume.head).len(), 1, "the old head is as it was");
    assert_eq!(world.map(stale.next_head).len(), 1);
    let set = world.cut_set(&[(taken.volume.id, "after")]).expect("stored").id;
    world.ready(set, &taken).expect("taken down");
    let Vote::Sealed(now) = case.vote(set, &taken) else { panic!("alone") };
    assert_eq!(now.head, taken.next_head);
    world.assert_clean();
}

#[test]
fn a_cut_before_the_power_loss_is_found_by_who_takes_over() {
    let case = Two::new();
    let world = &case.world;
    let (set, taken) = lost_while_undecided(&case, true);
    assert_eq!(world.set(set).state, SetState::Sealed);
    assert_eq!(taken.volume.head, case.a.next_head, "a chain of it is replayed as ever");
    let stale = &taken.stale_journals[0];
    assert!(stale.next_head > taken.volume.head);
    let seal = SealLayer {
        next_head: case.a.next_head,
        replay_of: Some(stale.epoch),
        ..world.seal_of(&taken)
    };
    assert!(world.send_seal(&seal).expect("told").before);
    world.retire(&taken, stale.epoch).expect("retired");
    world.assert_clean();
}

#[test]
fn a_volume_whose_journal_waits_is_not_cut_although_it_is_held() {
    let case = Two::new();
    let node = case.world.boot_as("a", 8);
    let taken = case.world.attach(case.a.volume.id, node).expect("taken over");
    let error = case.world.cut_set(&[(taken.volume.id, "s")]).expect_err("a journal waits");
    assert_eq!(error.kind(), ErrorReason::VolumeNotAtRest);
    assert_eq!(error.facts()["oldest_epoch"], "1");
    case.world.retire(&taken, Epoch::new(1)).expect("retired");
    let set = case.world.cut_set(&[(taken.volume.id, "s")]).expect("stored");
    assert_eq!(set.snapshots[0].name, name("s"));
    case.world.assert_clean();
}

#[test]
fn a_nameless_layer_goes_with_the_head_that_a_rollback_drops() {
    let case = Two::new();
    let world = &case.world;
    let volume = case.a.volume.id;
    let set = world.cut_set(&[(volume, "base")]).expect("stored").id;
    world.ready(set, &case.a).expect("taken down");
    let Vote::Sealed(_) = case.vote(set, &case.a) else { panic!("alone") };
    let above = world.resumed(&case.a).expect("held");
    let extents = world.extents(world.caller_of(&above), above.pool.id, 1);
    world.commit(&above, vec![solid(1, extents[0])]).expect("mapped");
    world.send_seal(&world.seal_of(&above)).expect("sealed without a name");
    let top = world.resumed(&above).expect("held");
    world.detach(&top, DetachMode::Clean).expect("detached");
    let base = world.set(set).snapshots[0].clone();
    world.roll_back(volume, base.id).expect("back");
    world.settle();
    world.assert_clean();
    for layer in [above.volume.head, top.volume.head] {
        assert!(world.layer(layer).is_none(), "nothing shows layer {layer} any more");
    }
    let head = block_on(world.service.volume(&Selector::Id(volume))).expect("there").head;
    assert_eq!(world.layer(head).expect("the head").parent, base.layer);
    assert!(world.operations().is_empty());
}
