//! Extents that the node holds ahead of need, and how volumes get at them.
//!
//! Invariants:
//! - an extent is handed to one volume at a time;
//! - ENOSPC comes only after the service said that the pool is full and no volume of this node
//!   could spare an extent;
//! - after a restart, extents that the incarnation has reserved and no dirty table uses are in
//!   quarantine: a journal may still name them. They go back to the service when every recovered
//!   volume has completed a checkpoint and every journal that was left was replayed here;
//! - an extent goes back from quarantine only if neither a journal nor a map can name it, and
//!   nobody has got it since. The service cannot tell: it knows who has reserved an extent, not
//!   which volume of the node uses it. So what a journal named that was replayed here, and what the
//!   service hands out, leaves the quarantine; and all of it is forgotten when a left journal was
//!   replayed elsewhere, since nobody here knows what that one named. What was forgotten stays
//!   reserved until the next start, or the end of the incarnation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};

use lunar_proto::domain::{PoolReservation, RESERVE_EXTENTS_MAX};
use lunar_proto::error::ErrorReason;
use lunar_types::{ExtentAddress, ExtentRun, NodeIncarnation, PoolId, VolumeId};
use tracing::{info, warn};

use crate::metadata::{Metadata, MetadataError};

/// A volume with a reserve of its own.
pub trait ReserveHolder: Send + Sync {
    /// Which one.
    fn volume(&self) -> VolumeId;
    /// Whose extents it uses.
    fn pool(&self) -> PoolId;
    /// How many extents it has ready.
    fn spare(&self) -> u64;
    /// Whether it has requests that wait for one.
    fn is_starving(&self) -> bool;
    /// Gives up to `count` of them away.
    fn take(&self, count: usize) -> Vec<ExtentAddress>;
}

/// How a request for extents ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refill {
    /// These are the volume's now; at least one.
    Extents(Vec<ExtentRun>),
    /// There is none in the pool and none to spare on this node.
    PoolFull,
    /// The service does not answer.
    Unavailable(MetadataError),
    /// The service refused.
    Refused(MetadataError),
}

/// Where the volumes of this node get their extents.
pub struct ReserveDesk {
    metadata: Arc<dyn Metadata>,
    holders: Mutex<Vec<Weak<dyn ReserveHolder>>>,
    quarantine: Mutex<BTreeMap<PoolId, Vec<ExtentRun>>>,
}

/// Neighbouring extents joined into runs.
#[must_use]
pub fn runs_of(extents: impl IntoIterator<Item = ExtentAddress>) -> Vec<ExtentRun> {
    let sorted: BTreeSet<ExtentAddress> = extents.into_iter().collect();
    let mut runs: Vec<ExtentRun> = Vec::new();
    for at in sorted {
        let next = runs.last().filter(|run| {
            run.first().lun == at.lun
                && run.first().extent.get() + u64::from(run.count()) == at.extent.get()
        });
        match next.copied() {
            Some(run) => {
                runs.pop();
                runs.push(ExtentRun::new(run.first(), run.count() + 1));
            }
            None => runs.push(ExtentRun::new(at, 1)),
        }
    }
    runs
}

/// How many extents are in these runs.
#[must_use]
pub fn extent_count(runs: &[ExtentRun]) -> u64 {
    runs.iter().map(|run| u64::from(run.count())).sum()
}

impl ReserveDesk {
    /// A desk with nothing in quarantine.
    #[must_use]
    pub fn new(metadata: Arc<dyn Metadata>) -> Self {
        Self { metadata, holders: Mutex::default(), quarantine: Mutex::default() }
    }

    /// Makes a volume's reserve known to the others.
    pub fn enlist(&self, holder: &Arc<dyn ReserveHolder>) {
        let mut holders = self.holders.lock().expect("a panic ends the process");
        holders.retain(|known| known.strong_count() > 0);
        holders.push(Arc::downgrade(holder));
    }

    fn others(&self, asking: &dyn ReserveHolder) -> Vec<Arc<dyn ReserveHolder>> {
        let holders = self.holders.lock().expect("a panic ends the process");
        holders
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|other| other.volume() != asking.volume() && other.pool() == asking.pool())
            .collect()
    }

    /// Gets `count` extents for a volume, or fewer when few are left.
    pub async fn refill(
        &self,
        node: NodeIncarnation,
        asking: &dyn ReserveHolder,
        count: u32,
    ) -> Refill {
        let mut runs: Vec<ExtentRun> = Vec::new();
        while extent_count(&runs) < u64::from(count) {
            let have = u32::try_from(extent_count(&runs)).expect("below `count`");
            let wanted = (count - have).min(RESERVE_EXTENTS_MAX);
            let error = match self.metadata.reserve(node, asking.pool(), wanted).await {
                Ok(more) if more.is_empty() => break,
                Ok(more) => {
                    // It was free: what made it that has ended the predecessor's claim.
                    let new = more.iter().flat_map(|run| run.iter()).collect();
                    self.exempt(asking.pool(), &new);
                    runs.extend(more);
                    continue;
                }
                Err(error) => error,
            };
            let is_full = error.reason() == Some(ErrorReason::PoolFull);
            match error {
                _ if is_full || !runs.is_empty() => break,
                error if error.is_unavailable() => return Refill::Unavailable(error),
                error => return Refill::Refused(error),
            }
        }
        if runs.is_empty() { self.take_from_others(asking, count) } else { Refill::Extents(runs) }
    }

    /// Takes from the volume that has most. Half at the most, and the last one only for a request
    /// that waits: volumes must not pass the same extents to and fro.
    fn take_from_others(&self, asking: &dyn ReserveHolder, count: u32) -> Refill {
        if asking.spare() > 0 {
            return Refill::PoolFull;
        }
        let others = self.others(asking);
        let Some(richest) = others.iter().max_by_key(|other| other.spare()) else {
            return Refill::PoolFull;
        };
        let spare = richest.spare();
        let half = if asking.is_starving() { spare.div_ceil(2) } else { spare / 2 };
        let taken = richest.take(half.min(count.into()) as usize);
        if taken.is_empty() {
            return Refill::PoolFull;
        }
        info!(
            to = %asking.volume(), from = %richest.volume(), extents = taken.len(),
            "the pool is full: unused reserve moved between volumes"
        );
        Refill::Extents(runs_of(taken))
    }

    /// Puts what a killed predecessor had reserved into quarantine.
    pub fn quarantine(&self, reserved: Vec<PoolReservation>) {
        let mut quarantine = self.quarantine.lock().expect("a panic ends the process");
        for PoolReservation { pool, runs } in reserved {
            quarantine.entry(pool).or_default().extend(runs);
        }
        quarantine.retain(|_, runs| !runs.is_empty());
    }

    /// Takes extents out of quarantine that may be in use: they are not the predecessor's unused
    /// reserve any more.
    pub fn exempt(&self, pool: PoolId, used: &BTreeSet<ExtentAddress>) {
        let mut quarantine = self.quarantine.lock().expect("a panic ends the process");
        let Some(runs) = quarantine.remove(&pool) else { return };
        let rest = runs.iter().flat_map(|run| run.iter()).filter(|at| !used.contains(at));
        let rest = runs_of(rest);
        if !rest.is_empty() {
            quarantine.insert(pool, rest);
        }
    }

    /// Empties the quarantine without giving anything back: which of it is in use by now is not
    /// known.
    pub fn forget_quarantine(&self, why: &str) {
        let all = std::mem::take(&mut *self.quarantine.lock().expect("a panic ends the process"));
        for (pool, runs) in all {
            let extents = extent_count(&runs);
            warn!(%pool, extents, why, "reserve of before the restart stays unused for now");
        }
    }

    /// How many extents of each pool are in quarantine.
    #[must_use]
    pub fn quarantined(&self) -> BTreeMap<PoolId, u64> {
        let quarantine = self.quarantine.lock().expect("a panic ends the process");
        quarantine.iter().map(|(pool, runs)| (*pool, extent_count(runs))).collect()
    }

    /// Gives everything in quarantine back to the service. What fails is not tried again, and stays
    /// reserved until the next start: it may have been carried out, and handed out since.
    pub async fn lift_quarantine(&self, node: NodeIncarnation) {
        let all = std::mem::take(&mut *self.quarantine.lock().expect("a panic ends the process"));
        for (pool, runs) in all {
            let extents = extent_count(&runs);
            if self.release(node, pool, runs).await.is_ok() {
                info!(%pool, extents, "reserve of before the restart given back");
            }
        }
    }

    /// Gives extents back to the service.
    ///
    /// # Errors
    /// When the service does not take them, or its answer is lost. Nothing is known of them then:
    /// they must not be used again, and the call must not be repeated, because others may have them
    /// by now. At worst they stay reserved until the incarnation ends or fs-core starts again.
    pub async fn release(
        &self,
        node: NodeIncarnation,
        pool: PoolId,
        runs: Vec<ExtentRun>,
    ) -> Result<(), MetadataError> {
        if runs.is_empty() {
            return Ok(());
        }
        let extents = extent_count(&runs);
        let result = self.metadata.release(node, pool, runs).await;
        if let Err(error) = &result {
            warn!(%pool, extents, %error, "unused extents stay reserved for now");
        }
        result
    }
}

#[cfg(test)]
mod tests;
