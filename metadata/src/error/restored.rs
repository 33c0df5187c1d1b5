//! Errors of a cluster that was restored from a backup.

use lunar_proto::error::{ErrorReason, Facts};
use lunar_types::VolumeId;

/// What has to be done before what a restore brought back is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoredError {
    /// A daemon of before may still write where it wrote then.
    #[error(
        "the metadata was restored from backup {backup}, and nobody has certified that no fs-core \
         of before runs: stop every one or fence its host, then certify it with 'lunar pool \
         release-quarantine' of each pool"
    )]
    NotCertified {
        /// The number of the backup.
        backup: u64,
        /// When it was restored, in seconds since 1970-01-01 UTC.
        restored: u64,
    },
    /// Its content may be of several times.
    #[error(
        "volume {volume} was restored from a backup and may be a mixture: blocks that were \
         overwritten in place since are there, what was written into new extents is lost; attach \
         it with --accept-restored and check what is on it, or go back to a snapshot"
    )]
    NotAccepted {
        /// The volume.
        volume: VolumeId,
    },
}

impl RestoredError {
    pub(super) fn kind(&self) -> ErrorReason {
        match self {
            Self::NotCertified { .. } => ErrorReason::RestoreNotCertified,
            Self::NotAccepted { .. } => ErrorReason::VolumeRestored,
        }
    }

    pub(super) fn facts(&self) -> Facts {
        let fact = |name: &str, value: &dyn ToString| (name.to_owned(), value.to_string());
        match self {
            Self::NotCertified { backup, restored } => {
                Facts::from([fact("backup", backup), fact("restored", restored)])
            }
            Self::NotAccepted { volume } => Facts::from([fact("volume", volume)]),
        }
    }
}
