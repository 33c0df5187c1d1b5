//! Who may write to which LUN, and how whoever may not any more is cut off.

use std::fmt;
use std::str::FromStr;

use lunar_types::{LunId, Name, NodeId, NodeIncarnation, NodeSession, RequestId};

use super::{NodeState, Selector};

/// Most LUNs that one call registers, most keys that it judges, and most orders of a node.
pub const FENCE_LIST_MAX: usize = 1000;
/// Longest reason of a person, in bytes.
pub const REASON_BYTES_MAX: usize = 200;

/// What keeps a node that was given up from writing to a pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PoolFencing {
    /// Persistent reservations: the array rejects its writes.
    Reservations,
    /// Its own lease alone: a machine that was paused can write after it wakes.
    Lease,
    /// Nothing: no takeover without a proof or an operator.
    None,
}

impl PoolFencing {
    /// The word of the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reservations => "reservations",
            Self::Lease => "lease",
            Self::None => "none",
        }
    }

    /// What a person has to know of a pool that has it, if anything.
    #[must_use]
    pub const fn warning(self) -> Option<&'static str> {
        match self {
            Self::Reservations => None,
            Self::Lease => Some(
                "fenced by lease alone: a machine that was paused can write after it wakes, and \
                 damage what its successor has written",
            ),
            Self::None => Some(
                "no fencing: nothing is taken over from a node that is lost without an operator",
            ),
        }
    }
}

impl fmt::Display for PoolFencing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is no kind of fencing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no kind of fencing: give reservations, lease or none")]
pub struct PoolFencingError(String);

impl FromStr for PoolFencing {
    type Err = PoolFencingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Reservations, Self::Lease, Self::None]
            .into_iter()
            .find(|one| one.as_str() == text)
            .ok_or_else(|| PoolFencingError(text.to_owned()))
    }
}

/// Says that an incarnation will register at LUNs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct IntendRegistrations {
    /// Who.
    pub caller: NodeSession,
    /// At most [`FENCE_LIST_MAX`].
    pub luns: Vec<LunId>,
}

/// Says that an incarnation is registered at a LUN, on every path, and that the reservation is
/// there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConfirmRegistration {
    /// Who.
    pub caller: NodeSession,
    /// Where.
    pub lun: LunId,
    /// On how many paths.
    pub paths: u32,
}

/// Asks for an incarnation to become ACTIVE.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Activate {
    /// Who.
    pub caller: NodeSession,
    /// LUNs with reservations that the node does not see; at most [`FENCE_LIST_MAX`].
    pub unseen: Vec<LunId>,
}

/// Asks which incarnations are gone for good.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct JudgeKeys {
    /// Who asks.
    pub caller: NodeSession,
    /// Whose keys were seen; at most [`FENCE_LIST_MAX`].
    pub seen: Vec<NodeIncarnation>,
}

/// A victim that is to be cut off from a LUN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FenceOrder {
    /// Whom.
    pub victim: NodeIncarnation,
    /// From where.
    pub lun: LunId,
}

/// An attempt to carry out an order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FenceAttempt {
    /// From 1 on.
    pub number: u32,
    /// Whether the victim may have written to the LUN.
    pub was_confirmed: bool,
}

/// How it is known that nothing of a victim reaches a LUN any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FenceProof {
    /// Its key was taken away and its commands aborted.
    Aborted,
    /// It never had a confirmed registration, and its key is not there.
    NeverRegistered,
    /// Its key was gone already, and stayed away for the drain time.
    Waited,
    /// An operator has certified that the machine is off.
    Certified,
}

impl fmt::Display for FenceProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Aborted => "aborted",
            Self::NeverRegistered => "never registered",
            Self::Waited => "gone and waited for",
            Self::Certified => "certified powered off",
        })
    }
}

/// Begins an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BeginFenceLun {
    /// Who cuts off.
    pub caller: NodeSession,
    /// Whom from where.
    pub order: FenceOrder,
}

/// Ends an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EndFenceLun {
    /// Who has cut off.
    pub caller: NodeSession,
    /// Whom from where.
    pub order: FenceOrder,
    /// Which attempt.
    pub attempt: u32,
    /// How it is known.
    pub proof: FenceProof,
}

/// Fences a node by an operator's word.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FenceNode {
    /// Idempotency key.
    pub request: RequestId,
    /// Which.
    pub node: Selector<NodeId>,
    /// For people; at most [`REASON_BYTES_MAX`].
    pub reason: String,
    /// Whether it is kept from joining again until it is unfenced.
    pub keeps_out: bool,
}

/// Lets a node join again.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UnfenceNode {
    /// Idempotency key.
    pub request: RequestId,
    /// Which.
    pub node: Selector<NodeId>,
}

/// Has a node get no volume any more, or again.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DrainNode {
    /// Idempotency key.
    pub request: RequestId,
    /// Which.
    pub node: Selector<NodeId>,
    /// Whether it is to drain.
    pub drains: bool,
}

/// The word of an operator that a machine is off.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CertifyPoweredOff {
    /// Idempotency key.
    pub request: RequestId,
    /// Which.
    pub node: Selector<NodeId>,
    /// Its name once more.
    pub confirm: Name,
    /// For people; at most [`REASON_BYTES_MAX`], and not empty.
    pub reason: String,
}

/// How far the fence of one LUN is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FenceLunState {
    /// Nobody has begun.
    Open,
    /// An attempt is under way, or was cut off.
    Begun {
        /// Whose.
        fencer: NodeIncarnation,
        /// Which.
        attempt: u32,
    },
    /// Nothing of the victim reaches it any more.
    Done(FenceProof),
}

/// A LUN of a fence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FenceLun {
    /// Which.
    pub lun: LunId,
    /// How far it is.
    pub state: FenceLunState,
}

/// A fence under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fence {
    /// Whom.
    pub victim: NodeIncarnation,
    /// The name of its node.
    pub node_name: Name,
    /// Why, for people.
    pub reason: String,
    /// Every LUN that the victim could write to.
    pub luns: Vec<FenceLun>,
    /// What keeps it from its end; empty while something is being done.
    pub waits_for: String,
}

/// Something that an operator has overridden.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditEntry {
    /// Rises.
    pub number: u64,
    /// Wall clock of the service, for people.
    pub unix_seconds: u64,
    /// Whom the connection spoke for.
    pub actor: String,
    /// A stable name.
    pub action: Name,
    /// What it was done to.
    pub object: String,
    /// Why.
    pub reason: String,
}

/// What a node hears when it renews its lease.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Renewed {
    /// How the service sees it.
    pub state: NodeState,
    /// When to renew.
    pub timers: super::LeaseTimers,
    /// Rises when a LUN has joined a pool.
    pub lun_generation: u64,
}
