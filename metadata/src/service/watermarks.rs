//! Watermarks: how full a pool is, what may begin in it, and who hears of it.
//!
//! Invariants:
//! - nothing that runs is refused anything here: only what begins (volumes, clones, snapshots,
//!   growth) is, above the critical mark, and only until the caller insists;
//! - a refusal rests on a count of its own transaction; an admission on one that is at most ten
//!   seconds old, or that this process made later;
//! - reserved, quarantined and journal extents count as used: nobody else can have them. What is
//!   held back for journals counts neither as used nor as usable;
//! - a crossing is told once: downwards only when the pool is two percent below the mark.
//!
//! Counts read bitmaps as a snapshot, so they conflict with nobody. Each process keeps its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lunar_proto::domain::{Pool, PoolFill, SetWatermarks, SpaceUsage, WatermarkLevel, Watermarks};
use lunar_types::{Name, PoolId};

use super::Service;
use super::geometry::{PoolGeometry, find_pool, held_back_extents};
use super::status::count_space;
use crate::error::ServiceError;
use crate::keyspace::{KeyedTxn, Outcome, PoolKey, PoolRecord, TypedRange};
use crate::store::{MetaStore, Txn};

/// How old a count may be.
const COUNT_AGE_MAX: Duration = Duration::from_secs(10);
/// How far below a mark a pool is before it counts as having gone below it, in percent.
const HYSTERESIS: u8 = 2;
/// Pools that one look reads.
const POOLS_PER_LOOK: usize = 100;

/// A count of a pool.
#[derive(Clone, Copy)]
struct Count {
    fill: PoolFill,
    at: Duration,
}

/// What this process knows of how full pools are.
#[derive(Default)]
pub(super) struct Fills {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    counts: BTreeMap<PoolId, Count>,
    /// The level that was told last.
    told: BTreeMap<PoolId, WatermarkLevel>,
    /// When all pools were looked at.
    looked: Option<Duration>,
}

impl Fills {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self, pool: PoolId, now: Duration) -> Option<PoolFill> {
        let known = self.lock();
        let count = known.counts.get(&pool)?;
        (now.saturating_sub(count.at) < COUNT_AGE_MAX).then_some(count.fill)
    }

    fn remember(&self, pool: PoolId, fill: PoolFill, at: Duration) {
        self.lock().counts.insert(pool, Count { fill, at });
    }

    /// Whether all pools are to be looked at; if so, they count as looked at.
    fn is_due(&self, now: Duration) -> bool {
        let mut known = self.lock();
        let is_due = known.looked.is_none_or(|at| now.saturating_sub(at) >= COUNT_AGE_MAX);
        if is_due {
            known.looked = Some(now);
        }
        is_due
    }

    /// Takes note of a level; gives the one before if that is to be told.
    fn cross(&self, pool: PoolId, level: WatermarkLevel) -> Option<WatermarkLevel> {
        let before = self.lock().told.insert(pool, level).unwrap_or_default();
        (before != level).then_some(before)
    }

    fn told(&self, pool: PoolId) -> WatermarkLevel {
        self.lock().told.get(&pool).copied().unwrap_or_default()
    }
}

/// A pool that has crossed a watermark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Crossing {
    /// The pool.
    pub pool: PoolId,
    /// Its name.
    pub name: Name,
    /// Where it was.
    pub from: WatermarkLevel,
    /// Where it is.
    pub to: WatermarkLevel,
    /// How full it is.
    pub fill: PoolFill,
}

/// The level to tell: one that was reached is left only well below its mark.
fn told_level(marks: &Watermarks, fill: PoolFill, before: WatermarkLevel) -> WatermarkLevel {
    let level = marks.level(fill);
    if level >= before {
        return level;
    }
    let stays = |at: &WatermarkLevel| {
        *at > level && fill.reaches(marks.mark_of(*at).saturating_sub(HYSTERESIS))
    };
    let levels = [WatermarkLevel::Critical, WatermarkLevel::High, WatermarkLevel::Warning];
    levels.into_iter().filter(|at| *at <= before).find(stays).unwrap_or(level)
}

/// How full a pool with this use of space is.
pub(super) fn fill_of(geometry: &PoolGeometry, usage: &SpaceUsage) -> PoolFill {
    let held_back = geometry.luns.iter().map(|(_, lun)| held_back_extents(lun.data_extents));
    let usable = usage.total_extents.saturating_sub(held_back.sum());
    let free = usage.free_extents().saturating_sub(usage.held_back_extents);
    PoolFill { used_extents: usable.saturating_sub(free), usable_extents: usable }
}

async fn count<T: Txn>(txn: &T, pool: PoolId) -> Result<(PoolRecord, PoolFill), ServiceError> {
    let geometry = PoolGeometry::load(txn, pool).await?;
    let fill = fill_of(&geometry, &count_space(txn, &geometry).await?);
    Ok((geometry.record, fill))
}

/// Whether something new may begin in a pool.
#[derive(Clone, Copy)]
pub(super) struct Admission<'a> {
    fills: &'a Fills,
    now: Duration,
    insists: bool,
}

impl Admission<'_> {
    /// Refuses what would begin in a pool above its critical mark.
    pub(super) async fn require<T: Txn>(&self, txn: &T, pool: PoolId) -> Result<(), ServiceError> {
        if self.insists {
            return Ok(());
        }
        if let Some(fill) = self.fills.fresh(pool, self.now) {
            let marks = txn.load_known(&PoolKey { pool }).await?.watermarks;
            if marks.level(fill) < WatermarkLevel::Critical {
                return Ok(());
            }
        }
        let (record, fill) = count(txn, pool).await?;
        self.fills.remember(pool, fill, self.now);
        match record.watermarks.level(fill) {
            WatermarkLevel::Critical => Err(ServiceError::PoolWatermark {
                pool,
                pool_name: record.name,
                used: fill.percent(),
                mark: record.watermarks.critical(),
            }),
            _ => Ok(()),
        }
    }
}

async fn set_watermarks<T: Txn>(txn: &T, request: &SetWatermarks) -> Result<Outcome, ServiceError> {
    let pool = find_pool(txn, &request.pool).await?;
    let mut record = txn.load_known(&PoolKey { pool }).await?;
    let held = record.watermarks;
    let marks = Watermarks::new(
        request.warning.unwrap_or(held.warning()),
        request.high.unwrap_or(held.high()),
        request.critical.unwrap_or(held.critical()),
    );
    record.watermarks = marks.map_err(|error| ServiceError::field("watermarks", error))?;
    txn.put(&PoolKey { pool }, &record);
    Ok(Outcome::Pool(pool))
}

impl<S: MetaStore> Service<S> {
    /// The gate for what begins in a pool; who insists passes it.
    pub(super) fn admission(&self, insists: bool) -> Admission<'_> {
        Admission { fills: &self.fills, now: self.seams.clock.now(), insists }
    }

    /// Sets watermarks of a pool; what is not named stays.
    ///
    /// # Errors
    /// There is no such pool, or the marks are out of order or range.
    pub async fn set_watermarks(&self, request: &SetWatermarks) -> Result<Pool, ServiceError> {
        let what = ("set watermarks", request);
        let set = |txn: Arc<S::Txn>| async move { set_watermarks(&*txn, request).await };
        let outcome = self.once(request.request, &what, set).await?;
        self.pool_of(request.request, &outcome).await
    }

    /// Counts all pools if that was not done for ten seconds; gives those that have crossed a
    /// watermark since the last time. The first time tells of pools that are above one.
    ///
    /// # Errors
    /// The store fails.
    pub async fn watch_watermarks(&self) -> Result<Vec<Crossing>, ServiceError> {
        let now = self.seams.clock.now();
        if !self.fills.is_due(now) {
            return Ok(Vec::new());
        }
        let (mut crossings, mut range) = (Vec::new(), TypedRange::<PoolKey>::table());
        loop {
            let from = &range;
            let read = self.read(|txn| async move { txn.scan(from, POOLS_PER_LOOK).await });
            let pools: Vec<(PoolKey, PoolRecord)> = read.await?;
            for (key, _) in &pools {
                crossings.extend(self.look_at(key.pool, now).await?);
            }
            let Some((last, _)) = pools.last() else { return Ok(crossings) };
            range = range.after(&crate::keyspace::Key::pack(last));
        }
    }

    /// Counts a pool; says whether it has crossed a watermark.
    async fn look_at(&self, pool: PoolId, now: Duration) -> Result<Option<Crossing>, ServiceError> {
        let counted = self.read(|txn| async move { count(&*txn, pool).await });
        let (record, fill) = counted.await?;
        self.fills.remember(pool, fill, now);
        let to = told_level(&record.watermarks, fill, self.fills.told(pool));
        let from = self.fills.cross(pool, to);
        Ok(from.map(|from| Crossing { pool, name: record.name, from, to, fill }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_left_two_percent_below_its_mark() {
        use WatermarkLevel::{Critical, High, Normal, Warning};
        let marks = Watermarks::DEFAULT;
        let at = |used| PoolFill { used_extents: used, usable_extents: 100 };
        for (used, before, told) in [
            (79, Normal, Normal),
            (80, Normal, Warning),
            (79, Warning, Warning),
            (78, Warning, Warning),
            (77, Warning, Normal),
            (96, Normal, Critical),
            (93, Critical, Critical),
            (92, Critical, High),
            (87, Critical, Warning),
            (88, Critical, High),
            (10, Critical, Normal),
            (88, Warning, Warning),
        ] {
            assert_eq!(told_level(&marks, at(used), before), told, "{used} after {before}");
        }
    }
}
