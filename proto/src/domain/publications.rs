//! Publications: the leave of a controller for a node to attach a volume.

use std::fmt;

use lunar_types::{Name, NodeId, PublicationId, VolumeId};

use super::Selector;

/// How many nodes a volume is published to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PublicationMode {
    /// One alone.
    Single,
    /// Two, for a live migration.
    Migratable,
}

impl fmt::Display for PublicationMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Single => "single",
            Self::Migratable => "migratable",
        })
    }
}

/// The leave for a node to attach a volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Publication {
    /// The node attaches with it; never used again.
    pub id: PublicationId,
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub node_name: Name,
    /// Whether another node may have the volume too.
    pub mode: PublicationMode,
    /// Nothing is to be written under it; kept, not enforced.
    pub reads_only: bool,
    /// It grants nothing any more.
    pub recalled: bool,
    /// Since when, in seconds since 1970-01-01 UTC, for people.
    pub since: u64,
}

/// Gives a node the leave to attach a volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PublishVolume {
    /// The volume.
    pub volume: Selector<VolumeId>,
    /// The node.
    pub node: Selector<NodeId>,
    /// Whether another node may have the volume too.
    pub mode: PublicationMode,
    /// Nothing is to be written under it.
    pub reads_only: bool,
}

/// Takes publications of a volume back.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UnpublishVolume {
    /// The volume.
    pub volume: Selector<VolumeId>,
    /// Of this node, or of every one.
    pub node: Option<Selector<NodeId>>,
    /// Only these; none: whatever is there.
    pub only: Vec<PublicationId>,
}

/// A publication that is recalled, and still there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LeftPublication {
    /// The publication.
    pub publication: Publication,
    /// Who holds the volume, and what would take it from him.
    pub why: String,
}

/// A recalled publication of which a node still holds the volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Recall {
    /// The volume.
    pub volume: VolumeId,
    /// The publication.
    pub publication: PublicationId,
}
