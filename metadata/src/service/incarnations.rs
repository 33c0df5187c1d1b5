//! Whether an incarnation may still write, and what a proof that it may not frees.
//!
//! Invariants:
//! - what an incarnation holds in a pool goes to somebody else only with the proof that this pool
//!   asks for: reservations by the array, leases by time, and without either by the machine being
//!   off, or by its own next incarnation;
//! - an incarnation that a later one has replaced is over for its own machine: its process is dead,
//!   or has drained. For the array it is over when its fence is complete.

use lunar_proto::domain::{NodeState, PoolFencing};
use lunar_types::{Incarnation, NodeIncarnation, PoolId};

use crate::error::ServiceError;
use crate::keyspace::{FenceKey, FenceRecord, KeyedTxn, NodeKey, NodeRecord, PoolKey};
use crate::store::Txn;

/// Where an incarnation is in its life, as far as others are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// It may write.
    Live,
    /// It is being cut off from the LUNs with reservations.
    Fencing {
        /// Whether its node has joined again since.
        is_replaced: bool,
    },
    /// It is cut off from the LUNs with reservations, and its lease has run out.
    Fenced {
        /// Whether an operator has certified that the machine is off.
        is_certified: bool,
    },
    /// Nothing of it is left: it went, or its node has joined again.
    Over,
}

impl Life {
    /// By the records of its node and of its own fence.
    pub(crate) fn of(
        incarnation: Incarnation,
        record: &NodeRecord,
        fence: Option<&FenceRecord>,
    ) -> Self {
        if record.incarnation != incarnation {
            let is_open = fence.is_some_and(|fence| !fence.is_complete);
            return if is_open { Self::Fencing { is_replaced: true } } else { Self::Over };
        }
        match record.state {
            NodeState::Joining | NodeState::Active | NodeState::Suspect => Self::Live,
            NodeState::Fencing => Self::Fencing { is_replaced: false },
            // One without a record was declared so by whoever had the proof.
            NodeState::Fenced => {
                Self::Fenced { is_certified: fence.is_none_or(|fence| fence.is_certified) }
            }
            NodeState::Left => Self::Over,
        }
    }

    /// Whether what it held in a pool may be given away.
    pub(crate) const fn frees(self, fencing: PoolFencing) -> bool {
        match (self, fencing) {
            (Self::Over, _) => true,
            (Self::Fenced { is_certified }, PoolFencing::None) => is_certified,
            (Self::Fenced { .. }, PoolFencing::Reservations | PoolFencing::Lease) => true,
            (Self::Fencing { is_replaced }, PoolFencing::Lease | PoolFencing::None) => is_replaced,
            (Self::Fencing { .. }, PoolFencing::Reservations) | (Self::Live, _) => false,
        }
    }

    /// What a person can do for what is not free.
    pub(super) fn advice(self, fencing: PoolFencing, node: &str) -> String {
        match (self, fencing) {
            (Self::Fencing { .. }, _) => {
                format!("it is being fenced, try again; 'lunar explain node {node}' says how far")
            }
            (Self::Fenced { .. }, _) => format!(
                "its pool has no fencing, so the machine may still write: start it again, or make \
                 sure that it is off and say so with 'lunar node fence {node} \
                 --certified-powered-off'"
            ),
            (Self::Live | Self::Over, PoolFencing::None) => format!(
                "detach it there first, or, if that machine is lost, see 'lunar explain node \
                 {node}'"
            ),
            (Self::Live | Self::Over, _) => format!(
                "detach it there first; if that machine is lost, it is fenced by itself; 'lunar \
                 node fence {node}' does it now"
            ),
        }
    }
}

/// Whether an incarnation is its node's newest and was not declared over.
pub(super) fn is_live(record: &NodeRecord, node: NodeIncarnation) -> bool {
    record.incarnation == node.incarnation && record.state.is_live()
}

/// Where an incarnation is in its life.
pub(super) async fn life_of<T: Txn>(txn: &T, of: NodeIncarnation) -> Result<Life, ServiceError> {
    let NodeIncarnation { node, incarnation } = of;
    let record = txn.load_known(&NodeKey { node }).await?;
    let fence = txn.load(&FenceKey { node, incarnation }).await?;
    Ok(Life::of(incarnation, &record, fence.as_ref()))
}

/// What fences a pool.
pub(super) async fn fencing_of<T: Txn>(txn: &T, pool: PoolId) -> Result<PoolFencing, ServiceError> {
    Ok(txn.load_known(&PoolKey { pool }).await?.fencing)
}

/// Whether what an incarnation holds in a pool may be given away.
pub(super) async fn is_free_of<T: Txn>(
    txn: &T,
    pool: PoolId,
    holder: NodeIncarnation,
) -> Result<bool, ServiceError> {
    Ok(life_of(txn, holder).await?.frees(fencing_of(txn, pool).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pool_asks_for_its_own_proof() {
        use PoolFencing::{Lease, None, Reservations};
        let fenced = |is_certified| Life::Fenced { is_certified };
        let fencing = |is_replaced| Life::Fencing { is_replaced };
        for (life, free) in [
            (Life::Live, [false, false, false]),
            (fencing(false), [false, false, false]),
            (fencing(true), [false, true, true]),
            (fenced(false), [true, true, false]),
            (fenced(true), [true, true, true]),
            (Life::Over, [true, true, true]),
        ] {
            assert_eq!([Reservations, Lease, None].map(|pool| life.frees(pool)), free, "{life:?}");
        }
    }
}
