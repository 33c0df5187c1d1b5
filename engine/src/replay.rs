//! Replay: applies a journal over the committed map of its layer, giving what has to be committed.
//!
//! Records state resulting slots, so replay over a map that already has a part of them gives the
//! same result: it may be run again after a crash in the middle.

use std::collections::{BTreeMap, BTreeSet};

use lunar_types::{ExtentAddress, ExtentSize, LogicalExtent, Presence, Slot, SlotPlace};

use crate::journal::Record;
use crate::place::Place;

/// The slot of a logical extent as it has to be committed; `None` is a hole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotUpdate {
    /// Which extent of the volume.
    pub logical: LogicalExtent,
    /// Its slot in the head layer.
    pub slot: Option<Slot>,
}

/// A record does not fit the volume: the journal is of another geometry, or damaged undetected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the journal record of logical extent {logical} has presence word {word}, beyond an extent"
)]
pub struct ReplayError {
    logical: LogicalExtent,
    word: u16,
}

fn apply(slot: &mut Option<Slot>, record: &Record, size: ExtentSize) -> Result<(), ReplayError> {
    let Place::Slot { place, opaque } = record.place else {
        *slot = None;
        return Ok(());
    };
    if Place::of(slot.as_ref()) != record.place {
        *slot = Some(Slot { place, opaque, presence: Presence::empty(size) });
    }
    let Some(slot) = slot.as_mut().filter(|slot| slot.extent().is_some()) else { return Ok(()) };
    let word = usize::from(record.word);
    let fits = word < Presence::word_count(size)
        && (size.blocks() >= 64 || record.bits >> size.blocks() == 0);
    if !fits {
        return Err(ReplayError { logical: record.logical, word: record.word });
    }
    slot.presence.set_word(word, record.bits);
    Ok(())
}

/// The logical extents that a journal speaks of: the part of the committed map replay needs.
#[must_use]
pub fn extents_named(records: &[Record]) -> BTreeSet<LogicalExtent> {
    records.iter().map(|record| record.logical).collect()
}

/// The storage that a journal's records name, whether or not the map has it after the journal.
#[must_use]
pub fn storage_named(records: &[Record]) -> BTreeSet<ExtentAddress> {
    let storage = |record: &Record| match record.place {
        Place::Slot { place: SlotPlace::Extent(at), .. } => Some(at),
        Place::Slot { place: SlotPlace::Zero, .. } | Place::Hole => None,
    };
    records.iter().filter_map(storage).collect()
}

/// The slots that the head layer has after the journal, for every extent it speaks of.
///
/// # Errors
/// When a record cannot belong to a volume of this extent size.
pub fn replay(
    records: &[Record],
    committed: &BTreeMap<LogicalExtent, Slot>,
    size: ExtentSize,
) -> Result<Vec<SlotUpdate>, ReplayError> {
    let mut slots: BTreeMap<LogicalExtent, Option<Slot>> = BTreeMap::new();
    for record in records {
        let slot =
            slots.entry(record.logical).or_insert_with(|| committed.get(&record.logical).cloned());
        apply(slot, record, size)?;
    }
    Ok(slots.into_iter().map(|(logical, slot)| SlotUpdate { logical, slot }).collect())
}
