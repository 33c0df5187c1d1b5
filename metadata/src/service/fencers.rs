//! Who cuts whom off: the orders of each node, chosen anew from what the store holds, with what
//! this process remembers of whom it has asked.
//!
//! Invariants:
//! - one fencer a LUN at a time: the one that was heard from last, of those that are ACTIVE and
//!   confirmed there. The victim's own next incarnation does it only when nobody else can;
//! - who is silent, does not begin within [`BEGIN_LIMIT`], or does not end within [`END_LIMIT`], is
//!   replaced, if there is another. Two at once are safe: only the last attempt can be ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lunar_proto::domain::{FENCE_LIST_MAX, FenceOrder, NodeState};
use lunar_types::{NodeIncarnation, NodeSession};

use super::Service;
use super::fences::{confirmed_at, is_done, open_fences, rows_of};
use crate::error::ServiceError;
use crate::store::{MetaStore, Txn};

/// How long who was asked may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(5);
/// How long an attempt may take: more than the drain time of a fencer that has to wait.
const END_LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Asked {
    fencer: NodeIncarnation,
    since: Duration,
    has_begun: bool,
}

impl Asked {
    fn is_late(&self, now: Duration) -> bool {
        let limit = if self.has_begun { END_LIMIT } else { BEGIN_LIMIT };
        now.saturating_sub(self.since) >= limit
    }
}

/// Whom this process has asked.
#[derive(Default)]
pub(super) struct Fencers {
    asked: Mutex<BTreeMap<FenceOrder, Asked>>,
}

impl Fencers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<FenceOrder, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_begun(&self, order: FenceOrder, fencer: NodeIncarnation, now: Duration) {
        let mut asked = self.lock();
        // One that begins again and again has not ended: its time counts from its first attempt.
        let is_again = asked.get(&order).is_some_and(|it| it.fencer == fencer && it.has_begun);
        if !is_again {
            asked.insert(order, Asked { fencer, since: now, has_begun: true });
        }
    }

    pub(super) fn forget(&self, victim: NodeIncarnation) {
        self.lock().retain(|order, _| order.victim != victim);
    }

    /// Who is to carry an order out, of those that can, the best first.
    fn choose(
        &self,
        order: FenceOrder,
        able: &[NodeIncarnation],
        now: Duration,
    ) -> Option<NodeIncarnation> {
        let mut asked = self.lock();
        let held = asked.get(&order).copied();
        if let Some(held) = held
            && able.contains(&held.fencer)
            && (!held.is_late(now) || able.len() == 1)
        {
            return Some(held.fencer);
        }
        let other = |one: &&NodeIncarnation| held.is_none_or(|held| held.fencer != **one);
        let fencer = *able.iter().find(other).or_else(|| able.first())?;
        asked.insert(order, Asked { fencer, since: now, has_begun: false });
        Some(fencer)
    }
}

impl<S: MetaStore> Service<S> {
    /// Who can cut a victim off from a LUN now, the best first.
    pub(super) async fn able<T: Txn>(
        &self,
        txn: &T,
        order: FenceOrder,
        now: Duration,
    ) -> Result<Vec<NodeIncarnation>, ServiceError> {
        let FenceOrder { victim, lun } = order;
        let (mut others, mut own) = (Vec::new(), Vec::new());
        for (node, record) in confirmed_at(txn, lun).await? {
            let silence = self.leases.silence(node, now);
            if silence >= self.settings.timers.hold {
                continue;
            }
            // One that this process has not heard of since its start comes last.
            let silence = (self.leases.heard_ago(node, now).is_none(), silence);
            let is_own = node.node == victim.node;
            match record.state {
                NodeState::Active if !is_own => others.push((silence, node)),
                NodeState::Joining | NodeState::Active
                    if is_own && node.incarnation > victim.incarnation =>
                {
                    own.push((silence, node));
                }
                _ => {}
            }
        }
        let mut able = if others.is_empty() { own } else { others };
        able.sort();
        Ok(able.into_iter().map(|(_, node)| node).collect())
    }

    /// Whom a node is to cut off from where.
    pub(super) async fn orders_for<T: Txn>(
        &self,
        txn: &T,
        caller: NodeSession,
    ) -> Result<Vec<FenceOrder>, ServiceError> {
        let now = self.seams.clock.now();
        let mut orders = BTreeSet::new();
        for (victim, _) in open_fences(txn).await? {
            for (key, row) in rows_of(txn, victim).await? {
                let order = FenceOrder { victim, lun: key.lun };
                if is_done(&row) || orders.len() >= FENCE_LIST_MAX {
                    continue;
                }
                let able = self.able(txn, order, now).await?;
                if self.fencers.choose(order, &able, now) == Some(caller.node) {
                    orders.insert(order);
                }
            }
        }
        Ok(orders.into_iter().collect())
    }

    /// What keeps a fence from its end, for people; nothing while something is being done.
    pub(super) async fn obstacle_of<T: Txn>(
        &self,
        txn: &T,
        victim: NodeIncarnation,
    ) -> Result<Option<String>, ServiceError> {
        let now = self.seams.clock.now();
        for (key, row) in rows_of(txn, victim).await? {
            if is_done(&row) {
                continue;
            }
            let lun = key.lun;
            if self.able(txn, FenceOrder { victim, lun }, now).await?.is_empty() {
                return Ok(Some(format!(
                    "a node that is ACTIVE, registered at LUN {lun} and not {victim} itself: bring \
                     one up that sees the LUN, or certify that the machine is off"
                )));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use lunar_types::{Incarnation, LunId, NodeId};

    use super::*;

    const fn node(raw: u16) -> NodeIncarnation {
        NodeIncarnation { node: NodeId::new(raw), incarnation: Incarnation::new(1) }
    }

    fn order() -> FenceOrder {
        FenceOrder { victim: node(9), lun: LunId::from_u128(7) }
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn who_does_not_begin_is_replaced_and_who_has_begun_has_time_to_drain() {
        let fencers = Fencers::default();
        let able = [node(1), node(2)];
        assert_eq!(fencers.choose(order(), &able, at(0)), Some(node(1)));
        assert_eq!(fencers.choose(order(), &able, at(4)), Some(node(1)));
        assert_eq!(fencers.choose(order(), &able, at(5)), Some(node(2)), "the first was late");
        fencers.has_begun(order(), node(2), at(6));
        fencers.has_begun(order(), node(2), at(29));
        assert_eq!(fencers.choose(order(), &able, at(30)), Some(node(2)));
        assert_eq!(fencers.choose(order(), &able, at(36)), Some(node(1)), "it comes to no end");
        fencers.has_begun(order(), node(2), at(36));
        assert_eq!(fencers.choose(order(), &able[..1], at(30)), Some(node(1)), "it went away");
        assert_eq!(fencers.choose(order(), &able[..1], at(90)), Some(node(1)), "nobody else");
        assert_eq!(fencers.choose(order(), &[], at(90)), None);
    }
}
