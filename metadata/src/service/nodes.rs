//! Nodes: joining, renewing, leaving.
//!
//! Invariants:
//! - an incarnation older than its node's newest is gone; the newest is live by its state;
//! - a new incarnation starts only when the former one is proven gone: it has left, it is
//!   fenced, its host has booted anew, or it is on the same boot and has been silent for the
//!   fencing time without anybody being able to resume it. One that may have written to LUNs with
//!   reservations is fenced by others first; where nobody else can, the next one joins meanwhile
//!   and does it itself (docs/fencing.md);
//! - a host that has booted anew waits until the former boot has been silent for the holding time:
//!   two hosts of one name, as copied machines have, do not take each other's place;
//! - every join raises the session of its node, and is carried out only if the session that its
//!   process has read is still the last: a call of an earlier process changes nothing, a join
//!   neither;
//! - what a gone incarnation had reserved comes back only when none of its journals is left.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lunar_proto::domain::{
    Join, Joined, Leave, Node, NodeState, OperationWork, Page, PageRequest, PoolFencing, Renewed,
    Selector,
};
use lunar_types::{Incarnation, NodeId, NodeIncarnation, NodeSession, SessionNumber};

use super::fences::{fence_key, forget_fence, has_registrations};
use super::incarnations::{Life, fencing_of, is_live, life_of};
use super::operations::begin_operation;
use super::paging::page;
use super::registrations::{any_pool_is, forget_registrations};
use super::restored::require_certified;
use super::{Service, foreign_outcome, next_number};
use crate::error::{FencingError, ServiceError};
use crate::keyspace::{
    Counter, CounterKey, Entry, Key as _, KeyedTxn, NodeKey, NodeNameKey, NodeNameRecord,
    NodeRecord, Outcome, ReservationKey, TypedRange, attachments_of, reservations_of,
    stale_journals_by,
};
use crate::store::{MetaStore, Txn};

/// Reserved groups that one read takes.
const RECLAIM_SCAN: usize = 256;
/// Attachments of a node that are counted at most.
const ATTACHMENTS_COUNTED: usize = 10_000;

/// The record of a node whose incarnation must be live, and not about to be cut off.
async fn require_live<T: Txn>(txn: &T, node: NodeIncarnation) -> Result<NodeRecord, ServiceError> {
    let record = txn.load(&NodeKey { node: node.node }).await?;
    if let Some(record) = &record
        && is_live(record, node)
        && record.state != NodeState::Fencing
    {
        return Ok(record.clone());
    }
    // A restore leaves no incarnation of before, and knows no node that joined since the backup.
    require_certified(txn).await?;
    let record =
        record.ok_or_else(|| ServiceError::NodeNotFound { node: node.node.to_string() })?;
    Err(ServiceError::NodeFenced { node, newest: record.incarnation, state: record.state })
}

/// The record of a node whose incarnation must be live and whose last process the caller must be.
pub(super) async fn require_session<T: Txn>(
    txn: &T,
    caller: NodeSession,
) -> Result<NodeRecord, ServiceError> {
    let record = require_live(txn, caller.node).await?;
    if record.session == caller.number {
        return Ok(record);
    }
    Err(stale_session(&record, caller.node.node, caller.number))
}

fn stale_session(record: &NodeRecord, node: NodeId, given: SessionNumber) -> ServiceError {
    ServiceError::StaleSession {
        name: record.name.clone(),
        node: NodeIncarnation { node, incarnation: record.incarnation },
        held: record.session,
        given,
    }
}

/// Begins to take back what a gone incarnation had reserved, once no journal of it is left.
/// Called wherever an incarnation goes or the last of its journals may have gone.
pub(super) async fn reclaim_if_unused<T: Txn>(
    txn: &T,
    gone: NodeIncarnation,
) -> Result<(), ServiceError> {
    let NodeIncarnation { node, incarnation } = gone;
    let life = life_of(txn, gone).await?;
    let may_write = matches!(life, Life::Live | Life::Fencing { .. });
    if may_write
        || !txn.scan(&attachments_of(node, incarnation), 1).await?.is_empty()
        || !txn.scan(&stale_journals_by(node, incarnation), 1).await?.is_empty()
        || next_reclaimable(txn, gone, 1).await?.is_empty()
    {
        return Ok(());
    }
    begin_operation(txn, OperationWork::ReclaimReservations(gone)).await
}

/// Reserved groups of a gone incarnation that may be taken back: of pools for which it is gone.
pub(super) async fn next_reclaimable<T: Txn>(
    txn: &T,
    gone: NodeIncarnation,
    most: usize,
) -> Result<Vec<Entry<ReservationKey>>, ServiceError> {
    let life = life_of(txn, gone).await?;
    let mut range = reservations_of(gone.node, gone.incarnation);
    let (mut found, mut last_pool) = (Vec::new(), None);
    loop {
        let entries = txn.scan(&range, RECLAIM_SCAN).await?;
        let Some((last, _)) = entries.last() else { return Ok(found) };
        range = range.after(&last.pack());
        for (key, bits) in entries {
            let frees = match last_pool {
                Some((pool, frees)) if pool == key.pool => frees,
                _ => life.frees(fencing_of(txn, key.pool).await?),
            };
            last_pool = Some((key.pool, frees));
            if frees {
                found.push((key, bits));
            }
            if found.len() >= most {
                return Ok(found);
            }
        }
    }
}

pub(super) async fn find_node<T: Txn>(
    txn: &T,
    selector: &Selector<NodeId>,
) -> Result<(NodeId, NodeRecord), ServiceError> {
    let not_found = || ServiceError::NodeNotFound { node: selector.to_string() };
    let node = match selector {
        Selector::Id(id) => *id,
        Selector::Name(name) => {
            let found = txn.load(&NodeNameKey { name: name.clone() }).await?;
            found.ok_or_else(not_found)?.node
        }
    };
    let record = txn.load(&NodeKey { node }).await?.ok_or_else(not_found)?;
    Ok((node, record))
}

/// What an incarnation begins as: where no pool has reservations, there is nothing to register at.
async fn first_state<T: Txn>(txn: &T) -> Result<NodeState, ServiceError> {
    let needs_keys = any_pool_is(txn, PoolFencing::Reservations).await?;
    Ok(if needs_keys { NodeState::Joining } else { NodeState::Active })
}

async fn first_join<T: Txn>(txn: &T, request: &Join) -> Result<Outcome, ServiceError> {
    let limit = u64::from(u16::MAX);
    let raw = next_number(txn, Counter::Node).await?;
    let raw = u16::try_from(raw)
        .map_err(|_| ServiceError::LimitReached { what: "nodes of a cluster", limit })?;
    let node = NodeId::new(raw);
    let floor = txn.load(&CounterKey { counter: Counter::Incarnation }).await?;
    let floor = floor.map_or(0, |floor| floor.last);
    let floor = u32::try_from(floor).map_err(|_| {
        ServiceError::corrupt("the least incarnation".to_owned(), format!("it is {floor}"))
    })?;
    let incarnation = Incarnation::new(floor).next();
    let session = SessionNumber::new(u64::from(incarnation.get()));
    let record = NodeRecord {
        name: request.name.clone(),
        incarnation,
        boot: request.boot,
        state: first_state(txn).await?,
        session,
        is_barred: false,
        is_draining: false,
    };
    txn.put(&NodeKey { node }, &record);
    txn.put(&NodeNameKey { name: request.name.clone() }, &NodeNameRecord { node });
    let node = NodeIncarnation { node, incarnation };
    Ok(Outcome::Joined { session: NodeSession { node, number: session }, resumed: false })
}

async fn next_incarnation<T: Txn>(
    txn: &T,
    former: NodeIncarnation,
    record: NodeRecord,
    request: &Join,
) -> Result<Outcome, ServiceError> {
    let node = former.node;
    let incarnation = former.incarnation.next();
    let (state, session) = (first_state(txn).await?, record.session.next());
    // A fence that is under way goes on, and is what keeps the former one from being over.
    let fence = txn.load(&fence_key(former)).await?;
    if fence.is_none_or(|fence| fence.is_complete) {
        forget_fence(txn, former).await?;
    }
    let record = NodeRecord { incarnation, boot: request.boot, state, session, ..record };
    txn.put(&NodeKey { node }, &record);
    reclaim_if_unused(txn, former).await?;
    let node = NodeIncarnation { node, incarnation };
    Ok(Outcome::Joined { session: NodeSession { node, number: session }, resumed: false })
}

/// Whether a process that joins may go on under the newest incarnation: it has its state, on the
/// same boot, and nobody cuts it off.
fn can_resume(record: &NodeRecord, request: &Join) -> bool {
    record.boot == request.boot
        && record.state.is_live()
        && record.state != NodeState::Fencing
        && !record.is_barred
        && request.resume == Some(record.incarnation)
}

/// The process that joins goes on under the incarnation of its predecessor.
fn resume<T: Txn>(txn: &T, node: NodeIncarnation, record: NodeRecord) -> Outcome {
    let session = record.session.next();
    txn.put(&NodeKey { node: node.node }, &NodeRecord { session, ..record });
    Outcome::Joined { session: NodeSession { node, number: session }, resumed: true }
}

async fn leave<T: Txn>(txn: &T, caller: NodeSession) -> Result<(), ServiceError> {
    let node = caller.node;
    let mut record = require_session(txn, caller).await?;
    let held = txn.scan(&attachments_of(node.node, node.incarnation), 100).await?;
    if let Some((first, _)) = held.first() {
        let (count, volume) = (held.len(), first.volume);
        return Err(ServiceError::NodeHoldsAttachments { node, count, volume });
    }
    record.state = NodeState::Left;
    txn.put(&NodeKey { node: node.node }, &record);
    // Its keys stay where they are, and are taken away by others: see F3.
    forget_registrations(txn, node).await?;
    reclaim_if_unused(txn, node).await
}

async fn declare_fenced<T: Txn>(txn: &T, node: NodeIncarnation) -> Result<(), ServiceError> {
    let key = NodeKey { node: node.node };
    let record = txn.load(&key).await?;
    let mut record =
        record.ok_or_else(|| ServiceError::NodeNotFound { node: node.node.to_string() })?;
    if !is_live(&record, node) {
        return Ok(());
    }
    record.state = NodeState::Fenced;
    txn.put(&key, &record);
    reclaim_if_unused(txn, node).await
}

impl<S: MetaStore> Service<S> {
    /// Makes a node known, resumes its incarnation, or starts a new one.
    ///
    /// # Errors
    /// Another process of the node has joined since this one looked, the node may still run on
    /// this boot, or the cluster has no id left.
    pub async fn join(&self, request: &Join) -> Result<Joined, ServiceError> {
        let now = self.seams.clock.now();
        self.fence_former(request, now).await?;
        let what = ("join", request);
        let outcome =
            self.once(request.request, &what, |txn| async move {
                self.rejoin(&*txn, request, now).await
            })
            .await?;
        let Outcome::Joined { session, resumed } = outcome else {
            return Err(foreign_outcome(request.request, &outcome));
        };
        self.leases.hear(session.node, now);
        let (timers, cluster) = (self.settings.timers, self.cluster);
        let key = NodeKey { node: session.node.node };
        let key = &key;
        let state = |txn: Arc<S::Txn>| async move { Ok(txn.load_known(key).await?.state) };
        let state = self.read(state).await?;
        Ok(Joined { session, resumed, timers, cluster, state })
    }

    /// Begins to fence the incarnation that is to be replaced, if it may have written to LUNs with
    /// reservations. In a transaction of its own: the join is refused until the fence is complete.
    async fn fence_former(&self, request: &Join, now: Duration) -> Result<(), ServiceError> {
        let find = |txn: Arc<S::Txn>| async move {
            let key = NodeNameKey { name: request.name.clone() };
            let Some(NodeNameRecord { node }) = txn.load(&key).await? else { return Ok(None) };
            let record = txn.load_known(&NodeKey { node }).await?;
            let former = NodeIncarnation { node, incarnation: record.incarnation };
            let replaces = request.last_session == record.session
                && record.state.is_live()
                && !can_resume(&record, request)
                && has_registrations(&*txn, former).await?;
            Ok(replaces.then_some((former, record)))
        };
        let Some((former, record)) = self.read(find).await? else { return Ok(()) };
        if self.leases.silence(former, now) >= self.silence_before(&record, request) {
            let reason = if record.boot == request.boot {
                "another process of the node has joined without its state"
            } else {
                "its machine has booted anew"
            };
            self.fence(former, reason).await?;
        }
        Ok(())
    }

    fn require_silence(
        &self,
        (node, record): (NodeIncarnation, &NodeRecord),
        request: &Join,
        now: Duration,
    ) -> Result<(), ServiceError> {
        let (silence, needed) =
            (self.leases.silence(node, now), self.silence_before(record, request));
        if silence >= needed {
            return Ok(());
        }
        let (name, wait) = (request.name.clone(), needed - silence);
        Err(ServiceError::NodeAlive { name, node, heard_ago: silence, wait })
    }

    /// How long the former incarnation must have been silent before a process takes its place that
    /// does not resume it.
    fn silence_before(&self, record: &NodeRecord, request: &Join) -> Duration {
        let timers = &self.settings.timers;
        if record.boot == request.boot { timers.fencing } else { timers.hold }
    }

    async fn rejoin<T: Txn>(
        &self,
        txn: &T,
        request: &Join,
        now: Duration,
    ) -> Result<Outcome, ServiceError> {
        let Some(found) = txn.load(&NodeNameKey { name: request.name.clone() }).await? else {
            if request.last_session != SessionNumber::default() {
                return Err(ServiceError::NodeNotFound { node: request.name.to_string() });
            }
            return first_join(txn, request).await;
        };
        let record = txn.load_known(&NodeKey { node: found.node }).await?;
        let former = NodeIncarnation { node: found.node, incarnation: record.incarnation };
        if request.last_session != record.session {
            return Err(stale_session(&record, found.node, request.last_session));
        }
        if record.is_barred {
            return Err(FencingError::Barred { name: record.name }.into());
        }
        if can_resume(&record, request) {
            return Ok(resume(txn, former, record));
        }
        match record.state {
            NodeState::Joining | NodeState::Active | NodeState::Suspect => {
                self.require_silence((former, &record), request, now)?;
                if has_registrations(txn, former).await? {
                    // It has registered since the look before: the next try fences it.
                    let (name, victim) = (request.name.clone(), former);
                    let waits_for = "its fence to be begun".to_owned();
                    return Err(FencingError::Fencing { name, victim, waits_for }.into());
                }
            }
            NodeState::Fencing => {
                if self.obstacle_of(txn, former).await?.is_none() {
                    let (name, victim) = (request.name.clone(), former);
                    let waits_for = "those who cut it off, and the end of its lease".to_owned();
                    return Err(FencingError::Fencing { name, victim, waits_for }.into());
                }
                // Nobody else can: this one does it, once it is registered there. What no array
                // protects is free by that, so the former one must be silent.
                self.require_silence((former, &record), request, now)?;
            }
            NodeState::Fenced | NodeState::Left => {}
        }
        // Who left was drained, and another boot has ended everything.
        let may_linger = record.boot == request.boot && record.state != NodeState::Left;
        if may_linger && !request.is_drained {
            let (name, node) = (request.name.clone(), former);
            return Err(FencingError::Undrained { name, node }.into());
        }
        next_incarnation(txn, former, record, request).await
    }

    /// Renews the lease of an incarnation and says how the service sees it.
    ///
    /// # Errors
    /// The incarnation is gone, or a later process speaks for it.
    pub async fn heartbeat(&self, caller: NodeSession) -> Result<Renewed, ServiceError> {
        let record = self.read(|txn| async move { require_session(&*txn, caller).await }).await?;
        if !self.leases.hear(caller.node, self.seams.clock.now()) {
            let (node, newest) = (caller.node, record.incarnation);
            return Err(ServiceError::NodeFenced { node, newest, state: NodeState::Fencing });
        }
        let lun_generation = self.luns_joined.load(Ordering::Relaxed);
        Ok(Renewed { state: record.state, timers: self.settings.timers, lun_generation })
    }

    /// Ends an incarnation gracefully.
    ///
    /// # Errors
    /// It is gone already, a later process speaks for it, or it still holds attachments.
    pub async fn leave(&self, request: &Leave) -> Result<(), ServiceError> {
        let what = ("leave", request);
        let go = |txn: Arc<S::Txn>| async move { leave(&*txn, request.caller).await };
        self.once_done(request.request, &what, go).await
    }

    /// Records that an incarnation is proven unable to write. Only what holds that proof calls
    /// this: it is no request of a client. An incarnation that is gone already stays as it is.
    ///
    /// # Errors
    /// There is no such node.
    pub async fn declare_fenced(&self, node: NodeIncarnation) -> Result<(), ServiceError> {
        self.store.transact(|txn| async move { declare_fenced(&*txn, node).await }).await
    }

    pub(super) async fn node_view<T: Txn>(
        &self,
        txn: &T,
        id: NodeId,
        record: NodeRecord,
    ) -> Result<Node, ServiceError> {
        let now = self.seams.clock.now();
        let incarnation = record.incarnation;
        let newest = NodeIncarnation { node: id, incarnation };
        let held = txn.scan(&attachments_of(id, incarnation), ATTACHMENTS_COUNTED).await?;
        let late = self.leases.silence(newest, now) > self.settings.timers.suspect;
        let state = match record.state {
            NodeState::Active if late => NodeState::Suspect,
            state => state,
        };
        Ok(Node {
            id,
            name: record.name,
            incarnation,
            boot: record.boot,
            state,
            heard_ago: self.leases.heard_ago(newest, now),
            attachments: u32::try_from(held.len()).unwrap_or(u32::MAX),
            session: record.session,
            is_barred: record.is_barred,
            is_draining: record.is_draining,
        })
    }

    /// A node and its newest incarnation.
    ///
    /// # Errors
    /// There is no such node.
    pub async fn node(&self, selector: &Selector<NodeId>) -> Result<Node, ServiceError> {
        self.read(|txn| async move {
            let (id, record) = find_node(&*txn, selector).await?;
            self.node_view(&*txn, id, record).await
        })
        .await
    }

    /// The nodes, by id.
    ///
    /// # Errors
    /// The page token is not of this list.
    pub async fn nodes(&self, request: &PageRequest) -> Result<Page<Node>, ServiceError> {
        self.read(|txn| async move {
            let (entries, next) = page(&*txn, TypedRange::<NodeKey>::table(), request).await?;
            let mut items = Vec::with_capacity(entries.len());
            for (key, record) in entries {
                items.push(self.node_view(&*txn, key.node, record).await?);
            }
            Ok(Page { items, next })
        })
        .await
    }
}
