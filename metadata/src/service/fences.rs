//! Fences: an incarnation is cut off from every LUN that it may write to, and then declared so.
//!
//! Crash order, each step a transaction that a restart finds and goes on from: FENCING with a row
//! for each LUN of its registrations → attempts begun and ended by other nodes → FENCED with the
//! last row and the end of its lease.
//!
//! Invariants (docs/fencing.md):
//! - F5: FENCED only when every row is Done; no row is added while it is FENCING;
//! - only the last attempt at a LUN can be ended, and only by who has begun it;
//! - F8: this service alone picks a victim: by its silence, by the next boot of its machine, or by
//!   an operator's word;
//! - no fence ends while the lease of its victim can still hold (attack 23): the lease vouches for
//!   reads. A victim with volumes in pools that leases fence has H more.
//!
//! Deliberately absent: the array. What is done there is said by those who have done it.

use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::{
    BeginFenceLun, EndFenceLun, FenceAttempt, FenceLunState, FenceOrder, FenceProof, LeaseTimers,
    NodeState, PoolFencing,
};
use lunar_types::{NodeIncarnation, VolumeId};
use tracing::{info, warn};

use super::Service;
use super::incarnations::fencing_of;
use super::nodes::{reclaim_if_unused, require_session};
use super::operations::Step;
use super::registrations::{any_pool_is, forget_registrations, is_confirmed};
use crate::error::{FencingError, ServiceError};
use crate::keyspace::{
    FenceKey, FenceLunKey, FenceLunRecord, FenceRecord, KeyedTxn, LunRegistrationKey, NodeKey,
    NodeRecord, Text, TypedRange, VolumeKey, attachments_of, luns_of_fence, registrations_of,
};
use crate::store::{MetaStore, Txn};

/// Rows that one transaction looks at.
const ROWS_MAX: usize = 100_000;
/// By how many hundredths the clocks of two hosts may differ (ρ of the design).
const DRIFT_PERCENT: u32 = 1;

pub(super) fn fence_key(victim: NodeIncarnation) -> FenceKey {
    FenceKey { node: victim.node, incarnation: victim.incarnation }
}

fn lun_key(order: FenceOrder) -> FenceLunKey {
    let FenceOrder { victim, lun } = order;
    FenceLunKey { node: victim.node, incarnation: victim.incarnation, lun }
}

/// Why a fence is begun.
#[derive(Clone, Debug)]
pub(super) struct Cause {
    /// For people.
    pub(super) reason: String,
    /// Wall clock, for people.
    pub(super) at: u64,
}

impl Cause {
    /// A fence that begins for it.
    pub(super) fn record(&self) -> FenceRecord {
        FenceRecord {
            reason: Text::new(&self.reason),
            begun_at: self.at,
            is_complete: false,
            is_certified: false,
        }
    }
}

/// Begins to fence an incarnation, if it is its node's newest and alive. Says whether it did.
pub(super) async fn begin_fence<T: Txn>(
    txn: &T,
    victim: NodeIncarnation,
    cause: &Cause,
) -> Result<bool, ServiceError> {
    let key = NodeKey { node: victim.node };
    let record = txn.load_known(&key).await?;
    let may_write = match record.state {
        NodeState::Joining | NodeState::Active | NodeState::Suspect => true,
        NodeState::Fencing | NodeState::Fenced | NodeState::Left => false,
    };
    if record.incarnation != victim.incarnation || !may_write {
        return Ok(false);
    }
    txn.put(&key, &NodeRecord { state: NodeState::Fencing, ..record });
    txn.put(&fence_key(victim), &cause.record());
    let range = registrations_of(victim.node, victim.incarnation);
    for (row, _) in txn.scan(&range, ROWS_MAX).await? {
        let was_confirmed = is_confirmed(txn, victim, row.lun).await?;
        // Where it was never confirmed it has written nothing (F1), and is not confirmed any more.
        let never = FenceLunState::Done(FenceProof::NeverRegistered);
        let state = if was_confirmed { FenceLunState::Open } else { never };
        let row_of = FenceLunRecord { was_confirmed, state, attempts: 0 };
        txn.put(&lun_key(FenceOrder { victim, lun: row.lun }), &row_of);
    }
    Ok(true)
}

/// The rows of a fence.
pub(super) async fn rows_of<T: Txn>(
    txn: &T,
    victim: NodeIncarnation,
) -> Result<Vec<(FenceLunKey, FenceLunRecord)>, ServiceError> {
    txn.scan(&luns_of_fence(victim.node, victim.incarnation), ROWS_MAX).await
}

pub(super) fn is_done(row: &FenceLunRecord) -> bool {
    matches!(row.state, FenceLunState::Done(_))
}

/// The fences that are not complete.
pub(super) async fn open_fences<T: Txn>(
    txn: &T,
) -> Result<Vec<(NodeIncarnation, FenceRecord)>, ServiceError> {
    let all = txn.scan(&TypedRange::<FenceKey>::table(), ROWS_MAX).await?;
    let open = all.into_iter().filter(|(_, fence)| !fence.is_complete);
    Ok(open.map(|(key, fence)| (victim_of(&key), fence)).collect())
}

pub(super) const fn victim_of(key: &FenceKey) -> NodeIncarnation {
    NodeIncarnation { node: key.node, incarnation: key.incarnation }
}

/// Forgets a fence whose victim's node has joined again and that is complete.
pub(super) async fn forget_fence<T: Txn>(
    txn: &T,
    victim: NodeIncarnation,
) -> Result<(), ServiceError> {
    for (key, _) in rows_of(txn, victim).await? {
        txn.remove(&key);
    }
    txn.remove(&fence_key(victim));
    forget_registrations(txn, victim).await
}

/// Ends a fence whose rows are all Done, if it is time. Says whether it did.
async fn complete_fence<T: Txn>(
    txn: &T,
    victim: NodeIncarnation,
    silence: Duration,
    timers: &LeaseTimers,
) -> Result<bool, ServiceError> {
    let Some(fence) = txn.load(&fence_key(victim)).await? else { return Ok(false) };
    let is_cut_off = rows_of(txn, victim).await?.iter().all(|(_, row)| is_done(row));
    if fence.is_complete || !is_cut_off {
        return Ok(false);
    }
    if silence < silence_needed(txn, victim, timers).await? {
        return Ok(false);
    }
    declare(txn, victim, fence).await?;
    Ok(true)
}

/// Makes the victim FENCED, or forgets it if its node has joined again.
pub(super) async fn declare<T: Txn>(
    txn: &T,
    victim: NodeIncarnation,
    fence: FenceRecord,
) -> Result<(), ServiceError> {
    let key = NodeKey { node: victim.node };
    let record = txn.load_known(&key).await?;
    if record.incarnation == victim.incarnation {
        txn.put(&key, &NodeRecord { state: NodeState::Fenced, ..record });
        txn.put(&fence_key(victim), &FenceRecord { is_complete: true, ..fence });
    } else {
        forget_fence(txn, victim).await?;
    }
    reclaim_if_unused(txn, victim).await
}

/// How long the victim must have been silent for its lease to have run out on any clock.
async fn silence_needed<T: Txn>(
    txn: &T,
    victim: NodeIncarnation,
    timers: &LeaseTimers,
) -> Result<Duration, ServiceError> {
    let hold = timers.hold * (100 + DRIFT_PERCENT) / 100;
    let has_lease = holds_by_lease(txn, victim).await?;
    Ok(if has_lease { timers.fencing + timers.hold } else { hold })
}

async fn holds_by_lease<T: Txn>(txn: &T, of: NodeIncarnation) -> Result<bool, ServiceError> {
    if !any_pool_is(txn, PoolFencing::Lease).await? {
        return Ok(false);
    }
    for (key, _) in txn.scan(&attachments_of(of.node, of.incarnation), ROWS_MAX).await? {
        let volume: VolumeId = key.volume;
        let pool = txn.load_known(&VolumeKey { volume }).await?.pool;
        if fencing_of(txn, pool).await? == PoolFencing::Lease {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses a node that cannot prove anything at a LUN: it has to be ACTIVE and confirmed there. The
/// next incarnation of the victim's own node may prove it before it is ACTIVE.
async fn require_fencer<T: Txn>(
    txn: &T,
    caller: lunar_types::NodeSession,
    order: FenceOrder,
) -> Result<(), ServiceError> {
    let record = require_session(txn, caller).await?;
    let node = caller.node;
    let is_successor =
        node.node == order.victim.node && node.incarnation > order.victim.incarnation;
    if record.state != NodeState::Active && !is_successor {
        return Err(FencingError::NotActive { node, state: record.state }.into());
    }
    if !is_confirmed(txn, node, order.lun).await? {
        return Err(FencingError::LunNotFound { lun: order.lun }.into());
    }
    Ok(())
}

async fn open_row<T: Txn>(txn: &T, order: FenceOrder) -> Result<FenceLunRecord, ServiceError> {
    let is_open = txn.load(&fence_key(order.victim)).await?.is_some_and(|it| !it.is_complete);
    match txn.load(&lun_key(order)).await? {
        Some(row) if is_open => Ok(row),
        _ => Err(FencingError::NotFound { order }.into()),
    }
}

async fn begin_lun<T: Txn>(txn: &T, request: BeginFenceLun) -> Result<FenceAttempt, ServiceError> {
    let BeginFenceLun { caller, order } = request;
    require_fencer(txn, caller, order).await?;
    let row = open_row(txn, order).await?;
    if is_done(&row) {
        return Err(FencingError::NotFound { order }.into());
    }
    let attempt = row.attempts.checked_add(1).ok_or_else(|| {
        ServiceError::corrupt(format!("{order:?}"), "the attempts are used up".to_owned())
    })?;
    let state = FenceLunState::Begun { fencer: caller.node, attempt };
    let was_confirmed = row.was_confirmed;
    txn.put(&lun_key(order), &FenceLunRecord { was_confirmed, state, attempts: attempt });
    Ok(FenceAttempt { number: attempt, was_confirmed })
}

/// What a transaction that ends an attempt says: how the victim stands after it.
async fn end_lun<T: Txn>(txn: &T, request: EndFenceLun) -> Result<NodeState, ServiceError> {
    let EndFenceLun { caller, order, attempt, proof } = request;
    require_fencer(txn, caller, order).await?;
    let row = match open_row(txn, order).await {
        Ok(row) => row,
        // It was the last one, and is told again.
        Err(ServiceError::Fencing(FencingError::NotFound { .. })) => {
            return state_of(txn, order.victim).await;
        }
        Err(error) => return Err(error),
    };
    if row.was_confirmed && proof == FenceProof::NeverRegistered {
        let problem = "it was confirmed there: its absence alone proves nothing";
        return Err(ServiceError::field("proof", problem));
    }
    match row.state {
        FenceLunState::Done(_) if row.attempts == attempt => {}
        FenceLunState::Begun { fencer, attempt: held }
            if (fencer, held) == (caller.node, attempt) =>
        {
            txn.put(&lun_key(order), &FenceLunRecord { state: FenceLunState::Done(proof), ..row });
        }
        FenceLunState::Open | FenceLunState::Begun { .. } | FenceLunState::Done(_) => {
            let (held, given) = (row.attempts, attempt);
            return Err(FencingError::StaleAttempt { order, held, given }.into());
        }
    }
    state_of(txn, order.victim).await
}

async fn state_of<T: Txn>(txn: &T, victim: NodeIncarnation) -> Result<NodeState, ServiceError> {
    let record = txn.load_known(&NodeKey { node: victim.node }).await?;
    let is_newest = record.incarnation == victim.incarnation;
    Ok(if is_newest { record.state } else { NodeState::Fenced })
}

/// Incarnations that are to be fenced because nobody hears of them.
async fn silent_nodes<T: Txn>(
    txn: &T,
    is_silent: &(impl Fn(NodeIncarnation) -> bool + Sync),
) -> Result<Vec<NodeIncarnation>, ServiceError> {
    let mut silent = Vec::new();
    for (NodeKey { node }, record) in txn.scan(&TypedRange::<NodeKey>::table(), ROWS_MAX).await? {
        let of = NodeIncarnation { node, incarnation: record.incarnation };
        let may_write = matches!(record.state, NodeState::Joining | NodeState::Active);
        if may_write
            && is_silent(of)
            && (has_registrations(txn, of).await? || holds_by_lease(txn, of).await?)
        {
            silent.push(of);
        }
    }
    Ok(silent)
}

/// Whether an incarnation may have written to a LUN with reservations.
pub(super) async fn has_registrations<T: Txn>(
    txn: &T,
    of: NodeIncarnation,
) -> Result<bool, ServiceError> {
    Ok(!txn.scan(&registrations_of(of.node, of.incarnation), 1).await?.is_empty())
}

/// The confirmed registrations at a LUN.
pub(super) async fn confirmed_at<T: Txn>(
    txn: &T,
    lun: lunar_types::LunId,
) -> Result<Vec<(NodeIncarnation, NodeRecord)>, ServiceError> {
    let mut confirmed = Vec::new();
    let range = crate::keyspace::registrations_at(lun);
    for (LunRegistrationKey { node, .. }, held) in txn.scan(&range, ROWS_MAX).await? {
        let record = txn.load_known(&NodeKey { node }).await?;
        if held.paths > 0 && held.incarnation == record.incarnation {
            confirmed.push((NodeIncarnation { node, incarnation: held.incarnation }, record));
        }
    }
    Ok(confirmed)
}

impl<S: MetaStore> Service<S> {
    /// Begins an attempt to cut a victim off from a LUN.
    ///
    /// # Errors
    /// The caller is not ACTIVE or not confirmed there, or the victim is not to be cut off.
    pub async fn begin_fence_lun(
        &self,
        request: BeginFenceLun,
    ) -> Result<FenceAttempt, ServiceError> {
        let begin = |txn: Arc<S::Txn>| async move { begin_lun(&*txn, request).await };
        let attempt = self.store.transact(begin).await?;
        self.fencers.has_begun(request.order, request.caller.node, self.seams.clock.now());
        Ok(attempt)
    }

    /// Ends an attempt; says what has become of the victim.
    ///
    /// # Errors
    /// As [`Service::begin_fence_lun`]; also when a later attempt was begun.
    pub async fn end_fence_lun(&self, request: EndFenceLun) -> Result<NodeState, ServiceError> {
        let end = |txn: Arc<S::Txn>| async move { end_lun(&*txn, request).await };
        self.store.transact(end).await?;
        self.try_complete(request.order.victim).await?;
        self.sets_changed();
        let victim = request.order.victim;
        self.read(|txn| async move { state_of(&*txn, victim).await }).await
    }

    /// Begins to fence an incarnation, if it may still write.
    pub(super) async fn fence(
        &self,
        victim: NodeIncarnation,
        reason: &str,
    ) -> Result<bool, ServiceError> {
        let cause = &Cause { reason: reason.to_owned(), at: self.seams.clock.unix_seconds() };
        let begin = |txn: Arc<S::Txn>| async move { begin_fence(&*txn, victim, cause).await };
        let has_begun = self.store.transact(begin).await?;
        self.leases.close(victim);
        if has_begun {
            warn!(%victim, reason, "fencing begins");
            self.sets_changed();
        }
        Ok(has_begun)
    }

    /// Ends a fence that has nothing left to wait for.
    pub(super) async fn try_complete(&self, victim: NodeIncarnation) -> Result<bool, ServiceError> {
        let silence = self.leases.silence(victim, self.seams.clock.now());
        let timers = &self.settings.timers;
        let complete =
            |txn: Arc<S::Txn>| async move { complete_fence(&*txn, victim, silence, timers).await };
        let is_complete = self.store.transact(complete).await?;
        if is_complete {
            info!(%victim, "fenced");
            self.fencers.forget(victim);
            self.sets_changed();
        }
        Ok(is_complete)
    }

    /// Looks at the clock, as somebody has to do every second or so: whether this process was
    /// stopped meanwhile, and could hear nobody.
    pub fn look_at_clock(&self) {
        self.leases.look(self.seams.clock.now(), self.settings.timers.renew);
    }

    /// Fences who was not heard of for too long, and ends fences that are due.
    /// A victim whose records cannot be read keeps no other from being fenced.
    pub(super) async fn step_fences(
        &self,
        met: &mut Vec<ServiceError>,
    ) -> Result<Step, ServiceError> {
        let now = self.seams.clock.now();
        self.look_at_clock();
        let fencing = self.settings.timers.fencing;
        let is_silent = |node| self.leases.silence(node, now) >= fencing;
        let is_silent = &is_silent;
        let find = |txn: Arc<S::Txn>| async move {
            Ok((silent_nodes(&*txn, is_silent).await?, open_fences(&*txn).await?))
        };
        let (silent, open) = self.read(find).await?;
        let mut step = Step::Idle;
        for victim in silent {
            let silence = self.leases.silence(victim, now).as_secs();
            match self.fence(victim, &format!("not heard from for {silence} s")).await {
                Ok(true) => step = Step::Worked,
                Ok(false) => {}
                Err(error) => met.push(error),
            }
        }
        for (victim, _) in open {
            match self.try_complete(victim).await {
                Ok(true) => step = Step::Worked,
                Ok(false) => {}
                Err(error) => met.push(error),
            }
        }
        Ok(step)
    }
}
