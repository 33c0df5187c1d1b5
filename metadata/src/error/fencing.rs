//! Errors of registrations and fences.

use std::time::Duration;

use lunar_proto::domain::{FenceOrder, NodeState};
use lunar_proto::error::{ErrorReason, Facts};
use lunar_types::{LunId, Name, NodeIncarnation};

/// What keeps a node from taking part, or a fence from going on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FencingError {
    /// It may not hold anything yet.
    #[error(
        "incarnation {node} is {state}: it holds volumes and extents only when it is ACTIVE, that \
         is registered at the LUNs; see its log for what keeps it from that"
    )]
    NotActive {
        /// The incarnation.
        node: NodeIncarnation,
        /// Its state.
        state: NodeState,
    },
    /// Its former incarnation is not cut off yet.
    #[error(
        "node '{name}' joins when its incarnation {victim} is fenced, which waits for {waits_for}"
    )]
    Fencing {
        /// The node.
        name: Name,
        /// The former incarnation.
        victim: NodeIncarnation,
        /// For people.
        waits_for: String,
    },
    /// An operator keeps it out.
    #[error("node '{name}' was fenced by an operator: it joins after 'lunar node unfence {name}'")]
    Barred {
        /// The node.
        name: Name,
    },
    /// What its former process had under way may still arrive.
    #[error(
        "node '{name}' ran as {node} on this boot: it joins as another one when nothing of that is \
         under way at the LUNs any more, which fs-core waits for and then says"
    )]
    Undrained {
        /// The node.
        name: Name,
        /// The former incarnation.
        node: NodeIncarnation,
    },
    /// What it holds is moved off it.
    #[error(
        "node '{name}' is being drained: attach elsewhere, or let it have volumes again with \
         'lunar node undrain {name}'"
    )]
    Draining {
        /// The node.
        name: Name,
    },
    /// It runs.
    #[error(
        "node '{name}' was heard from {heard_ms} ms ago, so its machine is not powered off: fence \
         it with 'lunar node fence {name}'; after a restart of the metadata service wait {wait_ms} \
         ms, until it would have been heard",
        heard_ms = heard_ago.as_millis(), wait_ms = wait.as_millis()
    )]
    Renews {
        /// The node.
        name: Name,
        /// When it was heard from, or could have been.
        heard_ago: Duration,
        /// How long until its silence counts.
        wait: Duration,
    },
    /// It may not write there.
    #[error(
        "{node} is not registered at LUN {lun} of pool '{pool_name}': it uses the pool when it \
         sees the LUN on every path and its registration is confirmed; 'lunar doctor' on that node \
         says what is missing"
    )]
    LunNotRegistered {
        /// The LUN.
        lun: LunId,
        /// Of which pool.
        pool_name: Name,
        /// Who.
        node: NodeIncarnation,
    },
    /// No pool has it, or one without reservations.
    #[error("no pool with reservations has LUN {lun}")]
    LunNotFound {
        /// The LUN.
        lun: LunId,
    },
    /// Nobody is to be cut off there.
    #[error("{} is not to be cut off from LUN {}: its fence is complete, or was never begun",
            order.victim, order.lun)]
    NotFound {
        /// Whom from where.
        order: FenceOrder,
    },
    /// Somebody else is at it by now.
    #[error(
        "cutting {} off from LUN {} is at attempt {held}, the request was of attempt {given}: it \
         proves nothing any more",
        order.victim, order.lun
    )]
    StaleAttempt {
        /// Whom from where.
        order: FenceOrder,
        /// The last attempt.
        held: u32,
        /// The attempt in the request.
        given: u32,
    },
}

impl FencingError {
    pub(super) fn kind(&self) -> ErrorReason {
        match self {
            Self::NotActive { .. } => ErrorReason::NodeNotActive,
            Self::Fencing { .. } => ErrorReason::NodeFencing,
            Self::Barred { .. } => ErrorReason::NodeBarred,
            Self::Undrained { .. } => ErrorReason::NodeUndrained,
            Self::Draining { .. } => ErrorReason::NodeDraining,
            Self::Renews { .. } => ErrorReason::NodeRenews,
            Self::LunNotRegistered { .. } => ErrorReason::LunNotRegistered,
            Self::LunNotFound { .. } => ErrorReason::LunNotFound,
            Self::NotFound { .. } => ErrorReason::FenceNotFound,
            Self::StaleAttempt { .. } => ErrorReason::StaleFenceAttempt,
        }
    }

    pub(super) fn facts(&self) -> Facts {
        let fact = |name: &str, value: &dyn ToString| (name.to_owned(), value.to_string());
        match self {
            Self::NotActive { node, state } => {
                Facts::from([fact("node", node), fact("state", state)])
            }
            Self::Fencing { name, victim, waits_for } => Facts::from([
                fact("node_name", name),
                fact("node", victim),
                fact("waits_for", waits_for),
            ]),
            Self::Undrained { name, node } => {
                Facts::from([fact("node_name", name), fact("node", node)])
            }
            Self::Barred { name } | Self::Draining { name } => {
                Facts::from([fact("node_name", name)])
            }
            Self::Renews { name, heard_ago, wait } => Facts::from([
                fact("node_name", name),
                fact("heard_ago_ms", &heard_ago.as_millis()),
                fact("wait_ms", &wait.as_millis()),
            ]),
            Self::LunNotRegistered { lun, pool_name, node } => {
                Facts::from([fact("lun", lun), fact("pool_name", pool_name), fact("node", node)])
            }
            Self::LunNotFound { lun } => Facts::from([fact("lun", lun)]),
            Self::NotFound { order } => {
                Facts::from([fact("node", &order.victim), fact("lun", &order.lun)])
            }
            Self::StaleAttempt { order, held, given } => Facts::from([
                fact("node", &order.victim),
                fact("lun", &order.lun),
                fact("attempt_held", held),
                fact("attempt_given", given),
            ]),
        }
    }
}
