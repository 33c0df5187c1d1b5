//! Grants: epochs, takeovers, journals left behind.

use lunar_metadata::error::ServiceError;
use lunar_metadata::keyspace::{
    KeyedTxn, NodeStaleJournalKey, Present, StaleJournalKey, StaleJournalRecord, VolumeKey,
};
use lunar_metadata::seams::block_on;
use lunar_metadata::store::MetaStore;
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
    for _ in 1..=2 {
        let held = world.attach(volume.id, world.node("a")).expect("granted");
        world.park(&held);
    }
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
    let attach = Attach {
        request: world.request(),
        volume,
        caller,
        understands_layers: false,
        accept_restored: false,
        publication: None,
        for_file_system: false,
    };
    let error = block_on(world.service.attach(&attach)).expect_err("too old");
    assert_eq!(error.kind(), ErrorReason::NodeTooOld);
    assert!(error.to_string().contains("update it"), "{error}");
    assert_eq!(error.facts()["node"], "1.1");
    let attach = Attach { understands_layers: true, ..attach };
    block_on(world.service.attach(&attach)).expect("the refusal is not remembered");
    world.assert_clean();
}

/// A volume whose journal cannot be replayed is tried over and over: that leaves nothing behind.
#[test]
fn attachments_that_come_to_nothing_leave_one_stale_journal() {
    let world = World::new();
    let pool = world.pool(64);
    let (node, volume) = (world.node("a"), world.volume("v"));
    let first = world.attach(volume.id, node).expect("granted");
    confirm(&world, &first);
    world.detach(&first, DetachMode::KeepJournal).expect("detached");
    let used = world.status(pool.id).usage;
    for _ in 0..50 {
        let held = world.attach(volume.id, node).expect("granted");
        assert_eq!(held.stale_journals.len(), 1);
        world.detach(&held, DetachMode::KeepJournal).expect("given back");
        assert_eq!(world.status(pool.id).usage, used);
    }
    // The same without a word, when the node is gone.
    for boot in 0..50 {
        let node = world.boot_as("a", 1000 + boot);
        let held = world.attach(volume.id, node).expect("granted");
        assert_eq!(held.stale_journals.len(), 1);
    }
    world.settle();
    world.assert_clean();
    // The first journal is still there to be replayed, with what its writer had reserved.
    let held = world.attach(volume.id, world.node("a")).expect("granted");
    let stale: Vec<_> = held.stale_journals.iter().map(|it| (it.epoch, it.runs.clone())).collect();
    assert_eq!(stale, [(first.epoch, first.journal.clone())]);
    world.retire(&held, first.epoch).expect("retired");
    world.detach(&held, DetachMode::Clean).expect("nothing is left");
    world.settle();
    assert_eq!(world.status(pool.id).usage.allocated_extents, 0);
    world.assert_clean();
}

/// What the confirmation of a journal is: a commit without updates.
fn confirm(world: &World, held: &Attachment) {
    let mut confirm = world.commit_of(held, vec![]);
    confirm.checkpoint = Some(JournalSeq::new(1));
    block_on(world.service.commit_map(&confirm)).expect("confirmed");
}

/// Only what a holder cannot have written to goes: not the one journal that is left, and not one
/// that was confirmed.
#[test]
fn journals_that_may_hold_something_are_kept() {
    let world = World::new();
    world.pool(64);
    let volume = world.volume("v");
    let unconfirmed = world.attach(volume.id, world.node("a")).expect("granted");
    let held = world.attach(volume.id, world.node("a")).expect("taken over");
    let epochs: Vec<_> = held.stale_journals.iter().map(|it| it.epoch).collect();
    assert_eq!(epochs, [unconfirmed.epoch], "no older one says that it was not begun");
    world.retire(&held, unconfirmed.epoch).expect("retired");
    confirm(&world, &held);
    let next = world.attach(volume.id, world.node("a")).expect("taken over");
    let left: Vec<_> = next.stale_journals.iter().map(|it| it.epoch).collect();
    assert_eq!(left, [held.epoch]);
    let last = world.attach(volume.id, world.node("a")).expect("taken over");
    assert_eq!(last.stale_journals, next.stale_journals);
    world.settle();
    world.assert_clean();
}

/// Puts this many stale journals of no extents below a grant, whose epoch is raised above them.
fn put_stale_journals(world: &World, held: &Attachment, count: u64) {
    world.detach(held, DetachMode::Clean).expect("detached");
    let (volume, node, next_head) = (held.volume.id, held.node, held.next_head);
    let NodeIncarnation { node: id, incarnation } = node;
    let stale =
        StaleJournalRecord { node, next_head, journal: vec![], checkpoint: JournalSeq::default() };
    let stale = &stale;
    let put = world.service.store().transact(|txn| async move {
        for epoch in (1..=count).map(Epoch::new) {
            txn.put(&StaleJournalKey { volume, epoch }, stale);
            let key = NodeStaleJournalKey { node: id, incarnation, volume, epoch };
            txn.put(&key, &Present {});
        }
        let mut record = txn.load_known(&VolumeKey { volume }).await?;
        record.epoch = Epoch::new(count);
        txn.put(&VolumeKey { volume }, &record);
        Ok::<_, ServiceError>(())
    });
    block_on(put).expect("put");
}

/// A store of before may have more stale journals than one answer tells of.
#[test]
fn a_volume_is_taken_over_whatever_the_number_of_its_stale_journals() {
    let world = World::new();
    world.pool(64);
    let volume = world.volume("v");
    let held = world.attach(volume.id, world.node("a")).expect("granted");
    put_stale_journals(&world, &held, 1001);
    world.attach(volume.id, world.node("a")).expect("and its holder goes too");
    let mut left = 1001_u64;
    while left > 0 {
        let held = world.attach(volume.id, world.node("a")).expect("taken over");
        assert_eq!(held.stale_journals.len() as u64, left.min(1000));
        for stale in &held.stale_journals {
            world.retire(&held, stale.epoch).expect("the oldest");
        }
        left -= held.stale_journals.len() as u64;
    }
    world.settle();
    world.assert_clean();
}
