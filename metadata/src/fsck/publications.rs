//! Publications against volumes, nodes and holders.
//!
//! Nothing is repaired by itself: a publication decides who is granted a volume. `lunar volume
//! unpublish` takes one back.

use std::collections::{BTreeMap, BTreeSet};

use lunar_proto::domain::{PEERS_MAX, PublicationMode};
use lunar_types::{NodeId, VolumeId};

use super::inventory::{Inventory, walk_table};
use super::report::{FindingKind, Report};
use crate::error::ServiceError;
use crate::keyspace::{PublicationKey, PublicationRecord, RecallKey};
use crate::store::Txn;

type Rows = BTreeMap<VolumeId, Vec<(NodeId, PublicationRecord)>>;

pub(super) async fn check<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut rows = Rows::new();
    walk_table(txn, |key: PublicationKey, record| {
        rows.entry(key.volume).or_default().push((key.node, record));
    })
    .await?;
    let mut recalls = BTreeSet::new();
    walk_table(txn, |RecallKey { node, volume }, _| {
        recalls.insert((volume, node));
    })
    .await?;
    check_recalls(&rows, &recalls, report);
    for (volume, rows) in &rows {
        check_volume(all, *volume, rows, report);
    }
    Ok(())
}

fn check_recalls(rows: &Rows, recalls: &BTreeSet<(VolumeId, NodeId)>, report: &mut Report<'_>) {
    let recalled: BTreeSet<_> = rows
        .iter()
        .flat_map(|(volume, rows)| rows.iter().map(move |row| (*volume, row)))
        .filter(|(_, (_, record))| record.recalled)
        .map(|(volume, (node, _))| (volume, *node))
        .collect();
    for (volume, node) in recalled.symmetric_difference(recalls) {
        let message = format!(
            "the publication of volume {volume} to node {node} is recalled in one place and not in \
             another"
        );
        let facts: &[(&str, &dyn ToString)] = &[("volume", volume), ("node", node)];
        report.find(FindingKind::PublicationMismatch, message, facts);
    }
}

fn check_volume(
    all: &Inventory,
    volume: VolumeId,
    rows: &[(NodeId, PublicationRecord)],
    report: &mut Report<'_>,
) {
    let facts: &[(&str, &dyn ToString)] = &[("volume", &volume)];
    if !all.volumes.contains_key(&volume) {
        let message = format!("volume {volume} is published and does not exist");
        report.find(FindingKind::PublicationMismatch, message, facts);
    }
    for (node, _) in rows.iter().filter(|(node, _)| !all.nodes.contains_key(node)) {
        let message = format!("volume {volume} is published to node {node}, which does not exist");
        report.find(FindingKind::PublicationMismatch, message, facts);
    }
    let is_single = rows.iter().any(|(_, record)| record.mode == PublicationMode::Single);
    let most = if is_single { 1 } else { PEERS_MAX };
    if rows.len() > most {
        let message = format!("volume {volume} is published to {} nodes at once", rows.len());
        report.find(FindingKind::PublicationMismatch, message, facts);
    }
    if let Some(held) = all.attachments.get(&volume)
        && all.is_live(held.node)
        && !rows.iter().any(|(node, _)| *node == held.node.node)
    {
        let message = format!("volume {volume} is published to others, and {} holds it", held.node);
        report.find(FindingKind::PublicationMismatch, message, facts);
    }
}
