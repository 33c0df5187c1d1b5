//! What must hold at any time, whatever the content: the metadata service's own check, no extent
//! in two hands, and none ready for use that something still reads or writes.

use std::collections::{BTreeMap, BTreeSet};

use lunar_engine::dirty::{DirtyIdentity, DirtyTable};
use lunar_types::{ExtentAddress, ExtentRun, Slot};

use crate::world::{Flow, Served, Stop, TableMemory, World, failed};

impl World {
    /// Checks the store, and holds reserves, dirty slots and committed maps against each other.
    pub(crate) fn audit(&mut self, after: &str) -> Flow {
        let findings = self.meta.fsck();
        let findings = findings.map_err(|error| Stop::Failed(format!("fsck failed: {error}")))?;
        if !findings.is_empty() {
            return failed(format!("fsck after {after}: {}", findings.join("; ")));
        }
        self.audit_reserves(after)?;
        self.audit_backups(after)
    }

    fn audit_reserves(&mut self, after: &str) -> Flow {
        let mut reserved = Vec::new();
        for host in &self.hosts {
            let Some(node) = host.node else {
                reserved.push(BTreeSet::new());
                continue;
            };
            let of_node = self.meta.reserved_by(node.node);
            reserved.push(of_node.map_err(|error| Stop::Failed(error.to_string()))?);
        }
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
        for host in &self.hosts {
            for extent in &host.quarantine {
                take(*extent, format!("the quarantine of {}", host.name))?;
            }
        }
        for (guest, served) in self.served() {
            let reserve = served.volume.take_reserve(usize::MAX);
            for extent in &reserve {
                take(*extent, format!("the reserve of v{guest}"))?;
                if !reserved[served.host].contains(extent) {
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
            self.put_back(guest, &reserve)?;
        }
        Ok(())
    }

    /// Gives a reserve back that was looked at: no step, so no crash falls here.
    fn put_back(&mut self, guest: usize, reserve: &[ExtentAddress]) -> Flow {
        let runs: Vec<ExtentRun> = reserve.iter().map(|at| ExtentRun::new(*at, 1)).collect();
        let mut out = Vec::new();
        let served = self.serving(guest);
        let control = served.queues.len() - 1;
        served.volume.give_reserve(&runs, &mut out);
        out.into_iter().try_for_each(|action| self.run_action(guest, control, action))
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
            let memory = self.hosts[served.host]
                .tmpfs
                .tables
                .get(&key)
                .expect("a served volume has a table");
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
