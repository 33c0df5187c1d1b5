//! The parameters of a volume's device.
//!
//! Invariants:
//! - the device always has a volatile write cache and FUA: even over LUNs without a cache, which
//!   blocks an extent holds is durable only after a flush has journalled it;
//! - reads and writes never cross an extent (`chunk_sectors`); discards and write-zeroes do;
//! - a discard or write-zeroes fits 32 bits of bytes.

use libublk::sys;
use lunar_types::{ExtentSize, LogicalBlockSize, VolumeSize};

const SECTOR_SHIFT: u32 = 9;
const PHYSICAL_BLOCK_SHIFT: u8 = 12;
const DISCARD_GRANULARITY: u32 = 4096;

/// What a device looks like to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceShape {
    /// Size of the volume.
    pub size: VolumeSize,
    /// What the device advertises.
    pub logical_block: LogicalBlockSize,
    /// Of the pool.
    pub extent_size: ExtentSize,
    /// Bytes of the largest request.
    pub max_io_bytes: u32,
}

impl DeviceShape {
    /// As the driver takes it.
    #[must_use]
    pub fn params(&self) -> sys::ublk_params {
        let chunk_sectors = (self.extent_size.bytes() >> SECTOR_SHIFT) as u32;
        let sectors_a_block = DISCARD_GRANULARITY >> SECTOR_SHIFT;
        let max_discard_sectors = (u32::MAX >> SECTOR_SHIFT) / sectors_a_block * sectors_a_block;
        let logical_bs_shift = self.logical_block.bytes().trailing_zeros() as u8;
        sys::ublk_params {
            len: size_of::<sys::ublk_params>() as u32,
            types: sys::UBLK_PARAM_TYPE_BASIC | sys::UBLK_PARAM_TYPE_DISCARD,
            basic: sys::ublk_param_basic {
                attrs: sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA,
                logical_bs_shift,
                physical_bs_shift: PHYSICAL_BLOCK_SHIFT,
                io_opt_shift: PHYSICAL_BLOCK_SHIFT,
                io_min_shift: PHYSICAL_BLOCK_SHIFT,
                max_sectors: (self.max_io_bytes >> SECTOR_SHIFT).min(chunk_sectors),
                chunk_sectors,
                dev_sectors: self.size.bytes() >> SECTOR_SHIFT,
                virt_boundary_mask: 0,
            },
            discard: sys::ublk_param_discard {
                discard_alignment: 0,
                discard_granularity: DISCARD_GRANULARITY,
                max_discard_sectors,
                max_write_zeroes_sectors: max_discard_sectors,
                max_discard_segments: 1,
                reserved0: 0,
            },
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(extent_bytes: u64, logical_block: LogicalBlockSize) -> sys::ublk_params {
        DeviceShape {
            size: VolumeSize::from_bytes(10 << 30).expect("aligned"),
            logical_block,
            extent_size: ExtentSize::from_bytes(extent_bytes).expect("a valid size"),
            max_io_bytes: 512 << 10,
        }
        .params()
    }

    #[test]
    fn requests_neither_cross_an_extent_nor_exceed_a_buffer() {
        let params = shape(1 << 20, LogicalBlockSize::B4096);
        assert_eq!((params.basic.chunk_sectors, params.basic.max_sectors), (2048, 1024));
        let params = shape(64 << 10, LogicalBlockSize::B512);
        assert_eq!((params.basic.chunk_sectors, params.basic.max_sectors), (128, 128));
        assert_eq!((params.basic.logical_bs_shift, params.basic.physical_bs_shift), (9, 12));
    }

    #[test]
    fn the_write_cache_is_always_volatile_and_discards_fit_32_bits() {
        let params = shape(16 << 20, LogicalBlockSize::B4096);
        assert_eq!(params.basic.attrs, sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA);
        let most = u64::from(params.discard.max_discard_sectors) << SECTOR_SHIFT;
        assert!(most <= u64::from(u32::MAX) && most.is_multiple_of(4096));
        assert_eq!(params.discard.max_write_zeroes_sectors, params.discard.max_discard_sectors);
    }
}
