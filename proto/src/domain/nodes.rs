//! Nodes, their incarnations and leases.

use std::fmt;
use std::time::Duration;

use lunar_types::{
    BootId, ClusterId, Incarnation, Name, NodeId, NodeSession, RequestId, SessionNumber,
};

/// Where an incarnation is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NodeState {
    /// Known, not yet allowed to touch a LUN.
    Joining,
    /// May hold volumes.
    Active,
    /// Its renewals are late; nothing is taken from it yet.
    Suspect,
    /// Another node is cutting it off.
    Fencing,
    /// Proven unable to write.
    Fenced,
    /// Went gracefully.
    Left,
}

impl NodeState {
    /// Whether an incarnation in this state may still write.
    #[must_use]
    pub const fn is_live(self) -> bool {
        match self {
            Self::Joining | Self::Active | Self::Suspect | Self::Fencing => true,
            Self::Fenced | Self::Left => false,
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Joining => "JOINING",
            Self::Active => "ACTIVE",
            Self::Suspect => "SUSPECT",
            Self::Fencing => "FENCING",
            Self::Fenced => "FENCED",
            Self::Left => "LEFT",
        })
    }
}

/// A node and its newest incarnation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// Its newest incarnation.
    pub incarnation: Incarnation,
    /// The boot that incarnation runs on.
    pub boot: BootId,
    /// Where that incarnation is in its life.
    pub state: NodeState,
    /// Time since the service heard from it, if it has since the service started.
    pub heard_ago: Option<Duration>,
    /// Volumes that it holds.
    pub attachments: u32,
    /// The session of the process that joined last.
    pub session: SessionNumber,
    /// An operator has fenced it: it does not join before it is unfenced.
    pub is_barred: bool,
    /// It gets no volume: what it holds is moved off it.
    pub is_draining: bool,
}

/// When a lease is renewed, ends, and is acted upon (DESIGN: 3R < H and H(1+ρ) < F(1−ρ)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LeaseTimers {
    /// A node renews this often.
    pub renew: Duration,
    /// A node freezes itself this long after sending the last acknowledged renewal.
    pub hold: Duration,
    /// The service calls a node SUSPECT this long after hearing from it.
    pub suspect: Duration,
    /// The service may start to fence this long after hearing from a node.
    pub fencing: Duration,
}

impl LeaseTimers {
    /// R = 2 s, H = 8 s, SUSPECT = 10 s, F = 15 s.
    pub const DEFAULT: Self = Self {
        renew: Duration::from_secs(2),
        hold: Duration::from_secs(8),
        suspect: Duration::from_secs(10),
        fencing: Duration::from_secs(15),
    };
}

/// Makes a node known, or starts or resumes an incarnation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Join {
    /// Idempotency key.
    pub request: RequestId,
    /// Name of the node.
    pub name: Name,
    /// The boot that the daemon runs on.
    pub boot: BootId,
    /// The incarnation whose state the daemon has found on tmpfs.
    pub resume: Option<Incarnation>,
    /// Whether nothing of a former process of this boot is under way any more at LUNs that no array
    /// protects.
    pub is_drained: bool,
    /// The node's last session, as this process has read it since it started; 0 if the node is
    /// not known.
    pub last_session: SessionNumber,
}

/// What a daemon is told at its join.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Joined {
    /// Who it is now: what its calls carry.
    pub session: NodeSession,
    /// Whether it goes on under the incarnation that it asked to resume.
    pub resumed: bool,
    /// The timers of its lease.
    pub timers: LeaseTimers,
    /// The cluster: LUNs with labels of another are foreign.
    pub cluster: ClusterId,
    /// JOINING: it registers, and is activated then.
    pub state: NodeState,
}

/// Ends an incarnation gracefully.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Leave {
    /// Idempotency key.
    pub request: RequestId,
    /// Who goes.
    pub caller: NodeSession,
}
