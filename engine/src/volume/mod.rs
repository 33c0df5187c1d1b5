//! An attached volume: requests in, actions out.
//!
//! [`Volume`] is shared by the threads of all queues and by the control task. Reads and writes of
//! solid extents and reads of holes go through without a lock; everything else is the part of
//! `core::Core`, behind the volume's lock. States and crash order: `docs/engine.md`.
//!
//! A call for a queue is made by that queue's thread only, with that queue's [`QueueContext`];
//! the actions it gives are run on that queue's ring. The last queue is the control queue: it has
//! no requests, and runs the rounds that a checkpoint asks for, and copies ([`blocking`]).

pub mod blocking;
mod chain;
mod checkpoint;
mod consolidate;
mod copy;
mod core;
mod discard;
mod edges;
mod freeze;
mod grow;
mod load;
mod loaded;
mod ops;
mod owned;
mod prune;
mod rate;
mod read;
mod reserve;
mod round;
mod slots;
mod write;

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use lunar_types::{
    BLOCK_BYTES, ExtentAddress, ExtentRun, ExtentSize, Freed, LogicalBlockSize, LogicalExtent,
    LunIndex, NodeIncarnation, VolumeId, VolumeSize,
};

use crate::grace::{Grace, Pin};
use crate::io::{Action, IoError, IoOp, IoRequest, LunDone, LunIo, QueueId};
use crate::lun::LunTable;
use crate::map::{Entry, Generation, ResolvedMap};

pub use chain::Chain;
pub use checkpoint::{COMMIT_UPDATES_MAX, CommitBatch, ControlWork, WorkDone};
pub use consolidate::{Claim, CopyStep, NoClaim};
pub use freeze::GenerationsUsedUp;
pub use load::{LayerSlots, StartError, VolumeParts, dirty_capacity};
pub use loaded::LoadedMap;
pub use prune::PrunedSlot;
pub use rate::CopyRate;

use self::core::Core;

/// What a volume is; only its size changes while it is attached, and not here.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    /// The volume.
    pub volume: VolumeId,
    /// Who serves it.
    pub holder: NodeIncarnation,
    /// Its size when it is started; see [`Volume::size`].
    pub size: VolumeSize,
    /// The extent size of its pool.
    pub extent_size: ExtentSize,
    /// The logical block of its device.
    pub logical_block: LogicalBlockSize,
    /// Queues of the device; the control queue comes on top.
    pub queue_count: u16,
    /// The LUNs of its pool; may grow meanwhile. Extents of a LUN are given to the volume only
    /// after the LUN was added.
    pub luns: LunTable,
    /// When to checkpoint, how much to reserve, what to consolidate.
    pub tuning: Tuning,
}

/// When to checkpoint, how much to reserve, what to consolidate.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// The longest that something dirty waits for a checkpoint; default 5 s.
    pub checkpoint_interval: Duration,
    /// Extents to have in reserve at the least; default 64.
    pub reserve_min: u32,
    /// Extents to have in reserve at the most; default 4,096.
    pub reserve_max: u32,
    /// How long a full pool is believed to be full before it is asked again; default 500 ms.
    pub pool_full_retry: Duration,
    /// Reads of one slot list within a minute, each of several I/Os, that make it due to be
    /// consolidated; default 16.
    pub consolidate_reads: u32,
    /// Slots that make a list due, read or not; default 32.
    pub consolidate_slots: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            checkpoint_interval: Duration::from_secs(5),
            reserve_min: 64,
            reserve_max: 4096,
            pool_full_retry: Duration::from_millis(500),
            consolidate_reads: 16,
            consolidate_slots: 32,
        }
    }
}

/// The side of a queue that only its own thread touches.
#[derive(Debug)]
pub struct QueueContext {
    id: QueueId,
}

impl QueueContext {
    /// Which queue.
    #[must_use]
    pub const fn id(&self) -> QueueId {
        self.id
    }
}

/// Counters and gauges of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VolumeStats {
    /// Slots that differ from the committed ones.
    pub dirty_extents: u64,
    /// Entries of the dirty table.
    pub dirty_capacity: u64,
    /// Extents in reserve.
    pub reserve_extents: u64,
    /// Requests that wait for an extent, a dirty entry or another write.
    pub parked_requests: u64,
    /// Flush rounds that ended well.
    pub rounds: u64,
    /// Checkpoints that ended well.
    pub checkpoints: u64,
    /// Journal blocks written.
    pub journal_blocks: u64,
    /// First writes: extents allocated.
    pub allocations: u64,
    /// Reads of pieces that a slot list describes.
    pub split_reads: u64,
    /// LUN I/Os that those reads needed.
    pub split_read_ios: u64,
    /// Extents that a copy made whole in the head.
    pub consolidated_extents: u64,
    /// Bytes that copies have written.
    pub consolidated_bytes: u64,
    /// Copies that a LUN failed.
    pub failed_copies: u64,
    /// Whether the volume takes no more writes.
    pub is_poisoned: bool,
}

/// A volume that serves requests.
pub struct Volume {
    spec: VolumeSpec,
    /// The generation of the head layer; changes under the lock.
    head: AtomicU16,
    /// Extents of this generation or a later one are written in place: those of the head, and of
    /// layers that were merged into it; while the volume is frozen none.
    writable_from: AtomicU16,
    /// Its size in bytes; rises under the lock, after the map has.
    bytes: AtomicU64,
    map: ResolvedMap,
    grace: Grace,
    touched: Box<[AtomicBool]>,
    is_poisoned: AtomicBool,
    core: Mutex<Core>,
}

/// The part of a request that lies in one logical extent, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    logical: LogicalExtent,
    /// First byte within the extent.
    within: u32,
    length: u32,
}

impl Volume {
    /// The context of a queue; taken once by the thread that drives it.
    ///
    /// # Panics
    /// When the volume has no such queue.
    #[must_use]
    pub fn queue(&self, id: QueueId) -> QueueContext {
        assert!(id.get() <= self.spec.queue_count, "queue {} does not exist", id.get());
        QueueContext { id }
    }

    /// The context of the control queue.
    #[must_use]
    pub fn control_queue(&self) -> QueueContext {
        self.queue(QueueId::new(self.spec.queue_count))
    }

    /// What the volume was when it was started.
    #[must_use]
    pub const fn spec(&self) -> &VolumeSpec {
        &self.spec
    }

    /// Takes a request in.
    pub fn submit(&self, queue: &mut QueueContext, request: IoRequest, out: &mut Vec<Action>) {
        debug_assert_eq!(request.id.queue, queue.id, "a request comes in on its own queue");
        if !self.is_valid(request.op) {
            let result = Err(IoError::Invalid);
            out.push(Action::Complete { tag: request.id.tag, result });
            return;
        }
        let pin = self.grace.pin(queue.id.get());
        if self.submit_direct(request, pin, out) {
            return;
        }
        self.lock().start(self, request, pin, out);
    }

    /// A LUN I/O of this queue has ended.
    pub fn complete(&self, queue: &mut QueueContext, done: LunDone, out: &mut Vec<Action>) {
        match ops::Direct::of(done.op) {
            Some(direct) => self.complete_direct(queue, direct, done.result, out),
            None => self.lock().complete(self, queue.id, done, out),
        }
    }

    /// Goes on with requests of this queue that were woken; called after [`Action::WakeQueue`].
    pub fn resume(&self, queue: &mut QueueContext, out: &mut Vec<Action>) {
        self.lock().resume(self, queue.id, out);
    }

    /// What the control task has to do next, if anything; `now` is monotonic. To be called after
    /// [`Action::WakeControl`] and every few hundred milliseconds without: what becomes due with
    /// time, such as a checkpoint, is noticed only here.
    pub fn next_work(&self, now: Duration, out: &mut Vec<Action>) -> Option<ControlWork> {
        self.lock().next_work(self, now, out)
    }

    /// The control task has done what [`Volume::next_work`] gave it.
    pub fn work_done(&self, done: WorkDone, now: Duration, out: &mut Vec<Action>) {
        self.lock().work_done(self, done, now, out);
    }

    /// Begins the round that [`ControlWork::Round`] asks for, on the control queue.
    pub fn start_round(&self, queue: &mut QueueContext, out: &mut Vec<Action>) {
        self.lock().start_control_round(self, queue.id, out);
    }

    /// Has a checkpoint taken as soon as possible.
    pub fn request_checkpoint(&self, out: &mut Vec<Action>) {
        self.lock().want_checkpoint();
        out.push(Action::WakeControl);
    }

    /// Whether the committed map is the whole truth: nothing dirty, nothing under way, no extent
    /// claimed. Whoever detaches claims nothing more and ends a claim that waits.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.is_touched() && self.lock().is_clean()
    }

    /// About so many first writes will come at once: has extents for them asked for, as far as a
    /// volume may keep them.
    pub fn prepare_reserve(&self, count: u64, out: &mut Vec<Action>) {
        self.lock().reserve.prepare(u32::try_from(count).unwrap_or(u32::MAX));
        out.push(Action::WakeControl);
    }

    /// Takes up to `count` unused extents out of the reserve, to give them to others.
    pub fn take_reserve(&self, count: usize) -> Vec<ExtentAddress> {
        self.lock().take_reserve(count)
    }

    /// What is committed or pruned from now on leaves extents that are not to be used again. To be
    /// called before the answer that says so is handed on. There is no way back: once a backup was
    /// made, there may be one.
    pub fn give_back_freed(&self) {
        self.lock().limbo.freed = Freed::GiveBack;
    }

    /// Takes the extents that are to be given back, and that no request sees any more.
    pub fn take_returned(&self) -> Vec<ExtentAddress> {
        std::mem::take(&mut self.lock().limbo.returned)
    }

    /// Puts extents of the node's reservation into the reserve.
    pub fn give_reserve(&self, runs: &[ExtentRun], out: &mut Vec<Action>) {
        self.lock().give_reserve(runs, out);
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> VolumeStats {
        let is_poisoned = self.is_poisoned.load(Ordering::Acquire);
        VolumeStats { is_poisoned, ..self.lock().stats() }
    }

    /// Why the volume takes no more writes, if so.
    #[must_use]
    pub fn poison(&self) -> Option<String> {
        self.lock().poison()
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect("a panic under the lock ends the process: the state is unknown")
    }

    fn is_valid(&self, op: IoOp) -> bool {
        let (offset, length) = match op {
            IoOp::Read { offset, length } | IoOp::Write { offset, length, .. } => {
                (offset, u64::from(length))
            }
            IoOp::Discard { offset, length } | IoOp::WriteZeroes { offset, length } => {
                (offset, length)
            }
            IoOp::Flush => return true,
        };
        let block = u64::from(self.spec.logical_block.bytes());
        length > 0
            && offset.is_multiple_of(block)
            && length.is_multiple_of(block)
            && offset.checked_add(length).is_some_and(|end| end <= self.bytes())
    }

    /// The part of a byte range that lies in its first logical extent.
    fn first_piece(&self, offset: u64, length: u64) -> Piece {
        let (logical, within) = self.spec.extent_size.split(offset);
        let room = self.spec.extent_size.bytes() - u64::from(within);
        let length = u32::try_from(length.min(room)).expect("an extent has at most 16 MiB");
        Piece { logical, within, length }
    }

    /// Serves a request that needs no lock; says whether it did.
    fn submit_direct(&self, request: IoRequest, pin: Pin, out: &mut Vec<Action>) -> bool {
        let tag = request.id.tag;
        let (offset, length) = match request.op {
            IoOp::Read { offset, length } | IoOp::Write { offset, length, fua: false } => {
                (offset, length)
            }
            _ => return false,
        };
        let piece = self.first_piece(offset, u64::from(length));
        if piece.length != length {
            return false;
        }
        let is_read = matches!(request.op, IoOp::Read { .. });
        match self.map.load(piece.logical) {
            Entry::Solid { generation, at } if is_read || self.may_write(generation) => {
                let lun = at.lun;
                let at = self.spec.luns.byte_of(at) + u64::from(piece.within);
                let direct = ops::Direct { tag, lun, pin, is_write: !is_read };
                let io = if is_read {
                    LunIo::Read { lun, at, tag, offset: 0, length }
                } else {
                    LunIo::Write { lun, at, tag, offset: 0, length, durable: false }
                };
                out.push(Action::Lun { op: direct.id(), io });
                true
            }
            Entry::Hole if is_read => {
                out.push(Action::ZeroFill { tag, offset: 0, length });
                out.push(Action::Complete { tag, result: Ok(()) });
                self.grace.unpin(request.id.queue.get(), pin);
                true
            }
            _ => false,
        }
    }

    /// The caller has pinned the period before: see [`Volume::freeze`].
    fn may_write(&self, generation: Generation) -> bool {
        self.owns(generation) && !self.is_poisoned.load(Ordering::Acquire)
    }

    /// Whether nobody else can see slots of this generation.
    fn owns(&self, generation: Generation) -> bool {
        generation.get() >= self.writable_from.load(Ordering::SeqCst)
    }

    fn head(&self) -> Generation {
        Generation::new(self.head.load(Ordering::Acquire))
    }

    fn complete_direct(
        &self,
        queue: &QueueContext,
        direct: ops::Direct,
        result: Result<(), crate::lun::LunError>,
        out: &mut Vec<Action>,
    ) {
        if direct.is_write && result.is_ok() {
            self.touch(direct.lun);
        }
        self.grace.unpin(queue.id.get(), direct.pin);
        let result = result.map_err(|error| IoError::Lun { lun: direct.lun, error });
        out.push(Action::Complete { tag: direct.tag, result });
    }

    /// A volatile write on the LUN has completed: the next round has to flush it.
    fn touch(&self, lun: LunIndex) {
        self.touched[usize::from(lun.get())].store(true, Ordering::Release);
    }

    /// Whether a LUN has volatile writes that no round has flushed.
    fn is_touched(&self) -> bool {
        let is_touched =
            |lun: LunIndex| self.touched[usize::from(lun.get())].load(Ordering::Acquire);
        self.spec.luns.indices().any(is_touched)
    }

    /// The blocks that a piece touches, whole or in part.
    fn blocks_of(piece: Piece) -> lunar_types::BlockRange {
        let block = BLOCK_BYTES as u32;
        let first = piece.within / block;
        let end = (piece.within + piece.length).div_ceil(block);
        lunar_types::BlockRange::new(first, end - first)
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Volume({})", self.spec.volume)
    }
}
