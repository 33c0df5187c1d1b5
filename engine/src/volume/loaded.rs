//! The map of a volume between its load and its start: what earlier holders have left in their
//! journals goes into it.
//!
//! Invariant: the layer whose slots go below at a seal is the head that was loaded, not one that
//! the metadata service tells of afterwards. Nothing names a sealed head, so by then it may have
//! been merged away.

use std::collections::BTreeMap;

use lunar_types::{LayerId, LogicalExtent, Slot};

use super::chain::Chain;
use super::load::{LayerSlots, StartError};
use crate::journal::Record;
use crate::replay::{ReplayError, SlotUpdate, replay};

/// What is below the own slots of a head, and those.
#[derive(Debug)]
pub struct LoadedMap {
    chain: Chain,
    own: BTreeMap<LogicalExtent, Slot>,
}

impl LoadedMap {
    /// The map of the layer that the chain has begun last, as committed.
    #[must_use]
    pub fn new(chain: Chain, own: impl IntoIterator<Item = (LogicalExtent, Slot)>) -> Self {
        Self { chain, own: own.into_iter().collect() }
    }

    /// What a journal of the head changes in it.
    ///
    /// # Errors
    /// When a record cannot belong to this volume.
    pub fn changes(&self, records: &[Record]) -> Result<Vec<SlotUpdate>, ReplayError> {
        let mut updates = replay(records, &self.own, self.chain.extent_size())?;
        updates.retain(|update| self.own.get(&update.logical) != update.slot.as_ref());
        Ok(updates)
    }

    /// Takes in what was committed to the head.
    pub fn take_in(&mut self, committed: Vec<SlotUpdate>) {
        for SlotUpdate { logical, slot } in committed {
            match slot {
                Some(slot) => self.own.insert(logical, slot),
                None => self.own.remove(&logical),
            };
        }
    }

    /// The head was sealed, and an empty one stands on it.
    ///
    /// # Errors
    /// When the new head is not above it, or what it has makes no sense.
    pub fn seal(&mut self, head: LayerId) -> Result<(), StartError> {
        let sealed = self.chain.top().ok_or(StartError::NoLayer)?;
        for (at, slot) in std::mem::take(&mut self.own) {
            self.chain.put(at, sealed, slot)?;
        }
        self.chain.begin(head)
    }

    /// What a volume is started with.
    #[must_use]
    pub fn into_parts(self) -> (Chain, LayerSlots) {
        (self.chain, self.own.into_iter().collect())
    }
}
