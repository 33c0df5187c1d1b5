//! Changed blocks: windows, chains that shrink between two of them, refusals.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_metadata::store::MetaStore;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::chains::{Shape, hold, put, write};
use crate::world::{MIB, World, kind, name};

const BLOCK: u64 = 4096;

/// A window.
pub fn window<S: MetaStore>(
    world: &World<S>,
    from: Option<SnapshotId>,
    to: SnapshotId,
    start: u64,
) -> Result<DiffPage, ServiceError> {
    let (from, to) = (from.map(Selector::Id), Selector::Id(to));
    block_on(world.service.diff_snapshots(&DiffSnapshots { from, to, start }))
}

/// All windows from an offset on; `between` is called before each but the first.
fn diff_while<S: MetaStore>(
    world: &World<S>,
    (from, to): (Option<SnapshotId>, SnapshotId),
    mut start: u64,
    mut between: impl FnMut(),
) -> Result<(Vec<DiffRun>, usize), ServiceError> {
    let (mut runs, mut windows) = (Vec::<DiffRun>::new(), 0);
    loop {
        let page = window(world, from, to, start)?;
        windows += 1;
        for run in page.runs {
            assert!(runs.last().is_none_or(|last| last.end() <= run.offset), "in order");
            assert!(run.length > 0 && run.offset >= start);
            if !runs.last_mut().is_some_and(|last| last.join(run)) {
                runs.push(run);
            }
        }
        let Some(next) = page.next else { return Ok((runs, windows)) };
        assert!(next > start && runs.last().is_none_or(|last| last.end() <= next));
        start = next;
        between();
    }
}

/// What differs.
pub fn diff<S: MetaStore>(
    world: &World<S>,
    from: Option<SnapshotId>,
    to: SnapshotId,
) -> Result<Vec<DiffRun>, ServiceError> {
    diff_while(world, (from, to), 0, || ()).map(|(runs, _)| runs)
}

fn run(kind: DiffKind, first: u64, count: u64) -> DiffRun {
    DiffRun { offset: first * BLOCK, length: count * BLOCK, kind }
}

fn data(first: u64, count: u64) -> DiffRun {
    run(DiffKind::Data, first, count)
}

fn zero(first: u64, count: u64) -> DiffRun {
    run(DiffKind::Zero, first, count)
}

#[test]
fn each_row_of_the_table_is_told() {
    let world = World::new();
    world.pool(100);
    let volume = world.volume("v").id;
    write(&world, volume, &[(0, Shape::Blocks(0, 8)), (2, Shape::Full), (3, Shape::Blocks(9, 1))]);
    let a = world.cut(volume, "a").expect("cut").id;
    let shapes = [
        (0, Shape::Opaque(6, 4)),
        (1, Shape::Zero),
        (2, Shape::Zero),
        (3, Shape::Blocks(9, 1)),
        (9, Shape::Bare),
    ];
    write(&world, volume, &shapes);
    let b = world.cut(volume, "b").expect("cut").id;
    let changed = [zero(0, 6), data(6, 4), zero(512, 256), data(768 + 9, 1)];
    assert_eq!(diff(&world, Some(a), b).expect("related"), changed);
    let back = [data(0, 8), zero(8, 2), data(512, 256), data(768 + 9, 1)];
    assert_eq!(diff(&world, Some(b), a).expect("related"), back);
    let all = [data(6, 4), data(768 + 9, 1)];
    assert_eq!(diff(&world, None, b).expect("it is there"), all);
    assert_eq!(diff(&world, Some(b), b).expect("the same"), []);
    let (runs, _) =
        diff_while(&world, (Some(a), b), 7 * BLOCK + 1, || ()).expect("from the middle");
    assert_eq!((runs[0].offset, runs[0].end()), (7 * BLOCK + 1, 10 * BLOCK));
    assert_eq!(runs[1..], changed[2..]);
    for start in [1 << 30, u64::MAX] {
        let page = window(&world, Some(a), b, start).expect("behind the end");
        assert_eq!(page, DiffPage { runs: vec![], next: None });
    }
}

#[test]
fn branches_are_compared_over_their_fork_and_sizes_may_differ() {
    let world = World::new();
    world.pool(100);
    let volume = world.create("v", 3 * MIB + 8 * BLOCK).expect("made").id;
    write(&world, volume, &[(0, Shape::Blocks(0, 8)), (3, Shape::Blocks(0, 8))]);
    let base = world.cut(volume, "base").expect("cut").id;
    let clone = block_on(world.service.clone_volume(&CloneVolume {
        request: world.request(),
        snapshot: Selector::Id(base),
        name: name("c"),
        size: Some(crate::world::size(5 * MIB)),
        over_watermark: false,
    }));
    let clone = clone.expect("made").id;
    write(&world, volume, &[(0, Shape::Blocks(4, 8)), (1, Shape::Full), (3, Shape::Zero)]);
    write(&world, clone, &[(0, Shape::Blocks(0, 1)), (4, Shape::Blocks(255, 1))]);
    let one = world.cut(volume, "one").expect("cut").id;
    let other = world.cut(clone, "other").expect("cut").id;
    world.delete_snapshot(base).expect("Ready");
    world.settle();
    // The base is a fork by now: no snapshot names it.
    assert_eq!(kind(window(&world, Some(base), one, 0)), ErrorReason::SnapshotNotFound);
    // Block 8 of the first extent, and the second extent, are only on the first side; what that
    // has discarded is there, beyond its end too.
    let there = [data(0, 1), data(4, 4), zero(8, 4), zero(256, 256), data(768, 8), data(1279, 1)];
    assert_eq!(diff(&world, Some(one), other).expect("related"), there);
    let back = [data(0, 1), data(4, 8), data(256, 256), zero(768, 8), zero(1279, 1)];
    assert_eq!(diff(&world, Some(other), one).expect("related"), back);
}

#[test]
fn what_is_unrelated_gone_or_not_ready_is_refused() {
    let world = World::new();
    world.pool(100);
    let (v, w) = (world.volume("v").id, world.volume("w").id);
    let a = world.cut(v, "a").expect("cut").id;
    let b = world.cut(w, "b").expect("cut").id;
    assert_eq!(kind(window(&world, Some(a), b, 0)), ErrorReason::SnapshotsUnrelated);
    let nobody = SnapshotId::from_u128(77);
    assert_eq!(kind(window(&world, Some(nobody), b, 0)), ErrorReason::SnapshotNotFound);
    assert_eq!(kind(window(&world, None, nobody, 0)), ErrorReason::SnapshotNotFound);
    let held = hold(&world, v);
    let set = world.cut_set(&[(v, "open")]).expect("stored");
    let open = set.snapshots[0].id;
    assert_eq!(kind(window(&world, Some(a), open, 0)), ErrorReason::SnapshotNotReady);
    assert_eq!(kind(window(&world, Some(open), a, 0)), ErrorReason::SnapshotNotReady);
    drop(held);
    world.delete_snapshot(a).expect("Ready");
    assert_eq!(kind(window(&world, Some(a), b, 0)), ErrorReason::SnapshotNotReady);
    assert_eq!(kind(window(&world, None, a, 0)), ErrorReason::SnapshotNotReady);
    world.settle();
    assert_eq!(kind(window(&world, None, a, 0)), ErrorReason::SnapshotNotFound);
}

#[test]
fn unique_is_what_a_merge_would_free_and_shared_is_the_rest() {
    let world = World::new();
    world.pool(100);
    let volume = world.volume("v").id;
    let usage = |of: UsageOf| {
        let usage = block_on(world.service.usage(&of)).expect("it is there");
        let Usage { owned_extents, unique_extents, .. } = usage;
        assert!(!usage.is_approximate);
        (owned_extents, unique_extents, usage.shared_extents())
    };
    let of_volume = || usage(UsageOf::Volume(Selector::Id(volume)));
    let of = |snapshot| usage(UsageOf::Snapshot(Selector::Id(snapshot)));
    let shapes = [(0, Shape::Full), (1, Shape::Blocks(0, 8)), (2, Shape::Full), (3, Shape::Bare)];
    write(&world, volume, &shapes);
    let a = world.cut(volume, "a").expect("cut").id;
    // Nothing is above the bare one, and nothing shows it either.
    assert_eq!((of(a), of_volume()), ((4, 1, 3), (0, 0, 3)));
    write(&world, volume, &[(0, Shape::Zero), (1, Shape::Blocks(0, 9)), (2, Shape::Blocks(0, 1))]);
    assert_eq!((of(a), of_volume()), ((4, 3, 1), (2, 2, 1)));
    let b = world.cut(volume, "b").expect("cut").id;
    assert_eq!((of(a), of(b), of_volume()), ((4, 3, 1), (2, 0, 3), (0, 0, 3)));
    let clone = world.clone_of(a, "c").expect("made").id;
    assert_eq!(of(a), (4, 0, 4), "two stand on it");
    assert_eq!(usage(UsageOf::Volume(Selector::Id(clone))), (0, 0, 3));
    world.delete(volume).expect("it begins");
    world.settle();
    assert_eq!(of(b), (2, 2, 1), "nothing stands on it any more");
    let held = hold(&world, clone);
    let open = world.cut_set(&[(clone, "open")]).expect("stored").snapshots[0].id;
    let asked = block_on(world.service.usage(&UsageOf::Snapshot(Selector::Id(open))));
    assert_eq!(kind(asked), ErrorReason::SnapshotNotReady);
    drop(held);
    let nobody = UsageOf::Volume(Selector::Id(VolumeId::from_u128(77)));
    assert_eq!(kind(block_on(world.service.usage(&nobody))), ErrorReason::VolumeNotFound);
}

/// A volume of many layers, and snapshots of some: `layers` times 3,000 slots, one layer beside
/// the other with the same number of slots in all.
fn deep() -> (World, VolumeId, Vec<SnapshotId>) {
    let world = World::new();
    world.pool(60_000);
    let volume = world.create("v", 16_000 * MIB).expect("made").id;
    let mut snapshots = Vec::new();
    for layer in 0..5_u64 {
        let shape = |at: u64| match (at + layer) % 4 {
            0 => Shape::Blocks(layer as u32 * 8, 16),
            1 => Shape::Zero,
            2 => Shape::Opaque(3, layer as u32 + 1),
            _ => Shape::Full,
        };
        let slots: Vec<_> = (0..3000).map(|n| n * (layer + 1)).map(|at| (at, shape(at))).collect();
        write(&world, volume, &slots);
        snapshots.push(world.cut(volume, &format!("s{layer}")).expect("cut").id);
    }
    (world, volume, snapshots)
}

#[test]
fn windows_join_to_the_whole_and_layers_may_vanish_between_them() {
    let (world, _, snapshots) = deep();
    let (first, last) = (Some(snapshots[0]), snapshots[4]);
    let (whole, windows) = diff_while(&world, (first, last), 0, || ()).expect("related");
    let (back, _) = diff_while(&world, (Some(last), snapshots[0]), 0, || ()).expect("related");
    assert!(windows > 3 && whole.len() > 3000, "{windows} windows, {} runs", whole.len());
    // Each window goes on from where an earlier stream was cut off.
    let mut cut = BTreeSet::new();
    let mut start = 0;
    while let Some(next) = window(&world, first, last, start).expect("related").next {
        cut.insert(next);
        start = next;
    }
    for start in cut {
        let (rest, _) = diff_while(&world, (first, last), start, || ()).expect("related");
        let ends: Vec<_> = whole.iter().filter(|run| run.end() > start).copied().collect();
        assert_eq!((rest.len(), rest[1..].to_vec()), (ends.len(), ends[1..].to_vec()), "{start}");
    }
    // Layers between the two merge upwards meanwhile, a step between two windows.
    for snapshot in &snapshots[1..4] {
        world.delete_snapshot(*snapshot).expect("Ready");
    }
    let step = || {
        for _ in 0..3 {
            block_on(world.service.step_operations()).expect("a step");
        }
    };
    for _ in 0..4 {
        assert!(!world.operations().is_empty(), "merges are under way");
        let meanwhile = diff_while(&world, (first, last), 0, step).expect("related");
        assert_eq!(meanwhile.0, whole);
    }
    world.settle();
    assert_eq!(diff(&world, first, last).expect("related"), whole);
    assert_eq!(diff(&world, Some(last), snapshots[0]).expect("related"), back);
    world.assert_clean();
}

#[test]
fn a_snapshot_that_is_deleted_on_the_way_is_refused_not_guessed() {
    let (world, _, snapshots) = deep();
    let delete = || {
        world.delete_snapshot(snapshots[2]).expect("Ready");
    };
    let ends = (Some(snapshots[2]), snapshots[4]);
    let outcome = diff_while(&world, ends, 0, delete);
    assert_eq!(kind(outcome), ErrorReason::SnapshotNotReady);
}

#[test]
fn usage_that_is_crossed_again_and_again_says_that_it_is_approximate() {
    let (world, volume, _) = deep();
    let held = hold(&world, volume);
    let of = UsageOf::Volume(Selector::Id(volume));
    let usage = || block_on(world.service.usage(&of)).expect("it is there");
    assert!(!usage().is_approximate);
    let is_over = AtomicBool::new(false);
    let was_approximate = std::thread::scope(|scope| {
        scope.spawn(|| {
            // It ends also when the other one panics.
            for blocks in (1..=8).cycle().take(20_000) {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                put(&world, &held, &[(1, Shape::Blocks(0, blocks))]);
            }
        });
        let found = (0..20).any(|_| usage().is_approximate);
        is_over.store(true, Ordering::Relaxed);
        found
    });
    assert!(was_approximate, "commits cross every walk");
    let after = usage();
    assert_eq!((after.is_approximate, after.owned_extents), (false, 1));
}

#[test]
fn usage_is_approximate_while_something_below_is_being_merged() {
    let world = World::new();
    world.pool(100);
    let volume = world.volume("v").id;
    write(&world, volume, &[(0, Shape::Full), (1, Shape::Full)]);
    let snapshot = world.cut(volume, "s").expect("cut").id;
    let usage = |of: UsageOf| block_on(world.service.usage(&of)).expect("it is there");
    let of_volume = || usage(UsageOf::Volume(Selector::Id(volume)));
    let before = of_volume();
    assert_eq!((before.is_approximate, before.reclaimable_extents), (false, 0));
    world.delete_snapshot(snapshot).expect("it begins");
    assert!(of_volume().is_approximate, "the deletion of the volume would free the layer below");
    world.settle();
    let after = of_volume();
    assert_eq!((after.is_approximate, after.reclaimable_extents), (false, 2));

    // The same below a fork.
    let base = world.cut(volume, "base").expect("cut").id;
    write(&world, volume, &[(0, Shape::Blocks(0, 1))]);
    let fork = world.cut(volume, "fork").expect("cut").id;
    world.clone_of(fork, "c").expect("made");
    world.delete_snapshot(fork).expect("it begins");
    world.settle();
    assert!(!of_volume().is_approximate, "a fork stays");
    world.delete_snapshot(base).expect("it begins");
    assert!(of_volume().is_approximate);
    world.settle();
    assert!(!of_volume().is_approximate);
    world.assert_clean();
}
