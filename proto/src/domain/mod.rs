//! What the services speak of, as plain values: requests and answers in the units of `types`.
//!
//! The metadata service, its client and the simulator use these; the wire messages of `v1` stay
//! in this crate's conversions and in the thin gRPC layers.

mod admin;
mod certificates;
mod contents;
mod diff;
mod fencing;
mod groups;
mod map;
mod nodes;
mod peers;
mod pools;
mod publications;
mod sets;
mod snapshots;
mod usage;
mod volumes;
mod watermarks;

use std::fmt;

use lunar_types::Name;

pub use admin::{
    Backup, BackupNumber, Backups, Cluster, FindingsDigest, FindingsDigestError, FsckEvent,
    FsckFinding, FsckRemedy, FsckRepaired, FsckSummary, Operation, OperationId, OperationWork,
    RoomWanted,
};
pub use certificates::{CertSerial, CertSerialError, RevokeCertificate, RevokedCertificate};
pub use contents::{ContentOf, ContentState, FormatContent, Origin};
pub use diff::{DiffKind, DiffPage, DiffRun, DiffSnapshots};
pub use fencing::{
    Activate, AuditEntry, BeginFenceLun, CertifyPoweredOff, ConfirmRegistration, DrainNode,
    EndFenceLun, FENCE_LIST_MAX, Fence, FenceAttempt, FenceLun, FenceLunState, FenceNode,
    FenceOrder, FenceProof, IntendRegistrations, JudgeKeys, PoolFencing, PoolFencingError,
    REASON_BYTES_MAX, Renewed, UnfenceNode,
};
pub use groups::{DeleteGroup, SnapshotGroup};
pub use map::{
    COMMIT_UPDATES_MAX, CommitMap, LAYER_PARTS_MAX, LayerEntry, LayerPage, LayerPart,
    PRUNE_PARTS_MAX, PoolReservation, PruneLayer, PrunedPart, PrunedParts, READ_LAYER_MAX,
    RELEASE_EXTENTS_MAX, RELEASE_RUNS_MAX, RESERVE_EXTENTS_MAX, ReadLayer, ReleaseExtents,
    ReserveExtents, SlotUpdate,
};
pub use nodes::{Join, Joined, LeaseTimers, Leave, Node, NodeState};
pub use peers::{
    AddPeer, KnownPeer, LeavePeers, Ownership, OwnershipWish, PEERS_MAX, Peer, ReleaseOwnership,
    RemovePeer, RequestOwnership,
};
pub use pools::{
    AddLuns, CreatePool, Lun, LunStatus, NewLun, Pool, PoolStatus, ReleaseQuarantine, SpaceUsage,
};
pub use publications::{
    LeftPublication, Publication, PublicationMode, PublishVolume, Recall, UnpublishVolume,
};
pub use sets::{
    ChangedStructure, CreateSnapshots, CutAs, Fsfreeze, KnownMember, MemberFailed, MemberPaused,
    MemberReady, MemberState, NewCut, NewMember, NodeNews, OpenMember, SET_MEMBERS_MAX, SetAbort,
    SetMember, SetProgress, SetState, SnapshotSet, Vote, WAIT_MAX, WATCHED_MEMBERS_MAX,
    WATCHED_VOLUMES_MAX, WatchNode,
};
pub use snapshots::{CloneVolume, DeleteSnapshot, RollbackVolume, Snapshot, SnapshotState};
pub use usage::{Usage, UsageOf};
pub use volumes::{
    Attach, Attachment, AttachmentSummary, CreateVolume, DeleteVolume, Detach, DetachMode,
    GrowVolume, Holder, Layer, LayerSealed, ResumeAttachment, RetireJournal, SealLayer, SealedHead,
    StaleJournal, Volume, VolumeState,
};
pub use watermarks::{PoolFill, SetWatermarks, WatermarkLevel, Watermarks, WatermarksError};

/// An object by its id or by its name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Selector<I> {
    /// By its id.
    Id(I),
    /// By its name.
    Name(Name),
}

impl<I: fmt::Display> fmt::Display for Selector<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => write!(f, "'{name}'"),
        }
    }
}

/// Where a list goes on; its content is the service's own affair.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PageToken(Vec<u8>);

impl PageToken {
    /// The token of these bytes; empty bytes are no token.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        if bytes.is_empty() { None } else { Some(Self(bytes)) }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Which part of a list is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// Most items, from 1 to [`PageRequest::LIMIT_MAX`].
    pub limit: usize,
    /// The token of the page before, or the beginning.
    pub token: Option<PageToken>,
}

impl PageRequest {
    /// Items of a page when nothing else is asked for.
    pub const LIMIT_DEFAULT: usize = 100;
    /// Most items of a page.
    pub const LIMIT_MAX: usize = 1000;

    /// The first page of the greatest size.
    #[must_use]
    pub const fn first() -> Self {
        Self { limit: Self::LIMIT_MAX, token: None }
    }
}

/// Part of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page<T> {
    /// The items, in the order of the list.
    pub items: Vec<T>,
    /// Where to go on; nothing at the end.
    pub next: Option<PageToken>,
}
