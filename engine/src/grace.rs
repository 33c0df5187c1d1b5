//! Grace periods: when has every request that may still see an old map entry finished?
//!
//! A request is counted on its queue under the parity of the current period, before it looks at
//! the map and until its last LUN I/O has completed. What was unmapped in period `p` is
//! unreachable once the period has moved on to `p + 1` and all counts under `p`'s parity are 0.
//! The period moves only when the counts of the parity it moves into are 0, so no parity ever
//! mixes two periods that matter.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The counts of one queue, on a cache line of their own.
#[derive(Default)]
#[repr(align(128))]
struct QueueCounts([AtomicU32; 2]);

/// The periods of one volume.
pub(crate) struct Grace {
    period: AtomicU64,
    queues: Box<[QueueCounts]>,
}

/// A request is being counted; it holds the parity it is counted under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pin(bool);

impl Pin {
    pub(crate) const fn bit(self) -> bool {
        self.0
    }

    pub(crate) const fn from_bit(bit: bool) -> Self {
        Self(bit)
    }
}

impl Grace {
    pub(crate) fn new(queue_count: u16) -> Self {
        let queues = (0..queue_count).map(|_| QueueCounts::default()).collect();
        Self { period: AtomicU64::new(0), queues }
    }

    /// Counts a request of this queue; only the queue's own thread calls it.
    pub(crate) fn pin(&self, queue: u16) -> Pin {
        let counts = &self.queues[usize::from(queue)].0;
        loop {
            let period = self.period.load(Ordering::SeqCst);
            let parity = period & 1 == 1;
            counts[usize::from(parity)].fetch_add(1, Ordering::SeqCst);
            if self.period.load(Ordering::SeqCst) == period {
                return Pin(parity);
            }
            counts[usize::from(parity)].fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Ends the counting of a request.
    pub(crate) fn unpin(&self, queue: u16, pin: Pin) {
        let count = &self.queues[usize::from(queue)].0[usize::from(pin.0)];
        let before = count.fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0, "a request is unpinned once");
    }

    pub(crate) fn period(&self) -> u64 {
        self.period.load(Ordering::SeqCst)
    }

    fn is_quiet(&self, period: u64) -> bool {
        let parity = usize::from(period & 1 == 1);
        self.queues.iter().all(|queue| queue.0[parity].load(Ordering::SeqCst) == 0)
    }

    /// Whether nothing can still see what was unmapped in `period`; moves the period on if it can.
    /// Callers hold the lock of the volume, so periods move one at a time.
    pub(crate) fn has_passed(&self, period: u64) -> bool {
        let now = self.period();
        if now == period && self.is_quiet(now + 1) {
            self.period.store(now + 1, Ordering::SeqCst);
        }
        match self.period() - period {
            0 => false,
            1 => self.is_quiet(period),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_saw_the_old_map_holds_the_period() {
        let grace = Grace::new(2);
        let early = grace.pin(1);
        let freed_in = grace.period();
        assert!(!grace.has_passed(freed_in));
        let late = grace.pin(0);
        assert!(!grace.has_passed(freed_in), "the early request is still there");
        grace.unpin(1, early);
        assert!(grace.has_passed(freed_in), "a later request does not hold it");
        grace.unpin(0, late);
    }

    #[test]
    fn a_period_does_not_move_into_a_parity_in_use() {
        let grace = Grace::new(1);
        let first = grace.pin(0);
        assert!(!grace.has_passed(0));
        assert_eq!(grace.period(), 1);
        let freed_in = grace.period();
        assert!(!grace.has_passed(freed_in), "period 2 would share the parity of period 0");
        grace.unpin(0, first);
        assert!(grace.has_passed(freed_in));
    }
}
