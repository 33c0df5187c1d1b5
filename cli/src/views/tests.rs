//! Golden outputs: what every command writes for fixed values, for people and for programs.
//!
//! The expected texts lie in `golden/`. A changed JSON field breaks programs: it needs a line in
//! the change log. After a wanted change run the tests with `LUNAR_BLESS=1` and read the
//! difference.

use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use lunar_backup::{BackupEnd, BackupHeader};
use lunar_proto::domain::{
    AuditEntry, Backup, BackupNumber, Backups, ContentState, DiffKind, DiffRun, Fence, FenceLun,
    FenceLunState, FenceProof, FindingsDigest, FsckFinding, FsckRemedy, FsckRepaired, FsckSummary,
    Holder, LayerEntry, LayerPart, Lun, LunStatus, Node, NodeState, Operation, OperationId,
    OperationWork, Pool, PoolFill, PoolStatus, Publication, PublicationMode, RoomWanted, Snapshot,
    SnapshotGroup, SnapshotState, SpaceUsage, Usage, Volume, VolumeState, Watermarks,
};
use lunar_proto::error::Facts;
use lunar_proto::v1;
use lunar_types::{
    BlockRange, BootId, ByteCount, ClusterId, Epoch, ExtentAddress, ExtentSize, Incarnation,
    LayerId, LogicalBlockSize, LogicalExtent, LunId, LunIndex, Name, NodeId, NodeIncarnation,
    PoolId, Presence, PublicationId, SessionNumber, Slot, SlotPlace, SnapshotGroupId, SnapshotId,
    SnapshotSetId, VolumeId, VolumeSize,
};

use super::*;
use crate::args::OutputFormat;
use crate::export::stream::StreamHeader;
use crate::file_system::{FileSystem, Mounted};
use crate::output::{Report, render};

fn assert_golden<R: Report>(report: &R, file: &str) {
    for (format, extension) in [(OutputFormat::Table, "txt"), (OutputFormat::Json, "json")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src/views/golden")
            .join(format!("{file}.{extension}"));
        let text = render(report, format);
        if env::var_os("LUNAR_BLESS").is_some() {
            fs::write(&path, &text).expect("the golden file is writable");
        }
        let expected = fs::read_to_string(&path).expect("the golden file exists");
        assert_eq!(text, expected, "{}", path.display());
    }
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn lun(index: u16, gib: u64) -> Lun {
    Lun {
        id: LunId::from_u128(0xa0 + u128::from(index)),
        index: LunIndex::new(index),
        size: ByteCount::new(gib << 30),
        logical_block_size: LogicalBlockSize::B512,
        data_extents: (gib << 10) - 2,
    }
}

fn pool() -> Pool {
    Pool {
        id: PoolId::from_u128(0xb),
        name: name("fast"),
        extent_size: ExtentSize::DEFAULT,
        luns: vec![lun(0, 4), lun(1, 6)],
        logical_block_size: LogicalBlockSize::B512,
        watermarks: Watermarks::DEFAULT,
        fencing: lunar_proto::domain::PoolFencing::None,
    }
}

fn volume(text: &str, holder: Option<Holder>) -> Volume {
    Volume {
        id: VolumeId::from_u128(0xc),
        name: name(text),
        pool: PoolId::from_u128(0xb),
        size: VolumeSize::from_bytes(10 << 30).expect("a size"),
        logical_block_size: LogicalBlockSize::B4096,
        head: LayerId::new(3),
        epoch: Epoch::new(2),
        state: VolumeState::Ready,
        restored: false,
        holder,
        mapped_extents: 1536,
        peers: Vec::new(),
        moves: 0,
        publications: Vec::new(),
        content: ContentState::Used,
        origin: None,
    }
}

fn holder(live: bool) -> Holder {
    let node = NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(4) };
    Holder { node, node_name: name("n1"), epoch: Epoch::new(2), live, granted_at: 1_767_225_600 }
}

fn volume_view(text: &str, holder: Option<Holder>) -> volume::VolumeView {
    volume::VolumeView::new(&volume(text, holder), &pool())
}

fn usage(is_approximate: bool) -> Usage {
    Usage {
        extent_size: ExtentSize::DEFAULT,
        owned_extents: 9,
        unique_extents: 7,
        reclaimable_extents: 8,
        referenced_extents: 30,
        is_approximate,
    }
}

fn attachment() -> v1::LocalAttachment {
    v1::LocalAttachment {
        volume_id: VolumeId::from_u128(0xc).to_string(),
        volume_name: "db".to_owned(),
        pool_id: PoolId::from_u128(0xb).to_string(),
        epoch: 2,
        device_path: "/dev/ublkb0".to_owned(),
        size_bytes: 10 << 30,
        logical_block_size: 4096,
        state: v1::AttachmentState::Live.into(),
        problem: String::new(),
        migratable: false,
        waiting_requests: 0,
        grows_at_next_attachment: false,
        counters: Some(v1::VolumeCounters {
            read_requests: 1,
            read_bytes: 4096,
            write_requests: 2,
            write_bytes: 8192,
            flush_requests: 3,
            discard_requests: 4,
            failed_requests: 5,
            lun_read_bytes: 6144,
            lun_write_bytes: 7168,
            dirty_slots: 8,
            parked_requests: 9,
            reserved_extents: 10,
            checkpoints: 11,
            split_reads: 12,
            split_read_ios: 13,
            consolidated_extents: 14,
            consolidated_bytes: 15 << 20,
            failed_copies: 16,
        }),
        publication_id: String::new(),
        device_major: 259,
        device_minor: 3,
    }
}

#[test]
fn pool_list_is_golden() {
    assert_golden(&pool::PoolList::new(&[pool()]), "pool-list");
    assert_golden(&pool::PoolView::from(&pool()), "pool-create");
}

#[test]
fn pool_status_is_golden() {
    let usage = SpaceUsage {
        total_extents: 10236,
        allocated_extents: 2000,
        reserved_extents: 400,
        journal_extents: 64,
        held_back_extents: 128,
        quarantined_extents: 36,
    };
    let luns = pool().luns.into_iter().map(|lun| LunStatus { lun, usage }).collect();
    let provisioned = ByteCount::new(30 << 30);
    let fill = PoolFill { used_extents: 8192, usable_extents: 10_236 - 256 };
    let status = PoolStatus { pool: pool(), usage, fill, provisioned, volumes: 3, luns };
    assert_golden(&pool::PoolStatusList::new(&[status]), "pool-status");
    assert_golden(&pool::WatermarksView::from(&pool()), "pool-watermarks");
    let released = pool::ReleasedView::new("fast", 36);
    assert_golden(&released, "pool-release-quarantine");
}

#[test]
fn volume_list_is_golden() {
    let volumes = vec![
        volume_view("db", Some(holder(true))),
        volume_view("lost", Some(holder(false))),
        volume_view("idle", None),
    ];
    assert_golden(&volume::VolumeList::new(volumes), "volume-list");
}

#[test]
fn volume_show_is_golden() {
    let local = Ok(Some(volume::AttachmentView::from(&attachment())));
    let view = volume_view("db", Some(holder(true)));
    assert_golden(&volume::VolumeDetail::new(view, local), "volume-show");
    let view = usage::VolumeUsageView::new(&volume("db", None), usage(false));
    assert_golden(&view, "volume-usage");
    let unknown = Err("fs-core cannot be reached at /run/x: gone".to_owned());
    let view = volume_view("db", Some(holder(true)));
    assert_golden(&volume::VolumeDetail::new(view, unknown), "volume-show-alone");
}

#[test]
fn what_came_back_with_a_backup_is_shown_as_restored() {
    let restored = Volume { restored: true, ..volume("db", None) };
    assert_golden(&volume::VolumeView::new(&restored, &pool()), "volume-show-restored");
    let list = volume::VolumeList::new(vec![volume::VolumeView::new(&restored, &pool())]);
    assert!(render(&list, OutputFormat::Table).contains("ready, restored"));
}

#[test]
fn publish_and_unpublish_are_golden() {
    let publication = |recalled| Publication {
        id: PublicationId::from_u128(0xe),
        node: NodeId::new(1),
        node_name: name("n1"),
        mode: PublicationMode::Single,
        reads_only: true,
        recalled,
        since: 1_767_225_600,
    };
    assert_golden(&publication::PublicationView::new(&publication(false)), "volume-publish");
    let published = Volume { publications: vec![publication(true)], ..volume("db", None) };
    assert_golden(&volume::VolumeView::new(&published, &pool()), "volume-show-published");
    let by_name = lunar_proto::domain::Selector::Name(name("db"));
    let node = name("n1");
    let of_one = publication::UnpublishView::new(&by_name, Some(&node));
    assert_golden(&of_one, "volume-unpublish");
    assert_golden(&publication::UnpublishView::new(&by_name, None), "volume-unpublish-all");
}

#[test]
fn attach_detach_and_delete_are_golden() {
    assert_golden(&volume::AttachmentView::from(&attachment()), "volume-attach");
    let answer = v1::DetachVolumeResponse { pending: true, journal_kept: true };
    assert_golden(&volume::DetachView::new("'db'".to_owned(), answer), "volume-detach");
    let deleted = volume::DeleteView::new(&volume("db", None), true);
    assert_golden(&deleted, "volume-delete");
}

#[test]
fn volume_grow_is_golden() {
    use grow::DeviceGrowth::{AtAttachment, AtNextAttachment, Done, OnOtherNode, Unknown};
    let local = || Box::new(volume::AttachmentView::from(&attachment()));
    let limited =
        v1::LocalAttachment { size_bytes: 5 << 30, grows_at_next_attachment: true, ..attachment() };
    let late = || Box::new(volume::AttachmentView::from(&limited));
    let mounted = Mounted {
        file_system: FileSystem::Xfs,
        mount_point: "/srv/db".to_owned(),
        device: "/dev/ublkb0".to_owned(),
    };
    let problem = "fs-core cannot be reached at /run/x: gone".to_owned();
    for (growth, mounted, file) in [
        (AtAttachment, None, "volume-grow-detached"),
        (Done(local()), Some(&mounted), "volume-grow-fs"),
        (AtNextAttachment(late()), None, "volume-grow-limited"),
        (OnOtherNode { node: "n1".to_owned() }, None, "volume-grow-elsewhere"),
        (Unknown { problem }, None, "volume-grow-unknown"),
    ] {
        let holder = (!matches!(growth, AtAttachment)).then(|| holder(true));
        let view = grow::GrowView::new(volume_view("db", holder), growth, mounted);
        assert_golden(&view, file);
    }
    let view = volume_view("db", Some(holder(true)));
    let local = Ok(Some(volume::AttachmentView::from(&limited)));
    assert_golden(&volume::VolumeDetail::new(view, local), "volume-show-limited");
}

fn slot(place: SlotPlace, blocks: u32) -> Slot {
    let mut presence = Presence::empty(ExtentSize::DEFAULT);
    if blocks > 0 {
        presence.insert(BlockRange::new(0, blocks));
    }
    Slot { place, opaque: false, presence }
}

fn on_lun(lun: u16, extent: u64, blocks: u32) -> Slot {
    slot(SlotPlace::Extent(ExtentAddress::new(lun, extent)), blocks)
}

fn own(at: u64, slot: Slot) -> LayerEntry {
    LayerEntry { at: LogicalExtent::new(at), own: Some(slot), parts: Vec::new() }
}

fn data(at: u64, lun: u16, extent: u64, blocks: u32) -> LayerEntry {
    own(at, on_lun(lun, extent, blocks))
}

fn zero(at: u64) -> LayerEntry {
    own(at, slot(SlotPlace::Zero, 0))
}

#[test]
fn volume_map_joins_runs_across_pages() {
    let size = ExtentSize::DEFAULT;
    let mut view = map::MapView::new(&volume("db", None), size);
    view.extend(&[data(0, 0, 7, 256), data(1, 0, 8, 1), data(3, 0, 10, 256)], size);
    view.extend(&[data(4, 0, 11, 2), data(5, 1, 12, 3), data(6, 1, 4, 4)], size);
    view.extend(&[zero(7), zero(8)], size);
    assert_golden(&view, "volume-map");
}

#[test]
fn volume_map_shows_parts_by_birth_below_the_own_slot() {
    let size = ExtentSize::DEFAULT;
    let part = |birth, extent| LayerPart { birth: LayerId::new(birth), slot: on_lun(0, extent, 4) };
    let both = |at| LayerEntry { parts: vec![part(1, 20 + at), part(2, 40)], ..data(at, 0, at, 1) };
    let mut view = map::MapView::new(&volume("db", None), size);
    view.extend(&[both(0), both(1), LayerEntry { own: None, ..both(2) }], size);
    assert_golden(&view, "volume-map-parts");
}

fn snapshot(text: &str, volume: u128, created: u64, state: SnapshotState) -> Snapshot {
    Snapshot {
        id: SnapshotId::from_u128(0x5),
        name: name(text),
        volume: VolumeId::from_u128(volume),
        pool: PoolId::from_u128(0xb),
        layer: (state != SnapshotState::Creating).then_some(LayerId::new(2)),
        size: VolumeSize::from_bytes(10 << 30).expect("a size"),
        logical_block_size: LogicalBlockSize::B4096,
        set: SnapshotSetId::from_u128(0x7),
        created_unix_seconds: 1_735_689_599 + created,
        state,
        restored: false,
        group: None,
        owned_extents: 3,
    }
}

fn snapshot_view(snapshot: &Snapshot) -> snapshot::SnapshotView {
    let origins = snapshot::Origins::new(&[volume("db", None)], vec![pool()]);
    snapshot::SnapshotView::new(snapshot, &origins).expect("its pool is known")
}

#[test]
fn snapshot_list_create_and_show_are_golden() {
    let at = |text, volume, created, state| snapshot(text, volume, created, state);
    let of_gone = at("left", 0xd, 0, SnapshotState::Deleting);
    let later = at("a-later", 0xc, 60, SnapshotState::Creating);
    let first = at("z-first", 0xc, 0, SnapshotState::Ready);
    let views = [&later, &of_gone, &first].map(snapshot_view);
    assert_golden(&snapshot::SnapshotList::new(views.into()), "snapshot-list");
    assert_golden(&snapshot_view(&of_gone), "snapshot-show-gone");
    assert_golden(&snapshot_view(&first), "snapshot-show");
    let view = usage::SnapshotUsageView::new(&first, usage(true));
    assert_golden(&view, "snapshot-usage");
    let set = SnapshotSetId::from_u128(0x7);
    let cut = snapshot::SealedSetView::new(set, vec![snapshot_view(&first)]);
    assert_golden(&cut, "snapshot-create");
}

#[test]
fn groups_are_golden() {
    let group = |text: &str, members: &[&str]| SnapshotGroup {
        id: SnapshotGroupId::from_u128(0x9),
        name: name(text),
        created_unix_seconds: 1_735_689_599,
        snapshots: members.iter().map(|s| snapshot(s, 0xc, 0, SnapshotState::Ready)).collect(),
        set: SnapshotSetId::from_u128(0x7),
    };
    let weekly = group("weekly", &["db-monday", "logs-monday"]);
    let views = [&weekly, &group("empty", &[])].map(group::GroupView::new);
    assert_golden(&group::GroupList::new(views.into()), "snapshot-groups");
    assert_golden(&group::GroupList::new(Vec::new()), "snapshot-groups-none");
    assert_golden(&group::GroupDeleteView::new(&weekly), "snapshot-delete-group");
}

#[test]
fn a_snapshot_of_an_unknown_pool_has_no_view() {
    let origins = snapshot::Origins::new(&[volume("db", None)], Vec::new());
    let snapshot = snapshot("s", 0xc, 0, SnapshotState::Ready);
    assert!(snapshot::SnapshotView::new(&snapshot, &origins).is_none());
}

#[test]
fn snapshot_delete_says_what_became_of_the_space() {
    use snapshot::SnapshotDeletion::{Freed, Shared, Started, Waiting};
    let waiting = Waiting { waits_for_layer: 3, waits_for: "volume 'db'".to_owned() };
    for (deletion, file) in [
        (Freed, "snapshot-delete"),
        (Shared, "snapshot-delete-shared"),
        (waiting, "snapshot-delete-waiting"),
        (Started, "snapshot-delete-started"),
    ] {
        let deleted = snapshot("s", 0xc, 0, SnapshotState::Deleting);
        assert_golden(&snapshot::SnapshotDeleteView::new(&deleted, deletion), file);
    }
}

#[test]
fn exports_and_imports_are_golden() {
    let of = |base: Option<u128>| StreamHeader {
        snapshot: SnapshotId::from_u128(0x5),
        base: base.map(SnapshotId::from_u128),
        size: VolumeSize::from_bytes(10 << 30).expect("a size"),
        logical_block: LogicalBlockSize::B4096,
    };
    let path = Some(Path::new("/backup/s.raw"));
    let raw = transfer::ExportFacts::new(path, "raw", &of(None), 3 << 20, 0x1a2b);
    let piped = transfer::ExportFacts::new(None, "stream", &of(Some(4)), 8192, 0xffff_0000);
    let export = |export, resumed_bytes| {
        let snapshot_name = "s".to_owned();
        transfer::ExportView { export, snapshot_name, resumed_bytes }
    };
    assert_golden(&export(raw.clone(), 1 << 20), "snapshot-export");
    assert_golden(&export(piped.clone(), 0), "snapshot-export-pipe");
    assert_golden(&transfer::VerifyView { export: raw.clone() }, "snapshot-verify");
    assert_golden(&transfer::VerifyView { export: piped }, "snapshot-verify-changes");
    let import = |marker, from| {
        let volume = volume::VolumeView::new(&volume("db", None), &pool());
        transfer::ImportView { volume, marker, from }
    };
    assert_golden(&import(Some("import-5-1a2b".to_owned()), raw), "snapshot-import");
    let foreign = transfer::ExportFacts::unverified(path, 10 << 30, 1 << 20);
    assert_golden(&import(None, foreign), "snapshot-import-unverified");
}

#[test]
fn snapshot_diff_is_golden() {
    let [one, other] = ["a", "b"].map(|text| snapshot(text, 0xc, 0, SnapshotState::Ready));
    let mut view = diff::DiffView::new(Some(&one), &other);
    for (offset, length, kind) in [
        (0, 4096, DiffKind::Data),
        (4096, 1 << 20, DiffKind::Zero),
        (5 << 30, 40_960, DiffKind::Data),
    ] {
        view.push(DiffRun { offset, length, kind });
    }
    assert_golden(&view, "snapshot-diff");
    assert_golden(&diff::DiffView::new(None, &other), "snapshot-diff-empty");
    assert_eq!(diff::DiffView::new(Some(&one), &other).to_text(), "no difference\n");
}

#[test]
fn rollback_is_golden() {
    let target = snapshot("s", 0xc, 0, SnapshotState::Ready);
    let detached = snapshot::RollbackView::new(volume_view("db", None), &target, None);
    assert_golden(&detached, "volume-rollback");
    let attached = Some(volume::AttachmentView::from(&attachment()));
    let again = volume_view("db", Some(holder(true)));
    let again = snapshot::RollbackView::new(again, &target, attached);
    assert_golden(&again, "volume-rollback-reattach");
}

#[test]
fn operation_list_is_golden() {
    let gone = NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(4) };
    let room = RoomWanted { layer: LayerId::new(7), extents: 12 };
    let operation = |id, work, waits_for| Operation { id: OperationId::new(id), work, waits_for };
    let operations = [
        operation(1, OperationWork::DeleteVolume(VolumeId::from_u128(0xc)), None),
        operation(2, OperationWork::ReclaimReservations(gone), None),
        operation(3, OperationWork::DropLayer(LayerId::new(5)), None),
        operation(4, OperationWork::DropLayer(LayerId::new(6)), Some(room)),
        operation(5, OperationWork::FreeQuarantine(BackupNumber::new(12)), None),
    ];
    assert_golden(&operation::OperationList::new(&operations), "operation-list");
}

#[test]
fn backups_are_golden() {
    let header = BackupHeader {
        keyspace_version: 3,
        cluster: ClusterId::from_u128(0xc),
        number: 12,
        begun: 1_735_689_599,
    };
    let end = BackupEnd { blocks: 3, entries: 20_000, bytes: 2_500_000 };
    let path = "/backup/lunar-12".to_owned();
    let made = backup::BackupFileView::new(path.clone(), &header, &end, true);
    assert_golden(&made, "backup-create");
    assert_golden(&backup::BackupFileView::new(path, &header, &end, false), "backup-check");
    let one = |number, begun_at, complete_at| Backup {
        number: BackupNumber::new(number),
        begun_at,
        complete_at,
    };
    let newest_complete = Some(BackupNumber::new(12));
    let all = Backups {
        newest_complete,
        is_horizon_off: false,
        backups: vec![
            one(13, 1_735_689_700, None),
            one(12, 1_735_689_599, Some(1_735_689_601)),
            one(11, 1_735_600_000, Some(1_735_600_001)),
        ],
    };
    assert_golden(&backup::BackupList::new(&all), "backup-list");
    let off = Backups { newest_complete: None, is_horizon_off: true, ..all };
    assert_golden(&backup::BackupList::new(&off), "backup-list-off");
    assert_golden(&backup::BackupList::new(&Backups::default()), "backup-list-none");
}

#[test]
fn node_list_is_golden() {
    let node = |id, text: &str, state, heard_ago| Node {
        id: NodeId::new(id),
        name: name(text),
        incarnation: Incarnation::new(4),
        boot: BootId::from_u128(0xd),
        state,
        heard_ago,
        attachments: 2,
        session: SessionNumber::new(9),
        is_barred: false,
        is_draining: false,
    };
    let heard = Some(Duration::from_millis(1234));
    let nodes = [node(1, "n1", NodeState::Active, heard), node(2, "n2", NodeState::Fenced, None)];
    assert_golden(&node::NodeList::new(&nodes), "node-list");
    let barred = Node { is_barred: true, is_draining: true, ..nodes[1].clone() };
    assert_golden(&node::NodeView::from(&barred), "node-fence");
}

#[test]
fn fences_and_the_audit_are_golden() {
    let victim = NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(4) };
    let fencer = NodeIncarnation { node: NodeId::new(2), incarnation: Incarnation::new(1) };
    let lun = |id, state| FenceLun { lun: LunId::from_u128(id), state };
    let fence = |waits_for: &str| Fence {
        victim,
        node_name: name("n1"),
        reason: "not heard from for 15 s".to_owned(),
        luns: vec![
            lun(1, FenceLunState::Open),
            lun(2, FenceLunState::Begun { fencer, attempt: 2 }),
            lun(3, FenceLunState::Done(FenceProof::Aborted)),
        ],
        waits_for: waits_for.to_owned(),
    };
    let fences = [fence(""), fence("a node that sees LUN 1")];
    assert_golden(&fence::FenceList::new(&fences), "node-fences");
    assert_golden(&fence::FenceList::new(&[]), "node-fences-none");
    let entry = AuditEntry {
        number: 3,
        unix_seconds: 1_767_225_600,
        actor: "admin/ada".to_owned(),
        action: name("certify-powered-off"),
        object: "n1".to_owned(),
        reason: "the plug is out".to_owned(),
    };
    assert_golden(&fence::AuditList::new(&[entry]), "node-audit");
}

#[test]
fn fsck_is_golden() {
    let summary = FsckSummary {
        findings: 1,
        pools: 2,
        luns: 3,
        volumes: 4,
        layers: 5,
        slots: 6,
        nodes: 7,
        attachments: 8,
        allocated_extents: 9,
        repairable: 1,
        digest: FindingsDigest::new(0x0123_4567_89ab_cdef),
    };
    let finding = |kind: &str, remedy| FsckFinding {
        kind: kind.to_owned(),
        message: "extent 0:7 of pool 'fast' is allocated but nothing holds it".to_owned(),
        facts: Facts::from([("extent".to_owned(), "0:7".to_owned())]),
        remedy,
    };
    let leaked = finding("extent-leaked", FsckRemedy::Repair("put it into quarantine".to_owned()));
    let unsure = "the owner may be in the entry that cannot be read".to_owned();
    let unsure = finding("extent-leaked", FsckRemedy::Refused(unsure));
    let view = |findings, summary: &FsckSummary, repaired, detail| {
        fsck::FsckView::new(findings, summary, repaired, detail)
    };
    let found = vec![leaked.clone()];
    assert_golden(&view(found, &summary, Vec::new(), fsck::Detail::Findings), "fsck");
    let both = FsckSummary { findings: 2, ..summary };
    let found = vec![leaked, unsure.clone()];
    assert_golden(&view(found, &both, Vec::new(), fsck::Detail::Plan), "fsck-dry-run");
    let repaired = |changed| FsckRepaired { repair: "put it into quarantine".to_owned(), changed };
    let left = FsckSummary { repairable: 0, ..summary };
    let done = vec![repaired(true), repaired(false)];
    assert_golden(&view(vec![unsure], &left, done, fsck::Detail::Findings), "fsck-repaired");
    let clean = FsckSummary { findings: 0, repairable: 0, digest: Default::default(), ..summary };
    let detail = fsck::Detail::Findings;
    assert_golden(&view(Vec::new(), &clean, Vec::new(), detail), "fsck-clean");
}

fn local_lun(path: &str, state: v1::LunState) -> v1::LocalLun {
    v1::LocalLun {
        path: path.to_owned(),
        size_bytes: 4 << 30,
        logical_block_size: 512,
        state: state.into(),
        ..v1::LocalLun::default()
    }
}

fn local_luns() -> [v1::LocalLun; 2] {
    let label = v1::LunLabel {
        cluster_id: "00000000-0000-0000-0000-00000000000e".to_owned(),
        lun_id: LunId::from_u128(0xa1).to_string(),
        size_bytes: 4 << 30,
        logical_block_size: 512,
    };
    let signature = v1::ForeignSignature {
        kind: "ext4".to_owned(),
        uuid: "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10".to_owned(),
        usage: "filesystem".to_owned(),
        label: "old".to_owned(),
    };
    let ours = v1::LocalLun {
        label: Some(label),
        other_paths: vec!["/dev/sdc".to_owned()],
        model: "LIO-ORG disk".to_owned(),
        ..local_lun("/dev/sdb", v1::LunState::Ours)
    };
    let foreign = v1::LocalLun {
        signatures: vec![signature],
        problem: "carries ext4".to_owned(),
        ..local_lun("/dev/sdd", v1::LunState::ForeignSignature)
    };
    [ours, foreign]
}

#[test]
fn lun_list_and_status_are_golden() {
    let luns = local_luns();
    let list = |detail| lun::LunList::new(&luns, Ok(vec![pool()]), detail);
    assert_golden(&list(lun::LunDetail::Rows), "lun-list");
    assert_golden(&list(lun::LunDetail::Full), "lun-status");
    let unknown = Err("the metadata service cannot be reached".to_owned());
    let alone = lun::LunList::new(&luns, unknown, lun::LunDetail::Rows);
    assert_golden(&alone, "lun-list-alone");
}

#[test]
fn empty_lists_say_so() {
    assert_eq!(volume::VolumeList::new(Vec::new()).to_text(), "no volumes\n");
    assert_eq!(pool::PoolStatusList::new(&[]).to_text(), "no pools\n");
    assert_eq!(node::NodeList::new(&[]).to_text(), "no nodes\n");
    assert_eq!(snapshot::SnapshotList::new(Vec::new()).to_text(), "no snapshots\n");
    assert_eq!(operation::OperationList::new(&[]).to_text(), "no operations\n");
    let none = lun::LunList::new(&[], Ok(Vec::new()), lun::LunDetail::Full);
    assert!(none.to_text().contains("lunar lun label"));
}
