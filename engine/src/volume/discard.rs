//! Discard and write-zeroes: what they cover reads as zeros afterwards.
//!
//! Whole blocks lose their bit; an extent without a bit is unmapped. Where a layer below might
//! show through, a whole extent becomes the ZERO slot and single blocks are written as zeros.
//! Parts of a block are written as zeros, if there is anything to cover.

use lunar_types::{BLOCK_BYTES, BlockRange, LogicalExtent, SlotPlace};

use super::core::{Core, Park, Step};
use super::write::{Payload, PieceWrite};
use super::{Piece, Volume};
use crate::io::{Action, IoError, RequestId};
use crate::map::Entry;

const BLOCK: u32 = BLOCK_BYTES as u32;

/// A piece cut at block borders: part of a block, whole blocks, part of a block.
fn cut(piece: Piece) -> impl Iterator<Item = (Piece, bool)> {
    let end = piece.within + piece.length;
    let first_whole = piece.within.next_multiple_of(BLOCK).min(end);
    let end_whole = (end / BLOCK * BLOCK).max(first_whole);
    [(piece.within, first_whole, false), (first_whole, end_whole, true), (end_whole, end, false)]
        .into_iter()
        .filter(|(from, to, _)| from < to)
        .map(move |(from, to, is_whole)| {
            (Piece { within: from, length: to - from, logical: piece.logical }, is_whole)
        })
}

impl Core {
    pub(super) fn discard_piece(
        &mut self,
        volume: &Volume,
        id: RequestId,
        piece: Piece,
        out: &mut Vec<Action>,
    ) -> Step {
        if self.is_poisoned() {
            return Step::Fail(IoError::Poisoned);
        }
        if matches!(volume.map.load(piece.logical), Entry::Hole) {
            return Step::Done;
        }
        if self.consolidation.claims(piece.logical) {
            return Step::Park(Park::Busy(piece.logical));
        }
        // The end of a first write makes its blocks present again, with whatever is in the extent:
        // also what a write left there that had ended before this discard began.
        if self.active.conflicts(piece.logical, Volume::blocks_of(piece), true) {
            return Step::Park(Park::Busy(piece.logical));
        }
        for (part, is_whole) in cut(piece) {
            let step = if is_whole {
                self.clear_blocks(volume, id, part, out)
            } else {
                self.write_zeros(volume, id, part, out)
            };
            if step != Step::Done {
                return step;
            }
        }
        Step::Done
    }

    /// Writes zeros over bytes that might show something else.
    fn write_zeros(
        &mut self,
        volume: &Volume,
        id: RequestId,
        piece: Piece,
        out: &mut Vec<Action>,
    ) -> Step {
        let blocks = Volume::blocks_of(piece);
        let shows =
            (blocks.first()..blocks.end()).any(|b| self.source(volume, piece.logical, b).is_some());
        if !shows {
            return Step::Done;
        }
        let write = PieceWrite { id, piece, payload: Payload::Zeros, fua: false };
        self.write_piece(volume, write, out)
    }

    fn clear_blocks(
        &mut self,
        volume: &Volume,
        id: RequestId,
        piece: Piece,
        out: &mut Vec<Action>,
    ) -> Step {
        let (logical, range) = (piece.logical, Volume::blocks_of(piece));
        let shows_below = self.may_have_below(volume, logical);
        let covers_all = covers_extent(volume, logical, range);
        if shows_below && !covers_all && !self.is_opaque(volume, logical) {
            return self.write_zeros(volume, id, piece, out);
        }
        if covers_all && shows_below {
            return self.zero_extent(volume, logical);
        }
        let Some(slot) = self.head_slot(volume, logical) else { return Step::Done };
        // A first write that failed leaves an extent without bits.
        let is_empty = slot.presence.is_empty() && matches!(slot.place, SlotPlace::Extent(_));
        if !slot.presence.contains_any(range) && !is_empty {
            return Step::Done;
        }
        if let Err(park) = self.ensure_entry(volume, logical) {
            return Step::Park(park);
        }
        let mut rest = slot.presence;
        rest.remove(range);
        // A write under way will set its bits here: its extent must stay.
        if rest.is_empty() && !self.has_writes(logical) {
            self.unmap(volume, logical);
        } else {
            self.set_absent(volume, logical, range);
        }
        Step::Done
    }

    /// Hides the layers below a whole extent.
    fn zero_extent(&mut self, volume: &Volume, logical: LogicalExtent) -> Step {
        if let Err(park) = self.ensure_entry(volume, logical) {
            return Step::Park(park);
        }
        if self.has_writes(logical) {
            return Step::Park(Park::Busy(logical));
        }
        self.unmap(volume, logical);
        Step::Done
    }

    fn is_opaque(&self, volume: &Volume, logical: LogicalExtent) -> bool {
        self.head_slot(volume, logical).is_some_and(|slot| slot.opaque)
    }

    pub(super) fn has_writes(&self, logical: LogicalExtent) -> bool {
        self.marks.get(&logical).is_some_and(|mark| mark.pins > 0)
    }
}

/// Whether a range covers every block of an extent that belongs to the volume now; the caller holds
/// the lock, under which the volume grows.
fn covers_extent(volume: &Volume, logical: LogicalExtent, range: BlockRange) -> bool {
    let size = volume.spec.extent_size;
    let first_block = logical.get() * u64::from(size.blocks());
    let visible = (volume.size().blocks().get() - first_block).min(u64::from(size.blocks()));
    range.first() == 0 && u64::from(range.end()) >= visible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_cut_at_block_borders() {
        let cuts = |within, length| {
            cut(Piece { logical: LogicalExtent::new(0), within, length })
                .map(|(part, is_whole)| (part.within, part.length, is_whole))
                .collect::<Vec<_>>()
        };
        assert_eq!(cuts(0, 8192), [(0, 8192, true)]);
        assert_eq!(cuts(512, 1024), [(512, 1024, false)]);
        assert_eq!(cuts(512, 4096), [(512, 3584, false), (4096, 512, false)]);
        assert_eq!(
            cuts(3584, 9728),
            [(3584, 512, false), (4096, 8192, true), (12288, 1024, false)]
        );
    }
}
