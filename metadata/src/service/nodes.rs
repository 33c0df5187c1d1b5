//! Nodes: joining, leases, leaving, and the seam where fencing will enter.
//!
//! Invariants:
//! - an incarnation older than its node's newest is gone; the newest is live by its state;
//! - a new incarnation starts only when the former one is proven gone: it has left, it is
//!   fenced, its host has booted anew, or it is on the same boot and has been silent for the
//!   fencing time without anybody being able to resume it;
//! - every join raises the session of its node, and is carried out only if the session that its
//!   process has read is still the last: a call of an earlier process changes nothing, a join
//!   neither;
//! - what a gone incarnation had reserved comes back only when none of its journals is left.
//!
//! When a node was last heard from is known to this process alone and on its own clock; a fresh
//! process counts from its start, so it acts later, never earlier.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lunar_proto::domain::{
    Join, Joined, Leave, Node, NodeState, OperationWork, Page, PageRequest, Renewed, Selector,
};
use lunar_types::{Incarnation, NodeId, NodeIncarnation, NodeSession, SessionNumber};

use super::operations::begin_operation;
use super::paging::page;
use super::restored::require_certified;
use super::{Service, foreign_outcome, next_number};
use crate::error::ServiceError;
use crate::keyspace::{
    Counter, KeyedTxn, NodeKey, NodeNameKey, NodeNameRecord, NodeRecord, Outcome, TypedRange,
    attachments_of, reservations_of, stale_journals_by,
};
use crate::store::{MetaStore, Txn};

/// Attachments of a node that are counted at most.
const ATTACHMENTS_COUNTED: usize = 10_000;

/// When each incarnation was last heard from.
pub(super) struct Leases {
    started: Duration,
    heard: Mutex<HashMap<NodeIncarnation, Duration>>,
}

impl Leases {
    pub(super) fn new(started: Duration) -> Self {
        Self { started, heard: Mutex::default() }
    }

    fn hear(&self, node: NodeIncarnation, now: Duration) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        // A late answer about an incarnation that is gone says nothing of the one that lives.
        if heard.keys().any(|other| other.node == node.node && *other > node) {
            return;
        }
        heard.retain(|other, _| other.node != node.node || *other == node);
        heard.insert(node, now);
    }

    /// Time since the incarnation was heard from, if it was since the start.
    fn heard_ago(&self, node: NodeIncarnation, now: Duration) -> Option<Duration> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(&node).map(|at| now.saturating_sub(*at))
    }

    /// How long the incarnation has been silent as far as this process can tell.
    fn silence(&self, node: NodeIncarnation, now: Duration) -> Duration {
        self.heard_ago(node, now).unwrap_or(now.saturating_sub(self.started))
    }
}

/// Whether an incarnation may still write, by the record of its node.
pub(super) fn is_live(record: &NodeRecord, node: NodeIncarnation) -> bool {
    record.incarnation == node.incarnation && record.state.is_live()
}

/// The record of a node whose incarnation must be live.
async fn require_live<T: Txn>(txn: &T, node: NodeIncarnation) -> Result<NodeRecord, ServiceError> {
    let record = txn.load(&NodeKey { node: node.node }).await?;
    if let Some(record) = &record
        && is_live(record, node)
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
    let record = txn.load_known(&NodeKey { node }).await?;
    if is_live(&record, gone)
        || !txn.scan(&attachments_of(node, incarnation), 1).await?.is_empty()
        || !txn.scan(&stale_journals_by(node, incarnation), 1).await?.is_empty()
        || txn.scan(&reservations_of(node, incarnation), 1).await?.is_empty()
    {
        return Ok(());
    }
    begin_operation(txn, OperationWork::ReclaimReservations(gone)).await
}

async fn find_node<T: Txn>(
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

async fn first_join<T: Txn>(txn: &T, request: &Join) -> Result<Outcome, ServiceError> {
    let limit = u64::from(u16::MAX);
    let raw = next_number(txn, Counter::Node).await?;
    let raw = u16::try_from(raw)
        .map_err(|_| ServiceError::LimitReached { what: "nodes of a cluster", limit })?;
    let node = NodeId::new(raw);
    let (incarnation, session) = (Incarnation::new(1), SessionNumber::default().next());
    let record = NodeRecord {
        name: request.name.clone(),
        incarnation,
        boot: request.boot,
        state: NodeState::Active,
        session,
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
    let (state, session) = (NodeState::Active, record.session.next());
    let record = NodeRecord { incarnation, boot: request.boot, state, session, ..record };
    txn.put(&NodeKey { node }, &record);
    reclaim_if_unused(txn, former).await?;
    let node = NodeIncarnation { node, incarnation };
    Ok(Outcome::Joined { session: NodeSession { node, number: session }, resumed: false })
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
        Ok(Joined { session, resumed, timers, cluster, state: NodeState::Active })
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
        if record.boot == request.boot && record.state.is_live() {
            let resumable = record.state != NodeState::Fencing;
            if resumable && request.resume == Some(record.incarnation) {
                return Ok(resume(txn, former, record));
            }
            let silence = self.leases.silence(former, now);
            let fencing = self.settings.timers.fencing;
            if silence < fencing {
                return Err(ServiceError::NodeAlive {
                    name: request.name.clone(),
                    node: former,
                    heard_ago: silence,
                    wait: fencing - silence,
                });
            }
        }
        next_incarnation(txn, former, record, request).await
    }

    /// Renews the lease of an incarnation and says how the service sees it.
    ///
    /// # Errors
    /// The incarnation is gone, or a later process speaks for it.
    pub async fn heartbeat(&self, caller: NodeSession) -> Result<Renewed, ServiceError> {
        let record = self.read(|txn| async move { require_session(&*txn, caller).await }).await?;
        self.leases.hear(caller.node, self.seams.clock.now());
        Ok(Renewed { state: record.state, timers: self.settings.timers, lun_generation: 0 })
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

    async fn node_view<T: Txn>(
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
            is_barred: false,
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
