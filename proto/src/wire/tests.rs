//! Every message survives the wire, and every bad field is named.

mod contents;
mod diff;
mod fencing;
mod groups;
mod peers;
mod publications;
mod sets;
mod watermarks;

use std::fmt::Debug;
use std::time::Duration;

use lunar_types::{
    BlockRange, BootId, ByteCount, ClusterId, CommitNumber, Epoch, ExtentAddress, ExtentRun,
    ExtentSize, Freed, Incarnation, JournalSeq, LayerId, LogicalBlockSize, LogicalExtent, LunId,
    LunIndex, NodeId, NodeIncarnation, NodeSession, PoolId, Presence, PublicationId, RequestId,
    SessionNumber, Slot, SnapshotId, SnapshotSetId, StructureNumber, VolumeId, VolumeSize,
};

use crate::domain::*;
use crate::error::FieldError;
use crate::v1;

const REQUEST: RequestId = RequestId::from_u128(7);

fn node() -> NodeIncarnation {
    NodeIncarnation { node: NodeId::new(3), incarnation: Incarnation::new(9) }
}

fn caller() -> NodeSession {
    NodeSession { node: node(), number: SessionNumber::new(0x0102_0304_0506) }
}

fn pool() -> Pool {
    let lun = Lun {
        id: LunId::from_u128(11),
        index: LunIndex::new(5),
        size: ByteCount::new(1 << 30),
        logical_block_size: LogicalBlockSize::B512,
        data_extents: 1022,
    };
    Pool {
        id: PoolId::from_u128(12),
        name: "fast".parse().expect("a name"),
        extent_size: ExtentSize::DEFAULT,
        luns: vec![lun],
        logical_block_size: LogicalBlockSize::B512,
        watermarks: Watermarks::new(70, 80, 90).expect("in order"),
        fencing: PoolFencing::Lease,
    }
}

fn volume() -> Volume {
    let holder = Holder {
        node: node(),
        node_name: "n1".parse().expect("a name"),
        epoch: Epoch::new(4),
        live: true,
        granted_at: 7_000_000,
    };
    Volume {
        id: VolumeId::from_u128(13),
        name: "db".parse().expect("a name"),
        pool: PoolId::from_u128(12),
        size: VolumeSize::from_bytes(1 << 30).expect("a size"),
        logical_block_size: LogicalBlockSize::B4096,
        head: LayerId::new(2),
        epoch: Epoch::new(4),
        state: VolumeState::Ready,
        holder: Some(holder),
        restored: true,
        mapped_extents: 17,
        peers: vec![peers::peer()],
        moves: 3,
        publications: vec![publications::publication()],
        content: ContentState::Formatting,
        origin: Some(Origin::Snapshot(SnapshotId::from_u128(14))),
    }
}

fn runs() -> Vec<ExtentRun> {
    vec![ExtentRun::new(ExtentAddress::new(1, 5), 2), ExtentRun::new(ExtentAddress::new(3, 9), 1)]
}

fn survives<T, W>(value: T)
where
    T: Clone + PartialEq + Debug + TryFrom<W, Error = FieldError>,
    W: From<T>,
{
    assert_eq!(T::try_from(W::from(value.clone())), Ok(value));
}

#[test]
fn pools_survive_the_wire() {
    let new_lun = NewLun {
        id: LunId::from_u128(1),
        size: ByteCount::new(4 << 30),
        logical_block_size: LogicalBlockSize::B4096,
    };
    survives::<_, v1::Pool>(pool());
    survives::<_, v1::CreatePoolRequest>(CreatePool {
        request: REQUEST,
        name: "p".parse().expect("a name"),
        extent_size: ExtentSize::DEFAULT,
        luns: vec![new_lun],
        fencing: PoolFencing::None,
    });
    survives::<_, v1::AddLunsRequest>(AddLuns {
        request: REQUEST,
        pool: Selector::Name("p".parse().expect("a name")),
        luns: vec![new_lun],
    });
    let usage = SpaceUsage {
        total_extents: 9,
        allocated_extents: 5,
        reserved_extents: 2,
        journal_extents: 1,
        held_back_extents: 1,
        quarantined_extents: 3,
    };
    survives::<_, v1::ReleaseQuarantineRequest>(ReleaseQuarantine {
        pool: Selector::Name("p".parse().expect("a name")),
        confirm: "p".parse().expect("a name"),
    });
    survives::<_, v1::PoolStatus>(PoolStatus {
        pool: pool(),
        usage,
        fill: PoolFill { used_extents: 8, usable_extents: 9 },
        provisioned: ByteCount::new(5),
        volumes: 2,
        luns: vec![LunStatus { lun: pool().luns[0], usage }],
    });
}

#[test]
fn volumes_and_attachments_survive_the_wire() {
    survives::<_, v1::Volume>(volume());
    let by_id = Selector::Id(VolumeId::from_u128(13));
    survives::<_, v1::CreateVolumeRequest>(CreateVolume {
        request: REQUEST,
        name: "db".parse().expect("a name"),
        pool: Selector::Id(PoolId::from_u128(12)),
        size: VolumeSize::from_bytes(4096).expect("a size"),
        logical_block_size: LogicalBlockSize::B512,
        over_watermark: false,
    });
    survives::<_, v1::DeleteVolumeRequest>(DeleteVolume {
        request: REQUEST,
        volume: by_id.clone(),
    });
    for understands_layers in [false, true] {
        survives::<_, v1::AttachRequest>(Attach {
            request: REQUEST,
            volume: by_id.clone(),
            caller: caller(),
            understands_layers,
            accept_restored: !understands_layers,
            publication: understands_layers.then_some(publications::PUBLICATION),
            for_file_system: understands_layers,
        });
    }
    let (volume_id, epoch) = (VolumeId::from_u128(13), Epoch::new(4));
    survives::<_, v1::ResumeAttachmentRequest>(ResumeAttachment {
        volume: volume_id,
        epoch,
        caller: caller(),
    });
    for mode in [DetachMode::Clean, DetachMode::KeepJournal] {
        survives::<_, v1::DetachRequest>(Detach {
            request: REQUEST,
            volume: volume_id,
            epoch,
            caller: caller(),
            mode,
        });
    }
    survives::<_, v1::RetireJournalRequest>(RetireJournal {
        request: REQUEST,
        volume: volume_id,
        epoch,
        caller: caller(),
        stale_epoch: Epoch::new(3),
    });
    survives::<_, v1::AttachmentSummary>(AttachmentSummary { volume: volume_id, epoch });
}

fn attachment() -> Attachment {
    let (volume_id, epoch) = (VolumeId::from_u128(13), Epoch::new(4));
    let stale = StaleJournal {
        epoch: Epoch::new(3),
        node: node(),
        runs: runs(),
        checkpoint: JournalSeq::new(8),
        next_head: LayerId::new(40),
    };
    let layer = |id: u64, parent: Option<u64>| Layer {
        id: LayerId::new(id),
        parent: parent.map(LayerId::new),
        volume: volume_id,
        sealed: parent.is_none(),
    };
    Attachment {
        volume: volume(),
        epoch,
        node: node(),
        layers: vec![layer(2, Some(1)), layer(1, None)],
        pool: pool(),
        journal: runs(),
        checkpoint: JournalSeq::new(1),
        stale_journals: vec![stale],
        last_commit: CommitNumber::new(21),
        next_head: LayerId::new(41),
        structure: StructureNumber::new(5),
    }
}

#[test]
fn grants_and_seals_survive_the_wire() {
    let (volume_id, epoch) = (VolumeId::from_u128(13), Epoch::new(4));
    survives::<_, v1::Attachment>(attachment());
    for replay_of in [None, Some(Epoch::new(3))] {
        survives::<_, v1::SealLayerRequest>(SealLayer {
            request: REQUEST,
            volume: volume_id,
            epoch,
            caller: caller(),
            number: CommitNumber::new(22),
            checkpoint: JournalSeq::new(77),
            next_head: LayerId::new(41),
            replay_of,
        });
    }
    for before in [false, true] {
        survives::<_, v1::SealLayerResponse>(LayerSealed { now: sealed_head(), before });
    }
}

fn sealed_head() -> SealedHead {
    let (head, next_head) = (LayerId::new(41), LayerId::new(50));
    SealedHead { head, next_head, last_commit: CommitNumber::new(22) }
}

fn snapshot(state: SnapshotState) -> Snapshot {
    Snapshot {
        id: SnapshotId::from_u128(14),
        name: "monday".parse().expect("a name"),
        volume: VolumeId::from_u128(13),
        pool: PoolId::from_u128(12),
        layer: (state != SnapshotState::Creating).then(|| LayerId::new(5)),
        size: VolumeSize::from_bytes(1 << 30).expect("a size"),
        logical_block_size: LogicalBlockSize::B512,
        set: SnapshotSetId::from_u128(15),
        created_unix_seconds: 1_700_000_000,
        state,
        restored: true,
        group: (state == SnapshotState::Ready).then_some(groups::GROUP),
        owned_extents: 18,
    }
}

#[test]
fn snapshots_clones_and_rollbacks_survive_the_wire() {
    use SnapshotState::{Creating, Deleting, Ready};
    for state in [Creating, Ready, Deleting] {
        survives::<_, v1::Snapshot>(snapshot(state));
    }
    let name = || "tuesday".parse().expect("a name");
    let by_name = Selector::Name(name());
    let volume = Selector::Id(VolumeId::from_u128(13));
    let snapshot = Selector::Id(SnapshotId::from_u128(14));
    survives::<_, v1::DeleteSnapshotRequest>(DeleteSnapshot {
        request: REQUEST,
        snapshot: by_name.clone(),
    });
    for size in [None, VolumeSize::from_bytes(1 << 20).ok()] {
        survives::<_, v1::CloneVolumeRequest>(CloneVolume {
            request: REQUEST,
            snapshot: snapshot.clone(),
            name: name(),
            size,
            over_watermark: false,
        });
    }
    survives::<_, v1::RollbackVolumeRequest>(RollbackVolume {
        request: REQUEST,
        volume: volume.clone(),
        snapshot: by_name,
    });
    let size = VolumeSize::from_bytes(3 << 20).expect("aligned");
    let grow = GrowVolume { request: REQUEST, volume, size, over_watermark: false };
    let wire = v1::GrowVolumeRequest::from(grow.clone());
    assert_eq!(bad_field::<_, GrowVolume>(&wire, |w| w.size_bytes = 4097), "size_bytes");
    survives::<_, v1::GrowVolumeRequest>(grow);
}

#[test]
fn a_bad_field_of_a_snapshot_is_named() {
    let wire = v1::Snapshot::from(snapshot(SnapshotState::Ready));
    assert_eq!(bad_field::<_, Snapshot>(&wire, |w| w.layer = 0), "layer");
    assert_eq!(bad_field::<_, Snapshot>(&wire, |w| w.state = 1), "layer");
    assert_eq!(bad_field::<_, Snapshot>(&wire, |w| w.state = 4), "state");
    let clone = v1::CloneVolumeRequest::from(CloneVolume {
        request: REQUEST,
        snapshot: Selector::Id(SnapshotId::from_u128(14)),
        name: "c".parse().expect("a name"),
        size: None,
        over_watermark: false,
    });
    assert_eq!(bad_field::<_, CloneVolume>(&clone, |w| w.size_bytes = 4097), "size_bytes");
}

#[test]
fn nodes_survive_the_wire() {
    survives::<_, v1::JoinRequest>(Join {
        is_drained: true,
        request: REQUEST,
        name: "n1".parse().expect("a name"),
        boot: BootId::from_u128(5),
        resume: Some(Incarnation::new(2)),
        last_session: SessionNumber::new(77),
    });
    survives::<_, v1::JoinResponse>(Joined {
        session: caller(),
        resumed: true,
        timers: LeaseTimers::DEFAULT,
        cluster: ClusterId::from_u128(6),
        state: Joining,
    });
    survives::<_, v1::LeaveRequest>(Leave { request: REQUEST, caller: caller() });
    use NodeState::{Active, Fenced, Fencing, Joining, Left, Suspect};
    for state in [Joining, Active, Suspect, Fencing, Fenced, Left] {
        survives::<_, v1::Node>(Node {
            id: NodeId::new(3),
            name: "n1".parse().expect("a name"),
            incarnation: Incarnation::new(9),
            boot: BootId::from_u128(5),
            state,
            heard_ago: Some(Duration::from_millis(1500)),
            attachments: 2,
            session: SessionNumber::new(78),
            is_barred: true,
            is_draining: true,
        });
    }
}

#[test]
fn maps_and_reservations_survive_the_wire() {
    for bytes in [64 << 10, 1 << 20, 16 << 20] {
        let size = ExtentSize::from_bytes(bytes).expect("a size");
        let at = ExtentAddress::new(2, 77);
        let fresh = Slot::fresh(at, size);
        let full = Slot { presence: Presence::full(size), ..fresh.clone() };
        let mut part = Slot { opaque: true, ..fresh.clone() };
        part.presence.insert(BlockRange::new(3, 9));
        let slots = [Some(fresh), Some(full), Some(part), Some(Slot::zero(size)), None];
        let update = |(at, slot): (u64, _)| SlotUpdate { at: LogicalExtent::new(at), slot };
        survives::<_, v1::CommitMapRequest>(CommitMap {
            request: REQUEST,
            caller: caller(),
            volume: VolumeId::from_u128(13),
            epoch: Epoch::new(4),
            number: CommitNumber::new(1 << 40),
            layer: LayerId::new(2),
            extent_size: size,
            updates: (0..).zip(slots.clone()).map(update).collect(),
            checkpoint: Some(JournalSeq::new(8)),
            replay_of: Some(Epoch::new(3)),
        });
        let part = |(birth, slot): (u64, Option<Slot>)| {
            slot.map(|slot| LayerPart { birth: LayerId::new(birth), slot })
        };
        let parts: Vec<_> = (1..).zip(slots.clone()).filter_map(part).collect();
        let entry = |at, own: &Option<Slot>, parts| LayerEntry {
            at: LogicalExtent::new(at),
            own: own.clone(),
            parts,
        };
        let page = LayerPage {
            entries: vec![
                entry(1, &slots[2], parts.clone()),
                entry(5, &None, parts.clone()),
                entry(6, &slots[0], vec![]),
            ],
            next: Some(LogicalExtent::new(7)),
            extent_size: size,
        };
        survives::<_, v1::ReadLayerResponse>(page.clone());
        let refused = |change: &dyn Fn(&mut v1::LayerEntry)| {
            let mut wire = v1::ReadLayerResponse::from(page.clone());
            change(&mut wire.entries[0]);
            LayerPage::try_from(wire).expect_err("refused").to_string()
        };
        assert!(refused(&|entry| entry.parts.swap(0, 1)).contains("ascending"));
        assert!(refused(&|entry| entry.parts[0].birth = 0).contains("parts[0].birth"));
        assert!(refused(&|entry| (entry.own, entry.parts) = (None, vec![])).contains("neither"));
    }
    survives::<_, v1::ReadLayerRequest>(ReadLayer {
        layer: LayerId::new(2),
        from: LogicalExtent::new(5),
        limit: 10,
    });
    let pool = PoolId::from_u128(12);
    survives::<_, v1::ReserveExtentsRequest>(ReserveExtents {
        request: REQUEST,
        caller: caller(),
        pool,
        count: 1024,
    });
    survives::<_, v1::ReleaseExtentsRequest>(ReleaseExtents {
        request: REQUEST,
        caller: caller(),
        pool,
        runs: runs(),
    });
    survives::<_, v1::PoolReservation>(PoolReservation { pool, runs: runs() });
}

#[test]
fn prunes_survive_the_wire() {
    survives::<_, v1::PruneLayerRequest>(PruneLayer {
        request: REQUEST,
        caller: caller(),
        volume: VolumeId::from_u128(13),
        epoch: Epoch::new(4),
        layer: LayerId::new(2),
        from: LogicalExtent::new(0),
    });
    let part = |at, birth, extent| {
        let (at, birth) = (LogicalExtent::new(at), LayerId::new(birth));
        PrunedPart { at, birth, extent }
    };
    let parts = vec![part(0, 3, None), part(0, 4, Some(ExtentAddress::new(2, 7)))];
    for next in [None, Some(LogicalExtent::new(0)), Some(LogicalExtent::new(9))] {
        for freed in [Freed::UseAgain, Freed::GiveBack] {
            let parts = parts.clone();
            survives::<_, v1::PruneLayerResponse>(PrunedParts { parts, next, freed });
            assert_eq!(Freed::from(v1::CommitMapResponse::from(freed)), freed);
        }
    }
    let mut wire = v1::PruneLayerResponse::from(PrunedParts { parts, ..PrunedParts::default() });
    wire.parts.swap(0, 1);
    let problem = PrunedParts::try_from(wire.clone()).expect_err("refused").to_string();
    assert!(problem.contains("in order"), "{problem}");
    wire.parts = vec![wire.parts[1]; PRUNE_PARTS_MAX + 1];
    let problem = PrunedParts::try_from(wire).expect_err("refused").to_string();
    assert!(problem.contains("beyond 500"), "{problem}");
}

#[test]
fn admin_facts_survive_the_wire() {
    survives::<_, v1::Cluster>(Cluster {
        id: ClusterId::from_u128(1),
        keyspace_version: 1,
        service_version: "0.1.0".to_owned(),
    });
    let works = [
        OperationWork::DeleteVolume(VolumeId::from_u128(13)),
        OperationWork::ReclaimReservations(node()),
        OperationWork::DropLayer(LayerId::new(8)),
        OperationWork::FreeQuarantine(BackupNumber::new(9)),
    ];
    for work in works {
        for waits_for in [None, Some(RoomWanted { layer: LayerId::new(9), extents: 7 })] {
            survives::<_, v1::Operation>(Operation { id: OperationId::new(4), work, waits_for });
        }
    }
    survives::<_, v1::Backups>(Backups::default());
    let (one, two) = (BackupNumber::new(1), BackupNumber::new(2));
    let backups = vec![
        Backup { number: two, begun_at: 7, complete_at: None },
        Backup { number: one, begun_at: 5, complete_at: Some(6) },
    ];
    let newest_complete = Some(one);
    survives::<_, v1::Backups>(Backups { newest_complete, is_horizon_off: true, backups });
    let text = "what to do".to_owned();
    for remedy in [FsckRemedy::Repair(text.clone()), FsckRemedy::Refused(text.clone())] {
        survives::<_, v1::FsckEvent>(FsckEvent::Finding(FsckFinding {
            kind: "extent-leaked".to_owned(),
            message: "pool x".to_owned(),
            facts: [("pool".to_owned(), "x".to_owned())].into(),
            remedy,
        }));
    }
    for changed in [true, false] {
        let repair = text.clone();
        survives::<_, v1::FsckEvent>(FsckEvent::Repaired(FsckRepaired { repair, changed }));
    }
    let digest = FindingsDigest::new(0x0a0b);
    let summary = FsckSummary {
        findings: 2,
        slots: 2,
        allocated_extents: 3,
        repairable: 1,
        digest,
        ..Default::default()
    };
    survives::<_, v1::FsckEvent>(FsckEvent::Summary(summary));
}

/// Converts a request that is wrong in one field and gives the field that the error names.
fn bad_field<W: Clone, T: TryFrom<W, Error = FieldError> + Debug>(
    good: &W,
    spoil: impl FnOnce(&mut W),
) -> String {
    let mut wire = good.clone();
    spoil(&mut wire);
    T::try_from(wire).expect_err("the spoilt field is refused").field().to_owned()
}

#[test]
fn a_bad_field_of_a_pool_request_is_named() {
    let lun = v1::NewLun {
        lun_id: LunId::from_u128(1).to_string(),
        size_bytes: 1 << 30,
        logical_block_size: 512,
    };
    let good = v1::CreatePoolRequest {
        request_id: REQUEST.to_string(),
        name: "p".to_owned(),
        extent_size_bytes: 0,
        luns: vec![lun.clone(), lun],
        fencing: v1::PoolFencing::Reservations.into(),
    };
    let default = CreatePool::try_from(good.clone()).map(|request| request.extent_size);
    assert_eq!(default, Ok(ExtentSize::DEFAULT));
    assert_eq!(bad_field::<_, CreatePool>(&good, |w| w.request_id.clear()), "request_id");
    assert_eq!(bad_field::<_, CreatePool>(&good, |w| w.request_id = "7".into()), "request_id");
    assert_eq!(bad_field::<_, CreatePool>(&good, |w| w.name = "n".repeat(129)), "name");
    assert_eq!(bad_field::<_, CreatePool>(&good, |w| w.extent_size_bytes = 3), "extent_size_bytes");
    assert_eq!(
        bad_field::<_, CreatePool>(&good, |w| w.luns[1].lun_id = "x".into()),
        "luns[1].lun_id"
    );
    assert_eq!(
        bad_field::<_, CreatePool>(&good, |w| w.luns[0].logical_block_size = 1024),
        "luns[0].logical_block_size"
    );
    assert_eq!(bad_field::<_, CreatePool>(&good, |w| w.fencing = 0), "fencing");
}

#[test]
fn a_bad_field_of_a_volume_request_is_named() {
    let create = v1::CreateVolumeRequest::from(CreateVolume {
        request: REQUEST,
        name: "v".parse().expect("a name"),
        pool: Selector::Id(PoolId::from_u128(12)),
        size: VolumeSize::from_bytes(4096).expect("a size"),
        logical_block_size: LogicalBlockSize::B4096,
        over_watermark: false,
    });
    for size in [0, 4097, u64::MAX] {
        let field = bad_field::<_, CreateVolume>(&create, |w| w.size_bytes = size);
        assert_eq!(field, "size_bytes", "{size}");
    }
    assert_eq!(bad_field::<_, CreateVolume>(&create, |w| w.pool = None), "pool");
    let by = |by| Some(v1::Selector { by: Some(by) });
    let id = v1::selector::By::Id("shelf".to_owned());
    assert_eq!(bad_field::<_, CreateVolume>(&create, |w| w.pool = by(id)), "pool.id");
    let name = v1::selector::By::Name("-".to_owned());
    assert_eq!(bad_field::<_, CreateVolume>(&create, |w| w.pool = by(name)), "pool.name");

    let attach = v1::AttachRequest {
        request_id: REQUEST.to_string(),
        volume: Some(Selector::Id(VolumeId::from_u128(1)).into()),
        caller: Some(caller().into()),
        understands_layers: true,
        accept_restored: false,
        publication_id: String::new(),
        for_file_system: false,
    };
    assert_eq!(
        bad_field::<_, Attach>(&attach, |w| w.publication_id = "7".to_owned()),
        "publication_id"
    );
    let spoil = |node, incarnation, session| v1::NodeSession { node, incarnation, session };
    for (wire, field) in [
        (None, "caller"),
        (Some(spoil(0, 1, 1)), "caller.node"),
        (Some(spoil(65536, 1, 1)), "caller.node"),
        (Some(spoil(1, 0, 1)), "caller.incarnation"),
        (Some(spoil(1, 1, 0)), "caller.session"),
    ] {
        assert_eq!(bad_field::<_, Attach>(&attach, |w| w.caller = wire), field);
    }
    let detach = v1::DetachRequest::from(Detach {
        request: REQUEST,
        volume: VolumeId::from_u128(1),
        epoch: Epoch::new(1),
        caller: caller(),
        mode: DetachMode::Clean,
    });
    assert_eq!(bad_field::<_, Detach>(&detach, |w| w.epoch = 0), "epoch");
    assert_eq!(bad_field::<_, Detach>(&detach, |w| w.mode = 0), "mode");
    assert_eq!(bad_field::<_, Detach>(&detach, |w| w.mode = 9), "mode");
}

#[test]
fn a_bad_field_of_a_map_commit_is_named() {
    let size = ExtentSize::DEFAULT;
    let mut slot = Slot::fresh(ExtentAddress::new(0, 1), size);
    slot.presence.insert(BlockRange::new(0, 1));
    let update = SlotUpdate { at: LogicalExtent::new(0), slot: Some(slot) };
    let good = v1::CommitMapRequest::from(CommitMap {
        request: REQUEST,
        caller: caller(),
        volume: VolumeId::from_u128(13),
        epoch: Epoch::new(4),
        number: CommitNumber::new(1),
        layer: LayerId::new(2),
        extent_size: size,
        updates: vec![update],
        checkpoint: None,
        replay_of: None,
    });
    let field = |spoil: fn(&mut v1::Slot)| {
        bad_field::<_, CommitMap>(&good, |w| spoil(w.updates[0].slot.as_mut().expect("a slot")))
    };
    assert_eq!(field(|slot| slot.place = None), "updates[0].slot.place");
    assert_eq!(field(|slot| slot.presence.truncate(1)), "updates[0].slot.presence");
    assert_eq!(field(|slot| slot.full = true), "updates[0].slot.presence");
    let zero = v1::slot::Place::Zero(v1::ZeroPlace {});
    let spoilt = bad_field::<_, CommitMap>(&good, |w| {
        w.updates[0].slot.as_mut().expect("a slot").place = Some(zero);
    });
    assert_eq!(spoilt, "updates[0].slot.presence");
    let far = v1::slot::Place::Extent(v1::ExtentAddress { lun: 1024, extent: 0 });
    let spoilt = bad_field::<_, CommitMap>(&good, |w| {
        w.updates[0].slot.as_mut().expect("a slot").place = Some(far);
    });
    assert_eq!(spoilt, "updates[0].slot.extent.lun");
    let many = |w: &mut v1::CommitMapRequest| w.updates = vec![w.updates[0].clone(); 1001];
    assert_eq!(bad_field::<_, CommitMap>(&good, many), "updates");
    assert_eq!(bad_field::<_, CommitMap>(&good, |w| w.layer = 0), "layer");
    assert_eq!(bad_field::<_, CommitMap>(&good, |w| w.commit_number = 0), "commit_number");
    assert_eq!(bad_field::<_, CommitMap>(&good, |w| w.replay_of = Some(0)), "replay_of");
    let none = |w: &mut v1::CommitMapRequest| w.extent_size_bytes = 0;
    assert_eq!(bad_field::<_, CommitMap>(&good, none), "extent_size_bytes");
}

#[test]
fn a_bad_run_or_count_is_named() {
    let good = v1::ReleaseExtentsRequest::from(ReleaseExtents {
        request: REQUEST,
        caller: caller(),
        pool: PoolId::from_u128(12),
        runs: runs(),
    });
    let bad =
        |spoil: fn(&mut v1::ReleaseExtentsRequest)| bad_field::<_, ReleaseExtents>(&good, spoil);
    assert_eq!(bad(|w| w.runs[1].count = 0), "runs[1].count");
    assert_eq!(bad(|w| w.runs[1].first = 1 << 36), "runs[1].first");
    assert_eq!(bad(|w| (w.runs[1].first, w.runs[1].count) = ((1 << 36) - 1, 2)), "runs[1].count");
    assert_eq!(bad(|w| w.runs = vec![w.runs[0]; 1025]), "runs");
    assert_eq!(bad(|w| w.runs[0].count = 65536), "runs");
    let good = v1::ReserveExtentsRequest::from(ReserveExtents {
        request: REQUEST,
        caller: caller(),
        pool: PoolId::from_u128(12),
        count: 1,
    });
    for count in [0, 1025] {
        let field = bad_field::<_, ReserveExtents>(&good, |w| w.count = count);
        assert_eq!(field, "count", "{count}");
    }
}

#[test]
fn a_page_beyond_the_limit_is_refused() {
    let request = |limit| v1::PageRequest { limit, token: Vec::new() };
    let page = super::page_request(None).expect("the first page");
    assert_eq!(page.limit, PageRequest::LIMIT_DEFAULT);
    assert_eq!(super::page_request(Some(request(1000))).map(|page| page.limit), Ok(1000));
    let error = super::page_request(Some(request(1001))).expect_err("too much");
    assert_eq!(error.field(), "page.limit");
}

#[test]
fn a_digest_of_findings_is_sixteen_hexadecimal_digits() {
    let digest = FindingsDigest::new(0x0102_0304_0506_0a0b);
    assert_eq!(digest.to_string(), "0102030405060a0b");
    assert_eq!(digest.to_string().parse(), Ok(digest));
    for text in ["", "0a0b", "+102030405060a0b", "0102030405060a0bc", "0102030405060a0g"] {
        assert_eq!(text.parse::<FindingsDigest>(), Err(FindingsDigestError), "{text}");
    }
}
