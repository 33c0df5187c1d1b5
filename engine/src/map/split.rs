//! Slot lists: extents that are present in part, or in several layers.

use lunar_types::{BlockRange, ExtentAddress, LayerId, Slot};

use super::Generation;

/// Names a slot list of an arena.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SplitIndex(u32);

impl SplitIndex {
    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A slot of a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerSlot {
    /// In which layer it was found.
    pub generation: Generation,
    /// The layer whose writes made it.
    pub birth: LayerId,
    /// What it says.
    pub slot: Slot,
}

impl LayerSlot {
    /// Whether nothing of the older slots shows.
    #[must_use]
    pub fn hides_older(&self) -> bool {
        self.slot.opaque || self.slot.presence.is_full()
    }
}

/// What the layers say of one logical extent, the youngest slot first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Split {
    slots: Vec<LayerSlot>,
}

impl Split {
    /// The list of these slots, head first; slots that others hide are dropped.
    #[must_use]
    pub fn new(slots: impl IntoIterator<Item = LayerSlot>) -> Self {
        let mut kept = Vec::new();
        for layer in slots {
            let hides_older = layer.hides_older();
            kept.push(layer);
            if hides_older {
                break;
            }
        }
        Self { slots: kept }
    }

    /// The slots, head first.
    #[must_use]
    pub fn slots(&self) -> &[LayerSlot] {
        &self.slots
    }

    /// The slot that the head layer has itself.
    #[must_use]
    pub fn head(&self, head: Generation) -> Option<&Slot> {
        self.slots.first().filter(|layer| layer.generation == head).map(|layer| &layer.slot)
    }

    pub(crate) fn head_mut(&mut self, head: Generation) -> Option<&mut Slot> {
        let top = self.slots.first_mut().filter(|layer| layer.generation == head);
        top.map(|layer| &mut layer.slot)
    }

    /// Gives the head layer a slot, in place of the one it has.
    pub(crate) fn set_head(&mut self, head: Generation, birth: LayerId, slot: Option<Slot>) {
        if self.head(head).is_some() {
            self.slots.remove(0);
        }
        if let Some(slot) = slot {
            self.slots.insert(0, LayerSlot { generation: head, birth, slot });
        }
    }

    /// Takes a slot out that is not the head's own: by its extent, or by its birth if it has none.
    pub(crate) fn forget(&mut self, head: Generation, birth: LayerId, at: Option<ExtentAddress>) {
        self.slots.retain(|layer| {
            let is_it = match at {
                Some(at) => layer.slot.extent() == Some(at),
                None => layer.slot.extent().is_none() && layer.birth == birth,
            };
            layer.generation == head || !is_it
        });
    }

    /// Whether a layer below the head has something to say, were the head's slot not there.
    #[must_use]
    pub fn has_below(&self, head: Generation) -> bool {
        self.slots.iter().any(|layer| layer.generation != head)
    }

    /// How many extents it reads from at the most: those of the slots that no opaque one hides.
    #[must_use]
    pub fn shown_extents(&self) -> usize {
        let opaque = self.slots.iter().position(|layer| layer.slot.opaque);
        let shown = &self.slots[..opaque.map_or(self.slots.len(), |last| last + 1)];
        shown.iter().filter(|layer| layer.slot.extent().is_some()).count()
    }

    /// Where a block is read from; `None` reads as zeros.
    #[must_use]
    pub fn source(&self, block: u32) -> Option<ExtentAddress> {
        self.shown(block).map(|(_, at)| at)
    }

    /// The slot that shows a block: in which layer it was found, and its extent.
    fn shown(&self, block: u32) -> Option<(Generation, ExtentAddress)> {
        for layer in &self.slots {
            if let Some(at) = layer.slot.extent().filter(|_| layer.slot.presence.contains(block)) {
                return Some((layer.generation, at));
            }
            if layer.slot.opaque {
                return None;
            }
        }
        None
    }

    /// The one slot that shows every block of a range, if one does.
    #[must_use]
    pub fn one_source(&self, range: BlockRange) -> Option<(Generation, ExtentAddress)> {
        let first = self.shown(range.first())?;
        (range.first()..range.end()).all(|block| self.shown(block) == Some(first)).then_some(first)
    }

    /// Where the blocks of a range are read from, in runs of one source.
    pub fn runs(
        &self,
        range: BlockRange,
    ) -> impl Iterator<Item = (BlockRange, Option<ExtentAddress>)> + '_ {
        let mut next = range.first();
        std::iter::from_fn(move || {
            if next == range.end() {
                return None;
            }
            let first = next;
            let source = self.source(first);
            while next < range.end() && self.source(next) == source {
                next += 1;
            }
            Some((BlockRange::new(first, next - first), source))
        })
    }
}

/// Owns the slot lists of a volume; freed places are used again.
#[derive(Debug, Default)]
pub struct SplitArena {
    splits: Vec<Option<Split>>,
    free: Vec<SplitIndex>,
}

impl SplitArena {
    /// Takes a list in.
    pub fn insert(&mut self, split: Split) -> SplitIndex {
        if let Some(index) = self.free.pop() {
            self.splits[index.0 as usize] = Some(split);
            return index;
        }
        let index = u32::try_from(self.splits.len()).expect("fewer lists than extents");
        self.splits.push(Some(split));
        SplitIndex(index)
    }

    /// The list of this index.
    ///
    /// # Panics
    /// When it was removed.
    #[must_use]
    pub fn get(&self, index: SplitIndex) -> &Split {
        self.splits[index.0 as usize].as_ref().expect("a map entry names a live list")
    }

    pub(crate) fn get_mut(&mut self, index: SplitIndex) -> &mut Split {
        self.splits[index.0 as usize].as_mut().expect("a map entry names a live list")
    }

    /// Gives a list away.
    ///
    /// # Panics
    /// When it was removed.
    pub fn remove(&mut self, index: SplitIndex) -> Split {
        let split = self.splits[index.0 as usize].take();
        self.free.push(index);
        split.expect("a map entry names a live list")
    }

    /// How many lists there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.splits.len() - self.free.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use lunar_types::{ExtentSize, Presence};
    use proptest::prelude::*;

    use super::*;

    fn layer(generation: u16, at: u64, bits: u64, opaque: bool) -> LayerSlot {
        let size = ExtentSize::from_bytes(64 << 10).expect("valid");
        let presence = Presence::from_words(size, &[bits & 0xffff]).expect("16 blocks");
        let slot = Slot { presence, opaque, ..Slot::fresh(ExtentAddress::new(0, at), size) };
        let birth = LayerId::new(u64::from(generation));
        LayerSlot { generation: Generation::new(generation), birth, slot }
    }

    proptest! {
        /// Holds the runs against a naive walk over layers, block by block.
        #[test]
        fn runs_agree_with_a_walk_over_the_layers(
            bits in prop::collection::vec((any::<u16>(), prop::bool::weighted(0.2)), 0..5),
            (first, count) in (0_u32..16).prop_flat_map(|first| (Just(first), 1..=16 - first)),
        ) {
            let layers: Vec<LayerSlot> = bits
                .iter()
                .enumerate()
                .map(|(n, (bits, opaque))| layer(9 - n as u16, n as u64, u64::from(*bits), *opaque))
                .collect();
            let split = Split::new(layers.clone());
            let range = BlockRange::new(first, count);
            let mut next = first;
            for (run, source) in split.runs(range) {
                prop_assert_eq!(run.first(), next);
                for block in run.first()..run.end() {
                    let shown = layers
                        .iter()
                        .position(|l| l.slot.opaque || l.slot.presence.contains(block))
                        .map(|n| &layers[n])
                        .filter(|l| l.slot.presence.contains(block))
                        .and_then(|l| l.slot.extent());
                    prop_assert_eq!(source, shown, "block {}", block);
                }
                next = run.end();
            }
            prop_assert_eq!(next, first + count);
        }
    }

    #[test]
    fn the_head_slot_is_set_and_taken_without_touching_what_is_below() {
        let head = Generation::new(2);
        let mut split = Split::new([layer(1, 5, 0b11, false)]);
        assert!(split.head(head).is_none() && split.has_below(head));
        split.set_head(head, LayerId::new(2), Some(layer(2, 6, 0b10, false).slot));
        assert_eq!(split.source(1), Some(ExtentAddress::new(0, 6)));
        assert_eq!(split.source(0), Some(ExtentAddress::new(0, 5)));
        split.set_head(head, LayerId::new(2), None);
        assert_eq!(split.source(1), Some(ExtentAddress::new(0, 5)));
    }
}
