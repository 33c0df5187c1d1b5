//! Background work beside damage: one bad entry stops nothing but itself, and is told.

use std::time::Duration;

use lunar_metadata::error::ServiceError;
use lunar_metadata::keyspace::*;
use lunar_metadata::seams::block_on;
use lunar_metadata::service::Step;
use lunar_metadata::store::{MetaStore, StoreError, Txn};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::damage::{Sound, sound};
use crate::world::{World, kind};

/// Gives a key a value that cannot be read.
fn spoil(world: &World, key: &impl Key) {
    let key = key.pack();
    let key = &key;
    let spoiled = world.service.store().transact(|txn| async move {
        txn.set(key, &[0xFF, 0xFF]);
        Ok::<_, StoreError>(())
    });
    block_on(spoiled).expect("spoiled");
}

/// Steps until nothing is left to do; gives what was told.
fn told(world: &World) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..1000 {
        match block_on(world.service.step_operations()) {
            Ok(Step::Worked) => {}
            Ok(Step::Idle) => return told,
            Err(error @ ServiceError::Corrupt { .. }) => told.push(error.to_string()),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the work does not end");
}

/// Everything that background work does is done; gives what was told meanwhile.
fn does_its_work(world: &World) -> Vec<String> {
    let (node, member) = (world.node("n"), world.volume("member"));
    world.attach(member.id, node).expect("granted");
    let set = world.cut_set(&[(member.id, "late")]).expect("stored");
    let deleted = world.volume("deleted");
    world.delete(deleted.id).expect("it begins");
    let mut all = told(world);
    let gone = block_on(world.service.volume(&Selector::Id(deleted.id)));
    assert_eq!(kind(gone), ErrorReason::VolumeNotFound, "operations go on: {all:?}");
    world.clock.advance(Duration::from_secs(30));
    all.extend(told(world));
    assert_eq!(world.set(set.id).state, SetState::Aborted, "sets do: {all:?}");
    // A request that is remembered now is forgotten after two generations, its set too.
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(600));
        all.extend(told(world));
    }
    let forgotten = block_on(world.service.snapshot_set(set.id));
    assert_eq!(kind(forgotten), ErrorReason::SetNotFound, "{all:?}");
    all
}

/// Whether each telling names this key and says what to do; it was told once in ten minutes.
fn assert_told(told: &[String], key: &str) {
    let named: Vec<_> = told.iter().filter(|text| text.contains(key)).collect();
    assert!((1..=5).contains(&named.len()), "{key}: {told:#?}");
    assert!(named.iter().all(|text| text.contains("lunar fsck")), "{named:?}");
    assert_eq!(named.len(), told.len(), "nothing else: {told:#?}");
}

#[test]
fn nothing_is_told_of_a_sound_store() {
    let world = World::new();
    world.pool(64);
    assert!(does_its_work(&world).is_empty());
    world.assert_clean();
}

#[test]
fn a_member_that_cannot_be_read_stops_nothing_else() {
    let world = World::new();
    world.pool(64);
    let key = SetMemberKey { set: SnapshotSetId::from_u128(1), volume: VolumeId::from_u128(1) };
    spoil(&world, &key);
    assert_told(&does_its_work(&world), "SetMemberKey");
}

#[test]
fn a_set_that_cannot_be_read_stops_nothing_else() {
    let world = World::new();
    world.pool(64);
    let (node, volume) = (world.node("a"), world.volume("v"));
    world.attach(volume.id, node).expect("granted");
    let set = world.cut_set(&[(volume.id, "s")]).expect("stored");
    spoil(&world, &SnapshotSetKey { set: set.id });
    assert_told(&does_its_work(&world), "SnapshotSetKey");
}

/// Of several sets that are late, the first one cannot be aborted.
#[test]
fn a_late_set_that_cannot_be_aborted_keeps_no_other_open() {
    let world = World::new();
    world.pool(64);
    let node = world.node("a");
    let sets = ["v", "w", "x"].map(|volume| {
        let volume = world.volume(volume);
        world.attach(volume.id, node).expect("granted");
        let snapshot = format!("of-{}", volume.name);
        (volume.id, world.cut_set(&[(volume.id, &snapshot)]).expect("stored").id)
    });
    let first = sets.iter().min_by_key(|(_, set)| *set).expect("three");
    spoil(&world, &VolumeKey { volume: first.0 });
    assert_eq!(told(&world), [""; 0]);
    world.clock.advance(Duration::from_secs(30));
    assert_told(&told(&world), "VolumeKey");
    for (_, set) in &sets {
        let is_open = world.set(*set).state.is_open();
        assert_eq!(is_open, *set == first.1, "only the damaged one is left");
    }
}

#[test]
fn a_request_that_cannot_be_read_stops_nothing_else() {
    let world = World::new();
    world.pool(64);
    let request = world.request();
    spoil(&world, &IdempotencyKey { generation: Generation::new(0), request });
    let told = does_its_work(&world);
    assert_told(&told, "IdempotencyKey");
    let remembered = block_on(async {
        let txn = world.service.store().begin().await.expect("begun");
        let read = TypedRange::<IdempotencyKey>::table().first(1000);
        txn.scan_sound::<IdempotencyKey>(read).await.expect("read").entries.len()
    });
    assert_eq!(remembered, 0, "all others are forgotten");
}

#[test]
fn an_operation_that_cannot_be_read_stops_nothing_else() {
    let world = World::new();
    world.pool(64);
    spoil(&world, &OperationKey { operation: OperationId::new(0) });
    assert_told(&does_its_work(&world), "OperationKey");
}

/// Its volume is not there: the operation can do nothing, and rests.
#[test]
fn an_operation_that_meets_damage_rests_while_others_go_on() {
    let world = World::new();
    world.pool(64);
    let lost = world.volume("lost");
    world.delete(lost.id).expect("it begins");
    spoil(&world, &VolumeKey { volume: lost.id });
    assert_told(&does_its_work(&world), "VolumeKey");
    assert_eq!(world.operations().len(), 1, "it is still there");
}

/// Who holds it would write into what is freed.
#[test]
fn a_volume_that_is_held_is_not_taken_away() {
    let world = World::new();
    world.pool(64);
    let volume = world.volume("v");
    world.delete(volume.id).expect("it begins");
    let (node, other) = (world.node("a"), world.volume("other"));
    world.attach(other.id, node).expect("granted");
    let (from, to) = (other.id, volume.id);
    let moved = world.service.store().transact(|txn| async move {
        let held = txn.load_known(&AttachmentKey { volume: from }).await?;
        txn.put(&AttachmentKey { volume: to }, &held);
        Ok::<_, ServiceError>(())
    });
    block_on(moved).expect("moved");
    assert_told(&told(&world), "holds it under epoch 1");
    assert_eq!(world.operations().len(), 1);
    block_on(world.service.volume(&Selector::Id(volume.id))).expect("it is there");
    let kinds: Vec<_> = world.findings().into_iter().map(|finding| finding.kind).collect();
    assert!(kinds.contains(&"deleting-attached".to_owned()), "{kinds:?}");
}

/// How it is told that a layer is needed, and what makes it so.
type Need = (&'static str, fn(&Sound, LayerId));

/// Ways to need a layer that its list of children does not tell of.
const NEEDED: &[Need] = &[
    ("stands on it", |it, layer| {
        let child = it.ready.layer.expect("it has one");
        it.damage(|txn| txn.remove(&ChildKey { parent: layer, child }));
    }),
    ("it is the head of volume", |it, layer| {
        it.alter(VolumeKey { volume: it.volume.id }, |volume| volume.head = layer);
    }),
    ("shows it", |it, _| {
        it.alter(SnapshotKey { snapshot: it.dropped.id }, |snapshot| {
            snapshot.state = SnapshotState::Ready;
        });
    }),
    ("it is the next head of volume", |it, layer| {
        it.alter(AttachmentKey { volume: it.member }, |held| held.next_head = layer);
    }),
    ("it is the next head of the stale journal", |it, layer| {
        let key = StaleJournalKey { volume: it.volume.id, epoch: Epoch::new(1) };
        it.alter(key, |stale| stale.next_head = layer);
    }),
];

#[test]
fn a_layer_that_anything_names_is_not_dropped() {
    for (why, damage) in NEEDED {
        let sound = sound();
        let layer = sound.dropped.layer.expect("it has one");
        sound.put_zero(layer, layer);
        damage(&sound, layer);
        let told = told(&sound.world);
        assert_told(&told, why);
        assert!(told[0].contains(&format!("layer {layer}")), "{told:?}");
        let left = sound.load(&SlotKey { layer, at: LogicalExtent::new(3) });
        assert!(left.0.extent().is_none(), "its slot is there");
        let waits = sound.world.operations().into_iter().map(|operation| operation.work);
        assert_eq!(waits.collect::<Vec<_>>(), [OperationWork::DropLayer(layer)], "{why}");
    }
}

/// The counter of generations: neither sets nor requests are forgotten, and the rest goes on.
#[test]
fn a_counter_that_cannot_be_read_stops_what_needs_it_alone() {
    let world = World::new();
    world.pool(64);
    let deleted = world.volume("deleted");
    world.delete(deleted.id).expect("it begins");
    spoil(&world, &CounterKey { counter: Counter::Generation });
    assert_told(&told(&world), "CounterKey");
    let gone = block_on(world.service.volume(&Selector::Id(deleted.id)));
    assert_eq!(kind(gone), ErrorReason::VolumeNotFound);
}
