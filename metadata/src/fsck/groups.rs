//! Groups of snapshots against their names and their snapshots.
//!
//! Nothing is repaired by itself: a group is deleted with its snapshots, and what is in it is
//! somebody's data.

use std::collections::{BTreeMap, BTreeSet};

use lunar_types::{SnapshotGroupId, SnapshotId};

use super::inventory::{Inventory, walk_table};
use super::report::{FindingKind, Report};
use crate::error::ServiceError;
use crate::keyspace::{SnapshotGroupKey, SnapshotGroupNameKey, SnapshotGroupRecord};
use crate::store::Txn;

pub(super) async fn check<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut groups = BTreeMap::new();
    walk_table(txn, |key: SnapshotGroupKey, record| {
        groups.insert(key.group, record);
    })
    .await?;
    let mut names = BTreeSet::new();
    walk_table(txn, |key: SnapshotGroupNameKey, record| {
        names.insert((key.name, record.group));
    })
    .await?;
    let own = groups.iter().map(|(group, record)| (record.name.clone(), *group)).collect();
    for (name, group) in names.symmetric_difference(&own) {
        let message =
            format!("the name '{name}' and the group of snapshots {group} do not name each other");
        let facts: &[(&str, &dyn ToString)] = &[("name", name), ("group", group)];
        report.find(FindingKind::GroupMismatch, message, facts);
    }
    check_members(all, &groups, report);
    Ok(())
}

/// What groups list against what snapshots say.
fn check_members(
    all: &Inventory,
    groups: &BTreeMap<SnapshotGroupId, SnapshotGroupRecord>,
    report: &mut Report<'_>,
) {
    let listed: BTreeSet<(SnapshotGroupId, SnapshotId)> = groups
        .iter()
        .flat_map(|(group, record)| record.members.iter().map(|member| (*group, *member)))
        .collect();
    let said = all.snapshots.iter();
    let said: BTreeSet<(SnapshotGroupId, SnapshotId)> =
        said.filter_map(|(snapshot, record)| Some((record.group?, *snapshot))).collect();
    for (group, snapshot) in listed.symmetric_difference(&said) {
        let message = format!(
            "snapshot {snapshot} and the group of snapshots {group} do not name each other"
        );
        let facts: &[(&str, &dyn ToString)] = &[("snapshot", snapshot), ("group", group)];
        report.find(FindingKind::GroupMismatch, message, facts);
    }
}
