//! Groups of snapshots.

use lunar_proto::domain::{Snapshot, SnapshotGroup};
use serde::Serialize;

use super::time::utc;
use crate::output::{Report, table};

/// A snapshot of a group.
#[derive(Serialize, Debug)]
struct MemberView {
    snapshot_id: String,
    name: String,
    volume_id: String,
}

impl MemberView {
    fn new(snapshot: &Snapshot) -> Self {
        Self {
            snapshot_id: snapshot.id.to_string(),
            name: snapshot.name.to_string(),
            volume_id: snapshot.volume.to_string(),
        }
    }
}

/// A group.
#[derive(Serialize, Debug)]
pub struct GroupView {
    group_id: String,
    name: String,
    set_id: String,
    created_unix_seconds: u64,
    /// Those that were not deleted one by one.
    snapshots: Vec<MemberView>,
}

impl GroupView {
    /// A group.
    #[must_use]
    pub fn new(group: &SnapshotGroup) -> Self {
        Self {
            group_id: group.id.to_string(),
            name: group.name.to_string(),
            set_id: group.set.to_string(),
            created_unix_seconds: group.created_unix_seconds,
            snapshots: group.snapshots.iter().map(MemberView::new).collect(),
        }
    }

    fn row(&self) -> [String; 4] {
        let names: Vec<_> = self.snapshots.iter().map(|member| member.name.as_str()).collect();
        let created = utc(self.created_unix_seconds);
        [self.name.clone(), names.join(" "), created, self.group_id.clone()]
    }
}

/// `lunar snapshot groups`.
#[derive(Serialize, Debug)]
pub struct GroupList {
    groups: Vec<GroupView>,
}

impl GroupList {
    /// These groups, by name.
    #[must_use]
    pub fn new(mut groups: Vec<GroupView>) -> Self {
        groups.sort_by(|one, other| one.name.cmp(&other.name));
        Self { groups }
    }
}

impl Report for GroupList {
    fn to_text(&self) -> String {
        let rows = self.groups.iter().map(GroupView::row).collect();
        table(["NAME", "SNAPSHOTS", "CREATED", "ID"], rows, "no groups of snapshots")
    }
}

/// `lunar snapshot delete-group`.
#[derive(Serialize, Debug)]
pub struct GroupDeleteView {
    group_id: String,
    name: String,
    snapshots: usize,
}

impl GroupDeleteView {
    /// A group that is gone, with so many snapshots.
    #[must_use]
    pub fn new(group: &SnapshotGroup) -> Self {
        let snapshots = group.snapshots.len();
        Self { group_id: group.id.to_string(), name: group.name.to_string(), snapshots }
    }
}

impl Report for GroupDeleteView {
    fn to_text(&self) -> String {
        let Self { name, snapshots, .. } = self;
        format!("group '{name}' is gone; its {snapshots} snapshots are being deleted\n")
    }
}
