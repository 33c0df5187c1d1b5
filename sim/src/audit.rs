//! What must hold at any time, whatever the content: the metadata service's own check, no extent
//! in two hands, and none ready for use that something still reads or writes.

use std::collections::BTreeMap;

use lunar_engine::dirty::{DirtyIdentity, DirtyTable};
use lunar_types::{ExtentAddress, Slot};

use crate::world::{Flow, Served, Stop, TableMemory, World, failed};

impl World {
    /// Checks the store, and holds reserves, dirty slots and committed maps against each other.
    pub(crate) fn audit(&mut self, after: &str) -> Flow {
        let findings = self.meta.fsck();
        let findings = findings.map_err(|error| Stop::Failed(format!("fsck failed: {error}")))?;
        if !findings.is_empty() {
            return failed(format!("fsck after {after}: {}", findings.join("; ")));
        }
        self.audit_reserves(after)
    }

    fn audit_reserves(&mut self, after: &str) -> Flow {
        let Some(node) = self.node else { return Ok(()) };
        let reserved = self.meta.reserved_by(node.node);
        let reserved = reserved.map_err(|error| Stop::Failed(error.to_string()))?;
        let mut hands: BTreeMap<ExtentAddress, String> = BTreeMap::new();
        let mut take = |extent: ExtentAddress, hand: String| match hands.insert(extent, hand) {
            None => Ok(()),
            Some(other) => {
                let hand = &hands[&extent];
                Err(Stop::Failed(format!(
                    "after {after}: extent {extent} is in {hand} and {other}"
                )))
            }
        };
        let mut reserves = Vec::new();
        for extent in &self.quarantine {
            take(*extent, "the quarantine".into())?;
        }
        for (guest, served) in self.served() {
            let reserve = served.volume.take_reserve(usize::MAX);
            for extent in &reserve {
                take(*extent, format!("the reserve of v{guest}"))?;
                if !reserved.contains(extent) {
                    let what = "is in a reserve, but not in the reservation of the node";
                    return failed(format!("after {after}: extent {extent} {what}"));
                }
                if self.is_awaited_in(served, *extent) {
                    let what = "is in a reserve, and a command on its way reads or writes it";
                    return failed(format!("after {after}: extent {extent} {what}"));
                }
            }
            reserves.push((guest, reserve));
        }
        for extent in self.dirty_extents()? {
            take(extent, "a dirty table".into())?;
        }
        for (guest, reserve) in reserves {
            self.give(guest, &reserve)?;
        }
        Ok(())
    }

    fn is_awaited_in(&self, served: &Served, extent: ExtentAddress) -> bool {
        let from = served.volume.spec().luns.byte_of(extent);
        let bytes = from..from + self.scenario.extent_size.bytes();
        self.luns.disks.borrow()[usize::from(extent.lun.get())].is_awaited_in(&bytes)
    }

    /// The extents that the dirty tables of served volumes name.
    pub(crate) fn dirty_extents(&self) -> Flow<Vec<ExtentAddress>> {
        let mut extents = Vec::new();
        for (guest, served) in self.served() {
            let key = (self.guests[guest].id, served.epoch);
            let memory = self.tmpfs.tables.get(&key).expect("a served volume has a table");
            extents.extend(table_extents(memory, served.table)?);
        }
        Ok(extents)
    }
}

/// The extents that a dirty table names, without taking it over.
pub(crate) fn table_extents(
    memory: &TableMemory,
    (identity, capacity): (DirtyIdentity, usize),
) -> Flow<Vec<ExtentAddress>> {
    let memory = TableMemory::clone(memory);
    match DirtyTable::open(memory, identity, capacity) {
        Ok((_, slots)) => {
            Ok(slots.iter().filter_map(|(_, slot)| slot.as_ref().and_then(Slot::extent)).collect())
        }
        Err(error) => failed(format!("a dirty table cannot be read: {error}")),
    }
}
