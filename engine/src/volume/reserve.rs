//! Extents ready for first writes, so that writeback never waits for the metadata service.
//!
//! The target doubles when a refill is used up soon and halves when it lasts.

use std::collections::VecDeque;
use std::time::Duration;

use lunar_types::{ExtentAddress, ExtentRun};

use super::Tuning;

/// A refill that is used up faster than this was too small.
const REFILL_SOON: Duration = Duration::from_secs(10);
/// A refill that lasts longer than this was too large.
const REFILL_LATE: Duration = Duration::from_secs(120);
/// What is prepared for is no more than this part of what may be kept: a pool is shared, and a
/// group of many volumes prepares at one moment.
const PREPARED_SHARE: u32 = 4;

#[derive(Debug)]
pub(super) struct Reserve {
    free: VecDeque<ExtentAddress>,
    target: u32,
    tuning: Tuning,
    asked: u32,
    refilled_at: Option<Duration>,
    full_since: Option<Duration>,
    is_pool_full: bool,
}

impl Reserve {
    pub(super) fn new(tuning: Tuning) -> Self {
        // A volume without any could never write.
        let (reserve_min, reserve_max) = (tuning.reserve_min.max(1), tuning.reserve_max.max(1));
        let tuning = Tuning { reserve_min, reserve_max, ..tuning };
        Self {
            free: VecDeque::new(),
            target: reserve_min,
            tuning,
            asked: 0,
            refilled_at: None,
            full_since: None,
            is_pool_full: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    pub(super) fn take(&mut self) -> Option<ExtentAddress> {
        self.free.pop_front()
    }

    pub(super) fn take_up_to(&mut self, count: usize) -> Vec<ExtentAddress> {
        let keep = self.free.len().saturating_sub(count);
        self.free.split_off(keep).into()
    }

    pub(super) fn give(&mut self, extents: impl IntoIterator<Item = ExtentAddress>) {
        let before = self.free.len();
        self.free.extend(extents);
        if self.free.len() > before {
            self.is_pool_full = false;
            self.full_since = None;
        }
    }

    /// Many first writes are about to come: so many, as far as may be kept ahead of need.
    pub(super) fn prepare(&mut self, count: u32) {
        let most = (self.tuning.reserve_max / PREPARED_SHARE).max(self.tuning.reserve_min);
        self.target = self.target.max(count.min(most));
    }

    /// Whether the pool was full when asked last, not long ago.
    pub(super) const fn is_pool_full(&self) -> bool {
        self.is_pool_full
    }

    /// The pool said that it is full.
    pub(super) const fn pool_is_full(&mut self, now: Duration) {
        self.is_pool_full = true;
        self.full_since = Some(now);
    }

    /// Believes no longer that the pool is full, once the answer is old.
    pub(super) fn forget_full(&mut self, now: Duration) {
        if self.full_since.is_some_and(|since| now >= since + self.tuning.pool_full_retry) {
            self.is_pool_full = false;
            self.full_since = None;
        }
    }

    /// Whether fewer are left than are always wanted for first writes.
    pub(super) fn is_low(&self) -> bool {
        self.free.len() < self.target.div_ceil(2) as usize
    }

    /// How many extents are wanted; none while there are enough or the pool is full.
    pub(super) fn shortage(&self) -> Option<u32> {
        let have = u32::try_from(self.free.len()).unwrap_or(u32::MAX);
        let is_short = have < self.target.div_ceil(2);
        (is_short && !self.is_pool_full).then(|| self.target - have)
    }

    /// How many extents to ask for now.
    pub(super) fn ask(&mut self) -> Option<u32> {
        let count = self.shortage()?;
        self.asked = count;
        Some(count)
    }

    /// Takes in what the metadata service reserved.
    pub(super) fn refill(&mut self, runs: &[ExtentRun], now: Duration) {
        let count: u32 = runs.iter().map(|run| run.count()).sum();
        // A pool that gives less than it was asked for is nearly full: asking for more is no help.
        let is_whole = count >= self.asked;
        match self.refilled_at.map(|at| now.saturating_sub(at)) {
            Some(lasted) if lasted < REFILL_SOON && is_whole => {
                self.target = self.target.saturating_mul(2).min(self.tuning.reserve_max);
            }
            Some(lasted) if lasted > REFILL_LATE => {
                self.target = (self.target / 2).max(self.tuning.reserve_min);
            }
            _ => {}
        }
        self.refilled_at = Some(now);
        self.give(runs.iter().flat_map(|run| run.iter()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_follows_the_rate_of_first_writes() {
        let mut reserve = Reserve::new(Tuning::default());
        let mut next = 0;
        let mut refill = |reserve: &mut Reserve, now: u64| {
            let count = reserve.ask().expect("it was used up");
            reserve.refill(
                &[ExtentRun::new(ExtentAddress::new(0, next), count)],
                Duration::from_secs(now),
            );
            next += u64::from(count);
            reserve.take_up_to(usize::MAX);
            count
        };
        assert_eq!(refill(&mut reserve, 0), 64);
        assert_eq!(refill(&mut reserve, 1), 64);
        assert_eq!(refill(&mut reserve, 2), 128);
        for now in 3..12 {
            refill(&mut reserve, now);
        }
        assert_eq!(refill(&mut reserve, 12), 4096);
        for round in 1..10 {
            refill(&mut reserve, 12 + 200 * round);
        }
        assert_eq!(refill(&mut reserve, 3000), 64);
    }

    #[test]
    fn a_pool_that_gives_less_is_not_asked_for_more() {
        let mut reserve = Reserve::new(Tuning::default());
        for now in 0..5 {
            assert_eq!(reserve.ask(), Some(64));
            let run = ExtentRun::new(ExtentAddress::new(0, now), 1);
            reserve.refill(&[run], Duration::from_secs(now));
            reserve.take_up_to(usize::MAX);
        }
    }

    #[test]
    fn a_reserve_of_none_still_asks_for_one() {
        let tuning = Tuning { reserve_min: 0, reserve_max: 0, ..Tuning::default() };
        let mut reserve = Reserve::new(tuning);
        for now in [0, 1, 500] {
            assert_eq!(reserve.ask(), Some(1));
            let run = ExtentRun::new(ExtentAddress::new(0, now), 1);
            reserve.refill(&[run], Duration::from_secs(now));
            assert!(reserve.take().is_some());
        }
    }

    #[test]
    fn what_is_prepared_for_is_asked_for_within_bounds() {
        let mut reserve = Reserve::new(Tuning::default());
        reserve.prepare(10);
        assert_eq!(reserve.ask(), Some(64), "the least is more");
        reserve.prepare(300);
        assert_eq!(reserve.ask(), Some(300));
        reserve.prepare(1_000_000);
        assert_eq!(reserve.ask(), Some(1024));
        reserve.prepare(100);
        assert_eq!(reserve.ask(), Some(1024), "it does not fall by that");
    }

    #[test]
    fn a_full_pool_is_asked_again_after_a_while() {
        let mut reserve = Reserve::new(Tuning::default());
        reserve.pool_is_full(Duration::from_secs(1));
        assert!(reserve.is_pool_full() && reserve.ask().is_none());
        reserve.forget_full(Duration::from_millis(1400));
        assert!(reserve.is_pool_full());
        reserve.forget_full(Duration::from_millis(1500));
        assert!(!reserve.is_pool_full() && reserve.ask().is_some());
    }
}
