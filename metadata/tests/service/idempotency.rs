//! Requests sent twice are carried out once, also when a commit cannot be confirmed.

use std::time::Duration;

use lunar_metadata::keyspace::{IdempotencyKey, KeyedTxn, TypedRange};
use lunar_metadata::seams::block_on;
use lunar_metadata::service::Step;
use lunar_metadata::store::{Fault, FaultPlan, FaultyStore, MetaStore, RedbStore};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::world::{World, kind, name, size, solid};

const RETENTION: Duration = Duration::from_secs(600);

fn remembered(world: &World) -> usize {
    block_on(async {
        let txn = world.service.store().begin().await.expect("begun");
        let all = TypedRange::<IdempotencyKey>::table();
        txn.scan(&all, 100_000).await.expect("read").len()
    })
}

#[test]
fn every_request_sent_twice_is_done_once() {
    let world = World::new();
    let pool = world.pool(64);
    let volume = CreateVolume {
        request: world.request(),
        name: name("v"),
        pool: Selector::Id(pool.id),
        size: size(1 << 30),
        logical_block_size: LogicalBlockSize::B4096,
        over_watermark: false,
    };
    let made = block_on(world.service.create_volume(&volume)).expect("made");
    assert_eq!(block_on(world.service.create_volume(&volume)).expect("again"), made);
    let join = world.join_of("a", 4, None);
    let joined = block_on(world.service.join(&join)).expect("joined");
    assert_eq!(block_on(world.service.join(&join)).expect("again"), joined);
    let caller = joined.session;
    let (request, volume) = (world.request(), Selector::Id(made.id));
    let attach = Attach {
        request,
        volume,
        caller,
        understands_layers: true,
        accept_restored: false,
        publication: None,
        for_file_system: false,
    };
    let held = block_on(world.service.attach(&attach)).expect("granted");
    assert_eq!(block_on(world.service.attach(&attach)).expect("again"), held);
    let (request, pool) = (world.request(), pool.id);
    let reserve = ReserveExtents { request, caller, pool, count: 7 };
    let runs = block_on(world.service.reserve_extents(&reserve)).expect("reserved");
    assert_eq!(block_on(world.service.reserve_extents(&reserve)).expect("again"), runs);
    assert_eq!(world.status(pool).usage.reserved_extents, 7);
    let request = world.request();
    let release = ReleaseExtents { request, caller, pool, runs };
    block_on(world.service.release_extents(&release)).expect("released");
    block_on(world.service.release_extents(&release)).expect("again");
    world.detach(&held, DetachMode::Clean).expect("detached");
    assert_eq!(kind(block_on(world.service.attach(&attach))), ErrorReason::NotAttached);
    world.assert_clean();
}

#[test]
fn a_delayed_duplicate_of_a_commit_changes_nothing() {
    let world = World::new();
    let pool = world.pool(64);
    let volume = world.volume("v");
    let node = world.node("a");
    let held = world.attach(volume.id, node).expect("granted");
    let extent = world.extents(node, pool.id, 1)[0];
    let first = world.commit_of(&held, vec![solid(0, extent)]);
    block_on(world.service.commit_map(&first)).expect("mapped");
    world.commit(&held, vec![crate::world::hole(0)]).expect("unmapped");
    block_on(world.service.commit_map(&first)).expect("the duplicate is answered");
    assert!(world.map(volume.head).is_empty(), "and not carried out");
    world.assert_clean();
}

#[test]
fn a_request_id_for_something_else_is_refused() {
    let world = World::new();
    let pool = world.pool(64);
    let caller = world.node("a");
    let request = world.request();
    let reserve = |count| ReserveExtents { request, caller, pool: pool.id, count };
    block_on(world.service.reserve_extents(&reserve(3))).expect("reserved");
    let other = block_on(world.service.reserve_extents(&reserve(4)));
    assert_eq!(kind(other), ErrorReason::RequestIdReused);
    let leave = block_on(world.service.leave(&Leave { request, caller }));
    assert_eq!(kind(leave), ErrorReason::RequestIdReused);
}

#[test]
fn a_refused_request_may_be_sent_again() {
    let world = World::new();
    world.pool(64);
    let volume = world.volume("v");
    let (a, b) = (world.node("a"), world.node("b"));
    let held = world.attach(volume.id, a).expect("granted");
    let (request, volume) = (world.request(), Selector::Id(volume.id));
    let attach = Attach {
        request,
        volume,
        caller: b,
        understands_layers: true,
        accept_restored: false,
        publication: None,
        for_file_system: false,
    };
    assert_eq!(kind(block_on(world.service.attach(&attach))), ErrorReason::VolumeAttached);
    world.detach(&held, DetachMode::Clean).expect("detached");
    block_on(world.service.attach(&attach)).expect("now it is granted");
}

#[test]
fn requests_are_forgotten_after_the_retention_and_not_before() {
    let mut world = World::new();
    let pool = world.pool(64);
    let caller = world.node("a");
    let request = world.request();
    let reserve = ReserveExtents { request, caller, pool: pool.id, count: 1 };
    let first = block_on(world.service.reserve_extents(&reserve)).expect("reserved");
    world.settle();
    world.clock.advance(RETENTION - Duration::from_millis(1));
    world.settle();
    assert_eq!(block_on(world.service.reserve_extents(&reserve)).expect("again"), first);
    // One generation ends; the request is still found in the one before.
    world.clock.advance(Duration::from_millis(1));
    world.settle();
    assert_eq!(block_on(world.service.reserve_extents(&reserve)).expect("again"), first);
    // A fresh process has seen the generation for no time at all.
    world.restart();
    world.settle();
    world.clock.advance(RETENTION - Duration::from_millis(1));
    world.settle();
    assert_eq!(block_on(world.service.reserve_extents(&reserve)).expect("again"), first);
    world.clock.advance(Duration::from_millis(1));
    world.settle();
    assert_eq!(remembered(&world), 0);
    assert_ne!(block_on(world.service.reserve_extents(&reserve)).expect("anew"), first);
    world.assert_clean();
}

#[test]
fn many_requests_are_forgotten_in_steps() {
    let world = World::new();
    let pool = world.pool(2000);
    let node = world.node("a");
    for _ in 0..1200 {
        world.reserve(node, pool.id, 1).expect("reserved");
    }
    for _ in 0..2 {
        world.settle();
        world.clock.advance(RETENTION);
    }
    let mut steps = 0;
    while block_on(world.service.step_operations()).expect("a step") == Step::Worked {
        steps += 1;
    }
    assert_eq!(remembered(&world), 0);
    assert!((3..=5).contains(&steps), "{steps}");
}

#[test]
fn unconfirmed_commits_do_everything_once() {
    for fault in [Fault::Conflict, Fault::CommittedUnknown, Fault::LostUnknown] {
        let plan = FaultPlan::default();
        let world = World::on(FaultyStore::new(RedbStore::in_memory(), plan.clone()));
        let trouble = || (0..3).for_each(|_| plan.push(fault));
        trouble();
        let pool = world.pool(64);
        trouble();
        let volume = world.volume("v");
        trouble();
        let node = world.node("a");
        assert_eq!(node.node.incarnation, Incarnation::new(1), "{fault:?}");
        trouble();
        let held = world.attach(volume.id, node).expect("granted");
        assert_eq!(held.epoch, Epoch::new(1), "{fault:?}");
        trouble();
        let extents = world.extents(node, pool.id, 5);
        assert_eq!(world.status(pool.id).usage.reserved_extents, 5);
        trouble();
        world.commit(&held, vec![solid(0, extents[0])]).expect("mapped");
        trouble();
        world.release(node, pool.id, &[ExtentRun::new(extents[1], 1)]).expect("released");
        trouble();
        world.detach(&held, DetachMode::Clean).expect("detached");
        assert_eq!(world.status(pool.id).usage.allocated_extents, 4);
        world.assert_clean();
    }
}

/// A deletion whose answer was lost is asked for again, however much of it is done by then.
#[test]
fn a_deletion_sent_again_is_answered_when_everything_is_gone() {
    let mut world = World::new();
    world.pool(64);
    let volume = world.volume("v");
    let snapshot = world.cut(volume.id, "s").expect("cut");
    let delete = DeleteSnapshot { request: world.request(), snapshot: Selector::Name(name("s")) };
    let deleting = block_on(world.service.delete_snapshot(&delete)).expect("it begins");
    assert_eq!((deleting.id, deleting.state), (snapshot.id, SnapshotState::Deleting));
    let by_name = Selector::Name(name("v"));
    let delete_volume = DeleteVolume { request: world.request(), volume: by_name.clone() };
    let going = block_on(world.service.delete_volume(&delete_volume)).expect("it begins");
    assert_eq!((going.id, going.state), (volume.id, VolumeState::Deleting));
    world.settle();
    world.restart();
    let gone = block_on(world.service.snapshot(&Selector::Id(snapshot.id)));
    assert_eq!(kind(gone), ErrorReason::SnapshotNotFound);
    let gone = block_on(world.service.volume(&Selector::Id(volume.id)));
    assert_eq!(kind(gone), ErrorReason::VolumeNotFound);
    let again = block_on(world.service.delete_snapshot(&delete)).expect("it was done");
    assert_eq!(again, Snapshot { owned_extents: 0, ..deleting });
    let again = block_on(world.service.delete_volume(&delete_volume)).expect("it was done");
    assert_eq!(again, Volume { mapped_extents: 0, ..going });
    assert_eq!(world.operations(), [], "nothing is begun again");
    // A name that is somebody else's by now: the request means the one that it meant.
    let other = world.volume("v");
    let again = block_on(world.service.delete_volume(&delete_volume)).expect("it was done");
    assert_eq!(again.id, volume.id);
    let there = block_on(world.service.volume(&by_name)).expect("untouched");
    assert_eq!((there.id, there.state), (other.id, VolumeState::Ready));
    for _ in 0..3 {
        world.clock.advance(RETENTION);
        world.settle();
    }
    let late = block_on(world.service.delete_snapshot(&delete));
    assert_eq!(kind(late), ErrorReason::SnapshotNotFound, "nobody remembers it");
    world.assert_clean();
}
