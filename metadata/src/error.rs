//! Why a request was not carried out: one variant a failed step, with its facts.
//!
//! The wire's reason and facts are derived here, in one place, and tested there.

mod contents;
mod facts;
mod fencing;
mod groups;
mod held;
mod kind;
mod peers;
mod publications;
mod restored;

use std::time::Duration;

use lunar_proto::domain::{
    BackupNumber, FindingsDigest, Holder, NodeState, SetState, SnapshotState, VolumeState,
};
use lunar_proto::error::{ErrorReport, FieldError};
use lunar_types::{
    ByteCount, CommitNumber, Epoch, ExtentAddress, Incarnation, JournalSeq, LayerId,
    LogicalBlockSize, LunId, Name, NodeIncarnation, PoolId, RequestId, SessionNumber, SnapshotId,
    SnapshotSetId, VolumeId, VolumeSize,
};

pub use contents::ContentError;
pub use fencing::FencingError;
pub use groups::GroupError;
pub use held::HeldExtents;
pub use peers::{Names, PeerError};
pub use publications::PublicationError;
pub use restored::RestoredError;

use crate::store::{StoreError, TransactError};

/// Why a request was not carried out. Nothing was changed then, except that a
/// [`StoreError::MaybeCommitted`] inside [`ServiceError::Store`] leaves it open.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// What a restore brought back.
    #[error(transparent)]
    Restored(#[from] RestoredError),
    /// A registration or a fence.
    #[error(transparent)]
    Fencing(#[from] FencingError),
    /// A volume that nodes have together.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The leave to attach a volume.
    #[error(transparent)]
    Publication(#[from] PublicationError),
    /// What may be done to the content of a volume.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A group of snapshots.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A field of the request.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A request id was used for something else.
    #[error("request id {request} was used for a different request: take a fresh one")]
    RequestIdReused {
        /// The id.
        request: RequestId,
    },
    /// No such pool.
    #[error("pool {pool} does not exist")]
    PoolNotFound {
        /// Its id or name.
        pool: String,
    },
    /// No such volume.
    #[error("volume {volume} does not exist")]
    VolumeNotFound {
        /// Its id or name.
        volume: String,
    },
    /// No such snapshot.
    #[error("snapshot {snapshot} does not exist")]
    SnapshotNotFound {
        /// Its id or name.
        snapshot: String,
    },
    /// The name is taken.
    #[error("a snapshot named '{name}' exists already ({snapshot}): choose another name")]
    SnapshotExists {
        /// The name.
        name: Name,
        /// Who has it.
        snapshot: SnapshotId,
    },
    /// The snapshot is not usable.
    #[error("snapshot {snapshot} is in state {state}: only a Ready snapshot can be used")]
    SnapshotNotReady {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Its state.
        state: SnapshotState,
    },
    /// The snapshot has another origin.
    #[error(
        "snapshot {snapshot} is of volume {origin}, not of volume {volume}: only a snapshot of its \
         own brings a volume back; make a clone of this one"
    )]
    SnapshotOfOtherVolume {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The volume that it was cut of.
        origin: VolumeId,
        /// The volume in the request.
        volume: VolumeId,
    },
    /// Their chains have no layer in common.
    #[error(
        "snapshots {from} and {to} have no common origin: nothing says what changed from one to \
         the other; list what the second one has allocated, without a first one"
    )]
    SnapshotsUnrelated {
        /// The first snapshot.
        from: SnapshotId,
        /// The second snapshot.
        to: SnapshotId,
    },
    /// The map of the volume may lack what was written.
    #[error(
        "volume {volume} cannot be cut: its journal of epoch {oldest} waits to be replayed; attach \
         the volume once, or wait until its holder has done it"
    )]
    VolumeNotAtRest {
        /// The volume.
        volume: VolumeId,
        /// The epoch of its oldest journal that waits.
        oldest: Epoch,
    },
    /// It is a member of an open set.
    #[error(
        "volume {volume} is a member of snapshot set {set}, which is not decided yet: try again \
         when it is, or abort it"
    )]
    VolumeBusy {
        /// The volume.
        volume: VolumeId,
        /// The set.
        set: SnapshotSetId,
    },
    /// No such set.
    #[error("snapshot set {set} does not exist, or was decided long ago")]
    SetNotFound {
        /// Its id.
        set: SnapshotSetId,
    },
    /// The set cannot be aborted any more.
    #[error("snapshot set {set} is {state} already: delete its snapshots instead")]
    SetDecided {
        /// The set.
        set: SnapshotSetId,
        /// Its state.
        state: SetState,
    },
    /// The chain is as deep as it may be.
    #[error(
        "layer {layer} is number {depth} of its chain, and no more than {most} layers stand on \
         each other: delete snapshots that are below it, and let the merges end that \
         'lunar operation list' shows"
    )]
    ChainTooDeep {
        /// The layer on which another one should stand.
        layer: LayerId,
        /// Its depth.
        depth: usize,
        /// The greatest depth.
        most: usize,
    },
    /// No such layer.
    #[error("layer {layer} does not exist")]
    LayerNotFound {
        /// Its id.
        layer: LayerId,
    },
    /// No such node.
    #[error("node {node} does not exist")]
    NodeNotFound {
        /// Its id or name.
        node: String,
    },
    /// No such stale journal.
    #[error("volume {volume} has no stale journal of epoch {epoch}")]
    JournalNotFound {
        /// The volume.
        volume: VolumeId,
        /// The epoch in the request.
        epoch: Epoch,
    },
    /// The name is taken.
    #[error("a pool named '{name}' exists already ({pool}): choose another name")]
    PoolExists {
        /// The name.
        name: Name,
        /// Who has it.
        pool: PoolId,
    },
    /// The name is taken.
    #[error("a volume named '{name}' exists already ({volume}): choose another name")]
    VolumeExists {
        /// The name.
        name: Name,
        /// Who has it.
        volume: VolumeId,
    },
    /// The LUN has a pool.
    #[error("LUN {lun} is in pool '{pool_name}' ({pool}) already: a LUN is in one pool only")]
    LunInUse {
        /// The LUN.
        lun: LunId,
        /// Its pool.
        pool: PoolId,
        /// The pool's name.
        pool_name: Name,
    },
    /// The LUN is there twice.
    #[error("LUN {lun} is named twice in the request")]
    LunTwice {
        /// The LUN.
        lun: LunId,
    },
    /// The LUN's blocks are too large.
    #[error(
        "LUN {lun} has logical blocks of {lun_blocks} B, pool '{pool_name}' of {pool_blocks} B: \
         volumes of the pool could not be written to it"
    )]
    LunBlockSize {
        /// The LUN.
        lun: LunId,
        /// Its logical block size in bytes.
        lun_blocks: u32,
        /// The pool's name.
        pool_name: Name,
        /// The pool's logical block size in bytes.
        pool_blocks: u32,
    },
    /// The volume's blocks are too small.
    #[error(
        "a volume with logical blocks of {asked} B cannot be made in pool '{pool_name}': a LUN \
         of it has logical blocks of {pool_blocks} B"
    )]
    VolumeBlockSize {
        /// What was asked for.
        asked: u32,
        /// The pool's name.
        pool_name: Name,
        /// The pool's logical block size in bytes.
        pool_blocks: u32,
    },
    /// The volume is not usable.
    #[error("volume {volume} is in state {state}: only a Ready volume can be used")]
    VolumeNotReady {
        /// The volume.
        volume: VolumeId,
        /// Its state.
        state: VolumeState,
    },
    /// The volume is larger already.
    #[error(
        "volume {volume} has {held} and cannot be made smaller, {given} were asked for: what is \
         beyond them would be lost; copy the data to a new volume instead"
    )]
    VolumeWouldShrink {
        /// The volume.
        volume: VolumeId,
        /// Its size.
        held: VolumeSize,
        /// The size in the request.
        given: VolumeSize,
    },
    /// No node could attach it.
    #[error(
        "volume '{name}' cannot have {given}: in its pool, with extents of {extent_size}, a volume \
         of more than {limit} cannot be attached; ask for less, or use a pool with larger extents"
    )]
    VolumeTooLarge {
        /// The volume.
        name: Name,
        /// The size in the request.
        given: VolumeSize,
        /// Of the pool.
        extent_size: ByteCount,
        /// The greatest size in this pool.
        limit: ByteCount,
    },
    /// A live node holds it.
    #[error(
        "volume {volume} is attached to node '{}' ({}) under epoch {}: {advice}",
        holder.node_name, holder.node, holder.epoch
    )]
    VolumeAttached {
        /// The volume.
        volume: VolumeId,
        /// Who holds it.
        holder: Holder,
        /// What would free it.
        advice: String,
    },
    /// Nobody holds it.
    #[error("volume {volume} is not attached")]
    NotAttached {
        /// The volume.
        volume: VolumeId,
    },
    /// Somebody else holds it.
    #[error(
        "volume {volume} is held by {held_by} under epoch {held}, the request came from \
         {given_by} under epoch {given}: that grant is over"
    )]
    StaleEpoch {
        /// The volume.
        volume: VolumeId,
        /// The current epoch.
        held: Epoch,
        /// Who holds it.
        held_by: NodeIncarnation,
        /// The epoch in the request.
        given: Epoch,
        /// Who asked.
        given_by: NodeIncarnation,
    },
    /// The incarnation is gone.
    #[error(
        "incarnation {node} is over (the node's newest is {newest}, {state}): stop writing and \
         join again"
    )]
    NodeFenced {
        /// The incarnation in the request.
        node: NodeIncarnation,
        /// The newest one.
        newest: Incarnation,
        /// Its state.
        state: NodeState,
    },
    /// Its daemon would serve wrong data.
    #[error(
        "node {node} runs an fs-core that does not know layers: it would serve holes in the place \
         of data; update it and attach again"
    )]
    NodeTooOld {
        /// The incarnation.
        node: NodeIncarnation,
    },
    /// Another process of the node has joined since.
    #[error(
        "node '{name}' ({node}) is in session {held}, the request came from session {given}: a \
         later fs-core process of this node has taken over, and this one must exit"
    )]
    StaleSession {
        /// The node.
        name: Name,
        /// Its newest incarnation.
        node: NodeIncarnation,
        /// The session of the process that joined last.
        held: SessionNumber,
        /// The session in the request.
        given: SessionNumber,
    },
    /// Its daemon may still run.
    #[error(
        "node '{name}' runs already as {node} and was heard from {heard_ms} ms ago: stop the other \
         fs-core, give this host a name of its own, or wait {wait_ms} ms if the other is dead",
        heard_ms = heard_ago.as_millis(), wait_ms = wait.as_millis()
    )]
    NodeAlive {
        /// The node.
        name: Name,
        /// Its live incarnation.
        node: NodeIncarnation,
        /// When it was heard from.
        heard_ago: Duration,
        /// How long until it counts as dead.
        wait: Duration,
    },
    /// It holds volumes.
    #[error("node {node} holds {count} attachments, one is volume {volume}: detach them first")]
    NodeHoldsAttachments {
        /// The incarnation.
        node: NodeIncarnation,
        /// How many, as far as they were counted.
        count: usize,
        /// One of them.
        volume: VolumeId,
    },
    /// Journals wait.
    #[error(
        "volume {volume} has a journal of epoch {oldest} that is not retired: replay and retire \
         it before you {wanted}"
    )]
    StaleJournals {
        /// The volume.
        volume: VolumeId,
        /// The epoch of the oldest one.
        oldest: Epoch,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The layer cannot be written.
    #[error("layer {layer} is not the writable head of volume {volume}, which is layer {head}")]
    LayerNotWritable {
        /// The layer in the request.
        layer: LayerId,
        /// The volume.
        volume: VolumeId,
        /// Its head.
        head: LayerId,
    },
    /// The extent is somebody else's.
    #[error("extent {extent} of pool {pool} is not reserved for incarnation {node}")]
    ExtentNotReserved {
        /// The extent.
        extent: ExtentAddress,
        /// The pool.
        pool: PoolId,
        /// Whose reservation it should be in.
        node: NodeIncarnation,
    },
    /// The commit does not follow the last one.
    #[error(
        "the last commit of volume {volume} under epoch {epoch} is number {last}, this one is \
         number {given}: it comes too late or too early, and changes nothing"
    )]
    CommitOutOfOrder {
        /// The volume.
        volume: VolumeId,
        /// The epoch of the grant.
        epoch: Epoch,
        /// The number of the last commit.
        last: CommitNumber,
        /// The number in the request.
        given: CommitNumber,
    },
    /// The seal is not of this grant's next head.
    #[error(
        "volume {volume} has head {head} and the next head {held}, the request says {given}: it \
         is late, and changes nothing"
    )]
    NextHeadMismatch {
        /// The volume.
        volume: VolumeId,
        /// Its head.
        head: LayerId,
        /// The next head of the grant, or of the stale journal.
        held: LayerId,
        /// The one in the request.
        given: LayerId,
    },
    /// The checkpoint would fall.
    #[error("volume {volume} has checkpoint {stored} of epoch {epoch}, the commit says {given}")]
    CheckpointRegression {
        /// The volume.
        volume: VolumeId,
        /// The epoch of the journal.
        epoch: Epoch,
        /// What is stored.
        stored: JournalSeq,
        /// What was given.
        given: JournalSeq,
    },
    /// The repair is of other findings.
    #[error(
        "the check finds {count} findings with digest {found}, the repair was asked for digest \
         {given}: nothing was changed; look at the findings again with 'lunar fsck --repair \
         --dry-run'"
    )]
    FindingsChanged {
        /// In the request.
        given: FindingsDigest,
        /// Of the findings by now.
        found: FindingsDigest,
        /// How many these are.
        count: u64,
    },
    /// A backup may name the extent: it was to be given back.
    #[error(
        "extent {extent} of pool {pool}, in the reservation of {node}, was mapped since a backup \
         was begun, and is to be released, not mapped again"
    )]
    ExtentHeldForBackup {
        /// The extent.
        extent: ExtentAddress,
        /// The pool.
        pool: PoolId,
        /// In whose reservation it is.
        node: NodeIncarnation,
    },
    /// There is no such backup.
    #[error("backup {backup} was not begun by this cluster, or was too long ago: make another one")]
    BackupNotFound {
        /// Which.
        backup: BackupNumber,
    },
    /// Nothing is free.
    #[error("pool '{pool_name}' has no free extent: {}", held.advice())]
    PoolFull {
        /// The pool.
        pool: PoolId,
        /// Its name.
        pool_name: Name,
        /// What nobody has and nobody gets yet.
        held: HeldExtents,
    },
    /// Nothing new begins in the pool.
    #[error(
        "pool '{pool_name}' is {used} % full and nothing new begins in it from {mark} % on: delete \
         snapshots or volumes, add a LUN, or insist with --over-watermark; what runs is not held up"
    )]
    PoolWatermark {
        /// The pool.
        pool: PoolId,
        /// Its name.
        pool_name: Name,
        /// How full it is, in percent, rounded down.
        used: u8,
        /// Its critical watermark, in percent.
        mark: u8,
    },
    /// A limit of the design.
    #[error("{what} would go beyond the limit of {limit}")]
    LimitReached {
        /// What.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The store.
    #[error("the request could not be stored")]
    Store(#[from] StoreError),
    /// The store's content.
    #[error("the store is damaged at {key}: {problem}; run lunar fsck")]
    Corrupt {
        /// Where.
        key: String,
        /// What is wrong.
        problem: String,
    },
}

impl TransactError for ServiceError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl ServiceError {
    pub(crate) fn corrupt(key: String, problem: String) -> Self {
        Self::Corrupt { key, problem }
    }

    pub(crate) fn field(field: &str, problem: impl std::fmt::Display) -> Self {
        Self::Field(FieldError::new(field, problem))
    }

    pub(crate) fn lun_too_small(index: usize, size: ByteCount, least: ByteCount) -> Self {
        let problem = format_args!("a LUN of {size} has no room for one extent: {least} needed");
        Self::field(&format!("luns[{index}].size_bytes"), problem)
    }

    pub(crate) fn volume_block_size(
        asked: LogicalBlockSize,
        pool_name: Name,
        pool: LogicalBlockSize,
    ) -> Self {
        Self::VolumeBlockSize { asked: asked.bytes(), pool_name, pool_blocks: pool.bytes() }
    }

    /// The error as it travels, with the causes in its message.
    #[must_use]
    pub fn report(&self) -> ErrorReport {
        ErrorReport { reason: self.kind(), message: chain(self), facts: self.facts() }
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
