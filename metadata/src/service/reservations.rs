//! Reservations: extents that an incarnation holds ahead of need.
//!
//! A node begins at a group that its id points to and goes on from the group that it used last,
//! so that two nodes rarely change the same bitmap. Where it goes on is a hint, kept in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use lunar_proto::domain::{
    Page, PageRequest, PoolReservation, RELEASE_EXTENTS_MAX, RELEASE_RUNS_MAX, RESERVE_EXTENTS_MAX,
    ReleaseExtents, ReserveExtents,
};
use lunar_types::{ExtentRun, NodeId, NodeIncarnation, PoolId};

use super::geometry::PoolGeometry;
use super::horizon::free_reserved;
use super::nodes::require_session;
use super::paging::page;
use super::quarantine::count_held;
use super::registrations::{keep_registered, require_active};
use super::space::{Allocator, BitmapEdits, Purpose, runs_taken};
use super::{Service, foreign_outcome};
use crate::error::ServiceError;
use crate::keyspace::{KeyedTxn as _, Outcome, PoolKey, reservations_of, runs_of};
use crate::store::{MetaStore, Txn};

/// The group of each node and pool that was used last.
#[derive(Default)]
pub(super) struct Cursors {
    last: Mutex<HashMap<(NodeId, PoolId), u64>>,
}

impl Cursors {
    fn start(&self, node: NodeId, geometry: &PoolGeometry) -> u64 {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(&(node, geometry.id)).copied().unwrap_or_else(|| home_group(node, geometry))
    }

    fn remember(&self, node: NodeId, pool: PoolId, group: u64) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).insert((node, pool), group);
    }
}

/// The group of a pool at which a node begins: ids are spread by the golden ratio.
pub(super) fn home_group(node: NodeId, geometry: &PoolGeometry) -> u64 {
    let spread = u64::from(node.get()).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16;
    spread % geometry.group_count().max(1)
}

fn check_release(runs: &[ExtentRun]) -> Result<(), ServiceError> {
    let extents: u64 = runs.iter().map(|run| u64::from(run.count())).sum();
    if runs.len() > RELEASE_RUNS_MAX || extents > RELEASE_EXTENTS_MAX {
        let problem = format_args!(
            "{} runs of {extents} extents are beyond {RELEASE_RUNS_MAX} runs or \
             {RELEASE_EXTENTS_MAX} extents",
            runs.len()
        );
        return Err(ServiceError::field("runs", problem));
    }
    Ok(())
}

async fn release<T: Txn>(txn: &T, request: &ReleaseExtents) -> Result<(), ServiceError> {
    let ReleaseExtents { caller, pool, ref runs, .. } = *request;
    require_session(txn, caller).await?;
    let node = caller.node;
    if txn.load(&PoolKey { pool }).await?.is_none() {
        return Err(ServiceError::PoolNotFound { pool: pool.to_string() });
    }
    let mut reserved = BitmapEdits::reserved(txn, node, pool);
    for extent in runs.iter().flat_map(|run| run.iter()) {
        if !reserved.remove(extent).await? {
            return Err(ServiceError::ExtentNotReserved { extent, pool, node });
        }
    }
    reserved.write();
    free_reserved(txn, (pool, node), runs).await
}

impl<S: MetaStore> Service<S> {
    /// Takes free extents of a pool for an incarnation: fewer than asked for when little is left.
    ///
    /// # Errors
    /// The incarnation is gone or not ACTIVE, a later process speaks for it, there is no such pool,
    /// it has nothing free, or the incarnation is registered at none of its LUNs.
    pub async fn reserve_extents(
        &self,
        request: &ReserveExtents,
    ) -> Result<Vec<ExtentRun>, ServiceError> {
        if request.count == 0 || request.count > RESERVE_EXTENTS_MAX {
            let problem = format_args!("{} is not from 1 to {RESERVE_EXTENTS_MAX}", request.count);
            return Err(ServiceError::field("count", problem));
        }
        let what = ("reserve extents", request);
        let take = |txn: Arc<S::Txn>| async move { self.reserve(&*txn, request).await };
        match self.once(request.request, &what, take).await? {
            Outcome::Reserved(runs) => Ok(runs),
            other => Err(foreign_outcome(request.request, &other)),
        }
    }

    async fn reserve<T: Txn>(
        &self,
        txn: &T,
        request: &ReserveExtents,
    ) -> Result<Outcome, ServiceError> {
        let ReserveExtents { caller, pool, count, .. } = *request;
        require_active(txn, caller).await?;
        let node = caller.node;
        let mut geometry = PoolGeometry::load(txn, pool).await?;
        keep_registered(txn, node, &mut geometry).await?;
        let start = self.cursors.start(node.node, &geometry);
        let purpose = Purpose::Reservation;
        let taken = Allocator::take(txn, &geometry, purpose, start, count as usize).await?;
        let Some(last) = taken.last() else {
            let held = count_held(txn, pool).await?;
            return Err(ServiceError::PoolFull { pool, pool_name: geometry.record.name, held });
        };
        self.cursors.remember(node.node, pool, geometry.ordinal_of(last.lun, last.group));
        let mut reserved = BitmapEdits::reserved(txn, node, pool);
        for taken in &taken {
            reserved.insert_all(taken).await?;
        }
        reserved.write();
        Ok(Outcome::Reserved(runs_taken(&taken)))
    }

    /// Gives reserved extents back: all of them or none.
    ///
    /// # Errors
    /// The incarnation is gone, a later process speaks for it, or one of the extents is not in its
    /// reservation.
    pub async fn release_extents(&self, request: &ReleaseExtents) -> Result<(), ServiceError> {
        check_release(&request.runs)?;
        let what = ("release extents", request);
        let give = |txn: Arc<S::Txn>| async move { release(&*txn, request).await };
        self.once_done(request.request, &what, give).await
    }

    /// What an incarnation has reserved. A page counts allocation groups; runs are joined within
    /// it only.
    ///
    /// # Errors
    /// The page token is not of this list.
    pub async fn reservations(
        &self,
        node: NodeIncarnation,
        request: &PageRequest,
    ) -> Result<Page<PoolReservation>, ServiceError> {
        self.read(|txn| async move {
            let range = reservations_of(node.node, node.incarnation);
            let (entries, next) = page(&*txn, range, request).await?;
            let mut items: Vec<PoolReservation> = Vec::new();
            for (key, bits) in entries {
                if items.last().is_none_or(|last| last.pool != key.pool) {
                    items.push(PoolReservation { pool: key.pool, runs: Vec::new() });
                }
                let last = items.last_mut().expect("one was pushed");
                runs_of(key.lun, key.group, &bits, &mut last.runs);
            }
            Ok(Page { items, next })
        })
        .await
    }
}
