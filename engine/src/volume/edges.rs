//! Writes of parts of a block, on devices with a logical block of 512 bytes.
//!
//! A block is present as a whole, so the first write to a part of it writes the whole block: the
//! rest comes from the layer below, or is zeros. Such a *fill* and any other write to the same
//! block must not be under way together: the fill's rest could cover what the other wrote.

use std::collections::HashMap;
use std::sync::Arc;

use lunar_types::{BLOCK_BYTES, BlockRange, ExtentAddress, LogicalBlockSize, LogicalExtent};

use super::Volume;
use super::core::Core;
use super::ops::Op;
use super::write::PieceWrite;
use crate::buffer::AlignedBuf;
use crate::io::{Action, IoError, LunDone, LunIo, Part, QueueId, RequestId};

const BLOCK: u32 = BLOCK_BYTES as u32;

/// A block at the end of a write that is written in part and that the head lacks.
#[derive(Clone, Debug)]
pub(super) struct EdgeBlock {
    pub(super) block: u32,
    /// Where the rest comes from; `None` is zeros.
    source: Option<ExtentAddress>,
    rest: Option<Arc<AlignedBuf>>,
}

/// A write that waits for the rest of its edge blocks.
#[derive(Debug)]
pub(super) struct Fill {
    pub(super) write: PieceWrite,
    pub(super) to: ExtentAddress,
    pub(super) edges: Vec<EdgeBlock>,
    waiting: usize,
    error: Option<IoError>,
}

impl Fill {
    /// The blocks that it makes present.
    pub(super) fn blocks(&self) -> BlockRange {
        Volume::blocks_of(self.write.piece)
    }
}

/// The fills that wait for their reads.
#[derive(Debug, Default)]
pub(super) struct Fills {
    fills: HashMap<u64, Fill>,
    next: u64,
}

impl Fills {
    fn insert(&mut self, fill: Fill) -> u64 {
        self.next += 1;
        self.fills.insert(self.next, fill);
        self.next
    }

    fn get_mut(&mut self, key: u64) -> &mut Fill {
        self.fills.get_mut(&key).expect("a fill is there until its reads have ended")
    }

    fn remove(&mut self, key: u64) -> Fill {
        self.fills.remove(&key).expect("a fill is there until its reads have ended")
    }
}

/// The writes under way, by extent: first writes, and every write through the lock on devices of
/// 512-byte blocks.
#[derive(Debug, Default)]
pub(super) struct ActiveWrites {
    writes: HashMap<LogicalExtent, Vec<(RequestId, BlockRange, bool)>>,
}

fn overlap(a: BlockRange, b: BlockRange) -> bool {
    a.first() < b.end() && b.first() < a.end()
}

impl ActiveWrites {
    /// Whether a write must wait: one of the two is a fill, and they share a block.
    pub(super) fn conflicts(&self, at: LogicalExtent, blocks: BlockRange, is_fill: bool) -> bool {
        let active = self.writes.get(&at).into_iter().flatten();
        active.into_iter().any(|(_, other, fills)| (is_fill || *fills) && overlap(*other, blocks))
    }

    pub(super) fn begin(
        &mut self,
        logical: LogicalExtent,
        request: RequestId,
        blocks: BlockRange,
        is_fill: bool,
    ) {
        self.writes.entry(logical).or_default().push((request, blocks, is_fill));
    }

    pub(super) fn end(&mut self, logical: LogicalExtent, request: RequestId, blocks: BlockRange) {
        let Some(active) = self.writes.get_mut(&logical) else { return };
        // One discard may have two fills in an extent: its blocks tell which of them has ended.
        let ended =
            |active: &(RequestId, BlockRange, bool)| (active.0, active.1) == (request, blocks);
        if let Some(index) = active.iter().position(ended) {
            active.swap_remove(index);
        }
        if active.is_empty() {
            self.writes.remove(&logical);
        }
    }
}

impl Core {
    /// The blocks at the ends of a write that it covers in part and the head lacks.
    pub(super) fn edge_blocks(&self, volume: &Volume, write: &PieceWrite) -> Vec<EdgeBlock> {
        if volume.spec.logical_block == LogicalBlockSize::B4096 {
            return Vec::new();
        }
        let piece = write.piece;
        let end = piece.within + piece.length;
        let first = (!piece.within.is_multiple_of(BLOCK)).then_some(piece.within / BLOCK);
        let last = (!end.is_multiple_of(BLOCK)).then_some(end / BLOCK);
        let last = last.filter(|block| Some(*block) != first);
        first
            .into_iter()
            .chain(last)
            .filter(|block| !self.head_has(volume, piece.logical, *block))
            .map(|block| {
                let source = self.source(volume, piece.logical, block);
                EdgeBlock { block, source, rest: None }
            })
            .collect()
    }

    /// Reads what the edge blocks need from below; the write follows when all is there.
    pub(super) fn begin_fill(
        &mut self,
        volume: &Volume,
        write: PieceWrite,
        to: ExtentAddress,
        edges: Vec<EdgeBlock>,
        out: &mut Vec<Action>,
    ) {
        let reads: Vec<(usize, ExtentAddress, u32)> = edges
            .iter()
            .enumerate()
            .filter_map(|(n, edge)| edge.source.map(|source| (n, source, edge.block)))
            .collect();
        let fill = Fill { write, to, edges, waiting: reads.len(), error: None };
        if reads.is_empty() {
            return self.write_filled(volume, fill, out);
        }
        let key = self.fills.insert(fill);
        for (edge, source, block) in reads {
            let at = volume.spec.luns.byte_of(source) + u64::from(block) * BLOCK_BYTES;
            let io = LunIo::ReadOwned { lun: source.lun, at, buffer: AlignedBuf::zeroed(1) };
            self.request(write.id).outstanding += 1;
            self.issue(Op::Fill { fill: key, edge, lun: source.lun }, io, out);
        }
    }

    pub(super) fn fill_read_ended(
        &mut self,
        volume: &Volume,
        queue: QueueId,
        (key, edge, lun): (u64, usize, lunar_types::LunIndex),
        done: LunDone,
        out: &mut Vec<Action>,
    ) {
        let fill = self.fills.get_mut(key);
        fill.waiting -= 1;
        match (done.result, done.buffer) {
            (Ok(()), Some(buffer)) => fill.edges[edge].rest = Some(Arc::new(buffer)),
            (Ok(()), None) => unreachable!("the driver gives the buffer of a read back"),
            (Err(error), _) => fill.error = Some(IoError::Lun { lun, error }),
        }
        let id = fill.write.id;
        let mut result = Ok(());
        if fill.waiting == 0 {
            let fill = self.fills.remove(key);
            match fill.error {
                None => self.write_filled(volume, fill, out),
                Some(error) => {
                    self.release_write(id, fill.write.piece.logical, fill.blocks(), true, out);
                    result = Err(error);
                }
            }
        }
        self.io_ended(volume, id, queue, result, out);
    }
}

/// The bytes of a padded write: the rest in front, the payload, the rest behind.
pub(super) fn padded_parts(write: &PieceWrite, edges: &[EdgeBlock]) -> (u32, Vec<Part>) {
    let piece = write.piece;
    let end = piece.within + piece.length;
    let rest = |block: u32, offset: u32, length: u32| {
        let edge = edges.iter().find(|edge| edge.block == block)?;
        Some(match &edge.rest {
            Some(buffer) => Part::Owned { buffer: Arc::clone(buffer), offset, length },
            None => Part::Zeros { length },
        })
    };
    let before = piece.within % BLOCK;
    let behind = (BLOCK - end % BLOCK) % BLOCK;
    let front = (before > 0).then(|| rest(piece.within / BLOCK, 0, before)).flatten();
    let back = (behind > 0).then(|| rest(end / BLOCK, BLOCK - behind, behind)).flatten();
    let within = piece.within - front.as_ref().map_or(0, Part::length);
    let parts = front.into_iter().chain([write.payload()]).chain(back).collect();
    (within, parts)
}
