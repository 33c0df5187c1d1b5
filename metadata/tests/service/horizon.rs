//! The backup horizon: what a backup names is not given away before a later one is complete.

use lunar_metadata::seams::block_on;
use lunar_metadata::service::Step;
use lunar_metadata::store::{Fault, FaultPlan, FaultyStore, RedbStore};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::world::{Held, World, hole, kind, solid};

fn begin(world: &World) -> BackupNumber {
    block_on(world.service.begin_backup(1000)).expect("begun")
}

fn complete(world: &World, backup: BackupNumber) -> Backups {
    let backups = block_on(world.service.backup_done(backup, 2000)).expect("taken note of");
    world.settle();
    backups
}

fn run(at: ExtentAddress) -> [ExtentRun; 1] {
    [ExtentRun::new(at, 1)]
}

/// A volume with two mapped extents, and a backup that names them.
struct Named {
    it: Held,
    backup: BackupNumber,
}

impl Named {
    fn new() -> Self {
        let it = Held::since_boot(1);
        let updates = vec![solid(0, it.extents[0]), solid(1, it.extents[1])];
        it.world.commit(&it.held, updates).expect("mapped");
        let backup = begin(&it.world);
        Self { it, backup }
    }

    fn unmap_first(&self) {
        self.it.world.commit(&self.it.held, vec![hole(0)]).expect("unmapped");
    }

    fn release(&self, at: ExtentAddress) {
        let Held { world, node, pool, .. } = &self.it;
        world.release(*node, pool.id, &run(at)).expect("released");
    }

    /// Allocated, reserved, in quarantine.
    fn usage(&self) -> (u64, u64, u64) {
        let usage = self.it.world.status(self.it.pool.id).usage;
        let journal = usage.journal_extents;
        (usage.allocated_extents - journal, usage.reserved_extents, usage.quarantined_extents)
    }
}

#[test]
fn without_a_backup_what_is_unmapped_is_used_again_at_once() {
    let Held { world, held, extents, node, pool } = Held::since_boot(1);
    let freed = |updates| {
        let commit = world.commit_of(&held, updates);
        block_on(world.service.commit_map(&commit)).expect("committed")
    };
    assert_eq!(freed(vec![solid(0, extents[0])]), Freed::UseAgain);
    assert_eq!(freed(vec![hole(0)]), Freed::UseAgain);
    assert_eq!(freed(vec![solid(5, extents[0])]), Freed::UseAgain);
    assert_eq!(freed(vec![hole(5)]), Freed::UseAgain);
    world.release(node, pool.id, &run(extents[0])).expect("released");
    assert_eq!(world.status(pool.id).usage.quarantined_extents, 0);
    world.assert_clean();
}

#[test]
fn what_a_backup_names_is_given_back_and_waits_for_the_next_one() {
    let named = Named::new();
    let Held { world, held, extents, .. } = &named.it;
    complete(world, named.backup);
    let commit = world.commit_of(held, vec![hole(0)]);
    let told = block_on(world.service.commit_map(&commit)).expect("unmapped");
    assert_eq!(told, Freed::GiveBack);
    assert_eq!(block_on(world.service.commit_map(&commit)).expect("again"), Freed::GiveBack);
    let again = world.commit(held, vec![solid(7, extents[0])]);
    assert_eq!(kind(again), ErrorReason::ExtentHeldForBackup);
    world.assert_clean();
    named.release(extents[0]);
    assert_eq!(named.usage(), (10, 8, 1));
    // What no map has named since it was reserved is free at once.
    named.release(extents[5]);
    assert_eq!(named.usage(), (9, 7, 1));
    // A backup that was begun and is not complete may be all there will ever be of it.
    let second = begin(world);
    world.settle();
    assert_eq!(named.usage(), (9, 7, 1));
    assert_eq!(complete(world, second).newest_complete, Some(second));
    assert_eq!(named.usage(), (8, 7, 0));
    world.assert_clean();
}

#[test]
fn a_backup_that_was_begun_before_keeps_what_was_freed_since() {
    let named = Named::new();
    let world = &named.it.world;
    named.unmap_first();
    named.release(named.it.extents[0]);
    complete(world, named.backup);
    assert_eq!(named.usage().2, 1, "this backup names it");
    let (second, third) = (begin(world), begin(world));
    assert_eq!(complete(world, third).newest_complete, Some(third));
    assert_eq!(named.usage().2, 0);
    // The end of an earlier one takes nothing back.
    assert_eq!(complete(world, second).newest_complete, Some(third));
    assert_eq!(complete(world, third).newest_complete, Some(third), "said again");
    let unknown = block_on(world.service.backup_done(BackupNumber::new(99), 1));
    assert_eq!(kind(unknown), ErrorReason::BackupNotFound);
    world.assert_clean();
}

#[test]
fn what_a_dead_incarnation_had_unmapped_is_told_from_what_it_had_not() {
    let named = Named::new();
    let Held { world, held, node, .. } = &named.it;
    named.unmap_first();
    world.park(held);
    let next = world.boot_as("a", 2);
    assert_ne!(next.node.incarnation, node.node.incarnation);
    let taken = world.attach(held.volume.id, next).expect("granted");
    for stale in &taken.stale_journals {
        world.retire(&taken, stale.epoch).expect("retired");
    }
    world.settle();
    assert_eq!(named.usage(), (2, 0, 1), "one mapped, one held back");
    world.assert_clean();
    let second = begin(world);
    complete(world, second);
    assert_eq!(named.usage(), (1, 0, 0));
}

#[test]
fn a_deleted_volume_comes_back_with_the_next_backup() {
    let named = Named::new();
    let Held { world, held, node, pool, .. } = &named.it;
    world.release(*node, pool.id, &[]).expect("nothing");
    world.detach(held, DetachMode::Clean).expect("detached");
    world.delete(held.volume.id).expect("it begins");
    world.settle();
    assert_eq!(named.usage(), (10, 8, 2), "both extents wait, the journal does not");
    world.assert_clean();
    let second = begin(world);
    complete(world, second);
    assert_eq!(named.usage(), (8, 8, 0));
    world.assert_clean();
}

#[test]
fn a_full_pool_names_what_is_held_back_and_what_brings_it_back() {
    let named = Named::new();
    let Held { world, node, pool, .. } = &named.it;
    named.unmap_first();
    named.release(named.it.extents[0]);
    let full = loop {
        if let Err(error) = world.reserve(*node, pool.id, 1000) {
            break error;
        }
    };
    let (text, facts) = (full.to_string(), full.facts());
    assert!(text.contains("1 extents come back when a backup is complete"), "{text}");
    assert_eq!(facts["held_for_backups_extents"], "1");
    assert_eq!(facts["held_by_hand_extents"], "0");
    assert_eq!(kind::<()>(Err(full)), ErrorReason::PoolFull);
}

#[test]
fn without_the_horizon_nothing_waits_and_no_backup_is_complete() {
    let named = Named::new();
    let world = &named.it.world;
    assert_eq!(complete(world, named.backup).newest_complete, Some(named.backup));
    named.unmap_first();
    named.release(named.it.extents[0]);
    assert_eq!(named.usage().2, 1);
    let off = block_on(world.service.set_backup_horizon(false)).expect("off");
    assert_eq!((off.newest_complete, off.is_horizon_off), (None, true));
    world.settle();
    assert_eq!(named.usage().2, 0);
    named.it.world.commit(&named.it.held, vec![hole(1)]).expect("unmapped");
    named.release(named.it.extents[1]);
    assert_eq!(named.usage().2, 0);
    let meanwhile = begin(world);
    assert_eq!(complete(world, meanwhile).newest_complete, None);
    let across = begin(world);
    let on = block_on(world.service.set_backup_horizon(true)).expect("on");
    assert!(!on.is_horizon_off);
    assert_eq!(complete(world, across).newest_complete, None, "begun while it was off");
    let next = begin(world);
    assert_eq!(complete(world, next).newest_complete, Some(next));
    world.assert_clean();
}

#[test]
fn what_was_turned_off_frees_nothing_of_after_it_was_turned_on() {
    let named = Named::new();
    let world = &named.it.world;
    named.unmap_first();
    block_on(world.service.set_backup_horizon(false)).expect("off");
    block_on(world.service.set_backup_horizon(true)).expect("on");
    named.release(named.it.extents[0]);
    world.settle();
    assert_eq!(named.usage().2, 1, "freed after it was turned on");
    world.assert_clean();
}

#[test]
fn only_the_last_hundred_backups_are_remembered() {
    let world = World::new();
    for _ in 0..130 {
        begin(&world);
    }
    let backups = block_on(world.service.backups()).expect("a list").backups;
    let numbers: Vec<u64> = backups.iter().map(|backup| backup.number.get()).collect();
    assert_eq!(numbers, (31..=130).rev().collect::<Vec<_>>());
    let forgotten = block_on(world.service.backup_done(BackupNumber::new(30), 1));
    assert_eq!(kind(forgotten), ErrorReason::BackupNotFound);
    world.assert_clean();
}

#[test]
fn a_fault_at_every_step_frees_each_extent_once() {
    let faults = FaultPlan::default();
    let world = World::on(FaultyStore::new(RedbStore::in_memory(), faults.clone()));
    let pool = world.pool(4096);
    let volume = world.volume("v");
    let node = world.node("a");
    let held = world.attach(volume.id, node).expect("granted");
    let extents = world.extents(node, pool.id, 900);
    let updates = (0..).zip(&extents).map(|(at, extent)| solid(at, *extent)).collect();
    world.commit(&held, updates).expect("mapped");
    block_on(world.service.begin_backup(1)).expect("begun");
    world.commit(&held, (0..900).map(hole).collect()).expect("unmapped");
    let runs: Vec<_> = extents.iter().map(|at| ExtentRun::new(*at, 1)).collect();
    world.release(node, pool.id, &runs).expect("released");
    assert_eq!(world.status(pool.id).usage.quarantined_extents, 900);
    let second = block_on(world.service.begin_backup(1)).expect("begun");
    faults.push(Fault::CommittedUnknown);
    block_on(world.service.backup_done(second, 1)).expect("taken note of");
    for fault in [Fault::Conflict, Fault::LostUnknown, Fault::CommittedUnknown] {
        faults.push(fault);
        let _ = block_on(world.service.step_operations()).expect("a step");
        world.assert_clean();
    }
    while block_on(world.service.step_operations()).expect("a step") == Step::Worked {}
    assert_eq!(world.status(pool.id).usage.quarantined_extents, 0);
    world.assert_clean();
}
