//! LUNs as the engine sees them: a layout, and a blocking device for work outside the I/O path.
//!
//! Requests never come through [`LunDevice`]: their I/O leaves the engine as
//! [`crate::io::Action`]s. Labels, journal recovery and formatting use it, before a volume
//! serves.

mod file;

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};

use lunar_types::{ExtentAddress, ExtentSize, LunIndex, PhysicalExtent};

pub use file::FileLun;

/// Bytes in front of the data area of a LUN: label, and room for what a later format needs.
pub const DATA_START_BYTES: u64 = 1 << 20;
/// Bytes behind the data area of a LUN.
pub const DATA_TAIL_BYTES: u64 = 1 << 20;
/// The smallest LUN: both ends and sixteen extents of the largest size.
pub const LUN_BYTES_MIN: u64 = 32 << 20;

/// An I/O on a LUN failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LunError {
    /// The device answered with this errno.
    #[error("the device answered with error {errno}")]
    Device {
        /// As the kernel gave it, positive.
        errno: i32,
    },
    /// The device moved fewer bytes than asked for.
    #[error("the device moved {moved} of {asked} bytes")]
    Short {
        /// Bytes moved.
        moved: u32,
        /// Bytes asked for.
        asked: u32,
    },
}

/// A LUN for blocking I/O; offsets and lengths are multiples of its logical block.
pub trait LunDevice {
    /// Reads into `buffer` from byte `at`.
    ///
    /// # Errors
    /// When the device fails or moves less.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), LunError>;

    /// Writes `bytes` at byte `at`; volatile until [`LunDevice::flush`].
    ///
    /// # Errors
    /// When the device fails or moves less.
    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), LunError>;

    /// Makes every completed write durable.
    ///
    /// # Errors
    /// When the device fails; what was written before may then be lost.
    fn flush(&self) -> Result<(), LunError>;

    /// The size in bytes.
    fn size_bytes(&self) -> u64;

    /// The logical block size in bytes.
    fn logical_block_bytes(&self) -> u32;
}

/// Where the extents of one LUN are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LunLayout {
    extent_size: ExtentSize,
    extents: u64,
}

impl LunLayout {
    /// The layout of a LUN of `size_bytes` in a pool of this extent size.
    #[must_use]
    pub fn new(extent_size: ExtentSize, size_bytes: u64) -> Self {
        let data = size_bytes.saturating_sub(DATA_START_BYTES + DATA_TAIL_BYTES);
        let extents = (data >> extent_size.shift()).min(PhysicalExtent::LIMIT);
        Self { extent_size, extents }
    }

    /// How many extents the data area holds.
    #[must_use]
    pub const fn extents(&self) -> u64 {
        self.extents
    }

    /// The byte at which an extent starts.
    ///
    /// # Panics
    /// When the extent lies beyond the data area: such an address would hit the label or fall off
    /// the device.
    #[must_use]
    pub fn byte_of(&self, extent: PhysicalExtent) -> u64 {
        let raw = extent.get();
        assert!(raw < self.extents, "extent {raw} of a LUN of {} extents", self.extents);
        DATA_START_BYTES + (raw << self.extent_size.shift())
    }
}

/// The layouts of a pool's LUNs, by index. It grows, and its clones are the same table: a LUN that
/// is added becomes known to everyone who has one.
#[derive(Clone, Debug)]
pub struct LunTable {
    layouts: Arc<[OnceLock<LunLayout>]>,
    /// Every LUN has a lower index.
    end: Arc<AtomicU16>,
}

impl LunTable {
    /// The table of these LUNs.
    #[must_use]
    pub fn new(luns: impl IntoIterator<Item = (LunIndex, LunLayout)>) -> Self {
        let layouts = (0..LunIndex::LIMIT).map(|_| OnceLock::new()).collect();
        let table = Self { layouts, end: Arc::default() };
        for (index, layout) in luns {
            table.add(index, layout);
        }
        table
    }

    /// Adds a LUN; one that is there already stays as it is.
    ///
    /// # Panics
    /// When the LUN is there with another layout: extents in use would move.
    pub fn add(&self, index: LunIndex, layout: LunLayout) {
        let known = self.layouts[usize::from(index.get())].get_or_init(|| layout);
        assert_eq!(*known, layout, "the layout of LUN {index} does not change");
        self.end.fetch_max(index.get() + 1, Ordering::AcqRel);
    }

    fn layout(&self, index: LunIndex) -> Option<&LunLayout> {
        self.layouts[usize::from(index.get())].get()
    }

    /// Whether the pool has this extent.
    #[must_use]
    pub fn contains(&self, at: ExtentAddress) -> bool {
        self.layout(at.lun).is_some_and(|layout| at.extent.get() < layout.extents)
    }

    /// The byte on its LUN at which an extent starts.
    ///
    /// # Panics
    /// When the pool has no such LUN or extent.
    #[must_use]
    pub fn byte_of(&self, at: ExtentAddress) -> u64 {
        let layout = self.layout(at.lun);
        layout.expect("the map names LUNs of its own pool only").byte_of(at.extent)
    }

    /// The indices of the LUNs.
    pub fn indices(&self) -> impl Iterator<Item = LunIndex> + '_ {
        let end = self.end.load(Ordering::Acquire);
        (0..end).map(LunIndex::new).filter(|index| self.layout(*index).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_stay_between_the_two_ends() {
        let size = (1 << 30) + 12_345;
        for shift in [16, 20, 24] {
            let extent = ExtentSize::from_bytes(1 << shift).expect("a valid size");
            let layout = LunLayout::new(extent, size);
            let last = PhysicalExtent::new(layout.extents() - 1);
            assert!(layout.byte_of(last) + extent.bytes() <= size - DATA_TAIL_BYTES);
            assert!(layout.byte_of(PhysicalExtent::new(0)) >= DATA_START_BYTES);
        }
    }

    #[test]
    #[should_panic(expected = "of a LUN of")]
    fn an_extent_beyond_the_data_area_is_never_addressed() {
        let layout = LunLayout::new(ExtentSize::DEFAULT, 64 << 20);
        let _ = layout.byte_of(PhysicalExtent::new(layout.extents()));
    }

    #[test]
    fn a_lun_that_is_added_is_known_to_every_clone() {
        let layout = LunLayout::new(ExtentSize::DEFAULT, 64 << 20);
        let table = LunTable::new([(LunIndex::new(2), layout)]);
        let clone = table.clone();
        let new = ExtentAddress::new(7, layout.extents() - 1);
        assert!(!clone.contains(new));
        table.add(LunIndex::new(7), layout);
        table.add(LunIndex::new(7), layout);
        assert!(clone.contains(new));
        assert_eq!(clone.byte_of(new), layout.byte_of(new.extent));
        assert_eq!(clone.indices().map(LunIndex::get).collect::<Vec<_>>(), [2, 7]);
    }

    #[test]
    #[should_panic(expected = "does not change")]
    fn the_layout_of_a_lun_never_changes() {
        let table = LunTable::new([]);
        table.add(LunIndex::new(0), LunLayout::new(ExtentSize::DEFAULT, 64 << 20));
        table.add(LunIndex::new(0), LunLayout::new(ExtentSize::DEFAULT, 65 << 20));
    }
}
