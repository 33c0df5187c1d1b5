//! Groups of snapshots.

use lunar_types::{Name, RequestId, SnapshotGroupId, SnapshotSetId};

use super::{Selector, Snapshot};

/// Snapshots that were cut at one moment and are kept as one thing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SnapshotGroup {
    /// Its id.
    pub id: SnapshotGroupId,
    /// Its name.
    pub name: Name,
    /// Seconds since 1970-01-01 UTC on the caller's clock, for people.
    pub created_unix_seconds: u64,
    /// Its snapshots, without those that were deleted one by one.
    pub snapshots: Vec<Snapshot>,
    /// The set that cuts, or has cut, them.
    pub set: SnapshotSetId,
}

/// Starts the deletion of all snapshots of a group.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DeleteGroup {
    /// Idempotency key.
    pub request: RequestId,
    /// The group.
    pub group: Selector<SnapshotGroupId>,
}
