//! Errors of publications.

use lunar_proto::error::{ErrorReason, Facts};
use lunar_types::{Name, VolumeId};

use super::Names;

/// What keeps a volume from being published, or a node from attaching what is published.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PublicationError {
    /// Another node has it.
    #[error(
        "volume {volume} is published to {nodes}, so it cannot be {wanted}: unpublish it there \
         first; 'lunar explain volume {volume}' says what holds it"
    )]
    Published {
        /// The volume.
        volume: VolumeId,
        /// Where.
        nodes: Names,
        /// What cannot be done.
        wanted: &'static str,
    },
    /// The node has it in another way.
    #[error(
        "volume {volume} is published to node '{node}' as {there}, not as {wanted}: unpublish it \
         there first"
    )]
    Otherwise {
        /// The volume.
        volume: VolumeId,
        /// The node.
        node: Name,
        /// How it is published.
        there: String,
        /// How it is asked for.
        wanted: String,
    },
    /// It is being taken back.
    #[error(
        "the publication of volume {volume} to node '{node}' is recalled: try again when it is gone"
    )]
    Recalled {
        /// The volume.
        volume: VolumeId,
        /// The node.
        node: Name,
    },
    /// The node has no leave, or one that was taken back.
    #[error(
        "volume {volume} is not published to this node under the id that was given: it is \
         published to {nodes}"
    )]
    NotPublished {
        /// The volume.
        volume: VolumeId,
        /// Where it is published.
        nodes: Names,
    },
    /// There is no leave at all, and one was named.
    #[error(
        "volume {volume} is published to no node: the publication that was given was taken back"
    )]
    Unpublished {
        /// The volume.
        volume: VolumeId,
    },
}

impl PublicationError {
    pub(super) const fn kind(&self) -> ErrorReason {
        match self {
            Self::Published { .. } => ErrorReason::VolumePublished,
            Self::Otherwise { .. } => ErrorReason::PublishedOtherwise,
            Self::Recalled { .. } => ErrorReason::VolumeRecalled,
            Self::NotPublished { .. } | Self::Unpublished { .. } => ErrorReason::NotPublished,
        }
    }

    pub(super) fn facts(&self) -> Facts {
        let fact = |name: &str, value: &dyn ToString| (name.to_owned(), value.to_string());
        match self {
            Self::Published { volume, nodes, .. } | Self::NotPublished { volume, nodes } => {
                let names: Vec<_> = nodes.0.iter().map(Name::to_string).collect();
                Facts::from([fact("volume", volume), fact("nodes", &names.join(" "))])
            }
            Self::Otherwise { volume, node, .. } | Self::Recalled { volume, node } => {
                Facts::from([fact("volume", volume), fact("node", node)])
            }
            Self::Unpublished { volume } => Facts::from([fact("volume", volume)]),
        }
    }
}
