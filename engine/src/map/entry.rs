//! One word a logical extent: what a request needs on the common path.

use lunar_types::{ExtentAddress, LunIndex, PhysicalExtent, counter_id};

use super::SplitIndex;

const KIND_SHIFT: u32 = 62;
const KIND_SOLID: u64 = 1;
const KIND_SPLIT: u64 = 2;
const GENERATION_SHIFT: u32 = 46;
const LUN_SHIFT: u32 = 36;

counter_id!(
    /// Counts the layers of an attached volume from its bottom; the head has the greatest.
    Generation,
    u16
);

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
    pub(super) const fn encode(self) -> u64 {
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
    pub(super) fn decode(word: u64) -> Self {
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
}
