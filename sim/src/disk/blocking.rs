//! Modelled LUNs behind the engine's blocking seam, for journals and recovery.
//!
//! Each call is a step of the fuse. A call that meets the crash leaves its command under way, as
//! a real one would be, and fails; every later call fails without any effect, as if the process
//! no longer existed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use lunar_engine::journal::LunSet;
use lunar_engine::lun::{LunDevice, LunError};
use lunar_types::LunIndex;

use super::{Disk, DiskIo, FaultRates, Source, eio};
use crate::dice::Dice;
use crate::fuse::Fuse;

/// The LUNs of a world.
pub struct Luns {
    /// By index.
    pub disks: RefCell<Vec<Disk>>,
    /// What the disks choose by.
    pub dice: RefCell<Dice>,
    /// Where the crash falls.
    pub fuse: Fuse,
    /// How often commands fail now.
    pub rates: Cell<FaultRates>,
}

/// All LUNs of a world, open for blocking I/O of one volume.
pub struct OpenLuns {
    handles: Vec<OpenLun>,
}

struct OpenLun {
    luns: Rc<Luns>,
    index: usize,
    source: Source,
}

/// Commands of blocking I/O that a crash leaves under way carry this id; nobody waits for them.
pub(super) const ABANDONED: u64 = u64::MAX;

impl OpenLuns {
    /// Opens them for what `source` writes.
    #[must_use]
    pub fn new(luns: &Rc<Luns>, source: Source) -> Self {
        let count = luns.disks.borrow().len();
        let handles =
            (0..count).map(|index| OpenLun { luns: Rc::clone(luns), index, source }).collect();
        Self { handles }
    }
}

impl LunSet for OpenLuns {
    fn lun(&self, index: LunIndex) -> Option<&dyn LunDevice> {
        let handle = self.handles.get(usize::from(index.get()))?;
        Some(handle)
    }
}

impl OpenLun {
    fn run<T>(
        &self,
        io: impl FnOnce() -> DiskIo,
        rate: impl FnOnce(FaultRates) -> u64,
        work: impl FnOnce(&mut Disk, &mut Dice) -> T,
    ) -> Result<T, LunError> {
        let was_blown = self.luns.fuse.is_blown();
        let disk = &mut self.luns.disks.borrow_mut()[self.index];
        if self.luns.fuse.step() {
            if !was_blown {
                disk.submit(ABANDONED, self.source, io());
            }
            return Err(eio());
        }
        let dice = &mut self.luns.dice.borrow_mut();
        if dice.chance(rate(self.luns.rates.get())) {
            return Err(eio());
        }
        Ok(work(disk, dice))
    }
}

impl LunDevice for OpenLun {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), LunError> {
        let length = buffer.len();
        let io = || DiskIo::Read { at, length };
        let data = self.run(io, |rates| rates.read, |disk, _| disk.read_visible(at, length))?;
        buffer.copy_from_slice(&data);
        Ok(())
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), LunError> {
        let io = || DiskIo::Write { at, bytes: bytes.into(), durable: false };
        self.run(io, |rates| rates.write, |disk, _| disk.write_now(self.source, at, bytes))
    }

    fn flush(&self) -> Result<(), LunError> {
        let io = || DiskIo::Flush { only: None };
        // A failing flush outside of the I/O path drops nothing: nobody was promised anything.
        self.run(io, |rates| rates.flush, |disk, dice| disk.flush_now(dice))
    }

    fn size_bytes(&self) -> u64 {
        self.luns.disks.borrow()[self.index].bytes()
    }

    fn logical_block_bytes(&self) -> u32 {
        self.luns.disks.borrow()[self.index].unit() as u32
    }
}

impl Disk {
    fn write_now(&mut self, source: Source, at: u64, bytes: &[u8]) {
        self.write_visible(ABANDONED, source, at, bytes.into(), false);
        self.deliveries += 1;
        let delivered = Some(self.deliveries);
        self.volatile.last_mut().expect("it was just written").delivered = delivered;
    }

    fn flush_now(&mut self, dice: &mut Dice) {
        let covered = self.covered(self.deliveries, None);
        self.make_durable(&covered, dice);
    }
}
