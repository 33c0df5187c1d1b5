//! Freeze, settle, switch, thaw: how a snapshot gets its moment. Design: `docs/layers.md`, "The
//! cut".
//!
//! Invariants:
//! - while frozen no write, discard or write-zeroes begins; reads and flushes go on;
//! - a volume is settled when everything that was written is flushed and committed, and no
//!   request can see what was there before;
//! - the switch costs the same whatever the size of the volume and the number of its extents: the
//!   new head has a greater generation than everything in the map.
//!
//! Crash order: the caller has the seal carried out by the metadata service between `is_settled`
//! and `switch`. The dirty table is empty then, so a successor finds nothing in it to mistake.

use std::sync::atomic::Ordering;

use lunar_types::LayerId;

use super::Volume;
use super::core::Core;
use crate::io::Action;

/// More than any generation: nothing is written in place.
const NOTHING: u16 = u16::MAX;

/// The head layer was sealed too often since the volume was attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the volume was sealed {0} times since it was attached: attach it anew")]
pub struct GenerationsUsedUp(u16);

/// How far a freeze has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frozen {
    /// Requests that looked at the map before the freeze may be under way: this period.
    Draining(u64),
    /// None is.
    Drained {
        /// Readers of this period may see what was there before the last of them.
        period: u64,
        /// When so many rounds have ended, all that they wrote is flushed.
        rounds: u64,
    },
    /// Everything is flushed and committed, and nobody sees the map of before. Only a thaw changes
    /// that; the pins are not asked again, because a late one may count for a moment.
    Settled,
}

impl Volume {
    /// Has writes wait from now on. Those under way go on to their end.
    ///
    /// A writer pins its period before it looks whether it may write in place, and this stores
    /// before it looks at the pins: one of the two sees the other.
    ///
    /// # Errors
    /// When no generation is left for another head.
    ///
    /// # Panics
    /// When the volume is frozen already.
    pub fn freeze(&self) -> Result<(), GenerationsUsedUp> {
        let mut core = self.lock();
        assert!(core.frozen.is_none(), "a volume is frozen once");
        let head = self.head().get();
        if head + 1 == NOTHING {
            return Err(GenerationsUsedUp(head));
        }
        self.writable_from.store(NOTHING, Ordering::SeqCst);
        core.frozen = Some(Frozen::Draining(self.grace.period()));
        core.end_claim_for_freeze();
        Ok(())
    }

    /// Whether everything that was written before the freeze is flushed and committed, and nobody
    /// sees the map of before. The control task brings that about; ask again until it is so.
    ///
    /// # Panics
    /// When the volume is not frozen.
    pub fn is_settled(&self) -> bool {
        self.lock().is_settled(self)
    }

    /// The checkpoint that the seal has to carry: the last journal block.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.lock().ring.last_seq()
    }

    /// Goes on in a new head layer: the head so far is sealed, and is never written again. Thaws.
    ///
    /// # Panics
    /// When the volume is not settled: what is not committed would be lost to the sealed layer.
    pub fn switch(&self, head: LayerId, out: &mut Vec<Action>) {
        let mut core = self.lock();
        assert!(core.is_settled(self), "a layer is sealed when all of it is committed");
        core.table.relabel(head);
        core.ring.speak_of(head);
        core.has_below = true;
        let generation = core.owned.seal(head);
        self.head.store(generation.get(), Ordering::Release);
        core.thaw(self, out);
    }

    /// Has writes go on in the head as it was.
    ///
    /// # Panics
    /// When the volume is not frozen.
    pub fn thaw(&self, out: &mut Vec<Action>) {
        self.lock().thaw(self, out);
    }
}

impl Core {
    fn is_settled(&mut self, volume: &Volume) -> bool {
        match self.frozen.expect("only a frozen volume settles") {
            Frozen::Draining(period) => {
                if volume.grace.has_passed(period) {
                    // A round under way has captured already: the one after it counts.
                    let rounds = self.round.done + if self.round.is_idle() { 1 } else { 2 };
                    let period = volume.grace.period();
                    self.frozen = Some(Frozen::Drained { period, rounds });
                    self.free_committed_entries();
                    self.want_checkpoint();
                }
                false
            }
            Frozen::Drained { period, rounds } => {
                // A copy of before the freeze has held the period, and none begins since.
                assert!(self.consolidation.claimed.is_none(), "no extent is claimed at a cut");
                let is_at_rest = self.round.is_idle() && !volume.is_touched();
                let is_settled = (is_at_rest || self.round.done >= rounds)
                    && self.is_committed()
                    && volume.grace.has_passed(period);
                if is_settled {
                    self.frozen = Some(Frozen::Settled);
                }
                is_settled
            }
            Frozen::Settled => true,
        }
    }

    fn thaw(&mut self, volume: &Volume, out: &mut Vec<Action>) {
        assert!(self.frozen.take().is_some(), "only a frozen volume thaws");
        self.publish_owned(volume);
        self.wake_for_thaw(out);
    }
}
