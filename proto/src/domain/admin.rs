//! The service itself, its long operations and the findings of its check.

use std::fmt;
use std::str::FromStr;

use lunar_types::{ClusterId, LayerId, NodeIncarnation, VolumeId, counter_id};

use crate::error::Facts;

/// Who the service is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// Made at the first start of the service.
    pub id: ClusterId,
    /// Version of the layout of the store.
    pub keyspace_version: u32,
    /// Version of the program.
    pub service_version: String,
}

counter_id!(
    /// A long operation; rises with every new one.
    OperationId,
    u64
);
counter_id!(
    /// Which backup of the metadata: they are numbered from 1 in the order in which they began.
    BackupNumber,
    u64
);

/// A backup of the metadata, as the service knows of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backup {
    /// Which.
    pub number: BackupNumber,
    /// When it was begun, in Unix seconds.
    pub begun_at: u64,
    /// When its file was said to be complete, if it was.
    pub complete_at: Option<u64>,
}

/// What the service knows of its backups.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Backups {
    /// The newest complete one: the only one that may be restored.
    pub newest_complete: Option<BackupNumber>,
    /// Extents that a backup names are given away all the same.
    pub is_horizon_off: bool,
    /// The last ones that were begun, the newest first.
    pub backups: Vec<Backup>,
}

/// What a long operation does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OperationWork {
    /// Frees the journals of a volume, drops its head, and forgets it.
    DeleteVolume(VolumeId),
    /// Frees what an incarnation that is gone had reserved.
    ReclaimReservations(NodeIncarnation),
    /// Merges a layer that nothing names any more into the only one that stands on it, or frees
    /// what it owns; then forgets it.
    DropLayer(LayerId),
    /// Frees what has been in quarantine since before this backup.
    FreeQuarantine(BackupNumber),
}

impl fmt::Display for OperationWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteVolume(volume) => write!(f, "delete volume {volume}"),
            Self::ReclaimReservations(node) => write!(f, "reclaim reservations of {node}"),
            Self::DropLayer(layer) => write!(f, "drop layer {layer}"),
            Self::FreeQuarantine(backup) => {
                write!(f, "free what only backups before {backup} name")
            }
        }
    }
}

/// What a merge waits for: with what is left, the layer above would have more than
/// [`LAYER_PARTS_MAX`](super::LAYER_PARTS_MAX) parts at some logical extents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoomWanted {
    /// The layer above.
    pub layer: LayerId,
    /// How many logical extents were left below.
    pub extents: u64,
}

/// A long operation that is not finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What it does.
    pub work: OperationWork,
    /// Why it rests, if it does.
    pub waits_for: Option<RoomWanted>,
}

/// Something in the store that must not be so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FsckFinding {
    /// Stable name of the kind of damage, such as `extent-doubly-owned`.
    pub kind: String,
    /// What is wrong, on which object.
    pub message: String,
    /// The objects, for programs.
    pub facts: Facts,
    /// What can be done.
    pub remedy: FsckRemedy,
}

/// What can be done about a finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FsckRemedy {
    /// A repair that is safe: what it does.
    Repair(String),
    /// No repair is safe: why, and what to do instead.
    Refused(String),
}

/// Tells the findings of one check from those of another. Of no finding it is 0.
///
/// It finds that a store has changed between two checks; it is no protection against an adversary.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FindingsDigest(u64);

impl FindingsDigest {
    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FindingsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for FindingsDigest {
    type Err = FindingsDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let raw = u64::from_str_radix(text, 16).ok().filter(|_| is_hex);
        raw.map(Self).ok_or(FindingsDigestError)
    }
}

/// A text is no digest of findings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a digest of findings has 16 hexadecimal digits, as 'lunar fsck --repair --dry-run' tells")]
pub struct FindingsDigestError;

/// What a check has looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FsckSummary {
    /// How many findings there were.
    pub findings: u64,
    /// Pools looked at.
    pub pools: u64,
    /// LUNs looked at.
    pub luns: u64,
    /// Volumes looked at.
    pub volumes: u64,
    /// Layers looked at.
    pub layers: u64,
    /// Slots looked at.
    pub slots: u64,
    /// Nodes looked at.
    pub nodes: u64,
    /// Attachments looked at.
    pub attachments: u64,
    /// Extents that are marked allocated.
    pub allocated_extents: u64,
    /// How many findings can be repaired safely.
    pub repairable: u64,
    /// Of all findings.
    pub digest: FindingsDigest,
}

/// A repair that was carried out, or that was not needed any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FsckRepaired {
    /// What it does.
    pub repair: String,
    /// Whether it has changed anything: the store may need it no more.
    pub changed: bool,
}

/// What a check reports as it goes: findings, then one summary at the end. A repair reports what
/// it has done, and then the check that follows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FsckEvent {
    /// Damage.
    Finding(FsckFinding),
    /// The end.
    Summary(FsckSummary),
    /// A repair is done.
    Repaired(FsckRepaired),
}
