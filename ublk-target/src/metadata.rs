//! The metadata service as fs-core needs it: few calls, each with deadline and retries inside.
//!
//! Invariant: an error of kind [`MetadataError::Refused`] is the service's last word on the
//! request; after any other nothing is known of it, and it may be made again. A release may not:
//! others may have the extents by now.

pub mod remote;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use lunar_proto::domain::{
    Attachment, AttachmentSummary, ChangedStructure, ContentState, DetachMode, FenceAttempt,
    FenceOrder, FenceProof, Joined, KnownMember, KnownPeer, LayerPage, LayerSealed, NodeNews,
    NodeState, Ownership, OwnershipWish, Pool, PoolReservation, PrunedParts, Recall, Renewed,
    Selector, SetProgress, SlotUpdate, Volume, Vote, WatermarkLevel,
};
use lunar_proto::error::{ErrorReason, ErrorReport};
use lunar_types::{
    BootId, CommitNumber, Epoch, ExtentRun, ExtentSize, FormatToken, Freed, Incarnation,
    JournalSeq, LayerId, LogicalExtent, LunId, Name, NodeIncarnation, PoolId, PublicationId,
    RequestId, SnapshotSetId, VolumeId,
};

/// A call to the metadata service failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// It did not answer in time, or could not be reached.
    #[error("the metadata service at {endpoint} does not answer: {problem}")]
    Unavailable {
        /// Where it should be.
        endpoint: String,
        /// What happened.
        problem: String,
    },
    /// It answered, and refused.
    #[error("{}", .0.message)]
    Refused(ErrorReport),
    /// It answered something that cannot be understood.
    #[error("the metadata service gave an answer that cannot be understood: {0}")]
    Malformed(String),
}

impl MetadataError {
    /// Why the service refused, if it did.
    #[must_use]
    pub const fn reason(&self) -> Option<ErrorReason> {
        match self {
            Self::Refused(report) => Some(report.reason),
            Self::Unavailable { .. } | Self::Malformed(_) => None,
        }
    }

    /// Whether the same call may succeed later. An answer that cannot be understood says as little
    /// as none.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Malformed(_))
            || matches!(self.reason(), Some(ErrorReason::StoreBusy | ErrorReason::StoreFailed))
    }

    /// Whether the service says that this process must not go on: its incarnation is over, a later
    /// process of the node has taken over, or the metadata was restored since it joined.
    #[must_use]
    pub const fn is_lease_lost(&self) -> bool {
        matches!(
            self.reason(),
            Some(
                ErrorReason::NodeFenced
                    | ErrorReason::StaleSession
                    | ErrorReason::RestoreNotCertified
            )
        )
    }

    /// Whether the service says that this incarnation does not hold the volume.
    #[must_use]
    pub const fn is_not_ours(&self) -> bool {
        matches!(
            self.reason(),
            Some(
                ErrorReason::VolumeNotFound
                    | ErrorReason::NotAttached
                    | ErrorReason::StaleEpoch
                    | ErrorReason::NodeFenced
            )
        )
    }
}

/// An answer that is still on its way.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, MetadataError>> + Send + 'a>>;

/// A grant as calls name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The volume.
    pub volume: VolumeId,
    /// The epoch.
    pub epoch: Epoch,
    /// Who holds it.
    pub node: NodeIncarnation,
}

/// One transaction of map updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapCommit {
    /// Idempotency key: the same commit tried again carries the same.
    pub request: RequestId,
    /// Under which grant.
    pub grant: Grant,
    /// One more than the last commit's under this grant.
    pub number: CommitNumber,
    /// The head layer.
    pub layer: LayerId,
    /// The pool's extent size.
    pub extent_size: ExtentSize,
    /// What changes.
    pub updates: Vec<SlotUpdate>,
    /// Up to where the journal is in the map afterwards.
    pub checkpoint: Option<JournalSeq>,
    /// The epoch of the stale journal that it comes from.
    pub replay_of: Option<Epoch>,
}

/// What a node knows of what there is to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// The members of the answer before.
    pub members: Vec<KnownMember>,
    /// The structures of what it holds.
    pub structures: Vec<ChangedStructure>,
    /// The orders of the answer before.
    pub fences: Vec<FenceOrder>,
    /// The peers of the answer before.
    pub peers: Vec<KnownPeer>,
    /// The recalls of the answer before.
    pub recalls: Vec<Recall>,
}

/// On which terms a volume is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Also if it was restored.
    pub accept_restored: bool,
    /// By whose leave; none: by hand.
    pub publication: Option<PublicationId>,
    /// For a file system that is made once: the attachment alone is no use of the volume.
    pub for_file_system: bool,
}

/// A volume that is given away by a peer that stays one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Idempotency key: the same release tried again carries the same.
    pub request: RequestId,
    /// Under which grant.
    pub grant: Grant,
    /// What becomes of the journal.
    pub mode: DetachMode,
    /// The number of the last commit under the grant.
    pub last_commit: CommitNumber,
}

/// A vote: the volume is paused, and everything of its head is in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ballot {
    /// Of which set.
    pub set: SnapshotSetId,
    /// The number of the last commit under the grant.
    pub last_commit: CommitNumber,
    /// The last journal block.
    pub checkpoint: JournalSeq,
    /// What becomes the head.
    pub next_head: LayerId,
}

/// The seal of a head that was left already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// Idempotency key: the same seal tried again carries the same.
    pub request: RequestId,
    /// Under which grant.
    pub grant: Grant,
    /// One more than the last commit's under this grant.
    pub number: CommitNumber,
    /// Up to where the journal is in the map of what is sealed.
    pub checkpoint: JournalSeq,
    /// What becomes the head.
    pub next_head: LayerId,
    /// The epoch of the stale journal whose records are of its next head.
    pub replay_of: Option<Epoch>,
}

/// Asks for what a head hides to be taken out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prune {
    /// Idempotency key: the same page asked for again carries the same.
    pub request: RequestId,
    /// Under which grant.
    pub grant: Grant,
    /// The head.
    pub layer: LayerId,
    /// The first logical extent of interest.
    pub from: LogicalExtent,
}

/// What a process that joins knows of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Former {
    /// The incarnation whose state it has found.
    pub resume: Option<Incarnation>,
    /// Whether it has seen that nothing of that process is under way any more at LUNs that no array
    /// protects.
    pub is_drained: bool,
}

/// What fs-core asks of the metadata service. Every call but the lists is made under the session
/// that the last join of this process gave; the service refuses those of earlier processes.
pub trait Metadata: Send + Sync {
    /// Starts or resumes an incarnation of the node.
    fn join(&self, name: Name, boot: BootId, former: Former) -> Reply<'_, Joined>;
    /// Renews the lease; one attempt.
    fn heartbeat(&self, node: NodeIncarnation) -> Reply<'_, Renewed>;
    /// Every pool, with its LUNs.
    fn list_pools(&self) -> Reply<'_, Vec<Pool>>;
    /// Stores that the incarnation will register at LUNs.
    fn intend_registrations(&self, node: NodeIncarnation, luns: Vec<LunId>) -> Reply<'_, ()>;
    /// Says that the incarnation is registered at a LUN, on so many paths.
    fn confirm_registration(&self, node: NodeIncarnation, lun: LunId, paths: u32) -> Reply<'_, ()>;
    /// Makes the incarnation ACTIVE, which does not see these LUNs.
    fn activate(&self, node: NodeIncarnation, unseen: Vec<LunId>) -> Reply<'_, NodeState>;
    /// Which of the incarnations whose keys were seen are gone for good.
    fn judge_keys(
        &self,
        node: NodeIncarnation,
        seen: Vec<NodeIncarnation>,
    ) -> Reply<'_, Vec<NodeIncarnation>>;
    /// Begins an attempt to cut a victim off from a LUN.
    fn begin_fence_lun(&self, node: NodeIncarnation, order: FenceOrder) -> Reply<'_, FenceAttempt>;
    /// Ends an attempt; says what becomes of the victim.
    fn end_fence_lun(
        &self,
        node: NodeIncarnation,
        order: FenceOrder,
        ended: (u32, FenceProof),
    ) -> Reply<'_, NodeState>;
    /// Grants a volume.
    fn attach(
        &self,
        volume: Selector<VolumeId>,
        node: NodeIncarnation,
        terms: Terms,
    ) -> Reply<'_, Attachment>;
    /// The facts of a held attachment.
    fn resume_attachment(&self, grant: Grant) -> Reply<'_, Attachment>;
    /// Gives a volume back.
    fn detach(&self, grant: Grant, mode: DetachMode) -> Reply<'_, ()>;
    /// What the content of a held volume may be.
    fn content(&self, grant: Grant) -> Reply<'_, ContentState>;
    /// Begins an attempt to make a file system.
    fn begin_format(&self, grant: Grant, token: FormatToken) -> Reply<'_, ()>;
    /// Ends an attempt to make a file system.
    fn end_format(&self, grant: Grant, token: FormatToken) -> Reply<'_, ()>;
    /// Says that a held volume is used.
    fn use_content(&self, grant: Grant) -> Reply<'_, ()>;
    /// Frees the oldest stale journal.
    fn retire_journal(&self, grant: Grant, stale: Epoch) -> Reply<'_, ()>;
    /// Makes the node a peer of a volume, beside another one or alone so far.
    fn add_peer(
        &self,
        volume: Selector<VolumeId>,
        node: NodeIncarnation,
        terms: Terms,
    ) -> Reply<'_, Volume>;
    /// Asks for a volume as a peer, and waits so long for it.
    fn request_ownership(
        &self,
        volume: VolumeId,
        node: NodeIncarnation,
        wish: OwnershipWish,
        wait: Duration,
    ) -> Reply<'_, Ownership>;
    /// Gives a volume away and stays a peer.
    fn release_ownership(&self, release: Release) -> Reply<'_, ()>;
    /// The node is no peer of the volume any more.
    fn leave_peers(&self, volume: VolumeId, node: NodeIncarnation) -> Reply<'_, ()>;
    /// What an incarnation holds.
    fn list_attachments(&self, node: NodeIncarnation) -> Reply<'_, Vec<AttachmentSummary>>;
    /// Changes the map; says what becomes of the extents that are unmapped.
    fn commit_map(&self, commit: MapCommit) -> Reply<'_, Freed>;
    /// What a layer has from a logical extent on, as far as one page goes.
    fn read_layer(&self, layer: LayerId, from: LogicalExtent) -> Reply<'_, LayerPage>;
    /// Takes free extents for an incarnation; at least one.
    fn reserve(&self, node: NodeIncarnation, pool: PoolId, count: u32)
    -> Reply<'_, Vec<ExtentRun>>;
    /// Gives reserved extents back, however many.
    fn release(&self, node: NodeIncarnation, pool: PoolId, runs: Vec<ExtentRun>) -> Reply<'_, ()>;
    /// Everything that an incarnation has reserved.
    fn list_reservations(&self, node: NodeIncarnation) -> Reply<'_, Vec<PoolReservation>>;
    /// What there is for the node to do, once that is not what it knows, or after some time.
    fn watch(&self, node: NodeIncarnation, known: Known) -> Reply<'_, NodeNews>;
    /// How full a pool is, by its watermarks.
    fn pool_level(&self, pool: PoolId) -> Reply<'_, WatermarkLevel>;
    /// Says that a member of a set is warmed up, and waits for the others for some time.
    fn member_ready(&self, grant: Grant, set: SnapshotSetId) -> Reply<'_, SetProgress>;
    /// Says that a member of a set cannot be cut; `why` is a name.
    fn member_failed(
        &self,
        grant: Grant,
        set: SnapshotSetId,
        why: &'static str,
    ) -> Reply<'_, SetProgress>;
    /// Votes for the cut, and waits so long for the others.
    fn vote(&self, grant: Grant, ballot: Ballot, wait: Duration) -> Reply<'_, Vote>;
    /// Seals a head without a name.
    fn seal_layer(&self, seal: Seal) -> Reply<'_, LayerSealed>;
    /// Takes out of a head what its committed slots hide; the extents are in the reservation then.
    fn prune(&self, prune: Prune) -> Reply<'_, PrunedParts>;
}
