//! Volumes that two nodes have for live migration.

use std::fmt;

use lunar_types::{
    CommitNumber, Epoch, Name, NodeId, NodeIncarnation, NodeSession, PublicationId, RequestId,
    VolumeId,
};

use super::{Attachment, DetachMode, Holder, Selector};

/// Most nodes that have a volume together.
pub const PEERS_MAX: usize = 2;

/// A node that has a device of a volume together with another one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Peer {
    /// The incarnation.
    pub node: NodeIncarnation,
    /// The name of its node.
    pub node_name: Name,
    /// Whether that incarnation is still there.
    pub live: bool,
    /// It has asked for the volume and waits for it.
    pub wishes: bool,
    /// Since when, in seconds since 1970-01-01 UTC, for people.
    pub since: u64,
}

/// How much a peer wants the volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum OwnershipWish {
    /// Not at all: it asks whether it owns it.
    None,
    /// Requests wait: when the owner's turn is over.
    Waiting,
    /// A person moves it: now.
    Urgent,
}

impl fmt::Display for OwnershipWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Waiting => "waiting",
            Self::Urgent => "urgent",
        })
    }
}

/// Makes the caller a peer of a volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AddPeer {
    /// The volume.
    pub volume: Selector<VolumeId>,
    /// Who asks.
    pub caller: NodeSession,
    /// As in [`super::Attach`].
    pub understands_layers: bool,
    /// As in [`super::Attach`].
    pub accept_restored: bool,
    /// As in [`super::Attach`].
    pub publication: Option<PublicationId>,
}

/// Asks for a volume of which the caller is a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestOwnership {
    /// The volume.
    pub volume: VolumeId,
    /// Who asks.
    pub caller: NodeSession,
    /// How much it is wanted.
    pub wish: OwnershipWish,
}

/// Who owns a volume, as a peer is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ownership {
    /// The caller, under this grant.
    Owned(Box<Attachment>),
    /// Somebody else.
    Waiting(Holder),
    /// Nobody: it goes to another peer first, or was not asked for.
    Unowned,
}

/// Gives a volume away, as a peer that stays one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReleaseOwnership {
    /// Idempotency key.
    pub request: RequestId,
    /// The volume.
    pub volume: VolumeId,
    /// Under which epoch it is owned.
    pub epoch: Epoch,
    /// Who owns it.
    pub caller: NodeSession,
    /// What becomes of the journal.
    pub mode: DetachMode,
    /// The number of the last commit under the grant; looked at when the journal is not kept.
    pub last_commit: CommitNumber,
}

/// The caller is no peer any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LeavePeers {
    /// The volume.
    pub volume: VolumeId,
    /// Who leaves.
    pub caller: NodeSession,
}

/// Another node is no peer any more.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RemovePeer {
    /// The volume.
    pub volume: Selector<VolumeId>,
    /// The node.
    pub node: Selector<NodeId>,
}

/// A volume of which a node is a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KnownPeer {
    /// The volume.
    pub volume: VolumeId,
    /// While that node owns it: what the other one wants.
    pub wish: OwnershipWish,
}
