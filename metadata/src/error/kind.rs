//! The reason of an error: its stable word, for programs.

use lunar_proto::error::ErrorReason;

use super::ServiceError;
use crate::store::StoreError;

impl ServiceError {
    /// Why, for programs.
    #[must_use]
    pub fn kind(&self) -> ErrorReason {
        match self {
            Self::Restored(error) => error.kind(),
            Self::Fencing(error) => error.kind(),
            Self::Peer(error) => error.kind(),
            Self::Publication(error) => error.kind(),
            Self::Content(error) => error.kind(),
            Self::Group(error) => error.kind(),
            Self::Field(_) => ErrorReason::InvalidField,
            Self::RequestIdReused { .. } => ErrorReason::RequestIdReused,
            Self::PoolNotFound { .. } => ErrorReason::PoolNotFound,
            Self::VolumeNotFound { .. } => ErrorReason::VolumeNotFound,
            Self::LayerNotFound { .. } => ErrorReason::LayerNotFound,
            Self::SnapshotNotFound { .. } => ErrorReason::SnapshotNotFound,
            Self::SnapshotExists { .. } => ErrorReason::SnapshotExists,
            Self::SnapshotNotReady { .. } => ErrorReason::SnapshotNotReady,
            Self::SnapshotOfOtherVolume { .. } => ErrorReason::SnapshotOfOtherVolume,
            Self::SnapshotsUnrelated { .. } => ErrorReason::SnapshotsUnrelated,
            Self::VolumeNotAtRest { .. } => ErrorReason::VolumeNotAtRest,
            Self::VolumeBusy { .. } => ErrorReason::VolumeBusy,
            Self::SetNotFound { .. } => ErrorReason::SetNotFound,
            Self::SetDecided { .. } => ErrorReason::SetDecided,
            Self::NodeTooOld { .. } => ErrorReason::NodeTooOld,
            Self::NextHeadMismatch { .. } => ErrorReason::NextHeadMismatch,
            Self::ChainTooDeep { .. } => ErrorReason::ChainTooDeep,
            Self::NodeNotFound { .. } => ErrorReason::NodeNotFound,
            Self::JournalNotFound { .. } => ErrorReason::JournalNotFound,
            Self::PoolExists { .. } => ErrorReason::PoolExists,
            Self::VolumeExists { .. } => ErrorReason::VolumeExists,
            Self::LunInUse { .. } | Self::LunTwice { .. } => ErrorReason::LunInUse,
            Self::LunBlockSize { .. } | Self::VolumeBlockSize { .. } => ErrorReason::LunBlockSize,
            Self::VolumeNotReady { .. } => ErrorReason::VolumeNotReady,
            Self::VolumeWouldShrink { .. } => ErrorReason::VolumeWouldShrink,
            Self::VolumeTooLarge { .. } => ErrorReason::VolumeTooLarge,
            Self::VolumeAttached { .. } => ErrorReason::VolumeAttached,
            Self::NotAttached { .. } => ErrorReason::NotAttached,
            Self::StaleEpoch { .. } => ErrorReason::StaleEpoch,
            Self::NodeFenced { .. } => ErrorReason::NodeFenced,
            Self::StaleSession { .. } => ErrorReason::StaleSession,
            Self::NodeAlive { .. } => ErrorReason::NodeAlive,
            Self::NodeHoldsAttachments { .. } => ErrorReason::NodeHoldsAttachments,
            Self::StaleJournals { .. } => ErrorReason::StaleJournals,
            Self::LayerNotWritable { .. } => ErrorReason::LayerNotWritable,
            Self::ExtentNotReserved { .. } => ErrorReason::ExtentNotReserved,
            Self::ExtentHeldForBackup { .. } => ErrorReason::ExtentHeldForBackup,
            Self::BackupNotFound { .. } => ErrorReason::BackupNotFound,
            Self::CommitOutOfOrder { .. } => ErrorReason::CommitOutOfOrder,
            Self::CheckpointRegression { .. } => ErrorReason::CheckpointRegression,
            Self::FindingsChanged { .. } => ErrorReason::FindingsChanged,
            Self::PoolFull { .. } => ErrorReason::PoolFull,
            Self::PoolWatermark { .. } => ErrorReason::PoolWatermark,
            Self::LimitReached { .. } => ErrorReason::LimitReached,
            Self::Store(StoreError::Failed { .. }) => ErrorReason::StoreFailed,
            Self::Store(_) => ErrorReason::StoreBusy,
            Self::Corrupt { .. } => ErrorReason::StoreCorrupt,
        }
    }
}
