//! Pruning: what the holder of a volume takes out of its head.

use std::collections::BTreeSet;

use lunar_metadata::seams::block_on;
use lunar_metadata::service::Step;
use lunar_metadata::store::{Fault, FaultPlan, FaultyStore, MetaStore, RedbStore};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::chains::*;
use crate::world::{World, kind};
use Shape::{Bare, Blocks, Full, Opaque, Zero};

/// The slots of a part, the own slot above, and whether the part is pruned.
const ROWS: &[(Shape, Option<Shape>, bool)] = &[
    (Blocks(0, 4), None, false),
    (Blocks(0, 4), Some(Blocks(0, 3)), false),
    (Blocks(0, 4), Some(Blocks(0, 4)), true),
    (Blocks(0, 4), Some(Full), true),
    (Blocks(0, 4), Some(Opaque(9, 1)), true),
    (Blocks(0, 4), Some(Zero), true),
    (Blocks(0, 4), Some(Bare), false),
    (Opaque(0, 4), Some(Blocks(0, 4)), false),
    (Opaque(0, 4), Some(Full), true),
    (Zero, Some(Blocks(0, 4)), false),
    (Zero, Some(Full), true),
    (Full, Some(Blocks(0, 255)), false),
];

/// A held volume whose head has the parts and own slots of the rows.
fn rows<S: MetaStore>(world: &World<S>) -> Attachment {
    world.pool(3000);
    let volume = world.volume("v").id;
    // Something that stays at the bottom, or a ZERO slot would not be kept by the merge.
    world.cut(volume, "base").expect("cut");
    let parts: Vec<_> = (0..).zip(ROWS.iter().map(|row| row.0)).collect();
    write(world, volume, &parts);
    let dropped = world.cut(volume, "dropped").expect("cut").id;
    let held = hold(world, volume);
    let own = (0..).zip(ROWS).filter_map(|(at, row)| Some((at, row.1?)));
    put(world, &held, &own.collect::<Vec<_>>());
    world.delete_snapshot(dropped).expect("it begins");
    world.settle();
    let parts: usize = entries(world, held.volume.head).iter().map(|it| it.parts.len()).sum();
    assert_eq!(parts, ROWS.len(), "the merge has moved all: the head is held");
    held
}

fn reserved<S: MetaStore>(world: &World<S>, node: NodeIncarnation) -> BTreeSet<ExtentAddress> {
    let page = block_on(world.service.reservations(node, &PageRequest::first())).expect("a page");
    let runs = page.items.into_iter().flat_map(|pool| pool.runs);
    runs.flat_map(|run| run.iter().collect::<Vec<_>>()).collect()
}

#[test]
fn what_the_committed_slot_hides_moves_into_the_reservation() {
    let world = World::new();
    let held = rows(&world);
    let top = held.volume.head;
    let (before, parts) = (view(&world, top), entries(&world, top));
    let pruned = prune(&world, &held);
    let expected: Vec<_> = parts
        .iter()
        .filter(|entry| ROWS[entry.at.get() as usize].2)
        .map(|entry| PrunedPart {
            at: entry.at,
            birth: entry.parts[0].birth,
            extent: entry.parts[0].slot.extent(),
        })
        .collect();
    assert_eq!(pruned, expected);
    let extents: BTreeSet<_> = pruned.iter().filter_map(|part| part.extent).collect();
    assert_eq!(reserved(&world, held.node), extents);
    assert_eq!(view(&world, top), before);
    world.assert_clean();
    assert_eq!(prune(&world, &held), [], "nothing is left to prune");
    let runs: Vec<_> = extents.iter().map(|at| ExtentRun::new(*at, 1)).collect();
    world.release(world.caller_of(&held), held.pool.id, &runs).expect("they are the caller's");
    world.assert_clean();
}

#[test]
fn parts_hide_parts_below_them_too() {
    let world = World::new();
    world.pool(100);
    let volume = world.volume("v").id;
    write(&world, volume, &[(0, Blocks(0, 4)), (1, Blocks(0, 4)), (2, Opaque(0, 4))]);
    let low = world.cut(volume, "low").expect("cut").id;
    write(&world, volume, &[(0, Blocks(0, 2)), (1, Blocks(0, 2)), (2, Blocks(0, 4))]);
    let mid = world.cut(volume, "mid").expect("cut").id;
    let held = hold(&world, volume);
    put(&world, &held, &[(0, Blocks(2, 2)), (1, Blocks(2, 1)), (2, Blocks(0, 1))]);
    for snapshot in [low, mid] {
        world.delete_snapshot(snapshot).expect("it begins");
    }
    world.settle();
    let before = view(&world, held.volume.head);
    let pruned: Vec<_> =
        prune(&world, &held).iter().map(|part| (part.at.get(), part.birth.get())).collect();
    assert_eq!(pruned, [(0, 1)], "by the union of the own slot and the part above it");
    assert_eq!(view(&world, held.volume.head), before);
    world.assert_clean();
}

#[test]
fn an_extent_is_zeroed_after_a_prune_and_nothing_comes_back() {
    // Attack 8, as far as the service sees it: the whole extent becomes ZERO, not a hole.
    let world = World::new();
    world.pool(100);
    let volume = world.volume("v").id;
    write(&world, volume, &[(0, Full)]);
    let low = world.cut(volume, "low").expect("cut").id;
    write(&world, volume, &[(0, Blocks(0, 4))]);
    let mid = world.cut(volume, "mid").expect("cut").id;
    let held = hold(&world, volume);
    put(&world, &held, &[(0, Full)]);
    world.delete_snapshot(mid).expect("it begins");
    world.settle();
    assert_eq!(prune(&world, &held).len(), 1);
    put(&world, &held, &[(0, Zero)]);
    world.delete_snapshot(low).expect("it begins");
    world.settle();
    assert!(view(&world, held.volume.head).is_empty());
    assert_eq!(prune(&world, &held).len(), 1, "what came later is hidden too");
    assert!(view(&world, held.volume.head).is_empty());
    world.assert_clean();
}

#[test]
fn a_part_stays_as_long_as_the_own_slot_covers_it_in_the_map_only() {
    // Attack 27: own slot and part have the same blocks. Until the prune was answered, the part is
    // in the map, so an engine that loads it keeps it in its list and writes zeros for a discard.
    let world = World::new();
    world.pool(100);
    let volume = world.volume("v").id;
    write(&world, volume, &[(0, Blocks(0, 4))]);
    let low = world.cut(volume, "low").expect("cut").id;
    let held = hold(&world, volume);
    put(&world, &held, &[(0, Blocks(0, 4))]);
    world.delete_snapshot(low).expect("it begins");
    world.settle();
    let top = held.volume.head;
    assert_eq!(births(&world, top)[&0].len(), 2);
    let pruned = prune(&world, &held);
    assert_eq!(pruned.iter().map(|part| part.birth.get()).collect::<Vec<_>>(), [1]);
    assert_eq!(births(&world, top)[&0], [top.get()]);
}

#[test]
fn a_window_ends_with_a_whole_logical_extent() {
    let world = World::new();
    world.pool(3000);
    let volume = world.volume("v").id;
    // 350 logical extents of 3 parts each: 500 is in the middle of one.
    let snapshots: Vec<_> = (0..3)
        .map(|layer| {
            let slots: Vec<_> = (0..350).map(|at| (at, Blocks(layer * 4, 4))).collect();
            write(&world, volume, &slots);
            world.cut(volume, &format!("s{layer}")).expect("cut").id
        })
        .collect();
    let held = hold(&world, volume);
    let own: Vec<_> = (0..350).map(|at| (at, Full)).collect();
    put(&world, &held, &own);
    for snapshot in snapshots {
        world.delete_snapshot(snapshot).expect("it begins");
    }
    world.settle();
    let mut from = Some(LogicalExtent::new(0));
    let mut windows = Vec::new();
    while let Some(at) = from {
        let request = prune_from(&world, &held, at);
        let answer = block_on(world.service.prune_layer(&request)).expect("pruned");
        let again = block_on(world.service.prune_layer(&request)).expect("remembered");
        assert_eq!(again, answer);
        windows.push((answer.parts.len(), answer.next.map(LogicalExtent::get)));
        from = answer.next;
        world.assert_clean();
    }
    assert_eq!(windows, [(498, Some(166)), (498, Some(332)), (54, None)]);
    assert_eq!(reserved(&world, held.node).len(), 1050);
}

#[test]
fn a_prune_sent_twice_is_done_once_and_a_lost_answer_is_given_again() {
    for fault in [Fault::Conflict, Fault::CommittedUnknown, Fault::LostUnknown] {
        let plan = FaultPlan::default();
        let world = World::on(FaultyStore::new(RedbStore::in_memory(), plan.clone()));
        let held = rows(&world);
        let request = prune_from(&world, &held, LogicalExtent::new(0));
        plan.push(fault);
        let first = block_on(world.service.prune_layer(&request)).expect("pruned");
        assert_eq!(plan.remaining(), 0);
        assert_eq!(first.parts.len(), ROWS.iter().filter(|row| row.2).count(), "{fault:?}");
        assert_eq!(block_on(world.service.prune_layer(&request)).expect("remembered"), first);
        let other = PruneLayer { from: LogicalExtent::new(1), ..request };
        let other = block_on(world.service.prune_layer(&other));
        assert_eq!(kind(other), ErrorReason::RequestIdReused);
        world.assert_clean();
    }
}

#[test]
fn only_the_holder_prunes_and_only_its_head() {
    let world = World::new();
    let held = rows(&world);
    let request = |change: &dyn Fn(&mut PruneLayer)| {
        let mut request = prune_from(&world, &held, LogicalExtent::new(0));
        change(&mut request);
        kind(block_on(world.service.prune_layer(&request)))
    };
    let sealed = LayerId::new(held.volume.head.get() - 2);
    assert_eq!(request(&|it| it.layer = sealed), ErrorReason::LayerNotWritable);
    assert_eq!(request(&|it| it.layer = LayerId::new(99)), ErrorReason::LayerNotWritable);
    assert_eq!(request(&|it| it.epoch = held.epoch.next()), ErrorReason::StaleEpoch);
    let other = world.node("other");
    assert_eq!(request(&|it| it.caller = other), ErrorReason::StaleEpoch);
    let stale = world.caller_of(&held);
    world.join_as("writer", 1, Some(held.node.incarnation.get())).expect("a successor");
    assert_eq!(request(&|it| it.caller = stale), ErrorReason::StaleSession);
    assert_eq!(prune(&world, &held).len(), ROWS.iter().filter(|row| row.2).count());
    world.detach(&held, DetachMode::KeepJournal).expect("detached");
    assert_eq!(request(&|_| ()), ErrorReason::NotAttached);
    let again = hold(&world, held.volume.id);
    let request = prune_from(&world, &again, LogicalExtent::new(0));
    let refused = block_on(world.service.prune_layer(&request));
    assert_eq!(kind(refused), ErrorReason::StaleJournals);
    world.assert_clean();
}

#[test]
fn a_prune_keeps_what_a_read_under_way_may_need_from_everybody_else() {
    // Attack 7: the part goes from the map into the holder's own reservation, never to the pool.
    let world = World::new();
    let held = rows(&world);
    let used = world.status(held.pool.id).usage.allocated_extents;
    let pruned = prune(&world, &held);
    assert_eq!(world.status(held.pool.id).usage.allocated_extents, used);
    block_on(world.service.declare_fenced(held.node)).expect("fenced");
    world.settle();
    let freed = pruned.iter().filter(|part| part.extent.is_some()).count() as u64;
    assert_eq!(
        world.status(held.pool.id).usage.allocated_extents,
        used,
        "a journal of the gone holder keeps its reservation"
    );
    let next = hold_by(&world, held.volume.id, "next");
    world.retire(&next, held.epoch).expect("retired");
    world.settle();
    let journal: u64 = next.journal.iter().map(|run| u64::from(run.count())).sum();
    let left = world.status(held.pool.id).usage.allocated_extents;
    assert_eq!(left, used - freed, "one journal of {journal} extents for another");
    assert_eq!(step(&world), Step::Idle);
    world.assert_clean();
}

fn hold_by(world: &World, volume: VolumeId, node: &str) -> Attachment {
    world.attach(volume, world.node(node)).expect("granted")
}
