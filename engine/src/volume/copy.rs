//! The copy of a claimed extent: what the own slot lacks is read from where it shows, and written
//! into the own extent.
//!
//! Invariants:
//! - only blocks that the own slot lacks are written;
//! - the bits of a stretch are set when all of it is on the medium. Reads go to the copy from then
//!   on, of blocks that may have been durable for long where they were: a flush that fails must
//!   not take them away;
//! - it holds a grace period and its dirty entry from its first read to the end of its last write:
//!   sources are not used again, and a freeze waits for it.
//!
//! Large extents are copied in parts of [`PART_BLOCKS`]; between two of them it stops if the volume
//! was frozen or poisoned.

use lunar_types::{BLOCK_BYTES, BlockRange, ExtentAddress, LogicalExtent, LunIndex, Presence};

use super::Volume;
use super::core::Core;
use super::ops::Op;
use crate::buffer::AlignedBuf;
use crate::grace::Pin;
use crate::io::{Action, LunDone, LunIo, QueueId};
use crate::map::Entry;

/// Blocks that are in memory at a time: 1 MiB.
const PART_BLOCKS: u32 = 256;

/// A LUN I/O of a copy.
#[derive(Clone, Copy, Debug)]
pub(super) enum CopyIo {
    /// Reads into a stretch, from this block of it on.
    Read { stretch: usize, block: u32, lun: LunIndex },
    /// Writes a stretch.
    Write { lun: LunIndex },
}

/// Neighbouring blocks that the own slot lacks.
#[derive(Debug)]
struct Stretch {
    blocks: BlockRange,
    /// Given away with the write.
    buffer: Option<AlignedBuf>,
    reads: u32,
}

/// A copy under way.
#[derive(Debug)]
pub(super) struct ExtentCopy {
    to: ExtentAddress,
    queue: QueueId,
    pin: Pin,
    /// The part that is being copied; none at the beginning.
    part: Option<BlockRange>,
    stretches: Vec<Stretch>,
    outstanding: u32,
    has_failed: bool,
}

impl ExtentCopy {
    pub(super) const fn new(to: ExtentAddress, queue: QueueId, pin: Pin) -> Self {
        Self {
            to,
            queue,
            pin,
            part: None,
            stretches: Vec::new(),
            outstanding: 0,
            has_failed: false,
        }
    }
}

/// The stretches of a range of which no block is present.
fn missing(presence: &Presence, range: BlockRange) -> Vec<BlockRange> {
    let mut stretches: Vec<BlockRange> = Vec::new();
    for block in (range.first()..range.end()).filter(|block| !presence.contains(*block)) {
        match stretches.last_mut() {
            Some(last) if last.end() == block => {
                *last = BlockRange::new(last.first(), block + 1 - last.first());
            }
            _ => stretches.push(BlockRange::new(block, 1)),
        }
    }
    stretches
}

impl Core {
    fn copy(&mut self) -> (LogicalExtent, &mut ExtentCopy) {
        let claimed = self.consolidation.claimed.as_mut().expect("a copy has its claim");
        (claimed.logical, claimed.copy.as_mut().expect("a copy is under way"))
    }

    /// Begins the next part that the own slot lacks something of, or ends.
    pub(super) fn go_on_copying(&mut self, volume: &Volume, out: &mut Vec<Action>) {
        let blocks = volume.spec.extent_size.blocks();
        loop {
            let is_stopped = self.frozen.is_some() || self.is_poisoned();
            let (logical, copy) = self.copy();
            let first = copy.part.map_or(0, BlockRange::end);
            if first == blocks || is_stopped || copy.has_failed {
                return self.end_copy(volume, out);
            }
            let part = BlockRange::new(first, PART_BLOCKS.min(blocks - first));
            copy.part = Some(part);
            let own = self.head_slot(volume, logical).expect("the own extent is there");
            let stretches = missing(&own.presence, part);
            if !stretches.is_empty() {
                return self.begin_part(volume, logical, &stretches, out);
            }
        }
    }

    fn begin_part(
        &mut self,
        volume: &Volume,
        logical: LogicalExtent,
        stretches: &[BlockRange],
        out: &mut Vec<Action>,
    ) {
        let Entry::Split(index) = volume.map.load(logical) else {
            unreachable!("nothing but its copy makes a claimed extent solid")
        };
        let split = self.splits.get(index);
        let mut reads: Vec<(usize, BlockRange, ExtentAddress)> = Vec::new();
        for (stretch, range) in stretches.iter().enumerate() {
            let runs = split.runs(*range);
            reads.extend(runs.filter_map(|(run, source)| Some((stretch, run, source?))));
        }
        let (_, copy) = self.copy();
        copy.outstanding = u32::try_from(reads.len()).expect("at most one a block");
        copy.stretches = stretches.iter().map(|blocks| Stretch::new(*blocks)).collect();
        for (stretch, _, _) in &reads {
            copy.stretches[*stretch].reads += 1;
        }
        let is_ready = |stretch: &usize| copy.stretches[*stretch].reads == 0;
        let ready: Vec<usize> = (0..stretches.len()).filter(is_ready).collect();
        for (stretch, run, source) in reads {
            let block = run.first() - stretches[stretch].first();
            let at = volume.spec.luns.byte_of(source) + u64::from(run.first()) * BLOCK_BYTES;
            let buffer = AlignedBuf::zeroed(run.count() as usize);
            let op = Op::Copy(CopyIo::Read { stretch, block, lun: source.lun });
            self.issue(op, LunIo::ReadOwned { lun: source.lun, at, buffer }, out);
        }
        for stretch in ready {
            self.write_stretch(volume, stretch, out);
        }
    }

    fn write_stretch(&mut self, volume: &Volume, stretch: usize, out: &mut Vec<Action>) {
        let (_, copy) = self.copy();
        let (to, stretch) = (copy.to, &mut copy.stretches[stretch]);
        let buffer = stretch.buffer.take().expect("a stretch is written once");
        let first = stretch.blocks.first();
        copy.outstanding += 1;
        let at = volume.spec.luns.byte_of(to) + u64::from(first) * BLOCK_BYTES;
        let end = u64::from(first) * BLOCK_BYTES + buffer.byte_len() as u64;
        assert!(end <= volume.spec.extent_size.bytes(), "a copy stays in its extent");
        let io = LunIo::WriteOwned { lun: to.lun, at, buffer, durable: true };
        self.issue(Op::Copy(CopyIo::Write { lun: to.lun }), io, out);
    }

    pub(super) fn copy_io_ended(
        &mut self,
        volume: &Volume,
        io: CopyIo,
        done: LunDone,
        out: &mut Vec<Action>,
    ) {
        let (logical, copy) = self.copy();
        copy.outstanding -= 1;
        let (CopyIo::Read { lun, .. } | CopyIo::Write { lun }) = io;
        if let Err(error) = &done.result {
            copy.has_failed = true;
            let volume = volume.spec.volume;
            tracing::warn!(%volume, %logical, %lun, %error, "an extent is not consolidated");
        }
        match (io, done.result) {
            (CopyIo::Read { stretch, block, .. }, Ok(())) => {
                let read = done.buffer.expect("the driver gives the buffer of a read back");
                let stretch_of = &mut copy.stretches[stretch];
                stretch_of.take_in(block, &read);
                let is_ready = stretch_of.reads == 0 && !copy.has_failed;
                if is_ready {
                    self.write_stretch(volume, stretch, out);
                }
            }
            (CopyIo::Write { .. }, Ok(())) | (_, Err(_)) => {}
        }
        let (_, copy) = self.copy();
        if copy.outstanding == 0 {
            self.part_ended(volume, out);
        }
    }

    fn part_ended(&mut self, volume: &Volume, out: &mut Vec<Action>) {
        let (logical, copy) = self.copy();
        let (to, part) = (copy.to, copy.part.expect("it has begun"));
        if !copy.has_failed {
            let blocks: u32 = copy.stretches.iter().map(|stretch| stretch.blocks.count()).sum();
            self.stats.consolidated_bytes += u64::from(blocks) * BLOCK_BYTES;
            assert_eq!(self.head_extent(volume, logical), Some(to), "a claimed extent stays");
            self.set_present(volume, logical, part);
        }
        self.go_on_copying(volume, out);
    }

    fn end_copy(&mut self, volume: &Volume, out: &mut Vec<Action>) {
        let (logical, copy) = self.copy();
        let (queue, pin, has_failed) = (copy.queue, copy.pin, copy.has_failed);
        assert_eq!(copy.outstanding, 0, "a copy ends when its LUN I/O has");
        if has_failed {
            self.consolidation.copy_failed(logical);
            self.stats.failed_copies += 1;
        }
        let own = self.head_slot(volume, logical).expect("the own extent is there");
        self.stats.consolidated_extents += u64::from(own.presence.is_full());
        self.unpin_entry(logical);
        if self.table.has_room() {
            self.wake_for_table(out);
        }
        volume.grace.unpin(queue.get(), pin);
        self.end_claim(out);
        out.push(Action::WakeControl);
    }
}

impl Stretch {
    fn new(blocks: BlockRange) -> Self {
        let buffer = AlignedBuf::zeroed(blocks.count() as usize);
        Self { blocks, buffer: Some(buffer), reads: 0 }
    }

    fn take_in(&mut self, block: u32, read: &AlignedBuf) {
        let first = block as usize * BLOCK_BYTES as usize;
        let buffer = self.buffer.as_mut().expect("written when all reads have ended");
        buffer.as_mut_bytes()[first..first + read.byte_len()].copy_from_slice(read.as_bytes());
        self.reads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use lunar_types::ExtentSize;

    use super::*;

    #[test]
    fn what_is_missing_is_found_in_stretches() {
        let size = ExtentSize::from_bytes(64 << 10).expect("valid");
        let presence = |bits| Presence::from_words(size, &[bits]).expect("16 blocks");
        let found = |bits, first, count| {
            missing(&presence(bits), BlockRange::new(first, count))
                .into_iter()
                .map(|stretch| (stretch.first(), stretch.count()))
                .collect::<Vec<_>>()
        };
        assert_eq!(found(0, 0, 16), [(0, 16)]);
        assert_eq!(found(0xffff, 0, 16), []);
        assert_eq!(found(0b0110_1001, 0, 8), [(1, 2), (4, 1), (7, 1)]);
        assert_eq!(found(0b0110_1001, 2, 3), [(2, 1), (4, 1)]);
    }
}
