//! The bytes of keys and values: fixed by a fixture, so that no change goes unnoticed.
//!
//! After an intended change of the layout: raise its version, write the page
//! `docs/format/keyspace.md` anew, and run once with `LUNAR_WRITE_FIXTURES=1`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use lunar_metadata::keyspace::*;
use lunar_proto::domain::*;
use lunar_types::*;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("text takes everything");
        text
    })
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

struct Fixture {
    lines: String,
    tables: BTreeSet<u16>,
}

impl Fixture {
    fn add<K: Key>(&mut self, key: K, value: K::Value) {
        let (key_bytes, value_bytes) = (key.pack(), value.encode());
        assert_eq!(check_entry(&key_bytes, &value_bytes), Ok(K::NAME));
        let decoded = K::Value::decode(&value_bytes).expect("it decodes");
        assert_eq!(decoded.encode(), value_bytes);
        let (key_text, value_text) = (hex(&key_bytes), hex(&value_bytes));
        writeln!(
            self.lines,
            "{:2} {}\n  key   {key_text}\n  value {value_text}",
            K::TABLE,
            K::NAME
        )
        .expect("text takes everything");
        self.tables.insert(K::TABLE);
    }
}

const POOL: PoolId = PoolId::from_u128(0x1111_1111_1111_1111_1111_1111_1111_1111);
const VOLUME: VolumeId = VolumeId::from_u128(0x2222_2222_2222_2222_2222_2222_2222_2222);
const SNAPSHOT: SnapshotId = SnapshotId::from_u128(0x8888_8888_8888_8888_8888_8888_8888_8888);
const SET: SnapshotSetId = SnapshotSetId::from_u128(0x9999_9999_9999_9999_9999_9999_9999_9999);
const GROUP: SnapshotGroupId =
    SnapshotGroupId::from_u128(0xabab_abab_abab_abab_abab_abab_abab_abab);
const TOKEN: FormatToken = FormatToken::from_u128(0xcdcd_cdcd_cdcd_cdcd_cdcd_cdcd_cdcd_cdcd);
const LUN: LunId = LunId::from_u128(0x3333_3333_3333_3333_3333_3333_3333_3333);
const NODE: NodeId = NodeId::new(0x0102);
const INCARNATION: Incarnation = Incarnation::new(0x0304_0506);

fn node() -> NodeIncarnation {
    NodeIncarnation { node: NODE, incarnation: INCARNATION }
}

fn runs() -> Vec<ExtentRun> {
    let run = |lun, first, count| ExtentRun::new(ExtentAddress::new(lun, first), count);
    vec![run(0, 5, 1), run(0x3ff, (1 << 36) - 2, 2)]
}

fn cluster(fixture: &mut Fixture) {
    fixture.add(KeyspaceKey {}, KeyspaceRecord { version: KEYSPACE_VERSION });
    let id = ClusterId::from_u128(0x4444_4444_4444_4444_4444_4444_4444_4444);
    fixture.add(ClusterKey {}, ClusterRecord { id });
    let counters = [
        Counter::Layer,
        Counter::Node,
        Counter::Operation,
        Counter::Generation,
        Counter::Audit,
        Counter::Incarnation,
    ];
    for counter in counters {
        fixture.add(CounterKey { counter }, CounterRecord { last: 0x0102_0304_0506_0708 });
    }
    for finished in [false, true] {
        let (backup, begun, restored) = (0x0708, 0x0102_0304, 0x0102_0305);
        fixture.add(RestoreKey {}, RestoreRecord { finished, backup, begun, restored });
    }
}

fn pools(fixture: &mut Fixture) {
    for fencing in [PoolFencing::Reservations, PoolFencing::Lease, PoolFencing::None] {
        let pool = PoolRecord {
            name: name("fast"),
            extent_size: ExtentSize::DEFAULT,
            logical_block_size: LogicalBlockSize::B512,
            luns: 2,
            watermarks: Watermarks::new(70, 85, 99).expect("in order"),
            fencing,
        };
        fixture.add(PoolKey { pool: POOL }, pool);
    }
    fixture.add(PoolNameKey { name: name("fast") }, PoolNameRecord { pool: POOL });
    let lun = LunRecord {
        id: LUN,
        size: ByteCount::new(1 << 40),
        logical_block_size: LogicalBlockSize::B4096,
        data_extents: (1 << 20) - 2,
    };
    let index = LunIndex::new(0x3ff);
    fixture.add(LunKey { pool: POOL, index }, lun);
    fixture.add(LunOwnerKey { lun: LUN }, LunOwnerRecord { pool: POOL, index });
    let mut bits = Bitmap::EMPTY;
    for bit in [0, 9, 1023] {
        bits.insert(bit);
    }
    let group = GroupIndex::new(0x0102_0304 >> 6);
    fixture.add(GroupKey { pool: POOL, lun: index, group }, bits);
    for stamp in [QuarantineStamp::new(0x0a0b), QuarantineStamp::BY_HAND] {
        fixture.add(QuarantineKey { pool: POOL, lun: index, group, stamp }, bits);
    }
    let (node, incarnation) = (NODE, INCARNATION);
    fixture.add(ReservationKey { node, incarnation, pool: POOL, lun: index, group }, bits);
    fixture.add(UnmappedKey { node, incarnation, pool: POOL, lun: index, group }, bits);
}

fn volume(state: VolumeState) -> VolumeRecord {
    VolumeRecord {
        name: name("pvc-1"),
        pool: POOL,
        size: VolumeSize::from_bytes(10 << 30).expect("a size"),
        logical_block_size: LogicalBlockSize::B4096,
        head: LayerId::new(0x0102),
        epoch: Epoch::new(3),
        state,
        structure: StructureNumber::new(6),
        set: (state == VolumeState::Ready).then_some(SET),
        restored: state == VolumeState::Deleting,
        content: match state {
            VolumeState::Creating => Content::Blank,
            VolumeState::Ready => Content::Formatting(TOKEN),
            VolumeState::Deleting => Content::Used,
        },
        origin: match state {
            VolumeState::Creating => None,
            VolumeState::Ready => Some(Origin::Snapshot(SNAPSHOT)),
            VolumeState::Deleting => Some(Origin::Volume(VOLUME)),
        },
    }
}

fn volumes(fixture: &mut Fixture) {
    let size = VolumeSize::from_bytes(10 << 30).expect("a size");
    let states = [VolumeState::Creating, VolumeState::Ready, VolumeState::Deleting];
    for state in states {
        fixture.add(VolumeKey { volume: VOLUME }, volume(state));
    }
    let record = VolumeNameRecord { volume: VOLUME };
    fixture.add(VolumeNameKey { name: name("pvc-1") }, record);
    fixture.add(PoolVolumeKey { pool: POOL, volume: VOLUME }, PoolVolumeRecord { size });
    let layer = LayerRecord {
        parent: Some(LayerId::new(0x0101)),
        volume: VOLUME,
        pool: POOL,
        sealed: true,
        size: ByteCount::new(10 << 30),
        name: LayerName::Nameless,
        extents: 7,
        digest: SlotDigest::new(0x0f0e_0d0c_0b0a_0908),
    };
    let names = [
        LayerName::Nameless,
        LayerName::Head(VOLUME),
        LayerName::Snapshot(SNAPSHOT),
        LayerName::DeletedSnapshot(SNAPSHOT),
    ];
    for name in names {
        let layer = LayerRecord { name, ..layer.clone() };
        fixture.add(LayerKey { layer: LayerId::new(0x0102) }, layer);
    }
    let child = LayerId::new(0x0102);
    fixture.add(ChildKey { parent: LayerId::new(0x0101), child }, Present {});
    let digest = SlotDigest::new(0x0807_0605_0403_0201);
    let sums = LayerPartsRecord { extents: 2, parts: 3, digest };
    fixture.add(LayerPartsKey { layer: child }, sums);
    let extent_size = ExtentSize::DEFAULT;
    let fresh = Slot::fresh(ExtentAddress::new(2, 0x0001_0203_0405), extent_size);
    let mut mixed = Slot { opaque: true, ..fresh.clone() };
    mixed.presence.insert(BlockRange::new(1, 2));
    mixed.presence.insert(BlockRange::new(64, 64));
    let full = Slot { presence: Presence::full(extent_size), ..fresh.clone() };
    let slots = [fresh, mixed, full, Slot::zero(extent_size)];
    for (at, slot) in (0xff..).zip(slots) {
        let key = SlotKey { layer: LayerId::new(0x0102), at: LogicalExtent::new(at) };
        fixture.add(key, SlotValue(slot));
    }
    let (layer, birth) = (LayerId::new(0x0102), LayerId::new(0x0100));
    let key = PartKey { layer, at: LogicalExtent::new(0xff), birth };
    fixture.add(key, SlotValue(Slot::zero(extent_size)));
}

fn snapshot(state: SnapshotState, layer: Option<LayerId>) -> SnapshotRecord {
    SnapshotRecord {
        name: name("monday"),
        volume: VOLUME,
        pool: POOL,
        layer,
        size: VolumeSize::from_bytes(10 << 30).expect("a size"),
        logical_block_size: LogicalBlockSize::B4096,
        set: SET,
        created_unix_seconds: 0x0102_0304,
        state,
        restored: state == SnapshotState::Deleting,
        content: Content::Used,
        group: (state == SnapshotState::Ready).then_some(GROUP),
    }
}

fn snapshots(fixture: &mut Fixture) {
    let layer = Some(LayerId::new(0x0101));
    let states = [
        (SnapshotState::Creating, None),
        (SnapshotState::Ready, layer),
        (SnapshotState::Deleting, layer),
    ];
    for (state, layer) in states {
        fixture.add(SnapshotKey { snapshot: SNAPSHOT }, snapshot(state, layer));
    }
    let key = SnapshotNameKey { name: name("monday") };
    fixture.add(key, SnapshotNameRecord { snapshot: SNAPSHOT });
    let key = VolumeSnapshotKey { volume: VOLUME, snapshot: SNAPSHOT };
    fixture.add(key, VolumeSnapshotRecord { layer });
    let group = SnapshotGroupRecord {
        name: name("weekly"),
        set: SET,
        created_unix_seconds: 0x0102_0304,
        members: vec![SNAPSHOT, SnapshotId::from_u128(0xee)],
    };
    fixture.add(SnapshotGroupKey { group: GROUP }, group);
    let key = SnapshotGroupNameKey { name: name("weekly") };
    fixture.add(key, SnapshotGroupNameRecord { group: GROUP });
}

fn nodes(fixture: &mut Fixture) {
    use NodeState::{Active, Fenced, Fencing, Joining, Left, Suspect};
    for state in [Joining, Active, Suspect, Fencing, Fenced, Left] {
        let record = NodeRecord {
            name: name("n1"),
            incarnation: INCARNATION,
            boot: BootId::from_u128(0x5555_5555_5555_5555_5555_5555_5555_5555),
            state,
            session: SessionNumber::new(0x0708_090a_0b0c_0d0e),
            is_barred: state == Fenced,
            is_draining: state == Active,
        };
        fixture.add(NodeKey { node: NODE }, record);
    }
    fixture.add(NodeNameKey { name: name("n1") }, NodeNameRecord { node: NODE });
    let (epoch, checkpoint) = (Epoch::new(3), JournalSeq::new(9));
    let attachment = AttachmentRecord {
        node: node(),
        epoch,
        checkpoint,
        last_commit: CommitNumber::new(0x0e0d_0c0b_0a09_0807),
        last_request: RequestId::from_u128(0x7777_7777_7777_7777_7777_7777_7777_7777),
        journal: runs(),
        next_head: LayerId::new(0x0103),
        granted_at: 0x0102_0304,
    };
    fixture.add(AttachmentKey { volume: VOLUME }, attachment);
    let next_head = LayerId::new(0x0102);
    let stale = StaleJournalRecord { node: node(), checkpoint, journal: runs(), next_head };
    fixture.add(StaleJournalKey { volume: VOLUME, epoch: Epoch::new(2) }, stale);
    let (node, incarnation, volume) = (NODE, INCARNATION, VOLUME);
    let key = NodeAttachmentKey { node, incarnation, volume };
    fixture.add(key, NodeAttachmentRecord { epoch });
    let epoch = Epoch::new(2);
    fixture.add(NodeStaleJournalKey { node, incarnation, volume, epoch }, Present {});
}

fn work(fixture: &mut Fixture) {
    let works = [
        OperationWork::DeleteVolume(VOLUME),
        OperationWork::ReclaimReservations(node()),
        OperationWork::DropLayer(LayerId::new(0x0102)),
    ];
    for (id, work) in (1..).zip(works) {
        let operation = OperationId::new(id);
        let pass = MergePass::begin(None);
        fixture.add(OperationKey { operation }, OperationRecord { work, pass });
    }
    let (operation, backup) = (OperationId::new(5), BackupNumber::new(0x0e0f));
    let work = OperationWork::FreeQuarantine(backup);
    let pass = MergePass::begin(None);
    fixture.add(OperationKey { operation }, OperationRecord { work, pass });
    let backups = BackupsRecord {
        begun: 0x0e10,
        complete: 0x0e0f,
        unprotected: 0x0102,
        is_horizon_off: true,
    };
    fixture.add(BackupsKey {}, backups);
    fixture.add(BackupKey { backup }, BackupRecord { begun_at: 0x0a0b, complete_at: 0x0a0c });
    let pass = MergePass {
        into: Some(LayerId::new(0x0103)),
        from: LogicalExtent::new(0x0a0b),
        left: 0x0c,
        waits: true,
    };
    let work = OperationWork::DropLayer(LayerId::new(0x0102));
    let operation = OperationId::new(4);
    fixture.add(OperationKey { operation }, OperationRecord { work, pass });
    let session = NodeSession { node: node(), number: SessionNumber::new(5) };
    let (head, next_head) = (LayerId::new(0x0103), LayerId::new(0x0104));
    let sealed = SealedHead { head, next_head, last_commit: CommitNumber::new(0x0a0b) };
    let (at, birth) = (LogicalExtent::new(0x0d0e), LayerId::new(0x0101));
    let part = PrunedPart { at, birth, extent: Some(ExtentAddress::new(3, 0x0405)) };
    let zero = PrunedPart { birth: LayerId::new(0x0102), extent: None, ..part };
    let next = Some(LogicalExtent::new(0x0f00));
    let pruned = PrunedParts { parts: vec![part, zero], next, ..PrunedParts::default() };
    let outcomes = [
        Outcome::Done,
        Outcome::Pool(POOL),
        Outcome::Volume(VOLUME),
        Outcome::Joined { session, resumed: true },
        Outcome::Attached { volume: VOLUME, epoch: Epoch::new(3) },
        Outcome::Reserved(runs()),
        Outcome::SnapshotSet(SET),
        Outcome::Snapshot(SNAPSHOT),
        Outcome::Sealed(LayerSealed { now: sealed, before: true }),
        Outcome::Pruned(pruned),
        Outcome::VolumeDeleted(VOLUME, Kept(volume(VolumeState::Deleting))),
        Outcome::SnapshotDeleted(SNAPSHOT, Kept(snapshot(SnapshotState::Deleting, Some(head)))),
    ];
    let request = RequestId::from_u128(0x6666_6666_6666_6666_6666_6666_6666_6666);
    for outcome in outcomes {
        let key = IdempotencyKey { generation: Generation::new(4), request };
        let fingerprint = 0x0807_0605_0403_0201;
        fixture.add(key, IdempotencyRecord { fingerprint, outcome });
    }
}

fn sets(fixture: &mut Fixture) {
    use SetState::{Aborted, Gathering, Pausing, Sealed};
    let clone = CutAs::Clone { volume: VolumeId::from_u128(0xaa), name: name("copy") };
    let entry = |volume, cut| SetEntry { volume: VolumeId::from_u128(volume), cut };
    let members = vec![entry(0xbb, CutAs::Snapshot(SNAPSHOT)), entry(0xcc, clone)];
    let cases = [
        (Gathering, Fsfreeze::Auto, None),
        (Pausing, Fsfreeze::Always, None),
        (Sealed, Fsfreeze::Never, None),
        (Aborted, Fsfreeze::Auto, Some(None)),
        (Aborted, Fsfreeze::Auto, Some(Some(VOLUME))),
    ];
    for (state, fsfreeze, abort) in cases {
        let generation = Generation::new(4);
        let abort = abort.map(|volume| SetAbort { reason: name("late"), volume });
        let members = members.clone();
        let record = SnapshotSetRecord { generation, state, abort, fsfreeze, members };
        fixture.add(SnapshotSetKey { set: SET }, record);
    }
    let asked = SetMemberRecord {
        state: MemberState::Asked,
        holder: Some(node()),
        session: SessionNumber::new(0),
        epoch: Epoch::new(3),
        last_commit: CommitNumber::new(0),
        checkpoint: JournalSeq::new(0),
        next_head: LayerId::new(0),
    };
    let key = || SetMemberKey { set: SET, volume: VOLUME };
    fixture.add(key(), asked.clone());
    let session = SessionNumber::new(5);
    let ready = SetMemberRecord { state: MemberState::Ready, session, ..asked.clone() };
    fixture.add(key(), ready.clone());
    let voted = SetMemberRecord {
        state: MemberState::Paused,
        last_commit: CommitNumber::new(0x0708),
        checkpoint: JournalSeq::new(0x0506),
        next_head: LayerId::new(0x0103),
        ..ready
    };
    fixture.add(key(), voted);
    let (state, holder, epoch) = (MemberState::Paused, None, Epoch::new(0));
    fixture.add(key(), SetMemberRecord { state, holder, epoch, ..asked });
    let (node, incarnation, set, volume) = (NODE, INCARNATION, SET, VOLUME);
    fixture.add(NodeSetKey { node, incarnation, set, volume }, Present {});
}

fn fencing(fixture: &mut Fixture) {
    let (node, incarnation, lun) = (NODE, INCARNATION, LUN);
    for paths in [0, 2] {
        fixture.add(LunRegistrationKey { lun, node }, RegistrationRecord { incarnation, paths });
    }
    fixture.add(NodeRegistrationKey { node, incarnation, lun }, Present {});
    for (is_complete, is_certified) in [(false, false), (true, true)] {
        let reason = Text::new("not heard from for 15 s");
        let begun_at = 0x0102_0304;
        let fence = FenceRecord { reason, begun_at, is_complete, is_certified };
        fixture.add(FenceKey { node, incarnation }, fence);
    }
    let fencer = self::node();
    let proofs = [
        FenceProof::Aborted,
        FenceProof::NeverRegistered,
        FenceProof::Waited,
        FenceProof::Certified,
    ];
    let begun = FenceLunState::Begun { fencer, attempt: 2 };
    let done = proofs.into_iter().map(FenceLunState::Done);
    for state in [FenceLunState::Open, begun].into_iter().chain(done) {
        let row = FenceLunRecord { was_confirmed: true, state, attempts: 2 };
        fixture.add(FenceLunKey { node, incarnation, lun }, row);
    }
    let entry = AuditRecord {
        at: 0x0102_0304,
        actor: Text::new("admin/ada"),
        action: name("certify-powered-off"),
        object: Text::new("n1"),
        reason: Text::new("rack 7 is dark"),
    };
    fixture.add(AuditKey { number: AuditNumber::new(0x0506) }, entry);
}

fn peers(fixture: &mut Fixture) {
    let peer = PeerRecord {
        incarnation: INCARNATION,
        since: 0x0102_0304,
        wish: 0x0506,
        session: SessionNumber::new(0x0708),
        is_urgent: true,
    };
    fixture.add(PeerKey { volume: VOLUME, node: NODE }, peer);
    for spare_journal in [Vec::new(), runs()] {
        fixture
            .add(MigrationKey { volume: VOLUME }, MigrationRecord { moves: 0x0a0b, spare_journal });
    }
    let (node, incarnation) = (NODE, INCARNATION);
    fixture.add(NodePeerKey { node, incarnation, volume: VOLUME }, Present {});
}

fn publications(fixture: &mut Fixture) {
    let id = PublicationId::from_u128(0x7777_7777_7777_7777_7777_7777_7777_7777);
    for (mode, recalled) in [(PublicationMode::Single, false), (PublicationMode::Migratable, true)]
    {
        let record =
            PublicationRecord { id, mode, reads_only: recalled, recalled, since: 0x0102_0304 };
        fixture.add(PublicationKey { volume: VOLUME, node: NODE }, record);
    }
    fixture.add(RecallKey { node: NODE, volume: VOLUME }, Present {});
}

fn certificates(fixture: &mut Fixture) {
    let serial = "0102030405060708090a0b0c0d0e0f1011121314".parse().expect("a number");
    let (revoked, reason) = (0x0807_0605_0403_0201, RevocationReason("lost".to_owned()));
    fixture.add(RevokedKey { serial }, RevokedRecord { revoked, reason });
}

#[test]
fn keys_and_values_are_the_bytes_of_the_fixture() {
    let mut fixture = Fixture { lines: String::new(), tables: BTreeSet::new() };
    cluster(&mut fixture);
    pools(&mut fixture);
    volumes(&mut fixture);
    snapshots(&mut fixture);
    nodes(&mut fixture);
    work(&mut fixture);
    sets(&mut fixture);
    fencing(&mut fixture);
    certificates(&mut fixture);
    peers(&mut fixture);
    publications(&mut fixture);
    let tables: BTreeSet<u16> = TABLES.iter().map(|(table, _)| *table).collect();
    assert_eq!(fixture.tables, tables, "every table has an example");
    let path = here("tests/service/fixtures/keyspace-3.txt");
    if std::env::var_os("LUNAR_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, &fixture.lines).expect("the fixture is written");
    }
    let expected = std::fs::read_to_string(&path).expect("the fixture is there");
    assert_eq!(fixture.lines, expected);
}

#[test]
fn the_page_lists_every_table() {
    let page = here("../docs/format/keyspace.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    for (table, name) in TABLES {
        let row = format!("| {table} | {name} |");
        assert!(page.contains(&row), "docs/format/keyspace.md has no row '{row}'");
    }
    assert!(page.contains(&format!("Keyspace version {KEYSPACE_VERSION}")));
}

#[test]
fn an_unknown_version_of_a_value_is_named() {
    let mut bytes = CounterRecord { last: 1 }.encode();
    bytes[0] = 2;
    let error = CounterRecord::decode(&bytes).expect_err("unknown");
    assert_eq!(error, DecodeError::Version { record: "counter", found: 2, known: 1 });
    let mut bytes = CounterRecord { last: 1 }.encode();
    bytes.push(0);
    let error = CounterRecord::decode(&bytes).expect_err("too long");
    assert_eq!(error, DecodeError::Trailing { record: "counter", count: 1 });
}
