//! Map commits, pages of layers and reservations.

use lunar_types::{
    CommitNumber, Epoch, ExtentAddress, ExtentRun, ExtentSize, Freed, JournalSeq, LayerId,
    LogicalExtent, NodeSession, PoolId, RequestId, Slot, VolumeId,
};

/// Most updates of one commit.
pub const COMMIT_UPDATES_MAX: usize = 1000;
/// Most slots of one page of a layer, before its last logical extent.
pub const READ_LAYER_MAX: usize = 1000;
/// Most parts that a layer has at one logical extent.
pub const LAYER_PARTS_MAX: usize = 64;
/// Most parts that one prune call looks at.
pub const PRUNE_PARTS_MAX: usize = 500;
/// Most extents of one reservation call.
pub const RESERVE_EXTENTS_MAX: u32 = 1024;
/// Most runs of one release call.
pub const RELEASE_RUNS_MAX: usize = 1024;
/// Most extents of one release call.
pub const RELEASE_EXTENTS_MAX: u64 = 65536;

/// What a layer is to say of one logical extent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SlotUpdate {
    /// Which logical extent.
    pub at: LogicalExtent,
    /// The slot, or nothing: the layer says nothing of it any more.
    pub slot: Option<Slot>,
}

/// Changes slots of the head layer of an attached volume: all of the updates or none.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CommitMap {
    /// Idempotency key.
    pub request: RequestId,
    /// Who holds the volume.
    pub caller: NodeSession,
    /// The volume.
    pub volume: VolumeId,
    /// Under which epoch it is held.
    pub epoch: Epoch,
    /// One more than the last commit's under this grant.
    pub number: CommitNumber,
    /// The head layer.
    pub layer: LayerId,
    /// The pool's extent size.
    pub extent_size: ExtentSize,
    /// At most [`COMMIT_UPDATES_MAX`], each logical extent once.
    pub updates: Vec<SlotUpdate>,
    /// Up to where the journal is in the map after this commit; never falls.
    pub checkpoint: Option<JournalSeq>,
    /// The epoch of the stale journal that the updates come from.
    pub replay_of: Option<Epoch>,
}

/// Asks for what a layer has, own slots and parts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReadLayer {
    /// The layer.
    pub layer: LayerId,
    /// The first logical extent of interest.
    pub from: LogicalExtent,
    /// Slots after which the page ends with the logical extent, from 1 to [`READ_LAYER_MAX`].
    pub limit: usize,
}

/// A slot that came into a layer by a merge.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LayerPart {
    /// The layer whose writes made it.
    pub birth: LayerId,
    /// The slot.
    pub slot: Slot,
}

/// All that a layer has at one logical extent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LayerEntry {
    /// Which logical extent.
    pub at: LogicalExtent,
    /// What was written into the layer itself: its birth is the layer.
    pub own: Option<Slot>,
    /// In ascending order of their births, all below the layer.
    pub parts: Vec<LayerPart>,
}

/// Part of what a layer has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerPage {
    /// In order of their logical extent, each whole; holes are left out.
    pub entries: Vec<LayerEntry>,
    /// Where to go on; nothing at the end.
    pub next: Option<LogicalExtent>,
    /// The pool's extent size.
    pub extent_size: ExtentSize,
}

/// Takes parts out of the head of an attached volume that its committed slots hide.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PruneLayer {
    /// Idempotency key.
    pub request: RequestId,
    /// Who holds the volume.
    pub caller: NodeSession,
    /// The volume.
    pub volume: VolumeId,
    /// Under which epoch it is held.
    pub epoch: Epoch,
    /// The head layer.
    pub layer: LayerId,
    /// The first logical extent of interest.
    pub from: LogicalExtent,
}

/// A part that is not in its layer any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PrunedPart {
    /// Which logical extent.
    pub at: LogicalExtent,
    /// The layer whose writes made it.
    pub birth: LayerId,
    /// Its extent, which is in the caller's reservation now; nothing of a part without storage.
    pub extent: Option<ExtentAddress>,
}

/// What came of a window of a layer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PrunedParts {
    /// At most [`PRUNE_PARTS_MAX`], in order of their logical extent and birth.
    pub parts: Vec<PrunedPart>,
    /// Where to go on; nothing at the end.
    pub next: Option<LogicalExtent>,
    /// What becomes of their extents.
    pub freed: Freed,
}

/// Takes free extents for an incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReserveExtents {
    /// Idempotency key.
    pub request: RequestId,
    /// For whom.
    pub caller: NodeSession,
    /// From which pool.
    pub pool: PoolId,
    /// How many, from 1 to [`RESERVE_EXTENTS_MAX`].
    pub count: u32,
}

/// Gives reserved extents back.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReleaseExtents {
    /// Idempotency key.
    pub request: RequestId,
    /// Whose.
    pub caller: NodeSession,
    /// Of which pool.
    pub pool: PoolId,
    /// At most [`RELEASE_RUNS_MAX`] runs of [`RELEASE_EXTENTS_MAX`] extents in all.
    pub runs: Vec<ExtentRun>,
}

/// What an incarnation has reserved in one pool, as far as a page shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolReservation {
    /// The pool.
    pub pool: PoolId,
    /// The extents.
    pub runs: Vec<ExtentRun>,
}
