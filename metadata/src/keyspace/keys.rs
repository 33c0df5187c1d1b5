//! The keys of the store: tuples of a table number and the parts that find a record.

use foundationdb_tuple::{pack, unpack};
use lunar_proto::domain::{BackupNumber, CertSerial, OperationId};
use lunar_types::{
    Epoch, Incarnation, LayerId, LogicalExtent, LunId, LunIndex, Name, NodeId, PoolId, RequestId,
    SnapshotGroupId, SnapshotId, SnapshotSetId, VolumeId,
};

use super::bitmap::{Bitmap, GroupIndex, QuarantineStamp};
use super::encoding::Record;
use super::fencing::*;
use super::parts::{Counter, Generation, Part};
use super::peers::{MigrationRecord, PeerRecord};
use super::publications::PublicationRecord;
use super::records::*;
use super::revoked::RevokedRecord;
use super::set_records::*;
use super::slot_value::SlotValue;
use crate::store::KeyRange;

/// A key of one table.
pub trait Key: Sized + Clone + Send + Sync + std::fmt::Debug {
    /// What its value says.
    type Value: Record + Send;
    /// The number of its table.
    const TABLE: u16;
    /// What errors call it.
    const NAME: &'static str;

    /// The bytes of the key.
    fn pack(&self) -> Vec<u8>;

    /// The key in these bytes, if they are one of this table.
    fn unpack(bytes: &[u8]) -> Option<Self>;
}

/// Every key that begins with these packed elements and has more.
#[must_use]
pub fn range_below(prefix: &[u8]) -> KeyRange {
    let mut begin = prefix.to_vec();
    begin.push(0x00);
    let mut end = prefix.to_vec();
    end.push(0xFF);
    KeyRange::new(begin, end)
}

/// Every key of a table.
#[must_use]
pub fn table_range<K: Key>() -> KeyRange {
    range_below(&pack(&(K::TABLE,)))
}

/// The number that a key begins with.
pub(crate) fn table_of(key: &[u8]) -> Option<u16> {
    match key {
        // The tuple encoding of a number of one byte, which all tables have.
        [0x15, table, ..] => Some(u16::from(*table)),
        _ => None,
    }
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident = $table:literal $text:literal => $value:ty {
        $($(#[$part_doc:meta])* $part:ident: $type:ty,)*
    })+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Eq, Debug)]
            pub struct $name {
                $($(#[$part_doc])* pub $part: $type,)*
            }

            impl Key for $name {
                type Value = $value;
                const TABLE: u16 = $table;
                const NAME: &'static str = $text;

                fn pack(&self) -> Vec<u8> {
                    pack(&(Self::TABLE, $(self.$part.element(),)*))
                }

                fn unpack(bytes: &[u8]) -> Option<Self> {
                    type Packed = (u16, $(<$type as Part>::Element,)*);
                    let (table, $($part,)*): Packed = unpack(bytes).ok()?;
                    let key = Self { $($part: Part::from_element($part)?,)* };
                    (table == Self::TABLE && key.pack() == bytes).then_some(key)
                }
            }
        )+

        /// The number and name of every table.
        pub const TABLES: &[(u16, &str)] = &[$(($table, $text),)+];

        /// The table of a key, and whether key and value can be read as it says.
        ///
        /// # Errors
        /// What is wrong, for people.
        pub fn check_entry(key: &[u8], value: &[u8]) -> Result<&'static str, String> {
            match table_of(key) {
                $(Some($name::TABLE) => match $name::unpack(key) {
                    None => Err(format!("the key is none of table '{}'", $text)),
                    Some(key) => match <$value>::decode(value) {
                        Ok(_) => Ok($text),
                        Err(error) => Err(format!("{key:?}: {error}")),
                    },
                },)+
                _ => Err("the key is of no table".to_owned()),
            }
        }
    };
}

keys! {
    /// The version of the layout.
    KeyspaceKey = 1 "keyspace" => KeyspaceRecord {}

    /// The cluster.
    ClusterKey = 2 "cluster" => ClusterRecord {}

    /// A number that rises.
    CounterKey = 3 "counter" => CounterRecord {
        /// Which.
        counter: Counter,
    }

    /// The restore that made the store. Absent: an operator has certified that no daemon of before
    /// it runs, or the store was not restored.
    RestoreKey = 4 "restore" => RestoreRecord {}

    /// A pool.
    PoolKey = 10 "pool" => PoolRecord {
        /// Its id.
        pool: PoolId,
    }

    /// A pool by name.
    PoolNameKey = 11 "pool name" => PoolNameRecord {
        /// Its name.
        name: Name,
    }

    /// A LUN of a pool.
    LunKey = 12 "LUN" => LunRecord {
        /// The pool.
        pool: PoolId,
        /// The LUN's index in it.
        index: LunIndex,
    }

    /// A LUN by id.
    LunOwnerKey = 13 "owner of a LUN" => LunOwnerRecord {
        /// The id in its label.
        lun: LunId,
    }

    /// Which extents of a group are allocated. Absent: none.
    GroupKey = 14 "group" => Bitmap {
        /// The pool.
        pool: PoolId,
        /// The LUN.
        lun: LunIndex,
        /// The group of the LUN.
        group: GroupIndex,
    }

    /// Which extents of a group are allocated to nobody and held back. Absent: none.
    QuarantineKey = 16 "quarantine" => Bitmap {
        /// The pool.
        pool: PoolId,
        /// The LUN.
        lun: LunIndex,
        /// The group of the LUN.
        group: GroupIndex,
        /// Until when.
        stamp: QuarantineStamp,
    }

    /// What is known of all backups. Absent: none was ever begun.
    BackupsKey = 17 "backups" => BackupsRecord {}

    /// A backup.
    BackupKey = 18 "backup" => BackupRecord {
        /// Its number.
        backup: BackupNumber,
    }

    /// A volume.
    VolumeKey = 20 "volume" => VolumeRecord {
        /// Its id.
        volume: VolumeId,
    }

    /// A volume by name; a volume that is being deleted has none.
    VolumeNameKey = 21 "volume name" => VolumeNameRecord {
        /// Its name.
        name: Name,
    }

    /// A volume of a pool.
    PoolVolumeKey = 22 "volume of a pool" => PoolVolumeRecord {
        /// The pool.
        pool: PoolId,
        /// The volume.
        volume: VolumeId,
    }

    /// A layer.
    LayerKey = 23 "layer" => LayerRecord {
        /// Its id.
        layer: LayerId,
    }

    /// What a layer says of a logical extent. Absent: nothing.
    SlotKey = 24 "slot" => SlotValue {
        /// The layer.
        layer: LayerId,
        /// The logical extent.
        at: LogicalExtent,
    }

    /// What a layer has inherited by a merge at a logical extent.
    PartKey = 25 "part" => SlotValue {
        /// The layer.
        layer: LayerId,
        /// The logical extent.
        at: LogicalExtent,
        /// The layer whose writes made the slot.
        birth: LayerId,
    }

    /// A layer that stands on another.
    ChildKey = 26 "child" => Present {
        /// The layer below.
        parent: LayerId,
        /// The layer above.
        child: LayerId,
    }

    /// A snapshot.
    SnapshotKey = 27 "snapshot" => SnapshotRecord {
        /// Its id.
        snapshot: SnapshotId,
    }

    /// A snapshot by name; a snapshot that is being deleted has none.
    SnapshotNameKey = 28 "snapshot name" => SnapshotNameRecord {
        /// Its name.
        name: Name,
    }

    /// A snapshot of a volume, which may be gone.
    VolumeSnapshotKey = 29 "snapshot of a volume" => VolumeSnapshotRecord {
        /// The volume.
        volume: VolumeId,
        /// The snapshot.
        snapshot: SnapshotId,
    }

    /// A node.
    NodeKey = 30 "node" => NodeRecord {
        /// Its id.
        node: NodeId,
    }

    /// A node by name.
    NodeNameKey = 31 "node name" => NodeNameRecord {
        /// Its name.
        name: Name,
    }

    /// The grant of a volume.
    AttachmentKey = 32 "attachment" => AttachmentRecord {
        /// The volume.
        volume: VolumeId,
    }

    /// A journal of an earlier epoch.
    StaleJournalKey = 33 "stale journal" => StaleJournalRecord {
        /// The volume.
        volume: VolumeId,
        /// Under which epoch it was written.
        epoch: Epoch,
    }

    /// An attachment by its holder.
    NodeAttachmentKey = 34 "attachment of a node" => NodeAttachmentRecord {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The volume.
        volume: VolumeId,
    }

    /// A stale journal by its writer.
    NodeStaleJournalKey = 35 "stale journal of a node" => Present {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The volume.
        volume: VolumeId,
        /// Under which epoch it was written.
        epoch: Epoch,
    }

    /// Which extents of a group an incarnation has reserved. Absent: none.
    ReservationKey = 36 "reservation" => Bitmap {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The pool.
        pool: PoolId,
        /// The LUN.
        lun: LunIndex,
        /// The group of the LUN.
        group: GroupIndex,
    }

    /// Which extents of a reservation the map has named since a backup was begun. Absent: none.
    UnmappedKey = 38 "unmapped extents of a reservation" => Bitmap {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The pool.
        pool: PoolId,
        /// The LUN.
        lun: LunIndex,
        /// The group of the LUN.
        group: GroupIndex,
    }

    /// The sums over the parts of a layer. Absent: it has none.
    LayerPartsKey = 37 "parts of a layer" => LayerPartsRecord {
        /// The layer.
        layer: LayerId,
    }

    /// A long operation.
    OperationKey = 40 "operation" => OperationRecord {
        /// Its id.
        operation: OperationId,
    }

    /// A request that was carried out.
    IdempotencyKey = 41 "request" => IdempotencyRecord {
        /// Which requests it is forgotten with.
        generation: Generation,
        /// Its id.
        request: RequestId,
    }

    /// A set of snapshots.
    SnapshotSetKey = 42 "set" => SnapshotSetRecord {
        /// Its id.
        set: SnapshotSetId,
    }

    /// A member of an open set.
    SetMemberKey = 43 "set member" => SetMemberRecord {
        /// The set.
        set: SnapshotSetId,
        /// The volume.
        volume: VolumeId,
    }

    /// A member of an open set by its holder.
    NodeSetKey = 44 "set of a node" => Present {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The set.
        set: SnapshotSetId,
        /// The volume.
        volume: VolumeId,
    }

    /// A certificate that is refused.
    RevokedKey = 45 "revoked certificate" => RevokedRecord {
        /// Its serial number.
        serial: CertSerial,
    }

    /// The registration of a node at a LUN.
    LunRegistrationKey = 50 "registration" => RegistrationRecord {
        /// The LUN.
        lun: LunId,
        /// The node.
        node: NodeId,
    }

    /// A registration by its incarnation: all LUNs that it may ever have written to.
    NodeRegistrationKey = 51 "registration of a node" => Present {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The LUN.
        lun: LunId,
    }

    /// The fence of an incarnation. Absent: none was begun, or the node has joined since it ended.
    FenceKey = 52 "fence" => FenceRecord {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    }

    /// A LUN from which an incarnation is cut off.
    FenceLunKey = 53 "LUN of a fence" => FenceLunRecord {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The LUN.
        lun: LunId,
    }

    /// The leave for a node to attach a volume.
    PublicationKey = 55 "publication" => PublicationRecord {
        /// The volume.
        volume: VolumeId,
        /// The node.
        node: NodeId,
    }

    /// A publication that is recalled, by its node.
    RecallKey = 56 "recall" => Present {
        /// The node.
        node: NodeId,
        /// The volume.
        volume: VolumeId,
    }

    /// A group of snapshots.
    SnapshotGroupKey = 57 "snapshot group" => SnapshotGroupRecord {
        /// Its id.
        group: SnapshotGroupId,
    }

    /// A group of snapshots by name.
    SnapshotGroupNameKey = 58 "snapshot group name" => SnapshotGroupNameRecord {
        /// Its name.
        name: Name,
    }

    /// A volume that nodes have together. Absent: it has no peers.
    MigrationKey = 46 "migration" => MigrationRecord {
        /// The volume.
        volume: VolumeId,
    }

    /// A node that has a volume together with another one.
    PeerKey = 47 "peer" => PeerRecord {
        /// The volume.
        volume: VolumeId,
        /// The node.
        node: NodeId,
    }

    /// A peer by its incarnation.
    NodePeerKey = 48 "peer by node" => Present {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The volume.
        volume: VolumeId,
    }

    /// Something that an operator has overridden.
    AuditKey = 54 "audit" => AuditRecord {
        /// Rises.
        number: AuditNumber,
    }
}

/// The keys of a table that begin with these parts.
macro_rules! prefix {
    ($(#[$doc:meta])* $name:ident => $key:ty { $($part:ident: $type:ty),+ }) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name($($part: $type),+) -> super::TypedRange<$key> {
            super::TypedRange::new(range_below(&pack(&(<$key>::TABLE, $($part.element(),)+))))
        }
    };
}

prefix!(
    /// The LUNs of a pool.
    luns_of => LunKey { pool: PoolId }
);
prefix!(
    /// The allocation groups of a LUN that have a key.
    groups_of => GroupKey { pool: PoolId, lun: LunIndex }
);
prefix!(
    /// What is held back of the extents of a group.
    quarantine_of_group => QuarantineKey { pool: PoolId, lun: LunIndex, group: GroupIndex }
);
prefix!(
    /// What is held back of the extents of a pool.
    quarantine_of => QuarantineKey { pool: PoolId }
);
prefix!(
    /// The volumes of a pool.
    volumes_of => PoolVolumeKey { pool: PoolId }
);
prefix!(
    /// The slots of a layer.
    slots_of => SlotKey { layer: LayerId }
);
prefix!(
    /// The parts of a layer; those of a logical extent the oldest birth first.
    parts_of => PartKey { layer: LayerId }
);
prefix!(
    /// The parts of a layer at one logical extent, the oldest birth first.
    parts_at => PartKey { layer: LayerId, at: LogicalExtent }
);
prefix!(
    /// The layers that stand on a layer.
    children_of => ChildKey { parent: LayerId }
);
prefix!(
    /// The snapshots of a volume.
    snapshots_of => VolumeSnapshotKey { volume: VolumeId }
);
prefix!(
    /// The stale journals of a volume, the oldest first.
    stale_journals_of => StaleJournalKey { volume: VolumeId }
);
prefix!(
    /// The attachments of an incarnation.
    attachments_of => NodeAttachmentKey { node: NodeId, incarnation: Incarnation }
);
prefix!(
    /// The stale journals that an incarnation wrote.
    stale_journals_by => NodeStaleJournalKey { node: NodeId, incarnation: Incarnation }
);
prefix!(
    /// The reservations of an incarnation.
    reservations_of => ReservationKey { node: NodeId, incarnation: Incarnation }
);
prefix!(
    /// The members of open sets that an incarnation holds.
    sets_of_node => NodeSetKey { node: NodeId, incarnation: Incarnation }
);
prefix!(
    /// The peers of a volume.
    peers_of => PeerKey { volume: VolumeId }
);
prefix!(
    /// The volumes of which an incarnation is a peer.
    peers_of_node => NodePeerKey { node: NodeId, incarnation: Incarnation }
);
prefix!(
    /// The publications of a volume.
    publications_of => PublicationKey { volume: VolumeId }
);
prefix!(
    /// The recalled publications of a node.
    recalls_of => RecallKey { node: NodeId }
);
prefix!(
    /// The registrations at a LUN.
    registrations_at => LunRegistrationKey { lun: LunId }
);
prefix!(
    /// The registrations of an incarnation.
    registrations_of => NodeRegistrationKey { node: NodeId, incarnation: Incarnation }
);
prefix!(
    /// The fences of a node's incarnations.
    fences_of => FenceKey { node: NodeId }
);
prefix!(
    /// The LUNs from which an incarnation is cut off.
    luns_of_fence => FenceLunKey { node: NodeId, incarnation: Incarnation }
);
prefix!(
    /// The members of an open set.
    members_of => SetMemberKey { set: SnapshotSetId }
);

/// The requests of all generations before this one.
#[must_use]
pub fn requests_before(generation: Generation) -> super::TypedRange<IdempotencyKey> {
    let KeyRange { begin, .. } = table_range::<IdempotencyKey>();
    let end = pack(&(IdempotencyKey::TABLE, generation.element()));
    super::TypedRange::new(KeyRange::new(begin, end))
}
