//! The head layer's slots: every change of the map, the dirty table and the marks happens here,
//! so that the three cannot differ.
//!
//! Invariant: an extent that has a mark has an entry in the dirty table, and the other way round.

use lunar_types::{BlockRange, ExtentAddress, Freed, LogicalExtent, Presence, Slot, SlotPlace};

use super::Volume;
use super::core::{Core, Park};
use crate::map::{Entry, LayerSlot, Split};

/// What is known of a slot that may differ from the committed one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    /// Rises with every change of any slot.
    pub(super) version: u64,
    /// The version that the metadata service has.
    pub(super) committed: u64,
    /// Presence words changed since the last capture, one bit a word.
    pub(super) words: u64,
    /// Writes under way that will set bits here.
    pub(super) pins: u32,
}

/// Extents whose unmapping is not yet committed, by how far it has come.
#[derive(Debug, Default)]
pub(super) struct Limbo {
    /// Unmapped since the last capture.
    pub(super) unmapped: Vec<ExtentAddress>,
    /// The unmapping is in the round under way.
    pub(super) captured: Vec<ExtentAddress>,
    /// The unmapping is journalled.
    pub(super) journalled: Vec<ExtentAddress>,
    /// The unmapping is in the checkpoint under way.
    pub(super) committing: Vec<ExtentAddress>,
    /// Committed; may be seen by requests of a period.
    pub(super) draining: Vec<Draining>,
    /// Seen by nobody, and not to be used again: for the node to give back.
    pub(super) returned: Vec<ExtentAddress>,
    /// What becomes of what is committed from now on.
    pub(super) freed: Freed,
}

/// An extent that the committed map names no more.
#[derive(Debug)]
pub(super) struct Draining {
    /// Requests of this period may see it.
    period: u64,
    at: ExtentAddress,
    freed: Freed,
}

impl Limbo {
    /// These are in the map no more; requests of this period may still see them.
    pub(super) fn drain(&mut self, period: u64, extents: impl IntoIterator<Item = ExtentAddress>) {
        let freed = self.freed;
        self.draining.extend(extents.into_iter().map(|at| Draining { period, at, freed }));
    }

    /// Of what drains, that which no request sees any more: what may be used again. The rest is to
    /// be given back.
    pub(super) fn drained(&mut self, has_passed: impl Fn(u64) -> bool) -> Drained {
        let ready = self.draining.extract_if(.., |one| has_passed(one.period));
        let (reusable, returned): (Vec<_>, Vec<_>) =
            ready.partition(|one| one.freed == Freed::UseAgain);
        let is_any = !reusable.is_empty() || !returned.is_empty();
        self.returned.extend(returned.into_iter().map(|one| one.at));
        Drained { is_any, reusable: reusable.into_iter().map(|one| one.at).collect() }
    }

    /// Whether nothing is on its way to the reserve, or to be given back.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.unmapped.len()
            + self.captured.len()
            + self.journalled.len()
            + self.committing.len()
            + self.draining.len()
    }
}

/// What came out of the limbo.
pub(super) struct Drained {
    /// Something came out of it.
    pub(super) is_any: bool,
    /// This may be used again.
    pub(super) reusable: Vec<ExtentAddress>,
}

impl Core {
    /// The extent that the head layer has for a logical extent.
    pub(super) fn head_extent(
        &self,
        volume: &Volume,
        logical: LogicalExtent,
    ) -> Option<ExtentAddress> {
        match volume.map.load(logical) {
            Entry::Hole => None,
            Entry::Solid { generation, at } => (generation == volume.head()).then_some(at),
            Entry::Split(index) => self.splits.get(index).head(volume.head())?.extent(),
        }
    }

    /// The head layer's slot of a logical extent.
    pub(super) fn head_slot(&self, volume: &Volume, logical: LogicalExtent) -> Option<Slot> {
        match volume.map.load(logical) {
            Entry::Hole => None,
            Entry::Solid { generation, at } if generation == volume.head() => {
                Some(solid_slot(volume, at))
            }
            Entry::Solid { .. } => None,
            Entry::Split(index) => self.splits.get(index).head(volume.head()).cloned(),
        }
    }

    /// Where every block of a range is written in place: in the one slot that shows them all, if
    /// nobody else can see it.
    pub(super) fn in_place(
        &self,
        volume: &Volume,
        logical: LogicalExtent,
        blocks: BlockRange,
    ) -> Option<ExtentAddress> {
        match volume.map.load(logical) {
            Entry::Hole => None,
            Entry::Solid { generation, at } => volume.owns(generation).then_some(at),
            Entry::Split(index) => {
                let (generation, at) = self.splits.get(index).one_source(blocks)?;
                volume.owns(generation).then_some(at)
            }
        }
    }

    /// Whether the head has this block itself.
    pub(super) fn head_has(&self, volume: &Volume, logical: LogicalExtent, block: u32) -> bool {
        match volume.map.load(logical) {
            Entry::Hole => false,
            Entry::Solid { generation, .. } => generation == volume.head(),
            Entry::Split(index) => {
                let head = self.splits.get(index).head(volume.head());
                head.is_some_and(|slot| slot.presence.contains(block))
            }
        }
    }

    /// Where a block is read from; `None` reads as zeros.
    pub(super) fn source(
        &self,
        volume: &Volume,
        logical: LogicalExtent,
        block: u32,
    ) -> Option<ExtentAddress> {
        match volume.map.load(logical) {
            Entry::Hole => None,
            Entry::Solid { at, .. } => Some(at),
            Entry::Split(index) => self.splits.get(index).source(block),
        }
    }

    /// Whether a block that the head lost could be seen in a layer below. Solid entries and full
    /// heads have forgotten what is below them, so if there is anything the answer is yes.
    pub(super) fn may_have_below(&self, volume: &Volume, logical: LogicalExtent) -> bool {
        self.has_below
            && match volume.map.load(logical) {
                Entry::Hole => false,
                Entry::Solid { .. } => true,
                Entry::Split(index) => {
                    let split = self.splits.get(index);
                    let head = split.head(volume.head());
                    split.has_below(volume.head()) || head.is_some_and(|s| s.presence.is_full())
                }
            }
    }

    /// Has a dirty entry for a logical extent, so that its slot may change.
    pub(super) fn ensure_entry(
        &mut self,
        volume: &Volume,
        logical: LogicalExtent,
    ) -> Result<(), Park> {
        if self.marks.contains_key(&logical) {
            return Ok(());
        }
        let slot = self.head_slot(volume, logical);
        self.table.insert(logical, slot.as_ref()).map_err(|_| Park::Table)?;
        let version = self.next_version();
        let mark = Mark { version, committed: version, words: 0, pins: 0 };
        self.marks.insert(logical, mark);
        Ok(())
    }

    fn next_version(&mut self) -> u64 {
        self.last_version += 1;
        self.last_version
    }

    /// Keeps a dirty entry until a write has ended.
    pub(super) fn pin_entry(&mut self, logical: LogicalExtent) {
        self.marks.get_mut(&logical).expect("a write has its entry first").pins += 1;
    }

    pub(super) fn unpin_entry(&mut self, logical: LogicalExtent) {
        let mark = self.marks.get_mut(&logical).expect("a pinned entry stays");
        mark.pins -= 1;
        self.free_entry_if_committed(logical);
    }

    /// Frees a dirty entry that the metadata service has and no write is about to change.
    pub(super) fn free_entry_if_committed(&mut self, logical: LogicalExtent) {
        let Some(mark) = self.marks.get(&logical) else { return };
        if mark.pins == 0 && mark.version == mark.committed {
            self.marks.remove(&logical);
            self.table.remove(logical);
        }
    }

    /// Frees every dirty entry that the metadata service has, also those of requests that were
    /// parked before they changed anything.
    pub(super) fn free_committed_entries(&mut self) {
        let all: Vec<LogicalExtent> = self.marks.keys().copied().collect();
        for logical in all {
            self.free_entry_if_committed(logical);
        }
    }

    /// The slot has changed; `words` has one bit for each presence word that did.
    fn mark_changed(&mut self, logical: LogicalExtent, words: u64) {
        let version = self.next_version();
        let mark = self.marks.get_mut(&logical).expect("a slot changes with its entry there");
        mark.version = version;
        mark.words |= words;
        self.unflushed.insert(logical);
    }

    /// Gives the head an extent with no block present. The dirty table has it before any use.
    pub(super) fn allocate(&mut self, volume: &Volume, logical: LogicalExtent, at: ExtentAddress) {
        assert!(volume.spec.luns.contains(at), "extent {at} is not in the pool");
        let before = self.head_slot(volume, logical);
        assert!(before.as_ref().is_none_or(|slot| slot.extent().is_none()), "one extent a slot");
        let opaque = before.is_some_and(|slot| slot.opaque);
        let slot = Slot { opaque, ..Slot::fresh(at, volume.spec.extent_size) };
        self.table.set_place(logical, Some(&slot));
        let birth = self.owned.head();
        self.change_head(volume, logical, |split, head| split.set_head(head, birth, Some(slot)));
        self.mark_changed(logical, 1);
        self.stats.allocations += 1;
    }

    pub(super) fn set_present(&mut self, volume: &Volume, logical: LogicalExtent, at: BlockRange) {
        self.change_presence(volume, logical, at, |presence| presence.insert(at));
    }

    pub(super) fn set_absent(&mut self, volume: &Volume, logical: LogicalExtent, at: BlockRange) {
        self.change_presence(volume, logical, at, |presence| presence.remove(at));
    }

    fn change_presence(
        &mut self,
        volume: &Volume,
        logical: LogicalExtent,
        range: BlockRange,
        change: impl FnOnce(&mut Presence),
    ) {
        let mut words = 0;
        let mut after = None;
        self.change_head(volume, logical, |split, head| {
            let slot = split.head_mut(head).expect("presence changes where the head has an extent");
            words = slot.presence.words_of(range).fold(0, |bits, (word, _)| bits | 1 << word);
            change(&mut slot.presence);
            after = Some(slot.presence.clone());
        });
        let after = after.expect("the change ran");
        self.has_new_cover |= after.is_full();
        let changed = after.words_of(range).map(|(word, _)| word);
        self.table.set_words(logical, &after, changed);
        self.mark_changed(logical, words);
    }

    /// Takes the head's extent away. What is left is a hole, or a ZERO slot where a layer below
    /// might show through.
    pub(super) fn unmap(&mut self, volume: &Volume, logical: LogicalExtent) {
        let before = self.head_slot(volume, logical);
        let is_opaque = before.as_ref().is_some_and(|slot| slot.opaque);
        let hides = is_opaque || self.may_have_below(volume, logical);
        let after = hides.then(|| Slot::zero(volume.spec.extent_size));
        self.table.set_place(logical, after.as_ref());
        let birth = self.owned.head();
        self.change_head(volume, logical, |split, head| split.set_head(head, birth, after));
        self.mark_changed(logical, 1);
        self.limbo.unmapped.extend(before.and_then(|slot| slot.extent()));
        self.has_new_cover |= hides;
    }

    /// Changes a slot list and stores the entry that describes the outcome best.
    pub(super) fn change_head(
        &mut self,
        volume: &Volume,
        logical: LogicalExtent,
        change: impl FnOnce(&mut Split, crate::map::Generation),
    ) {
        let mut split = match volume.map.load(logical) {
            Entry::Hole => Split::default(),
            Entry::Solid { generation, at } => {
                // Whatever its birth was: it is the lowest of the list, and the head is above it.
                let birth = self.owned.head();
                Split::new([LayerSlot { generation, birth, slot: solid_slot(volume, at) }])
            }
            Entry::Split(index) => std::mem::take(self.splits.get_mut(index)),
        };
        change(&mut split, volume.head());
        let index = match volume.map.load(logical) {
            Entry::Split(index) => Some(index),
            _ => None,
        };
        let entry = describe(&split);
        match (entry, index) {
            (Some(entry), index) => {
                volume.map.store(logical, entry);
                if let Some(index) = index {
                    self.splits.remove(index);
                }
            }
            (None, Some(index)) => *self.splits.get_mut(index) = split,
            (None, None) => {
                let index = self.splits.insert(split);
                volume.map.store(logical, Entry::Split(index));
            }
        }
    }
}

fn solid_slot(volume: &Volume, at: ExtentAddress) -> Slot {
    let presence = Presence::full(volume.spec.extent_size);
    Slot { place: SlotPlace::Extent(at), opaque: false, presence }
}

/// The entry that says all that a slot list says, if one word can.
pub(super) fn describe(split: &Split) -> Option<Entry> {
    match split.slots() {
        [] => Some(Entry::Hole),
        [LayerSlot { generation, slot, .. }, ..] if slot.presence.is_full() && !slot.opaque => {
            slot.extent().map(|at| Entry::Solid { generation: *generation, at })
        }
        _ => None,
    }
}
