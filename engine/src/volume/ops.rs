//! LUN I/O under way, and the ids that name it in a completion queue.

use lunar_types::{BlockRange, ExtentAddress, LogicalExtent, LunIndex};

use super::copy::CopyIo;
use crate::grace::Pin;
use crate::io::{OpId, RequestId};

/// Tells the id of an operation that goes without the lock.
const DIRECT_BIT: u64 = 1 << 61;

/// A request that is one LUN I/O and changes nothing: its id says all that its end needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Direct {
    pub(super) tag: u16,
    pub(super) lun: LunIndex,
    pub(super) pin: Pin,
    pub(super) is_write: bool,
}

impl Direct {
    pub(super) fn id(self) -> OpId {
        let bits = u64::from(self.tag)
            | u64::from(self.lun.get()) << 16
            | u64::from(self.pin.bit()) << 32
            | u64::from(self.is_write) << 33;
        OpId::from_raw(DIRECT_BIT | bits)
    }

    pub(super) const fn of(op: OpId) -> Option<Self> {
        let bits = op.get();
        if bits & DIRECT_BIT == 0 {
            return None;
        }
        Some(Self {
            tag: bits as u16,
            lun: LunIndex::new((bits >> 16) as u16),
            pin: Pin::from_bit(bits >> 32 & 1 == 1),
            is_write: bits >> 33 & 1 == 1,
        })
    }
}

/// What an operation under the lock is for.
#[derive(Debug)]
pub(super) enum Op {
    /// A part of a read.
    Read { request: RequestId, lun: LunIndex },
    /// A part of a write; its blocks become present when it has completed.
    Write(WriteOp),
    /// Reads the rest of a block that is written in part.
    Fill { fill: u64, edge: usize, lun: LunIndex },
    /// A part of the copy that makes an extent solid.
    Copy(CopyIo),
    /// A step of a flush round.
    Round { lun: LunIndex },
}

/// A data write under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteOp {
    pub(super) request: RequestId,
    pub(super) logical: LogicalExtent,
    pub(super) at: ExtentAddress,
    pub(super) blocks: BlockRange,
    pub(super) durable: bool,
    /// Whether it changes the map, and so pins the dirty entry.
    pub(super) sets_presence: bool,
}

/// The operations under way; an id is used again only after it has been given back.
#[derive(Debug, Default)]
pub(super) struct Ops {
    entries: Vec<Option<Op>>,
    free: Vec<usize>,
}

impl Ops {
    pub(super) fn insert(&mut self, op: Op) -> OpId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[index] = Some(op);
        OpId::from_raw(index as u64)
    }

    pub(super) fn remove(&mut self, id: OpId) -> Op {
        let index = usize::try_from(id.get()).expect("an id of ours is an index");
        let op = self.entries[index].take().expect("a LUN I/O ends once");
        self.free.push(index);
        op
    }
}
