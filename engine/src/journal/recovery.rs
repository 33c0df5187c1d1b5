//! Reading a journal back: the longest chain that may have been acknowledged.
//!
//! Rules (`docs/engine.md`): take the greatest E that ends a batch and for which every block from
//! `replay_from(E)` (or the checkpoint, if later) to E is whole. A batch of which a part is
//! missing was never acknowledged and counts for nothing. A hole that a *later batch* follows, or
//! a damaged block where the chain or its next batch lies, is damage: the later batch began only
//! after the former was durable.
//!
//! Beyond the checkpoint all blocks speak of one layer, the head: a seal comes only after
//! everything of the sealed layer was committed. Or of the next head, if the writer went on in that
//! before it knew of the seal. Superseded blocks may speak of earlier heads.

use std::collections::BTreeMap;

use lunar_types::{BLOCK_BYTES, LayerId};

use super::format::{BlockOrder, BlockState, decode};
use super::{JournalIdentity, Record};

/// What a journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The records to apply, oldest first.
    pub records: Vec<Record>,
    /// The layer that they speak of; the head if there are none.
    pub layer: LayerId,
    /// The last block of the chain; 0 when nothing was written.
    pub last_seq: u64,
    /// The first block of the chain.
    pub replay_from: u64,
    /// Blocks of an unacknowledged batch beyond the chain, torn ones too: wiped before the same
    /// epoch goes on. A later chain could run into them, and a tear of the next write of a block
    /// could mix sectors of two writes of one sequence number.
    pub beyond: Vec<u64>,
}

/// Acknowledged parts of the journal cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalDamage {
    /// A block's bytes do not hold.
    #[error(
        "journal block at position {position} is damaged ({what} of sector {sector}): flushed \
         writes since checkpoint {checkpoint} may depend on it"
    )]
    Block {
        /// Position in the ring, in blocks.
        position: u32,
        /// First bad sector of the block.
        sector: usize,
        /// What does not hold.
        what: &'static str,
        /// The last sequence number that the metadata service has.
        checkpoint: u64,
    },
    /// A block of an acknowledged batch is missing.
    #[error(
        "journal block {seq} is missing although block {later} of a later batch exists: a flushed \
         write was lost by the LUN"
    )]
    Missing {
        /// The block that should be there.
        seq: u64,
        /// The block that proves it.
        later: u64,
    },
    /// A block speaks of another layer than the head.
    #[error(
        "journal block {seq} has records of layer {found}, which are not committed, but the head \
         is layer {head}: flushed writes may depend on it"
    )]
    Layer {
        /// The block.
        seq: u64,
        /// Its layer.
        found: LayerId,
        /// The head.
        head: LayerId,
    },
}

struct Written {
    order: BlockOrder,
    layer: LayerId,
    records: Vec<Record>,
}

struct Ring {
    written: BTreeMap<u64, Written>,
    damaged: Vec<(u32, usize, &'static str)>,
    torn: Vec<u32>,
}

fn scan(id: &JournalIdentity, ring_blocks: u32, image: &[u8]) -> Ring {
    let mut ring = Ring { written: BTreeMap::new(), damaged: Vec::new(), torn: Vec::new() };
    for (position, block) in (0..ring_blocks).zip(image.chunks_exact(BLOCK_BYTES as usize)) {
        match decode(id, ring_blocks, position, block) {
            BlockState::Written(order, layer, records) => {
                ring.written.insert(order.seq, Written { order, layer, records });
            }
            BlockState::Damaged { sector, what } => ring.damaged.push((position, sector, what)),
            BlockState::Torn => ring.torn.push(position),
            BlockState::Empty => {}
        }
    }
    ring
}

/// The greatest E that ends a batch and whose chain has no hole, and where the chain starts.
///
/// A full batch supersedes everything before itself, so it may count only when it is whole: E is
/// the end of a batch, never the middle of one.
fn longest_chain(ring: &Ring, checkpoint: u64) -> Option<(u64, u64)> {
    let ends = ring.written.iter().rev().filter(|(seq, block)| **seq == block.order.batch_last);
    ends.into_iter().find_map(|(&last, block)| {
        let from = block.order.replay_from.max(checkpoint + 1);
        let is_superseded = last <= checkpoint;
        let is_whole = (from..=last).all(|seq| ring.written.contains_key(&seq));
        (is_superseded || is_whole).then_some((from, last))
    })
}

/// Blocks beyond the chain belong to the one batch that was in flight: the batch with the first
/// missing block. A batch that began later proves that the missing block was durable once.
fn check_acknowledged(ring: &Ring, last: u64) -> Result<(), JournalDamage> {
    let mut beyond = ring.written.range(last + 1..);
    match beyond.find(|(_, block)| block.order.batch_first > last + 1) {
        Some((&later, _)) => {
            let missing = (last + 1..later).find(|seq| !ring.written.contains_key(seq));
            Err(JournalDamage::Missing { seq: missing.unwrap_or(last + 1), later })
        }
        None => Ok(()),
    }
}

/// The layer that a chain speaks of: the head or the next head, in all its blocks.
fn layer_of(
    chain: &BTreeMap<u64, Written>,
    head: LayerId,
    next_head: Option<LayerId>,
) -> Result<LayerId, JournalDamage> {
    let first = chain.values().next().map_or(head, |block| block.layer);
    let layer = if next_head == Some(first) { first } else { head };
    match chain.iter().find(|(_, block)| block.layer != layer) {
        Some((&seq, block)) => Err(JournalDamage::Layer { seq, found: block.layer, head: layer }),
        None => Ok(layer),
    }
}

/// The first sequence number from `from` on that lies at this position.
fn first_seq_at(position: u32, from: u64, ring_blocks: u32) -> u64 {
    let blocks = u64::from(ring_blocks);
    from + (u64::from(position) + blocks - from % blocks) % blocks
}

fn check_damage(
    ring: &Ring,
    ring_blocks: u32,
    live: (u64, u64),
    checkpoint: u64,
) -> Result<(), JournalDamage> {
    let (from, last) = live;
    // Sectors are written whole or not at all, so no torn batch leaves damage: the batch after
    // the chain may have been acknowledged too, had its blocks been readable.
    let reach = last + u64::from(ring_blocks / 3);
    for &(position, sector, what) in &ring.damaged {
        if first_seq_at(position, from, ring_blocks) <= reach {
            return Err(JournalDamage::Block { position, sector, what, checkpoint });
        }
    }
    Ok(())
}

/// Reads a ring's image, of which the metadata service has everything up to `checkpoint`. The layer
/// of `id` is the head; `next_head` is what the attachment would have had as its next one.
///
/// # Errors
/// When something that may have been acknowledged cannot be read; nothing is guessed.
pub fn recover(
    id: &JournalIdentity,
    next_head: Option<LayerId>,
    ring_blocks: u32,
    image: &[u8],
    checkpoint: u64,
) -> Result<Recovered, JournalDamage> {
    let mut ring = scan(id, ring_blocks, image);
    let (from, last) = match longest_chain(&ring, checkpoint) {
        Some((from, last)) => (from, last.max(checkpoint)),
        None => (checkpoint + 1, checkpoint),
    };
    check_damage(&ring, ring_blocks, (from, last), checkpoint)?;
    check_acknowledged(&ring, last)?;
    let torn = ring.torn.iter().map(|position| first_seq_at(*position, last + 1, ring_blocks));
    let mut beyond: Vec<u64> = torn.collect();
    beyond.extend(ring.written.split_off(&(last + 1)).into_keys());
    beyond.sort_unstable();
    let chain = ring.written.split_off(&from);
    let layer = layer_of(&chain, id.layer, next_head)?;
    let records = chain.into_values().flat_map(|block| block.records).collect();
    Ok(Recovered { records, layer, last_seq: last, replay_from: from, beyond })
}

#[cfg(test)]
mod tests {
    use lunar_types::{
        Epoch, ExtentAddress, ExtentRun, ExtentSize, Incarnation, LayerId, LogicalExtent, LunIndex,
        NodeId, NodeIncarnation, SlotPlace, VolumeId,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::journal::format::{RECORDS_PER_BLOCK, encode_empty};
    use crate::journal::{JournalRing, RingPlace, SEQ_CONFIRMED};
    use crate::lun::{LunLayout, LunTable};
    use crate::place::Place;

    const ID: JournalIdentity = JournalIdentity {
        volume: VolumeId::from_u128(1),
        layer: LayerId::new(1),
        epoch: Epoch::new(1),
        writer: NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(1) },
    };

    /// A ring of 48 blocks on three runs, so that batches break at run ends.
    struct Disk {
        table: LunTable,
        base: Vec<u64>,
        image: Vec<u8>,
        ring: JournalRing,
    }

    impl Disk {
        fn new() -> Self {
            let size = ExtentSize::from_bytes(64 << 10).expect("valid");
            let layout = LunLayout::new(size, 64 << 20);
            let table = LunTable::new([(LunIndex::new(0), layout)]);
            let runs = [3, 9, 1].map(|at| ExtentRun::new(ExtentAddress::new(0, at), 1)).to_vec();
            let place = RingPlace::new(runs, size);
            let base = place.stretches(&table).map(|(_, at, _)| at).collect();
            let mut image = vec![0; 48 * 4096];
            for (position, block) in (0..).zip(image.chunks_exact_mut(4096)) {
                encode_empty(&ID, 48, position, block);
            }
            Self { table, base, image, ring: JournalRing::fresh(ID, place) }
        }

        /// Writes a batch; `keep` says which of its 512-byte sectors reach the medium.
        fn append(&mut self, records: &[Record], keep: impl Fn(usize) -> bool) {
            self.append_batch(records, false, keep);
        }

        fn append_batch(
            &mut self,
            records: &[Record],
            is_full: bool,
            keep: impl Fn(usize) -> bool,
        ) {
            let mut sector = 0;
            for write in self.ring.append(records, is_full, &self.table) {
                let run = self.base.iter().position(|b| (*b..*b + 65536).contains(&write.at));
                let run = run.expect("a write lies on a run");
                let at = run * 65536 + (write.at - self.base[run]) as usize;
                for (n, bytes) in write.buffer.as_bytes().chunks_exact(512).enumerate() {
                    if keep(sector) {
                        self.image[at + n * 512..at + n * 512 + 512].copy_from_slice(bytes);
                    }
                    sector += 1;
                }
            }
        }

        fn recover(&self, checkpoint: u64) -> Result<Recovered, JournalDamage> {
            recover(&ID, None, 48, &self.image, checkpoint)
        }
    }

    fn records(from: u64, count: u64) -> Vec<Record> {
        let place = SlotPlace::Extent(ExtentAddress::new(0, 40));
        let place = Place::Slot { place, opaque: false };
        (from..from + count)
            .map(|n| Record { logical: LogicalExtent::new(n), place, word: 0, bits: n })
            .collect()
    }

    #[test]
    fn an_empty_journal_recovers_to_nothing() {
        let found = Disk::new().recover(SEQ_CONFIRMED).expect("formatted");
        assert!(found.records.is_empty() && found.last_seq == SEQ_CONFIRMED);
    }

    #[test]
    fn acknowledged_batches_come_back_and_a_torn_one_ends_the_journal() {
        let per_block = RECORDS_PER_BLOCK as u64;
        for lost in 0..16 {
            let mut disk = Disk::new();
            disk.append(&records(0, 3 * per_block), |_| true);
            disk.append(&records(1000, 2 * per_block), |sector| sector != lost);
            let found = disk.recover(SEQ_CONFIRMED).expect("a tear is no damage");
            assert_eq!(found.records, records(0, 3 * per_block), "lost sector {lost}");
            assert_eq!((found.last_seq, found.beyond), (4, vec![5, 6]), "lost sector {lost}");
        }
    }

    #[test]
    fn a_damaged_block_that_counts_is_an_error_and_one_that_does_not_is_none() {
        let mut disk = Disk::new();
        for batch in 0..4 {
            disk.append(&records(batch * 10, 1), |_| true);
        }
        for (seq, counts) in [(2, false), (3, true), (4, true), (5, true)] {
            let mut image = disk.image.clone();
            image[seq * 4096 + 700] ^= 4;
            let found = recover(&ID, None, 48, &image, 2);
            assert_eq!(found.is_err(), counts, "block {seq}: {found:?}");
        }
    }

    #[test]
    fn uncommitted_records_of_another_layer_are_an_error_and_superseded_ones_are_none() {
        let sealed = ID.layer;
        let head = LayerId::new(sealed.get() + 1);
        let mut disk = Disk::new();
        disk.append(&records(0, 1), |_| true);
        let checkpoint = disk.ring.last_seq();
        disk.ring.speak_of(head);
        disk.append(&records(10, 1), |_| true);
        let recover_as = |layer, next| {
            recover(&JournalIdentity { layer, ..ID }, next, 48, &disk.image, checkpoint)
        };
        let found = recover_as(head, None).expect("one layer");
        assert_eq!((found.records, found.layer), (records(10, 1), head));
        let ahead = recover_as(sealed, Some(head)).expect("the writer went on in its next head");
        assert_eq!((ahead.records, ahead.layer), (records(10, 1), head));
        let seq = disk.ring.last_seq();
        let expected = JournalDamage::Layer { seq, found: head, head: sealed };
        let other = Some(LayerId::new(head.get() + 1));
        assert_eq!(recover_as(sealed, other), Err(expected.clone()));
        assert_eq!(recover_as(sealed, None), Err(expected));
    }

    #[test]
    fn an_acknowledged_block_that_vanished_is_an_error() {
        let mut disk = Disk::new();
        disk.append(&records(0, 1), |_| true);
        disk.append(&records(1, 1), |_| false);
        disk.append(&records(2, 1), |_| true);
        assert_eq!(disk.recover(SEQ_CONFIRMED), Err(JournalDamage::Missing { seq: 3, later: 4 }));
    }

    #[test]
    fn a_ring_that_goes_round_many_times_never_overwrites_what_counts() {
        let mut disk = Disk::new();
        let state = records(0, 5 * RECORDS_PER_BLOCK as u64);
        for lap in 0..200_u64 {
            let is_full = disk.ring.needs_full_batch();
            let first = disk.ring.last_seq() + 1;
            let batch = if is_full { state.clone() } else { records(lap, 7) };
            disk.append_batch(&batch, is_full, |_| true);
            if is_full {
                disk.ring.full_batch_is_durable(first);
            }
            let found = disk.recover(SEQ_CONFIRMED).expect("nothing is torn");
            assert_eq!(found.last_seq, disk.ring.last_seq());
            assert!(found.records.ends_with(&batch), "lap {lap}");
        }
        assert!(disk.ring.last_seq() > 100, "the ring went round");
    }

    /// Fills the ring, restates everything as often as that is due, and stops after a full batch.
    fn after_full_batch_that_fills_the_ring() -> Disk {
        let mut disk = Disk::new();
        let third = 16 * RECORDS_PER_BLOCK as u64;
        disk.append(&records(0, third), |_| true);
        disk.append(&records(0, third), |_| true);
        assert!(disk.ring.needs_full_batch());
        let first = disk.ring.last_seq() + 1;
        disk.append_batch(&records(0, third), true, |_| true);
        disk.ring.full_batch_is_durable(first);
        disk
    }

    #[test]
    fn a_torn_batch_after_a_full_one_is_no_damage() {
        let mut disk = after_full_batch_that_fills_the_ring();
        let last = disk.ring.last_seq();
        disk.append(&records(0, 1), |sector| sector == 0);
        let found = disk.recover(SEQ_CONFIRMED).expect("the batch in flight was torn, no more");
        assert_eq!(found.last_seq, last);
        assert_eq!(found.records, records(0, 16 * RECORDS_PER_BLOCK as u64));
    }

    #[test]
    fn a_successor_after_a_full_batch_has_room_for_its_own() {
        let mut disk = after_full_batch_that_fills_the_ring();
        let found = disk.recover(SEQ_CONFIRMED).expect("nothing is torn");
        disk.ring = JournalRing::resumed(ID, disk.ring.place().clone(), &found);
        assert!(disk.ring.needs_full_batch());
        disk.append_batch(&records(0, 16 * RECORDS_PER_BLOCK as u64), true, |_| true);
    }

    /// One step of a writer's life: a batch of so many slots, cut short by a power cut that lets
    /// only some sectors through if `tear` says so; then perhaps a commit.
    #[derive(Clone, Debug)]
    struct Life {
        first: u64,
        count: u64,
        tear: Option<u64>,
        restarts: bool,
        commits: bool,
    }

    fn life() -> impl Strategy<Value = Life> {
        let capacity = 16 * RECORDS_PER_BLOCK as u64;
        let count = prop_oneof![1..10_u64, 1..=capacity, Just(capacity)];
        (0..capacity, count, prop::option::weighted(0.3, any::<u64>()), any::<bool>(), 0..6_u8)
            .prop_map(move |(first, count, tear, restarts, commits)| {
                let count = count.min(capacity - first);
                Life { first, count, tear, restarts, commits: commits == 0 }
            })
    }

    /// Whether a sector of a torn batch reaches the medium.
    fn reaches(seed: u64, sector: usize) -> bool {
        let mixed = (seed ^ sector as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed >> 40 & 3 != 0
    }

    proptest! {
        #[test]
        fn what_was_acknowledged_survives_every_tear_and_restart(
            lives in prop::collection::vec(life(), 1..40),
        ) {
            let mut disk = Disk::new();
            let (mut committed, mut dirty) = (BTreeMap::new(), BTreeMap::new());
            let mut checkpoint = SEQ_CONFIRMED;
            for (value, life) in (1..).zip(lives) {
                let mut after = dirty.clone();
                after.extend((life.first..life.first + life.count).map(|at| (at, value)));
                let is_full = disk.ring.needs_full_batch();
                let batch: Vec<Record> = after
                    .iter()
                    .filter(|(_, written)| is_full || **written == value)
                    .map(|(at, bits)| Record { bits: *bits, ..records(*at, 1)[0] })
                    .collect();
                let first = disk.ring.last_seq() + 1;
                let seed = life.tear;
                disk.append_batch(&batch, is_full, |n| seed.is_none_or(|seed| reaches(seed, n)));
                let found = disk.recover(checkpoint).expect("nothing was damaged");
                let is_whole = found.last_seq == disk.ring.last_seq();
                prop_assert!(is_whole || life.tear.is_some());
                let expected = if is_whole { &after } else { &dirty };
                let mut state = committed.clone();
                state.extend(found.records.iter().map(|r| (r.logical.get(), r.bits)));
                let mut want = committed.clone();
                want.extend(expected.iter().map(|(at, bits)| (*at, *bits)));
                prop_assert_eq!(state, want);
                if life.tear.is_none() && !life.restarts {
                    dirty = after;
                    if is_full {
                        disk.ring.full_batch_is_durable(first);
                    }
                } else {
                    // The dirty table of a killed writer has all of it, durable or not.
                    dirty = after;
                    let place = disk.ring.place().clone();
                    for seq in &found.beyond {
                        let position = place.position_of(*seq);
                        let at = position as usize * 4096;
                        encode_empty(&ID, 48, position, &mut disk.image[at..at + 4096]);
                    }
                    disk.ring = JournalRing::resumed(ID, place, &found);
                    let all: Vec<Record> = dirty
                        .iter()
                        .map(|(at, bits)| Record { bits: *bits, ..records(*at, 1)[0] })
                        .collect();
                    let first = disk.ring.last_seq() + 1;
                    disk.append_batch(&all, true, |_| true);
                    if life.count % 2 == 0 {
                        disk.ring.full_batch_is_durable(first);
                    } else {
                        let found = disk.recover(checkpoint).expect("nothing was damaged");
                        disk.ring = JournalRing::resumed(ID, disk.ring.place().clone(), &found);
                    }
                }
                if life.commits {
                    committed.append(&mut dirty);
                    checkpoint = disk.ring.last_seq();
                    disk.ring.checkpointed(checkpoint);
                }
            }
        }
    }
}
