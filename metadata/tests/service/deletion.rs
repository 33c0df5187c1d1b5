//! Deletion in steps, interrupted anywhere.

use lunar_metadata::seams::block_on;
use lunar_metadata::service::Step;
use lunar_metadata::store::{Fault, FaultPlan, FaultyStore, MetaStore, RedbStore};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;

use crate::world::{World, kind, name, solid};

/// A volume with 1,234 mapped extents and two stale journals, and its pool.
fn full_volume<S: MetaStore>(world: &World<S>) -> (Pool, Volume) {
    let pool = world.pool(4096);
    let volume = world.create("v", 2 << 30).expect("made");
    let mut node = world.node("a");
    let mut held = world.attach(volume.id, node).expect("granted");
    for part in 0..2_u64 {
        let extents = world.extents(node, pool.id, 617);
        let updates = (part * 617..).zip(extents).map(|(at, extent)| solid(at, extent));
        world.commit(&held, updates.collect()).expect("mapped");
    }
    for _ in 0..2 {
        world.park(&held);
        node = world.node("a");
        held = world.attach(volume.id, node).expect("taken over");
    }
    block_on(world.service.declare_fenced(node.node)).expect("fenced");
    assert_eq!(held.stale_journals.len(), 2);
    (pool, volume)
}

fn assert_gone<S: MetaStore>(world: &World<S>, pool: &Pool, volume: &Volume) {
    let gone = block_on(world.service.volume(&Selector::Id(volume.id)));
    assert_eq!(kind(gone), ErrorReason::VolumeNotFound);
    let status = world.status(pool.id);
    assert_eq!((status.usage.allocated_extents, status.volumes), (0, 0));
    world.assert_clean();
}

#[test]
fn a_restart_at_every_step_of_a_deletion_loses_nothing() {
    let mut world = World::new();
    let (pool, volume) = full_volume(&world);
    let deleting = world.delete(volume.id).expect("it begins");
    assert_eq!(deleting.state, VolumeState::Deleting);
    let mut steps = 0;
    loop {
        world.restart();
        world.assert_clean();
        if block_on(world.service.step_operations()).expect("a step") == Step::Idle {
            break;
        }
        steps += 1;
    }
    assert!(steps >= 5, "{steps} steps: slots in three, journals, the rest");
    assert_gone(&world, &pool, &volume);
}

#[test]
fn a_fault_at_every_commit_of_a_deletion_loses_nothing() {
    for fault in [Fault::Conflict, Fault::CommittedUnknown, Fault::LostUnknown] {
        let plan = FaultPlan::default();
        let world = World::on(FaultyStore::new(RedbStore::in_memory(), plan.clone()));
        let (pool, volume) = full_volume(&world);
        plan.push(fault);
        world.delete(volume.id).expect("it begins");
        loop {
            plan.push(fault);
            if block_on(world.service.step_operations()).expect("a step") == Step::Idle {
                break;
            }
            world.assert_clean();
        }
        assert_gone(&world, &pool, &volume);
    }
}

#[test]
fn a_name_is_free_as_soon_as_its_volume_is_being_deleted() {
    let world = World::new();
    world.pool(64);
    let old = world.volume("v");
    world.delete(old.id).expect("it begins");
    world.delete(old.id).expect("deleting twice is deleting once");
    assert_eq!(
        block_on(world.service.operations(&PageRequest::first())).expect("a list").items.len(),
        1
    );
    let new = world.volume("v");
    assert_ne!(new.id, old.id);
    world.assert_clean();
    let node = world.node("a");
    assert_eq!(kind(world.attach(old.id, node)), ErrorReason::VolumeNotReady);
    world.settle();
    let found = block_on(world.service.volume(&Selector::Name(name("v")))).expect("the new one");
    assert_eq!(found.id, new.id);
    world.assert_clean();
}

#[test]
fn two_deletions_share_the_steps() {
    let world = World::new();
    let pool = world.pool(4096);
    let node = world.node("a");
    let volumes = ["v", "w"].map(|volume| {
        let volume = world.create(volume, 2 << 30).expect("made");
        let held = world.attach(volume.id, node).expect("granted");
        let extents = world.extents(node, pool.id, 900);
        let updates = (0..).zip(extents).map(|(at, extent)| solid(at, extent));
        world.commit(&held, updates.collect()).expect("mapped");
        world.detach(&held, DetachMode::Clean).expect("detached");
        world.delete(volume.id).expect("it begins")
    });
    for _ in 0..4 {
        block_on(world.service.step_operations()).expect("a step");
    }
    for volume in volumes {
        let gone = block_on(world.service.volume(&Selector::Id(volume.id)));
        assert_eq!(kind(gone), ErrorReason::VolumeNotFound, "its head goes on without it");
        let left = world.layer(volume.head).expect("still there");
        assert_eq!(left.extents, 400, "each had a step of 500");
    }
    world.settle();
    assert_eq!(world.status(pool.id).usage.allocated_extents, 0);
    world.assert_clean();
}
