//! The forest of layers: who stands on whom, and who needs it.

use std::collections::{BTreeMap, BTreeSet};

use lunar_proto::domain::{OperationWork, SnapshotState};
use lunar_types::LayerId;

use super::inventory::{Inventory, walk_table};
use super::repair::Repair;
use super::report::{FindingKind, Report};
use crate::error::ServiceError;
use crate::keyspace::{
    ChildKey, LayerName, LayerRecord, OperationKey, SnapshotRecord, VolumeSnapshotKey,
};
use crate::service::CHAIN_LAYERS_MAX;
use crate::store::Txn;

pub(super) async fn check<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut children = BTreeSet::new();
    walk_table(txn, |key: ChildKey, _| {
        children.insert((key.parent, key.child));
    })
    .await?;
    let mut dropped = BTreeSet::new();
    walk_table(txn, |_: OperationKey, record| {
        if let OperationWork::DropLayer(layer) = record.work {
            dropped.insert(layer);
        }
    })
    .await?;
    check_reached(all, &dropped, report);
    check_order(all, report);
    check_depth(all, report);
    check_children(all, &children, report);
    check_snapshots(txn, all, report).await?;
    let mut stranded = Vec::new();
    for (layer, record) in &all.layers {
        let count = children.range((*layer, LayerId::new(0))..=(*layer, LayerId::new(u64::MAX)));
        let count = count.count();
        check_name(all, (*layer, record), report);
        if !dropped.contains(layer) && needs_operation(record.name, count) {
            stranded.push((*layer, count));
        }
    }
    // The last of all: a layer is taken away only from maps in which nothing else is wrong.
    let is_sound = !report.has_found(MAPS_IN_DOUBT);
    for (layer, count) in stranded {
        let is_needed = all.volumes.values().any(|volume| volume.head == layer);
        let is_safe = is_sound && !is_needed && all.layers[&layer].sealed;
        report_stranded(layer, count, is_safe, report);
    }
    Ok(())
}

/// What must not be found for a layer to be taken away: its slots could be another one's, or be
/// needed by something that does not say so.
pub(super) const MAPS_IN_DOUBT: &[FindingKind] = &[
    FindingKind::VolumeHeadInvalid,
    FindingKind::HeadShared,
    FindingKind::NextHeadShared,
    FindingKind::DeletingAttached,
    FindingKind::OperationMismatch,
    FindingKind::LayerOrphan,
    FindingKind::LayerOrder,
    FindingKind::ChainTooDeep,
    FindingKind::ChildMismatch,
    FindingKind::SnapshotLayerInvalid,
    FindingKind::SetMismatch,
    FindingKind::LayerCount,
    FindingKind::LayerDigest,
    FindingKind::BirthOutOfRange,
    FindingKind::BirthOrder,
    FindingKind::CounterBehind,
    FindingKind::SlotOrphan,
    FindingKind::SlotOutOfRange,
    FindingKind::ExtentOutOfRange,
    FindingKind::ExtentDoublyOwned,
    FindingKind::ExtentUnallocated,
];

/// Whether an operation must be there that merges or frees a layer.
fn needs_operation(name: LayerName, children: usize) -> bool {
    match name {
        LayerName::Head(_) | LayerName::Snapshot(_) => false,
        LayerName::Nameless => children < 2,
        LayerName::DeletedSnapshot(_) => true,
    }
}

/// The layers that are being merged, by the one that each is merged into: dropped ones with one
/// child, which may have given it slots already.
pub(super) fn merges(all: &Inventory) -> BTreeMap<LayerId, LayerId> {
    let mut children: BTreeMap<LayerId, usize> = BTreeMap::new();
    for parent in all.layers.values().filter_map(|record| record.parent) {
        *children.entry(parent).or_default() += 1;
    }
    let is_merging = |parent: &LayerId| {
        all.layers.get(parent).is_some_and(|below| {
            matches!(below.name, LayerName::Nameless | LayerName::DeletedSnapshot(_))
                && children.get(parent) == Some(&1)
        })
    };
    let stands = all.layers.iter().filter_map(|(layer, it)| Some((*layer, it.parent?)));
    stands.filter(|(_, parent)| is_merging(parent)).collect()
}

/// For each layer the one that all births in it are above: the highest one below it that is not
/// being merged into it.
pub(super) fn births_above(all: &Inventory) -> BTreeMap<LayerId, LayerId> {
    let merges = merges(all);
    let mut floors: BTreeMap<LayerId, LayerId> = BTreeMap::new();
    for (layer, record) in &all.layers {
        // Parents are older than their children, so they have their floor already.
        let floor = merges.get(layer).and_then(|parent| floors.get(parent)).copied();
        floors.insert(*layer, floor.unwrap_or(record.parent.unwrap_or_default()));
    }
    floors
}

fn check_reached(all: &Inventory, dropped: &BTreeSet<LayerId>, report: &mut Report<'_>) {
    let is_named = |record: &LayerRecord| {
        matches!(record.name, LayerName::Snapshot(_) | LayerName::DeletedSnapshot(_))
    };
    let named = all.layers.iter().filter(|(_, it)| is_named(it)).map(|(layer, _)| *layer);
    let mut reached = BTreeSet::new();
    let heads = all.volumes.values().map(|volume| volume.head);
    for top in heads.chain(named).chain(dropped.iter().copied()) {
        let mut next = Some(top);
        while let Some(layer) = next.filter(|layer| reached.insert(*layer)) {
            next = all.layers.get(&layer).and_then(|record| record.parent);
        }
    }
    for (layer, record) in &all.layers {
        let facts: &[(&str, &dyn ToString)] = &[("layer", layer), ("volume", &record.volume)];
        if !reached.contains(layer) {
            let message = format!(
                "no volume, snapshot or operation needs layer {layer} of volume {}",
                record.volume
            );
            report.find(FindingKind::LayerOrphan, message, facts);
        }
        let parent = record.parent.filter(|parent| !all.layers.contains_key(parent));
        if let Some(parent) = parent {
            let message = format!("layer {layer} stands on layer {parent}, which is missing");
            report.find(FindingKind::LayerOrphan, message, facts);
        }
    }
}

/// Ids rise along a chain, so that order by birth is order by depth; and only a head is writable.
fn check_order(all: &Inventory, report: &mut Report<'_>) {
    for (layer, record) in &all.layers {
        let Some(parent) = record.parent else { continue };
        let facts: &[(&str, &dyn ToString)] = &[("layer", layer), ("parent", &parent)];
        if parent >= *layer {
            let message = format!("layer {layer} stands on layer {parent}, which is not older");
            report.find(FindingKind::LayerOrder, message, facts);
        }
        if all.layers.get(&parent).is_some_and(|below| !below.sealed) {
            let message = format!("layer {layer} stands on layer {parent}, which is not sealed");
            report.find(FindingKind::LayerOrder, message, facts);
        }
    }
}

fn check_depth(all: &Inventory, report: &mut Report<'_>) {
    let mut depths: BTreeMap<LayerId, usize> = BTreeMap::new();
    for (layer, record) in &all.layers {
        // A parent that is not older has no depth yet: it is reported as such, and no circle ends
        // up here.
        let below = record.parent.and_then(|parent| depths.get(&parent)).copied().unwrap_or(0);
        depths.insert(*layer, below + 1);
        if below + 1 > CHAIN_LAYERS_MAX {
            let message = format!(
                "layer {layer} is number {} of its chain, at most {CHAIN_LAYERS_MAX} may be",
                below + 1
            );
            report.find(FindingKind::ChainTooDeep, message, &[("layer", layer)]);
        }
    }
}

fn check_children(all: &Inventory, listed: &BTreeSet<(LayerId, LayerId)>, report: &mut Report<'_>) {
    let parents = all.layers.iter();
    let actual: BTreeSet<_> =
        parents.filter_map(|(layer, it)| it.parent.map(|parent| (parent, *layer))).collect();
    for (parent, child) in listed.symmetric_difference(&actual) {
        let message = format!(
            "layer {child} and the list of layer {parent} disagree on whether it stands there"
        );
        let facts: &[(&str, &dyn ToString)] = &[("layer", child), ("parent", parent)];
        let remedy = match all.layers.contains_key(parent) {
            true => Ok(Repair::MatchChild { parent: *parent, child: *child }),
            false => Err("the layer below is missing: see to that first".to_owned()),
        };
        report.find_with(FindingKind::ChildMismatch, message, facts, remedy);
    }
}

/// What the name of a layer promises.
fn check_name(all: &Inventory, (layer, record): (LayerId, &LayerRecord), report: &mut Report<'_>) {
    let (snapshot, state) = match record.name {
        LayerName::Head(_) | LayerName::Nameless => return,
        LayerName::Snapshot(snapshot) => (snapshot, SnapshotState::Ready),
        LayerName::DeletedSnapshot(snapshot) => (snapshot, SnapshotState::Deleting),
    };
    let names_it = all.snapshots.get(&snapshot).is_some_and(|it| {
        let SnapshotRecord { pool, size, volume, .. } = it;
        (it.layer, it.state) == (Some(layer), state)
            && (record.sealed, &record.pool, &record.volume) == (true, pool, volume)
            && record.size.get() == size.bytes()
    });
    if !names_it {
        let message = format!(
            "layer {layer} is of snapshot {snapshot} in state {state}, which does not exist or \
             says otherwise"
        );
        let facts: &[(&str, &dyn ToString)] = &[("layer", &layer), ("snapshot", &snapshot)];
        report.find(FindingKind::SnapshotLayerInvalid, message, facts);
    }
}

fn report_stranded(layer: LayerId, children: usize, is_safe: bool, report: &mut Report<'_>) {
    let message =
        format!("layer {layer} has no name and {children} children, and no operation removes it");
    let remedy = match is_safe {
        true => Ok(Repair::DropLayer { layer }),
        false => Err("other findings say that a map or what it stands on is wrong, so that what \
                      is freed could be another's: see to them first"
            .to_owned()),
    };
    report.find_with(FindingKind::LayerStranded, message, &[("layer", &layer)], remedy);
}

/// Each snapshot names a layer that names it, and is in the list of its volume.
async fn check_snapshots<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    for (snapshot, record) in &all.snapshots {
        let named = record.layer.and_then(|layer| all.layers.get(&layer)).map(|it| it.name);
        let is_named = match record.state {
            SnapshotState::Creating => record.layer.is_none(),
            SnapshotState::Ready => named == Some(LayerName::Snapshot(*snapshot)),
            SnapshotState::Deleting => named == Some(LayerName::DeletedSnapshot(*snapshot)),
        };
        if !is_named {
            let layer = record.layer.unwrap_or_default();
            let message = format!(
                "snapshot {snapshot} in state {} has layer {layer}, which is not its own",
                record.state
            );
            let facts: &[(&str, &dyn ToString)] = &[("snapshot", snapshot), ("layer", &layer)];
            report.find(FindingKind::SnapshotLayerInvalid, message, facts);
        }
    }
    let mut listed = BTreeSet::new();
    walk_table(txn, |key: VolumeSnapshotKey, record| {
        listed.insert((key.volume, key.snapshot, record.layer));
    })
    .await?;
    let actual: BTreeSet<_> =
        all.snapshots.iter().map(|(id, it)| (it.volume, *id, it.layer)).collect();
    for (volume, snapshot, _) in listed.symmetric_difference(&actual) {
        let message = format!(
            "snapshot {snapshot} and the list of volume {volume} disagree on whether it is of the \
             volume, or on its layer"
        );
        let facts: &[(&str, &dyn ToString)] = &[("snapshot", snapshot), ("volume", volume)];
        report.find(FindingKind::SnapshotListMismatch, message, facts);
    }
    Ok(())
}
