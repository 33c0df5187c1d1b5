//! Registrations and fences against nodes and LUNs.
//!
//! What is wrong here decides whether a grant is safe, so nothing is repaired by itself: a finding
//! says what an operator can do.

use std::collections::{BTreeMap, BTreeSet};

use lunar_proto::domain::{FenceLunState, NodeState};
use lunar_types::{LunId, NodeIncarnation};

use super::holders::{self, Registrations};
use super::inventory::{Inventory, walk_table};
use super::report::{FindingKind, Report};
use crate::error::ServiceError;
use crate::keyspace::{FenceLunKey, LunRegistrationKey, NodeRegistrationKey};
use crate::store::Txn;

/// The LUNs of fences, and how far each is.
type FenceRows = BTreeMap<(NodeIncarnation, LunId), FenceLunState>;

pub(super) async fn check<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let (mut at_luns, mut of_nodes) = (Registrations::new(), BTreeSet::new());
    walk_table(txn, |key: LunRegistrationKey, record| {
        at_luns.insert((key.lun, key.node), record);
    })
    .await?;
    walk_table(txn, |key: NodeRegistrationKey, _| {
        of_nodes
            .insert((NodeIncarnation { node: key.node, incarnation: key.incarnation }, key.lun));
    })
    .await?;
    check_registrations(all, &at_luns, &of_nodes, report);
    let mut rows = FenceRows::new();
    walk_table(txn, |key: FenceLunKey, row| {
        let victim = NodeIncarnation { node: key.node, incarnation: key.incarnation };
        rows.insert((victim, key.lun), row.state);
    })
    .await?;
    check_fences(all, report);
    check_rows(all, &rows, &of_nodes, report);
    holders::check(txn, all, &at_luns, report).await
}

fn check_registrations(
    all: &Inventory,
    at_luns: &Registrations,
    of_nodes: &BTreeSet<(NodeIncarnation, LunId)>,
    report: &mut Report<'_>,
) {
    let known: BTreeSet<LunId> = all.luns.values().map(|lun| lun.id).collect();
    for ((lun, node), registered) in at_luns {
        let of = NodeIncarnation { node: *node, incarnation: registered.incarnation };
        let facts: &[(&str, &dyn ToString)] = &[("lun", lun), ("node", &of)];
        if !all.knows(of) {
            let message = format!("{of} is registered at LUN {lun}: that incarnation never was");
            report.find(FindingKind::IncarnationUnknown, message, facts);
        }
        if !known.contains(lun) {
            let message = format!("{of} is registered at LUN {lun}, which is in no pool");
            report.find(FindingKind::RegistrationMismatch, message, facts);
        }
        if !of_nodes.contains(&(of, *lun)) {
            let message =
                format!("{of} is registered at LUN {lun}, and a fence of it would leave that out");
            report.find(FindingKind::RegistrationMismatch, message, facts);
        }
    }
    for (of, lun) in of_nodes {
        let held = at_luns.get(&(*lun, of.node));
        // A fence keeps its victim's list, whatever its node has done since.
        let is_fenced = all.fences.contains_key(of);
        if !is_fenced && held.is_none_or(|held| held.incarnation < of.incarnation) {
            let message = format!("the registrations of {of} name LUN {lun}, where it has none");
            let facts: &[(&str, &dyn ToString)] = &[("lun", lun), ("node", of)];
            report.find(FindingKind::RegistrationMismatch, message, facts);
        }
    }
}

fn check_fences(all: &Inventory, report: &mut Report<'_>) {
    for (victim, fence) in &all.fences {
        let facts: &[(&str, &dyn ToString)] = &[("node", victim)];
        let Some(node) = all.nodes.get(&victim.node).filter(|_| all.knows(*victim)) else {
            let message = format!("{victim} is fenced: that incarnation never was");
            report.find(FindingKind::IncarnationUnknown, message, facts);
            continue;
        };
        let is_newest = node.incarnation == victim.incarnation;
        let fits = match (is_newest, fence.is_complete) {
            (true, false) => node.state == NodeState::Fencing,
            (true, true) => node.state == NodeState::Fenced,
            (false, is_complete) => !is_complete,
        };
        if !fits {
            let how = if fence.is_complete { "complete" } else { "under way" };
            let message = format!(
                "the fence of {victim} is {how}, and its node is {} as incarnation {}: certify \
                 that the machine is off, or start it again",
                node.state, node.incarnation
            );
            report.find(FindingKind::FenceMismatch, message, facts);
        }
    }
    for (id, node) in &all.nodes {
        let newest = NodeIncarnation { node: *id, incarnation: node.incarnation };
        if node.state == NodeState::Fencing && !all.fences.contains_key(&newest) {
            let message = format!(
                "{newest} is FENCING, and no fence is under way: certify that the machine is off"
            );
            report.find(FindingKind::FenceMismatch, message, &[("node", &newest)]);
        }
    }
}

/// The rows of a fence are all LUNs where the victim was registered, all of them are done when it
/// is complete, and no row is without a fence.
fn check_rows(
    all: &Inventory,
    rows: &FenceRows,
    of_nodes: &BTreeSet<(NodeIncarnation, LunId)>,
    report: &mut Report<'_>,
) {
    for ((victim, lun), state) in rows {
        let facts: &[(&str, &dyn ToString)] = &[("lun", lun), ("node", victim)];
        let Some(fence) = all.fences.get(victim) else {
            let message = format!("{victim} is to be cut off from LUN {lun} without a fence");
            report.find(FindingKind::FenceMismatch, message, facts);
            continue;
        };
        if fence.is_complete && !matches!(state, FenceLunState::Done(_)) {
            let message = format!(
                "the fence of {victim} is complete, and nobody has proven that it is cut off from \
                 LUN {lun}: certify that the machine is off, or start it again"
            );
            report.find(FindingKind::FenceMismatch, message, facts);
        }
    }
    for (of, lun) in of_nodes {
        if all.fences.contains_key(of) && !rows.contains_key(&(*of, *lun)) {
            let message = format!("the fence of {of} leaves LUN {lun} out, where it may write");
            let facts: &[(&str, &dyn ToString)] = &[("lun", lun), ("node", of)];
            report.find(FindingKind::FenceMismatch, message, facts);
        }
    }
}
