//! One word a logical extent: what a request needs on the common path.

use std::sync::atomic::{AtomicU64, Ordering};

use lunar_types::{ExtentAddress, LogicalExtent, LunIndex, PhysicalExtent};

use super::SplitIndex;

/// The most logical extents of an attached volume: 1 GiB of map.
const ENTRIES_MAX: u64 = 1 << 27;
const KIND_SHIFT: u32 = 62;
const KIND_SOLID: u64 = 1;
const KIND_SPLIT: u64 = 2;
const GENERATION_SHIFT: u32 = 46;
const LUN_SHIFT: u32 = 36;

/// Counts the layers of an attached volume from its bottom; the head has the greatest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation(u16);

impl Generation {
    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// What one word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// No layer has anything: reads as zeros.
    Hole,
    /// One extent holds every block.
    Solid {
        /// Of which layer.
        generation: Generation,
        /// Which extent.
        at: ExtentAddress,
    },
    /// Several slots, or one in part.
    Split(SplitIndex),
}

impl Entry {
    const fn encode(self) -> u64 {
        match self {
            Self::Hole => 0,
            Self::Solid { generation, at } => {
                (KIND_SOLID << KIND_SHIFT)
                    | ((generation.0 as u64) << GENERATION_SHIFT)
                    | ((at.lun.get() as u64) << LUN_SHIFT)
                    | at.extent.get()
            }
            Self::Split(index) => (KIND_SPLIT << KIND_SHIFT) | index.get() as u64,
        }
    }

    #[inline]
    fn decode(word: u64) -> Self {
        match word >> KIND_SHIFT {
            KIND_SOLID => Self::Solid {
                generation: Generation((word >> GENERATION_SHIFT) as u16),
                at: ExtentAddress {
                    lun: LunIndex::new((word >> LUN_SHIFT) as u16 & (LunIndex::LIMIT - 1)),
                    extent: PhysicalExtent::new(word & (PhysicalExtent::LIMIT - 1)),
                },
            },
            KIND_SPLIT => Self::Split(SplitIndex::new(word as u32)),
            _ => Self::Hole,
        }
    }
}

/// The volume has too many extents to be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a volume of {extents} extents needs more than 1 GiB of map; the limit is {ENTRIES_MAX} \
     extents: use a pool with larger extents"
)]
pub struct ResolvedMapError {
    extents: u64,
}

/// One word for each logical extent of a volume; read without a lock, changed under the volume's.
#[derive(Debug)]
pub struct ResolvedMap {
    entries: Box<[AtomicU64]>,
}

impl ResolvedMap {
    /// A map of `extents` holes.
    ///
    /// # Errors
    /// When that is more than a map can have.
    pub fn holes(extents: u64) -> Result<Self, ResolvedMapError> {
        if extents > ENTRIES_MAX {
            return Err(ResolvedMapError { extents });
        }
        Ok(Self { entries: (0..extents).map(|_| AtomicU64::new(0)).collect() })
    }

    /// How many logical extents there are.
    #[must_use]
    pub fn extents(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The entry of a logical extent.
    #[must_use]
    #[inline]
    pub fn load(&self, logical: LogicalExtent) -> Entry {
        Entry::decode(self.entries[logical.get() as usize].load(Ordering::Acquire))
    }

    /// Changes an entry; the caller holds the lock of the volume.
    pub fn store(&self, logical: LogicalExtent, entry: Entry) {
        self.entries[logical.get() as usize].store(entry.encode(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_their_word() {
        let top = ExtentAddress::new(LunIndex::LIMIT - 1, PhysicalExtent::LIMIT - 1);
        for entry in [
            Entry::Hole,
            Entry::Solid { generation: Generation(0), at: ExtentAddress::new(0, 0) },
            Entry::Solid { generation: Generation(u16::MAX), at: top },
            Entry::Split(SplitIndex::new(0)),
            Entry::Split(SplitIndex::new(u32::MAX)),
        ] {
            assert_eq!(Entry::decode(entry.encode()), entry);
        }
    }

    #[test]
    fn a_map_beyond_its_memory_is_refused() {
        assert!(ResolvedMap::holes(ENTRIES_MAX + 1).is_err());
    }
}
