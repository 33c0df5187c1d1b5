//! Names, indices, heads and epochs against each other.

use std::collections::{BTreeMap, BTreeSet};

use lunar_proto::domain::{OperationWork, SnapshotState, VolumeState};
use lunar_types::{Epoch, LayerId, Name, NodeIncarnation, VolumeId};

use super::inventory::{Inventory, walk_table};
use super::repair::{Named, Repair, raised_epoch};
use super::report::{FindingKind, Remedy, Report};
use crate::error::ServiceError;
use crate::keyspace::{
    AttachmentRecord, Counter, CounterKey, LayerName, LunOwnerKey, NodeAttachmentKey, NodeNameKey,
    NodeStaleJournalKey, OperationKey, PoolNameKey, PoolVolumeKey, SnapshotNameKey, VolumeNameKey,
};
use crate::store::Txn;

pub(super) async fn check<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    check_names(txn, all, report).await?;
    check_luns(txn, all, report).await?;
    check_volumes(all, report);
    check_heads(all, report);
    check_pool_volumes(txn, all, report).await?;
    check_sessions(all, report);
    check_attachments(all, report);
    check_next_heads(all, report);
    check_node_lists(txn, all, report).await?;
    check_operations(txn, all, report).await?;
    check_counters(txn, all, report).await
}

/// Compares what names point to with the names that objects have.
fn compare_names<I: Copy + Ord + ToString + Into<Named>>(
    what: &str,
    named: &BTreeMap<Name, I>,
    objects: &BTreeMap<I, Name>,
    report: &mut Report<'_>,
) {
    for (name, id) in named {
        if objects.get(id) != Some(name) {
            let repair = Repair::ForgetName { name: name.clone(), object: (*id).into() };
            let id = id.to_string();
            let message = format!("{what} name '{name}' points to {id}, which is not named so");
            let facts: &[(&str, &dyn ToString)] = &[("name", name), (what, &id)];
            report.find_with(FindingKind::NameMismatch, message, facts, Ok(repair));
        }
    }
    for (id, name) in objects {
        let other = named.get(name);
        if other != Some(id) {
            let is_taken = other.is_some_and(|other| objects.get(other) == Some(name));
            let remedy = match is_taken {
                false => Ok(Repair::EnterName { name: name.clone(), object: (*id).into() }),
                true => Err("another one has this name and is found by it: use the id, copy what \
                             is needed, and delete one of them"
                    .to_owned()),
            };
            let id = id.to_string();
            let message = format!("{what} {id} cannot be found by its name '{name}'");
            let facts: &[(&str, &dyn ToString)] = &[("name", name), (what, &id)];
            report.find_with(FindingKind::NameMismatch, message, facts, remedy);
        }
    }
}

async fn check_names<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut pools = BTreeMap::new();
    walk_table(txn, |key: PoolNameKey, record| {
        pools.insert(key.name, record.pool);
    })
    .await?;
    let objects = all.pools.iter().map(|(id, pool)| (*id, pool.name.clone())).collect();
    compare_names("pool", &pools, &objects, report);

    let mut volumes = BTreeMap::new();
    walk_table(txn, |key: VolumeNameKey, record| {
        volumes.insert(key.name, record.volume);
    })
    .await?;
    let with_name = all.volumes.iter().filter(|(_, it)| it.state != VolumeState::Deleting);
    let objects = with_name.map(|(id, volume)| (*id, volume.name.clone())).collect();
    compare_names("volume", &volumes, &objects, report);

    let mut snapshots = BTreeMap::new();
    walk_table(txn, |key: SnapshotNameKey, record| {
        snapshots.insert(key.name, record.snapshot);
    })
    .await?;
    let with_name = all.snapshots.iter().filter(|(_, it)| it.state != SnapshotState::Deleting);
    let objects = with_name.map(|(id, snapshot)| (*id, snapshot.name.clone())).collect();
    compare_names("snapshot", &snapshots, &objects, report);

    let mut nodes = BTreeMap::new();
    walk_table(txn, |key: NodeNameKey, record| {
        nodes.insert(key.name, record.node);
    })
    .await?;
    let objects = all.nodes.iter().map(|(id, node)| (*id, node.name.clone())).collect();
    compare_names("node", &nodes, &objects, report);
    Ok(())
}

async fn check_luns<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut owners = BTreeMap::new();
    walk_table(txn, |key: LunOwnerKey, record| {
        owners.insert(key.lun, (record.pool, record.index));
    })
    .await?;
    for (lun, place) in &owners {
        if all.luns.get(place).is_none_or(|record| record.id != *lun) {
            let (pool, index) = place;
            let message = format!("LUN {lun} is not LUN {index} of pool {pool} as its owner says");
            report.find(FindingKind::LunMismatch, message, &[("lun", lun), ("pool", pool)]);
        }
    }
    for ((pool, index), lun) in &all.luns {
        let facts: &[(&str, &dyn ToString)] = &[("lun", &lun.id), ("pool", pool)];
        let name = format!("LUN {} ({index} of pool {pool})", lun.id);
        if owners.get(&lun.id) != Some(&(*pool, *index)) {
            let message = format!("{name} cannot be found by its id");
            report.find(FindingKind::LunMismatch, message, facts);
        }
        let Some(record) = all.pools.get(pool) else {
            report.find(FindingKind::LunMismatch, format!("{name}: no such pool"), facts);
            continue;
        };
        let extents = record.extent_size.data_extents(lun.size.get());
        if index.get() >= record.luns || lun.data_extents != extents {
            let message = format!(
                "{name} has {} extents where its size gives {extents}, pool has {} LUNs",
                lun.data_extents, record.luns
            );
            report.find(FindingKind::LunMismatch, message, facts);
        }
    }
    Ok(())
}

fn check_volumes(all: &Inventory, report: &mut Report<'_>) {
    for (volume, record) in &all.volumes {
        if !all.pools.contains_key(&record.pool) {
            let message = format!("volume {volume} is in pool {}, which is unknown", record.pool);
            let facts: &[(&str, &dyn ToString)] = &[("volume", volume), ("pool", &record.pool)];
            report.find(FindingKind::VolumePoolUnknown, message, facts);
        }
        let head = all.layers.get(&record.head);
        let fits = head.is_some_and(|layer| {
            layer.name == LayerName::Head(*volume) && layer.pool == record.pool && !layer.sealed
        });
        if !fits {
            let message = format!(
                "volume {volume} has head layer {}, which is not a writable layer of it",
                record.head
            );
            let facts: &[(&str, &dyn ToString)] = &[("volume", volume), ("layer", &record.head)];
            report.find(FindingKind::VolumeHeadInvalid, message, facts);
        }
    }
}

/// A head is one volume's, and what is being deleted is held by nobody.
fn check_heads(all: &Inventory, report: &mut Report<'_>) {
    let mut heads: BTreeMap<LayerId, VolumeId> = BTreeMap::new();
    for (volume, record) in &all.volumes {
        if let Some(first) = heads.insert(record.head, *volume) {
            let head = record.head;
            let message = format!(
                "layer {head} is the head of volume {first} and of volume {volume}: each would \
                 write over the other"
            );
            let facts: &[(&str, &dyn ToString)] =
                &[("layer", &head), ("volume", volume), ("other_volume", &first)];
            report.find(FindingKind::HeadShared, message, facts);
        }
        let held = all.attachments.get(volume);
        let Some(held) = held.filter(|_| record.state == VolumeState::Deleting) else { continue };
        let message = format!(
            "volume {volume} is Deleting, and {} holds it under epoch {}",
            held.node, held.epoch
        );
        let facts: &[(&str, &dyn ToString)] =
            &[("volume", volume), ("node", &held.node), ("epoch", &held.epoch)];
        report.find(FindingKind::DeletingAttached, message, facts);
    }
}

/// Each grant has a next head of its own, also when it has become a stale journal.
fn check_next_heads(all: &Inventory, report: &mut Report<'_>) {
    let current = all.attachments.iter().map(|(volume, it)| (it.next_head, *volume, it.epoch));
    let stale = all.stale_journals.iter();
    let stale = stale.map(|((volume, epoch), it)| (it.next_head, *volume, *epoch));
    let mut given: BTreeMap<LayerId, (VolumeId, Epoch)> = BTreeMap::new();
    for (next_head, volume, epoch) in current.chain(stale) {
        let Some((other, other_epoch)) = given.insert(next_head, (volume, epoch)) else { continue };
        let message = format!(
            "layer {next_head} is the next head of volume {other} under epoch {other_epoch}, and \
             of volume {volume} under epoch {epoch}"
        );
        let facts: &[(&str, &dyn ToString)] =
            &[("next_head", &next_head), ("volume", &volume), ("other_volume", &other)];
        report.find(FindingKind::NextHeadShared, message, facts);
    }
}

async fn check_pool_volumes<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut listed = BTreeSet::new();
    walk_table(txn, |key: PoolVolumeKey, record| {
        listed.insert((key.pool, key.volume, record.size.bytes()));
    })
    .await?;
    let actual: BTreeSet<_> =
        all.volumes.iter().map(|(id, volume)| (volume.pool, *id, volume.size.bytes())).collect();
    for (pool, volume, size) in listed.symmetric_difference(&actual) {
        let message = format!(
            "pool {pool} and volume {volume} of {size} B disagree on whether it is in the pool"
        );
        let facts: &[(&str, &dyn ToString)] = &[("pool", pool), ("volume", volume)];
        report.find(FindingKind::PoolVolumeMismatch, message, facts);
    }
    Ok(())
}

/// Each incarnation began with a join, and each join has a session of its own.
fn check_sessions(all: &Inventory, report: &mut Report<'_>) {
    for (node, record) in &all.nodes {
        let (session, incarnation) = (record.session, record.incarnation);
        if session.get() < u64::from(incarnation.get()) {
            let message = format!(
                "node {node} is in incarnation {incarnation}, but only in session {session}"
            );
            let facts: &[(&str, &dyn ToString)] =
                &[("node", node), ("incarnation", &incarnation), ("session", &session)];
            report.find(FindingKind::SessionBehind, message, facts);
        }
    }
}

/// Before the first commit there is no request and no checkpoint.
fn check_last_commit(volume: VolumeId, held: &AttachmentRecord, report: &mut Report<'_>) {
    let AttachmentRecord { last_commit, last_request, checkpoint, .. } = held;
    let is_fresh = last_request.as_u128() == 0 && checkpoint.get() == 0;
    if last_commit.get() > 0 || is_fresh {
        return;
    }
    let message = format!(
        "volume {volume} has checkpoint {checkpoint}, its last commit is number {last_commit} \
         of request {last_request}"
    );
    let facts: &[(&str, &dyn ToString)] = &[
        ("volume", &volume),
        ("checkpoint", checkpoint),
        ("commit", last_commit),
        ("request", last_request),
    ];
    report.find(FindingKind::CommitNumberInvalid, message, facts);
}

/// Checks one grant or journal: its volume, its writer.
fn check_writer(
    all: &Inventory,
    what: &str,
    volume: VolumeId,
    epoch: Epoch,
    node: NodeIncarnation,
    report: &mut Report<'_>,
) {
    let facts: &[(&str, &dyn ToString)] =
        &[("volume", &volume), ("epoch", &epoch), ("node", &node)];
    let name = format!("{what} of volume {volume} under epoch {epoch} by {node}");
    if !all.knows(node) {
        let message = format!("{name}: that incarnation never was");
        report.find(FindingKind::IncarnationUnknown, message, facts);
    }
    if !all.volumes.contains_key(&volume) {
        let message = format!("{name}: there is no such volume");
        report.find(FindingKind::AttachmentOrphan, message, facts);
    }
}

/// The next head of a grant is younger than the head and does not exist; that of a stale journal
/// may have become the head.
fn check_next_head(
    all: &Inventory,
    what: &str,
    volume: VolumeId,
    (next_head, may_be_head): (LayerId, bool),
    report: &mut Report<'_>,
) {
    let Some(record) = all.volumes.get(&volume) else { return };
    let is_head = may_be_head && next_head == record.head;
    if is_head || (next_head > record.head && !all.layers.contains_key(&next_head)) {
        return;
    }
    let message = format!(
        "the {what} of volume {volume} has next head {next_head}, and the head is {}",
        record.head
    );
    let facts: &[(&str, &dyn ToString)] =
        &[("volume", &volume), ("layer", &record.head), ("next_head", &next_head)];
    report.find(FindingKind::LayerOrder, message, facts);
}

/// What makes the epochs of a volume rise again.
fn epoch_remedy(all: &Inventory, volume: VolumeId) -> Remedy {
    let Some(record) = all.volumes.get(&volume) else {
        return Err(FindingKind::EpochInversion.why_not().to_owned());
    };
    let held = all.attachments.get(&volume).map(|held| held.epoch);
    let stale = (volume, Epoch::new(0))..=(volume, Epoch::new(u64::MAX));
    let stale = all.stale_journals.range(stale).next_back().map(|((_, epoch), _)| *epoch);
    match raised_epoch(record.epoch, held, stale) {
        Ok(_) => Ok(Repair::RaiseEpoch { volume }),
        Err(why) => Err(why.to_owned()),
    }
}

fn check_attachments(all: &Inventory, report: &mut Report<'_>) {
    for (volume, held) in &all.attachments {
        check_writer(all, "attachment", *volume, held.epoch, held.node, report);
        check_last_commit(*volume, held, report);
        check_next_head(all, "attachment", *volume, (held.next_head, false), report);
        let given = all.volumes.get(volume).map_or(held.epoch, |record| record.epoch);
        if given != held.epoch {
            let message = format!(
                "volume {volume} was granted up to epoch {given}, it is held under {}",
                held.epoch
            );
            let facts: &[(&str, &dyn ToString)] =
                &[("volume", volume), ("epoch", &given), ("epoch_held", &held.epoch)];
            let remedy = epoch_remedy(all, *volume);
            report.find_with(FindingKind::EpochInversion, message, facts, remedy);
        }
    }
    for ((volume, epoch), stale) in &all.stale_journals {
        check_writer(all, "stale journal", *volume, *epoch, stale.node, report);
        check_next_head(all, "stale journal", *volume, (stale.next_head, true), report);
        let given = all.volumes.get(volume).map_or(*epoch, |record| record.epoch);
        let held = all.attachments.get(volume).map(|held| held.epoch);
        if *epoch > given || held.is_some_and(|held| *epoch >= held) {
            let message =
                format!("volume {volume} has a stale journal of epoch {epoch}, granted: {given}");
            let facts: &[(&str, &dyn ToString)] =
                &[("volume", volume), ("epoch", &given), ("stale_epoch", epoch)];
            let remedy = epoch_remedy(all, *volume);
            report.find_with(FindingKind::EpochInversion, message, facts, remedy);
        }
    }
}

async fn check_node_lists<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut held = BTreeSet::new();
    walk_table(txn, |key: NodeAttachmentKey, record| {
        let node = NodeIncarnation { node: key.node, incarnation: key.incarnation };
        held.insert((node, key.volume, record.epoch));
    })
    .await?;
    let actual = all.attachments.iter().map(|(volume, it)| (it.node, *volume, it.epoch)).collect();
    compare_lists("attachment", &held, &actual, report);
    let mut stale = BTreeSet::new();
    walk_table(txn, |key: NodeStaleJournalKey, _| {
        let node = NodeIncarnation { node: key.node, incarnation: key.incarnation };
        stale.insert((node, key.volume, key.epoch));
    })
    .await?;
    let actual = all.stale_journals.iter();
    let actual = actual.map(|((volume, epoch), it)| (it.node, *volume, *epoch)).collect();
    compare_lists("stale journal", &stale, &actual, report);
    Ok(())
}

type HeldBy = BTreeSet<(NodeIncarnation, VolumeId, Epoch)>;

fn compare_lists(what: &str, listed: &HeldBy, actual: &HeldBy, report: &mut Report<'_>) {
    for (node, volume, epoch) in listed.symmetric_difference(actual) {
        let message = format!(
            "the list of {node} and the volume disagree on the {what} of volume {volume} under \
             epoch {epoch}"
        );
        let facts: &[(&str, &dyn ToString)] =
            &[("node", node), ("volume", volume), ("epoch", epoch)];
        report.find(FindingKind::AttachmentIndexMismatch, message, facts);
    }
}

/// Whether a layer is there, sealed, and shown by nothing.
fn may_be_dropped(all: &Inventory, layer: LayerId) -> bool {
    all.layers.get(&layer).is_some_and(|record| {
        record.sealed && matches!(record.name, LayerName::Nameless | LayerName::DeletedSnapshot(_))
    })
}

async fn check_operations<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut deleting = BTreeSet::new();
    let mut dropped = BTreeSet::new();
    let mut wrong = Vec::new();
    walk_table(txn, |key: OperationKey, record| match record.work {
        OperationWork::DeleteVolume(volume) => {
            let state = all.volumes.get(&volume).map(|record| record.state);
            if state == Some(VolumeState::Deleting) && deleting.insert(volume) {
                return;
            }
            wrong.push((key.operation, record.work));
        }
        OperationWork::ReclaimReservations(node) if all.knows(node) && !all.is_live(node) => {}
        OperationWork::ReclaimReservations(_) => wrong.push((key.operation, record.work)),
        OperationWork::DropLayer(layer) => {
            if !may_be_dropped(all, layer) || !dropped.insert(layer) {
                wrong.push((key.operation, record.work));
            }
        }
        OperationWork::FreeQuarantine(backup) => {
            if backup.get() > all.backups.begun {
                wrong.push((key.operation, record.work));
            }
        }
    })
    .await?;
    for (operation, work) in wrong {
        let message = format!("operation {operation} ({work}) must not be");
        report.find(FindingKind::OperationMismatch, message, &[("operation", &operation)]);
    }
    for (volume, record) in &all.volumes {
        if record.state == VolumeState::Deleting && !deleting.contains(volume) {
            let message = format!("volume {volume} is Deleting, and no operation deletes it");
            report.find(FindingKind::OperationMismatch, message, &[("volume", volume)]);
        }
    }
    Ok(())
}

async fn check_counters<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut last = BTreeMap::new();
    walk_table(txn, |key: CounterKey, record| {
        last.insert(key.counter, record.last);
    })
    .await?;
    let mut operation = 0;
    walk_table(txn, |key: OperationKey, _| operation = key.operation.get()).await?;
    let next_heads = all.attachments.values().map(|it| it.next_head);
    let next_heads = next_heads.chain(all.stale_journals.values().map(|it| it.next_head));
    let layer = all.layers.keys().copied().chain(next_heads).max().map_or(0, LayerId::get);
    let node = all.nodes.keys().next_back().map_or(0, |node| u64::from(node.get()));
    let greatest =
        [(Counter::Layer, layer), (Counter::Node, node), (Counter::Operation, operation)];
    for (counter, greatest) in greatest {
        let last = last.get(&counter).copied().unwrap_or(0);
        if last < greatest {
            let name = format!("{counter:?}");
            let message = format!("counter {name} stands at {last}, {greatest} was given already");
            let facts: &[(&str, &dyn ToString)] = &[("counter", &name), ("last", &last)];
            report.find(FindingKind::CounterBehind, message, facts);
        }
    }
    Ok(())
}
