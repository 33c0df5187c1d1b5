//! Volumes that nodes have together: peers against volumes, nodes and owners.
//!
//! Nothing is repaired by itself: who is a peer decides whether a volume is given to a node alone.

use std::collections::{BTreeMap, BTreeSet};

use lunar_proto::domain::PEERS_MAX;
use lunar_types::{NodeIncarnation, VolumeId};

use super::inventory::{Inventory, walk_table};
use super::report::{FindingKind, Report};
use crate::error::ServiceError;
use crate::keyspace::{NodePeerKey, PeerKey};
use crate::store::Txn;

pub(super) async fn check<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let (mut peers, mut of_nodes) = (BTreeSet::new(), BTreeSet::new());
    walk_table(txn, |key: PeerKey, record| {
        let incarnation = record.incarnation;
        peers.insert((key.volume, NodeIncarnation { node: key.node, incarnation }));
    })
    .await?;
    walk_table(txn, |key: NodePeerKey, _| {
        let NodePeerKey { node, incarnation, volume } = key;
        of_nodes.insert((volume, NodeIncarnation { node, incarnation }));
    })
    .await?;
    check_peers(all, &peers, &of_nodes, report);
    check_migrations(all, &peers, report);
    Ok(())
}

type Peers = BTreeSet<(VolumeId, NodeIncarnation)>;

fn check_peers(all: &Inventory, peers: &Peers, of_nodes: &Peers, report: &mut Report<'_>) {
    for (volume, node) in peers.symmetric_difference(of_nodes) {
        let message = format!("{node} and volume {volume} disagree on whether it is a peer");
        let facts: &[(&str, &dyn ToString)] = &[("volume", volume), ("node", node)];
        report.find(FindingKind::PeerMismatch, message, facts);
    }
    for (volume, node) in peers {
        let facts: &[(&str, &dyn ToString)] = &[("volume", volume), ("node", node)];
        if !all.knows(*node) {
            let message = format!("{node} is a peer of volume {volume}: it never was");
            report.find(FindingKind::IncarnationUnknown, message, facts);
        }
        if !all.migrations.contains_key(volume) {
            let message = format!("{node} is a peer of volume {volume}, which nodes do not share");
            report.find(FindingKind::PeerMismatch, message, facts);
        }
    }
}

fn check_migrations(all: &Inventory, peers: &Peers, report: &mut Report<'_>) {
    let mut by_volume: BTreeMap<VolumeId, Vec<NodeIncarnation>> = BTreeMap::new();
    for (volume, node) in peers {
        by_volume.entry(*volume).or_default().push(*node);
    }
    for (volume, migration) in &all.migrations {
        let volume: &VolumeId = volume;
        let facts: &[(&str, &dyn ToString)] = &[("volume", volume)];
        let peers = by_volume.get(volume).map_or(&[][..], Vec::as_slice);
        if peers.is_empty() || peers.len() > PEERS_MAX || !all.volumes.contains_key(volume) {
            let count = peers.len();
            let message = format!("volume {volume} is shared by {count} nodes, or does not exist");
            report.find(FindingKind::PeerMismatch, message, facts);
        }
        let Some(held) = all.attachments.get(volume) else { continue };
        if !migration.spare_journal.is_empty() {
            let message = format!(
                "volume {volume} is owned by {} and has a journal to come beside the owner's",
                held.node
            );
            report.find(FindingKind::PeerMismatch, message, facts);
        }
        if all.is_live(held.node) && !peers.contains(&held.node) {
            let message =
                format!("volume {volume} has peers, and {} holds it and is none", held.node);
            report.find(FindingKind::PeerMismatch, message, facts);
        }
    }
}
