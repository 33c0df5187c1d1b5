//! The sizes of a sweep: small, so that every state can be looked at.

use std::time::Duration;

use lunar_engine::volume::Tuning;
use lunar_types::{
    ExtentSize, LUN_DATA_START_BYTES, LUN_DATA_TAIL_BYTES, LogicalBlockSize, VolumeSize,
};

use crate::stamp::SECTOR_BYTES;

/// Extents of the volume at first.
pub(super) const EXTENTS: u64 = 3;
/// Blocks of an extent.
const EXTENT_BLOCKS: u64 = 16;
/// Bytes of an extent.
const EXTENT_BYTES: u64 = EXTENT_BLOCKS * lunar_types::BLOCK_BYTES;
/// Sectors of an extent.
pub(super) const EXTENT_SECTORS: u64 = EXTENT_BYTES / SECTOR_BYTES as u64;
/// Sectors of the volume at first.
pub(super) const SECTORS: usize = (EXTENTS * EXTENT_SECTORS) as usize;
/// Queues of the device; the control queue comes on top.
pub(super) const QUEUES: u16 = 2;
/// LUNs of the pool.
pub(super) const LUNS: u16 = 2;
/// Extents of a LUN: journals have 32 each.
const LUN_EXTENTS: u64 = 96;
/// Extents of the journal that the ring uses.
pub(super) const RING_EXTENTS: u32 = 1;
/// Entries of the dirty table: more than can ever be dirty, so that only checkpoints free them.
pub(super) const DIRTY_CAPACITY: usize = 12;

/// The size of an extent.
pub(super) fn extent_size() -> ExtentSize {
    ExtentSize::from_bytes(EXTENT_BYTES).expect("a valid extent size")
}

/// The size of the volume at first.
pub(super) fn volume_size() -> VolumeSize {
    VolumeSize::from_bytes(EXTENTS * EXTENT_BYTES).expect("whole blocks")
}

/// The sizes of the LUNs in bytes.
pub(super) fn lun_sizes() -> Vec<u64> {
    let bytes = LUN_DATA_START_BYTES + LUN_DATA_TAIL_BYTES + LUN_EXTENTS * EXTENT_BYTES;
    vec![bytes; usize::from(LUNS)]
}

/// Checkpoints only when one is asked for.
pub(super) fn tuning() -> Tuning {
    Tuning {
        checkpoint_interval: Duration::from_secs(86_400),
        reserve_min: 6,
        reserve_max: 6,
        // One read in pieces makes an extent due: a sweep consolidates only when it is asked to.
        consolidate_reads: 1,
        ..Tuning::default()
    }
}

/// The logical block of LUNs and volume: what nothing tears.
pub(super) fn logical_block() -> LogicalBlockSize {
    LogicalBlockSize::B512
}
