//! What the slots of a chain show at one logical extent, added from the uppermost down.
//!
//! Invariants:
//! - of each block the first slot that says something of it counts: one that has it present, or an
//!   opaque one, which says zeros;
//! - what was said is never taken back by a slot further below.

use lunar_types::{ExtentSize, Presence, Slot};

use super::cover::is_opaque;

/// Blocks that are present, and those of which something is said, a bit each.
#[derive(Clone)]
pub(super) struct Shown {
    present: Vec<u64>,
    said: Vec<u64>,
}

impl Shown {
    /// Nothing is said yet of an extent of this size.
    pub(super) fn nothing(size: ExtentSize) -> Self {
        let words = Presence::word_count(size);
        Self { present: vec![0; words], said: vec![0; words] }
    }

    /// Adds the slot that is next below; gives whether a block of it shows.
    pub(super) fn add(&mut self, slot: &Slot) -> bool {
        let mut shows = false;
        let words = slot.presence.words().iter();
        for ((present, said), word) in self.present.iter_mut().zip(&mut self.said).zip(words) {
            let fresh = word & !*said;
            shows |= fresh != 0;
            *present |= fresh;
            *said |= word;
        }
        if is_opaque(slot) {
            self.said.fill(u64::MAX);
        }
        shows
    }

    /// Whether a block is present.
    pub(super) fn has(&self, block: u32) -> bool {
        bit(&self.present, block)
    }

    /// Whether something is said of a block.
    pub(super) fn says(&self, block: u32) -> bool {
        bit(&self.said, block)
    }

    /// Whether what is further below can show nowhere.
    pub(super) fn is_complete(&self, size: ExtentSize) -> bool {
        (0..size.blocks()).all(|block| self.says(block))
    }

    /// Whether what is below decides of a block of which the other one says something: then both
    /// cannot be compared without it.
    pub(super) fn leaves_open(&self, other: &Self) -> bool {
        self.said.iter().zip(&other.said).any(|(mine, other)| other & !mine != 0)
    }
}

fn bit(words: &[u64], block: u32) -> bool {
    words[block as usize / 64] & 1 << (block % 64) != 0
}

#[cfg(test)]
mod tests {
    use lunar_types::{BlockRange, ExtentAddress};

    use super::*;

    const SIZE: ExtentSize = ExtentSize::DEFAULT;

    fn slot(first: u32, count: u32) -> Slot {
        let mut slot = Slot::fresh(ExtentAddress::new(0, 1), SIZE);
        slot.presence.insert(BlockRange::new(first, count));
        slot
    }

    #[test]
    fn the_first_slot_that_says_something_counts() {
        let mut shown = Shown::nothing(SIZE);
        assert!(!shown.says(60));
        assert!(shown.add(&slot(60, 10)));
        assert!(!shown.add(&slot(62, 8)), "it is covered");
        assert!(shown.add(&Slot { opaque: true, ..slot(69, 2) }), "block 70");
        assert!(!shown.add(&slot(0, SIZE.blocks())), "below an opaque one nothing shows");
        let present: Vec<_> = (0..SIZE.blocks()).filter(|block| shown.has(*block)).collect();
        assert_eq!(present, (60..71).collect::<Vec<_>>());
        assert!(shown.is_complete(SIZE) && shown.says(200) && !shown.has(200));
    }

    #[test]
    fn what_is_below_counts_where_only_the_other_one_says_something() {
        let (mut one, mut other) = (Shown::nothing(SIZE), Shown::nothing(SIZE));
        one.add(&slot(0, 4));
        other.add(&slot(0, 3));
        assert!(!one.leaves_open(&other) && other.leaves_open(&one));
        other.add(&Slot::zero(SIZE));
        assert!(one.leaves_open(&other) && !other.leaves_open(&one));
    }
}
