//! Whose space it is.

use lunar_types::{ExtentSize, SnapshotId, VolumeId};

use super::Selector;

/// What is asked about.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum UsageOf {
    /// A volume.
    Volume(Selector<VolumeId>),
    /// A snapshot.
    Snapshot(Selector<SnapshotId>),
}

/// Extents of a volume or snapshot, by who else needs them; as of the last commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// The size of an extent.
    pub extent_size: ExtentSize,
    /// What its own layer has.
    pub owned_extents: u64,
    /// What only it needs of that.
    pub unique_extents: u64,
    /// What its deletion returns: all that is unique, and what of the layer below only it had kept
    /// from being merged away.
    pub reclaimable_extents: u64,
    /// What it shows something of, and all that it owns.
    pub referenced_extents: u64,
    /// Merges or commits went on through all of several attempts.
    pub is_approximate: bool,
}

impl Usage {
    /// What others need too.
    #[must_use]
    pub const fn shared_extents(&self) -> u64 {
        self.referenced_extents.saturating_sub(self.unique_extents)
    }
}
