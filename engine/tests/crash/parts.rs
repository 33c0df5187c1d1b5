//! What the world is made of: LUNs with a volatile cache, and a metadata service.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use lunar_engine::journal::LunSet;
use lunar_engine::lun::{LunDevice, LunError};
use lunar_engine::replay::SlotUpdate;
use lunar_engine::volume::WorkDone;
use lunar_types::{ExtentAddress, ExtentRun, LogicalExtent, LunIndex, Slot};

use super::LUN_BYTES;

const GARBAGE: u8 = 0xdb;

/// A LUN whose writes are volatile until they are flushed.
pub(super) struct CachedLun {
    visible: RefCell<Vec<u8>>,
    durable: RefCell<Vec<u8>>,
    cached: RefCell<BTreeSet<usize>>,
}

impl CachedLun {
    pub(super) fn new() -> Self {
        let garbage = || RefCell::new(vec![GARBAGE; LUN_BYTES as usize]);
        Self { visible: garbage(), durable: garbage(), cached: RefCell::default() }
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8], reaches: &mut dyn FnMut() -> bool) {
        for (n, sector) in bytes.chunks(512).enumerate().filter(|_| reaches()) {
            let from = at as usize + n * 512;
            self.visible.borrow_mut()[from..from + sector.len()].copy_from_slice(sector);
            self.cached.borrow_mut().insert(from / 512);
        }
    }

    pub(super) fn persist(&self, mut keeps: impl FnMut(usize) -> bool) {
        let cached = self.cached.take();
        for sector in cached {
            let range = sector * 512..sector * 512 + 512;
            if keeps(sector) {
                let visible = self.visible.borrow();
                self.durable.borrow_mut()[range.clone()].copy_from_slice(&visible[range]);
            } else {
                self.cached.borrow_mut().insert(sector);
            }
        }
    }

    pub(super) fn lose_power(&self, keeps: &mut dyn FnMut() -> bool) {
        self.persist(|_| keeps());
        self.cached.borrow_mut().clear();
        self.visible.borrow_mut().clone_from(&self.durable.borrow());
    }
}

impl LunDevice for CachedLun {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), LunError> {
        buffer.copy_from_slice(&self.visible.borrow()[at as usize..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), LunError> {
        self.write(at, bytes, &mut || true);
        Ok(())
    }

    fn flush(&self) -> Result<(), LunError> {
        self.persist(|_| true);
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        LUN_BYTES
    }

    fn logical_block_bytes(&self) -> u32 {
        512
    }
}

pub(super) struct Luns(pub(super) Vec<CachedLun>);

impl LunSet for Luns {
    fn lun(&self, index: LunIndex) -> Option<&dyn LunDevice> {
        // The LUN with index 1 does not exist: a pool may have gaps.
        let at = usize::from(index.get()) / 2;
        self.0.get(at).map(|lun| lun as &dyn LunDevice)
    }
}

/// A stand-in of the metadata service for one volume: a map and a reservation.
#[derive(Default)]
pub(crate) struct Metadata {
    pub(super) committed: BTreeMap<LogicalExtent, Slot>,
    pub(super) checkpoint: u64,
    pub(crate) free: BTreeSet<ExtentAddress>,
    pub(super) held: BTreeSet<ExtentAddress>,
}

impl Metadata {
    pub(super) fn reserve(&mut self, count: u32) -> WorkDone {
        let mut taken: Vec<_> = self.free.iter().copied().collect();
        taken.sort_unstable_by_key(|at| (at.extent.get(), at.lun));
        taken.truncate(count as usize);
        if taken.is_empty() {
            return WorkDone::PoolFull;
        }
        for at in &taken {
            self.free.remove(at);
            self.held.insert(*at);
        }
        WorkDone::Reserved(taken.into_iter().map(|at| ExtentRun::new(at, 1)).collect())
    }

    pub(super) fn commit(&mut self, updates: &[SlotUpdate], checkpoint: Option<u64>) {
        for update in updates {
            let before = self.committed.remove(&update.logical).and_then(|slot| slot.extent());
            let after = update.slot.as_ref().and_then(Slot::extent);
            if before != after {
                self.held.extend(before);
                if let Some(at) = after {
                    assert!(self.held.remove(&at), "commit of {at}, which is not reserved");
                }
            }
            if let Some(slot) = &update.slot {
                self.committed.insert(update.logical, slot.clone());
            }
        }
        if let Some(seq) = checkpoint {
            assert!(seq >= self.checkpoint, "a checkpoint never moves back");
            self.checkpoint = seq;
        }
    }
}
