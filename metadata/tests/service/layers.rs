//! What layers count of their slots and parts.

use lunar_metadata::keyspace::*;
use lunar_metadata::seams::block_on;
use lunar_metadata::store::{MetaStore, StoreError};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::world::{World, hole, kind, solid};

fn load<K: Key>(world: &World, key: &K) -> Option<K::Value> {
    block_on(async {
        let txn = world.service.store().begin().await.expect("begun");
        txn.load(key).await.expect("it can be read")
    })
}

fn layer(world: &World, volume: &Volume) -> LayerRecord {
    load(world, &LayerKey { layer: volume.head }).expect("the head is there")
}

/// What a merge would leave: own slots of a volume's head as parts that were born in layer 1.
fn turn_into_parts(world: &World, volume: &Volume, count: u64) {
    let key = &LayerKey { layer: volume.head };
    let (layer, birth) = (volume.head, LayerId::new(1));
    let turned = world.service.store().transact(|txn| async move {
        let mut record = txn.load(key).await.expect("read").expect("the head is there");
        let mut sums = LayerPartsRecord { extents: 0, parts: 0, digest: SlotDigest::default() };
        for at in (0..count).map(LogicalExtent::new) {
            let own = SlotKey { layer, at };
            let slot = txn.load(&own).await.expect("read").expect("the slot is there");
            let part = PartKey { layer, at, birth };
            record.extents -= 1;
            record.digest = record.digest.without(&own, &slot);
            sums.extents += 1;
            sums.parts += 1;
            sums.digest = sums.digest.with(&part, &slot);
            txn.remove(&own);
            txn.put(&part, &slot);
        }
        txn.put(key, &record);
        txn.put(&LayerPartsKey { layer }, &sums);
        Ok::<_, StoreError>(())
    });
    block_on(turned).expect("turned");
}

#[test]
fn commits_keep_the_digest_of_what_is_mapped_and_not_of_how_it_came() {
    let world = World::new();
    let pool = world.pool(3000);
    let volume = world.volume("v");
    let node = world.node("a");
    let held = world.attach(volume.id, node).expect("granted");
    let e = world.extents(node, pool.id, 4);
    assert_eq!(layer(&world, &volume).digest, SlotDigest::default());
    assert_eq!(layer(&world, &volume).name, LayerName::Head(volume.id));

    world.commit(&held, vec![solid(0, e[0]), solid(1, e[1])]).expect("mapped");
    let (first, both) = (layer(&world, &volume), SlotDigest::default());
    let value = |at, extent| SlotValue(solid(at, extent).slot.expect("a slot"));
    let key = |at| SlotKey { layer: volume.head, at: LogicalExtent::new(at) };
    let both = both.with(&key(0), &value(0, e[0])).with(&key(1), &value(1, e[1]));
    assert_eq!((first.extents, first.digest), (2, both));

    world.commit(&held, vec![solid(0, e[2]), hole(1), hole(7)]).expect("changed");
    assert_ne!(layer(&world, &volume).digest, both);
    world.assert_clean();
    world.commit(&held, vec![solid(0, e[0]), solid(1, e[1])]).expect("changed back");
    assert_eq!(layer(&world, &volume), first);
    world.commit(&held, vec![hole(0), hole(1)]).expect("unmapped");
    let empty = layer(&world, &volume);
    assert_eq!((empty.extents, empty.digest), (0, SlotDigest::default()));
    world.assert_clean();
}

#[test]
fn a_volume_is_deleted_with_the_parts_of_its_head() {
    let world = World::new();
    let pool = world.pool(3000);
    world.volume("older");
    let volume = world.volume("v");
    let node = world.node("a");
    let held = world.attach(volume.id, node).expect("granted");
    let e = world.extents(node, pool.id, 600);
    let updates = |range: std::ops::Range<u64>| {
        range.map(|at| solid(at, e[usize::try_from(at).expect("small")])).collect()
    };
    world.commit(&held, updates(0..600)).expect("mapped");
    turn_into_parts(&world, &volume, 599);
    world.assert_clean();
    world.detach(&held, DetachMode::Clean).expect("detached");
    world.delete(volume.id).expect("it begins");
    let sums = || load(&world, &LayerPartsKey { layer: volume.head });
    assert_eq!(sums().map(|it| it.parts), Some(599));
    block_on(world.service.step_operations()).expect("the head is dropped");
    block_on(world.service.step_operations()).expect("own slots go");
    block_on(world.service.step_operations()).expect("parts go");
    assert_eq!(sums().map(|it| (it.parts, it.extents)), Some((99, 99)));
    world.assert_clean();
    world.settle();
    assert_eq!(sums(), None);
    assert_eq!(load(&world, &LayerKey { layer: volume.head }), None);
    world.assert_clean();
}

type Row = (u64, bool, Vec<u64>);

/// Reads a layer in pages: logical extent, own slot, births of its parts.
fn pages(world: &World, layer: LayerId, limit: usize) -> Vec<Vec<Row>> {
    let (mut from, mut pages) = (LogicalExtent::new(0), Vec::new());
    loop {
        let read = ReadLayer { layer, from, limit };
        let page = block_on(world.service.read_layer(read)).expect("a page");
        let births = |entry: &LayerEntry| entry.parts.iter().map(|it| it.birth.get()).collect();
        let row = |entry: &LayerEntry| (entry.at.get(), entry.own.is_some(), births(entry));
        pages.push(page.entries.iter().map(row).collect());
        match page.next {
            Some(next) => {
                assert!(next > from, "a page goes forward");
                from = next;
            }
            None => return pages,
        }
    }
}

#[test]
fn a_layer_is_read_in_pages_of_whole_logical_extents() {
    let world = World::new();
    world.pool(3000);
    (0..70).for_each(|at| drop(world.volume(&format!("older-{at}"))));
    let layer = world.volume("v").head;
    let zero = &SlotValue(Slot::zero(ExtentSize::DEFAULT));
    let put = world.service.store().transact(|txn| async move {
        for at in [0, 2, 4, 5].map(LogicalExtent::new) {
            txn.put(&SlotKey { layer, at }, zero);
        }
        let births = [(2, 1..4), (3, 1..65), (5, 1..2), (9, 7..9)];
        for (at, birth) in births.into_iter().flat_map(|(at, it)| it.map(move |one| (at, one))) {
            let (at, birth) = (LogicalExtent::new(at), LayerId::new(birth));
            txn.put(&PartKey { layer, at, birth }, zero);
        }
        Ok::<_, StoreError>(())
    });
    block_on(put).expect("put");
    let all: Vec<Row> = vec![
        (0, true, vec![]),
        (2, true, vec![1, 2, 3]),
        (3, false, (1..65).collect()),
        (4, true, vec![]),
        (5, true, vec![1]),
        (9, false, vec![7, 8]),
    ];
    assert_eq!(pages(&world, layer, 1000), std::slice::from_ref(&all));
    for limit in 1..80 {
        let pages = pages(&world, layer, limit);
        assert!(pages.iter().all(|page| !page.is_empty()), "limit {limit}: {pages:?}");
        assert_eq!(pages.concat(), all, "limit {limit}");
    }
    let missing = ReadLayer { layer: LayerId::new(99), from: LogicalExtent::new(0), limit: 1 };
    let refused = block_on(world.service.read_layer(missing));
    assert_eq!(kind(refused), ErrorReason::LayerNotFound);
}
