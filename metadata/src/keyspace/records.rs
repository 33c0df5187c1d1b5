//! The records of the store, field by field in the order of their bytes.

use lunar_proto::domain::{
    BackupNumber, NodeState, OperationWork, Origin, PoolFencing, PrunedPart, PrunedParts,
    SnapshotState, VolumeState, Watermarks,
};
use lunar_types::{
    BootId, ByteCount, ClusterId, CommitNumber, Epoch, ExtentRun, ExtentSize, Incarnation,
    JournalSeq, LayerId, LogicalBlockSize, LogicalExtent, LunId, LunIndex, Name, NodeIncarnation,
    PoolId, RequestId, SessionNumber, SnapshotGroupId, SnapshotId, SnapshotSetId, StructureNumber,
    VolumeId, VolumeSize,
};

use super::contents::Content;
use super::digest::SlotDigest;
use super::earlier::{earlier_snapshot, earlier_volume};
use super::encoding::{DecodeError, Field, Record, invalid};
use super::fencing::{earlier_attachment, earlier_node, earlier_pool};
use super::outcome::Outcome;

macro_rules! records {
    ($($(#[$doc:meta])* $name:ident = $text:literal $(version $version:literal)?
        $(reads $take:path)?
    {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
    })+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Eq, Debug)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
            }

            impl Record for $name {
                const NAME: &'static str = $text;
                $(const VERSION: u8 = $version;)?

                $(fn take_earlier(
                    version: u8,
                    input: &mut &[u8],
                ) -> Option<Result<Self, DecodeError>> {
                    $take(version, input)
                })?

                fn put_fields(&self, _out: &mut Vec<u8>) {
                    $(self.$field.put(_out);)*
                }

                fn take_fields(_input: &mut &[u8]) -> Result<Self, DecodeError> {
                    Ok(Self { $($field: Field::take(_input)?,)* })
                }
            }
        )+
    };
}
pub(super) use records;

records! {
    /// The key alone says everything.
    Present = "mark" {}

    /// The layout of the store. Its own encoding never changes.
    KeyspaceRecord = "keyspace version" {
        /// See [`super::KEYSPACE_VERSION`].
        version: u32,
    }

    /// The cluster.
    ClusterRecord = "cluster" {
        /// Made at the first start.
        id: ClusterId,
    }

    /// The restore that made the store.
    RestoreRecord = "restore" {
        /// Everything is written; it waits for an operator.
        finished: bool,
        /// The number of the backup.
        backup: u64,
        /// When the backup was begun, in seconds since 1970-01-01 UTC.
        begun: u64,
        /// When it was restored, in seconds since 1970-01-01 UTC.
        restored: u64,
    }

    /// A number that rises.
    CounterRecord = "counter" {
        /// The last one that was given.
        last: u64,
    }

    /// All backups.
    BackupsRecord = "backups" {
        /// The last one that was begun.
        begun: u64,
        /// The greatest one that is complete; 0: none is.
        complete: u64,
        /// What backups up to this one name was given away: the horizon was off.
        unprotected: u64,
        /// What a backup names is given away as soon as it is free.
        is_horizon_off: bool,
    }

    /// A backup.
    BackupRecord = "backup" {
        /// When it was begun, in Unix seconds.
        begun_at: u64,
        /// When it was said to be complete; 0: it was not.
        complete_at: u64,
    }

    /// A pool; its LUNs have keys of their own.
    PoolRecord = "pool" version 3 reads earlier_pool {
        /// Its name.
        name: Name,
        /// The unit of allocation.
        extent_size: ExtentSize,
        /// The greatest logical block size of its LUNs.
        logical_block_size: LogicalBlockSize,
        /// LUN indices given so far, which is the next one.
        luns: u16,
        /// Where its levels begin.
        watermarks: Watermarks,
        /// What keeps a node that was given up from writing.
        fencing: PoolFencing,
    }

    /// A LUN of a pool.
    LunRecord = "LUN" {
        /// The id in its label.
        id: LunId,
        /// Size of the device.
        size: ByteCount,
        /// Logical block size of the device.
        logical_block_size: LogicalBlockSize,
        /// Extents in its data area.
        data_extents: u64,
    }

    /// Which pool a LUN is in.
    LunOwnerRecord = "owner of a LUN" {
        /// The pool.
        pool: PoolId,
        /// The LUN's index in it.
        index: LunIndex,
    }

    /// A pool of a name.
    PoolNameRecord = "pool name" {
        /// The pool.
        pool: PoolId,
    }

    /// A volume of a name.
    VolumeNameRecord = "volume name" {
        /// The volume.
        volume: VolumeId,
    }

    /// A node of a name.
    NodeNameRecord = "node name" {
        /// The node.
        node: lunar_types::NodeId,
    }

    /// A volume.
    VolumeRecord = "volume" version 4 reads earlier_volume {
        /// Its name; no longer its own while it is being deleted.
        name: Name,
        /// Where its extents are.
        pool: PoolId,
        /// Size of its device.
        size: VolumeSize,
        /// What its device advertises.
        logical_block_size: LogicalBlockSize,
        /// The writable layer.
        head: LayerId,
        /// The epoch of the last grant.
        epoch: Epoch,
        /// Where it is in its life.
        state: VolumeState,
        /// Rises when its chain or its size has become another without its holder.
        structure: StructureNumber,
        /// The open set that it is a member of.
        set: Option<SnapshotSetId>,
        /// It came back with a backup, and nobody has accepted it since: it may be a mixture.
        restored: bool,
        /// What its content may be.
        content: Content,
        /// What it began as.
        origin: Option<Origin>,
    }

    /// A volume of a pool, for its sums.
    PoolVolumeRecord = "volume of a pool" {
        /// Size of its device.
        size: VolumeSize,
    }

    /// A layer.
    LayerRecord = "layer" version 2 {
        /// The layer below.
        parent: Option<LayerId>,
        /// For which volume it was made; the volume may be gone.
        volume: VolumeId,
        /// Where its extents are.
        pool: PoolId,
        /// What a sealed layer shows never changes.
        sealed: bool,
        /// Size of the volume when the layer was sealed; 0 for a head.
        size: ByteCount,
        /// What shows it.
        name: LayerName,
        /// Own slots with storage.
        extents: u64,
        /// Of its own slots.
        digest: SlotDigest,
    }

    /// The sums over the parts of a layer: apart from its record, so that a merge into a head and
    /// the commits of its holder do not write the same key.
    LayerPartsRecord = "parts of a layer" {
        /// Parts with storage.
        extents: u64,
        /// All parts.
        parts: u64,
        /// Of the parts.
        digest: SlotDigest,
    }

    /// A snapshot.
    SnapshotRecord = "snapshot" version 3 reads earlier_snapshot {
        /// Its name; no longer its own while it is being deleted.
        name: Name,
        /// The volume that it was cut of; the volume may be gone.
        volume: VolumeId,
        /// Where its extents are.
        pool: PoolId,
        /// The layer that it names; none while it is being made.
        layer: Option<LayerId>,
        /// Size of the volume at the cut; until then, when it was asked for.
        size: VolumeSize,
        /// What the volume's device advertises.
        logical_block_size: LogicalBlockSize,
        /// The set that it was cut with.
        set: SnapshotSetId,
        /// Seconds since 1970-01-01 UTC on the caller's clock, for people.
        created_unix_seconds: u64,
        /// Where it is in its life.
        state: SnapshotState,
        /// It came back with a backup, or was cut of a volume that did: it may be a mixture.
        restored: bool,
        /// What its content may be.
        content: Content,
        /// The group that it is in.
        group: Option<SnapshotGroupId>,
    }

    /// A group of snapshots.
    SnapshotGroupRecord = "snapshot group" {
        /// Its name.
        name: Name,
        /// The set that cuts, or has cut, its snapshots.
        set: SnapshotSetId,
        /// Seconds since 1970-01-01 UTC on the caller's clock, for people.
        created_unix_seconds: u64,
        /// Its snapshots, without those that were deleted one by one.
        members: Vec<SnapshotId>,
    }

    /// A group of a name.
    SnapshotGroupNameRecord = "snapshot group name" {
        /// The group.
        group: SnapshotGroupId,
    }

    /// A snapshot of a name.
    SnapshotNameRecord = "snapshot name" {
        /// The snapshot.
        snapshot: SnapshotId,
    }

    /// A snapshot as its volume sees it.
    VolumeSnapshotRecord = "snapshot of a volume" {
        /// The layer that it names; none while it is being made.
        layer: Option<LayerId>,
    }

    /// A node and its newest incarnation. Older incarnations are gone by definition.
    NodeRecord = "node" version 2 reads earlier_node {
        /// Its name.
        name: Name,
        /// Its newest incarnation.
        incarnation: Incarnation,
        /// The boot that it runs on.
        boot: BootId,
        /// Where it is in its life.
        state: NodeState,
        /// The session of the process that joined last; calls of any other are refused.
        session: SessionNumber,
        /// An operator has fenced it: it does not join.
        is_barred: bool,
        /// It gets no volume: an operator moves off it what it holds.
        is_draining: bool,
    }

    /// The grant of a volume.
    AttachmentRecord = "attachment" version 3 reads earlier_attachment {
        /// Who holds it.
        node: NodeIncarnation,
        /// Under which epoch.
        epoch: Epoch,
        /// Up to where the journal is in the map.
        checkpoint: JournalSeq,
        /// The number of the last commit under this grant.
        last_commit: CommitNumber,
        /// The request that it was: sent again, it is answered again. 0 before the first. Of a
        /// seal by a set, the id of the set.
        last_request: RequestId,
        /// Where the journal is.
        journal: Vec<ExtentRun>,
        /// The layer that the next seal makes the head.
        next_head: LayerId,
        /// When it was granted, in seconds since 1970-01-01 UTC, for people; 0: not known.
        granted_at: u64,
    }

    /// A journal that waits for its replay.
    StaleJournalRecord = "stale journal" version 2 {
        /// Who wrote it.
        node: NodeIncarnation,
        /// Up to where it is in the map.
        checkpoint: JournalSeq,
        /// Where it is.
        journal: Vec<ExtentRun>,
        /// The next head of its grant: its records are of it or of the volume's head.
        next_head: LayerId,
    }

    /// An attachment as its incarnation sees it.
    NodeAttachmentRecord = "attachment of a node" {
        /// Under which epoch.
        epoch: Epoch,
    }

    /// A long operation that is not finished.
    OperationRecord = "operation" version 2 {
        /// What it does.
        work: OperationWork,
        /// Where a merge is; of other work always the beginning.
        pass: MergePass,
    }

    /// A request that was carried out.
    IdempotencyRecord = "request" {
        /// Of what it asked for.
        fingerprint: u64,
        /// What came of it.
        outcome: Outcome,
    }
}

/// What shows a layer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LayerName {
    /// Nothing: layers above it may need it.
    Nameless,
    /// It is the head of a volume.
    Head(VolumeId),
    /// A snapshot.
    Snapshot(SnapshotId),
    /// A snapshot that is being deleted.
    DeletedSnapshot(SnapshotId),
}

impl Field for LayerName {
    /// The kind in 1 byte, then the UUID, all 0 when there is none.
    fn put(&self, out: &mut Vec<u8>) {
        let (kind, id): (u8, u128) = match self {
            Self::Nameless => (0, 0),
            Self::Head(volume) => (1, volume.as_u128()),
            Self::Snapshot(snapshot) => (2, snapshot.as_u128()),
            Self::DeletedSnapshot(snapshot) => (3, snapshot.as_u128()),
        };
        kind.put(out);
        out.extend_from_slice(&id.to_be_bytes());
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let kind = u8::take(input)?;
        let volume = VolumeId::take(input)?;
        let snapshot = SnapshotId::from_u128(volume.as_u128());
        match kind {
            0 if volume.as_u128() == 0 => Ok(Self::Nameless),
            0 => Err(invalid("name of a nameless layer", volume)),
            1 => Ok(Self::Head(volume)),
            2 => Ok(Self::Snapshot(snapshot)),
            3 => Ok(Self::DeletedSnapshot(snapshot)),
            other => Err(invalid("kind of a layer's name", other)),
        }
    }
}

/// One way of a merge through the logical extents of the layer that is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MergePass {
    /// The layer that is merged into; none before the first step.
    pub into: Option<LayerId>,
    /// Nothing below this logical extent is looked at again in this pass.
    pub from: LogicalExtent,
    /// Logical extents that were left behind, because there is no room for them above.
    pub left: u64,
    /// The pass is at its end and has left some: the next one begins later.
    pub waits: bool,
}

impl Default for BackupsRecord {
    /// None was ever begun.
    fn default() -> Self {
        Self { begun: 0, complete: 0, unprotected: 0, is_horizon_off: false }
    }
}

impl MergePass {
    /// The beginning of a pass.
    #[must_use]
    pub const fn begin(into: Option<LayerId>) -> Self {
        Self { into, from: LogicalExtent::new(0), left: 0, waits: false }
    }
}

impl Field for MergePass {
    fn put(&self, out: &mut Vec<u8>) {
        self.into.put(out);
        self.from.get().put(out);
        self.left.put(out);
        self.waits.put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            into: Field::take(input)?,
            from: LogicalExtent::new(u64::take(input)?),
            left: Field::take(input)?,
            waits: Field::take(input)?,
        })
    }
}

impl Field for PrunedParts {
    /// Their number in 2 bytes, then each: logical extent, birth, 1 and the extent, or 0 if it had
    /// none. Then 1 and the next logical extent, or 0.
    fn put(&self, out: &mut Vec<u8>) {
        u16::try_from(self.parts.len()).expect("at most PRUNE_PARTS_MAX").put(out);
        for PrunedPart { at, birth, extent } in &self.parts {
            at.get().put(out);
            birth.put(out);
            extent.is_some().put(out);
            extent.iter().for_each(|extent| extent.put(out));
        }
        self.next.is_some().put(out);
        self.next.iter().for_each(|next| next.get().put(out));
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        fn optional<F: Field>(input: &mut &[u8]) -> Result<Option<F>, DecodeError> {
            bool::take(input)?.then(|| F::take(input)).transpose()
        }
        let part = |input: &mut &[u8]| {
            let (at, birth) = (LogicalExtent::new(u64::take(input)?), Field::take(input)?);
            Ok(PrunedPart { at, birth, extent: optional(input)? })
        };
        let count = u16::take(input)?;
        let parts = (0..count).map(|_| part(input)).collect::<Result<_, _>>()?;
        let next = optional::<u64>(input)?.map(LogicalExtent::new);
        // What becomes of the extents is said at each answer, as it is then.
        Ok(Self { parts, next, ..Self::default() })
    }
}

impl Field for VolumeState {
    fn put(&self, out: &mut Vec<u8>) {
        let raw: u8 = match self {
            Self::Creating => 1,
            Self::Ready => 2,
            Self::Deleting => 3,
        };
        raw.put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match u8::take(input)? {
            1 => Self::Creating,
            2 => Self::Ready,
            3 => Self::Deleting,
            other => return Err(invalid("volume state", other)),
        })
    }
}

impl Field for SnapshotState {
    fn put(&self, out: &mut Vec<u8>) {
        let raw: u8 = match self {
            Self::Creating => 1,
            Self::Ready => 2,
            Self::Deleting => 3,
        };
        raw.put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match u8::take(input)? {
            1 => Self::Creating,
            2 => Self::Ready,
            3 => Self::Deleting,
            other => return Err(invalid("snapshot state", other)),
        })
    }
}

impl Field for NodeState {
    fn put(&self, out: &mut Vec<u8>) {
        let raw: u8 = match self {
            Self::Joining => 1,
            Self::Active => 2,
            Self::Suspect => 3,
            Self::Fencing => 4,
            Self::Fenced => 5,
            Self::Left => 6,
        };
        raw.put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match u8::take(input)? {
            1 => Self::Joining,
            2 => Self::Active,
            3 => Self::Suspect,
            4 => Self::Fencing,
            5 => Self::Fenced,
            6 => Self::Left,
            other => return Err(invalid("node state", other)),
        })
    }
}

impl Field for OperationWork {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::DeleteVolume(volume) => {
                1_u8.put(out);
                volume.put(out);
            }
            Self::ReclaimReservations(node) => {
                2_u8.put(out);
                node.put(out);
            }
            Self::DropLayer(layer) => {
                3_u8.put(out);
                layer.put(out);
            }
            Self::FreeQuarantine(backup) => {
                4_u8.put(out);
                backup.get().put(out);
            }
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match u8::take(input)? {
            1 => Self::DeleteVolume(Field::take(input)?),
            2 => Self::ReclaimReservations(Field::take(input)?),
            3 => Self::DropLayer(Field::take(input)?),
            4 => Self::FreeQuarantine(BackupNumber::new(Field::take(input)?)),
            other => return Err(invalid("operation", other)),
        })
    }
}
