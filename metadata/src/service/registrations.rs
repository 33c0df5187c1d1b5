//! Registrations of incarnations at LUNs with reservations: intended, confirmed, judged.
//!
//! Invariants (docs/fencing.md):
//! - F1: what a node may write to, it has confirmed: no extent and no volume of a pool is given to
//!   an incarnation before;
//! - F2: an intent is stored before the node registers, so the rows of an incarnation are all LUNs
//!   that it can ever have written to. A confirmed one stays confirmed when it is intended again;
//! - F5: nothing is added for an incarnation that is being fenced: `require_session` refuses it.
//!
//! The calls state facts: stating one again changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use lunar_proto::domain::{
    Activate, ConfirmRegistration, IntendRegistrations, JudgeKeys, NodeState, PoolFencing,
};
use lunar_types::{LunId, NodeIncarnation, NodeSession};

use super::Service;
use super::geometry::PoolGeometry;
use super::incarnations::{Life, life_of};
use super::nodes::require_session;
use crate::error::{FencingError, ServiceError};
use crate::keyspace::{
    KeyedTxn, LunOwnerKey, LunRegistrationKey, NodeKey, NodeRecord, NodeRegistrationKey, PoolKey,
    Present, RegistrationRecord, TypedRange, registrations_of,
};
use crate::store::{MetaStore, Txn};

/// Pools and registrations that one transaction looks at.
const LOOK_MAX: usize = 100_000;

/// Whether any pool has reservations, or is fenced by leases.
pub(super) async fn any_pool_is<T: Txn>(
    txn: &T,
    fencing: PoolFencing,
) -> Result<bool, ServiceError> {
    let pools = txn.scan(&TypedRange::<PoolKey>::table(), LOOK_MAX).await?;
    Ok(pools.iter().any(|(_, pool)| pool.fencing == fencing))
}

async fn require_reserved_lun<T: Txn>(txn: &T, lun: LunId) -> Result<(), ServiceError> {
    let Some(owner) = txn.load(&LunOwnerKey { lun }).await? else {
        return Err(FencingError::LunNotFound { lun }.into());
    };
    match txn.load_known(&PoolKey { pool: owner.pool }).await?.fencing {
        PoolFencing::Reservations => Ok(()),
        PoolFencing::Lease | PoolFencing::None => Err(FencingError::LunNotFound { lun }.into()),
    }
}

fn own_row(node: NodeIncarnation, lun: LunId) -> NodeRegistrationKey {
    NodeRegistrationKey { node: node.node, incarnation: node.incarnation, lun }
}

async fn intend<T: Txn>(txn: &T, request: &IntendRegistrations) -> Result<(), ServiceError> {
    let node = request.caller.node;
    require_session(txn, request.caller).await?;
    for &lun in &request.luns {
        require_reserved_lun(txn, lun).await?;
        let key = LunRegistrationKey { lun, node: node.node };
        let held = txn.load(&key).await?;
        if held.is_some_and(|held| held.incarnation == node.incarnation) {
            continue;
        }
        txn.put(&key, &RegistrationRecord { incarnation: node.incarnation, paths: 0 });
        txn.put(&own_row(node, lun), &Present {});
    }
    Ok(())
}

async fn confirm<T: Txn>(txn: &T, request: ConfirmRegistration) -> Result<(), ServiceError> {
    let ConfirmRegistration { caller, lun, paths } = request;
    require_session(txn, caller).await?;
    let key = LunRegistrationKey { lun, node: caller.node.node };
    match txn.load(&key).await? {
        Some(held) if held.incarnation == caller.node.incarnation => {
            txn.put(&key, &RegistrationRecord { paths, ..held });
            Ok(())
        }
        _ => Err(FencingError::LunNotFound { lun }.into()),
    }
}

/// Whether the registration of an incarnation at a LUN is confirmed.
pub(super) async fn is_confirmed<T: Txn>(
    txn: &T,
    node: NodeIncarnation,
    lun: LunId,
) -> Result<bool, ServiceError> {
    let held = txn.load(&LunRegistrationKey { lun, node: node.node }).await?;
    Ok(held.is_some_and(|held| held.incarnation == node.incarnation && held.paths > 0))
}

/// The record of an incarnation that may be given something: its last process asks, and it is
/// ACTIVE.
pub(super) async fn require_active<T: Txn>(
    txn: &T,
    caller: NodeSession,
) -> Result<NodeRecord, ServiceError> {
    let record = require_session(txn, caller).await?;
    match record.state {
        NodeState::Active => Ok(record),
        state => Err(FencingError::NotActive { node: caller.node, state }.into()),
    }
}

/// Refuses an incarnation that is not confirmed at every LUN of a pool with reservations.
pub(super) async fn require_registered<T: Txn>(
    txn: &T,
    node: NodeIncarnation,
    pool: &PoolGeometry,
) -> Result<(), ServiceError> {
    match unregistered(txn, node, pool).await?.first() {
        None => Ok(()),
        Some(&lun) => {
            let pool_name = pool.record.name.clone();
            Err(FencingError::LunNotRegistered { lun, pool_name, node }.into())
        }
    }
}

/// Takes the LUNs out of a pool at which an incarnation is not confirmed: it gets no extent there.
pub(super) async fn keep_registered<T: Txn>(
    txn: &T,
    node: NodeIncarnation,
    pool: &mut PoolGeometry,
) -> Result<(), ServiceError> {
    let missing = unregistered(txn, node, pool).await?;
    if missing.len() == pool.luns.len() {
        return require_registered(txn, node, pool).await;
    }
    pool.luns.retain(|(_, lun)| !missing.contains(&lun.id));
    Ok(())
}

async fn unregistered<T: Txn>(
    txn: &T,
    node: NodeIncarnation,
    pool: &PoolGeometry,
) -> Result<Vec<LunId>, ServiceError> {
    let mut missing = Vec::new();
    if pool.record.fencing == PoolFencing::Reservations {
        for (_, lun) in &pool.luns {
            if !is_confirmed(txn, node, lun.id).await? {
                missing.push(lun.id);
            }
        }
    }
    Ok(missing)
}

async fn activate<T: Txn>(txn: &T, request: &Activate) -> Result<NodeState, ServiceError> {
    let node = request.caller.node;
    let record = require_session(txn, request.caller).await?;
    if record.state == NodeState::Active {
        return Ok(NodeState::Active);
    }
    let unseen: BTreeSet<LunId> = request.unseen.iter().copied().collect();
    for (key, _) in txn.scan(&TypedRange::<PoolKey>::table(), LOOK_MAX).await? {
        let mut pool = PoolGeometry::load(txn, key.pool).await?;
        pool.luns.retain(|(_, lun)| !unseen.contains(&lun.id));
        require_registered(txn, node, &pool).await?;
    }
    let state = NodeState::Active;
    txn.put(&NodeKey { node: node.node }, &NodeRecord { state, ..record });
    Ok(state)
}

async fn judge<T: Txn>(txn: &T, request: &JudgeKeys) -> Result<Vec<NodeIncarnation>, ServiceError> {
    require_session(txn, request.caller).await?;
    let mut gone = Vec::new();
    for &seen in &request.seen {
        // One that nobody knows may be of a life of this cluster that a restore has ended: its key
        // stays, and is told of, until somebody has looked at it.
        let Some(record) = txn.load(&NodeKey { node: seen.node }).await? else { continue };
        let is_gone = match life_of(txn, seen).await? {
            Life::Over => seen.incarnation <= record.incarnation,
            Life::Fenced { .. } => true,
            Life::Live | Life::Fencing { .. } => false,
        };
        if is_gone {
            gone.push(seen);
        }
    }
    Ok(gone)
}

/// Forgets where an incarnation was registered that is over. The row of a LUN stays if it is a
/// later incarnation's by now.
pub(super) async fn forget_registrations<T: Txn>(
    txn: &T,
    gone: NodeIncarnation,
) -> Result<(), ServiceError> {
    let range = registrations_of(gone.node, gone.incarnation);
    for (row, _) in txn.scan(&range, LOOK_MAX).await? {
        let key = LunRegistrationKey { lun: row.lun, node: gone.node };
        if txn.load(&key).await?.is_some_and(|held| held.incarnation == gone.incarnation) {
            txn.remove(&key);
        }
        txn.remove(&row);
    }
    Ok(())
}

impl<S: MetaStore> Service<S> {
    /// Stores that an incarnation will register at LUNs.
    ///
    /// # Errors
    /// The incarnation is gone or being fenced, a later process speaks for it, or a LUN is in no
    /// pool with reservations.
    pub async fn intend_registrations(
        &self,
        request: &IntendRegistrations,
    ) -> Result<(), ServiceError> {
        let intend = |txn: Arc<S::Txn>| async move { intend(&*txn, request).await };
        self.store.transact(intend).await
    }

    /// Stores that an incarnation is registered at a LUN, on every path.
    ///
    /// # Errors
    /// As [`Service::intend_registrations`]; also when it was not intended.
    pub async fn confirm_registration(
        &self,
        request: ConfirmRegistration,
    ) -> Result<(), ServiceError> {
        let confirm = |txn: Arc<S::Txn>| async move { confirm(&*txn, request).await };
        self.store.transact(confirm).await?;
        // It may be a fencer from now on.
        self.sets_changed();
        Ok(())
    }

    /// Makes an incarnation ACTIVE that is registered at every LUN it sees.
    ///
    /// # Errors
    /// As [`Service::intend_registrations`]; also when it is not confirmed at a LUN that it has not
    /// called unseen.
    pub async fn activate(&self, request: &Activate) -> Result<NodeState, ServiceError> {
        let activate = |txn: Arc<S::Txn>| async move { activate(&*txn, request).await };
        let state = self.store.transact(activate).await?;
        self.sets_changed();
        Ok(state)
    }

    /// Which of the incarnations whose keys were seen are gone for good.
    ///
    /// # Errors
    /// The caller's incarnation is gone or being fenced, or a later process speaks for it.
    pub async fn judge_keys(
        &self,
        request: &JudgeKeys,
    ) -> Result<Vec<NodeIncarnation>, ServiceError> {
        self.read(|txn| async move { judge(&*txn, request).await }).await
    }
}
