//! Makes a volume from its committed map, the dirty table of a predecessor if any, and its ring.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64};

use lunar_types::{ExtentAddress, ExtentSize, LayerId, LogicalExtent, LunIndex, Presence, Slot};

use super::chain::{Chain, Resolved};
use super::core::{Core, CoreParts};
use super::reserve::Reserve;
use super::slots::{Limbo, Mark};
use super::{Volume, VolumeSpec};
use crate::dirty::{DirtySlot, DirtyTable};
use crate::grace::Grace;
use crate::journal::{JournalRing, RingPlace};
use crate::map::ResolvedMapError;

/// Slots that were written into one layer, in any order.
pub type LayerSlots = Vec<(LogicalExtent, Slot)>;

/// What a volume is made from.
pub struct VolumeParts {
    /// What it is.
    pub spec: VolumeSpec,
    /// What is below the head's own slots.
    pub chain: Chain,
    /// The committed slots that were written into the head itself.
    pub own: LayerSlots,
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
    /// More layers than a generation can number.
    #[error("the volume stands on more than {most} layers: delete snapshots of it")]
    Layers {
        /// How many there can be.
        most: usize,
    },
    /// No layer at all.
    #[error("a volume has at least one layer, its head")]
    NoLayer,
    /// Layers come from the lowest up, and each is younger than the one below it.
    #[error("layer {layer} stands on layer {below}, which is not older: run lunar fsck")]
    Order {
        /// The layer.
        layer: LayerId,
        /// The one below.
        below: LayerId,
    },
    /// A slot is not of the time of its layer.
    #[error(
        "logical extent {logical} has a slot of layer {birth} in a wrong layer: run lunar fsck"
    )]
    Birth {
        /// The slot's extent.
        logical: LogicalExtent,
        /// The layer whose writes made it.
        birth: LayerId,
    },
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
    /// Two slots have one extent.
    #[error(
        "extent {at} is mapped twice, the second time at logical extent {logical}: run lunar fsck, \
         which names its owners"
    )]
    MappedTwice {
        /// The extent.
        at: ExtentAddress,
        /// Where it was met again.
        logical: LogicalExtent,
    },
}

/// How many entries the dirty table of a journal has: as many as a third of the ring can restate.
#[must_use]
pub fn dirty_capacity(place: &RingPlace, extent_size: ExtentSize) -> usize {
    JournalRing::records_max(place) / Presence::word_count(extent_size)
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

impl Volume {
    /// Makes a volume that is ready to serve.
    ///
    /// # Errors
    /// When the map does not fit the volume or the pool.
    pub fn start(parts: VolumeParts) -> Result<Self, StartError> {
        let VolumeParts { spec, chain, own, ring, table, predecessor } = parts;
        let mut own: BTreeMap<LogicalExtent, Slot> = own.into_iter().collect();
        let dirty = predecessor.unwrap_or_default();
        let unmapped = overlay(&mut own, &dirty);
        let Resolved { map, splits, head, owned, has_below } = chain.resolve(own)?;
        let head = head.get();
        let touched = (0..LunIndex::LIMIT).map(|_| AtomicBool::new(false)).collect();
        let mut core = Core::new(CoreParts {
            splits,
            table,
            ring,
            limbo: Limbo { unmapped, ..Limbo::default() },
            owned,
            has_below,
            queue_count: spec.queue_count,
            reserve: Reserve::new(spec.tuning),
            checkpoint_interval: spec.tuning.checkpoint_interval,
        });
        core.adopt(&dirty);
        let volume = Self {
            head: AtomicU16::new(head),
            writable_from: AtomicU16::new(core.owned.from().get()),
            bytes: AtomicU64::new(spec.size.bytes()),
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
