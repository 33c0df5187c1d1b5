//! Snapshots, and volumes that are made of them. Sets of them are in [`super::sets`].

use std::fmt;

use lunar_types::{
    LayerId, LogicalBlockSize, Name, PoolId, RequestId, SnapshotGroupId, SnapshotId, SnapshotSetId,
    VolumeId, VolumeSize,
};

use super::Selector;

/// Where a snapshot is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SnapshotState {
    /// Its name is taken, its set is not sealed yet.
    Creating,
    /// Usable.
    Ready,
    /// It has no name any more; its layer goes away when nothing stands on it.
    Deleting,
}

impl fmt::Display for SnapshotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Creating => "Creating",
            Self::Ready => "Ready",
            Self::Deleting => "Deleting",
        })
    }
}

/// A snapshot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Its name.
    pub name: Name,
    /// The volume that it was cut of; it may be gone.
    pub volume: VolumeId,
    /// Where its extents are.
    pub pool: PoolId,
    /// The layer that it names; none while Creating.
    pub layer: Option<LayerId>,
    /// Size of the volume at the cut.
    pub size: VolumeSize,
    /// What devices of its clones advertise.
    pub logical_block_size: LogicalBlockSize,
    /// The set that it was cut with.
    pub set: SnapshotSetId,
    /// Seconds since 1970-01-01 UTC on the caller's clock, for people.
    pub created_unix_seconds: u64,
    /// Where it is in its life.
    pub state: SnapshotState,
    /// It came back with a backup, or was cut of a volume that did: it may be a mixture.
    pub restored: bool,
    /// The group that it is in.
    pub group: Option<SnapshotGroupId>,
    /// Extents that its layer owns.
    pub owned_extents: u64,
}

/// Starts the deletion of a snapshot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DeleteSnapshot {
    /// Idempotency key.
    pub request: RequestId,
    /// The snapshot.
    pub snapshot: Selector<SnapshotId>,
}

/// Makes a volume that begins as a snapshot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CloneVolume {
    /// Idempotency key.
    pub request: RequestId,
    /// The snapshot.
    pub snapshot: Selector<SnapshotId>,
    /// Name of the volume.
    pub name: Name,
    /// Size of its device, at least the snapshot's; nothing: the snapshot's.
    pub size: Option<VolumeSize>,
    /// Do it although the pool is above its critical watermark.
    pub over_watermark: bool,
}

/// Gives a detached volume the content of one of its snapshots.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RollbackVolume {
    /// Idempotency key.
    pub request: RequestId,
    /// The volume.
    pub volume: Selector<VolumeId>,
    /// The snapshot.
    pub snapshot: Selector<SnapshotId>,
}
