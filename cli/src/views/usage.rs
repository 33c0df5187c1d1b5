//! Whose space a volume or a snapshot uses.

use lunar_proto::domain::{Snapshot, Usage, Volume};
use serde::Serialize;

use super::size;
use crate::output::{Report, facts};

/// Figures of space.
#[derive(Serialize, Debug)]
struct UsageView {
    /// What its own layer has.
    owned_bytes: u64,
    /// What only it needs of that.
    unique_bytes: u64,
    /// What its deletion returns.
    reclaimable_bytes: u64,
    /// What others need too.
    shared_bytes: u64,
    /// Both together.
    referenced_bytes: u64,
    /// The map kept changing while it was read.
    is_approximate: bool,
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        let bytes = |extents: u64| extents.saturating_mul(usage.extent_size.bytes());
        Self {
            owned_bytes: bytes(usage.owned_extents),
            unique_bytes: bytes(usage.unique_extents),
            reclaimable_bytes: bytes(usage.reclaimable_extents),
            shared_bytes: bytes(usage.shared_extents()),
            referenced_bytes: bytes(usage.referenced_extents),
            is_approximate: usage.is_approximate,
        }
    }
}

impl UsageView {
    fn to_text(&self, name: &str, bytes: u64) -> String {
        let about = if self.is_approximate { "about " } else { "" };
        let text = |bytes| format!("{about}{}", size(bytes));
        facts(&[
            ("name", name.to_owned()),
            ("size", size(bytes)),
            ("owned", size(self.owned_bytes)),
            ("unique", text(self.unique_bytes)),
            ("reclaimable", text(self.reclaimable_bytes)),
            ("shared", text(self.shared_bytes)),
            ("referenced", text(self.referenced_bytes)),
        ])
    }
}

/// `lunar snapshot usage`.
#[derive(Serialize, Debug)]
pub struct SnapshotUsageView {
    snapshot_id: String,
    name: String,
    size_bytes: u64,
    #[serde(flatten)]
    usage: UsageView,
}

/// `lunar volume usage`.
#[derive(Serialize, Debug)]
pub struct VolumeUsageView {
    volume_id: String,
    name: String,
    size_bytes: u64,
    #[serde(flatten)]
    usage: UsageView,
}

impl SnapshotUsageView {
    /// The figures of a snapshot.
    #[must_use]
    pub fn new(snapshot: &Snapshot, usage: Usage) -> Self {
        Self {
            snapshot_id: snapshot.id.to_string(),
            name: snapshot.name.to_string(),
            size_bytes: snapshot.size.bytes(),
            usage: usage.into(),
        }
    }
}

impl VolumeUsageView {
    /// The figures of a volume.
    #[must_use]
    pub fn new(volume: &Volume, usage: Usage) -> Self {
        Self {
            volume_id: volume.id.to_string(),
            name: volume.name.to_string(),
            size_bytes: volume.size.bytes(),
            usage: usage.into(),
        }
    }
}

impl Report for SnapshotUsageView {
    fn to_text(&self) -> String {
        self.usage.to_text(&self.name, self.size_bytes)
    }
}

impl Report for VolumeUsageView {
    fn to_text(&self) -> String {
        self.usage.to_text(&self.name, self.size_bytes)
    }
}
