//! Has extents made solid that are read in pieces, at the rate that the node allows. What is due
//! and when it must not be is the engine's to say: `lunar_engine::volume::NoClaim`.
//!
//! Invariants:
//! - one extent of a volume at a time; all volumes of the node share one rate;
//! - writes of an extent wait for `GRACE_LIMIT` and its copy at the most;
//! - nothing is copied in a pool above its high watermark, nor in one of which that is not known;
//! - a claim that was made is ended before anything else is done: nothing cuts this off.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lunar_engine::volume::{Claim, CopyRate, CopyStep, blocking};
use lunar_proto::domain::WatermarkLevel;
use lunar_types::PoolId;
use tokio::time::Instant;
use tracing::debug;

use super::control::Control;
use crate::metadata::Metadata;

/// How long writes of before a claim may keep it waiting.
const GRACE_LIMIT: Duration = Duration::from_millis(200);
/// Between two looks whether they have ended.
const GRACE_STEP: Duration = Duration::from_millis(1);
/// How old the knowledge may be of how full a pool is.
const USAGE_AGE: Duration = Duration::from_secs(10);

/// What the volumes of a node share: the rate, and how full their pools are.
pub struct CopyDesk {
    metadata: Arc<dyn Metadata>,
    rate: Mutex<CopyRate>,
    started: Instant,
    /// Whether a pool was high, and when that was asked.
    pools: Mutex<BTreeMap<PoolId, (bool, Duration)>>,
}

impl CopyDesk {
    /// A desk that lets so many bytes a second be copied; 0 lets none.
    #[must_use]
    pub fn new(metadata: Arc<dyn Metadata>, bytes_per_second: u64) -> Self {
        let rate = Mutex::new(CopyRate::new(bytes_per_second));
        Self { metadata, rate, started: Instant::now(), pools: Mutex::default() }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn allows(&self, now: Duration) -> bool {
        self.rate.lock().expect("a panic ends the process").allows(now)
    }

    fn spend(&self, bytes: u64) {
        self.rate.lock().expect("a panic ends the process").spend(bytes);
    }

    /// Whether a pool is above its high watermark; if it is not known, it is taken to be.
    async fn is_pool_high(&self, pool: PoolId, now: Duration) -> bool {
        let known = self.pools.lock().expect("a panic ends the process").get(&pool).copied();
        if let Some((is_high, asked)) = known
            && now < asked + USAGE_AGE
        {
            return is_high;
        }
        let is_high = match self.metadata.pool_level(pool).await {
            Ok(level) => level >= WatermarkLevel::High,
            Err(problem) => {
                debug!(%pool, %problem, "nothing is consolidated: how full is the pool?");
                true
            }
        };
        let mut pools = self.pools.lock().expect("a panic ends the process");
        pools.insert(pool, (is_high, now));
        is_high
    }
}

impl Control {
    /// Makes one extent solid, if one is due and nothing speaks against it.
    pub(super) async fn consolidate(&self) {
        let Some(desk) = &self.copies else { return };
        let volume = &self.served.shared.volume;
        if !desk.allows(desk.now()) || volume.check_claim(self.now()).is_err() {
            return;
        }
        volume.pool_is_high(desk.is_pool_high(self.served.facts.pool, desk.now()).await);
        // Who drives now wants to go on at once: a cut, or a checkpoint that somebody waits for.
        let Ok(_driver) = self.driver.try_lock() else { return };
        if self.heads().pending.is_some() {
            return;
        }
        let before = self.served.stats().consolidated_bytes;
        if let Ok(claim) = volume.claim(self.now()) {
            self.copy(claim).await;
        }
        desk.spend(self.served.stats().consolidated_bytes - before);
    }

    async fn copy(&self, mut claim: Claim) {
        let logical = claim.logical;
        let limit = Instant::now() + GRACE_LIMIT;
        loop {
            match self.start_copy(claim).await {
                CopyStep::Waits(same) if Instant::now() < limit => {
                    claim = same;
                    tokio::time::sleep(GRACE_STEP).await;
                }
                CopyStep::Waits(same) => {
                    debug!(volume = self.name(), %logical, "not consolidated: LUNs are slow");
                    let mut out = Vec::new();
                    self.served.shared.volume.release_claim(same, &mut out);
                    return self.wake(&mut out);
                }
                CopyStep::Ended | CopyStep::Begun => return,
            }
        }
    }

    /// Begins a copy, if it may begin, and runs it to its end.
    async fn start_copy(&self, claim: Claim) -> CopyStep {
        let (served, queue) = (Arc::clone(&self.served), Arc::clone(&self.queue));
        let copied = tokio::task::spawn_blocking(move || {
            let mut wakes = Vec::new();
            let mut queue = queue.lock().expect("a panic ends the process");
            let volume = &served.shared.volume;
            let step = blocking::run_copy(volume, &mut queue, claim, &served.luns, &mut wakes);
            (step, wakes)
        });
        let (step, mut wakes) = copied.await.expect("a copy neither panics nor is cancelled");
        self.wake(&mut wakes);
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeMetadata, unavailable};

    #[tokio::test]
    async fn how_full_a_pool_is_is_asked_every_ten_seconds() {
        let metadata = Arc::new(FakeMetadata::default());
        let desk = CopyDesk::new(Arc::clone(&metadata) as Arc<dyn Metadata>, 1);
        let (pool, mut now) = (PoolId::from_u128(3), Duration::ZERO);
        use WatermarkLevel::{Critical, High, Warning};
        metadata.expect_levels([Ok(Warning), Ok(High), Err(unavailable())]);
        for is_high in [false, true, true] {
            assert_eq!(desk.is_pool_high(pool, now).await, is_high);
            now += USAGE_AGE / 2;
            assert_eq!(desk.is_pool_high(pool, now).await, is_high, "known for a while");
            now += USAGE_AGE;
        }
        metadata.expect_levels([Ok(Critical), Ok(WatermarkLevel::Normal)]);
        assert!(desk.is_pool_high(pool, now).await);
        now += USAGE_AGE * 2;
        assert!(!desk.is_pool_high(pool, now).await);
    }

    #[test]
    fn the_volumes_of_a_node_share_one_rate() {
        let metadata: Arc<dyn Metadata> = Arc::new(FakeMetadata::default());
        let desk = CopyDesk::new(Arc::clone(&metadata), 4 << 20);
        assert!(desk.allows(Duration::ZERO));
        desk.spend(9 << 20);
        assert!(!desk.allows(Duration::ZERO));
        assert!(!desk.allows(Duration::from_secs(1)), "8 MiB too much at 4 MiB a second");
        assert!(desk.allows(Duration::from_millis(2100)));
        let off = CopyDesk::new(metadata, 0);
        assert!(!off.allows(Duration::ZERO) && !off.allows(Duration::from_secs(100)));
    }
}
