//! The 64-bit word that says where a slot's data is, in journal records and the dirty table.
//!
//! Shape: bits 0–35 extent, 36–45 LUN index, 46–60 zero, 61 opaque, 62–63 kind
//! (0 hole, 1 extent, 2 zero slot; 3 is invalid).

use lunar_types::{ExtentAddress, LunIndex, PhysicalExtent, Slot, SlotPlace};

const LUN_SHIFT: u32 = 36;
const OPAQUE: u64 = 1 << 61;
const KIND_SHIFT: u32 = 62;
const KIND_HOLE: u64 = 0;
const KIND_EXTENT: u64 = 1;
const KIND_ZERO: u64 = 2;

/// Where a slot's data is; `None` in place of a slot is a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Hole,
    Slot { place: SlotPlace, opaque: bool },
}

impl Place {
    pub(crate) fn of(slot: Option<&Slot>) -> Self {
        slot.map_or(Self::Hole, |slot| Self::Slot { place: slot.place, opaque: slot.opaque })
    }

    pub(crate) const fn encode(self) -> u64 {
        match self {
            Self::Hole => KIND_HOLE << KIND_SHIFT,
            Self::Slot { place, opaque } => {
                let opaque = if opaque { OPAQUE } else { 0 };
                opaque
                    | match place {
                        SlotPlace::Zero => KIND_ZERO << KIND_SHIFT,
                        SlotPlace::Extent(at) => {
                            (KIND_EXTENT << KIND_SHIFT)
                                | ((at.lun.get() as u64) << LUN_SHIFT)
                                | at.extent.get()
                        }
                    }
            }
        }
    }

    /// The place in a word, or nothing when the word is none of ours.
    pub(crate) fn decode(word: u64) -> Option<Self> {
        let opaque = word & OPAQUE != 0;
        let rest = word & !(OPAQUE | 3 << KIND_SHIFT);
        let place = match word >> KIND_SHIFT {
            KIND_HOLE if word == 0 => return Some(Self::Hole),
            KIND_ZERO if rest == 0 => SlotPlace::Zero,
            KIND_EXTENT => {
                let lun = LunIndex::try_new(u16::try_from(rest >> LUN_SHIFT).ok()?)?;
                let extent = PhysicalExtent::try_new(rest & (PhysicalExtent::LIMIT - 1))?;
                SlotPlace::Extent(ExtentAddress { lun, extent })
            }
            _ => return None,
        };
        Some(Self::Slot { place, opaque })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_their_word() {
        let top = ExtentAddress::new(LunIndex::LIMIT - 1, PhysicalExtent::LIMIT - 1);
        for place in [SlotPlace::Zero, SlotPlace::Extent(ExtentAddress::new(0, 0))]
            .into_iter()
            .chain([SlotPlace::Extent(top)])
        {
            for opaque in [false, true] {
                let place = Place::Slot { place, opaque };
                assert_eq!(Place::decode(place.encode()), Some(place));
            }
        }
        assert_eq!(Place::decode(Place::Hole.encode()), Some(Place::Hole));
    }

    #[test]
    fn words_that_are_none_of_ours_are_refused() {
        for word in [1, 3 << KIND_SHIFT, KIND_ZERO << KIND_SHIFT | 1, 1 << 46 | 1 << 62] {
            assert_eq!(Place::decode(word), None, "{word:#x}");
        }
    }
}
