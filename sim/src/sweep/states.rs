//! The states in which a crash at one moment may leave the disks.
//!
//! A power cut at a moment with the volatile writes w1…wn leaves:
//! - every subset of them, whole, applied in their order. Beyond [`SUBSETS_MAX`] writes the older
//!   ones stay or go together;
//! - one of them torn, with every subset of the others; of more others than the scope of the sweep
//!   says, with none, with all, and with all earlier ones. A write of one journal block takes every
//!   set of its eight sectors. Any other takes its first k sectors, its last k sectors, each one
//!   alone and all but one.
//!
//! Why these tears suffice: recovery reads no data, so what it does cannot depend on which sectors
//! of a data write are there, and the model judges each sector for itself; each is seen old beside
//! new neighbours and new beside old ones. Of a journal block recovery reads all sectors, each
//! with its own checksum and sequence number, so every set of them is there. Writes of many
//! journal blocks are the formatting of a ring that nobody reads before it is confirmed, which
//! comes after its flush.
//!
//! A kill leaves what has ended and any subset of what was under way, whole: the kernel finishes
//! a command or never starts it.

use super::medium::{Image, SECTORS, SectorMask, first_sectors};
use super::model::CrashKind;
use super::record::Point;

/// Writes of which every subset is taken.
const SUBSETS_MAX: usize = 12;

/// What a crash leaves of the volatile writes of a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Survivors {
    pub(super) kind: CrashKind,
    /// The writes that are there, one bit each.
    pub(super) whole: u64,
    /// One of which only these sectors are.
    pub(super) torn: Option<(usize, SectorMask)>,
}

/// Whether tears are looked at too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tears {
    /// They are, each beside every subset of the others if there are so many at the most.
    Beside(usize),
    /// Writes are there or not.
    None,
}

/// Every subset of these writes.
fn subsets(writes: &[usize]) -> Vec<u64> {
    let alone = writes.len().min(SUBSETS_MAX);
    let (older, newest) = writes.split_at(writes.len() - alone);
    let bits = |writes: &[usize]| writes.iter().fold(0, |mask, write| mask | 1_u64 << write);
    let group: &[u64] = if older.is_empty() { &[0] } else { &[0, bits(older)] };
    let pick = |subset: u64| {
        let picked = newest.iter().enumerate().filter(move |(n, _)| subset >> n & 1 == 1);
        picked.fold(0, |mask, (_, write)| mask | 1_u64 << write)
    };
    group.iter().flat_map(|older| (0..1 << alone).map(move |n| older | pick(n))).collect()
}

/// What may be there of a torn write.
fn tears(sectors: u32, is_journal: bool) -> Vec<SectorMask> {
    let all = first_sectors(sectors);
    if is_journal && sectors <= SECTORS {
        return (1..all).collect();
    }
    let first = (1..sectors).map(first_sectors);
    let last = (1..sectors).map(|count| all & !first_sectors(sectors - count));
    let alone = (0..sectors).map(|sector| 1 << sector);
    let without = (0..sectors).map(|sector| all & !(1 << sector));
    let mut tears: Vec<_> = first.chain(last).chain(alone).chain(without).collect();
    tears.retain(|mask| *mask != all && *mask != 0);
    tears.sort_unstable();
    tears.dedup();
    tears
}

/// What may be there of the others when one is torn.
fn contexts(writes: &[usize], torn: usize, most: usize) -> Vec<u64> {
    let others: Vec<usize> = writes.iter().copied().filter(|write| *write != torn).collect();
    if others.len() <= most {
        return subsets(&others);
    }
    let all = others.iter().fold(0, |mask, write| mask | 1_u64 << write);
    let mut contexts = vec![0, all, all & ((1 << torn) - 1)];
    contexts.sort_unstable();
    contexts.dedup();
    contexts
}

/// Every state after a crash at this moment.
pub(super) fn states(point: &Point, with: Tears) -> Vec<Survivors> {
    let writes: Vec<usize> = (0..point.volatile.len()).collect();
    assert!(writes.len() <= 64, "{} writes are not flushed", writes.len());
    let whole = |kind| move |whole| Survivors { kind, whole, torn: None };
    let mut states: Vec<_> = subsets(&writes).into_iter().map(whole(CrashKind::Cut)).collect();
    if let Tears::Beside(most) = with {
        for torn in &writes {
            let write = &point.volatile[*torn];
            let contexts = contexts(&writes, *torn, most);
            for mask in tears(write.sectors(), write.is_journal) {
                let torn = Some((*torn, mask));
                let state = |whole: &u64| Survivors { kind: CrashKind::Cut, whole: *whole, torn };
                states.extend(contexts.iter().map(state));
            }
        }
    }
    let is_done = |write: &usize| point.volatile[*write].is_done;
    let (done, under_way): (Vec<usize>, Vec<usize>) = writes.into_iter().partition(is_done);
    let done = done.iter().fold(0, |mask, write| mask | 1_u64 << write);
    let killed = subsets(&under_way).into_iter().map(|some| done | some);
    states.extend(killed.map(whole(CrashKind::Kill)));
    states
}

/// What the disks have after it.
pub(super) fn image_of(point: &Point, survivors: &Survivors) -> Image {
    let mut image = point.durable.clone();
    for (n, write) in point.volatile.iter().enumerate() {
        match survivors.torn {
            Some((torn, mask)) if torn == n => write.apply(&mut image, mask),
            _ if survivors.whole >> n & 1 == 1 => write.apply(&mut image, SectorMask::MAX),
            _ => {}
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_all_up_to_twelve_and_the_older_go_together() {
        let all: Vec<usize> = (0..12).collect();
        let mut found = subsets(&all);
        found.sort_unstable();
        assert_eq!(found, (0..4096).collect::<Vec<u64>>());
        let more: Vec<usize> = (0..14).collect();
        let found = subsets(&more);
        assert_eq!(found.len(), 8192);
        assert!(found.iter().all(|mask| matches!(mask & 3, 0 | 3)));
    }

    #[test]
    fn a_journal_block_tears_in_every_way_and_data_at_every_border() {
        assert_eq!(tears(8, true), (1..255).collect::<Vec<SectorMask>>());
        let data = tears(5, false);
        for expected in [0b00001, 0b00011, 0b01111, 0b11000, 0b11110, 0b00100, 0b11011] {
            assert!(data.contains(&expected), "{expected:b}");
        }
        assert!(!data.contains(&0) && !data.contains(&0b11111));
        assert_eq!(tears(1, false), Vec::<SectorMask>::new());
    }

    #[test]
    fn a_tear_is_seen_beside_every_subset_of_few_others() {
        assert_eq!(contexts(&[0, 1, 2], 1, 5), [0, 1, 4, 5]);
        assert_eq!(contexts(&[0, 1, 2, 3, 4, 5, 6], 2, 5), [0, 0b11, 0b111_1011]);
        assert_eq!(contexts(&[0, 1, 2, 3, 4, 5, 6], 0, 5), [0, 0b111_1110]);
    }
}
