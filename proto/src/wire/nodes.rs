//! Nodes and leases on the wire.

use std::time::Duration;

use lunar_types::{Incarnation, NodeId, SessionNumber};

use super::{Checked, nested, parsed, required};
use crate::domain::{Join, Joined, LeaseTimers, Leave, Node, NodeState};
use crate::error::FieldError;
use crate::v1;

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl TryFrom<v1::NodeState> for NodeState {
    type Error = FieldError;

    fn try_from(wire: v1::NodeState) -> Checked<Self> {
        match wire {
            v1::NodeState::Joining => Ok(Self::Joining),
            v1::NodeState::Active => Ok(Self::Active),
            v1::NodeState::Suspect => Ok(Self::Suspect),
            v1::NodeState::Fencing => Ok(Self::Fencing),
            v1::NodeState::Fenced => Ok(Self::Fenced),
            v1::NodeState::Left => Ok(Self::Left),
            v1::NodeState::Unspecified => Err(FieldError::missing("state")),
        }
    }
}

impl From<NodeState> for v1::NodeState {
    fn from(state: NodeState) -> Self {
        match state {
            NodeState::Joining => Self::Joining,
            NodeState::Active => Self::Active,
            NodeState::Suspect => Self::Suspect,
            NodeState::Fencing => Self::Fencing,
            NodeState::Fenced => Self::Fenced,
            NodeState::Left => Self::Left,
        }
    }
}

impl TryFrom<v1::LeaseTimers> for LeaseTimers {
    type Error = FieldError;

    fn try_from(wire: v1::LeaseTimers) -> Checked<Self> {
        let timer = |field: &str, millis: u32| match millis {
            0 => Err(FieldError::missing(field)),
            millis => Ok(Duration::from_millis(u64::from(millis))),
        };
        Ok(Self {
            renew: timer("renew_ms", wire.renew_ms)?,
            hold: timer("hold_ms", wire.hold_ms)?,
            suspect: timer("suspect_ms", wire.suspect_ms)?,
            fencing: timer("fencing_ms", wire.fencing_ms)?,
        })
    }
}

impl From<LeaseTimers> for v1::LeaseTimers {
    fn from(timers: LeaseTimers) -> Self {
        Self {
            renew_ms: millis(timers.renew),
            hold_ms: millis(timers.hold),
            suspect_ms: millis(timers.suspect),
            fencing_ms: millis(timers.fencing),
        }
    }
}

impl TryFrom<v1::Node> for Node {
    type Error = FieldError;

    fn try_from(wire: v1::Node) -> Checked<Self> {
        let id = u16::try_from(wire.node_id).ok().filter(|raw| *raw > 0);
        let id = required("node_id", id)?;
        Ok(Self {
            id: NodeId::new(id),
            name: parsed("name", &wire.name)?,
            incarnation: Incarnation::new(wire.incarnation),
            boot: parsed("boot_id", &wire.boot_id)?,
            state: wire.state().try_into()?,
            heard_ago: wire.heard_ago_ms.map(Duration::from_millis),
            attachments: wire.attachments,
            session: SessionNumber::new(wire.session),
            is_barred: wire.is_barred,
            is_draining: wire.is_draining,
        })
    }
}

impl From<Node> for v1::Node {
    fn from(node: Node) -> Self {
        let heard = node.heard_ago.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
        Self {
            node_id: u32::from(node.id.get()),
            name: node.name.to_string(),
            incarnation: node.incarnation.get(),
            boot_id: node.boot.to_string(),
            state: v1::NodeState::from(node.state).into(),
            heard_ago_ms: heard,
            attachments: node.attachments,
            session: node.session.get(),
            is_barred: node.is_barred,
            is_draining: node.is_draining,
        }
    }
}

impl TryFrom<v1::JoinRequest> for Join {
    type Error = FieldError;

    fn try_from(wire: v1::JoinRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            name: parsed("name", &wire.name)?,
            boot: parsed("boot_id", &wire.boot_id)?,
            resume: wire.resume.map(Incarnation::new),
            is_drained: wire.drained,
            last_session: SessionNumber::new(wire.last_session),
        })
    }
}

impl From<Join> for v1::JoinRequest {
    fn from(request: Join) -> Self {
        Self {
            request_id: request.request.to_string(),
            name: request.name.to_string(),
            boot_id: request.boot.to_string(),
            resume: request.resume.map(Incarnation::get),
            drained: request.is_drained,
            last_session: request.last_session.get(),
        }
    }
}

impl TryFrom<v1::JoinResponse> for Joined {
    type Error = FieldError;

    fn try_from(wire: v1::JoinResponse) -> Checked<Self> {
        Ok(Self {
            session: nested("session", wire.session)?,
            resumed: wire.resumed,
            timers: nested("timers", wire.timers)?,
            cluster: parsed("cluster_id", &wire.cluster_id)?,
            state: wire.state().try_into()?,
        })
    }
}

impl From<Joined> for v1::JoinResponse {
    fn from(joined: Joined) -> Self {
        Self {
            session: Some(joined.session.into()),
            resumed: joined.resumed,
            timers: Some(joined.timers.into()),
            cluster_id: joined.cluster.to_string(),
            state: v1::NodeState::from(joined.state).into(),
        }
    }
}

impl TryFrom<v1::LeaveRequest> for Leave {
    type Error = FieldError;

    fn try_from(wire: v1::LeaveRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            caller: nested("caller", wire.caller)?,
        })
    }
}

impl From<Leave> for v1::LeaveRequest {
    fn from(request: Leave) -> Self {
        Self { request_id: request.request.to_string(), caller: Some(request.caller.into()) }
    }
}
