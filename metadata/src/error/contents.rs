//! Errors of contents.

use lunar_proto::error::{ErrorReason, Facts};
use lunar_types::VolumeId;

/// Why no file system is made on a volume.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ContentError {
    /// It had content before.
    #[error(
        "volume {volume} was used: no file system is made on it any more; what is on it is kept"
    )]
    Used {
        /// The volume.
        volume: VolumeId,
    },
    /// Another attempt is the one that counts.
    #[error(
        "another attempt to make a file system on volume {volume} has begun since: begin again"
    )]
    OtherFormat {
        /// The volume.
        volume: VolumeId,
    },
    /// No attempt has begun.
    #[error("no attempt to make a file system on volume {volume} has begun: begin it first")]
    NotBegun {
        /// The volume.
        volume: VolumeId,
    },
}

impl ContentError {
    pub(super) const fn kind(&self) -> ErrorReason {
        match self {
            Self::Used { .. } => ErrorReason::ContentUsed,
            Self::OtherFormat { .. } | Self::NotBegun { .. } => ErrorReason::OtherFormat,
        }
    }

    pub(super) fn facts(&self) -> Facts {
        match self {
            Self::Used { volume } | Self::OtherFormat { volume } | Self::NotBegun { volume } => {
                Facts::from([("volume".to_owned(), volume.to_string())])
            }
        }
    }
}
