//! Merges of dropped layers: each row of the tables of docs/layers.md, and what crosses them.

use std::collections::BTreeMap;
use std::time::Duration;

use lunar_metadata::seams::block_on;
use lunar_metadata::service::Step;
use lunar_metadata::store::{Fault, FaultPlan, FaultyStore, MetaStore, RedbStore};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::chains::*;
use crate::world::{World, name};

/// What becomes of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Moved,
    Gone,
}
use Fate::{Gone, Moved};
use Shape::{Bare, Blocks, Full, Opaque, Zero};

/// A slot of the layer below, the own slot of the layer above, and what becomes of the lower one
/// if that hides.
const ROWS: &[(Shape, Option<Shape>, Fate)] = &[
    (Blocks(0, 4), None, Moved),
    (Blocks(0, 4), Some(Blocks(4, 4)), Moved),
    (Blocks(0, 4), Some(Blocks(1, 4)), Moved),
    (Blocks(0, 4), Some(Blocks(0, 4)), Gone),
    (Blocks(0, 4), Some(Full), Gone),
    (Blocks(0, 4), Some(Opaque(9, 1)), Gone),
    (Blocks(0, 4), Some(Zero), Gone),
    (Blocks(0, 4), Some(Bare), Moved),
    (Full, Some(Blocks(0, 255)), Moved),
    (Full, Some(Full), Gone),
    // An opaque slot also says zeros: only a whole one hides it (attack 28).
    (Opaque(0, 4), Some(Blocks(0, 4)), Moved),
    (Opaque(0, 4), Some(Blocks(0, 255)), Moved),
    (Opaque(0, 4), Some(Full), Gone),
    (Opaque(0, 4), Some(Opaque(0, 1)), Gone),
    (Opaque(0, 4), Some(Zero), Gone),
    (Zero, None, Moved),
    (Zero, Some(Blocks(0, 4)), Moved),
    (Zero, Some(Opaque(0, 4)), Gone),
    (Zero, Some(Full), Gone),
    // It shows nothing, whoever is above.
    (Bare, None, Gone),
    (Bare, Some(Blocks(0, 1)), Gone),
];

/// Who holds the layer above.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holder {
    /// Nobody: it is sealed.
    Sealed,
    Nobody,
    /// A live node.
    Held,
    /// A node that is gone.
    Gone,
    /// Nobody, and a journal waits for its replay.
    JournalLeft,
}

impl Holder {
    const ALL: [Self; 5] = [Self::Sealed, Self::Nobody, Self::Held, Self::Gone, Self::JournalLeft];

    fn own_slots_hide(self) -> bool {
        matches!(self, Self::Sealed | Self::Nobody)
    }
}

/// A layer with the lower slots of the rows below one with the upper slots.
struct Rows {
    world: World,
    pool: Pool,
    volume: VolumeId,
    below: LayerId,
    above: LayerId,
    dropped: SnapshotId,
}

/// `base`: slots further below, of a snapshot that stays.
fn rows(base: Option<Shape>, holder: Holder) -> Rows {
    let world = World::new();
    let pool = world.pool(1000);
    let volume = world.volume("v").id;
    let each = |shape: &dyn Fn(usize) -> Option<Shape>| -> Vec<(u64, Shape)> {
        let all = (0..ROWS.len()).filter_map(|row| Some((row as u64, shape(row)?)));
        all.collect()
    };
    if let Some(base) = base {
        write(&world, volume, &each(&|_| Some(base)));
        world.cut(volume, "base").expect("cut");
    }
    let below = head(&world, volume);
    write(&world, volume, &each(&|row| Some(ROWS[row].0)));
    let dropped = world.cut(volume, "below").expect("cut").id;
    let above = head(&world, volume);
    let held = hold(&world, volume);
    put(&world, &held, &each(&|row| ROWS[row].1));
    match holder {
        Holder::Sealed => {
            let_go(&world, &held);
            world.cut(volume, "above").expect("cut");
        }
        Holder::Nobody => let_go(&world, &held),
        Holder::Held => {}
        Holder::Gone => block_on(world.service.declare_fenced(held.node)).expect("fenced"),
        Holder::JournalLeft => world.detach(&held, DetachMode::KeepJournal).expect("detached"),
    }
    Rows { world, pool, volume, below, above, dropped }
}

#[test]
fn what_the_layer_above_hides_is_freed_and_everything_else_moves() {
    for holder in Holder::ALL {
        for base in [Some(Blocks(0, 256)), None] {
            let Rows { world, pool, volume, below, above, dropped } = rows(base, holder);
            let top = head(&world, volume);
            let before = view(&world, top);
            let allocated = world.status(pool.id).usage.allocated_extents;
            let bottom = world.layer(below).expect("there").parent;
            assert_eq!(bottom.is_some(), base.is_some());
            world.delete_snapshot(dropped).expect("it begins");
            world.settle();
            world.assert_clean();
            assert_eq!(view(&world, top), before, "{holder:?} {base:?}");
            assert!(world.layer(below).is_none() && world.operations().is_empty());
            assert_eq!(world.layer(above).expect("kept").parent, bottom);
            let births = births(&world, above);
            let mut freed = 0;
            for (row, (lower, upper, fate)) in ROWS.iter().enumerate() {
                let stays = match fate {
                    Moved => *lower != Zero || base.is_some(),
                    Gone => {
                        !holder.own_slots_hide() && *lower != Bare && {
                            *lower != Zero || base.is_some()
                        }
                    }
                };
                freed += u64::from(!stays && *lower != Zero);
                let lower = stays.then_some(below.get());
                let expected: Vec<u64> =
                    lower.into_iter().chain(upper.map(|_| above.get())).collect();
                let found = births.get(&(row as u64)).cloned().unwrap_or_default();
                assert_eq!(found, expected, "row {row} {:?}, {holder:?} {base:?}", ROWS[row]);
            }
            let left = world.status(pool.id).usage.allocated_extents;
            assert_eq!(allocated - left, freed, "{holder:?}: what goes is free at once");
        }
    }
}

/// A volume with three layers, of which the lower two are snapshots, and what they have.
fn three(world: &World, slots: [&[(u64, Shape)]; 3]) -> (VolumeId, [SnapshotId; 2]) {
    world.pool(1000);
    let volume = world.volume("v").id;
    write(world, volume, slots[0]);
    let lowest = world.cut(volume, "lowest").expect("cut").id;
    write(world, volume, slots[1]);
    let middle = world.cut(volume, "middle").expect("cut").id;
    write(world, volume, slots[2]);
    (volume, [lowest, middle])
}

#[test]
fn parts_of_a_head_that_were_sealed_before_hide_although_it_is_held() {
    let world = World::new();
    let lowest = [(0, Blocks(0, 4)), (1, Blocks(0, 4)), (2, Opaque(0, 4)), (3, Full)];
    let middle = [(0, Blocks(0, 8)), (1, Blocks(0, 2)), (2, Blocks(0, 4)), (3, Zero)];
    let own = [(0, Blocks(9, 1)), (1, Full), (2, Full), (3, Full)];
    let (volume, [low, mid]) = three(&world, [&lowest, &middle, &own]);
    let held = hold(&world, volume);
    let before = view(&world, held.volume.head);
    let ids: Vec<u64> = chain(&world, held.volume.head).into_iter().map(LayerId::get).collect();
    let [lowest, middle, own] = ids[..] else { panic!("three layers: {ids:?}") };
    settled(&world, mid);
    let with_parts = |births: Vec<u64>| (0..4).map(|at| (at, births.clone())).collect();
    let all: BTreeMap<_, _> = with_parts(vec![middle, own]);
    assert_eq!(births(&world, held.volume.head), all, "its own slots do not hide");
    settled(&world, low);
    let mut left = all;
    left.insert(1, vec![lowest, middle, own]);
    left.insert(2, vec![lowest, middle, own]);
    assert_eq!(births(&world, held.volume.head), left);
    assert_eq!(view(&world, held.volume.head), before);
}

#[test]
fn a_part_that_was_hidden_only_above_the_dropped_layer_goes_with_the_next_merge() {
    let world = World::new();
    let slots: [&[_]; 3] = [&[(0, Full)], &[(0, Blocks(3, 1))], &[(0, Full)]];
    let (volume, [low, mid]) = three(&world, slots);
    let held = hold(&world, volume);
    settled(&world, mid);
    settled(&world, low);
    let top = held.volume.head;
    assert_eq!(births(&world, top)[&0].len(), 3, "a live own slot hides nothing");
    let_go(&world, &held);
    let above = world.cut(volume, "above").expect("cut").id;
    settled(&world, above);
    let top = head(&world, volume);
    assert_eq!(births(&world, top)[&0].len(), 1, "sealed, it hides both");
    let pool = block_on(world.service.volume(&Selector::Id(volume))).expect("there").pool;
    assert_eq!(world.status(pool).usage.allocated_extents, 1);
}

#[test]
fn a_fork_is_not_merged_before_one_of_its_children_is_gone() {
    let world = World::new();
    let pool = world.pool(1000);
    let volume = world.volume("v").id;
    write(&world, volume, &[(0, Full), (1, Full)]);
    let snapshot = world.cut(volume, "s").expect("cut").id;
    // An export reads the snapshot through a clone (attack 21).
    let export = world.clone_of(snapshot, "export").expect("made");
    let before = view(&world, export.head);
    write(&world, volume, &[(0, Full)]);
    settled(&world, snapshot);
    assert!(world.operations().is_empty());
    assert_eq!(view(&world, export.head), before);
    write(&world, volume, &[(1, Blocks(0, 1))]);
    assert_eq!(view(&world, export.head), before);
    world.delete(export.id).expect("it begins");
    world.settle();
    world.assert_clean();
    let top = head(&world, volume);
    assert_eq!(chain(&world, top), [top], "merged");
    assert_eq!(births(&world, top)[&1].len(), 2);
    assert_eq!(world.status(pool.id).usage.allocated_extents, 3);
}

#[test]
fn figures_of_volumes_and_snapshots_count_parts() {
    let world = World::new();
    let slots: [&[_]; 3] = [&[(0, Full), (1, Zero)], &[(2, Full)], &[(3, Full)]];
    let (volume, [low, mid]) = three(&world, slots);
    settled(&world, low);
    let snapshot = block_on(world.service.snapshot(&Selector::Id(mid))).expect("there");
    assert_eq!(snapshot.owned_extents, 2);
    settled(&world, mid);
    let volume = block_on(world.service.volume(&Selector::Id(volume))).expect("there");
    assert_eq!(volume.mapped_extents, 3);
}

#[test]
fn a_chain_read_from_its_bottom_up_during_a_merge_misses_nothing() {
    // Attacks 5 and 6: the merge goes on between two pages of a reader.
    for pages_between in 1..4 {
        let world = World::new();
        world.pool(3000);
        let volume = world.volume("v").id;
        let layer = |index: u32| (0..500).map(|at| (at, Blocks(index * 2, 3))).collect();
        let snapshots = tower(&world, volume, (0..3).map(layer));
        let top = head(&world, volume);
        let before = view(&world, top);
        for snapshot in snapshots {
            world.delete_snapshot(snapshot).expect("it begins");
        }
        let (mut slots, mut page_count) = (Slots::new(), 0);
        for layer in chain(&world, top) {
            let mut from = Some(LogicalExtent::new(0));
            while let Some(at) = from {
                page_count += 1;
                if page_count % pages_between == 0 {
                    step(&world);
                }
                let read = ReadLayer { layer, from: at, limit: 100 };
                from = match block_on(world.service.read_layer(read)) {
                    Ok(page) => {
                        gather(&mut slots, layer, page.entries);
                        page.next
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorReason::LayerNotFound);
                        None
                    }
                };
            }
        }
        assert_eq!(shown(&slots), before, "a step every {pages_between} pages");
        world.settle();
        assert_eq!(view(&world, top), before);
        assert_eq!(chain(&world, top), [top]);
        world.assert_clean();
    }
}

/// A volume whose layers have a block each at some logical extents: no slot hides another.
fn tall(layers: u32, extents: u64) -> (World, Pool, VolumeId) {
    let world = World::new();
    let pool = world.pool(4000);
    let volume = world.volume("v").id;
    let layer = |index: u32| (0..extents).map(|at| (at, Blocks(index, 1))).collect();
    let snapshots = tower(&world, volume, (0..layers).map(layer));
    for snapshot in snapshots {
        world.delete_snapshot(snapshot).expect("it begins");
    }
    (world, pool, volume)
}

#[test]
fn a_merge_without_room_waits_and_goes_on_when_the_holder_has_pruned() {
    let (world, pool, volume) = tall(70, 2);
    let top = head(&world, volume);
    let before = view(&world, top);
    world.settle();
    world.assert_clean();
    assert_eq!(view(&world, top), before);
    let waiting = world.operations();
    assert!(!waiting.is_empty() && waiting.iter().all(|it| it.waits_for.is_some()));
    let last = waiting.iter().find(|it| it.waits_for.is_some_and(|room| room.layer == top));
    assert_eq!(last.and_then(|it| it.waits_for).map(|room| room.extents), Some(2));
    assert!(entries(&world, top).iter().all(|entry| entry.parts.len() <= LAYER_PARTS_MAX));

    // A full own slot hides them all, but only from the holder's prune on.
    let held = hold(&world, volume);
    put(&world, &held, &[(0, Full), (1, Full)]);
    assert_eq!(step(&world), Step::Idle);
    let before = view(&world, top);
    let mut rounds = 0;
    while !world.operations().is_empty() {
        let pruned = prune(&world, &held);
        assert!(!pruned.is_empty(), "there is something to prune");
        world.settle();
        world.assert_clean();
        rounds += 1;
    }
    assert!(rounds >= 1, "{rounds}");
    prune(&world, &held);
    assert_eq!(view(&world, top), before);
    let_go(&world, &held);
    world.settle();
    assert_eq!(world.status(pool.id).usage.allocated_extents, 2);
    assert_eq!(chain(&world, top), [top]);
    world.assert_clean();
}

#[test]
fn a_merge_without_room_is_tried_again_after_ten_minutes() {
    let (mut world, pool, volume) = tall(70, 1);
    world.settle();
    let top = head(&world, volume);
    write(&world, volume, &[(0, Full)]);
    world.settle();
    assert!(!world.operations().is_empty(), "nobody has told that there is room");
    world.clock.advance(Duration::from_secs(599));
    world.settle();
    assert!(!world.operations().is_empty());
    world.restart();
    world.settle();
    world.clock.advance(Duration::from_secs(599));
    world.settle();
    assert!(!world.operations().is_empty(), "a restart counts from its own beginning");
    for _ in 0..8 {
        world.clock.advance(Duration::from_secs(600));
        world.settle();
        world.assert_clean();
    }
    assert!(world.operations().is_empty(), "{:?}", world.operations());
    assert_eq!(births(&world, top)[&0].len(), 65, "only what came last is hidden");
    world.delete(volume).expect("it begins");
    world.settle();
    assert_eq!(world.status(pool.id).usage.allocated_extents, 0);
}

#[test]
fn a_merge_that_waits_goes_on_at_once_when_the_layer_above_is_gone() {
    let (world, pool, volume) = tall(70, 1);
    world.settle();
    assert!(!world.operations().is_empty());
    world.delete(volume).expect("it begins");
    world.settle();
    world.assert_clean();
    assert!(world.operations().is_empty());
    assert_eq!(world.status(pool.id).usage.allocated_extents, 0);
}

#[test]
fn what_was_left_behind_is_read_once_a_pass() {
    let (world, _, volume) = tall(64, 3);
    world.settle();
    assert!(world.operations().is_empty(), "64 parts fit");
    let full = world.cut(volume, "full").expect("cut").id;
    let own: Vec<_> = (0..900).map(|at| (at, Blocks(100, 1))).collect();
    write(&world, volume, &own);
    settled(&world, full);
    assert!(world.operations().is_empty(), "64 parts and an own slot fit");
    let dropped = world.cut(volume, "dropped").expect("cut");
    let top = head(&world, volume);
    let before = view(&world, top);
    world.delete_snapshot(dropped.id).expect("it begins");
    let [merge] = world.operations().try_into().expect("one operation");
    let mut ends = Vec::new();
    for _ in 0..4 {
        assert_eq!(step(&world), Step::Worked);
        let pass = operation(&world, merge.id).pass;
        assert_eq!((pass.left, pass.waits), (3, false));
        ends.push(pass.from.get());
        world.assert_clean();
    }
    assert_eq!(ends, [144, 480, 816, 900], "each step goes on where the last one ended");
    assert_eq!(step(&world), Step::Worked);
    assert_eq!(step(&world), Step::Idle);
    let [merge] = world.operations().try_into().expect("one operation");
    assert_eq!(merge.waits_for, Some(RoomWanted { layer: top, extents: 3 }));
    let left = entries(&world, dropped.layer.expect("it has one"));
    assert_eq!(left.iter().map(|entry| entry.parts.len()).collect::<Vec<_>>(), [1; 3]);
    assert!(left.iter().all(|entry| entry.own.is_none() && entry.parts[0].birth.get() == 1));
    assert_eq!(view(&world, top), before);
    world.assert_clean();
}

/// A chain whose merges meet every row, and its head.
fn mixed<S: MetaStore>(world: &World<S>) -> (Pool, VolumeId) {
    let pool = world.pool(4000);
    let volume = world.volume("v").id;
    let shapes = [Full, Blocks(0, 4), Opaque(0, 8), Zero, Blocks(2, 9), Bare, Blocks(0, 1)];
    let layer = |index: usize| {
        let shape = |at: u64| shapes[(index * 3 + at as usize) % shapes.len()];
        (0..40)
            .filter(|at| !(index as u64 + at).is_multiple_of(5))
            .map(|at| (at, shape(at)))
            .collect()
    };
    let snapshots = tower(world, volume, (0..5).map(layer));
    write(world, volume, &[(0, Blocks(7, 1)), (1, Full), (2, Zero)]);
    world.clone_of(snapshots[2], "clone").expect("made");
    for index in [1, 3, 0, 4] {
        world.delete_snapshot(snapshots[index]).expect("it begins");
    }
    (pool, volume)
}

fn delete_mixed<S: MetaStore>(world: &World<S>, pool: &Pool, volume: VolumeId) {
    let kept = block_on(world.service.snapshot(&Selector::Name(name("s2")))).expect("kept").id;
    world.delete_snapshot(kept).expect("it begins");
    let clone = block_on(world.service.volume(&Selector::Name(name("clone")))).expect("there").id;
    for volume in [volume, clone] {
        world.delete(volume).expect("it begins");
    }
    world.settle();
    world.assert_clean();
    assert_eq!(world.status(pool.id).usage.allocated_extents, 0);
    assert!(world.operations().is_empty());
}

#[test]
fn a_restart_at_every_step_of_a_merge_changes_no_view() {
    let mut world = World::new();
    let (pool, volume) = mixed(&world);
    let top = head(&world, volume);
    let tops = [top, chain(&world, top)[2]];
    let before = tops.map(|top| view(&world, top));
    let mut steps = 0;
    while step(&world) == Step::Worked {
        world.assert_clean();
        assert_eq!(tops.map(|top| view(&world, top)), before, "step {steps}");
        world.restart();
        steps += 1;
    }
    assert!(steps >= 8, "{steps} steps: four layers are moved and removed");
    assert_eq!(chain(&world, tops[0]), [tops[1], tops[0]]);
    delete_mixed(&world, &pool, volume);
}

#[test]
fn a_fault_at_every_commit_of_a_merge_changes_no_view() {
    for fault in [Fault::Conflict, Fault::CommittedUnknown, Fault::LostUnknown] {
        let plan = FaultPlan::default();
        let world = World::on(FaultyStore::new(RedbStore::in_memory(), plan.clone()));
        let (pool, volume) = mixed(&world);
        let top = head(&world, volume);
        let tops = [top, chain(&world, top)[2]];
        let before = tops.map(|top| view(&world, top));
        loop {
            plan.push(fault);
            if step(&world) == Step::Idle {
                break;
            }
            world.assert_clean();
            assert_eq!(tops.map(|top| view(&world, top)), before, "{fault:?}");
        }
        assert_eq!(chain(&world, tops[0]), [tops[1], tops[0]]);
        delete_mixed(&world, &pool, volume);
    }
}

#[test]
fn a_holder_hears_when_its_chain_is_another_one() {
    let Rows { world, volume, dropped, .. } = rows(None, Holder::Nobody);
    let held = hold(&world, volume);
    let watch = WatchNode {
        caller: world.caller_of(&held),
        structures: vec![ChangedStructure { volume, structure: held.structure }],
        members: Vec::new(),
        fences: vec![],
        peers: vec![],
        recalls: vec![],
    };
    let heard = || block_on(world.service.watch_node(&watch)).expect("told").structures;
    assert!(heard().is_empty());
    world.delete_snapshot(dropped).expect("it begins");
    world.settle();
    let structure = held.structure.next();
    assert_eq!(heard(), [ChangedStructure { volume, structure }]);
}
