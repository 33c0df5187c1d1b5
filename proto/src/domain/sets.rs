//! Sets of snapshots that are cut at one moment, and what their holders say of their members.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use lunar_types::{
    CommitNumber, Epoch, JournalSeq, LayerId, Name, NodeIncarnation, NodeSession, RequestId,
    SnapshotId, SnapshotSetId, StructureNumber, VolumeId,
};

use super::{FenceOrder, KnownPeer, Recall, SealedHead, Selector, Snapshot};

/// Most members of a set.
pub const SET_MEMBERS_MAX: usize = 32;
/// Most volumes of which a node says what structure it knows.
pub const WATCHED_VOLUMES_MAX: usize = 4096;
/// Longest time that one call waits for a change.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// Most members of open sets that a node hears of at once.
pub const WATCHED_MEMBERS_MAX: usize = 1000;

/// Whether file systems on the devices of a set are frozen while it is cut.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Fsfreeze {
    /// Where there is one that can be.
    #[default]
    Auto,
    /// The set is aborted if one cannot be.
    Always,
    /// Never.
    Never,
}

/// Where a set is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SetState {
    /// Holders warm up; writes go on.
    Gathering,
    /// All are ready: holders pause and vote.
    Pausing,
    /// All were cut, at one moment. It never changes.
    Sealed,
    /// None was cut. It never changes.
    Aborted,
}

impl SetState {
    /// Whether it may still be cut.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Gathering | Self::Pausing)
    }
}

impl fmt::Display for SetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Gathering => "Gathering",
            Self::Pausing => "Pausing",
            Self::Sealed => "Sealed",
            Self::Aborted => "Aborted",
        })
    }
}

/// Where a member of an open set is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MemberState {
    /// Its holder has not answered.
    Asked,
    /// It is warmed up.
    Ready,
    /// Its holder has voted, or nobody holds it.
    Paused,
}

/// What a member is cut for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum NewCut {
    /// A snapshot of this name.
    Snapshot(Name),
    /// A volume of this name that begins as the member; the sealed layer has no name.
    Clone(Name),
}

/// A member of a set that is to be cut.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NewMember {
    /// Which volume.
    pub volume: Selector<VolumeId>,
    /// What for.
    pub cut: NewCut,
}

/// Cuts volumes, all at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CreateSnapshots {
    /// Idempotency key.
    pub request: RequestId,
    /// 1 to [`SET_MEMBERS_MAX`], each of another volume.
    pub members: Vec<NewMember>,
    /// Seconds since 1970-01-01 UTC, kept for people.
    pub created_unix_seconds: u64,
    /// Whether holders freeze file systems meanwhile.
    pub fsfreeze: Fsfreeze,
    /// Do it although the pool is above its critical watermark.
    pub over_watermark: bool,
    /// Makes a group of this name of them; clones cannot be in one.
    pub group: Option<Name>,
}

/// What a member of a set is cut for, with the ids that were given.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum CutAs {
    /// This snapshot.
    Snapshot(SnapshotId),
    /// A clone.
    Clone {
        /// Its id; there is no such volume before the set is sealed.
        volume: VolumeId,
        /// Its name.
        name: Name,
    },
}

/// A member of a set.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SetMember {
    /// The volume.
    pub volume: VolumeId,
    /// What it is cut for.
    pub cut: CutAs,
    /// Who holds it, while the set is open.
    pub node: Option<NodeIncarnation>,
    /// How far it is, while the set is open.
    pub state: Option<MemberState>,
}

/// Why a set was aborted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SetAbort {
    /// A stable name; that of [`MemberFailed`] is the node's own.
    pub reason: Name,
    /// The member that it is about; nothing: all.
    pub volume: Option<VolumeId>,
}

impl fmt::Display for SetAbort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.volume {
            None => self.reason.fmt(f),
            Some(volume) => write!(f, "{} (volume {volume})", self.reason),
        }
    }
}

/// Snapshots and clones that are cut at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotSet {
    /// Its id.
    pub id: SnapshotSetId,
    /// The snapshots that there are, in the order of the request: Creating while the set is open,
    /// none when it is aborted.
    pub snapshots: Vec<Snapshot>,
    /// Where it is.
    pub state: SetState,
    /// Why it was aborted, if it was.
    pub abort: Option<SetAbort>,
    /// Whether holders freeze file systems meanwhile.
    pub fsfreeze: Fsfreeze,
    /// In the order of the request.
    pub members: Vec<SetMember>,
}

/// How far a set is, for a holder of a member.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SetProgress {
    /// Where it is.
    pub state: SetState,
    /// Why it was aborted, if it was.
    pub abort: Option<SetAbort>,
}

/// A member that its holder knows of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KnownMember {
    /// The set.
    pub set: SnapshotSetId,
    /// The volume.
    pub volume: VolumeId,
    /// Where the set is.
    pub set_state: SetState,
    /// Where the member is.
    pub state: MemberState,
}

/// A volume and its structure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChangedStructure {
    /// The volume.
    pub volume: VolumeId,
    /// Its structure.
    pub structure: StructureNumber,
}

/// Asks what there is for a node to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct WatchNode {
    /// Who asks.
    pub caller: NodeSession,
    /// The structures of attachments as the caller knows them; at most [`WATCHED_VOLUMES_MAX`].
    pub structures: Vec<ChangedStructure>,
    /// The members of the answer before; at most [`WATCHED_MEMBERS_MAX`].
    pub members: Vec<KnownMember>,
    /// The orders of the answer before; at most [`super::FENCE_LIST_MAX`].
    pub fences: Vec<FenceOrder>,
    /// The peers of the answer before; at most [`WATCHED_VOLUMES_MAX`].
    pub peers: Vec<KnownPeer>,
    /// The recalls of the answer before; at most [`WATCHED_VOLUMES_MAX`].
    pub recalls: Vec<Recall>,
}

/// A member of an open set that an incarnation holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OpenMember {
    /// The member and how far it is.
    pub member: KnownMember,
    /// Under which grant it is asked for.
    pub epoch: Epoch,
    /// Whether file systems are frozen meanwhile.
    pub fsfreeze: Fsfreeze,
}

/// What there is for a node to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeNews {
    /// All open members that the incarnation holds, at most [`WATCHED_MEMBERS_MAX`].
    pub members: Vec<OpenMember>,
    /// Volumes that the caller knows otherwise, as they are now.
    pub structures: Vec<ChangedStructure>,
    /// Victims that it is to cut off, at most [`super::FENCE_LIST_MAX`].
    pub fences: Vec<FenceOrder>,
    /// All volumes of which it is a peer, at most [`WATCHED_VOLUMES_MAX`].
    pub peers: Vec<KnownPeer>,
    /// What it is to detach, at most [`WATCHED_VOLUMES_MAX`].
    pub recalls: Vec<Recall>,
}

impl NodeNews {
    /// Whether this is more than what was known.
    #[must_use]
    pub fn is_news_to(&self, known: &WatchNode) -> bool {
        let now: BTreeSet<_> = self.members.iter().map(|it| it.member).collect();
        let fences: BTreeSet<_> = self.fences.iter().copied().collect();
        let peers: BTreeSet<_> = self.peers.iter().copied().collect();
        let recalls: BTreeSet<_> = self.recalls.iter().copied().collect();
        !self.structures.is_empty()
            || now != known.members.iter().copied().collect()
            || fences != known.fences.iter().copied().collect()
            || peers != known.peers.iter().copied().collect()
            || recalls != known.recalls.iter().copied().collect()
    }
}

/// Says that a member is warmed up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MemberReady {
    /// Who holds it.
    pub caller: NodeSession,
    /// The set.
    pub set: SnapshotSetId,
    /// The volume.
    pub volume: VolumeId,
    /// Under which epoch it is held.
    pub epoch: Epoch,
}

/// Says that a member cannot be cut.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct MemberFailed {
    /// Who holds it.
    pub caller: NodeSession,
    /// The set.
    pub set: SnapshotSetId,
    /// The volume.
    pub volume: VolumeId,
    /// Under which epoch it is held.
    pub epoch: Epoch,
    /// Why; becomes the reason of the set.
    pub why: Name,
}

/// The vote: the volume is paused, its head is in the map wholly, and nothing is written to it
/// before the set is known to be aborted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MemberPaused {
    /// Who holds it.
    pub caller: NodeSession,
    /// The set.
    pub set: SnapshotSetId,
    /// The volume.
    pub volume: VolumeId,
    /// Under which epoch it is held.
    pub epoch: Epoch,
    /// The number of the last commit under the grant.
    pub last_commit: CommitNumber,
    /// The last sequence number of the journal.
    pub checkpoint: JournalSeq,
    /// The attachment's next head.
    pub next_head: LayerId,
}

/// What came of a vote.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Vote {
    /// Others have not voted yet.
    Waiting,
    /// All members were cut.
    Sealed(SealedHead),
    /// None was.
    Aborted(SetAbort),
}
