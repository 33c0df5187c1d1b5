//! What operators say of fencing: fence a node, let it join again, certify that its machine is off;
//! and what they can see of it.
//!
//! Each of them is audited in the transaction that carries it out.

use std::sync::Arc;

use lunar_proto::domain::{
    CertifyPoweredOff, DrainNode, Fence, FenceLun, FenceLunState, FenceNode, FenceProof, Node,
    NodeState, Page, PageRequest, Selector, UnfenceNode,
};
use lunar_types::{NodeId, NodeIncarnation};
use tracing::warn;

use super::Service;
use super::audit::{Actor, write_audit};
use super::fences::{Cause, begin_fence, declare, fence_key, is_done, rows_of, victim_of};
use super::nodes::find_node;
use super::paging::page;
use crate::error::{FencingError, ServiceError};
use crate::keyspace::{
    FenceKey, FenceLunRecord, FenceRecord, KeyedTxn as _, NodeKey, NodeRecord, TypedRange,
    fences_of,
};
use crate::store::{MetaStore, Txn};

async fn fence_node<T: Txn>(
    txn: &T,
    request: &FenceNode,
    actor: Actor<'_>,
) -> Result<(), ServiceError> {
    let (node, record) = find_node(txn, &request.node).await?;
    let victim = NodeIncarnation { node, incarnation: record.incarnation };
    if request.keeps_out && !record.is_barred {
        txn.put(&NodeKey { node }, &NodeRecord { is_barred: true, ..record.clone() });
    }
    write_audit(txn, actor, "fence-node", (record.name.as_str(), &request.reason)).await?;
    let reason = match request.reason.as_str() {
        "" => format!("by {}", actor.name),
        reason => format!("by {}: {reason}", actor.name),
    };
    begin_fence(txn, victim, &Cause { reason, at: actor.at }).await?;
    Ok(())
}

async fn unfence_node<T: Txn>(
    txn: &T,
    request: &UnfenceNode,
    actor: Actor<'_>,
) -> Result<(), ServiceError> {
    let (node, record) = find_node(txn, &request.node).await?;
    if !record.is_barred {
        return Ok(());
    }
    write_audit(txn, actor, "unfence-node", (record.name.as_str(), "")).await?;
    txn.put(&NodeKey { node }, &NodeRecord { is_barred: false, ..record });
    Ok(())
}

async fn drain_node<T: Txn>(
    txn: &T,
    request: &DrainNode,
    actor: Actor<'_>,
) -> Result<(), ServiceError> {
    let (node, record) = find_node(txn, &request.node).await?;
    if record.is_draining == request.drains {
        return Ok(());
    }
    let action = if request.drains { "drain-node" } else { "undrain-node" };
    write_audit(txn, actor, action, (record.name.as_str(), "")).await?;
    txn.put(&NodeKey { node }, &NodeRecord { is_draining: request.drains, ..record });
    Ok(())
}

/// Takes the operator's word for everything that a fence of this incarnation would prove.
async fn certify<T: Txn>(
    txn: &T,
    victim: NodeIncarnation,
    cause: &Cause,
) -> Result<(), ServiceError> {
    begin_fence(txn, victim, cause).await?;
    for (key, row) in rows_of(txn, victim).await? {
        if !is_done(&row) {
            let state = FenceLunState::Done(FenceProof::Certified);
            txn.put(&key, &FenceLunRecord { state, ..row });
        }
    }
    let known = txn.load(&fence_key(victim)).await?;
    let fence = known.unwrap_or_else(|| cause.record());
    let fence = FenceRecord { is_certified: true, ..fence };
    txn.put(&fence_key(victim), &fence);
    declare(txn, victim, fence).await
}

async fn certify_node<T: Txn>(
    txn: &T,
    request: &CertifyPoweredOff,
    actor: Actor<'_>,
) -> Result<(), ServiceError> {
    let (node, record) = find_node(txn, &request.node).await?;
    if record.name != request.confirm {
        let problem = format_args!("'{}' is not the name '{}'", request.confirm, record.name);
        return Err(ServiceError::field("confirm", problem));
    }
    write_audit(txn, actor, "certify-powered-off", (record.name.as_str(), &request.reason)).await?;
    let reason = format!("certified powered off by {}: {}", actor.name, request.reason);
    let cause = Cause { reason, at: actor.at };
    // Of incarnations before it too: it is one machine.
    for (key, _) in txn.scan(&fences_of(node), ROWS_MAX).await? {
        if key.incarnation != record.incarnation {
            certify(txn, victim_of(&key), &cause).await?;
        }
    }
    if record.state != NodeState::Left {
        let newest = NodeIncarnation { node, incarnation: record.incarnation };
        certify(txn, newest, &cause).await?;
    }
    Ok(())
}

/// Fences of one node that one transaction looks at.
const ROWS_MAX: usize = 1000;

impl<S: MetaStore> Service<S> {
    /// Begins to fence a node, and keeps it from joining if asked to. One that is fenced already
    /// stays so.
    ///
    /// # Errors
    /// There is no such node.
    pub async fn fence_node(
        &self,
        request: &FenceNode,
        actor: Actor<'_>,
    ) -> Result<Node, ServiceError> {
        let what = ("fence node", request);
        let fence = |txn: Arc<S::Txn>| async move { fence_node(&*txn, request, actor).await };
        self.once_done(request.request, &what, fence).await?;
        self.close_if_fencing(&request.node).await?;
        warn!(node = %request.node, actor = actor.name, reason = request.reason, "fenced by hand");
        self.sets_changed();
        self.node(&request.node).await
    }

    /// Lets a node join again that was fenced by hand.
    ///
    /// # Errors
    /// There is no such node.
    pub async fn unfence_node(
        &self,
        request: &UnfenceNode,
        actor: Actor<'_>,
    ) -> Result<Node, ServiceError> {
        let what = ("unfence node", request);
        let unfence = |txn: Arc<S::Txn>| async move { unfence_node(&*txn, request, actor).await };
        self.once_done(request.request, &what, unfence).await?;
        self.node(&request.node).await
    }

    /// Has a node get no volume any more, or again. What it holds stays with it until somebody
    /// detaches it.
    ///
    /// # Errors
    /// There is no such node.
    pub async fn drain_node(
        &self,
        request: &DrainNode,
        actor: Actor<'_>,
    ) -> Result<Node, ServiceError> {
        let what = ("drain node", request);
        let drain = |txn: Arc<S::Txn>| async move { drain_node(&*txn, request, actor).await };
        self.once_done(request.request, &what, drain).await?;
        self.node(&request.node).await
    }

    /// Takes an operator's word that a machine is off: whatever it held is free.
    ///
    /// # Errors
    /// There is no such node, the name is not confirmed, or it was heard from within the holding
    /// time.
    pub async fn certify_powered_off(
        &self,
        request: &CertifyPoweredOff,
        actor: Actor<'_>,
    ) -> Result<Node, ServiceError> {
        self.require_silent(&request.node).await?;
        let what = ("certify powered off", request);
        let certify = |txn: Arc<S::Txn>| async move { certify_node(&*txn, request, actor).await };
        self.once_done(request.request, &what, certify).await?;
        let (node, reason) = (&request.node, request.reason.as_str());
        warn!(%node, actor = actor.name, reason, "certified powered off");
        self.sets_changed();
        self.node(&request.node).await
    }

    /// What a victim says does not count any more, from its fence on.
    async fn close_if_fencing(&self, node: &Selector<NodeId>) -> Result<(), ServiceError> {
        let find = |txn: Arc<S::Txn>| async move { find_node(&*txn, node).await };
        let (node, NodeRecord { incarnation, state, .. }) = self.read(find).await?;
        if state == NodeState::Fencing {
            self.leases.close(NodeIncarnation { node, incarnation });
        }
        Ok(())
    }

    async fn require_silent(&self, node: &Selector<NodeId>) -> Result<(), ServiceError> {
        let find = |txn: Arc<S::Txn>| async move { find_node(&*txn, node).await };
        let (node, NodeRecord { name, incarnation, state, .. }) = self.read(find).await?;
        let newest = NodeIncarnation { node, incarnation };
        let silence = self.leases.silence(newest, self.seams.clock.now());
        let hold = self.settings.timers.hold;
        if !state.is_live() || silence >= hold {
            return Ok(());
        }
        Err(FencingError::Renews { name, heard_ago: silence, wait: hold - silence }.into())
    }

    /// The fences that are under way.
    ///
    /// # Errors
    /// The page token is not of this list.
    pub async fn fences(&self, request: &PageRequest) -> Result<Page<Fence>, ServiceError> {
        self.read(|txn| async move {
            let (entries, next) = page(&*txn, TypedRange::<FenceKey>::table(), request).await?;
            let mut items = Vec::new();
            for (key, fence) in entries {
                if !fence.is_complete {
                    items.push(self.fence_view(&*txn, victim_of(&key), &fence).await?);
                }
            }
            Ok(Page { items, next })
        })
        .await
    }

    pub(super) async fn fence_view<T: Txn>(
        &self,
        txn: &T,
        victim: NodeIncarnation,
        fence: &FenceRecord,
    ) -> Result<Fence, ServiceError> {
        let record = txn.load_known(&NodeKey { node: victim.node }).await?;
        let rows = rows_of(txn, victim).await?;
        let luns = rows.into_iter().map(|(key, row)| FenceLun { lun: key.lun, state: row.state });
        Ok(Fence {
            victim,
            node_name: record.name,
            reason: fence.reason.as_str().to_owned(),
            luns: luns.collect(),
            waits_for: self.obstacle_of(txn, victim).await?.unwrap_or_default(),
        })
    }
}
