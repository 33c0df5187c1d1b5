//! What the lock of a volume protects, and the life of a request in it.
//!
//! A request walks its byte range piece by piece. A piece is done (its I/O, if any, is under way),
//! parked, or failed. A parked request holds no grace period unless I/O of it is under way, and
//! looks at the map again when it wakes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use lunar_types::{BlockRange, LogicalExtent};

use super::checkpoint::Checkpoint;
use super::consolidate::Consolidation;
use super::edges::{ActiveWrites, Fills};
use super::freeze::Frozen;
use super::ops::{Op, Ops, WriteOp};
use super::owned::Owned;
use super::reserve::Reserve;
use super::round::{Durable, Round};
use super::slots::{Limbo, Mark};
use super::write::{Payload, PieceWrite};
use super::{Volume, VolumeStats};
use crate::dirty::DirtyTable;
use crate::grace::Pin;
use crate::io::{Action, IoError, IoOp, IoRequest, LunDone, LunIo, OpId, QueueId, RequestId};
use crate::journal::JournalRing;
use crate::lun::LunError;
use crate::map::SplitArena;

/// Why a request waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Park {
    /// For an extent.
    Reserve,
    /// For a dirty entry.
    Table,
    /// For another write to the same block, or a copy of the extent.
    Busy(LogicalExtent),
    /// For the end of a freeze.
    Thaw,
}

/// What became of a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Done,
    Park(Park),
    Fail(IoError),
}

/// A request that the lock-free path did not serve.
#[derive(Debug)]
pub(super) struct Request {
    op: IoOp,
    /// Bytes of its range that are dealt with.
    done: u64,
    /// LUN I/Os under way.
    pub(super) outstanding: u32,
    pub(super) error: Option<IoError>,
    pin: Option<Pin>,
    is_parked: bool,
    /// Whether a FUA write changed the map, so that a round has to follow.
    pub(super) needs_round: bool,
}

/// What the lock protects.
pub(super) struct Core {
    pub(super) splits: SplitArena,
    pub(super) table: DirtyTable,
    pub(super) marks: HashMap<LogicalExtent, Mark>,
    pub(super) unflushed: BTreeSet<LogicalExtent>,
    pub(super) durable: BTreeMap<LogicalExtent, Durable>,
    pub(super) last_version: u64,
    pub(super) limbo: Limbo,
    pub(super) reserve: Reserve,
    pub(super) ring: JournalRing,
    pub(super) round: Round,
    pub(super) checkpoint: Checkpoint,
    pub(super) active: ActiveWrites,
    pub(super) fills: Fills,
    pub(super) requests: HashMap<RequestId, Request>,
    pub(super) ops: Ops,
    /// Which layers' slots are written in place; the last is the head.
    pub(super) owned: Owned,
    /// Whether anything may be below the head's own slots; never falls.
    pub(super) has_below: bool,
    /// Whether an own slot has come to hide all that is below it.
    pub(super) has_new_cover: bool,
    pub(super) stats: VolumeStats,
    pub(super) frozen: Option<Frozen>,
    pub(super) consolidation: Consolidation,
    poison: Option<String>,
    parked_thaw: Vec<RequestId>,
    parked_reserve: VecDeque<RequestId>,
    parked_table: VecDeque<RequestId>,
    parked_busy: HashMap<LogicalExtent, Vec<RequestId>>,
    /// Requests that go on when their queue calls, by queue.
    ready: Vec<VecDeque<RequestId>>,
    /// Requests that have ended on another queue's call, by queue.
    finished: Vec<Vec<(u16, Result<(), IoError>)>>,
}

/// The parts of a core that loading makes.
pub(super) struct CoreParts {
    pub(super) splits: SplitArena,
    pub(super) table: DirtyTable,
    pub(super) ring: JournalRing,
    pub(super) limbo: Limbo,
    pub(super) owned: Owned,
    pub(super) has_below: bool,
    pub(super) queue_count: u16,
    pub(super) reserve: Reserve,
    pub(super) checkpoint_interval: std::time::Duration,
}

impl Core {
    pub(super) fn new(parts: CoreParts) -> Self {
        let queues = usize::from(parts.queue_count) + 1;
        let poison = parts.table.is_poisoned();
        let poison =
            poison.then(|| "a flush or commit of the killed predecessor failed".to_owned());
        Self {
            splits: parts.splits,
            table: parts.table,
            marks: HashMap::new(),
            unflushed: BTreeSet::new(),
            durable: BTreeMap::new(),
            last_version: 0,
            limbo: parts.limbo,
            reserve: parts.reserve,
            ring: parts.ring,
            round: Round::default(),
            checkpoint: Checkpoint::new(parts.checkpoint_interval),
            active: ActiveWrites::default(),
            fills: Fills::default(),
            requests: HashMap::new(),
            ops: Ops::default(),
            owned: parts.owned,
            has_below: parts.has_below,
            has_new_cover: parts.has_below,
            stats: VolumeStats::default(),
            poison,
            frozen: None,
            consolidation: Consolidation::default(),
            parked_thaw: Vec::new(),
            parked_reserve: VecDeque::new(),
            parked_table: VecDeque::new(),
            parked_busy: HashMap::new(),
            ready: vec![VecDeque::new(); queues],
            finished: vec![Vec::new(); queues],
        }
    }

    pub(super) fn start(
        &mut self,
        volume: &Volume,
        request: IoRequest,
        pin: Pin,
        out: &mut Vec<Action>,
    ) {
        let id = request.id;
        if request.op == IoOp::Flush {
            volume.grace.unpin(id.queue.get(), pin);
            self.join_round(volume, id, id.queue, out);
            return;
        }
        let request = Request {
            op: request.op,
            done: 0,
            outstanding: 0,
            error: None,
            pin: Some(pin),
            is_parked: false,
            needs_round: false,
        };
        let before = self.requests.insert(id, request);
        assert!(before.is_none(), "a tag is used again only after its request has ended");
        self.advance(volume, id, out);
    }

    /// Goes on with a request until it is done, parked or failed.
    pub(super) fn advance(&mut self, volume: &Volume, id: RequestId, out: &mut Vec<Action>) {
        loop {
            let request = self.requests.get(&id).expect("a request that goes on is there");
            let (offset, length) = byte_range(request.op);
            if request.error.is_some() || request.done == length {
                break;
            }
            let (op, done) = (request.op, request.done);
            let piece = volume.first_piece(offset + done, length - done);
            let buffer_offset = u32::try_from(done).unwrap_or(u32::MAX);
            let step = match op {
                IoOp::Write { .. } | IoOp::Discard { .. } | IoOp::WriteZeroes { .. }
                    if self.frozen.is_some() =>
                {
                    Step::Park(Park::Thaw)
                }
                IoOp::Read { .. } => self.read_piece(volume, id, piece, buffer_offset, out),
                IoOp::Write { fua, .. } => {
                    let payload = Payload::Buffer(buffer_offset);
                    let write = PieceWrite { id, piece, payload, fua };
                    self.write_piece(volume, write, out)
                }
                IoOp::Discard { .. } | IoOp::WriteZeroes { .. } => {
                    self.discard_piece(volume, id, piece, out)
                }
                IoOp::Flush => unreachable!("a flush has no pieces"),
            };
            let request = self.request(id);
            match step {
                Step::Done => request.done += u64::from(piece.length),
                Step::Fail(error) => request.error = Some(error),
                Step::Park(reason) => return self.park(volume, id, reason, out),
            }
        }
        self.finish_if_idle(volume, id, id.queue, out);
    }

    pub(super) fn request(&mut self, id: RequestId) -> &mut Request {
        self.requests.get_mut(&id).expect("a request is there until it has ended")
    }

    fn park(&mut self, volume: &Volume, id: RequestId, reason: Park, out: &mut Vec<Action>) {
        match reason {
            Park::Reserve => self.parked_reserve.push_back(id),
            Park::Table => {
                self.parked_table.push_back(id);
                self.want_checkpoint();
            }
            Park::Busy(logical) => self.parked_busy.entry(logical).or_default().push(id),
            Park::Thaw => self.parked_thaw.push(id),
        }
        self.request(id).is_parked = true;
        self.release_pin_if_idle(volume, id);
        if !matches!(reason, Park::Busy(_) | Park::Thaw) {
            out.push(Action::WakeControl);
        }
    }

    fn release_pin_if_idle(&mut self, volume: &Volume, id: RequestId) {
        let request = self.request(id);
        if request.outstanding == 0
            && let Some(pin) = request.pin.take()
        {
            volume.grace.unpin(id.queue.get(), pin);
        }
    }

    pub(super) fn has_parked_for_reserve(&self) -> bool {
        !self.parked_reserve.is_empty()
    }

    pub(super) fn has_parked_for_table(&self) -> bool {
        !self.parked_table.is_empty()
    }

    /// Has every request go on that waits for an extent.
    pub(super) fn wake_for_reserve(&mut self, out: &mut Vec<Action>) {
        let parked = std::mem::take(&mut self.parked_reserve);
        self.wake_all(parked, out);
    }

    /// Has every request go on that waits for a dirty entry.
    pub(super) fn wake_for_table(&mut self, out: &mut Vec<Action>) {
        let parked = std::mem::take(&mut self.parked_table);
        self.wake_all(parked, out);
    }

    /// Has every request go on that waits for the end of a freeze.
    pub(super) fn wake_for_thaw(&mut self, out: &mut Vec<Action>) {
        let parked = std::mem::take(&mut self.parked_thaw);
        self.wake_all(parked, out);
    }

    /// What waits for another write to an extent waits for the end of a freeze.
    pub(super) fn busy_waits_for_thaw(&mut self, logical: LogicalExtent) {
        self.parked_thaw.extend(self.parked_busy.remove(&logical).unwrap_or_default());
    }

    pub(super) fn wake_for_busy(&mut self, logical: LogicalExtent, out: &mut Vec<Action>) {
        let parked = self.parked_busy.remove(&logical).unwrap_or_default();
        self.wake_all(parked, out);
    }

    fn wake_all(&mut self, ids: impl IntoIterator<Item = RequestId>, out: &mut Vec<Action>) {
        for id in ids {
            self.ready[usize::from(id.queue.get())].push_back(id);
            out.push(Action::WakeQueue(id.queue));
        }
    }

    /// Goes on with what was woken on this queue.
    pub(super) fn resume(&mut self, volume: &Volume, queue: QueueId, out: &mut Vec<Action>) {
        let index = usize::from(queue.get());
        for (tag, result) in std::mem::take(&mut self.finished[index]) {
            out.push(Action::Complete { tag, result });
        }
        for id in std::mem::take(&mut self.ready[index]) {
            let request = self.request(id);
            request.is_parked = false;
            if request.pin.is_none() {
                request.pin = Some(volume.grace.pin(queue.get()));
            }
            self.advance(volume, id, out);
        }
    }

    /// Ends a request that has no more to do and nothing under way.
    fn finish_if_idle(
        &mut self,
        volume: &Volume,
        id: RequestId,
        queue: QueueId,
        out: &mut Vec<Action>,
    ) {
        let request = self.request(id);
        if request.outstanding > 0 {
            return;
        }
        if request.is_parked {
            return self.release_pin_if_idle(volume, id);
        }
        let (_, length) = byte_range(request.op);
        assert!(
            request.error.is_some() || request.done == length,
            "a request ends when dealt with"
        );
        self.release_pin_if_idle(volume, id);
        let request = self.requests.remove(&id).expect("it was there just now");
        match request.error {
            None if request.needs_round => self.join_round(volume, id, queue, out),
            None => self.end(id, queue, Ok(()), out),
            Some(error) => self.end(id, queue, Err(error), out),
        }
    }

    /// Tells the block device how a request ended, on the request's own queue.
    pub(super) fn end(
        &mut self,
        id: RequestId,
        queue: QueueId,
        result: Result<(), IoError>,
        out: &mut Vec<Action>,
    ) {
        if id.queue == queue {
            out.push(Action::Complete { tag: id.tag, result });
        } else {
            self.finished[usize::from(id.queue.get())].push((id.tag, result));
            out.push(Action::WakeQueue(id.queue));
        }
    }

    /// Starts a LUN I/O.
    pub(super) fn issue(&mut self, op: Op, io: LunIo, out: &mut Vec<Action>) -> OpId {
        let op = self.ops.insert(op);
        out.push(Action::Lun { op, io });
        op
    }

    pub(super) fn complete(
        &mut self,
        volume: &Volume,
        queue: QueueId,
        done: LunDone,
        out: &mut Vec<Action>,
    ) {
        match self.ops.remove(done.op) {
            Op::Read { request, lun } => {
                let result = done.result.map_err(|error| IoError::Lun { lun, error });
                self.io_ended(volume, request, queue, result, out);
            }
            Op::Write(write) => self.write_ended(volume, queue, write, done.result, out),
            Op::Fill { fill, edge, lun } => {
                self.fill_read_ended(volume, queue, (fill, edge, lun), done, out);
            }
            Op::Copy(io) => self.copy_io_ended(volume, io, done, out),
            Op::Round { lun } => self.round_step_ended(volume, queue, lun, done.result, out),
        }
    }

    fn write_ended(
        &mut self,
        volume: &Volume,
        queue: QueueId,
        write: WriteOp,
        result: Result<(), LunError>,
        out: &mut Vec<Action>,
    ) {
        if result.is_ok() && !write.durable {
            volume.touch(write.at.lun);
        }
        if write.sets_presence
            && result.is_ok()
            && self.head_extent(volume, write.logical) == Some(write.at)
        {
            self.set_present(volume, write.logical, write.blocks);
        }
        let WriteOp { request, logical, blocks, sets_presence, .. } = write;
        self.release_write(request, logical, blocks, sets_presence, out);
        let result = result.map_err(|error| IoError::Lun { lun: write.at.lun, error });
        self.io_ended(volume, write.request, queue, result, out);
    }

    /// A write no longer holds its blocks, nor its dirty entry if it had pinned one.
    pub(super) fn release_write(
        &mut self,
        request: RequestId,
        logical: LogicalExtent,
        blocks: BlockRange,
        is_pinned: bool,
        out: &mut Vec<Action>,
    ) {
        self.active.end(logical, request, blocks);
        if is_pinned {
            self.unpin_entry(logical);
            if self.table.has_room() {
                self.wake_for_table(out);
            }
        }
        self.wake_for_busy(logical, out);
    }

    /// One LUN I/O of a request has ended.
    pub(super) fn io_ended(
        &mut self,
        volume: &Volume,
        id: RequestId,
        queue: QueueId,
        result: Result<(), IoError>,
        out: &mut Vec<Action>,
    ) {
        let request = self.request(id);
        request.outstanding -= 1;
        if let Err(error) = result {
            request.error.get_or_insert(error);
        }
        self.finish_if_idle(volume, id, queue, out);
    }

    /// Refuses every write from now on, and fails those that wait.
    pub(super) fn poison_with(&mut self, volume: &Volume, why: String, out: &mut Vec<Action>) {
        volume.is_poisoned.store(true, std::sync::atomic::Ordering::Release);
        self.table.poison();
        tracing::error!(volume = %volume.spec.volume, why, "volume takes no more writes");
        self.poison.get_or_insert(why);
        self.wake_for_reserve(out);
        self.wake_for_table(out);
        self.end_claim_for_poison(out);
        out.push(Action::WakeControl);
    }

    pub(super) const fn is_poisoned(&self) -> bool {
        self.poison.is_some()
    }

    pub(super) fn poison(&self) -> Option<String> {
        self.poison.clone()
    }

    pub(super) fn is_clean(&self) -> bool {
        self.requests.is_empty()
            && self.is_committed()
            && self.round.is_idle()
            && self.limbo.is_empty()
            && self.consolidation.claimed.is_none()
    }

    /// Whether the metadata service has every slot as it is. What was unmapped may still drain.
    pub(super) fn is_committed(&self) -> bool {
        self.marks.is_empty()
            && self.durable.is_empty()
            && self.unflushed.is_empty()
            && self.round.has_captured_nothing()
            && self.limbo.len() == self.limbo.draining.len()
    }

    pub(super) fn stats(&self) -> VolumeStats {
        let parked = self.requests.values().filter(|request| request.is_parked).count();
        VolumeStats {
            dirty_extents: self.marks.len() as u64,
            dirty_capacity: self.table.capacity() as u64,
            reserve_extents: self.reserve.len() as u64,
            parked_requests: parked as u64,
            ..self.stats
        }
    }
}

const fn byte_range(op: IoOp) -> (u64, u64) {
    match op {
        IoOp::Read { offset, length } | IoOp::Write { offset, length, .. } => {
            (offset, length as u64)
        }
        IoOp::Discard { offset, length } | IoOp::WriteZeroes { offset, length } => (offset, length),
        IoOp::Flush => (0, 0),
    }
}
