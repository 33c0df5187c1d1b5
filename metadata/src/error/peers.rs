//! Errors of volumes that two nodes have together.

use lunar_proto::error::{ErrorReason, Facts};
use lunar_types::{Epoch, Name, NodeIncarnation, VolumeId};

/// What keeps a node from being a peer, or others from having a volume alone.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerError {
    /// Others have a device of it.
    #[error(
        "volume {volume} is attached with --migratable on {peers}, so it cannot be {wanted}: \
         detach it there first; a node that is lost is taken off with 'lunar volume detach \
         {volume} --peer NODE'"
    )]
    Shared {
        /// The volume.
        volume: VolumeId,
        /// The names of their nodes.
        peers: Names,
        /// What cannot be done.
        wanted: &'static str,
    },
    /// There is no room for another one.
    #[error(
        "volume {volume} is attached with --migratable on {peers}, and two nodes are the most: \
         detach it on one of them; a node that is lost is taken off with 'lunar volume detach \
         {volume} --peer NODE'"
    )]
    Full {
        /// The volume.
        volume: VolumeId,
        /// The names of their nodes.
        peers: Names,
    },
    /// It has no device of it.
    #[error(
        "{node} does not have volume {volume} with another node: attach it there with --migratable"
    )]
    NotFound {
        /// The volume.
        volume: VolumeId,
        /// Who.
        node: NodeIncarnation,
    },
    /// It owns it.
    #[error(
        "{node} owns volume {volume} under epoch {held}: detach it there, or move it to the other \
         node first; if that machine is lost, it is fenced"
    )]
    Owns {
        /// The volume.
        volume: VolumeId,
        /// Who.
        node: NodeIncarnation,
        /// Under which epoch.
        held: Epoch,
    },
}

/// The names of some nodes, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names(pub Vec<Name>);

impl std::fmt::Display for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            let join = if index > 0 { " and " } else { "" };
            write!(f, "{join}node '{name}'")?;
        }
        Ok(())
    }
}

impl PeerError {
    pub(super) const fn kind(&self) -> ErrorReason {
        match self {
            Self::Shared { .. } => ErrorReason::VolumeShared,
            Self::Full { .. } => ErrorReason::PeersFull,
            Self::NotFound { .. } => ErrorReason::PeerNotFound,
            Self::Owns { .. } => ErrorReason::PeerOwns,
        }
    }

    pub(super) fn facts(&self) -> Facts {
        let fact = |name: &str, value: &dyn ToString| (name.to_owned(), value.to_string());
        match self {
            Self::Shared { volume, peers, .. } | Self::Full { volume, peers } => {
                let names: Vec<_> = peers.0.iter().map(Name::to_string).collect();
                Facts::from([fact("volume", volume), fact("peers", &names.join(" "))])
            }
            Self::NotFound { volume, node } => {
                Facts::from([fact("volume", volume), fact("node", node)])
            }
            Self::Owns { volume, node, held } => {
                Facts::from([fact("volume", volume), fact("node", node), fact("epoch_held", held)])
            }
        }
    }
}
