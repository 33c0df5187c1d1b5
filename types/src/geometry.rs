//! Blocks, extents and sizes of volumes, and the checked conversions between them.

use std::fmt;

use crate::{ByteCount, LogicalExtent};

/// log2 of [`BLOCK_BYTES`].
pub const BLOCK_SHIFT: u32 = 12;
/// The block: the unit of presence, in bytes.
pub const BLOCK_BYTES: u64 = 1 << BLOCK_SHIFT;
/// The largest volume, in bytes: 4 PiB.
pub const VOLUME_BYTES_MAX: u64 = 1 << 52;
/// Where the data area of a LUN begins, in bytes; the label is before it.
pub const LUN_DATA_START_BYTES: u64 = 1 << 20;
/// What the data area leaves free at the end of a LUN, in bytes, for the label's second copy.
pub const LUN_DATA_TAIL_BYTES: u64 = 1 << 20;

/// Position of a 4 KiB block from the start of a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockIndex(u64);

impl BlockIndex {
    /// Wraps the raw position.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw position.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A number of 4 KiB blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BlockCount(u64);

impl BlockCount {
    /// Wraps the raw count.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw count.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The same amount in bytes.
    #[must_use]
    pub const fn bytes(self) -> ByteCount {
        ByteCount::new(self.0 << BLOCK_SHIFT)
    }
}

/// Blocks of one extent, counted from the extent's start; never empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlockRange {
    first: u32,
    count: u32,
}

impl BlockRange {
    /// `count` blocks from block `first` of an extent.
    ///
    /// # Panics
    /// When `count` is zero: no operation touches nothing.
    #[must_use]
    pub const fn new(first: u32, count: u32) -> Self {
        assert!(count > 0, "a block range holds at least one block");
        Self { first, count }
    }

    /// The first block.
    #[must_use]
    pub const fn first(self) -> u32 {
        self.first
    }

    /// How many blocks.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// One past the last block.
    #[must_use]
    pub const fn end(self) -> u32 {
        self.first + self.count
    }
}

/// The size of an extent: the unit of allocation, fixed for a pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExtentSize {
    shift: u32,
}

/// A number that cannot be an extent size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("extent size {bytes} B is not a power of two from 64 KiB to 16 MiB")]
pub struct ExtentSizeError {
    bytes: u64,
}

impl ExtentSize {
    /// The default: 1 MiB.
    pub const DEFAULT: Self = Self { shift: 20 };
    const SHIFT_MIN: u32 = 16;
    const SHIFT_MAX: u32 = 24;

    /// The size of `bytes` bytes.
    ///
    /// # Errors
    /// When it is no power of two from 64 KiB to 16 MiB.
    pub const fn from_bytes(bytes: u64) -> Result<Self, ExtentSizeError> {
        let shift = bytes.trailing_zeros();
        if bytes.is_power_of_two() && shift >= Self::SHIFT_MIN && shift <= Self::SHIFT_MAX {
            Ok(Self { shift })
        } else {
            Err(ExtentSizeError { bytes })
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// log2 of the size in bytes.
    #[must_use]
    pub const fn shift(self) -> u32 {
        self.shift
    }

    /// Blocks in an extent: 16 to 4,096.
    #[must_use]
    pub const fn blocks(self) -> u32 {
        1 << (self.shift - BLOCK_SHIFT)
    }

    /// How many extents of this size the data area of a LUN of `bytes` bytes holds.
    #[must_use]
    pub const fn data_extents(self, bytes: u64) -> u64 {
        bytes.saturating_sub(LUN_DATA_START_BYTES + LUN_DATA_TAIL_BYTES) >> self.shift
    }

    /// The logical extent that holds the byte at `offset`, and the byte's place in it.
    #[must_use]
    pub const fn split(self, offset: u64) -> (LogicalExtent, u32) {
        let within = offset & (self.bytes() - 1);
        (LogicalExtent::new(offset >> self.shift), within as u32)
    }
}

impl fmt::Display for ExtentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ByteCount::new(self.bytes()).fmt(f)
    }
}

/// The logical block size that a volume's device advertises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum LogicalBlockSize {
    /// 512 bytes, on request, where every LUN of the pool allows it.
    B512,
    /// 4,096 bytes, the default.
    #[default]
    B4096,
}

/// A number that cannot be a logical block size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("logical block size {bytes} B is not supported: choose 512 or 4096")]
pub struct LogicalBlockSizeError {
    bytes: u64,
}

impl LogicalBlockSize {
    /// The size of `bytes` bytes.
    ///
    /// # Errors
    /// When it is neither 512 nor 4,096.
    pub const fn from_bytes(bytes: u64) -> Result<Self, LogicalBlockSizeError> {
        match bytes {
            512 => Ok(Self::B512),
            4096 => Ok(Self::B4096),
            _ => Err(LogicalBlockSizeError { bytes }),
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }
}

/// The most logical extents of a volume that can be attached: a map of 1 GiB.
pub const VOLUME_EXTENTS_MAX: u64 = 1 << 27;

/// The size of a volume: a whole number of blocks, at least one, at most 4 PiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumeSize(BlockCount);

/// A number that cannot be the size of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VolumeSizeError {
    /// Zero bytes were asked for.
    #[error("a volume of 0 B cannot be made: ask for at least 4 KiB")]
    Zero,
    /// Not a multiple of the block.
    #[error("volume size {bytes} B is not a multiple of 4096 B: the next size is {next} B")]
    Unaligned {
        /// What was asked for.
        bytes: u64,
        /// The next size that would do.
        next: u64,
    },
    /// Beyond the limit.
    #[error("volume size {bytes} B is beyond the limit of 4 PiB ({VOLUME_BYTES_MAX} B)")]
    TooLarge {
        /// What was asked for.
        bytes: u64,
    },
}

impl VolumeSize {
    /// The size of `bytes` bytes.
    ///
    /// # Errors
    /// Zero, unaligned to 4 KiB, or beyond 4 PiB.
    pub const fn from_bytes(bytes: u64) -> Result<Self, VolumeSizeError> {
        if bytes == 0 {
            return Err(VolumeSizeError::Zero);
        }
        if bytes > VOLUME_BYTES_MAX {
            return Err(VolumeSizeError::TooLarge { bytes });
        }
        if !bytes.is_multiple_of(BLOCK_BYTES) {
            let next = bytes.next_multiple_of(BLOCK_BYTES);
            return Err(VolumeSizeError::Unaligned { bytes, next });
        }
        Ok(Self(BlockCount::new(bytes >> BLOCK_SHIFT)))
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.get() << BLOCK_SHIFT
    }

    /// The size in blocks.
    #[must_use]
    pub const fn blocks(self) -> BlockCount {
        self.0
    }

    /// How many logical extents cover the volume; the last may be covered in part.
    #[must_use]
    pub const fn extents(self, size: ExtentSize) -> u64 {
        self.bytes().div_ceil(size.bytes())
    }
}

impl fmt::Display for VolumeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ByteCount::new(self.bytes()).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extent_sizes_outside_the_range_are_refused() {
        for bytes in [0, 1, 4096, 32 << 10, 3 << 20, 32 << 20, u64::MAX] {
            assert!(ExtentSize::from_bytes(bytes).is_err(), "{bytes}");
        }
        for bytes in [64 << 10, 1 << 20, 16 << 20] {
            assert_eq!(ExtentSize::from_bytes(bytes).map(ExtentSize::bytes), Ok(bytes));
        }
    }

    #[test]
    fn volume_sizes_of_zero_unaligned_and_beyond_the_limit_are_refused() {
        assert_eq!(VolumeSize::from_bytes(0), Err(VolumeSizeError::Zero));
        assert_eq!(
            VolumeSize::from_bytes(4097),
            Err(VolumeSizeError::Unaligned { bytes: 4097, next: 8192 })
        );
        let bytes = VOLUME_BYTES_MAX + 4096;
        assert_eq!(VolumeSize::from_bytes(bytes), Err(VolumeSizeError::TooLarge { bytes }));
        assert!(VolumeSize::from_bytes(VOLUME_BYTES_MAX).is_ok());
    }

    #[test]
    fn a_partly_covered_extent_counts() {
        let size = VolumeSize::from_bytes((1 << 20) + 4096).expect("aligned");
        assert_eq!(size.extents(ExtentSize::DEFAULT), 2);
    }

    #[test]
    fn an_offset_splits_at_the_extent_border() {
        let (extent, within) = ExtentSize::DEFAULT.split((3 << 20) + 8192);
        assert_eq!((extent, within), (LogicalExtent::new(3), 8192));
    }
}
