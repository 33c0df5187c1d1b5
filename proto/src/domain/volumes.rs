//! Volumes, layers and attachments.

use std::fmt;

use lunar_types::{
    CommitNumber, Epoch, ExtentRun, JournalSeq, LayerId, LogicalBlockSize, Name, NodeIncarnation,
    NodeSession, PoolId, PublicationId, RequestId, StructureNumber, VolumeId, VolumeSize,
};

use super::{ContentState, Origin, Peer, Pool, Publication, Selector};

/// Where a volume is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VolumeState {
    /// Not usable yet.
    Creating,
    /// Usable.
    Ready,
    /// Its space is coming back; it has no name any more.
    Deleting,
}

impl fmt::Display for VolumeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Creating => "Creating",
            Self::Ready => "Ready",
            Self::Deleting => "Deleting",
        })
    }
}

/// Who holds a volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Holder {
    /// The incarnation.
    pub node: NodeIncarnation,
    /// The name of its node.
    pub node_name: Name,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Whether that incarnation may still write to it.
    pub live: bool,
    /// When it was granted, in seconds since 1970-01-01 UTC, for people; 0: not known.
    pub granted_at: u64,
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// Its name.
    pub name: Name,
    /// Where its extents are.
    pub pool: PoolId,
    /// How large its device is.
    pub size: VolumeSize,
    /// What its device advertises.
    pub logical_block_size: LogicalBlockSize,
    /// The writable layer.
    pub head: LayerId,
    /// The epoch of the last grant.
    pub epoch: Epoch,
    /// Where it is in its life.
    pub state: VolumeState,
    /// It came back with a backup, and nobody has accepted it since: it may be a mixture.
    pub restored: bool,
    /// Who holds it.
    pub holder: Option<Holder>,
    /// Extents that its head layer owns.
    pub mapped_extents: u64,
    /// The nodes that have it for a live migration; none while a node holds it alone.
    pub peers: Vec<Peer>,
    /// How often it has changed hands between them.
    pub moves: u64,
    /// The nodes that have leave to attach it; none: whoever is told to by hand.
    pub publications: Vec<Publication>,
    /// What its content may be.
    pub content: ContentState,
    /// What it began as; none: nothing.
    pub origin: Option<Origin>,
}

/// A map of logical extents to slots.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Layer {
    /// Its id.
    pub id: LayerId,
    /// The layer below.
    pub parent: Option<LayerId>,
    /// Whose it is.
    pub volume: VolumeId,
    /// A sealed layer never changes.
    pub sealed: bool,
}

/// Makes a volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CreateVolume {
    /// Idempotency key.
    pub request: RequestId,
    /// Name of the volume.
    pub name: Name,
    /// The pool it lives in.
    pub pool: Selector<PoolId>,
    /// Size of its device.
    pub size: VolumeSize,
    /// What its device advertises.
    pub logical_block_size: LogicalBlockSize,
    /// Do it although the pool is above its critical watermark.
    pub over_watermark: bool,
}

/// Starts the deletion of a volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DeleteVolume {
    /// Idempotency key.
    pub request: RequestId,
    /// The volume.
    pub volume: Selector<VolumeId>,
}

/// Makes a volume larger.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GrowVolume {
    /// Idempotency key.
    pub request: RequestId,
    /// The volume.
    pub volume: Selector<VolumeId>,
    /// Size of its device from now on.
    pub size: VolumeSize,
    /// Do it although the pool is above its critical watermark.
    pub over_watermark: bool,
}

/// Asks for a volume under a new epoch.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Attach {
    /// Idempotency key.
    pub request: RequestId,
    /// The volume.
    pub volume: Selector<VolumeId>,
    /// Who asks.
    pub caller: NodeSession,
    /// Whether the caller reads parts of layers and keeps next heads apart; refused without.
    pub understands_layers: bool,
    /// Attach it although it was restored and may be a mixture; it counts as accepted then.
    pub accept_restored: bool,
    /// By whose leave; none: by hand.
    pub publication: Option<PublicationId>,
    /// A file system is made on it once, by who asks for its content before; in every other case
    /// the volume is used from now on.
    pub for_file_system: bool,
}

/// Asks again for the facts of an attachment that is held.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ResumeAttachment {
    /// The volume.
    pub volume: VolumeId,
    /// Under which epoch it is held.
    pub epoch: Epoch,
    /// Who holds it.
    pub caller: NodeSession,
}

/// The journal of an earlier epoch, to be replayed and committed before any I/O.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct StaleJournal {
    /// The epoch it was written under.
    pub epoch: Epoch,
    /// Who wrote it.
    pub node: NodeIncarnation,
    /// Where it is.
    pub runs: Vec<ExtentRun>,
    /// Up to where it is in the map already; 0 if it was never confirmed.
    pub checkpoint: JournalSeq,
    /// Its records are of the volume's head, or of this layer, which is made the head by
    /// [`SealLayer`] before they are committed.
    pub next_head: LayerId,
}

/// Everything a node needs to serve a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// The volume; `volume.holder` is this attachment.
    pub volume: Volume,
    /// The epoch of this grant.
    pub epoch: Epoch,
    /// Who holds it.
    pub node: NodeIncarnation,
    /// The head first, then its ancestors.
    pub layers: Vec<Layer>,
    /// Geometry and LUN table.
    pub pool: Pool,
    /// The journal of this epoch.
    pub journal: Vec<ExtentRun>,
    /// Up to where the journal is in the map already; 0 if it was never confirmed.
    pub checkpoint: JournalSeq,
    /// The oldest first: the order of replay.
    pub stale_journals: Vec<StaleJournal>,
    /// The number of the last commit under this grant; 0 if there was none.
    pub last_commit: CommitNumber,
    /// The layer that the next seal makes the head; no other layer ever has this id.
    pub next_head: LayerId,
    /// Of the chain and the size that are told here.
    pub structure: StructureNumber,
}

/// Makes the next head of an attachment, or of a stale journal, the head, without a name for what
/// is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SealLayer {
    /// Idempotency key.
    pub request: RequestId,
    /// The volume.
    pub volume: VolumeId,
    /// Under which epoch it is held.
    pub epoch: Epoch,
    /// Who holds it.
    pub caller: NodeSession,
    /// One more than the last commit's under this grant.
    pub number: CommitNumber,
    /// Up to where the journal is in the map of what is sealed; never falls.
    pub checkpoint: JournalSeq,
    /// The attachment's next head, or the stale journal's.
    pub next_head: LayerId,
    /// The epoch of the stale journal whose records are of its next head.
    pub replay_of: Option<Epoch>,
}

/// The head after a seal, and what comes next under the grant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SealedHead {
    /// The writable layer now.
    pub head: LayerId,
    /// The one that the next seal makes the head.
    pub next_head: LayerId,
    /// The number of the last commit or seal under this grant: the next is one more.
    pub last_commit: CommitNumber,
}

/// What a [`SealLayer`] has found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LayerSealed {
    /// What is so now.
    pub now: SealedHead,
    /// The set of the vote, or an earlier copy of the call, had sealed it before.
    pub before: bool,
}

/// What becomes of the journal at a detach.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DetachMode {
    /// It was checkpointed wholly and is freed; refused while stale journals are not retired.
    Clean,
    /// It is kept as a stale journal, replayed by the next attachment.
    KeepJournal,
}

/// Gives a volume back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Detach {
    /// Idempotency key.
    pub request: RequestId,
    /// The volume.
    pub volume: VolumeId,
    /// Under which epoch it is held.
    pub epoch: Epoch,
    /// Who holds it.
    pub caller: NodeSession,
    /// What becomes of the journal.
    pub mode: DetachMode,
}

/// Frees the oldest stale journal, after what it holds was committed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RetireJournal {
    /// Idempotency key.
    pub request: RequestId,
    /// The volume.
    pub volume: VolumeId,
    /// The current epoch.
    pub epoch: Epoch,
    /// Who holds the volume.
    pub caller: NodeSession,
    /// The epoch of the journal.
    pub stale_epoch: Epoch,
}

/// An attachment in a list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AttachmentSummary {
    /// The volume.
    pub volume: VolumeId,
    /// Under which epoch it is held.
    pub epoch: Epoch,
}
