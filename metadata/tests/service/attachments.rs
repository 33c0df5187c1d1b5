//! Grants: epochs, takeovers, journals left behind.

use lunar_metadata::seams::block_on;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::world::{World, hole, kind, solid};

fn resume(world: &World, held: &Attachment) -> Attachment {
    let (volume, epoch, caller) = (held.volume.id, held.epoch, world.caller_of(held));
    let request = ResumeAttachment { volume, epoch, caller };
    block_on(world.service.resume_attachment(request)).expect("it is held")
}

#[test]
fn a_grant_gives_everything_that_a_node_needs() {
    let world = World::new();
    let pool = world.pool(64);
    let volume = world.volume("v");
    let node = world.node("a");
    let held = world.attach(volume.id, node).expect("granted");
    assert_eq!((held.epoch, held.node), (Epoch::new(1), node.node));
    assert_eq!(held.pool, pool);
    let head = Layer { id: volume.head, parent: None, volume: volume.id, sealed: false };
    assert_eq!(held.layers, [head]);
    assert_eq!(held.journal.iter().map(|run| run.count()).sum::<u32>(), 2);
    assert_eq!((held.checkpoint, held.stale_journals.len()), (JournalSeq::default(), 0));
    let holder = held.volume.holder.clone().expect("it is held");
    assert_eq!((holder.node, holder.epoch, holder.live), (node.node, held.epoch, true));
    assert_eq!(resume(&world, &held), held);
    world.assert_clean();
}

#[test]
fn the_journal_has_two_mib_and_at_least_one_extent() {
    for (shift, extents) in [(16, 32), (20, 2), (21, 1), (24, 1)] {
        let world = World::new();
        let size = ExtentSize::from_bytes(1 << shift).expect("a size");
        world.pool_of("p", size, &[64]);
        let volume = world.volume("v");
        let held = world.attach(volume.id, world.node("a")).expect("granted");
        let count: u32 = held.journal.iter().map(|run| run.count()).sum();
        assert_eq!(count, extents, "extents of {size}");
    }
}

#[test]
fn a_held_volume_is_granted_to_nobody_else() {
    let world = World::new();
    world.pool(64);
    let volume = world.volume("v");
    let (a, b) = (world.node("a"), world.node("b"));
    world.attach(volume.id, a).expect("granted");
    for node in [a, b] {
        let error = world.attach(volume.id, node).expect_err("it is held");
        assert_eq!(error.kind(), ErrorReason::VolumeAttached);
        let facts = error.facts();
        assert_eq!((facts["node"].as_str(), facts["node_name"].as_str()), ("1.1", "a"));
        assert_eq!(facts["epoch_held"], "1");
    }
    assert_eq!(kind(world.delete(volume.id)), ErrorReason::VolumeAttached);
    world.assert_clean();
}

#[test]
fn detaching_cleanly_frees_the_journal() {
    let world = World::new();
    let pool = world.pool(64);
    let volume = world.volume("v");
    let node = world.node("a");
    let held = world.attach(volume.id, node).expect("granted");
    world.detach(&held, DetachMode::Clean).expect("detached");
    assert_eq!(world.status(pool.id).usage.allocated_extents, 0);
    assert_eq!(kind(world.detach(&held, DetachMode::Clean)), ErrorReason::NotAttached);
    assert_eq!(kind(world.commit(&held, vec![])), ErrorReason::NotAttached);
    let again = world.attach(volume.id, node).expect("granted again");
    assert_eq!(again.epoch, Epoch::new(2));
    assert_eq!(kind(world.detach(&held, DetachMode::Clean)), ErrorReason::StaleEpoch);
    world.assert_clean();
}

#[test]
fn a_new_boot_gives_its_volumes_away_with_their_journals() {
    let world = World::new();
    let pool = world.pool(64);
    let volume = world.volume("v");
    let old = world.node("a");
    let held = world.attach(volume.id, old).expect("granted");
    let extents = world.extents(old, pool.id, 2);
    let mut commit = world.commit_of(&held, vec![solid(0, extents[0])]);
    commit.checkpoint = Some(JournalSeq::new(9));
    block_on(world.service.commit_map(&commit)).expect("committed");
    let new = world.node("a");
    let taken = world.attach(volume.id, new).expect("the old boot is gone");
    assert_eq!(taken.epoch, Epoch::new(2));
    let stale = StaleJournal {
        epoch: held.epoch,
        node: old.node,
        runs: held.journal.clone(),
        checkpoint: JournalSeq::new(9),
        next_head: held.next_head,
    };
    assert!(held.volume.head < held.next_head && held.next_head < taken.next_head);
    assert_eq!(taken.stale_journals, [stale]);
    assert_eq!(kind(world.commit(&held, vec![])), ErrorReason::NodeFenced);
    world.assert_clean();

    // Nothing but the replay is committed before the journal is retired.
    let fresh = world.extents(new, pool.id, 1);
    let early = world.commit(&taken, vec![solid(3, fresh[0])]);
    assert_eq!(kind(early), ErrorReason::StaleJournals);
    assert_eq!(kind(world.detach(&taken, DetachMode::Clean)), ErrorReason::StaleJournals);
    let mut replay = world.commit_of(&taken, vec![solid(1, extents[1]), hole(0)]);
    replay.replay_of = Some(held.epoch);
    block_on(world.service.commit_map(&replay)).expect("replayed");
    (replay.request, replay.number) = (world.request(), replay.number.next());
    block_on(world.service.commit_map(&replay)).expect("replaying twice is replaying once");
    world.assert_clean();
    world.retire(&taken, held.epoch).expect("retired");
    assert_eq!(kind(world.retire(&taken, held.epoch)), ErrorReason::JournalNotFound);
    world.commit(&taken, vec![solid(3, fresh[0])]).expect("new commits go on");
    world.settle();
    world.assert_clean();
    // Slot 1, slot 3 and a journal of two: what the replay unmapped came back with the rest.
    assert_eq!(world.status(pool.id).usage.allocated_extents, 4);
    world.detach(&taken, DetachMode::Clean).expect("detached");
    world.assert_clean();
}

#[test]
fn journals_are_replayed_and_retired_in_the_order_of_their_epochs() {
    let world = World::new();
    world.pool(64);
    let volume = world.volume("v");
    world.attach(volume.id, world.node("a")).expect("epoch 1");
    world.attach(volume.id, world.node("a")).expect("epoch 2");
    let held = world.attach(volume.id, world.node("a")).expect("epoch 3");
    let epochs: Vec<_> = held.stale_journals.iter().map(|it| it.epoch.get()).collect();
    assert_eq!(epochs, [1, 2]);
    assert_eq!(kind(world.retire(&held, Epoch::new(2))), ErrorReason::StaleJournals);
    let mut replay = world.commit_of(&held, vec![]);
    replay.replay_of = Some(Epoch::new(2));
    assert_eq!(kind(block_on(world.service.commit_map(&replay))), ErrorReason::StaleJournals);
    replay.replay_of = Some(Epoch::new(7));
    assert_eq!(kind(block_on(world.service.commit_map(&replay))), ErrorReason::JournalNotFound);
    world.retire(&held, Epoch::new(1)).expect("the oldest first");
    world.retire(&held, Epoch::new(2)).expect("then the next");
    world.detach(&held, DetachMode::Clean).expect("nothing is left");
    world.settle();
    world.assert_clean();
}

#[test]
fn a_journal_that_is_kept_is_replayed_by_the_next_holder() {
    let world = World::new();
    let pool = world.pool(64);
    let volume = world.volume("v");
    let (a, b) = (world.node("a"), world.node("b"));
    let held = world.attach(volume.id, a).expect("granted");
    let extents = world.extents(a, pool.id, 1);
    world.detach(&held, DetachMode::KeepJournal).expect("detached");
    let next = world.attach(volume.id, b).expect("granted");
    assert_eq!(next.stale_journals.len(), 1);
    let mut replay = world.commit_of(&next, vec![solid(0, extents[0])]);
    replay.replay_of = Some(held.epoch);
    block_on(world.service.commit_map(&replay)).expect("from the reservation of its writer");
    world.retire(&next, held.epoch).expect("retired");
    world.settle();
    world.assert_clean();
    block_on(world.service.heartbeat(a)).expect("the writer lives on");
}

#[test]
fn resuming_changes_nothing_and_needs_the_grant() {
    let mut world = World::new();
    world.pool(64);
    let volume = world.volume("v");
    let node = world.node("a");
    let held = world.attach(volume.id, node).expect("granted");
    world.restart();
    assert_eq!(resume(&world, &held), held);
    let stale = ResumeAttachment { volume: volume.id, epoch: Epoch::new(2), caller: node };
    let refused = block_on(world.service.resume_attachment(stale));
    assert_eq!(kind(refused), ErrorReason::StaleEpoch);
}

#[test]
fn a_daemon_that_does_not_know_layers_gets_no_grant() {
    let world = World::new();
    world.pool(64);
    let (volume, caller) = (Selector::Id(world.volume("v").id), world.node("a"));
    let attach = Attach { request: world.request(), volume, caller, understands_layers: false };
    let error = block_on(world.service.attach(&attach)).expect_err("too old");
    assert_eq!(error.kind(), ErrorReason::NodeTooOld);
    assert!(error.to_string().contains("update it"), "{error}");
    assert_eq!(error.facts()["node"], "1.1");
    let attach = Attach { understands_layers: true, ..attach };
    block_on(world.service.attach(&attach)).expect("the refusal is not remembered");
    world.assert_clean();
}
