//! The slots and parts of layers: each by itself, and all against what their layer counts.

use std::collections::BTreeMap;

use lunar_proto::domain::LAYER_PARTS_MAX;
use lunar_types::{LayerId, LogicalExtent, Slot, SlotPlace};

use super::inventory::{Inventory, walk_table};
use super::layers::births_above;
use super::report::{Fact, FindingKind, Report};
use crate::error::ServiceError;
use crate::keyspace::{
    LayerPartsKey, LayerPartsRecord, LayerRecord, PartKey, SlotDigest, SlotKey, SlotValue,
};
use crate::store::Txn;

/// The sums over the slots of one kind of a layer.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Sums {
    /// With storage.
    extents: u64,
    /// All of them; 0 of own slots, whose number no record has.
    slots: u64,
    digest: SlotDigest,
}

pub(super) async fn check<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    check_own(txn, all, report).await?;
    check_parts(txn, all, report).await
}

async fn check_own<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut found: BTreeMap<LayerId, Sums> = BTreeMap::new();
    walk_table(txn, |key: SlotKey, value| {
        let name = format!("slot {} of layer {}", key.at, key.layer);
        if check_slot(all, &name, key.layer, key.at, &value.0, report) {
            let sums = found.entry(key.layer).or_default();
            sums.extents += u64::from(value.0.extent().is_some());
            sums.digest = sums.digest.with(&key, &value);
        }
    })
    .await?;
    for (layer, LayerRecord { extents, digest, .. }) in &all.layers {
        let counted = Sums { extents: *extents, slots: 0, digest: *digest };
        compare("slots", *layer, counted, found.get(layer).copied(), report);
    }
    Ok(())
}

async fn check_parts<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut counted: BTreeMap<LayerId, Sums> = BTreeMap::new();
    walk_table(txn, |key: LayerPartsKey, record| {
        let LayerPartsRecord { extents, parts, digest } = record;
        counted.insert(key.layer, Sums { extents, slots: parts, digest });
    })
    .await?;
    let floors = births_above(all);
    let mut found: BTreeMap<LayerId, Sums> = BTreeMap::new();
    let mut run = (LayerId::default(), LogicalExtent::new(0), 0_usize);
    walk_table(txn, |key: PartKey, value: SlotValue| {
        let PartKey { layer, at, birth } = key;
        let name = format!("part {at} of layer {layer} from layer {birth}");
        if !check_slot(all, &name, layer, at, &value.0, report) {
            return;
        }
        run = if (run.0, run.1) == (layer, at) { (layer, at, run.2 + 1) } else { (layer, at, 1) };
        if run.2 == LAYER_PARTS_MAX + 1 {
            let message = format!("{name}: it is one of more than {LAYER_PARTS_MAX} there");
            let facts: &[Fact<'_>] = &[("layer", &layer), ("logical_extent", &at)];
            report.find(FindingKind::LayerCount, message, facts);
        }
        let floor = floors.get(&layer).copied().unwrap_or_default();
        if birth <= floor || birth >= layer {
            let message = format!("{name}: it is not between its layer and layer {floor}");
            let facts: &[Fact<'_>] = &[("layer", &layer), ("birth", &birth)];
            report.find(FindingKind::BirthOutOfRange, message, facts);
        }
        let sums = found.entry(layer).or_default();
        sums.extents += u64::from(value.0.extent().is_some());
        sums.slots += 1;
        sums.digest = sums.digest.with(&key, &value);
    })
    .await?;
    for layer in found.keys().filter(|layer| !counted.contains_key(layer)) {
        compare("parts", *layer, Sums::default(), found.get(layer).copied(), report);
    }
    for (layer, sums) in counted {
        compare("parts", layer, sums, found.get(&layer).copied(), report);
    }
    Ok(())
}

/// Holds what a layer counts against what is there. A store that nobody listens about is not
/// read to its end: nothing is said then.
fn compare(
    what: &str,
    layer: LayerId,
    counted: Sums,
    found: Option<Sums>,
    report: &mut Report<'_>,
) {
    let found = found.unwrap_or_default();
    if report.is_stopped() {
        return;
    }
    let facts: &[Fact<'_>] = &[("layer", &layer), ("what", &what)];
    if (counted.extents, counted.slots) != (found.extents, found.slots) {
        let message = format!(
            "layer {layer} counts {} {what} with storage ({} in all) and has {} ({})",
            counted.extents, counted.slots, found.extents, found.slots
        );
        report.find(FindingKind::LayerCount, message, facts);
    }
    if counted.digest != found.digest {
        let message = format!(
            "the {what} of layer {layer} are not those that were written: their digest is \
             {:016x}, it should be {:016x}",
            found.digest.get(),
            counted.digest.get()
        );
        report.find(FindingKind::LayerDigest, message, facts);
    }
}

/// Checks one slot by itself. Says whether its layer is there.
fn check_slot(
    all: &Inventory,
    name: &str,
    layer: LayerId,
    at: LogicalExtent,
    slot: &Slot,
    report: &mut Report<'_>,
) -> bool {
    report.summary.slots += 1;
    let facts: &[Fact<'_>] = &[("layer", &layer), ("logical_extent", &at)];
    let Some(record) = all.layers.get(&layer) else {
        let message = format!("{name}: there is no such layer");
        report.find(FindingKind::SlotOrphan, message, facts);
        return false;
    };
    if slot.place == SlotPlace::Zero && !slot.presence.is_empty() {
        let message = format!("{name} is ZERO and has blocks present");
        report.find(FindingKind::PresenceOnZero, message, facts);
    }
    let Some(pool) = all.pools.get(&record.pool) else { return true };
    if slot.presence.block_count() != pool.extent_size.blocks() {
        let message = format!(
            "{name} has {} presence bits, an extent of the pool {} blocks",
            slot.presence.block_count(),
            pool.extent_size.blocks()
        );
        report.find(FindingKind::PresenceSize, message, facts);
    }
    let extents = if record.sealed {
        Some(record.size.get().div_ceil(pool.extent_size.bytes()))
    } else {
        all.volumes.get(&record.volume).map(|it| it.size.extents(pool.extent_size))
    };
    if extents.is_some_and(|extents| at.get() >= extents) {
        let message = format!("{name} lies beyond the end of volume {}", record.volume);
        report.find(FindingKind::SlotOutOfRange, message, facts);
    }
    true
}
