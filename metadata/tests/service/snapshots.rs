//! Snapshots of volumes at rest, clones, rollbacks, and layers that are dropped.

use lunar_metadata::keyspace::LayerName;
use lunar_metadata::seams::block_on;
use lunar_metadata::service::{CHAIN_LAYERS_MAX, Step};
use lunar_metadata::store::{Fault, FaultPlan, FaultyStore, MetaStore, RedbStore};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::world::{World, kind, name, size, solid};

/// Maps logical extents of a volume solidly, detached again after.
fn write<S: MetaStore>(world: &World<S>, volume: VolumeId, at: impl Iterator<Item = u64>) {
    let node = world.node("writer");
    let held = world.attach(volume, node).expect("granted");
    let at: Vec<u64> = at.collect();
    for part in at.chunks(500) {
        let count = u32::try_from(part.len()).expect("few");
        let extents = world.extents(node, held.pool.id, count);
        let updates = part.iter().zip(extents).map(|(at, extent)| solid(*at, extent));
        world.commit(&held, updates.collect()).expect("mapped");
    }
    world.detach(&held, DetachMode::Clean).expect("detached");
    block_on(world.service.leave(&Leave { request: world.request(), caller: node })).expect("left");
}

fn snapshot_of<S: MetaStore>(world: &World<S>, snapshot: SnapshotId) -> Option<Snapshot> {
    block_on(world.service.snapshot(&Selector::Id(snapshot))).ok()
}

fn volume_of<S: MetaStore>(world: &World<S>, volume: VolumeId) -> Volume {
    block_on(world.service.volume(&Selector::Id(volume))).expect("it is there")
}

fn listed(world: &World, volume: Option<Selector<VolumeId>>, limit: usize) -> Vec<SnapshotId> {
    let (mut ids, mut request) = (Vec::new(), PageRequest { limit, token: None });
    loop {
        let page = block_on(world.service.snapshots(volume.as_ref(), &request)).expect("a page");
        assert!(page.items.len() <= limit);
        ids.extend(page.items.iter().map(|snapshot| snapshot.id));
        match page.next {
            Some(token) => request.token = Some(token),
            None => return ids,
        }
    }
}

#[test]
fn a_snapshot_seals_the_head_and_the_volume_goes_on_above_it() {
    let world = World::new();
    world.pool(64);
    let volume = world.volume("v");
    write(&world, volume.id, 0..3);
    let before = world.map(volume.head);
    let snapshot = world.cut(volume.id, "s").expect("cut");
    assert_eq!(snapshot.layer, Some(volume.head));
    assert_eq!((snapshot.volume, snapshot.size), (volume.id, volume.size));
    assert_eq!((snapshot.state, snapshot.owned_extents), (SnapshotState::Ready, 3));
    assert_eq!(snapshot.created_unix_seconds, 77);
    let sealed = world.layer(volume.head).expect("it is there");
    assert!(sealed.sealed && sealed.name == LayerName::Snapshot(snapshot.id));
    let after = volume_of(&world, volume.id);
    assert!(after.head > volume.head && after.mapped_extents == 0);
    assert_eq!(world.layer(after.head).expect("made").parent, Some(volume.head));
    write(&world, volume.id, 1..2);
    assert_eq!(world.map(volume.head), before, "a sealed layer does not change");
    let node = world.node("reader");
    let held = world.attach(volume.id, node).expect("granted");
    let chain: Vec<_> = held.layers.iter().map(|layer| (layer.id, layer.sealed)).collect();
    assert_eq!(chain, [(after.head, false), (volume.head, true)]);
    world.assert_clean();
}

#[test]
fn a_volume_with_a_journal_left_is_not_cut_and_not_rolled_back() {
    let world = World::new();
    world.pool(64);
    let volume = world.volume("v");
    let first = world.cut(volume.id, "first").expect("cut");
    let node = world.node("a");
    let held = world.attach(volume.id, node).expect("granted");
    assert_eq!(kind(world.roll_back(volume.id, first.id)), ErrorReason::VolumeAttached);

    block_on(world.service.declare_fenced(node.node)).expect("fenced");
    let error = world.cut(volume.id, "s").expect_err("a journal is left");
    assert_eq!(error.kind(), ErrorReason::VolumeNotAtRest);
    assert_eq!(error.facts()["oldest_epoch"], held.epoch.to_string());
    assert_eq!(kind(world.roll_back(volume.id, first.id)), ErrorReason::StaleJournals);

    let held = world.attach(volume.id, world.node("b")).expect("taken over");
    assert_eq!(kind(world.cut(volume.id, "s")), ErrorReason::VolumeNotAtRest);
    world.detach(&held, DetachMode::KeepJournal).expect("detached");
    assert_eq!(kind(world.cut(volume.id, "s")), ErrorReason::VolumeNotAtRest);
    assert_eq!(kind(world.roll_back(volume.id, first.id)), ErrorReason::StaleJournals);
    world.delete(volume.id).expect("it begins");
    assert_eq!(kind(world.cut(volume.id, "s")), ErrorReason::VolumeNotReady);
    world.assert_clean();
}

#[test]
fn snapshots_are_found_by_name_and_listed_by_volume_in_pages() {
    let world = World::new();
    world.pool(64);
    let (v, w) = (world.volume("v"), world.volume("w"));
    let of_v: Vec<_> = (0..5).map(|i| world.cut(v.id, &format!("v{i}")).expect("cut").id).collect();
    let of_w: Vec<_> = (0..3).map(|i| world.cut(w.id, &format!("w{i}")).expect("cut").id).collect();
    let all = [of_v.clone(), of_w.clone()].concat();
    for limit in 1..10 {
        assert_eq!(listed(&world, None, limit), all);
        assert_eq!(listed(&world, Some(Selector::Name(name("v"))), limit), of_v);
        assert_eq!(listed(&world, Some(Selector::Id(w.id)), limit), of_w);
    }
    let found = block_on(world.service.snapshot(&Selector::Name(name("w1")))).expect("found");
    assert_eq!(found.id, of_w[1]);
    let taken = world.cut(v.id, "w1").expect_err("taken");
    assert_eq!(taken.kind(), ErrorReason::SnapshotExists);
    assert_eq!(taken.facts()["snapshot"], of_w[1].to_string());
    let unknown = block_on(world.service.snapshot(&Selector::Name(name("ghost"))));
    assert_eq!(kind(unknown), ErrorReason::SnapshotNotFound);
    world.delete(w.id).expect("it begins");
    world.settle();
    assert_eq!(listed(&world, Some(Selector::Id(w.id)), 2), of_w, "they outlive their volume");
    world.assert_clean();
}

#[test]
fn snapshot_requests_sent_twice_are_done_once() {
    let world = World::new();
    world.pool(64);
    let volume = world.volume("v");
    let cut = CreateSnapshots {
        request: world.request(),
        members: vec![NewMember {
            volume: Selector::Id(volume.id),
            cut: NewCut::Snapshot(name("s")),
        }],
        created_unix_seconds: 1,
        fsfreeze: Fsfreeze::Auto,
        over_watermark: false,
        group: None,
    };
    let set = block_on(world.service.create_snapshots(&cut)).expect("cut");
    assert_eq!(block_on(world.service.create_snapshots(&cut)).expect("again"), set);
    let snapshot = Selector::Id(set.snapshots[0].id);
    let clone = CloneVolume {
        request: world.request(),
        snapshot: snapshot.clone(),
        name: name("c"),
        size: None,
        over_watermark: false,
    };
    let made = block_on(world.service.clone_volume(&clone)).expect("made");
    assert_eq!(block_on(world.service.clone_volume(&clone)).expect("again"), made);
    let (request, volume) = (world.request(), Selector::Id(volume.id));
    let back = RollbackVolume { request, volume, snapshot: snapshot.clone() };
    let rolled = block_on(world.service.rollback_volume(&back)).expect("back");
    assert_eq!(block_on(world.service.rollback_volume(&back)).expect("again"), rolled);
    let delete = DeleteSnapshot { request: world.request(), snapshot };
    let deleting = block_on(world.service.delete_snapshot(&delete)).expect("it begins");
    assert_eq!(block_on(world.service.delete_snapshot(&delete)).expect("again"), deleting);
    assert_eq!(deleting.state, SnapshotState::Deleting);
    world.assert_clean();
}

#[test]
fn clones_share_the_layer_of_their_snapshot_and_may_be_larger() {
    let world = World::new();
    let pool = world.pool(64);
    let volume = world.volume("v");
    write(&world, volume.id, 0..4);
    let snapshot = world.cut(volume.id, "s").expect("cut");
    let clones = ["c", "d"].map(|clone| world.clone_of(snapshot.id, clone).expect("made"));
    for clone in &clones {
        assert_eq!((clone.size, clone.pool), (volume.size, pool.id));
        let parent = world.layer(clone.head).expect("made").parent;
        assert_eq!(parent, snapshot.layer);
    }
    let taken = world.clone_of(snapshot.id, "c");
    assert_eq!(kind(taken), ErrorReason::VolumeExists);
    let of_size = |bytes: u64| {
        block_on(world.service.clone_volume(&CloneVolume {
            request: world.request(),
            snapshot: Selector::Id(snapshot.id),
            name: name("e"),
            size: Some(size(bytes)),
            over_watermark: false,
        }))
    };
    let smaller = of_size((1 << 30) - 4096).expect_err("smaller");
    assert_eq!(smaller.facts()["field"], "size_bytes");
    assert_eq!(of_size(2 << 30).expect("larger").size, size(2 << 30));
    assert_eq!(world.status(pool.id).usage.allocated_extents, 4, "nothing was copied");
    world.assert_clean();
}

#[test]
fn a_rollback_shows_the_snapshot_again_and_frees_what_came_after() {
    let world = World::new();
    let pool = world.pool(64);
    let volume = world.volume("v");
    write(&world, volume.id, 0..4);
    let old = world.cut(volume.id, "old").expect("cut");
    write(&world, volume.id, 4..6);
    let new = world.cut(volume.id, "new").expect("cut");
    write(&world, volume.id, 6..9);
    let rolled = world.roll_back(volume.id, old.id).expect("back");
    assert_eq!(world.layer(rolled.head).expect("made").parent, old.layer);
    world.assert_clean();
    world.settle();
    assert_eq!(world.status(pool.id).usage.allocated_extents, 6, "the old head is freed");
    assert!(snapshot_of(&world, new.id).is_some(), "newer snapshots are a branch");
    let forward = world.roll_back(volume.id, new.id).expect("forward again");
    assert_eq!(world.layer(forward.head).expect("made").parent, new.layer);
    let other = world.volume("other");
    let foreign = world.roll_back(other.id, old.id).expect_err("another volume's");
    assert_eq!(foreign.kind(), ErrorReason::SnapshotOfOtherVolume);
    assert_eq!(foreign.facts()["origin"], volume.id.to_string());
    world.settle();
    world.assert_clean();
}

#[test]
fn a_chain_is_not_deeper_than_its_limit() {
    let world = World::new();
    world.pool(64);
    let volume = world.volume("v");
    let cut = |index: usize| world.cut(volume.id, &format!("s{index}"));
    let snapshots: Vec<_> = (1..CHAIN_LAYERS_MAX).map(|index| cut(index).expect("cut")).collect();
    let newest = snapshots.last().expect("there are some");
    let error = cut(0).expect_err("too deep");
    assert_eq!(error.kind(), ErrorReason::ChainTooDeep);
    assert_eq!(error.facts()["depth"], CHAIN_LAYERS_MAX.to_string());
    let clone = world.clone_of(newest.id, "as-deep").expect("a clone beside the head");
    world.roll_back(volume.id, newest.id).expect("as deep as before");
    assert_eq!(kind(world.cut(clone.id, "deeper")), ErrorReason::ChainTooDeep);
    world.settle();
    world.assert_clean();
}

#[test]
fn a_deleted_snapshot_is_merged_into_what_stands_on_it() {
    let world = World::new();
    let pool = world.pool(64);
    let volume = world.volume("v");
    write(&world, volume.id, 0..4);
    let snapshot = world.cut(volume.id, "s").expect("cut");
    write(&world, volume.id, 3..6);
    world.settle();
    let deleting = world.delete_snapshot(snapshot.id).expect("it begins");
    let layer = snapshot.layer.expect("it has one");
    let [merge] = world.operations().try_into().expect("one operation");
    assert_eq!((merge.work, merge.waits_for), (OperationWork::DropLayer(layer), None));
    assert_eq!((deleting.state, deleting.owned_extents), (SnapshotState::Deleting, 4));
    assert_eq!(kind(world.clone_of(snapshot.id, "c")), ErrorReason::SnapshotNotReady);
    assert_eq!(kind(world.roll_back(volume.id, snapshot.id)), ErrorReason::SnapshotNotReady);
    world.cut(volume.id, "s").expect("the name is free");
    world.assert_clean();
    world.settle();
    assert!(snapshot_of(&world, snapshot.id).is_none() && world.operations().is_empty());
    assert!(world.layer(layer).is_none());
    let again = block_on(world.service.snapshot(&Selector::Name(name("s")))).expect("the new one");
    assert_eq!(again.owned_extents, 6, "one of seven was hidden");
    assert_eq!(world.status(pool.id).usage.allocated_extents, 6);
    world.delete(volume.id).expect("it begins");
    world.delete_snapshot(again.id).expect("it begins");
    world.settle();
    assert!(world.operations().is_empty());
    assert_eq!(world.status(pool.id).usage.allocated_extents, 0, "the whole chain is freed");
    world.assert_clean();
}

#[test]
fn many_operations_take_turns() {
    let world = World::new();
    world.pool(64);
    let volume = world.volume("v");
    let snapshots: Vec<_> =
        (0..230).map(|i| world.cut(volume.id, &format!("s{i}")).expect("cut").id).collect();
    for snapshot in snapshots {
        world.delete_snapshot(snapshot).expect("it begins");
    }
    let other = world.volume("other");
    world.delete(other.id).expect("it begins");
    world.settle();
    assert!(world.layer(other.head).is_none() && world.operations().is_empty());
    let head = volume_of(&world, volume.id).head;
    assert_eq!(world.layer(head).expect("it is there").parent, None, "the chain is merged");
    world.assert_clean();
}

#[test]
fn a_fork_without_name_is_dropped_with_its_last_children() {
    let world = World::new();
    let pool = world.pool(64);
    let volume = world.volume("v");
    write(&world, volume.id, 0..4);
    let snapshot = world.cut(volume.id, "s").expect("cut");
    let clone = world.clone_of(snapshot.id, "c").expect("made");
    world.delete_snapshot(snapshot.id).expect("it begins");
    world.settle();
    assert!(snapshot_of(&world, snapshot.id).is_none(), "two children keep the layer without it");
    assert!(world.operations().is_empty());
    let layer = snapshot.layer.expect("it has one");
    assert_eq!(world.layer(layer).expect("kept").name, LayerName::Nameless);
    world.assert_clean();
    world.delete(volume.id).expect("it begins");
    world.settle();
    assert!(world.layer(layer).is_none() && world.operations().is_empty(), "merged");
    assert_eq!(world.layer(clone.head).expect("it is there").parent, None);
    assert_eq!(volume_of(&world, clone.id).mapped_extents, 4);
    world.assert_clean();
    world.delete(clone.id).expect("it begins");
    world.settle();
    assert!(world.layer(layer).is_none());
    assert_eq!(world.status(pool.id).usage.allocated_extents, 0);
    world.assert_clean();
}

/// A chain that goes away wholly: a branch with 1,100 slots, two snapshots, a clone.
fn chain<S: MetaStore>(world: &World<S>) -> Pool {
    let pool = world.pool(4096);
    let volume = world.create("v", 2 << 30).expect("made");
    write(world, volume.id, 0..1100);
    let below = world.cut(volume.id, "below").expect("cut");
    write(world, volume.id, 0..10);
    let above = world.cut(volume.id, "above").expect("cut");
    let clone = world.clone_of(below.id, "c").expect("made");
    write(world, clone.id, 0..600);
    for snapshot in [below, above] {
        world.delete_snapshot(snapshot.id).expect("it begins");
    }
    for volume in [volume, clone] {
        world.delete(volume.id).expect("it begins");
    }
    pool
}

#[test]
fn a_restart_at_every_step_of_dropping_a_chain_loses_nothing() {
    let mut world = World::new();
    let pool = chain(&world);
    let mut steps = 0;
    while block_on(world.service.step_operations()).expect("a step") == Step::Worked {
        world.assert_clean();
        world.restart();
        steps += 1;
    }
    assert!(steps >= 12, "{steps} steps: two volumes, four layers, slots in six");
    assert_eq!(world.status(pool.id).usage.allocated_extents, 0);
    assert!(world.operations().is_empty());
}

#[test]
fn a_fault_at_every_commit_of_dropping_a_chain_loses_nothing() {
    for fault in [Fault::Conflict, Fault::CommittedUnknown, Fault::LostUnknown] {
        let plan = FaultPlan::default();
        let world = World::on(FaultyStore::new(RedbStore::in_memory(), plan.clone()));
        let pool = chain(&world);
        loop {
            plan.push(fault);
            if block_on(world.service.step_operations()).expect("a step") == Step::Idle {
                break;
            }
            world.assert_clean();
        }
        assert_eq!(world.status(pool.id).usage.allocated_extents, 0);
        assert!(world.operations().is_empty());
    }
}
