//! Flush rounds: capture → flush the touched LUNs → journal what was captured → complete.
//!
//! Rounds are serial. What is captured was completed before the LUNs are flushed, so its data is
//! durable before its record is. Any failure poisons the volume; nothing is retried.

use std::sync::atomic::Ordering;

use lunar_types::{LogicalExtent, LunIndex, Slot};

use super::Volume;
use super::core::Core;
use super::ops::Op;
use crate::io::{Action, IoError, LunIo, QueueId, RequestId};
use crate::journal::Record;
use crate::lun::LunError;

/// A slot as it was captured, journalled since.
#[derive(Clone, Debug)]
pub(super) struct Durable {
    pub(super) slot: Option<Slot>,
    pub(super) version: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    #[default]
    Idle,
    Flushing,
    Journalling,
}

/// The round under way and who waits.
#[derive(Debug, Default)]
pub(super) struct Round {
    stage: Stage,
    /// Served by the round under way.
    waiters: Vec<RequestId>,
    /// Came after it had captured.
    next: Vec<RequestId>,
    /// In order of logical extents.
    captured: Vec<(LogicalExtent, Durable)>,
    records: Vec<Record>,
    outstanding: u32,
    error: Option<String>,
    /// Whether the batch restates every dirty slot, and where it begins.
    is_full: bool,
    batch_first: u64,
    /// Rounds that have ended well.
    pub(super) done: u64,
    /// The last journal block whose batch is durable.
    pub(super) durable_seq: u64,
}

impl Round {
    pub(super) fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Whether the round under way, if there is one, is about flushing alone.
    pub(super) fn has_captured_nothing(&self) -> bool {
        self.captured.is_empty() && self.stage != Stage::Journalling
    }

    /// Whether the round under way journals this slot.
    pub(super) fn is_journalling(&self, logical: LogicalExtent) -> bool {
        self.captured.binary_search_by_key(&logical, |(captured, _)| *captured).is_ok()
    }
}

impl Core {
    /// A flush, or a FUA write that changed the map, waits for the next round.
    pub(super) fn join_round(
        &mut self,
        volume: &Volume,
        id: RequestId,
        queue: QueueId,
        out: &mut Vec<Action>,
    ) {
        if self.is_poisoned() {
            return self.end(id, queue, Err(IoError::Poisoned), out);
        }
        self.round.next.push(id);
        if self.round.is_idle() {
            self.begin_round(volume, queue, out);
        }
    }

    /// Begins a round for the control task, unless one is under way.
    pub(super) fn start_control_round(
        &mut self,
        volume: &Volume,
        queue: QueueId,
        out: &mut Vec<Action>,
    ) {
        if self.round.is_idle() && !self.is_poisoned() {
            self.begin_round(volume, queue, out);
        }
    }

    fn begin_round(&mut self, volume: &Volume, queue: QueueId, out: &mut Vec<Action>) {
        self.round.waiters = std::mem::take(&mut self.round.next);
        self.capture(volume);
        self.round.stage = Stage::Flushing;
        for lun in volume.spec.luns.indices() {
            if volume.touched[usize::from(lun.get())].swap(false, Ordering::AcqRel) {
                self.round.outstanding += 1;
                self.issue(Op::Round { lun }, LunIo::Flush { lun }, out);
            }
        }
        if self.round.outstanding == 0 {
            self.journal_captured(volume, queue, out);
        }
    }

    /// Copies the slots that changed, before any LUN is flushed.
    fn capture(&mut self, volume: &Volume) {
        assert!(self.round.captured.is_empty() && self.limbo.captured.is_empty(), "one round");
        self.round.is_full = self.ring.needs_full_batch();
        let changed = std::mem::take(&mut self.unflushed);
        let which: Vec<LogicalExtent> = if self.round.is_full {
            let mut all: Vec<_> = self.marks.keys().copied().collect();
            all.sort_unstable();
            all
        } else {
            changed.into_iter().collect()
        };
        for logical in which {
            let slot = self.head_slot(volume, logical);
            let mark = self.marks.get_mut(&logical).expect("a changed slot has its mark");
            let words = if self.round.is_full { u64::MAX } else { mark.words };
            mark.words = 0;
            let durable = Durable { slot, version: mark.version };
            let count = lunar_types::Presence::word_count(volume.spec.extent_size);
            let words = (0..count).filter(|word| words >> word & 1 == 1);
            let slot = durable.slot.as_ref();
            Record::state_slot(logical, slot, words, &mut self.round.records);
            self.round.captured.push((logical, durable));
        }
        self.limbo.captured = std::mem::take(&mut self.limbo.unmapped);
    }

    pub(super) fn round_step_ended(
        &mut self,
        volume: &Volume,
        queue: QueueId,
        lun: LunIndex,
        result: Result<(), LunError>,
        out: &mut Vec<Action>,
    ) {
        self.round.outstanding -= 1;
        if let Err(error) = result {
            let what = match self.round.stage {
                Stage::Flushing => "flush",
                _ => "journal write",
            };
            self.round.error.get_or_insert(format!("a {what} on LUN {lun} failed: {error}"));
        }
        if self.round.outstanding > 0 {
            return;
        }
        // A commit may have been refused meanwhile: a new owner may have read the journal already,
        // and its extents may be another's by now.
        let error = self.round.error.take().or_else(|| self.poison());
        match (error, self.round.stage) {
            (Some(error), _) => self.fail_round(volume, queue, error, out),
            (None, Stage::Flushing) => self.journal_captured(volume, queue, out),
            (None, _) => self.end_round(volume, queue, out),
        }
    }

    fn journal_captured(&mut self, volume: &Volume, queue: QueueId, out: &mut Vec<Action>) {
        self.round.stage = Stage::Journalling;
        let records = std::mem::take(&mut self.round.records);
        if records.is_empty() {
            return self.end_round(volume, queue, out);
        }
        self.round.batch_first = self.ring.last_seq() + 1;
        for write in self.ring.append(&records, self.round.is_full, &volume.spec.luns) {
            let (lun, at, buffer) = (write.lun, write.at, write.buffer);
            self.stats.journal_blocks += buffer.byte_len() as u64 / lunar_types::BLOCK_BYTES;
            self.round.outstanding += 1;
            let io = LunIo::WriteOwned { lun, at, buffer, durable: true };
            self.issue(Op::Round { lun }, io, out);
        }
    }

    fn end_round(&mut self, volume: &Volume, queue: QueueId, out: &mut Vec<Action>) {
        if !self.round.captured.is_empty() {
            self.round.durable_seq = self.ring.last_seq();
            if self.round.is_full {
                self.ring.full_batch_is_durable(self.round.batch_first);
            }
        }
        self.durable.extend(std::mem::take(&mut self.round.captured));
        self.limbo.journalled.append(&mut self.limbo.captured);
        self.round.stage = Stage::Idle;
        self.round.done += 1;
        self.stats.rounds += 1;
        for id in std::mem::take(&mut self.round.waiters) {
            self.end(id, queue, Ok(()), out);
        }
        if self.checkpoint.waits_for_round() {
            out.push(Action::WakeControl);
        }
        if !self.round.next.is_empty() {
            self.begin_round(volume, queue, out);
        }
    }

    fn fail_round(
        &mut self,
        volume: &Volume,
        queue: QueueId,
        error: String,
        out: &mut Vec<Action>,
    ) {
        self.round.stage = Stage::Idle;
        self.round.captured.clear();
        self.round.records.clear();
        self.poison_with(volume, error, out);
        let mut waiters = std::mem::take(&mut self.round.waiters);
        waiters.append(&mut self.round.next);
        for id in waiters {
            self.end(id, queue, Err(IoError::Poisoned), out);
        }
    }
}
