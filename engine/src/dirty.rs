//! The dirty table: every slot that differs from the committed one, in memory that outlives a
//! killed fs-core (a tmpfs file, mapped).
//!
//! Shape: a header of 64 words, then entries of `2 + words of a presence bitmap` words each:
//! logical extent + 1 (0 is a free entry), place, presence words. Bytes:
//! `docs/format/dirty-table.md`.
//!
//! Invariants and kill order (a kill may fall between any two stores, never inside one):
//! - an entry becomes visible by its first word, stored last; it is freed by that word, stored
//!   first;
//! - a new place is stored after its presence words were cleared, so bits of one extent are never
//!   read as bits of another;
//! - a hole's and a ZERO slot's presence words mean nothing.
//!
//! It does not survive the loss of the node and does not have to: that is the journal's part.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lunar_types::{
    Epoch, ExtentSize, LayerId, LogicalExtent, NodeIncarnation, Presence, Slot, VolumeId,
};

use crate::place::Place;

const MAGIC: u64 = u64::from_le_bytes(*b"LUNDIRTY");
const VERSION: u64 = 1;
const HEADER_WORDS: usize = 64;
const ENTRY_HEAD_WORDS: usize = 2;
/// Header word of the layer that the entries speak of; changes only while no entry is in use.
const LAYER_WORD: usize = 4;
/// Header word that is 1 from the moment a flush, journal write or commit failed for good.
const POISON_WORD: usize = 10;

/// Memory of 64-bit words, shared with nobody but a successor of this process.
pub trait SharedWords: Send + Sync {
    /// The words.
    fn words(&self) -> &[AtomicU64];
}

impl SharedWords for Box<[AtomicU64]> {
    fn words(&self) -> &[AtomicU64] {
        self
    }
}

/// Whose table it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirtyIdentity {
    /// The volume.
    pub volume: VolumeId,
    /// Its head layer; that of a table may change.
    pub layer: LayerId,
    /// The epoch of the attachment.
    pub epoch: Epoch,
    /// The node that serves it.
    pub holder: NodeIncarnation,
    /// The extent size of the pool.
    pub extent_size: ExtentSize,
}

impl DirtyIdentity {
    fn header(&self, capacity: usize) -> [u64; 10] {
        let volume = self.volume.as_u128();
        [
            MAGIC,
            VERSION,
            (volume >> 64) as u64,
            volume as u64,
            self.layer.get(),
            self.epoch.get(),
            u64::from(self.holder.node.get()),
            u64::from(self.holder.incarnation.get()),
            self.extent_size.bytes(),
            capacity as u64,
        ]
    }

    const fn entry_words(&self) -> usize {
        ENTRY_HEAD_WORDS + Presence::word_count(self.extent_size)
    }
}

/// The memory holds no table, or not this one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirtyTableError {
    /// Another size than its header says.
    #[error("the dirty table has {words} words, {expected} are expected")]
    Size {
        /// Words there are.
        words: usize,
        /// Words there should be.
        expected: usize,
    },
    /// A header field differs.
    #[error("the dirty table's {field} is {found:#x}, {expected:#x} is expected")]
    Header {
        /// Which field.
        field: &'static str,
        /// What it holds.
        found: u64,
        /// What it should hold.
        expected: u64,
    },
    /// The table speaks of a layer that it cannot speak of.
    #[error(
        "the dirty table has {slots} slots of layer {found}, but the head is layer {head}: they \
         would be lost"
    )]
    Layer {
        /// The table's layer.
        found: LayerId,
        /// Slots in use.
        slots: usize,
        /// The head.
        head: LayerId,
    },
    /// An entry holds what no entry can.
    #[error("entry {entry} of the dirty table is damaged: word {word} is {found:#x}")]
    Entry {
        /// Which entry.
        entry: usize,
        /// Which of its words.
        word: usize,
        /// What it holds.
        found: u64,
    },
}

/// No entry is free; a checkpoint frees some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableFull;

/// The table, with an index of it in ordinary memory.
pub struct DirtyTable {
    memory: Arc<dyn SharedWords>,
    identity: DirtyIdentity,
    index: HashMap<LogicalExtent, u32>,
    free: Vec<u32>,
}

/// How many words a table of `capacity` entries has.
#[must_use]
pub fn table_words(extent_size: ExtentSize, capacity: usize) -> usize {
    HEADER_WORDS + capacity * (ENTRY_HEAD_WORDS + Presence::word_count(extent_size))
}

/// A slot as the table holds it; `None` is a hole.
pub type DirtySlot = (LogicalExtent, Option<Slot>);

impl DirtyTable {
    /// Makes an empty table in zeroed memory.
    ///
    /// # Errors
    /// When the memory has another size than `capacity` entries need.
    pub fn create(
        memory: Arc<dyn SharedWords>,
        identity: DirtyIdentity,
        capacity: usize,
    ) -> Result<Self, DirtyTableError> {
        check_size(&*memory, &identity, capacity)?;
        // The magic comes last: what has it is whole.
        for (word, value) in identity.header(capacity).into_iter().enumerate().rev() {
            memory.words()[word].store(value, Ordering::Release);
        }
        let free = (0..u32::try_from(capacity).expect("fewer than 2^32 entries")).rev().collect();
        Ok(Self { memory, identity, index: HashMap::new(), free })
    }

    /// Takes over the table of a predecessor; gives its slots too. They are of the layer that the
    /// table speaks of, whatever `identity` says: see [`DirtyTable::claim`].
    ///
    /// # Errors
    /// When it is the table of another volume, epoch or version, or damaged.
    pub fn open(
        memory: Arc<dyn SharedWords>,
        identity: DirtyIdentity,
        capacity: usize,
    ) -> Result<(Self, Vec<DirtySlot>), DirtyTableError> {
        check_size(&*memory, &identity, capacity)?;
        check_header(&*memory, &identity, capacity)?;
        let layer = LayerId::new(memory.words()[LAYER_WORD].load(Ordering::Acquire));
        let identity = DirtyIdentity { layer, ..identity };
        let mut table = Self { memory, identity, index: HashMap::new(), free: Vec::new() };
        let mut slots = Vec::new();
        for entry in (0..u32::try_from(capacity).expect("fewer than 2^32 entries")).rev() {
            match table.read_entry(entry)? {
                None => table.free.push(entry),
                Some(slot) => {
                    table.index.insert(slot.0, entry);
                    slots.push(slot);
                }
            }
        }
        Ok((table, slots))
    }

    /// The layer that the entries speak of.
    #[must_use]
    pub const fn layer(&self) -> LayerId {
        self.identity.layer
    }

    /// Puts a predecessor's table to the head that the metadata service names. What it speaks of
    /// then is the head, or the next head if the predecessor went on in that without an answer: the
    /// seal has to be carried out before anything else.
    ///
    /// # Errors
    /// When it has slots of a layer that is sealed, or speaks of no layer of this attachment.
    pub fn claim(
        &mut self,
        head: LayerId,
        next_head: Option<LayerId>,
    ) -> Result<LayerId, DirtyTableError> {
        let layer = self.layer();
        if layer == head || next_head == Some(layer) {
            return Ok(layer);
        }
        // Killed between the seal and the switch: nothing was dirty then.
        if layer > head || !self.is_empty() {
            return Err(DirtyTableError::Layer { found: layer, slots: self.len(), head });
        }
        self.relabel(head);
        Ok(head)
    }

    /// From now on entries speak of this layer.
    ///
    /// # Panics
    /// When an entry is in use: a successor would take it for a slot of the new layer.
    pub fn relabel(&mut self, layer: LayerId) {
        assert!(self.index.is_empty(), "a layer is sealed when nothing of it is dirty");
        self.identity.layer = layer;
        self.memory.words()[LAYER_WORD].store(layer.get(), Ordering::Release);
    }

    /// How many entries are in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no entry is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// How many entries there are.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.index.len() + self.free.len()
    }

    /// Whether an entry is free.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether less than a quarter of the entries is free.
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.len() * 4 >= self.capacity() * 3
    }

    /// Tells a successor that this volume takes no more writes. Its own flushes would succeed,
    /// although the LUN may have dropped what a failed one should have made durable.
    pub(crate) fn poison(&self) {
        self.memory.words()[POISON_WORD].store(1, Ordering::Release);
    }

    /// Whether a predecessor had to stop taking writes.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.memory.words()[POISON_WORD].load(Ordering::Acquire) != 0
    }

    pub(crate) fn contains(&self, logical: LogicalExtent) -> bool {
        self.index.contains_key(&logical)
    }

    /// Adds an entry with this slot.
    pub(crate) fn insert(
        &mut self,
        logical: LogicalExtent,
        slot: Option<&Slot>,
    ) -> Result<(), TableFull> {
        assert!(!self.contains(logical), "a logical extent has one entry");
        let entry = self.free.pop().ok_or(TableFull)?;
        self.index.insert(logical, entry);
        let words = self.entry(entry);
        if let Some(slot) = slot {
            for (word, bits) in words[2..].iter().zip(slot.presence.words()) {
                word.store(*bits, Ordering::Release);
            }
        }
        words[1].store(Place::of(slot).encode(), Ordering::Release);
        words[0].store(logical.get() + 1, Ordering::Release);
        Ok(())
    }

    /// Gives an entry a new place, with no bit set.
    pub(crate) fn set_place(&mut self, logical: LogicalExtent, slot: Option<&Slot>) {
        let words = self.entry(self.index[&logical]);
        let is_new_extent = slot.is_some_and(|slot| slot.extent().is_some());
        if is_new_extent {
            // From a hole or ZERO only: their bits mean nothing, so they can be cleared first.
            let before = Place::decode(words[1].load(Ordering::Acquire));
            let had_extent = matches!(before, Some(Place::Slot { place, .. })
                if place != lunar_types::SlotPlace::Zero);
            assert!(!had_extent, "an extent is unmapped before another takes its place");
            for word in &words[2..] {
                word.store(0, Ordering::Release);
            }
        }
        words[1].store(Place::of(slot).encode(), Ordering::Release);
    }

    /// Stores presence words of an entry.
    pub(crate) fn set_words(
        &mut self,
        logical: LogicalExtent,
        presence: &Presence,
        which: impl Iterator<Item = usize>,
    ) {
        let words = self.entry(self.index[&logical]);
        for word in which {
            words[2 + word].store(presence.words()[word], Ordering::Release);
        }
    }

    /// Frees an entry whose slot has been committed.
    pub(crate) fn remove(&mut self, logical: LogicalExtent) {
        let entry = self.index.remove(&logical).expect("only an entry in use is freed");
        self.entry(entry)[0].store(0, Ordering::Release);
        self.free.push(entry);
    }

    fn entry(&self, entry: u32) -> &[AtomicU64] {
        let words = self.identity.entry_words();
        let first = HEADER_WORDS + entry as usize * words;
        &self.memory.words()[first..first + words]
    }

    fn read_entry(&self, entry: u32) -> Result<Option<DirtySlot>, DirtyTableError> {
        let words = self.entry(entry);
        let damaged = |word: usize| DirtyTableError::Entry {
            entry: entry as usize,
            word,
            found: words[word].load(Ordering::Acquire),
        };
        let Some(logical) = words[0].load(Ordering::Acquire).checked_sub(1) else {
            return Ok(None);
        };
        let logical = LogicalExtent::new(logical);
        let place = Place::decode(words[1].load(Ordering::Acquire)).ok_or_else(|| damaged(1))?;
        let Place::Slot { place, opaque } = place else { return Ok(Some((logical, None))) };
        let size = self.identity.extent_size;
        let presence = if place == lunar_types::SlotPlace::Zero {
            Presence::empty(size)
        } else {
            let bits: Vec<u64> = words[2..].iter().map(|w| w.load(Ordering::Acquire)).collect();
            Presence::from_words(size, &bits).ok_or_else(|| damaged(2))?
        };
        Ok(Some((logical, Some(Slot { place, opaque, presence }))))
    }
}

fn check_size(
    memory: &dyn SharedWords,
    identity: &DirtyIdentity,
    capacity: usize,
) -> Result<(), DirtyTableError> {
    let (words, expected) = (memory.words().len(), table_words(identity.extent_size, capacity));
    if words == expected { Ok(()) } else { Err(DirtyTableError::Size { words, expected }) }
}

fn check_header(
    memory: &dyn SharedWords,
    identity: &DirtyIdentity,
    capacity: usize,
) -> Result<(), DirtyTableError> {
    const FIELDS: [&str; 10] = [
        "magic",
        "version",
        "volume (high half)",
        "volume (low half)",
        "layer",
        "epoch",
        "node",
        "incarnation",
        "extent size",
        "capacity",
    ];
    for ((word, expected), field) in
        memory.words().iter().zip(identity.header(capacity)).zip(FIELDS)
    {
        let found = word.load(Ordering::Acquire);
        if found != expected && field != "layer" {
            return Err(DirtyTableError::Header { field, found, expected });
        }
    }
    Ok(())
}

impl std::fmt::Debug for DirtyTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DirtyTable({}/{} of {})", self.len(), self.capacity(), self.identity.volume)
    }
}

#[cfg(test)]
mod tests {
    use lunar_types::{BlockRange, ExtentAddress, Incarnation, NodeId};

    use super::*;

    const CAPACITY: usize = 4;

    fn identity() -> DirtyIdentity {
        DirtyIdentity {
            volume: VolumeId::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            layer: LayerId::new(3),
            epoch: Epoch::new(4),
            holder: NodeIncarnation { node: NodeId::new(5), incarnation: Incarnation::new(6) },
            extent_size: ExtentSize::DEFAULT,
        }
    }

    fn memory(bytes: Option<Vec<u8>>) -> Arc<dyn SharedWords> {
        let words = table_words(ExtentSize::DEFAULT, CAPACITY);
        let bytes = bytes.unwrap_or_else(|| vec![0; words * 8]);
        let words: Box<[AtomicU64]> = bytes
            .chunks_exact(8)
            .map(|word| AtomicU64::new(u64::from_le_bytes(word.try_into().expect("8 bytes"))))
            .collect();
        Arc::new(words)
    }

    fn bytes(memory: &dyn SharedWords) -> Vec<u8> {
        memory.words().iter().flat_map(|w| w.load(Ordering::Acquire).to_le_bytes()).collect()
    }

    fn slot(at: u64, present: BlockRange) -> Slot {
        let mut slot = Slot::fresh(ExtentAddress::new(1, at), ExtentSize::DEFAULT);
        slot.presence.insert(present);
        slot
    }

    #[test]
    fn the_bytes_of_a_table_are_those_of_the_fixture() {
        let memory_new = memory(None);
        let mut table =
            DirtyTable::create(Arc::clone(&memory_new), identity(), CAPACITY).expect("right size");
        let data = slot(77, BlockRange::new(60, 10));
        let zero = Slot::zero(ExtentSize::DEFAULT);
        for (logical, slot) in [(9, Some(&data)), (10, None), (11, Some(&zero))] {
            table.insert(LogicalExtent::new(logical), slot).expect("there is room");
        }
        crate::golden::assert_golden("dirty-table-v1.hex", &bytes(&*memory_new));
        let old = memory(Some(crate::golden::load("dirty-table-v1.hex")));
        let (_, mut slots) = DirtyTable::open(old, identity(), CAPACITY).expect("our table");
        slots.sort_by_key(|(logical, _)| *logical);
        let logical = LogicalExtent::new;
        assert_eq!(
            slots,
            [(logical(9), Some(data)), (logical(10), None), (logical(11), Some(zero))]
        );
    }

    #[test]
    fn a_table_of_another_epoch_size_or_with_a_damaged_entry_is_refused() {
        let table_memory = memory(None);
        let mut table = DirtyTable::create(Arc::clone(&table_memory), identity(), CAPACITY)
            .expect("right size");
        table.insert(LogicalExtent::new(1), None).expect("there is room");
        let other = DirtyIdentity { epoch: Epoch::new(5), ..identity() };
        let found = DirtyTable::open(Arc::clone(&table_memory), other, CAPACITY);
        assert!(matches!(found, Err(DirtyTableError::Header { field: "epoch", .. })));
        let found = DirtyTable::open(Arc::clone(&table_memory), identity(), CAPACITY + 1);
        assert!(matches!(found, Err(DirtyTableError::Size { .. })));
        table_memory.words()[HEADER_WORDS + 1].store(u64::MAX, Ordering::Release);
        let found = DirtyTable::open(table_memory, identity(), CAPACITY);
        assert!(matches!(found, Err(DirtyTableError::Entry { entry: 0, word: 1, .. })));
    }

    #[test]
    fn a_predecessors_table_is_claimed_for_the_head_or_the_next_head_alone() {
        let id = LayerId::new;
        let opened = |layer: u64, is_empty: bool| {
            let table_memory = memory(None);
            let identity = DirtyIdentity { layer: id(layer), ..identity() };
            let mut table = DirtyTable::create(Arc::clone(&table_memory), identity, CAPACITY)
                .expect("right size");
            if !is_empty {
                table.insert(LogicalExtent::new(1), None).expect("there is room");
            }
            let unaware = DirtyIdentity { layer: id(99), ..identity };
            DirtyTable::open(table_memory, unaware, CAPACITY).expect("our table").0
        };
        // (table's layer, empty, head, next head) → what it speaks of.
        let cases = [
            ((3, false, 3, Some(8)), Some(3)),
            ((3, true, 5, Some(8)), Some(5)),
            ((3, false, 5, Some(8)), None),
            ((8, false, 5, Some(8)), Some(8)),
            ((8, true, 5, Some(8)), Some(8)),
            ((8, true, 5, None), None),
            ((9, true, 5, Some(8)), None),
        ];
        for ((layer, is_empty, head, next), expected) in cases {
            let mut table = opened(layer, is_empty);
            let claimed = table.claim(id(head), next.map(id));
            let what = format!("layer {layer}, empty {is_empty}, head {head}, next {next:?}");
            assert_eq!(claimed.ok(), expected.map(id), "{what}");
            let speaks_of = expected.unwrap_or(layer);
            assert_eq!(table.layer(), id(speaks_of), "{what}");
        }
    }

    #[test]
    fn a_full_table_says_so_and_a_freed_entry_is_used_again() {
        let mut table = DirtyTable::create(memory(None), identity(), CAPACITY).expect("size");
        for logical in 0..CAPACITY as u64 {
            table.insert(LogicalExtent::new(logical), None).expect("there is room");
        }
        assert_eq!(table.insert(LogicalExtent::new(9), None), Err(TableFull));
        table.remove(LogicalExtent::new(2));
        assert_eq!(table.insert(LogicalExtent::new(9), None), Ok(()));
    }
}
