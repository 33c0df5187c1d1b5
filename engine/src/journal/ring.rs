//! Where the next batch goes, and which part of the ring still counts.
//!
//! Invariant: blocks from `replay_from` to the last written never exceed the ring, because a batch
//! is at most a third of it and the batch after two thirds are used is a full one.

use lunar_types::{BLOCK_BYTES, ExtentRun, ExtentSize, LayerId, LunIndex};

use super::format::{self, BlockOrder, RECORDS_PER_BLOCK};
use super::{JournalIdentity, Record, SEQ_FIRST};
use crate::buffer::AlignedBuf;
use crate::lun::LunTable;

/// The extents that hold a ring, in order.
#[derive(Clone, Debug)]
pub struct RingPlace {
    runs: Vec<ExtentRun>,
    extent_size: ExtentSize,
    blocks: u32,
}

impl RingPlace {
    /// The ring on these runs.
    ///
    /// # Panics
    /// When there is no run: an attachment always gets a journal.
    #[must_use]
    pub fn new(runs: Vec<ExtentRun>, extent_size: ExtentSize) -> Self {
        let extents: u32 = runs.iter().map(|run| run.count()).sum();
        assert!(extents > 0, "an attachment has at least one journal extent");
        Self { runs, extent_size, blocks: extents * extent_size.blocks() }
    }

    /// Blocks of the ring.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        self.blocks
    }

    /// LUN, byte and number of blocks of each run, in order of positions.
    pub fn stretches<'a>(
        &'a self,
        table: &'a LunTable,
    ) -> impl Iterator<Item = (LunIndex, u64, u32)> + 'a {
        self.runs.iter().map(|run| {
            let blocks = run.count() * self.extent_size.blocks();
            (run.first().lun, table.byte_of(run.first()), blocks)
        })
    }

    /// The LUNs that the ring touches.
    pub fn luns(&self) -> impl Iterator<Item = LunIndex> + '_ {
        self.runs.iter().map(|run| run.first().lun)
    }

    /// The position of a block in the ring.
    pub(crate) fn position_of(&self, seq: u64) -> u32 {
        u32::try_from(seq % u64::from(self.blocks)).expect("below the number of blocks")
    }

    /// LUN and byte of a position, and how many blocks follow without a break, itself included.
    pub(crate) fn locate(&self, position: u32, table: &LunTable) -> (LunIndex, u64, u32) {
        let mut first = 0;
        for (lun, at, blocks) in self.stretches(table) {
            if position < first + blocks {
                let within = position - first;
                return (lun, at + u64::from(within) * BLOCK_BYTES, blocks - within);
            }
            first += blocks;
        }
        unreachable!("a position is below the number of blocks")
    }
}

/// A stretch of a batch that lies without a break on one LUN.
#[derive(Debug)]
pub struct BatchWrite {
    /// The LUN.
    pub lun: LunIndex,
    /// First byte.
    pub at: u64,
    /// What to write.
    pub buffer: AlignedBuf,
}

/// The writer's side of a journal.
#[derive(Debug)]
pub struct JournalRing {
    identity: JournalIdentity,
    place: RingPlace,
    next_seq: u64,
    replay_from: u64,
    is_full_wanted: bool,
}

impl JournalRing {
    /// The writer of a freshly formatted ring.
    #[must_use]
    pub const fn fresh(identity: JournalIdentity, place: RingPlace) -> Self {
        let (next_seq, replay_from) = (SEQ_FIRST, SEQ_FIRST);
        Self { identity, place, next_seq, replay_from, is_full_wanted: false }
    }

    /// The writer that goes on after a predecessor whose last block was `last_seq`; its first
    /// batch restates everything.
    #[must_use]
    pub fn resumed(
        identity: JournalIdentity,
        place: RingPlace,
        recovered: &super::Recovered,
    ) -> Self {
        let next_seq = recovered.last_seq.max(SEQ_FIRST - 1) + 1;
        let replay_from = recovered.replay_from.clamp(SEQ_FIRST, next_seq);
        Self { identity, place, next_seq, replay_from, is_full_wanted: true }
    }

    /// The most records of a batch: a third of the ring.
    #[must_use]
    pub const fn records_max(place: &RingPlace) -> usize {
        (place.blocks / 3) as usize * RECORDS_PER_BLOCK
    }

    /// Where the ring is.
    #[must_use]
    pub const fn place(&self) -> &RingPlace {
        &self.place
    }

    /// The sequence number of the last block written; durable when its batch was acknowledged.
    #[must_use]
    pub const fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// Whether the next batch has to restate every dirty slot.
    #[must_use]
    pub fn needs_full_batch(&self) -> bool {
        self.is_full_wanted || self.used_blocks() > u64::from(self.place.blocks / 3)
    }

    const fn used_blocks(&self) -> u64 {
        self.next_seq - self.replay_from
    }

    /// Encodes a batch and takes its place in the ring; one batch is in flight at a time.
    ///
    /// A full batch restates every dirty slot, so its blocks say that all before it is
    /// superseded. Crash order: recovery takes whole batches only, so this counts from the moment
    /// the batch is durable, and until then what it supersedes is still there.
    ///
    /// # Panics
    /// When it does not fit: the dirty table bounds what a batch can be.
    pub fn append(
        &mut self,
        records: &[Record],
        is_full: bool,
        table: &LunTable,
    ) -> Vec<BatchWrite> {
        let blocks = records.len().div_ceil(RECORDS_PER_BLOCK) as u64;
        assert!(blocks > 0, "an empty batch is not written");
        assert!(
            self.used_blocks() + blocks <= u64::from(self.place.blocks),
            "a batch of {blocks} blocks must not overwrite what replay needs"
        );
        let batch_first = self.next_seq;
        let batch_last = batch_first + blocks - 1;
        let replay_from = if is_full { batch_first } else { self.replay_from };
        let mut writes: Vec<BatchWrite> = Vec::new();
        let mut packed = records.chunks(RECORDS_PER_BLOCK);
        let mut seq = batch_first;
        while seq <= batch_last {
            let position = self.place.position_of(seq);
            let (lun, at, room) = self.place.locate(position, table);
            let count = u64::from(room).min(batch_last - seq + 1);
            let mut buffer = AlignedBuf::zeroed(count as usize);
            for block in buffer.as_mut_bytes().chunks_exact_mut(BLOCK_BYTES as usize) {
                let order = BlockOrder { seq, batch_first, batch_last, replay_from };
                let records = packed.next().expect("a block has records");
                format::encode_records(&self.identity, self.place.blocks, order, records, block);
                seq += 1;
            }
            writes.push(BatchWrite { lun, at, buffer });
        }
        self.next_seq = batch_last + 1;
        writes
    }

    /// The batch that began at `batch_first` restated everything and is durable.
    pub fn full_batch_is_durable(&mut self, batch_first: u64) {
        assert!(batch_first >= self.replay_from, "what counts never moves backwards");
        self.replay_from = batch_first;
        self.is_full_wanted = false;
    }

    /// From now on records speak of this layer. The layer so far was sealed with everything
    /// committed and the checkpoint at [`JournalRing::last_seq`], so its blocks are superseded.
    pub fn speak_of(&mut self, layer: LayerId) {
        self.identity.layer = layer;
        self.replay_from = self.next_seq;
        self.is_full_wanted = false;
    }

    /// The metadata service has committed everything up to `checkpoint`.
    pub fn checkpointed(&mut self, checkpoint: u64) {
        self.replay_from = self.replay_from.max(checkpoint + 1);
        if self.replay_from == self.next_seq {
            self.is_full_wanted = false;
        }
    }
}
