//! What the slots of a chain hide at one logical extent, judged from the uppermost down.
//!
//! Invariants:
//! - a slot that is not opaque is hidden when a full or opaque one is above it, or when each of
//!   its present blocks is present above it;
//! - an opaque slot is hidden only by a full or opaque one: it also says that blocks which it does
//!   not have are zeros, whatever is below.

use lunar_types::{Presence, Slot, SlotPlace};

/// The slots above a place in a chain, as far as they hide what is below.
#[derive(Default)]
pub(super) struct Cover {
    /// A full or opaque slot is among them.
    whole: bool,
    /// The blocks that are present in some of them.
    blocks: Vec<u64>,
}

/// Whether a slot says something of every block: with it nothing below shows.
pub(super) fn is_opaque(slot: &Slot) -> bool {
    slot.opaque || slot.place == SlotPlace::Zero
}

fn covers(above: &[u64], below: &Presence) -> bool {
    let above = above.iter().copied().chain(std::iter::repeat(0));
    below.words().iter().zip(above).all(|(below, above)| below & !above == 0)
}

impl Cover {
    /// Adds the slot that is next below.
    pub(super) fn add(&mut self, slot: &Slot) {
        self.whole |= is_opaque(slot) || slot.presence.is_full();
        let words = slot.presence.words();
        self.blocks.resize(self.blocks.len().max(words.len()), 0);
        for (all, word) in self.blocks.iter_mut().zip(words) {
            *all |= word;
        }
    }

    /// Whether they hide a slot that is below all of them.
    pub(super) fn hides(&self, slot: &Slot) -> bool {
        self.whole || (!is_opaque(slot) && covers(&self.blocks, &slot.presence))
    }
}

#[cfg(test)]
mod tests {
    use lunar_types::{BlockRange, ExtentAddress, ExtentSize};

    use super::*;

    const SIZE: ExtentSize = ExtentSize::DEFAULT;

    fn slot(first: u32, count: u32) -> Slot {
        let mut slot = Slot::fresh(ExtentAddress::new(0, 1), SIZE);
        slot.presence.insert(BlockRange::new(first, count));
        slot
    }

    fn opaque(slot: Slot) -> Slot {
        Slot { opaque: true, ..slot }
    }

    fn hidden_by(above: &[Slot], below: &Slot) -> bool {
        let mut cover = Cover::default();
        above.iter().for_each(|slot| cover.add(slot));
        cover.hides(below)
    }

    #[test]
    fn a_slot_is_hidden_by_a_whole_one_or_when_each_of_its_blocks_is_above() {
        let all = SIZE.blocks();
        let below = slot(60, 10);
        assert!(!hidden_by(&[], &below));
        assert!(!hidden_by(&[slot(60, 9)], &below));
        assert!(hidden_by(&[slot(60, 10)], &below));
        assert!(hidden_by(&[slot(0, 64), slot(64, 6)], &below), "by the union of two");
        assert!(hidden_by(&[slot(0, all)], &below));
        assert!(hidden_by(&[opaque(slot(0, 1))], &below));
        assert!(hidden_by(&[Slot::zero(SIZE)], &below));
        assert!(hidden_by(&[slot(0, all / 2), slot(all / 2, all / 2)], &slot(0, all)));
        assert!(hidden_by(&[], &Slot::fresh(ExtentAddress::new(0, 1), SIZE)), "it shows nothing");
    }

    #[test]
    fn an_opaque_slot_is_hidden_only_by_a_whole_one() {
        let all = SIZE.blocks();
        for below in [opaque(slot(0, 4)), opaque(slot(0, all)), Slot::zero(SIZE)] {
            assert!(!hidden_by(&[], &below));
            assert!(!hidden_by(&[slot(0, 4)], &below));
            assert!(!hidden_by(&[slot(0, all / 2), slot(all / 2, all / 2)], &below));
            assert!(hidden_by(&[slot(0, all)], &below));
            assert!(hidden_by(&[opaque(slot(9, 1))], &below));
            assert!(hidden_by(&[Slot::zero(SIZE)], &below));
        }
    }
}
