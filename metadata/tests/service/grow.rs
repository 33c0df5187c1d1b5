//! Volumes that become larger: attached, detached, in open sets, after faults and restarts.

use lunar_metadata::seams::block_on;
use lunar_metadata::store::{Fault, FaultPlan, FaultyStore, MetaStore, RedbStore};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::sets::Two;
use crate::world::{World, kind, name, size, solid};

const GIB: u64 = 1 << 30;

/// What the holder is told that knows a structure of before.
fn told<S: MetaStore>(world: &World<S>, held: &Attachment) -> Vec<StructureNumber> {
    let caller = world.caller_of(held);
    let (volume, structure) = (held.volume.id, held.structure);
    let structures = vec![ChangedStructure { volume, structure }];
    let watch = WatchNode {
        caller,
        structures,
        members: vec![],
        fences: vec![],
        peers: vec![],
        recalls: vec![],
    };
    let news = block_on(world.service.watch_node(&watch)).expect("told");
    news.structures.into_iter().map(|changed| changed.structure).collect()
}

#[test]
fn a_volume_grows_with_the_sum_of_its_pool_and_never_shrinks() {
    let world = World::new();
    let pool = world.pool(64);
    let volume = world.volume("v");
    let grown = world.grow(volume.id, GIB + 4096).expect("grown");
    assert_eq!(grown, Volume { size: size(GIB + 4096), ..volume.clone() });
    assert_eq!(world.status(pool.id).provisioned.get(), GIB + 4096);
    let refused = world.grow(volume.id, GIB).expect_err("smaller");
    assert_eq!(refused.kind(), ErrorReason::VolumeWouldShrink);
    assert_eq!(refused.facts()["size"], (GIB + 4096).to_string());
    assert_eq!(refused.facts()["size_given"], GIB.to_string());
    assert_eq!(world.grow(volume.id, GIB + 4096).expect("as it is"), grown);
    assert_eq!(kind(world.grow(VolumeId::from_u128(1), GIB)), ErrorReason::VolumeNotFound);
    world.delete(volume.id).expect("it begins");
    assert_eq!(kind(world.grow(volume.id, 2 * GIB)), ErrorReason::VolumeNotReady);
    world.assert_clean();
}

#[test]
fn a_size_of_which_no_map_can_be_is_refused() {
    let world = World::new();
    world.pool(8);
    let volume = world.volume("v");
    let most = VOLUME_EXTENTS_MAX << 20;
    let refused = world.grow(volume.id, most + 4096).expect_err("beyond");
    assert_eq!(refused.kind(), ErrorReason::VolumeTooLarge);
    assert_eq!(refused.facts()["limit"], most.to_string());
    assert_eq!(refused.facts()["size_given"], (most + 4096).to_string());
    assert_eq!(world.grow(volume.id, most).expect("the greatest").size, size(most));
    world.assert_clean();
}

#[test]
fn the_holder_hears_of_a_grown_volume_once_and_maps_what_is_new() {
    let world = World::new();
    let pool = world.pool(64);
    let volume = world.create("v", 3 << 20).expect("made");
    let node = world.node("a");
    let held = world.attach(volume.id, node).expect("granted");
    let extents = world.extents(node, pool.id, 2);
    let beyond = world.commit(&held, vec![solid(3, extents[0])]).expect_err("not there yet");
    assert_eq!(beyond.kind(), ErrorReason::InvalidField);
    world.grow(volume.id, 3 << 20).expect("as it is");
    assert_eq!(told(&world, &held), [], "nothing has changed");
    world.grow(volume.id, (3 << 20) + 4096).expect("grown");
    assert_eq!(told(&world, &held), [held.structure.next()]);
    let resumed = world.resumed(&held).expect("held");
    assert_eq!(resumed.volume.size, size((3 << 20) + 4096));
    assert_eq!(told(&world, &resumed), []);
    world.commit(&resumed, vec![solid(3, extents[0])]).expect("it is there");
    let sent = world.grow(volume.id, 2 << 20).expect_err("smaller");
    assert_eq!(sent.kind(), ErrorReason::VolumeWouldShrink);
    assert_eq!(told(&world, &resumed), []);
    world.assert_clean();
}

#[test]
fn a_grow_that_is_sent_twice_is_done_once_after_a_restart_too() {
    for fault in [Fault::Conflict, Fault::CommittedUnknown, Fault::LostUnknown] {
        let plan = FaultPlan::default();
        let mut world = World::on(FaultyStore::new(RedbStore::in_memory(), plan.clone()));
        world.pool(8);
        let volume = world.volume("v");
        let held = world.attach(volume.id, world.node("a")).expect("granted");
        let (request, volume) = (world.request(), Selector::Name(name("v")));
        let grow = GrowVolume { request, volume, size: size(2 * GIB), over_watermark: false };
        plan.push(fault);
        let grown = block_on(world.service.grow_volume(&grow)).expect("grown");
        world.restart();
        assert_eq!(block_on(world.service.grow_volume(&grow)).expect("again"), grown);
        assert_eq!(grown.size, size(2 * GIB));
        assert_eq!(told(&world, &held), [held.structure.next()], "{fault:?}: raised once");
        let later = world.grow(grown.id, 3 * GIB).expect("grown");
        assert_eq!(block_on(world.service.grow_volume(&grow)).expect("late"), later);
        let other = GrowVolume { size: size(4 * GIB), ..grow };
        let other = block_on(world.service.grow_volume(&other));
        assert_eq!(kind(other), ErrorReason::RequestIdReused);
        world.assert_clean();
    }
}

#[test]
fn a_member_of_an_open_set_grows_and_is_cut_with_the_size_of_the_cut() {
    let case = Two::new();
    let (world, a) = (&case.world, &case.a);
    let set = case.pausing();
    assert_eq!(case.vote(set, a), Vote::Waiting);
    for volume in [a.volume.id, case.idle.id] {
        world.grow(volume, 3 * GIB).expect("the set stays open");
    }
    assert_eq!(world.set(set).state, SetState::Pausing);
    assert!(matches!(case.vote(set, &case.b), Vote::Sealed(_)));
    let sizes: Vec<_> = world.set(set).snapshots.iter().map(|it| it.size).collect();
    assert_eq!(sizes, [size(3 * GIB), size(3 * GIB), size(GIB)]);
    world.grow(a.volume.id, 4 * GIB).expect("grown");
    let snapshot = world.set(set).snapshots[0].clone();
    assert_eq!(snapshot.size, size(3 * GIB), "a snapshot does not grow with its volume");
    assert_eq!(world.clone_of(snapshot.id, "c").expect("made").size, size(3 * GIB));
    world.assert_clean();
}

#[test]
fn a_rollback_keeps_the_size() {
    let world = World::new();
    world.pool(8);
    let volume = world.volume("v");
    let snapshot = world.cut(volume.id, "s").expect("cut");
    world.grow(volume.id, 2 * GIB).expect("grown");
    assert_eq!(world.roll_back(volume.id, snapshot.id).expect("back").size, size(2 * GIB));
    world.assert_clean();
}
