//! Pools and LUNs.

use lunar_types::{
    ByteCount, ExtentSize, LogicalBlockSize, LunId, LunIndex, Name, PoolId, RequestId,
};

use super::{PoolFencing, PoolFill, Selector, WatermarkLevel, Watermarks};

/// A LUN as it is offered to a pool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NewLun {
    /// The id in its label.
    pub id: LunId,
    /// Size of the device.
    pub size: ByteCount,
    /// Logical block size of the device.
    pub logical_block_size: LogicalBlockSize,
}

/// A LUN of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Lun {
    /// The id in its label.
    pub id: LunId,
    /// Its place in the pool, never given again.
    pub index: LunIndex,
    /// Size of the device.
    pub size: ByteCount,
    /// Logical block size of the device.
    pub logical_block_size: LogicalBlockSize,
    /// Extents in its data area.
    pub data_extents: u64,
}

/// A pool with its LUN table.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// Its name.
    pub name: Name,
    /// The unit of allocation.
    pub extent_size: ExtentSize,
    /// In order of their index.
    pub luns: Vec<Lun>,
    /// The greatest logical block size of its LUNs: no volume has a smaller one.
    pub logical_block_size: LogicalBlockSize,
    /// Where its levels begin.
    pub watermarks: Watermarks,
    /// What keeps a node that was given up from writing to it.
    pub fencing: PoolFencing,
}

/// Makes a pool.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CreatePool {
    /// Idempotency key.
    pub request: RequestId,
    /// Name of the pool.
    pub name: Name,
    /// The unit of allocation.
    pub extent_size: ExtentSize,
    /// At least one LUN.
    pub luns: Vec<NewLun>,
    /// What keeps a node that was given up from writing to it.
    pub fencing: PoolFencing,
}

/// Adds LUNs to a pool.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AddLuns {
    /// Idempotency key.
    pub request: RequestId,
    /// The pool.
    pub pool: Selector<PoolId>,
    /// At least one LUN.
    pub luns: Vec<NewLun>,
}

/// Extents by what holds them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpaceUsage {
    /// All extents.
    pub total_extents: u64,
    /// Everything that is not free: mapped, reserved, journals and quarantine.
    pub allocated_extents: u64,
    /// Part of allocated: held by node incarnations ahead of need.
    pub reserved_extents: u64,
    /// Part of allocated: journals, current and stale.
    pub journal_extents: u64,
    /// Part of free: only journals may take these.
    pub held_back_extents: u64,
    /// Part of allocated: nobody owns these, and they are not given away before they are released.
    pub quarantined_extents: u64,
}

/// Frees what an operator has to release of the quarantine of a pool.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReleaseQuarantine {
    /// The pool.
    pub pool: Selector<PoolId>,
    /// Its name once more: who releases says that nothing writes to these extents any more.
    pub confirm: Name,
}

impl SpaceUsage {
    /// What is not allocated.
    #[must_use]
    pub const fn free_extents(&self) -> u64 {
        self.total_extents.saturating_sub(self.allocated_extents)
    }
}

/// How full a LUN is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LunStatus {
    /// The LUN.
    pub lun: Lun,
    /// Its extents.
    pub usage: SpaceUsage,
}

/// How full a pool is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolStatus {
    /// The pool.
    pub pool: Pool,
    /// Its extents.
    pub usage: SpaceUsage,
    /// How full it is for whoever writes to it.
    pub fill: PoolFill,
    /// Sum of the sizes of its volumes.
    pub provisioned: ByteCount,
    /// How many volumes it has.
    pub volumes: u64,
    /// Each LUN, in order of their index.
    pub luns: Vec<LunStatus>,
}

impl PoolStatus {
    /// How full it is, by its watermarks.
    #[must_use]
    pub fn level(&self) -> WatermarkLevel {
        self.pool.watermarks.level(self.fill)
    }
}
