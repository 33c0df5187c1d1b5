//! Writes: into blocks that the head has, and first writes.
//!
//! Kill order of a first write: dirty entry with the extent → data on the LUN → presence bits.

use lunar_types::{BLOCK_BYTES, ExtentAddress, LogicalBlockSize, LogicalExtent};

use super::core::{Core, Park, Step};
use super::edges::{Fill, padded_parts};
use super::ops::{Op, WriteOp};
use super::{Piece, Volume};
use crate::io::{Action, IoError, LunIo, Part, RequestId};

/// What a write writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Payload {
    /// The request's buffer, from this byte on.
    Buffer(u32),
    Zeros,
}

/// The part of a write in one logical extent.
#[derive(Clone, Copy, Debug)]
pub(super) struct PieceWrite {
    pub(super) id: RequestId,
    pub(super) piece: Piece,
    pub(super) payload: Payload,
    pub(super) fua: bool,
}

impl PieceWrite {
    pub(super) const fn payload(&self) -> Part {
        let length = self.piece.length;
        match self.payload {
            Payload::Buffer(offset) => Part::Request { offset, length },
            Payload::Zeros => Part::Zeros { length },
        }
    }
}

impl Core {
    pub(super) fn write_piece(
        &mut self,
        volume: &Volume,
        write: PieceWrite,
        out: &mut Vec<Action>,
    ) -> Step {
        if self.is_poisoned() {
            return Step::Fail(IoError::Poisoned);
        }
        let (piece, blocks) = (write.piece, Volume::blocks_of(write.piece));
        if self.consolidation.claims(piece.logical) {
            return Step::Park(Park::Busy(piece.logical));
        }
        let in_place = self.in_place(volume, piece.logical, blocks);
        let edges = match in_place {
            Some(_) => Vec::new(),
            None => self.edge_blocks(volume, &write),
        };
        let is_tracked = volume.spec.logical_block == LogicalBlockSize::B512;
        if is_tracked && self.active.conflicts(piece.logical, blocks, !edges.is_empty()) {
            return Step::Park(Park::Busy(piece.logical));
        }
        if let Some(at) = in_place {
            self.overwrite(volume, write, at, out);
            return Step::Done;
        }
        let to = match self.extent_for(volume, piece.logical, out) {
            Ok(to) => to,
            Err(step) => return step,
        };
        self.pin_entry(piece.logical);
        self.active.begin(piece.logical, write.id, blocks, !edges.is_empty());
        if write.fua {
            self.request(write.id).needs_round = true;
        }
        self.begin_fill(volume, write, to, edges, out);
        Step::Done
    }

    /// The extent that takes a first write, with its dirty entry in place.
    pub(super) fn extent_for(
        &mut self,
        volume: &Volume,
        logical: LogicalExtent,
        out: &mut Vec<Action>,
    ) -> Result<ExtentAddress, Step> {
        let head = self.head_extent(volume, logical);
        if head.is_none() && self.reserve.is_empty() {
            let is_full = self.reserve.is_pool_full() && self.limbo.is_empty();
            return Err(if is_full {
                Step::Fail(IoError::NoSpace)
            } else {
                Step::Park(Park::Reserve)
            });
        }
        self.ensure_entry(volume, logical).map_err(Step::Park)?;
        if let Some(at) = head {
            return Ok(at);
        }
        let was_short = self.reserve.shortage().is_some();
        let at = self.reserve.take().expect("the reserve was not empty");
        if !was_short && self.reserve.shortage().is_some() {
            out.push(Action::WakeControl);
        }
        self.allocate(volume, logical, at);
        Ok(at)
    }

    /// Writes into blocks that are the volume's alone: the map does not change.
    fn overwrite(
        &mut self,
        volume: &Volume,
        write: PieceWrite,
        at: ExtentAddress,
        out: &mut Vec<Action>,
    ) {
        let piece = write.piece;
        let is_journalled =
            !self.unflushed.contains(&piece.logical) && !self.round.is_journalling(piece.logical);
        let durable = write.fua && is_journalled;
        if write.fua && !durable {
            self.request(write.id).needs_round = true;
        }
        if volume.spec.logical_block == LogicalBlockSize::B512 {
            self.active.begin(piece.logical, write.id, Volume::blocks_of(piece), false);
        }
        let op = WriteOp {
            request: write.id,
            logical: piece.logical,
            at,
            blocks: Volume::blocks_of(piece),
            durable,
            sets_presence: false,
        };
        self.issue_write(volume, op, piece.within, vec![write.payload()], out);
    }

    /// Starts the write of a fill whose rests are all there.
    pub(super) fn write_filled(&mut self, volume: &Volume, fill: Fill, out: &mut Vec<Action>) {
        let (within, parts) = padded_parts(&fill.write, &fill.edges);
        let op = WriteOp {
            request: fill.write.id,
            logical: fill.write.piece.logical,
            at: fill.to,
            blocks: fill.blocks(),
            durable: false,
            sets_presence: true,
        };
        self.issue_write(volume, op, within, parts, out);
    }

    fn issue_write(
        &mut self,
        volume: &Volume,
        op: WriteOp,
        within: u32,
        parts: Vec<Part>,
        out: &mut Vec<Action>,
    ) {
        let length: u32 = parts.iter().map(Part::length).sum();
        let extent_bytes = volume.spec.extent_size.bytes();
        assert!(u64::from(within + length) <= extent_bytes, "a write stays in its extent");
        let covered = within / BLOCK_BYTES as u32 == op.blocks.first();
        assert!(covered, "a write begins in the block whose presence it sets");
        let (lun, tag, durable) = (op.at.lun, op.request.tag, op.durable);
        let at = volume.spec.luns.byte_of(op.at) + u64::from(within);
        let io = match parts.as_slice() {
            [Part::Request { offset, length }] => {
                LunIo::Write { lun, at, tag, offset: *offset, length: *length, durable }
            }
            _ => LunIo::WriteParts { lun, at, tag, parts, durable },
        };
        self.request(op.request).outstanding += 1;
        self.issue(Op::Write(op), io, out);
    }
}
