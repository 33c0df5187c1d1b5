//! Slots below the head's own that nothing shows any more: the metadata service has taken them out
//! of the map, and their extents are in this node's reservation.
//!
//! Invariants:
//! - what is hidden by the committed slot of the head is hidden by the one that the engine has: as
//!   long as something lies below, a head never hides less than before;
//! - an extent that was taken out is used again only after a grace period: reads of it may be under
//!   way that began before it was hidden.

use lunar_types::{ExtentAddress, LayerId, LogicalExtent};

use super::Volume;
use super::core::Core;
use crate::io::Action;
use crate::map::Entry;

/// A slot that is gone from the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrunedSlot {
    /// Of which logical extent.
    pub logical: LogicalExtent,
    /// The layer whose writes had made it.
    pub birth: LayerId,
    /// What it had; this is in the node's reservation now.
    pub extent: Option<ExtentAddress>,
}

impl Volume {
    /// Whether the head has come to hide something whole since this was asked last: a look at what
    /// can be pruned may find something, once that is committed.
    pub fn takes_cover(&self) -> bool {
        let mut core = self.lock();
        core.has_below && std::mem::take(&mut core.has_new_cover)
    }

    /// Forgets slots that the metadata service has taken out of the head.
    pub fn pruned(&self, slots: &[PrunedSlot], out: &mut Vec<Action>) {
        let mut core = self.lock();
        for slot in slots {
            core.forget_slot(self, slot);
        }
        let period = self.grace.period();
        let extents = slots.iter().filter_map(|slot| slot.extent);
        core.limbo.drain(period, extents);
        out.push(Action::WakeControl);
    }
}

impl Core {
    fn forget_slot(&mut self, volume: &Volume, slot: &PrunedSlot) {
        // A word or a list that is gone has forgotten it already.
        if matches!(volume.map.load(slot.logical), Entry::Split(_)) {
            let PrunedSlot { logical, birth, extent } = *slot;
            self.change_head(volume, logical, |split, head| split.forget(head, birth, extent));
        }
    }
}
