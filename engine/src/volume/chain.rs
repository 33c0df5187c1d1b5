//! What the layers below a head show, put together from the lowest layer up.
//!
//! Each slot comes with its birth: the layer whose writes made it. A merge moves slots from a
//! layer to the one above while a chain is read; who reads the lowest layer first may meet such a
//! slot twice, and never misses it. Design: `docs/layers.md`.
//!
//! Invariants:
//! - the slots of a logical extent count in descending order of birth, whichever layer they were
//!   read from;
//! - one birth at one logical extent is one slot;
//! - an extent belongs to one logical extent.

use std::collections::HashMap;

use lunar_types::{
    ExtentAddress, ExtentSize, LayerId, LogicalExtent, LunIndex, Presence, Slot, SlotPlace,
    VolumeSize,
};

use super::load::StartError;
use super::owned::Owned;
use super::slots::describe;
use crate::lun::LunTable;
use crate::map::{Entry, Generation, LayerSlot, ResolvedMap, Split, SplitArena, SplitIndex};

/// More layers than a generation can number, with one left for the head's own slots and one that
/// no layer has.
const LAYERS_MAX: usize = u16::MAX as usize - 2;

/// The layers of a volume as far as they were read; the last one is its head.
#[derive(Debug)]
pub struct Chain {
    extent_size: ExtentSize,
    luns: LunTable,
    map: ResolvedMap,
    splits: SplitArena,
    /// The birth of the slot behind each solid entry, which the entry itself forgets.
    births: Vec<u64>,
    used: UsedExtents,
    /// From the lowest up; generation 1 is the first.
    layers: Vec<LayerId>,
    has_slots: bool,
}

/// A bit for each extent that a slot has.
#[derive(Debug, Default)]
struct UsedExtents(HashMap<LunIndex, Vec<u64>>);

impl UsedExtents {
    /// Says whether the extent is new.
    fn insert(&mut self, at: ExtentAddress) -> bool {
        let words = self.0.entry(at.lun).or_default();
        let (word, bit) = ((at.extent.get() / 64) as usize, at.extent.get() % 64);
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        let is_new = words[word] >> bit & 1 == 0;
        words[word] |= 1 << bit;
        is_new
    }
}

/// What a finished chain is to the engine.
pub(super) struct Resolved {
    pub(super) map: ResolvedMap,
    pub(super) splits: SplitArena,
    pub(super) head: Generation,
    pub(super) owned: Owned,
    /// Whether anything may be below the head's own slots.
    pub(super) has_below: bool,
}

impl Chain {
    /// A chain without layers.
    ///
    /// # Errors
    /// When the volume has too many extents for a map.
    pub fn new(
        size: VolumeSize,
        extent_size: ExtentSize,
        luns: LunTable,
    ) -> Result<Self, StartError> {
        let map = ResolvedMap::holes(size.extents(extent_size))?;
        Ok(Self {
            extent_size,
            luns,
            births: vec![0; map.extents() as usize],
            map,
            splits: SplitArena::default(),
            used: UsedExtents::default(),
            layers: Vec::new(),
            has_slots: false,
        })
    }

    pub(super) const fn extent_size(&self) -> ExtentSize {
        self.extent_size
    }

    /// The layer that was begun last.
    pub(super) fn top(&self) -> Option<LayerId> {
        self.layers.last().copied()
    }

    /// Begins the next layer; the last one that is begun is the head.
    ///
    /// # Errors
    /// When there are too many, or it is not above the one before.
    pub fn begin(&mut self, layer: LayerId) -> Result<(), StartError> {
        if self.layers.len() == LAYERS_MAX {
            return Err(StartError::Layers { most: LAYERS_MAX });
        }
        match self.layers.last() {
            Some(&below) if below >= layer => Err(StartError::Order { layer, below }),
            _ => {
                self.layers.push(layer);
                Ok(())
            }
        }
    }

    /// Takes in a slot of the layer that was begun last. The head's own slots come when the volume
    /// is started.
    ///
    /// # Errors
    /// When the slot lies beyond the volume or the pool, its birth is not below the head's own
    /// slots, or its extent is another's.
    ///
    /// # Panics
    /// When no layer was begun.
    pub fn put(
        &mut self,
        logical: LogicalExtent,
        birth: LayerId,
        slot: Slot,
    ) -> Result<(), StartError> {
        let layer = *self.layers.last().expect("a layer is begun before its slots come");
        if birth > layer {
            return Err(StartError::Birth { logical, birth });
        }
        self.has_slots = true;
        let generation = u16::try_from(self.layers.len()).expect("checked when it was begun");
        self.put_slot(logical, LayerSlot { generation: Generation::new(generation), birth, slot })
    }

    /// Takes in the head's own slots, and ends.
    pub(super) fn resolve(
        mut self,
        own: impl IntoIterator<Item = (LogicalExtent, Slot)>,
    ) -> Result<Resolved, StartError> {
        let Some(&head_layer) = self.layers.last() else { return Err(StartError::NoLayer) };
        let head = u16::try_from(self.layers.len() + 1).expect("checked when they were begun");
        let head = Generation::new(head);
        for (logical, slot) in own {
            self.put_slot(logical, LayerSlot { generation: head, birth: head_layer, slot })?;
        }
        let has_below = self.layers.len() > 1 || self.has_slots;
        let owned = Owned::of_chain(&self.layers);
        Ok(Resolved { map: self.map, splits: self.splits, head, owned, has_below })
    }

    fn put_slot(&mut self, logical: LogicalExtent, new: LayerSlot) -> Result<(), StartError> {
        let extents = self.map.extents();
        if logical.get() >= extents {
            return Err(StartError::BeyondVolume { logical, extents });
        }
        let is_new = match new.slot.extent() {
            Some(at) if !self.luns.contains(at) => {
                return Err(StartError::BeyondPool { logical, at });
            }
            Some(at) => self.used.insert(at),
            None => true,
        };
        let (mut stack, index) = match self.map.load(logical) {
            Entry::Hole => (Vec::new(), None),
            Entry::Solid { generation, at } => {
                let birth = LayerId::new(self.births[logical.get() as usize]);
                if new.birth <= birth {
                    return Ok(());
                }
                let presence = Presence::full(self.extent_size);
                let slot = Slot { place: SlotPlace::Extent(at), opaque: false, presence };
                (vec![LayerSlot { generation, birth, slot }], None)
            }
            Entry::Split(index) => (self.splits.get(index).slots().to_vec(), Some(index)),
        };
        let place = stack.iter().position(|slot| slot.birth <= new.birth).unwrap_or(stack.len());
        if stack.get(place).is_some_and(|slot| slot.birth == new.birth) {
            return Ok(());
        }
        // What was left out because it is hidden may be met again, in the layer above.
        if stack.last().is_some_and(|lowest| lowest.hides_older() && lowest.birth > new.birth) {
            return Ok(());
        }
        if let Some(at) = new.slot.extent().filter(|_| !is_new) {
            return Err(StartError::MappedTwice { at, logical });
        }
        stack.insert(place, new);
        self.store(logical, index, Split::new(stack));
        Ok(())
    }

    fn store(&mut self, logical: LogicalExtent, index: Option<SplitIndex>, split: Split) {
        match (describe(&split), index) {
            (Some(entry), index) => {
                self.births[logical.get() as usize] = split.slots()[0].birth.get();
                self.map.store(logical, entry);
                index.map(|index| self.splits.remove(index));
            }
            (None, Some(index)) => *self.splits.get_mut(index) = split,
            (None, None) => {
                let index = self.splits.insert(split);
                self.map.store(logical, Entry::Split(index));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lunar_types::PhysicalExtent;
    use proptest::prelude::*;

    use super::*;
    use crate::lun::LunLayout;

    const EXTENTS: u64 = 3;

    fn size() -> ExtentSize {
        ExtentSize::from_bytes(64 << 10).expect("valid")
    }

    fn luns() -> LunTable {
        LunTable::new([(LunIndex::new(0), LunLayout::new(size(), 64 << 20))])
    }

    fn empty_chain() -> Chain {
        let bytes = VolumeSize::from_bytes(EXTENTS * size().bytes()).expect("valid");
        Chain::new(bytes, size(), luns()).expect("small")
    }

    /// Slots of one layer: by logical extent and birth.
    type Container = BTreeMap<(u64, u64), Slot>;

    fn slot(kind: u8, bits: u16, at: u64) -> Option<Slot> {
        let bits = if kind == 1 { u16::MAX } else { bits };
        let presence = Presence::from_words(size(), &[u64::from(bits)]).expect("16 blocks");
        let place = SlotPlace::Extent(ExtentAddress::new(0, at));
        match kind {
            0 => None,
            4 => Some(Slot::zero(size())),
            kind => Some(Slot { place, opaque: kind == 3, presence }),
        }
    }

    /// Where a block comes from, by a walk over all slots in descending order of birth.
    fn walk(slots: &Container, logical: u64, block: u32) -> Option<ExtentAddress> {
        for (_, slot) in slots.range((logical, 0)..(logical + 1, 0)).rev() {
            if slot.presence.contains(block) {
                return slot.extent();
            }
            if slot.opaque {
                return None;
            }
        }
        None
    }

    /// A merge moves what one layer has of a logical extent to the layer above; what that hides
    /// goes, as the metadata service has it.
    fn merge_one(layers: &mut [Container], from: usize, logical: u64) {
        let all = layers[from].clone();
        let here: Vec<_> = all.range((logical, 0)..(logical + 1, 0)).collect();
        for (&key, slot) in here.into_iter().rev() {
            layers[from].remove(&key);
            let mut above = layers[from + 1].range(key..(logical + 1, 0)).map(|(_, slot)| slot);
            let head_is_live = from + 2 == layers.len();
            let hides = |above: &Slot| above.opaque || above.presence.is_full();
            if head_is_live || !above.any(hides) {
                layers[from + 1].insert(key, slot.clone());
            }
        }
    }

    fn source(resolved: &Resolved, logical: u64, block: u32) -> Option<ExtentAddress> {
        match resolved.map.load(LogicalExtent::new(logical)) {
            Entry::Hole => None,
            Entry::Solid { at, .. } => Some(at),
            Entry::Split(index) => resolved.splits.get(index).source(block),
        }
    }

    /// From which layer what it has of which logical extent is merged, if anything is.
    fn merge_or_not() -> impl Strategy<Value = Option<(usize, u64)>> {
        prop::option::weighted(0.4, (0_usize..6, 0..EXTENTS))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Layers are read from the lowest up, one logical extent after the other, and merged at
        /// the same time: the outcome is what a walk over all slots shows.
        #[test]
        fn a_chain_that_is_merged_meanwhile_is_read_whole(
            births in prop::collection::vec(
                prop::collection::vec((0_u8..5, any::<u16>()), EXTENTS as usize), 1..7),
            cuts in prop::collection::vec(any::<bool>(), 6),
            merges in prop::collection::vec(merge_or_not(), 24),
        ) {
            let (mut layers, mut all) = (vec![Container::new()], Container::new());
            let mut ids = Vec::new();
            for (n, slots) in births.iter().enumerate() {
                let birth = n as u64 + 1;
                for (logical, (kind, bits)) in slots.iter().enumerate() {
                    let slot = slot(*kind, *bits, birth * EXTENTS + logical as u64);
                    if let Some(slot) = slot {
                        let key = (logical as u64, birth);
                        layers.last_mut().expect("one").insert(key, slot.clone());
                        all.insert(key, slot);
                    }
                }
                let is_last = n + 1 == births.len();
                if is_last || cuts[n] {
                    ids.push(LayerId::new(birth));
                    if !is_last {
                        layers.push(Container::new());
                    }
                }
            }
            let mut merges = merges.into_iter();
            let (mut chain, mut own) = (empty_chain(), Vec::new());
            for (n, id) in ids.iter().enumerate() {
                chain.begin(*id).expect("ascending");
                for logical in 0..EXTENTS {
                    if let Some(Some((from, extent))) = merges.next()
                        && from + 1 < layers.len()
                    {
                        merge_one(&mut layers, from, extent);
                    }
                    for ((_, birth), slot) in layers[n].range((logical, 0)..(logical + 1, 0)) {
                        let (at, birth) = (LogicalExtent::new(logical), LayerId::new(*birth));
                        if n + 1 == ids.len() && birth == *id {
                            own.push((at, slot.clone()));
                        } else {
                            chain.put(at, birth, slot.clone()).expect("a sound chain");
                        }
                    }
                }
            }
            let resolved = chain.resolve(own).expect("a sound chain");
            for (logical, block) in (0..EXTENTS).flat_map(|l| (0..16).map(move |b| (l, b))) {
                prop_assert_eq!(
                    source(&resolved, logical, block), walk(&all, logical, block),
                    "block {} of logical extent {}", block, logical
                );
            }
        }
    }

    #[test]
    fn damage_is_told_by_name() {
        let at = |extent| ExtentAddress::new(0, extent);
        let full = |extent| slot(1, 0, extent).expect("a slot");
        let (zero, one) = (LogicalExtent::new(0), LogicalExtent::new(1));
        let mut chain = empty_chain();
        let (low, high) = (LayerId::new(4), LayerId::new(7));
        chain.begin(low).expect("the first");
        assert!(matches!(chain.begin(low), Err(StartError::Order { .. })));
        chain.put(zero, low, full(3)).expect("sound");
        let twice = chain.put(one, low, full(3));
        let Err(StartError::MappedTwice { at: found, logical }) = twice else {
            panic!("{twice:?}")
        };
        assert_eq!((found, logical), (at(3), one));
        let late = chain.put(one, high, full(4));
        let Err(StartError::Birth { logical, birth }) = late else { panic!("{late:?}") };
        assert_eq!((logical, birth), (one, high));
        let beyond = chain.put(LogicalExtent::new(EXTENTS), low, full(5));
        assert!(matches!(beyond, Err(StartError::BeyondVolume { .. })));
        let outside = chain.put(one, low, full(PhysicalExtent::LIMIT - 1));
        assert!(matches!(outside, Err(StartError::BeyondPool { .. })));
        chain.begin(high).expect("above");
        chain.put(zero, LayerId::new(2), full(6)).expect("hidden by a younger one");
        assert!(matches!(empty_chain().resolve([]), Err(StartError::NoLayer)));
    }
}
