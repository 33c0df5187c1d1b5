//! Each finding of the check, shown by injecting that damage into a sound store.

use std::collections::BTreeSet;

use lunar_metadata::fsck::FindingKind;
use lunar_metadata::keyspace::*;
use lunar_metadata::seams::block_on;
use lunar_metadata::store::{MetaStore, RedbStore, StoreError, Txn};
use lunar_proto::domain::*;
use lunar_types::*;

use crate::world::{World, name, solid};

pub type StoreTxn = <RedbStore as MetaStore>::Txn;

/// A store with one of everything: mapped slots, a reservation, a current and a stale journal,
/// a volume being deleted, a gone incarnation.
pub struct Sound {
    pub world: World,
    pub pool: Pool,
    pub volume: Volume,
    /// The grant of its holder.
    pub held: Attachment,
    pub node: NodeIncarnation,
    pub old: NodeIncarnation,
    pub mapped: ExtentAddress,
    pub reserved: ExtentAddress,
    pub deleting: VolumeId,
    /// Of another volume, and Ready.
    pub ready: Snapshot,
    /// Of that volume too, below the other, and Deleting.
    pub dropped: Snapshot,
    /// Open, of a volume that the live node holds and of the one above.
    pub set: SnapshotSet,
    /// That volume.
    pub member: VolumeId,
}

pub fn sound() -> Sound {
    let world = World::new();
    let pool = world.pool(3000);
    let volume = world.volume("v");
    let old = world.node("a");
    let held = world.attach(volume.id, old).expect("granted");
    let extents = world.extents(old, pool.id, 4);
    world.commit(&held, vec![solid(0, extents[0])]).expect("mapped");
    let node = world.node("a");
    let held = world.attach(volume.id, node).expect("taken over");
    let reserved = world.extents(node, pool.id, 3)[0];
    let deleting = world.volume("w").id;
    world.delete(deleting).expect("it begins");
    let cut = world.volume("cut").id;
    let dropped = world.cut(cut, "dropped").expect("cut");
    let ready = world.cut(cut, "ready").expect("cut");
    world.delete_snapshot(dropped.id).expect("it begins");
    let member = world.volume("member").id;
    world.attach(member, node).expect("granted");
    let set = world.cut_set(&[(member, "of-member"), (cut, "of-cut")]).expect("stored");
    world.assert_clean();
    let (node, old, mapped) = (node.node, old.node, extents[0]);
    Sound {
        world,
        pool,
        volume,
        held,
        node,
        old,
        mapped,
        reserved,
        deleting,
        ready,
        dropped,
        set,
        member,
    }
}

impl Sound {
    /// Changes the store behind the service's back.
    pub fn damage(&self, change: impl Fn(&StoreTxn) + Send + Sync) {
        let change = &change;
        let done = self.world.service.store().transact(|txn| async move {
            change(&txn);
            Ok::<_, StoreError>(())
        });
        block_on(done).expect("damaged");
    }

    pub fn load<K: Key>(&self, key: &K) -> K::Value {
        block_on(async {
            let txn = self.world.service.store().begin().await.expect("begun");
            txn.load_known(key).await.expect("it is there")
        })
    }

    /// Changes one record.
    pub fn alter<K: Key>(&self, key: K, change: impl FnOnce(&mut K::Value))
    where
        K::Value: Sync,
    {
        let mut record = self.load(&key);
        change(&mut record);
        self.damage(|txn| txn.put(&key, &record));
    }

    fn registration(&self, lun: LunId) -> LunRegistrationKey {
        LunRegistrationKey { lun, node: self.node.node }
    }

    fn own_registration(&self) -> NodeRegistrationKey {
        let NodeIncarnation { node, incarnation } = self.node;
        NodeRegistrationKey { node, incarnation, lun: self.pool.luns[0].id }
    }

    fn peer_key(&self) -> PeerKey {
        PeerKey { volume: self.volume.id, node: self.node.node }
    }

    fn peer(&self) -> PeerRecord {
        PeerRecord {
            incarnation: self.node.incarnation,
            since: 7,
            wish: 0,
            session: SessionNumber::new(1),
            is_urgent: false,
        }
    }

    fn fence_key(&self) -> FenceKey {
        FenceKey { node: self.node.node, incarnation: self.node.incarnation }
    }

    pub fn slot_key(&self, at: u64) -> SlotKey {
        SlotKey { layer: self.volume.head, at: LogicalExtent::new(at) }
    }

    /// A record of a layer that nothing names.
    pub fn sealed_layer(&self, parent: Option<LayerId>) -> LayerRecord {
        LayerRecord {
            parent,
            volume: self.volume.id,
            pool: self.pool.id,
            sealed: true,
            size: ByteCount::new(self.volume.size.bytes()),
            name: LayerName::Nameless,
            extents: 0,
            digest: SlotDigest::default(),
        }
    }

    /// Puts a part into the head, and what is counted of it.
    pub fn put_part(&self, birth: u64, extents: u64, parts: u64) {
        let (layer, birth) = (self.volume.head, LayerId::new(birth));
        let key = PartKey { layer, at: LogicalExtent::new(3), birth };
        let value = SlotValue(Slot::zero(ExtentSize::DEFAULT));
        let digest = SlotDigest::default().with(&key, &value);
        let sums = LayerPartsRecord { extents, parts, digest };
        self.damage(|txn| {
            txn.put(&key, &value);
            txn.put(&LayerPartsKey { layer }, &sums);
        });
    }

    /// Puts a ZERO slot at logical extent 3 of a layer: its own one, or a part of this birth.
    pub fn put_zero(&self, layer: LayerId, birth: LayerId) {
        let (at, value) = (LogicalExtent::new(3), SlotValue(Slot::zero(ExtentSize::DEFAULT)));
        self.damage(|txn| {
            if birth == layer {
                txn.put(&SlotKey { layer, at }, &value);
            } else {
                txn.put(&PartKey { layer, at, birth }, &value);
            }
        });
    }

    /// Puts a chain of layers below the head of the volume that is being deleted.
    pub fn put_chain(&self, first: u64, count: u64) {
        let head = LayerId::new(first + count);
        let mut layer =
            self.load(&LayerKey { layer: self.load(&VolumeKey { volume: self.deleting }).head });
        layer.parent = Some(LayerId::new(first + count - 1));
        self.damage(|txn| {
            for id in first..first + count {
                let below = (id > first).then(|| LayerId::new(id - 1));
                txn.put(&LayerKey { layer: LayerId::new(id) }, &self.sealed_layer(below));
            }
            txn.put(&LayerKey { layer: head }, &layer);
        });
    }

    pub fn drop_key(&self) -> OperationKey {
        let operations = self.world.operations();
        let work = OperationWork::DropLayer(self.dropped.layer.expect("it has one"));
        let found = operations.iter().find(|it| it.work == work).expect("it is dropped");
        OperationKey { operation: found.id }
    }

    pub fn set_key(&self) -> SnapshotSetKey {
        SnapshotSetKey { set: self.set.id }
    }

    pub fn member_key(&self) -> SetMemberKey {
        SetMemberKey { set: self.set.id, volume: self.member }
    }

    pub fn order_key(&self, volume: VolumeId) -> NodeSetKey {
        let NodeIncarnation { node, incarnation } = self.node;
        NodeSetKey { node, incarnation, set: self.set.id, volume }
    }

    pub fn slot(&self, at: ExtentAddress) -> SlotValue {
        SlotValue(Slot::fresh(at, ExtentSize::DEFAULT))
    }

    pub fn group_key(&self, group: u32) -> GroupKey {
        GroupKey { pool: self.pool.id, lun: LunIndex::new(0), group: GroupIndex::new(group) }
    }

    pub fn reservation_key(&self, node: NodeIncarnation, lun: u16) -> ReservationKey {
        ReservationKey {
            node: node.node,
            incarnation: node.incarnation,
            pool: self.pool.id,
            lun: LunIndex::new(lun),
            group: GroupIndex::new(2),
        }
    }

    /// Keys of the current reservation of the live node.
    pub fn reserved_key(&self) -> ReservationKey {
        let group = GroupIndex::of(self.reserved.extent).0;
        ReservationKey { group, ..self.reservation_key(self.node, 0) }
    }
}

pub fn bit(bit: u32) -> Bitmap {
    let mut bits = Bitmap::EMPTY;
    bits.insert(bit);
    bits
}

pub type Damage = (FindingKind, fn(&Sound));

const NAMES_AND_INDICES: &[Damage] = &[
    (FindingKind::EntryUnreadable, |it| it.damage(|txn| txn.set(b"junk", b"junk"))),
    (FindingKind::EntryUnreadable, |it| {
        it.damage(|txn| txn.set(&VolumeKey { volume: it.deleting }.pack(), &[99]));
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
    (FindingKind::LunMismatch, |it| {
        it.damage(|txn| txn.remove(&LunOwnerKey { lun: it.pool.luns[0].id }));
    }),
    (FindingKind::LunMismatch, |it| {
        let key = LunKey { pool: it.pool.id, index: LunIndex::new(0) };
        it.alter(key, |lun| lun.data_extents += 1);
    }),
    (FindingKind::PoolVolumeMismatch, |it| {
        let key = PoolVolumeKey { pool: it.pool.id, volume: it.volume.id };
        it.damage(|txn| txn.remove(&key));
    }),
    (FindingKind::VolumePoolUnknown, |it| {
        it.alter(VolumeKey { volume: it.volume.id }, |volume| {
            volume.pool = PoolId::from_u128(99);
        });
    }),
    (FindingKind::VolumeHeadInvalid, |it| {
        it.alter(LayerKey { layer: it.volume.head }, |layer| layer.sealed = true);
    }),
    (FindingKind::HeadShared, |it| {
        it.alter(VolumeKey { volume: it.deleting }, |volume| volume.head = it.volume.head);
    }),
    (FindingKind::OperationMismatch, |it| {
        it.damage(|txn| txn.remove(&OperationKey { operation: OperationId::new(1) }));
    }),
    (FindingKind::OperationMismatch, |it| {
        let work = OperationWork::ReclaimReservations(it.node);
        let key = OperationKey { operation: OperationId::new(1) };
        it.damage(|txn| txn.put(&key, &OperationRecord { work, pass: MergePass::begin(None) }));
    }),
    (FindingKind::LayerOrphan, |it| {
        let layer = it.sealed_layer(None);
        it.damage(|txn| txn.put(&LayerKey { layer: LayerId::new(2) }, &layer));
        it.alter(VolumeKey { volume: it.deleting }, |volume| volume.head = it.volume.head);
    }),
    (FindingKind::LayerOrphan, |it| {
        it.alter(LayerKey { layer: it.volume.head }, |layer| {
            layer.parent = Some(LayerId::new(55));
        });
    }),
    (FindingKind::LayerCount, |it| {
        it.alter(LayerKey { layer: it.volume.head }, |layer| layer.extents += 1);
    }),
    (FindingKind::LayerCount, |it| it.put_part(1, 1, 1)),
    (FindingKind::LayerCount, |it| it.put_part(1, 0, 2)),
    (FindingKind::LayerCount, |it| {
        let digest = SlotDigest::default();
        let sums = LayerPartsRecord { extents: 1, parts: 1, digest };
        it.damage(|txn| txn.put(&LayerPartsKey { layer: LayerId::new(77) }, &sums));
    }),
    (FindingKind::LayerDigest, |it| {
        it.alter(it.slot_key(0), |slot| slot.0.presence.remove(BlockRange::new(7, 1)));
    }),
    (FindingKind::LayerDigest, |it| {
        it.put_part(1, 0, 1);
        let key = LayerPartsKey { layer: it.volume.head };
        it.alter(key, |sums| sums.digest = SlotDigest::default());
    }),
    (FindingKind::BirthOutOfRange, |it| it.put_part(it.volume.head.get(), 0, 1)),
    (FindingKind::BirthOutOfRange, |it| it.put_part(it.volume.head.get() + 1, 0, 1)),
    (FindingKind::BirthOutOfRange, |it| it.put_part(0, 0, 1)),
    (FindingKind::BirthOrder, |it| {
        // What is merged has its slot still, and so has the layer above.
        let below = it.dropped.layer.expect("it has one");
        it.put_zero(below, below);
        it.put_zero(it.ready.layer.expect("it has one"), below);
    }),
    (FindingKind::BirthOrder, |it| {
        // One part in both.
        it.put_zero(it.dropped.layer.expect("it has one"), LayerId::new(1));
        it.put_zero(it.ready.layer.expect("it has one"), LayerId::new(1));
    }),
    (FindingKind::BirthOrder, |it| {
        // The layer between has nothing there.
        it.world.delete_snapshot(it.ready.id).expect("it begins");
        let below = it.dropped.layer.expect("it has one");
        it.put_zero(below, below);
        let head = it.load(&VolumeKey { volume: it.ready.volume }).head;
        it.put_zero(head, below);
    }),
    (FindingKind::LayerOrder, |it| {
        it.alter(LayerKey { layer: it.volume.head }, |layer| layer.parent = Some(LayerId::new(9)));
    }),
    (FindingKind::LayerOrder, |it| {
        let parent = it.volume.head;
        let key = LayerKey { layer: it.load(&VolumeKey { volume: it.deleting }).head };
        it.alter(key, |layer| layer.parent = Some(parent));
    }),
    (FindingKind::ChainTooDeep, |it| it.put_chain(1000, 256)),
    (FindingKind::ChildMismatch, |it| it.put_chain(1000, 1)),
    (FindingKind::ChildMismatch, |it| {
        let key = ChildKey { parent: it.volume.head, child: LayerId::new(90) };
        it.damage(|txn| txn.put(&key, &Present {}));
    }),
    (FindingKind::LayerStranded, |it| it.put_chain(1000, 1)),
    (FindingKind::SnapshotLayerInvalid, |it| {
        let name = LayerName::Snapshot(SnapshotId::from_u128(6));
        let layer = LayerRecord { name, ..it.sealed_layer(None) };
        it.damage(|txn| txn.put(&LayerKey { layer: LayerId::new(1000) }, &layer));
    }),
    (FindingKind::VolumeHeadInvalid, |it| {
        it.alter(LayerKey { layer: it.volume.head }, |layer| {
            layer.name = LayerName::Head(it.deleting);
        });
    }),
    (FindingKind::LayerStranded, |it| it.damage(|txn| txn.remove(&it.drop_key()))),
    (FindingKind::OperationMismatch, |it| {
        let work = OperationWork::DropLayer(it.ready.layer.expect("it has one"));
        it.alter(it.drop_key(), |operation| operation.work = work);
    }),
    (FindingKind::OperationMismatch, |it| {
        let key = OperationKey { operation: OperationId::new(1) };
        let record = it.load(&it.drop_key());
        it.damage(|txn| txn.put(&key, &record));
    }),
    (FindingKind::SnapshotLayerInvalid, |it| {
        it.alter(SnapshotKey { snapshot: it.ready.id }, |snapshot| {
            snapshot.layer = it.dropped.layer;
        });
    }),
    (FindingKind::SnapshotLayerInvalid, |it| {
        it.alter(SnapshotKey { snapshot: it.dropped.id }, |snapshot| {
            snapshot.state = SnapshotState::Ready;
        });
    }),
    (FindingKind::SnapshotLayerInvalid, |it| {
        it.alter(LayerKey { layer: it.ready.layer.expect("it has one") }, |layer| {
            layer.size = ByteCount::new(4096);
        });
    }),
    (FindingKind::SnapshotLayerInvalid, |it| {
        it.damage(|txn| txn.remove(&SnapshotKey { snapshot: it.ready.id }));
    }),
    (FindingKind::SnapshotListMismatch, |it| {
        let (volume, snapshot) = (it.ready.volume, it.ready.id);
        it.damage(|txn| txn.remove(&VolumeSnapshotKey { volume, snapshot }));
    }),
    (FindingKind::SnapshotListMismatch, |it| {
        let (volume, snapshot) = (it.ready.volume, it.ready.id);
        it.alter(VolumeSnapshotKey { volume, snapshot }, |listed| listed.layer = None);
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
    (FindingKind::LayerOrphan, |it| {
        // The chain of the dropped layer without its operation and its only child's parent.
        let parent = it.ready.layer.expect("it has one");
        it.damage(|txn| txn.remove(&it.drop_key()));
        it.alter(LayerKey { layer: it.dropped.layer.expect("it has one") }, |layer| {
            layer.name = LayerName::Nameless;
        });
        it.alter(LayerKey { layer: parent }, |layer| layer.parent = None);
    }),
    (FindingKind::CounterBehind, |it| {
        it.alter(CounterKey { counter: Counter::Layer }, |counter| counter.last -= 1);
    }),
];

const GRANTS: &[Damage] = &[
    (FindingKind::AttachmentOrphan, |it| {
        let node = it.node;
        let (epoch, checkpoint) = (Epoch::new(1), JournalSeq::default());
        let record = AttachmentRecord {
            node,
            epoch,
            checkpoint,
            last_commit: CommitNumber::new(0),
            last_request: RequestId::from_u128(0),
            journal: vec![],
            next_head: LayerId::new(99),
            granted_at: 0,
        };
        let key = AttachmentKey { volume: VolumeId::from_u128(5) };
        it.damage(|txn| txn.put(&key, &record));
    }),
    (FindingKind::DeletingAttached, |it| {
        it.alter(VolumeKey { volume: it.volume.id }, |volume| {
            volume.state = VolumeState::Deleting;
        });
    }),
    (FindingKind::AttachmentIndexMismatch, |it| {
        let key = NodeAttachmentKey {
            node: it.node.node,
            incarnation: it.node.incarnation,
            volume: it.volume.id,
        };
        it.damage(|txn| txn.remove(&key));
    }),
    (FindingKind::AttachmentIndexMismatch, |it| {
        let key = NodeStaleJournalKey {
            node: it.old.node,
            incarnation: it.old.incarnation,
            volume: it.volume.id,
            epoch: Epoch::new(1),
        };
        it.damage(|txn| txn.remove(&key));
    }),
    (FindingKind::EpochInversion, |it| {
        it.alter(VolumeKey { volume: it.volume.id }, |volume| volume.epoch = Epoch::new(1));
    }),
    (FindingKind::EpochInversion, |it| {
        let record = it.load(&StaleJournalKey { volume: it.volume.id, epoch: Epoch::new(1) });
        let key = StaleJournalKey { volume: it.volume.id, epoch: Epoch::new(7) };
        it.damage(|txn| txn.put(&key, &record));
    }),
    (FindingKind::SessionBehind, |it| {
        it.alter(NodeKey { node: it.node.node }, |node| node.session = SessionNumber::new(1));
    }),
    (FindingKind::CommitNumberInvalid, |it| {
        it.alter(AttachmentKey { volume: it.volume.id }, |held| {
            held.checkpoint = JournalSeq::new(1);
        });
    }),
    (FindingKind::CommitNumberInvalid, |it| {
        it.alter(AttachmentKey { volume: it.volume.id }, |held| {
            held.last_request = RequestId::from_u128(9);
        });
    }),
    (FindingKind::IncarnationUnknown, |it| {
        let node = NodeIncarnation { incarnation: Incarnation::new(50), ..it.node };
        it.alter(AttachmentKey { volume: it.volume.id }, |held| held.node = node);
    }),
    (FindingKind::IncarnationUnknown, |it| {
        let node = NodeIncarnation { node: NodeId::new(50), ..it.node };
        it.damage(|txn| txn.put(&it.reservation_key(node, 0), &bit(0)));
    }),
    (FindingKind::ReservationUnknown, |it| {
        it.damage(|txn| txn.put(&it.reservation_key(it.node, 7), &bit(0)));
    }),
    (FindingKind::UnmappedNotReserved, |it| {
        let NodeIncarnation { node, incarnation } = it.node;
        let (pool, lun, group) = (it.pool.id, LunIndex::new(0), GroupIndex::new(0));
        let key = UnmappedKey { node, incarnation, pool, lun, group };
        it.damage(|txn| txn.put(&key, &bit(900)));
    }),
    (FindingKind::QuarantineStamp, |it| {
        let (pool, lun, group) = (it.pool.id, LunIndex::new(0), GroupIndex::new(0));
        let stamp = QuarantineStamp::new(3);
        it.damage(|txn| txn.put(&QuarantineKey { pool, lun, group, stamp }, &bit(900)));
    }),
    (FindingKind::ReservationStuck, |it| {
        let key = StaleJournalKey { volume: it.volume.id, epoch: Epoch::new(1) };
        it.damage(|txn| txn.remove(&key));
    }),
];

const NEXT_HEADS: &[Damage] = &[
    (FindingKind::LayerOrder, |it| {
        let key = AttachmentKey { volume: it.volume.id };
        it.alter(key, |held| held.next_head = it.volume.head);
    }),
    (FindingKind::LayerOrder, |it| {
        let layer = it.ready.layer.expect("it has one");
        it.alter(AttachmentKey { volume: it.volume.id }, |held| held.next_head = layer);
    }),
    (FindingKind::LayerOrder, |it| {
        let key = StaleJournalKey { volume: it.volume.id, epoch: Epoch::new(1) };
        it.alter(key, |stale| stale.next_head = LayerId::new(0));
    }),
    (FindingKind::NextHeadShared, |it| {
        let key = AttachmentKey { volume: it.member };
        it.alter(key, |held| held.next_head = it.held.next_head);
    }),
    (FindingKind::NextHeadShared, |it| {
        let key = StaleJournalKey { volume: it.volume.id, epoch: Epoch::new(1) };
        it.alter(key, |stale| stale.next_head = it.held.next_head);
    }),
    (FindingKind::CounterBehind, |it| {
        let key = AttachmentKey { volume: it.member };
        it.alter(key, |held| held.next_head = LayerId::new(9999));
    }),
];

const SETS: &[Damage] = &[
    (FindingKind::SetMismatch, |it| it.damage(|txn| txn.remove(&it.set_key()))),
    (FindingKind::SetMismatch, |it| it.damage(|txn| txn.remove(&it.member_key()))),
    (FindingKind::SetMismatch, |it| it.damage(|txn| txn.remove(&it.order_key(it.member)))),
    (FindingKind::SetMismatch, |it| {
        it.damage(|txn| txn.put(&it.order_key(it.volume.id), &Present {}));
    }),
    (FindingKind::SetMismatch, |it| {
        it.alter(VolumeKey { volume: it.member }, |volume| volume.set = None);
    }),
    (FindingKind::SetMismatch, |it| {
        it.alter(VolumeKey { volume: it.volume.id }, |volume| volume.set = Some(it.set.id));
    }),
    (FindingKind::SetMismatch, |it| {
        let key = SnapshotKey { snapshot: it.set.snapshots[0].id };
        it.alter(key, |snapshot| snapshot.set = SnapshotSetId::from_u128(3));
    }),
    (FindingKind::SetMismatch, |it| {
        it.damage(|txn| txn.remove(&SnapshotKey { snapshot: it.set.snapshots[0].id }));
    }),
    (FindingKind::SetMismatch, |it| it.alter(it.set_key(), |set| set.state = SetState::Sealed)),
    (FindingKind::SetMismatch, |it| it.alter(it.set_key(), |set| set.state = SetState::Pausing)),
    (FindingKind::SetMismatch, |it| {
        let reason = "late".parse().expect("a name");
        it.alter(it.set_key(), |set| set.abort = Some(SetAbort { reason, volume: None }));
    }),
    (FindingKind::SetMismatch, |it| {
        it.alter(it.set_key(), |set| set.generation = Generation::new(99));
    }),
    (FindingKind::SetMismatch, |it| {
        it.alter(it.member_key(), |member| member.state = MemberState::Paused);
    }),
    (FindingKind::SetMismatch, |it| it.alter(it.member_key(), |member| member.holder = None)),
];

const SPACE: &[Damage] = &[
    (FindingKind::SlotOrphan, |it| {
        let key = SlotKey { layer: LayerId::new(90), at: LogicalExtent::new(0) };
        it.damage(|txn| txn.put(&key, &it.slot(ExtentAddress::new(0, 2000))));
    }),
    (FindingKind::SlotOutOfRange, |it| {
        it.damage(|txn| txn.put(&it.slot_key(1024), &it.slot(it.mapped)));
    }),
    (FindingKind::PresenceOnZero, |it| {
        it.alter(it.slot_key(0), |slot| slot.0.place = SlotPlace::Zero);
    }),
    (FindingKind::PresenceSize, |it| {
        let small = ExtentSize::from_bytes(64 << 10).expect("a size");
        it.alter(it.slot_key(0), |slot| slot.0.presence = Presence::full(small));
    }),
    (FindingKind::ExtentOutOfRange, |it| {
        it.damage(|txn| txn.put(&it.slot_key(1), &it.slot(ExtentAddress::new(0, 3000))));
    }),
    (FindingKind::ExtentOutOfRange, |it| {
        it.damage(|txn| txn.put(&it.slot_key(1), &it.slot(ExtentAddress::new(4, 0))));
    }),
    (FindingKind::ExtentOutOfRange, |it| {
        it.damage(|txn| txn.put(&it.group_key(2), &bit(1023)));
    }),
    (FindingKind::ExtentDoublyOwned, |it| {
        it.damage(|txn| txn.put(&it.slot_key(1), &it.slot(it.mapped)));
    }),
    (FindingKind::ExtentDoublyOwned, |it| {
        it.damage(|txn| txn.put(&it.slot_key(1), &it.slot(it.reserved)));
    }),
    (FindingKind::ExtentDoublyOwned, |it| {
        it.alter(AttachmentKey { volume: it.volume.id }, |held| {
            held.journal = vec![ExtentRun::new(it.mapped, 1)];
        });
    }),
    (FindingKind::ExtentDoublyOwned, |it| {
        let (layer, birth) = (it.volume.head, LayerId::new(1));
        let key = PartKey { layer, at: LogicalExtent::new(5), birth };
        it.damage(|txn| txn.put(&key, &it.slot(it.mapped)));
    }),
    (FindingKind::SlotOrphan, |it| {
        let (layer, birth) = (LayerId::new(90), LayerId::new(1));
        let key = PartKey { layer, at: LogicalExtent::new(0), birth };
        it.damage(|txn| txn.put(&key, &it.slot(it.mapped)));
    }),
    (FindingKind::ExtentUnallocated, |it| {
        let (group, at) = GroupIndex::of(it.mapped.extent);
        it.alter(it.group_key(group.get()), |bits| assert!(bits.remove(at)));
    }),
    (FindingKind::ExtentUnallocated, |it| {
        it.damage(|txn| txn.put(&it.slot_key(1), &it.slot(ExtentAddress::new(0, 2999))));
    }),
    (FindingKind::ExtentLeaked, |it| {
        it.damage(|txn| txn.remove(&it.slot_key(0)));
    }),
    (FindingKind::ExtentLeaked, |it| {
        it.damage(|txn| txn.remove(&it.reserved_key()));
    }),
];

const fn publication(mode: PublicationMode, recalled: bool) -> PublicationRecord {
    let id = PublicationId::from_u128(9);
    PublicationRecord { id, mode, reads_only: false, recalled, since: 0 }
}

const PUBLICATIONS: &[Damage] = &[
    // Its holder has it by hand.
    (FindingKind::PublicationMismatch, |it| {
        let key = PublicationKey { volume: it.volume.id, node: NodeId::new(99) };
        it.damage(|txn| txn.put(&key, &publication(PublicationMode::Single, false)));
    }),
    (FindingKind::PublicationMismatch, |it| {
        let key = PublicationKey { volume: VolumeId::from_u128(99), node: it.node.node };
        it.damage(|txn| txn.put(&key, &publication(PublicationMode::Single, false)));
    }),
    (FindingKind::PublicationMismatch, |it| {
        let key = PublicationKey { volume: it.volume.id, node: it.node.node };
        it.damage(|txn| txn.put(&key, &publication(PublicationMode::Single, true)));
    }),
    (FindingKind::PublicationMismatch, |it| {
        let key = RecallKey { volume: it.volume.id, node: it.node.node };
        it.damage(|txn| txn.put(&key, &Present {}));
    }),
];

const GROUPS: &[Damage] = &[
    (FindingKind::GroupMismatch, |it| {
        let named = SnapshotGroupNameRecord { group: SnapshotGroupId::from_u128(9) };
        it.damage(|txn| txn.put(&SnapshotGroupNameKey { name: name("g") }, &named));
    }),
    (FindingKind::GroupMismatch, |it| {
        let group = SnapshotGroupRecord {
            name: name("g"),
            set: SnapshotSetId::from_u128(8),
            created_unix_seconds: 0,
            members: vec![SnapshotId::from_u128(7)],
        };
        let key = SnapshotGroupKey { group: SnapshotGroupId::from_u128(9) };
        it.damage(|txn| txn.put(&key, &group));
    }),
    (FindingKind::GroupMismatch, |it| {
        it.alter(SnapshotKey { snapshot: it.ready.id }, |snapshot| {
            snapshot.group = Some(SnapshotGroupId::from_u128(9));
        });
    }),
];

const PEERS: &[Damage] = &[
    (FindingKind::PeerMismatch, |it| {
        it.damage(|txn| txn.put(&it.peer_key(), &it.peer()));
    }),
    (FindingKind::PeerMismatch, |it| {
        let NodeIncarnation { node, incarnation } = it.node;
        let key = NodePeerKey { node, incarnation, volume: it.volume.id };
        it.damage(|txn| txn.put(&key, &Present {}));
    }),
    (FindingKind::PeerMismatch, |it| {
        let shared = MigrationRecord { moves: 0, spare_journal: Vec::new() };
        it.damage(|txn| txn.put(&MigrationKey { volume: it.volume.id }, &shared));
    }),
    (FindingKind::IncarnationUnknown, |it| {
        let peer = PeerRecord { incarnation: Incarnation::new(99), ..it.peer() };
        it.damage(|txn| txn.put(&it.peer_key(), &peer));
    }),
    (FindingKind::ExtentUnallocated, |it| {
        let spare_journal = vec![ExtentRun::new(ExtentAddress::new(0, 2999), 1)];
        let shared = MigrationRecord { moves: 0, spare_journal };
        it.damage(|txn| txn.put(&MigrationKey { volume: it.volume.id }, &shared));
    }),
];

const FENCES: &[Damage] = &[
    (FindingKind::RegistrationMismatch, |it| {
        let registered = RegistrationRecord { incarnation: it.node.incarnation, paths: 1 };
        it.damage(|txn| txn.put(&it.registration(it.pool.luns[0].id), &registered));
    }),
    (FindingKind::RegistrationMismatch, |it| {
        it.damage(|txn| txn.put(&it.own_registration(), &Present {}));
    }),
    (FindingKind::RegistrationMismatch, |it| {
        let registered = RegistrationRecord { incarnation: it.node.incarnation, paths: 1 };
        it.damage(|txn| txn.put(&it.registration(LunId::from_u128(0xdead)), &registered));
    }),
    (FindingKind::IncarnationUnknown, |it| {
        let registered = RegistrationRecord { incarnation: Incarnation::new(99), paths: 1 };
        it.damage(|txn| txn.put(&it.registration(it.pool.luns[0].id), &registered));
    }),
    (FindingKind::FenceMismatch, |it| {
        it.alter(NodeKey { node: it.node.node }, |node| node.state = NodeState::Fencing);
    }),
    (FindingKind::FenceMismatch, |it| {
        it.damage(|txn| txn.put(&it.fence_key(), &fence_record(false)));
    }),
    (FindingKind::FenceMismatch, |it| {
        it.damage(|txn| txn.put(&it.fence_key(), &fence_record(true)));
    }),
    (FindingKind::FenceMismatch, |it| {
        let NodeIncarnation { node, incarnation } = it.node;
        let key = FenceLunKey { node, incarnation, lun: it.pool.luns[0].id };
        let (was_confirmed, state) = (true, FenceLunState::Open);
        let row = FenceLunRecord { was_confirmed, state, attempts: 0 };
        it.damage(|txn| txn.put(&key, &row));
    }),
    (FindingKind::FenceMismatch, |it| {
        let registered = RegistrationRecord { incarnation: it.node.incarnation, paths: 1 };
        it.alter(NodeKey { node: it.node.node }, |node| node.state = NodeState::Fencing);
        it.damage(|txn| {
            txn.put(&it.registration(it.pool.luns[0].id), &registered);
            txn.put(&it.own_registration(), &Present {});
            txn.put(&it.fence_key(), &fence_record(false));
        });
    }),
    (FindingKind::IncarnationUnknown, |it| {
        let (node, incarnation) = (it.node.node, Incarnation::new(99));
        it.damage(|txn| txn.put(&FenceKey { node, incarnation }, &fence_record(false)));
    }),
];

fn fence_record(is_complete: bool) -> FenceRecord {
    FenceRecord { reason: Text::new("silent"), begun_at: 7, is_complete, is_certified: false }
}

pub fn damages() -> impl Iterator<Item = Damage> {
    [NAMES_AND_INDICES, GRANTS, NEXT_HEADS, SETS, SPACE, FENCES, PEERS, PUBLICATIONS, GROUPS]
        .concat()
        .into_iter()
}

#[test]
fn every_damage_is_found() {
    for (index, (kind, damage)) in damages().enumerate() {
        let sound = sound();
        damage(&sound);
        let findings = sound.world.findings();
        let kinds: Vec<_> = findings.iter().map(|finding| finding.kind.as_str()).collect();
        assert!(kinds.contains(&kind.as_str()), "damage {index} {kind:?}: {kinds:?}");
        assert!(findings.iter().all(|finding| !finding.facts.is_empty()), "{findings:?}");
    }
}

#[test]
fn every_kind_of_finding_has_its_damage() {
    let shown: BTreeSet<_> = damages().map(|(kind, _)| kind).collect();
    let all: BTreeSet<_> = FindingKind::ALL.iter().copied().collect();
    assert_eq!(shown, all);
}

#[test]
fn more_parts_than_a_layer_may_have_at_one_place_are_found() {
    let sound = sound();
    let value = SlotValue(Slot::zero(ExtentSize::DEFAULT));
    sound.damage(|txn| {
        for birth in (1..=LAYER_PARTS_MAX as u64 + 1).map(LayerId::new) {
            let (layer, at) = (sound.volume.head, LogicalExtent::new(3));
            txn.put(&PartKey { layer, at, birth }, &value);
        }
    });
    let findings = sound.world.findings();
    let is_it = |it: &&FsckFinding| it.message.contains("one of more than 64");
    let found: Vec<_> = findings.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{findings:#?}");
    assert_eq!(found[0].kind, "layer-count");
}

#[test]
fn an_extent_with_two_owners_names_both() {
    let sound = sound();
    let at = sound.mapped;
    sound.damage(|txn| txn.put(&sound.slot_key(3), &sound.slot(at)));
    let findings = sound.world.findings();
    let double = findings.iter().find(|it| it.kind == "extent-doubly-owned").expect("found");
    let layer = sound.volume.head;
    assert_eq!(double.facts["owners"], format!("slot 0 of layer {layer}; slot 3 of layer {layer}"));
}

#[test]
fn the_summary_counts_what_was_looked_at() {
    use lunar_metadata::fsck::Flow;
    let sound = sound();
    let summary = block_on(sound.world.service.fsck(&mut |_| Flow::Continue)).expect("checked");
    let expected = FsckSummary {
        findings: 0,
        pools: 1,
        luns: 1,
        volumes: 4,
        layers: 6,
        slots: 1,
        nodes: 1,
        attachments: 2,
        // Four and three reserved, of which one is mapped; three journals of two.
        allocated_extents: 13,
        repairable: 0,
        digest: FindingsDigest::default(),
    };
    assert_eq!(summary, expected);
}
