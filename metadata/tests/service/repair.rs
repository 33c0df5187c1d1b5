//! What the check repairs, what it refuses, and that neither gives anything away.

use std::collections::BTreeSet;

use lunar_metadata::error::ServiceError;
use lunar_metadata::fsck::{FindingKind, Flow};
use lunar_metadata::keyspace::*;
use lunar_metadata::seams::block_on;
use lunar_metadata::store::{KeyRange, KeyValue, MetaStore as _, RangeRead, StoreError, Txn as _};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::damage::{Sound, bit, damages, sound};
use crate::world::{World, kind, name};

/// Every entry of a store.
pub fn dump(world: &World) -> Vec<KeyValue> {
    block_on(async {
        let txn = world.service.store().begin().await.expect("begun");
        let all = KeyRange::new(Vec::new(), vec![0xFF; 2]);
        txn.get_range(&RangeRead::first(all, 100_000)).await.expect("read")
    })
}

/// A sound store without a stale journal.
fn settled() -> Sound {
    let sound = sound();
    sound.world.retire(&sound.held, Epoch::new(1)).expect("retired");
    sound.world.assert_clean();
    sound
}

fn summary(world: &World) -> FsckSummary {
    block_on(world.service.fsck(&mut |_| Flow::Continue)).expect("checked")
}

/// What a repair says that it has done, and what is left then.
fn repair_as(
    world: &World,
    findings: FindingsDigest,
) -> Result<(Vec<FsckRepaired>, FsckSummary), ServiceError> {
    let mut repaired = Vec::new();
    let mut sink = |event| {
        if let FsckEvent::Repaired(done) = event {
            repaired.push(done);
        }
        Flow::Continue
    };
    let left = block_on(world.service.repair(findings, &mut sink))?;
    Ok((repaired, left))
}

fn repair(world: &World) -> (Vec<FsckRepaired>, FsckSummary) {
    repair_as(world, summary(world).digest).expect("repaired")
}

/// Marks an extent allocated.
fn allocate(sound: &Sound, at: ExtentAddress) {
    let (group, place) = GroupIndex::of(at.extent);
    let key = sound.group_key(group.get());
    let found = dump(&sound.world).into_iter().find(|(found, _)| *found == key.pack());
    let mut bits = found.map_or(Bitmap::EMPTY, |it| Bitmap::decode(&it.1).expect("a bitmap"));
    assert!(bits.insert(place));
    sound.damage(|txn| txn.put(&key, &bits));
}

fn is_safe(finding: &FsckFinding) -> bool {
    matches!(finding.remedy, FsckRemedy::Repair(_))
}

fn refusal(finding: &FsckFinding) -> &str {
    let FsckRemedy::Refused(why) = &finding.remedy else { panic!("{finding:?}") };
    why
}

/// Does a damage to a sound store.
type Damage = fn(&Sound);

/// A case by name: a sound store, and what happens to it.
type Case = (&'static str, fn() -> Sound, Damage);

/// The five kinds of damage of the design, each with whether it is repaired.
const FIVE: &[(&str, FindingKind, bool, Damage)] = &[
    ("leak", FindingKind::ExtentLeaked, true, |it| {
        it.damage(|txn| txn.remove(&it.reserved_key()));
    }),
    ("double owner", FindingKind::ExtentDoublyOwned, false, |it| {
        it.damage(|txn| txn.put(&it.slot_key(1), &it.slot(it.mapped)));
    }),
    ("out of range", FindingKind::ExtentOutOfRange, false, |it| {
        it.damage(|txn| txn.put(&it.slot_key(1), &it.slot(ExtentAddress::new(0, 3000))));
    }),
    ("epoch inversion", FindingKind::EpochInversion, true, |it| {
        it.alter(VolumeKey { volume: it.volume.id }, |volume| volume.epoch = Epoch::new(1));
    }),
    ("wrong presence", FindingKind::LayerDigest, false, |it| {
        it.alter(it.slot_key(0), |slot| slot.0.presence.remove(BlockRange::new(7, 1)));
    }),
];

#[test]
fn five_kinds_of_damage_are_found_and_the_safe_ones_repaired() {
    for (what, kind, safe, damage) in FIVE {
        let sound = settled();
        let world = &sound.world;
        damage(&sound);
        let found: Vec<_> =
            world.findings().into_iter().filter(|it| it.kind == kind.as_str()).collect();
        assert!(!found.is_empty(), "{what}");
        assert!(found.iter().all(|it| is_safe(it) == *safe), "{what}: {found:#?}");
        let before = dump(world);
        let (repaired, left) = repair(world);
        if *safe {
            assert!(!repaired.is_empty() && repaired.iter().all(|it| it.changed), "{what}");
            assert_eq!(left.findings, 0, "{what}");
            world.assert_clean();
        } else {
            assert!(found.iter().all(|it| refusal(it).contains("is not known: ")), "{what}");
            assert!(repaired.is_empty(), "{what}: {repaired:?}");
            assert_eq!(dump(world), before, "{what}");
        }
    }
}

#[test]
fn leaked_extents_are_quarantined_and_not_given_away() {
    let sound = settled();
    let world = &sound.world;
    let (node, group) = (sound.held.node, GroupIndex::of(sound.reserved.extent).0);
    let leaked = sound.load(&sound.reserved_key());
    assert!(leaked.count() >= 3);
    let allocated = sound.load(&sound.group_key(group.get()));
    sound.damage(|txn| txn.remove(&sound.reserved_key()));
    repair(world);
    assert_eq!(sound.load(&sound.group_key(group.get())), allocated, "none became free");
    let (pool, stamp) = (sound.pool.id, QuarantineStamp::BY_HAND);
    let key = QuarantineKey { pool, lun: LunIndex::new(0), group, stamp };
    assert_eq!(sound.load(&key), leaked);
    let session = world.caller_of(&sound.held);
    assert_eq!(session.node, node);
    let mut given = BTreeSet::new();
    while let Ok(runs) = world.reserve(session, pool, 1000) {
        given.extend(runs.iter().flat_map(|run| run.iter()));
    }
    assert!(given.len() > 2000, "the pool is used up");
    for bit in leaked.iter() {
        let at = ExtentAddress { lun: LunIndex::new(0), extent: group.extent(bit) };
        assert!(!given.contains(&at), "{at} was given away");
    }
    world.assert_clean();
}

#[test]
fn a_second_leak_of_the_same_group_joins_the_first() {
    let sound = settled();
    let group = GroupIndex::of(sound.reserved.extent).0;
    sound.damage(|txn| txn.remove(&sound.reserved_key()));
    repair(&sound.world);
    let key = QuarantineKey {
        pool: sound.pool.id,
        lun: LunIndex::new(0),
        group,
        stamp: QuarantineStamp::BY_HAND,
    };
    let first = sound.load(&key);
    sound.alter(sound.group_key(group.get()), |bits| assert!(bits.insert(900)));
    let (repaired, left) = repair(&sound.world);
    assert_eq!((repaired.len(), left.findings), (1, 0));
    assert_eq!(sound.load(&key), first.or(&bit(900)));
}

#[test]
fn a_leak_of_which_the_owner_may_be_hidden_is_left_alone() {
    let hide: &[Case] = &[
        ("a stale journal is left", sound, |_| {}),
        ("an entry that cannot be read", settled, |it| it.damage(|txn| txn.set(b"junk", b"junk"))),
        ("a missing layer or volume", settled, |it| {
            let key = SlotKey { layer: LayerId::new(90), at: LogicalExtent::new(0) };
            it.damage(|txn| txn.put(&key, &it.slot(ExtentAddress::new(0, 2000))));
        }),
    ];
    for (reason, make, hide) in hide {
        let sound = make();
        sound.damage(|txn| txn.remove(&sound.reserved_key()));
        hide(&sound);
        let findings = sound.world.findings();
        let leaks: Vec<_> = findings.iter().filter(|it| it.kind == "extent-leaked").collect();
        assert!(!leaks.is_empty());
        for leak in leaks {
            assert!(refusal(leak).contains(reason), "{leak:?}");
        }
        let before = dump(&sound.world);
        repair(&sound.world);
        assert_eq!(dump(&sound.world), before, "{reason}");
    }
}

/// Damages besides the five that are repaired.
const SAFE_TOO: &[(FindingKind, Damage)] = &[
    (FindingKind::ChildMismatch, |it| {
        let parent = it.dropped.layer.expect("it has one");
        let child = it.ready.layer.expect("it has one");
        it.load(&ChildKey { parent, child });
        it.damage(|txn| txn.remove(&ChildKey { parent, child }));
    }),
    (FindingKind::ChildMismatch, |it| {
        let key = ChildKey { parent: it.volume.head, child: LayerId::new(90) };
        it.damage(|txn| txn.put(&key, &Present {}));
    }),
    (FindingKind::LayerStranded, |it| it.damage(|txn| txn.remove(&it.drop_key()))),
    (FindingKind::ExtentUnallocated, |it| {
        let (group, at) = GroupIndex::of(it.mapped.extent);
        it.alter(it.group_key(group.get()), |bits| assert!(bits.remove(at)));
    }),
    (FindingKind::NameMismatch, |it| {
        let name = it.volume.name.clone();
        it.damage(|txn| txn.remove(&VolumeNameKey { name: name.clone() }));
    }),
    (FindingKind::NameMismatch, |it| {
        let key = PoolNameKey { name: "ghost".parse().expect("a name") };
        it.damage(|txn| txn.put(&key, &PoolNameRecord { pool: it.pool.id }));
    }),
    (FindingKind::NameMismatch, |it| {
        let key = NodeNameKey { name: "a".parse().expect("a name") };
        it.damage(|txn| txn.put(&key, &NodeNameRecord { node: NodeId::new(77) }));
    }),
    (FindingKind::NameMismatch, |it| {
        let key = SnapshotNameKey { name: it.ready.name.clone() };
        it.damage(|txn| txn.remove(&key));
    }),
    (FindingKind::NameMismatch, |it| {
        let key = SnapshotNameKey { name: it.dropped.name.clone() };
        let record = SnapshotNameRecord { snapshot: it.dropped.id };
        it.damage(|txn| txn.put(&key, &record));
    }),
];

#[test]
fn indices_operations_and_bits_are_rebuilt() {
    for (index, (kind, damage)) in SAFE_TOO.iter().enumerate() {
        let sound = sound();
        let without = |entries: Vec<KeyValue>| -> Vec<KeyValue> {
            // The operation that a repair begins has another number.
            let volatile = [TypedRange::<OperationKey>::table().keys().clone()];
            let counter = CounterKey { counter: Counter::Operation }.pack();
            let is_kept = |(key, _): &KeyValue| {
                *key != counter && !volatile.iter().any(|range| range.contains(key))
            };
            entries.into_iter().filter(is_kept).collect()
        };
        let before = without(dump(&sound.world));
        damage(&sound);
        let found = sound.world.findings();
        assert!(found.iter().any(|it| it.kind == kind.as_str()), "{index}: {found:?}");
        let (repaired, left) = repair(&sound.world);
        assert!(repaired.iter().any(|it| it.changed), "{index}");
        assert_eq!(left, summary(&sound.world));
        assert_eq!(left.findings, 0, "{index} {kind:?}: {:#?}", sound.world.findings());
        assert_eq!(without(dump(&sound.world)), before, "{index} {kind:?}: it is as it was");
    }
}

#[test]
fn an_epoch_rises_above_the_journals_of_a_volume_that_nobody_holds() {
    let sound = sound();
    let world = &sound.world;
    let record = sound.load(&StaleJournalKey { volume: sound.volume.id, epoch: Epoch::new(1) });
    let other = world.volume("other").id;
    let NodeIncarnation { node, incarnation } = record.node;
    let epoch = Epoch::new(7);
    let stale = StaleJournalRecord {
        journal: vec![ExtentRun::new(ExtentAddress::new(0, 2000), 1)],
        next_head: LayerId::new(500),
        ..record
    };
    sound.damage(|txn| {
        txn.put(&StaleJournalKey { volume: other, epoch }, &stale);
        txn.put(&NodeStaleJournalKey { node, incarnation, volume: other, epoch }, &Present {});
        txn.put(&CounterKey { counter: Counter::Layer }, &CounterRecord { last: 500 });
    });
    allocate(&sound, ExtentAddress::new(0, 2000));
    let kinds: Vec<_> = world.findings().into_iter().map(|it| it.kind).collect();
    assert_eq!(kinds, ["epoch-inversion"]);
    let (_, left) = repair(world);
    assert_eq!(left.findings, 0);
    assert_eq!(sound.load(&VolumeKey { volume: other }).epoch, Epoch::new(8));
    let held = world.attach(other, world.caller_of(&sound.held)).expect("granted");
    assert!(held.epoch > Epoch::new(8));
}

#[test]
fn an_epoch_that_a_holder_contradicts_is_not_raised() {
    let sound = sound();
    sound.alter(VolumeKey { volume: sound.volume.id }, |volume| volume.epoch = Epoch::new(9));
    let findings = sound.world.findings();
    assert!(refusal(&findings[0]).contains("detach the volume"), "{findings:?}");
    let before = dump(&sound.world);
    repair(&sound.world);
    assert_eq!(dump(&sound.world), before);
}

#[test]
fn a_stranded_layer_is_not_freed_while_a_map_is_in_doubt() {
    let sound = sound();
    sound.damage(|txn| txn.remove(&sound.drop_key()));
    sound.damage(|txn| txn.put(&sound.slot_key(1), &sound.slot(sound.mapped)));
    let findings = sound.world.findings();
    let stranded = findings.iter().find(|it| it.kind == "layer-stranded").expect("found");
    assert!(refusal(stranded).contains("could be another's"), "{stranded:?}");
    let operations = sound.world.operations().len();
    repair(&sound.world);
    assert_eq!(sound.world.operations().len(), operations);
}

#[test]
fn two_objects_of_one_name_are_left_alone() {
    let sound = sound();
    let name = sound.volume.name.clone();
    sound.alter(VolumeKey { volume: sound.member }, |volume| volume.name = name.clone());
    let findings = sound.world.findings();
    let taken = findings.iter().find(|it| !is_safe(it)).expect("one is not safe");
    assert!(refusal(taken).contains("another one has this name"), "{taken:?}");
    repair(&sound.world);
    let found = sound.load(&VolumeNameKey { name }).volume;
    assert_eq!(found, sound.volume.id, "the name leads where it led");
}

#[test]
fn findings_that_have_changed_are_not_repaired() {
    let sound = sound();
    sound.damage(|txn| txn.remove(&sound.drop_key()));
    let given = summary(&sound.world).digest;
    assert_eq!(given, summary(&sound.world).digest, "the same findings, the same digest");
    sound.damage(|txn| txn.remove(&VolumeNameKey { name: sound.volume.name.clone() }));
    let before = dump(&sound.world);
    let refused = repair_as(&sound.world, given).expect_err("refused");
    assert_eq!(refused.facts()["findings_given"], given.to_string());
    assert_eq!(kind(Err::<(), _>(refused)), ErrorReason::FindingsChanged);
    assert_eq!(dump(&sound.world), before);
}

#[test]
fn a_repair_that_is_needed_no_more_changes_nothing() {
    let sound = sound();
    let name = sound.volume.name.clone();
    let right = VolumeNameRecord { volume: sound.volume.id };
    let key = VolumeNameKey { name };
    let child = ChildKey { parent: sound.volume.head, child: LayerId::new(90) };
    sound.damage(|txn| {
        txn.remove(&key);
        txn.put(&child, &Present {});
    });
    let mut done = Vec::new();
    let mut sink = |event| {
        if let FsckEvent::Repaired(repaired) = event {
            // The first repair is done; somebody else has done what the second is for.
            sound.damage(|txn| txn.remove(&child));
            done.push(repaired.changed);
        }
        Flow::Continue
    };
    let digest = summary(&sound.world).digest;
    let left = block_on(sound.world.service.repair(digest, &mut sink)).expect("repaired");
    assert_eq!((done, left.findings), (vec![true, false], 0));
    assert_eq!(sound.load(&key), right);
}

#[test]
fn a_client_that_has_gone_stops_the_repair() {
    let sound = sound();
    let name = sound.volume.name.clone();
    let child = ChildKey { parent: sound.volume.head, child: LayerId::new(90) };
    sound.damage(|txn| {
        txn.remove(&VolumeNameKey { name: name.clone() });
        txn.put(&child, &Present {});
    });
    let digest = summary(&sound.world).digest;
    let mut sink = |_| Flow::Stop;
    block_on(sound.world.service.repair(digest, &mut sink)).expect("stopped");
    assert_eq!(summary(&sound.world).findings, 1);
}

fn release(sound: &Sound, confirm: &str) -> Result<u64, ServiceError> {
    let (pool, confirm) = (Selector::Id(sound.pool.id), name(confirm));
    block_on(sound.world.service.release_quarantine(&ReleaseQuarantine { pool, confirm }))
}

#[test]
fn an_operator_releases_what_was_quarantined() {
    let sound = settled();
    let world = &sound.world;
    let before = world.status(sound.pool.id).usage;
    assert_eq!((before.quarantined_extents, release(&sound, "p").expect("nothing to do")), (0, 0));
    let leaked = u64::from(sound.load(&sound.reserved_key()).count());
    sound.damage(|txn| txn.remove(&sound.reserved_key()));
    repair(world);
    // What waits for a backup is none of the operator's.
    let waiting = QuarantineKey {
        pool: sound.pool.id,
        lun: LunIndex::new(0),
        group: GroupIndex::new(1),
        stamp: QuarantineStamp::new(7),
    };
    sound.damage(|txn| txn.put(&waiting, &bit(5)));
    let backups = BackupsRecord { begun: 7, ..BackupsRecord::default() };
    sound.damage(|txn| txn.put(&BackupsKey {}, &backups));
    allocate(&sound, ExtentAddress::new(0, 1024 + 5));
    world.assert_clean();
    let held = world.status(sound.pool.id).usage;
    assert_eq!(held.quarantined_extents, leaked + 1);
    assert_eq!(held.reserved_extents, before.reserved_extents - leaked);
    assert_eq!(held.allocated_extents, before.allocated_extents + 1);
    assert_eq!(kind(release(&sound, "q")), ErrorReason::InvalidField);
    assert_eq!(release(&sound, "p").expect("released"), leaked);
    let after = world.status(sound.pool.id).usage;
    assert_eq!(after.quarantined_extents, 1);
    assert_eq!(after.allocated_extents, before.allocated_extents + 1 - leaked);
    assert_eq!(sound.load(&waiting), bit(5));
    assert_eq!(release(&sound, "p").expect("once more"), 0);
    world.assert_clean();
}

#[test]
fn a_quarantine_of_more_groups_than_a_step_frees_is_released() {
    let world = World::new();
    let pool = world.pool(600 * 1024);
    let pool_id = pool.id;
    let extents: Vec<_> = (0..600).map(|group| ExtentAddress::new(0, group * 1024 + 7)).collect();
    let written = world.service.store().transact(|txn| {
        let extents = extents.clone();
        async move {
            for at in extents {
                let (group, place) = GroupIndex::of(at.extent);
                let (lun, stamp) = (at.lun, QuarantineStamp::BY_HAND);
                txn.put(&GroupKey { pool: pool_id, lun, group }, &bit(place));
                txn.put(&QuarantineKey { pool: pool_id, lun, group, stamp }, &bit(place));
            }
            Ok::<_, StoreError>(())
        }
    });
    block_on(written).expect("written");
    world.assert_clean();
    let request = ReleaseQuarantine { pool: Selector::Id(pool.id), confirm: name("p") };
    assert_eq!(block_on(world.service.release_quarantine(&request)).expect("released"), 600);
    assert_eq!(world.status(pool.id).usage.allocated_extents, 0);
    world.assert_clean();
}

#[test]
fn nothing_is_released_while_an_owner_is_in_doubt() {
    let sound = settled();
    sound.damage(|txn| txn.remove(&sound.reserved_key()));
    repair(&sound.world);
    sound.damage(|txn| txn.put(&sound.slot_key(1), &sound.slot(sound.reserved)));
    let before = dump(&sound.world);
    let refused = release(&sound, "p").expect_err("refused");
    assert!(refused.to_string().contains("extent-doubly-owned"), "{refused}");
    assert!(refused.to_string().contains("the quarantine"), "{refused}");
    assert_eq!(kind(Err::<(), _>(refused)), ErrorReason::StoreCorrupt);
    assert_eq!(dump(&sound.world), before);
}

/// A part of its owners may be in what a repair would not touch either.
#[test]
fn nothing_is_released_beside_a_map_that_is_wrong() {
    let damages: [(FindingKind, Damage); 4] = [
        (FindingKind::LayerCount, |it| {
            it.alter(LayerKey { layer: it.volume.head }, |layer| layer.extents += 1);
        }),
        (FindingKind::LayerDigest, |it| {
            it.alter(it.slot_key(0), |slot| slot.0.presence.remove(BlockRange::new(7, 1)));
        }),
        (FindingKind::HeadShared, |it| {
            it.alter(VolumeKey { volume: it.member }, |volume| volume.head = it.volume.head);
        }),
        (FindingKind::LunMismatch, |it| {
            it.damage(|txn| txn.remove(&LunOwnerKey { lun: it.pool.luns[0].id }));
        }),
    ];
    for (kind, damage) in damages {
        let sound = settled();
        sound.damage(|txn| txn.remove(&sound.reserved_key()));
        repair(&sound.world);
        damage(&sound);
        let before = dump(&sound.world);
        let refused = release(&sound, "p").expect_err("refused").to_string();
        assert!(refused.contains("its extents may have owners"), "{kind:?}: {refused}");
        assert_eq!(dump(&sound.world), before);
    }
}

#[test]
fn nothing_is_released_while_a_journal_waits() {
    let sound = settled();
    sound.damage(|txn| txn.remove(&sound.reserved_key()));
    repair(&sound.world);
    sound.world.node("a");
    let held = sound.world.attach(sound.volume.id, sound.world.node("b")).expect("taken over");
    assert_eq!(held.stale_journals.len(), 1);
    let before = dump(&sound.world);
    assert_eq!(kind(release(&sound, "p")), ErrorReason::StaleJournals);
    assert_eq!(dump(&sound.world), before);
    sound.world.retire(&held, held.stale_journals[0].epoch).expect("retired");
    assert_ne!(release(&sound, "p").expect("released"), 0);
}

/// Whatever the damage: no extent becomes free, no slot, part or layer changes, and the findings
/// that can be repaired come to an end.
#[test]
fn no_repair_frees_an_extent_or_changes_a_map() {
    let maps = |world: &World| -> Vec<KeyValue> {
        let tables = [
            TypedRange::<SlotKey>::table().keys().clone(),
            TypedRange::<PartKey>::table().keys().clone(),
            TypedRange::<LayerKey>::table().keys().clone(),
            TypedRange::<LayerPartsKey>::table().keys().clone(),
            TypedRange::<ReservationKey>::table().keys().clone(),
            TypedRange::<AttachmentKey>::table().keys().clone(),
            TypedRange::<StaleJournalKey>::table().keys().clone(),
        ];
        let is_map = |(key, _): &KeyValue| tables.iter().any(|table| table.contains(key));
        dump(world).into_iter().filter(is_map).collect()
    };
    for make in [sound, settled] {
        for (index, (kind, damage)) in damages().enumerate() {
            let sound = make();
            // Some damages are of the stale journal, which is not there in each store.
            let (volume, epoch) = (sound.volume.id, Epoch::new(1));
            let key = StaleJournalKey { volume, epoch }.pack();
            let has_stale = dump(&sound.world).iter().any(|(found, _)| *found == key);
            let needs_stale = [
                FindingKind::EpochInversion,
                FindingKind::NextHeadShared,
                FindingKind::LayerOrder,
                FindingKind::AttachmentIndexMismatch,
                FindingKind::ReservationStuck,
            ];
            if !has_stale && needs_stale.contains(&kind) {
                continue;
            }
            damage(&sound);
            let world = &sound.world;
            let before = maps(world);
            let groups = |world: &World| -> Vec<(GroupKey, Bitmap)> {
                dump(world)
                    .iter()
                    .filter_map(|(key, value)| {
                        Some((GroupKey::unpack(key)?, Bitmap::decode(value).ok()?))
                    })
                    .collect()
            };
            let allocated = groups(world);
            let mut rounds = 0;
            while summary(world).repairable > 0 {
                let (repaired, _) = repair(world);
                assert!(repaired.iter().any(|it| it.changed), "{index} {kind:?}: {repaired:?}");
                rounds += 1;
                assert!(rounds < 4, "{index} {kind:?}: {:#?}", world.findings());
            }
            assert_eq!(maps(world), before, "{index} {kind:?}");
            let after = groups(world);
            for (key, bits) in &allocated {
                let found = after.iter().find(|(other, _)| other == key).expect("still there");
                assert!(bits.without(&found.1).is_empty(), "{index} {kind:?}: {key:?}");
            }
        }
    }
}
