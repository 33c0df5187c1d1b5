//! Reads of extents that one word does not describe.

use lunar_types::{BLOCK_BYTES, BlockRange, ExtentAddress};

use super::core::{Core, Step};
use super::ops::Op;
use super::{Piece, Volume};
use crate::io::{Action, LunIo, RequestId};
use crate::map::Entry;

/// A stretch of bytes of a piece that comes from one place.
struct Stretch {
    /// First byte within the extent.
    within: u32,
    length: u32,
}

/// The bytes of a run of blocks that a piece asks for.
fn clip(piece: Piece, run: BlockRange) -> Stretch {
    let block = BLOCK_BYTES as u32;
    let first = (run.first() * block).max(piece.within);
    let end = (run.end() * block).min(piece.within + piece.length);
    Stretch { within: first, length: end - first }
}

impl Core {
    /// Reads a piece: a LUN read for each run of one source, zeros where no layer has the block.
    pub(super) fn read_piece(
        &mut self,
        volume: &Volume,
        id: RequestId,
        piece: Piece,
        buffer_offset: u32,
        out: &mut Vec<Action>,
    ) -> Step {
        let blocks = Volume::blocks_of(piece);
        let runs: Vec<(BlockRange, Option<ExtentAddress>)> = match volume.map.load(piece.logical) {
            Entry::Hole => vec![(blocks, None)],
            Entry::Solid { at, .. } => vec![(blocks, Some(at))],
            Entry::Split(index) => self.splits.get(index).runs(blocks).collect(),
        };
        let mut ios = 0;
        for (run, source) in runs {
            let Stretch { within, length } = clip(piece, run);
            let offset = buffer_offset + (within - piece.within);
            let Some(extent) = source else {
                out.push(Action::ZeroFill { tag: id.tag, offset, length });
                continue;
            };
            let at = volume.spec.luns.byte_of(extent) + u64::from(within);
            let io = LunIo::Read { lun: extent.lun, at, tag: id.tag, offset, length };
            ios += 1;
            self.request(id).outstanding += 1;
            self.issue(Op::Read { request: id, lun: extent.lun }, io, out);
        }
        if matches!(volume.map.load(piece.logical), Entry::Split(_)) {
            self.list_was_read(volume, piece.logical, ios);
        }
        Step::Done
    }
}
