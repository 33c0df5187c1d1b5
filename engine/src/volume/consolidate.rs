//! Consolidation: extents that are read often and in pieces, or stand on many slots, become solid.
//! Design: `docs/layers.md`, "Consolidator".
//!
//! A step is: claim → grace period → look again → dirty entry and own extent, as for a first write
//! → copy what the own slot lacks (`copy`) → presence bits → the claim ends.
//!
//! Invariants:
//! - of a claimed extent no write, discard or write-zeroes begins; reads go on;
//! - nothing is copied before every write that began before the claim has ended: its bytes could
//!   land in the source after they were copied, or below the copy in the own extent;
//! - no claim is made while the volume is frozen or poisoned; a freeze ends one that has not begun
//!   to copy and waits for one that has;
//! - `opaque` is never flipped: blocks that nothing has are written as zeros.
//!
//! Crash order: that of a first write. A kill or a loss of power leaves bits unset, and the extent
//! as it was, or set, and then what they stand for is in the own extent.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use lunar_types::LogicalExtent;

use super::copy::ExtentCopy;
use super::core::Core;
use super::{QueueContext, Volume};
use crate::io::{Action, QueueId};
use crate::map::Entry;

/// Reads are counted for so long.
const WINDOW: Duration = Duration::from_secs(60);
/// An extent whose copy failed is left alone for so long.
const RETRY_AFTER: Duration = Duration::from_secs(600);
/// Entries of the map that one call looks at for long lists, with the lock held.
const LOOKED_AT: u64 = 8192;
/// Lists whose reads are counted at a time; nothing forgets them while nobody asks for claims.
const HEAT_MAX: usize = 1 << 16;

/// A logical extent that writes keep away from, to be copied.
#[derive(PartialEq, Eq, Debug)]
pub struct Claim {
    /// Which one.
    pub logical: LogicalExtent,
    /// The grace period in which it was claimed: only after it the copy may begin.
    pub since: u64,
    number: u64,
}

/// Why nothing was claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoClaim {
    /// No extent is read in pieces often enough, nor stands on too many slots.
    #[error("no extent is due")]
    NothingDue,
    /// One extent at a time.
    #[error("another extent is being copied")]
    Claimed,
    /// A snapshot is being taken.
    #[error("the volume is frozen")]
    Frozen,
    /// A flush or commit has failed.
    #[error("the volume takes no more writes")]
    Poisoned,
    /// [`Volume::pool_is_high`], or it gave no more extents.
    #[error("the pool is nearly full")]
    PoolHigh,
    /// What is left is for the guest's first writes.
    #[error("the reserve of extents is below its low mark")]
    ReserveLow,
    /// What is left is for the guest's first writes.
    #[error("the dirty table is nearly full")]
    TableFull,
}

/// What became of [`Volume::start_copy`].
#[derive(PartialEq, Eq, Debug)]
pub enum CopyStep {
    /// Writes of before the claim are under way: to be tried again soon.
    Waits(Claim),
    /// The claim has ended: there is nothing to copy any more, or it must not be now.
    Ended,
    /// LUN I/O of the control queue is under way; it ends with [`Action::WakeControl`].
    Begun,
}

/// The extent that is claimed.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) logical: LogicalExtent,
    number: u64,
    /// Not there while the grace period lasts.
    pub(super) copy: Option<ExtentCopy>,
}

/// What is due, and what is claimed.
#[derive(Debug, Default)]
pub(super) struct Consolidation {
    pub(super) claimed: Option<Claimed>,
    claims: u64,
    /// Reads that needed several I/Os since the window began.
    heat: HashMap<LogicalExtent, u32>,
    window_began: Duration,
    due: VecDeque<LogicalExtent>,
    /// Where the look for long lists goes on.
    next_look: u64,
    /// When the copy of an extent failed.
    failed: HashMap<LogicalExtent, Duration>,
    /// Copies that failed since the last claim was asked for.
    just_failed: Vec<LogicalExtent>,
    is_pool_high: bool,
}

impl Consolidation {
    /// Whether writes have to keep away from an extent.
    pub(super) fn claims(&self, logical: LogicalExtent) -> bool {
        self.claimed.as_ref().is_some_and(|claimed| claimed.logical == logical)
    }

    fn is_waiting(&self, claim: &Claim) -> bool {
        let is_it = |one: &Claimed| one.number == claim.number && one.copy.is_none();
        self.claimed.as_ref().is_some_and(is_it)
    }

    /// A read of a list needed several I/Os.
    fn note_read(&mut self, logical: LogicalExtent, due: u32) {
        if self.heat.len() >= HEAT_MAX && !self.heat.contains_key(&logical) {
            return;
        }
        let reads = self.heat.entry(logical).or_default();
        *reads = reads.saturating_add(1);
        if *reads == due.max(1) {
            self.due.push_back(logical);
        }
    }

    pub(super) fn copy_failed(&mut self, logical: LogicalExtent) {
        self.just_failed.push(logical);
    }

    /// What is known grows old.
    fn pass_time(&mut self, now: Duration) {
        if now >= self.window_began + WINDOW {
            self.heat.clear();
            self.due.clear();
            self.window_began = now;
        }
        let failed = std::mem::take(&mut self.just_failed);
        self.failed.extend(failed.into_iter().map(|logical| (logical, now)));
        self.failed.retain(|_, at| now < *at + RETRY_AFTER);
    }
}

impl Volume {
    /// Claims the extent that is to be made solid next; its writes wait until the claim has ended.
    /// `now` is monotonic. The caller goes on with [`Volume::start_copy`] soon.
    ///
    /// # Errors
    /// When there is none, or it must not be now.
    pub fn claim(&self, now: Duration) -> Result<Claim, NoClaim> {
        self.lock().claim(self, now)
    }

    /// Says whether [`Volume::claim`] would claim something in a pool that is not high, and claims
    /// nothing.
    ///
    /// # Errors
    /// As [`Volume::claim`].
    pub fn check_claim(&self, now: Duration) -> Result<(), NoClaim> {
        let mut core = self.lock();
        let logical = core.due(self, now)?;
        core.consolidation.due.push_front(logical);
        Ok(())
    }

    /// Begins to copy what was claimed, on the control queue, once every write of before the claim
    /// has ended.
    pub fn start_copy(
        &self,
        queue: &mut QueueContext,
        claim: Claim,
        out: &mut Vec<Action>,
    ) -> CopyStep {
        self.lock().start_copy(self, queue.id(), claim, out)
    }

    /// Gives a claim up whose copy has not begun.
    pub fn release_claim(&self, claim: Claim, out: &mut Vec<Action>) {
        let mut core = self.lock();
        if core.consolidation.is_waiting(&claim) {
            core.end_claim(out);
        }
    }

    /// Whether a copy is under way.
    #[must_use]
    pub fn is_copying(&self) -> bool {
        self.lock().consolidation.claimed.as_ref().is_some_and(|claimed| claimed.copy.is_some())
    }

    /// Says whether the pool is above its high watermark: then nothing is claimed.
    pub fn pool_is_high(&self, is_high: bool) {
        self.lock().consolidation.is_pool_high = is_high;
    }
}

impl Core {
    /// A list was read with so many LUN I/Os.
    pub(super) fn list_was_read(&mut self, volume: &Volume, logical: LogicalExtent, ios: u64) {
        self.stats.split_reads += 1;
        self.stats.split_read_ios += ios;
        if ios > 1 {
            self.consolidation.note_read(logical, volume.spec.tuning.consolidate_reads);
        }
    }

    fn claim(&mut self, volume: &Volume, now: Duration) -> Result<Claim, NoClaim> {
        if self.consolidation.is_pool_high {
            return Err(NoClaim::PoolHigh);
        }
        let logical = self.due(volume, now)?;
        let consolidation = &mut self.consolidation;
        consolidation.claims += 1;
        let number = consolidation.claims;
        consolidation.claimed = Some(Claimed { logical, number, copy: None });
        Ok(Claim { logical, since: volume.grace.period(), number })
    }

    /// Takes what is to be made solid next off the list.
    fn due(&mut self, volume: &Volume, now: Duration) -> Result<LogicalExtent, NoClaim> {
        self.consolidation.pass_time(now);
        self.check_room()?;
        self.next_due(volume).ok_or(NoClaim::NothingDue)
    }

    fn check_room(&self) -> Result<(), NoClaim> {
        let is_starving = self.has_parked_for_reserve() || self.reserve.is_low();
        let is_table_full = self.has_parked_for_table() || self.table.is_nearly_full();
        let refusals = [
            (self.is_poisoned(), NoClaim::Poisoned),
            (self.frozen.is_some(), NoClaim::Frozen),
            (self.consolidation.claimed.is_some(), NoClaim::Claimed),
            (self.reserve.is_pool_full(), NoClaim::PoolHigh),
            (is_starving, NoClaim::ReserveLow),
            (is_table_full, NoClaim::TableFull),
        ];
        refusals.into_iter().find(|(holds, _)| *holds).map_or(Ok(()), |(_, why)| Err(why))
    }

    fn next_due(&mut self, volume: &Volume) -> Option<LogicalExtent> {
        while let Some(logical) = self.consolidation.due.pop_front() {
            self.consolidation.heat.remove(&logical);
            if self.is_worth_a_copy(volume, logical, 1) {
                return Some(logical);
            }
        }
        let (extents, slots) = (volume.map.extents(), volume.spec.tuning.consolidate_slots);
        for _ in 0..LOOKED_AT.min(extents) {
            let logical = LogicalExtent::new(self.consolidation.next_look);
            self.consolidation.next_look = (logical.get() + 1) % extents;
            if self.is_worth_a_copy(volume, logical, slots.max(1)) {
                return Some(logical);
            }
        }
        None
    }

    /// Whether an extent is a list that shows at least so many slots, and the own one lacks
    /// blocks.
    fn is_worth_a_copy(&self, volume: &Volume, logical: LogicalExtent, slots: u32) -> bool {
        let Entry::Split(index) = volume.map.load(logical) else { return false };
        let split = self.splits.get(index);
        let is_full = split.head(volume.head()).is_some_and(|own| own.presence.is_full());
        let has_failed = self.consolidation.failed.contains_key(&logical);
        !is_full && !has_failed && split.shown_extents() >= slots as usize
    }

    fn start_copy(
        &mut self,
        volume: &Volume,
        queue: QueueId,
        claim: Claim,
        out: &mut Vec<Action>,
    ) -> CopyStep {
        if !self.consolidation.is_waiting(&claim) {
            return CopyStep::Ended;
        }
        if !volume.grace.has_passed(claim.since) {
            return CopyStep::Waits(claim);
        }
        assert!(self.frozen.is_none() && !self.is_poisoned(), "both end a claim that waits");
        let logical = claim.logical;
        assert!(!self.has_writes(logical), "a write of before the claim is still under way");
        let extent = self.is_worth_a_copy(volume, logical, 1).then(|| {
            let extent = self.extent_for(volume, logical, out);
            extent.ok()
        });
        let Some(to) = extent.flatten() else {
            self.end_claim(out);
            return CopyStep::Ended;
        };
        self.pin_entry(logical);
        let pin = volume.grace.pin(queue.get());
        let claimed = self.consolidation.claimed.as_mut().expect("it is waiting");
        claimed.copy = Some(ExtentCopy::new(to, queue, pin));
        self.go_on_copying(volume, out);
        CopyStep::Begun
    }

    /// Has the writes go on that keep away from the claimed extent.
    pub(super) fn end_claim(&mut self, out: &mut Vec<Action>) {
        let claimed = self.consolidation.claimed.take().expect("only what is claimed ends");
        self.wake_for_busy(claimed.logical, out);
    }

    /// Ends a claim whose copy has not begun; its writes wait for the thaw then.
    pub(super) fn end_claim_for_freeze(&mut self) {
        if let Some(logical) = self.waiting_claim() {
            self.consolidation.claimed = None;
            self.busy_waits_for_thaw(logical);
        }
    }

    /// Ends a claim whose copy has not begun; its writes go on to fail.
    pub(super) fn end_claim_for_poison(&mut self, out: &mut Vec<Action>) {
        if self.waiting_claim().is_some() {
            self.end_claim(out);
        }
    }

    fn waiting_claim(&self) -> Option<LogicalExtent> {
        let claimed = self.consolidation.claimed.as_ref()?;
        claimed.copy.is_none().then_some(claimed.logical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_of_so_many_lists_are_counted_and_of_no_more() {
        let mut counted = Consolidation::default();
        let most = HEAT_MAX as u64;
        (0..most + 10).for_each(|n| counted.note_read(LogicalExtent::new(n), 2));
        assert_eq!(counted.heat.len(), HEAT_MAX);
        counted.note_read(LogicalExtent::new(most - 1), 2);
        counted.note_read(LogicalExtent::new(most + 1), 2);
        assert_eq!(counted.due, [LogicalExtent::new(most - 1)]);
        counted.pass_time(WINDOW);
        counted.note_read(LogicalExtent::new(most + 1), 1);
        assert_eq!(counted.due, [LogicalExtent::new(most + 1)]);
    }
}
