//! Makes a volume from its committed map, the dirty table of a predecessor if any, and its ring.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16};

use lunar_types::{ExtentAddress, ExtentSize, LogicalExtent, LunIndex, Presence, Slot};

use super::core::{Core, CoreParts};
use super::reserve::Reserve;
use super::slots::{Limbo, Mark, describe};
use super::{Volume, VolumeSpec};
use crate::dirty::{DirtySlot, DirtyTable};
use crate::grace::Grace;
use crate::journal::{JournalRing, RingPlace};
use crate::map::{Entry, Generation, LayerSlot, ResolvedMap, ResolvedMapError, Split, SplitArena};

/// The slots of one layer, in any order.
pub type LayerSlots = Vec<(LogicalExtent, Slot)>;

/// What a volume is made from.
pub struct VolumeParts {
    /// What it is.
    pub spec: VolumeSpec,
    /// The committed slots of its layers, head first; at least the head's, which may be empty.
    pub layers: Vec<LayerSlots>,
    /// The writer of its journal.
    pub ring: JournalRing,
    /// Its dirty table.
    pub table: DirtyTable,
    /// The slots that the table held already, if a killed predecessor's volume is taken over:
    /// what it wrote may still be in the LUNs' caches, even with no slot dirty.
    pub predecessor: Option<Vec<DirtySlot>>,
}

/// A volume cannot be made from these parts.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Too many extents.
    #[error(transparent)]
    Map(#[from] ResolvedMapError),
    /// No layer at all, or more than a generation can number.
    #[error("a volume has 1 to 65,535 layers, not {0}")]
    Layers(usize),
    /// A slot lies beyond the end of the volume.
    #[error("the map has logical extent {logical}, but the volume ends at extent {extents}")]
    BeyondVolume {
        /// The slot's extent.
        logical: LogicalExtent,
        /// Extents of the volume.
        extents: u64,
    },
    /// A slot names an extent that the pool has not.
    #[error("logical extent {logical} is mapped to extent {at}, which the pool does not have")]
    BeyondPool {
        /// The slot's extent.
        logical: LogicalExtent,
        /// What it is mapped to.
        at: ExtentAddress,
    },
    /// Two logical extents are mapped to one extent.
    #[error("extent {at} is mapped twice, at logical extents {first} and {second}: run lunar fsck")]
    MappedTwice {
        /// The extent.
        at: ExtentAddress,
        /// One owner.
        first: LogicalExtent,
        /// The other owner.
        second: LogicalExtent,
    },
}

/// How many entries the dirty table of a journal has: as many as a third of the ring can restate.
#[must_use]
pub fn dirty_capacity(place: &RingPlace, extent_size: ExtentSize) -> usize {
    JournalRing::records_max(place) / Presence::word_count(extent_size)
}

fn check(spec: &VolumeSpec, layers: &[BTreeMap<LogicalExtent, Slot>]) -> Result<(), StartError> {
    let extents = spec.size.extents(spec.extent_size);
    let mut owners: HashMap<ExtentAddress, LogicalExtent> = HashMap::new();
    for (&logical, slot) in layers.iter().flatten() {
        if logical.get() >= extents {
            return Err(StartError::BeyondVolume { logical, extents });
        }
        let Some(at) = slot.extent() else { continue };
        if !spec.luns.contains(at) {
            return Err(StartError::BeyondPool { logical, at });
        }
        if let Some(first) = owners.insert(at, logical) {
            return Err(StartError::MappedTwice { at, first, second: logical });
        }
    }
    Ok(())
}

/// Puts a predecessor's dirty slots over the head's; gives the extents that they unmap.
fn overlay(head: &mut BTreeMap<LogicalExtent, Slot>, dirty: &[DirtySlot]) -> Vec<ExtentAddress> {
    let mut unmapped = Vec::new();
    for (logical, slot) in dirty {
        let before = match slot {
            Some(slot) => head.insert(*logical, slot.clone()),
            None => head.remove(logical),
        };
        let before = before.and_then(|slot| slot.extent());
        let after = slot.as_ref().and_then(Slot::extent);
        unmapped.extend(before.filter(|at| Some(*at) != after));
    }
    unmapped
}

fn resolve(
    extents: u64,
    layers: Vec<BTreeMap<LogicalExtent, Slot>>,
) -> Result<(ResolvedMap, SplitArena), StartError> {
    let map = ResolvedMap::holes(extents)?;
    let mut splits = SplitArena::default();
    let mut stacks: BTreeMap<LogicalExtent, Vec<LayerSlot>> = BTreeMap::new();
    let top = u16::try_from(layers.len()).map_err(|_| StartError::Layers(layers.len()))?;
    for (generation, layer) in (1..=top).rev().map(Generation::new).zip(layers) {
        for (logical, slot) in layer {
            stacks.entry(logical).or_default().push(LayerSlot { generation, slot });
        }
    }
    for (logical, stack) in stacks {
        let split = Split::new(stack);
        let entry = describe(&split).unwrap_or_else(|| Entry::Split(splits.insert(split)));
        map.store(logical, entry);
    }
    Ok((map, splits))
}

impl Volume {
    /// Makes a volume that is ready to serve.
    ///
    /// # Errors
    /// When the map does not fit the volume or the pool.
    pub fn start(parts: VolumeParts) -> Result<Self, StartError> {
        let VolumeParts { spec, layers, ring, table, predecessor } = parts;
        if layers.is_empty() || layers.len() >= usize::from(u16::MAX) {
            return Err(StartError::Layers(layers.len()));
        }
        let mut layers: Vec<BTreeMap<LogicalExtent, Slot>> =
            layers.into_iter().map(|layer| layer.into_iter().collect()).collect();
        let dirty = predecessor.unwrap_or_default();
        let unmapped = overlay(&mut layers[0], &dirty);
        check(&spec, &layers)?;
        let layer_count = layers.len();
        let head = u16::try_from(layer_count).expect("checked above");
        let (map, splits) = resolve(spec.size.extents(spec.extent_size), layers)?;
        let touched = (0..LunIndex::LIMIT).map(|_| AtomicBool::new(false)).collect();
        let mut core = Core::new(CoreParts {
            splits,
            table,
            ring,
            limbo: Limbo { unmapped, ..Limbo::default() },
            layer_count,
            queue_count: spec.queue_count,
            reserve: Reserve::new(spec.tuning),
            checkpoint_interval: spec.tuning.checkpoint_interval,
        });
        core.adopt(&dirty);
        let volume = Self {
            head: AtomicU16::new(head),
            writable_from: AtomicU16::new(head),
            map,
            grace: Grace::new(spec.queue_count + 1),
            touched,
            is_poisoned: AtomicBool::new(core.is_poisoned()),
            core: Mutex::new(core),
            spec,
        };
        // What whoever served it before has written may still be in the LUNs' caches; who reads it
        // here and flushes must have it. Indices may have gaps: what no round can flush is never
        // touched. A LUN that is added later has nothing of this volume yet.
        volume.spec.luns.indices().for_each(|lun| volume.touch(lun));
        Ok(volume)
    }
}

impl Core {
    /// Marks a predecessor's dirty slots as changed: the first round restates them.
    fn adopt(&mut self, dirty: &[DirtySlot]) {
        for (logical, _) in dirty {
            self.last_version += 1;
            let mark = Mark { version: self.last_version, committed: 0, words: u64::MAX, pins: 0 };
            self.marks.insert(*logical, mark);
            self.unflushed.insert(*logical);
        }
    }
}
