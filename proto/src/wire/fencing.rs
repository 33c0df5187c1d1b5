//! Registrations and fences on the wire.

use lunar_types::LunId;

use super::{Checked, list, nested, parsed, required, selector, to_list};
use crate::domain::{
    Activate, AuditEntry, BeginFenceLun, CertifyPoweredOff, ConfirmRegistration, DrainNode,
    EndFenceLun, FENCE_LIST_MAX, Fence, FenceAttempt, FenceLun, FenceLunState, FenceNode,
    FenceOrder, FenceProof, IntendRegistrations, JudgeKeys, PoolFencing, REASON_BYTES_MAX, Renewed,
    UnfenceNode,
};
use crate::error::FieldError;
use crate::v1;

impl TryFrom<v1::PoolFencing> for PoolFencing {
    type Error = FieldError;

    fn try_from(wire: v1::PoolFencing) -> Checked<Self> {
        match wire {
            v1::PoolFencing::Reservations => Ok(Self::Reservations),
            v1::PoolFencing::Lease => Ok(Self::Lease),
            v1::PoolFencing::None => Ok(Self::None),
            v1::PoolFencing::Unspecified => Err(FieldError::missing("fencing")),
        }
    }
}

impl From<PoolFencing> for v1::PoolFencing {
    fn from(fencing: PoolFencing) -> Self {
        match fencing {
            PoolFencing::Reservations => Self::Reservations,
            PoolFencing::Lease => Self::Lease,
            PoolFencing::None => Self::None,
        }
    }
}

fn lun_ids(field: &str, wire: &[String]) -> Checked<Vec<LunId>> {
    no_more(field, wire.len())?;
    wire.iter().enumerate().map(|(at, id)| parsed(&format!("{field}[{at}]"), id)).collect()
}

fn no_more(field: &str, given: usize) -> Checked<()> {
    if given <= FENCE_LIST_MAX {
        return Ok(());
    }
    Err(FieldError::new(field, format_args!("{given} items are more than {FENCE_LIST_MAX}")))
}

pub(super) fn reason(text: String) -> Checked<String> {
    let is_plain = !text.chars().any(char::is_control);
    match text.len() {
        length if length > REASON_BYTES_MAX => {
            let problem = format_args!("{length} bytes are more than {REASON_BYTES_MAX}");
            Err(FieldError::new("reason", problem))
        }
        _ if !is_plain => Err(FieldError::new("reason", "it has control characters")),
        _ => Ok(text),
    }
}

impl TryFrom<v1::IntendRegistrationsRequest> for IntendRegistrations {
    type Error = FieldError;

    fn try_from(wire: v1::IntendRegistrationsRequest) -> Checked<Self> {
        let luns = lun_ids("lun_ids", &wire.lun_ids)?;
        Ok(Self { caller: nested("caller", wire.caller)?, luns })
    }
}

impl From<IntendRegistrations> for v1::IntendRegistrationsRequest {
    fn from(request: IntendRegistrations) -> Self {
        let lun_ids = request.luns.iter().map(LunId::to_string).collect();
        Self { caller: Some(request.caller.into()), lun_ids }
    }
}

impl TryFrom<v1::ConfirmRegistrationRequest> for ConfirmRegistration {
    type Error = FieldError;

    fn try_from(wire: v1::ConfirmRegistrationRequest) -> Checked<Self> {
        if wire.paths == 0 {
            return Err(FieldError::new("paths", "a key is registered on one path at least"));
        }
        let lun = parsed("lun_id", &wire.lun_id)?;
        Ok(Self { caller: nested("caller", wire.caller)?, lun, paths: wire.paths })
    }
}

impl From<ConfirmRegistration> for v1::ConfirmRegistrationRequest {
    fn from(request: ConfirmRegistration) -> Self {
        let ConfirmRegistration { caller, lun, paths } = request;
        Self { caller: Some(caller.into()), lun_id: lun.to_string(), paths }
    }
}

impl TryFrom<v1::ActivateRequest> for Activate {
    type Error = FieldError;

    fn try_from(wire: v1::ActivateRequest) -> Checked<Self> {
        let unseen = lun_ids("unseen_lun_ids", &wire.unseen_lun_ids)?;
        Ok(Self { caller: nested("caller", wire.caller)?, unseen })
    }
}

impl From<Activate> for v1::ActivateRequest {
    fn from(request: Activate) -> Self {
        let unseen_lun_ids = request.unseen.iter().map(LunId::to_string).collect();
        Self { caller: Some(request.caller.into()), unseen_lun_ids }
    }
}

impl TryFrom<v1::JudgeKeysRequest> for JudgeKeys {
    type Error = FieldError;

    fn try_from(wire: v1::JudgeKeysRequest) -> Checked<Self> {
        no_more("seen", wire.seen.len())?;
        Ok(Self { caller: nested("caller", wire.caller)?, seen: list("seen", wire.seen)? })
    }
}

impl From<JudgeKeys> for v1::JudgeKeysRequest {
    fn from(request: JudgeKeys) -> Self {
        Self { caller: Some(request.caller.into()), seen: to_list(request.seen) }
    }
}

impl TryFrom<v1::FenceOrder> for FenceOrder {
    type Error = FieldError;

    fn try_from(wire: v1::FenceOrder) -> Checked<Self> {
        let lun = parsed("lun_id", &wire.lun_id)?;
        Ok(Self { victim: nested("victim", wire.victim)?, lun })
    }
}

impl From<FenceOrder> for v1::FenceOrder {
    fn from(order: FenceOrder) -> Self {
        Self { victim: Some(order.victim.into()), lun_id: order.lun.to_string() }
    }
}

impl TryFrom<v1::BeginFenceLunRequest> for BeginFenceLun {
    type Error = FieldError;

    fn try_from(wire: v1::BeginFenceLunRequest) -> Checked<Self> {
        Ok(Self { caller: nested("caller", wire.caller)?, order: nested("order", wire.order)? })
    }
}

impl From<BeginFenceLun> for v1::BeginFenceLunRequest {
    fn from(request: BeginFenceLun) -> Self {
        Self { caller: Some(request.caller.into()), order: Some(request.order.into()) }
    }
}

fn attempt(field: &str, raw: u32) -> Checked<u32> {
    if raw == 0 { Err(FieldError::new(field, "attempts count from 1 on")) } else { Ok(raw) }
}

impl TryFrom<v1::BeginFenceLunResponse> for FenceAttempt {
    type Error = FieldError;

    fn try_from(wire: v1::BeginFenceLunResponse) -> Checked<Self> {
        let number = attempt("attempt", wire.attempt)?;
        Ok(Self { number, was_confirmed: wire.was_confirmed })
    }
}

impl From<FenceAttempt> for v1::BeginFenceLunResponse {
    fn from(begun: FenceAttempt) -> Self {
        Self { attempt: begun.number, was_confirmed: begun.was_confirmed }
    }
}

impl TryFrom<v1::FenceProof> for FenceProof {
    type Error = FieldError;

    fn try_from(wire: v1::FenceProof) -> Checked<Self> {
        match wire {
            v1::FenceProof::Aborted => Ok(Self::Aborted),
            v1::FenceProof::NeverRegistered => Ok(Self::NeverRegistered),
            v1::FenceProof::Waited => Ok(Self::Waited),
            v1::FenceProof::Certified => Ok(Self::Certified),
            v1::FenceProof::Unspecified => Err(FieldError::missing("proof")),
        }
    }
}

impl From<FenceProof> for v1::FenceProof {
    fn from(proof: FenceProof) -> Self {
        match proof {
            FenceProof::Aborted => Self::Aborted,
            FenceProof::NeverRegistered => Self::NeverRegistered,
            FenceProof::Waited => Self::Waited,
            FenceProof::Certified => Self::Certified,
        }
    }
}

impl TryFrom<v1::EndFenceLunRequest> for EndFenceLun {
    type Error = FieldError;

    fn try_from(wire: v1::EndFenceLunRequest) -> Checked<Self> {
        let proof = FenceProof::try_from(wire.proof())?;
        if proof == FenceProof::Certified {
            return Err(FieldError::new("proof", "only an operator certifies"));
        }
        Ok(Self {
            proof,
            attempt: attempt("attempt", wire.attempt)?,
            caller: nested("caller", wire.caller)?,
            order: nested("order", wire.order)?,
        })
    }
}

impl From<EndFenceLun> for v1::EndFenceLunRequest {
    fn from(request: EndFenceLun) -> Self {
        Self {
            caller: Some(request.caller.into()),
            order: Some(request.order.into()),
            attempt: request.attempt,
            proof: v1::FenceProof::from(request.proof).into(),
        }
    }
}

impl TryFrom<v1::FenceNodeRequest> for FenceNode {
    type Error = FieldError;

    fn try_from(wire: v1::FenceNodeRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            node: selector("node", wire.node)?,
            reason: reason(wire.reason)?,
            keeps_out: wire.keeps_out,
        })
    }
}

impl From<FenceNode> for v1::FenceNodeRequest {
    fn from(request: FenceNode) -> Self {
        let FenceNode { request, node, reason, keeps_out } = request;
        Self { request_id: request.to_string(), node: Some(node.into()), reason, keeps_out }
    }
}

impl TryFrom<v1::UnfenceNodeRequest> for UnfenceNode {
    type Error = FieldError;

    fn try_from(wire: v1::UnfenceNodeRequest) -> Checked<Self> {
        let request = parsed("request_id", &wire.request_id)?;
        Ok(Self { request, node: selector("node", wire.node)? })
    }
}

impl From<UnfenceNode> for v1::UnfenceNodeRequest {
    fn from(request: UnfenceNode) -> Self {
        Self { request_id: request.request.to_string(), node: Some(request.node.into()) }
    }
}

impl TryFrom<v1::DrainNodeRequest> for DrainNode {
    type Error = FieldError;

    fn try_from(wire: v1::DrainNodeRequest) -> Checked<Self> {
        let request = parsed("request_id", &wire.request_id)?;
        Ok(Self { request, node: selector("node", wire.node)?, drains: wire.drains })
    }
}

impl From<DrainNode> for v1::DrainNodeRequest {
    fn from(request: DrainNode) -> Self {
        let DrainNode { request, node, drains } = request;
        Self { request_id: request.to_string(), node: Some(node.into()), drains }
    }
}

impl TryFrom<v1::CertifyPoweredOffRequest> for CertifyPoweredOff {
    type Error = FieldError;

    fn try_from(wire: v1::CertifyPoweredOffRequest) -> Checked<Self> {
        if wire.reason.trim().is_empty() {
            return Err(FieldError::missing("reason"));
        }
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            node: selector("node", wire.node)?,
            confirm: parsed("confirm", &wire.confirm)?,
            reason: reason(wire.reason)?,
        })
    }
}

impl From<CertifyPoweredOff> for v1::CertifyPoweredOffRequest {
    fn from(request: CertifyPoweredOff) -> Self {
        let CertifyPoweredOff { request, node, confirm, reason } = request;
        Self {
            request_id: request.to_string(),
            node: Some(node.into()),
            confirm: confirm.to_string(),
            reason,
        }
    }
}

impl TryFrom<v1::FenceLun> for FenceLun {
    type Error = FieldError;

    fn try_from(wire: v1::FenceLun) -> Checked<Self> {
        let state = match wire.state() {
            v1::FenceLunState::Unspecified => return Err(FieldError::missing("state")),
            v1::FenceLunState::Open => FenceLunState::Open,
            v1::FenceLunState::Begun => FenceLunState::Begun {
                attempt: attempt("attempt", wire.attempt)?,
                fencer: nested("fencer", wire.fencer)?,
            },
            v1::FenceLunState::Done => FenceLunState::Done(wire.proof().try_into()?),
        };
        Ok(Self { lun: parsed("lun_id", &wire.lun_id)?, state })
    }
}

impl From<FenceLun> for v1::FenceLun {
    fn from(lun: FenceLun) -> Self {
        let wire = Self { lun_id: lun.lun.to_string(), ..Self::default() };
        match lun.state {
            FenceLunState::Open => Self { state: v1::FenceLunState::Open.into(), ..wire },
            FenceLunState::Begun { fencer, attempt } => Self {
                state: v1::FenceLunState::Begun.into(),
                fencer: Some(fencer.into()),
                attempt,
                ..wire
            },
            FenceLunState::Done(proof) => Self {
                state: v1::FenceLunState::Done.into(),
                proof: v1::FenceProof::from(proof).into(),
                ..wire
            },
        }
    }
}

impl TryFrom<v1::Fence> for Fence {
    type Error = FieldError;

    fn try_from(wire: v1::Fence) -> Checked<Self> {
        Ok(Self {
            victim: nested("victim", wire.victim)?,
            node_name: parsed("node_name", &wire.node_name)?,
            reason: wire.reason,
            luns: list("luns", wire.luns)?,
            waits_for: wire.waits_for,
        })
    }
}

impl From<Fence> for v1::Fence {
    fn from(fence: Fence) -> Self {
        Self {
            victim: Some(fence.victim.into()),
            node_name: fence.node_name.to_string(),
            reason: fence.reason,
            luns: to_list(fence.luns),
            waits_for: fence.waits_for,
        }
    }
}

impl TryFrom<v1::AuditEntry> for AuditEntry {
    type Error = FieldError;

    fn try_from(wire: v1::AuditEntry) -> Checked<Self> {
        Ok(Self {
            number: wire.number,
            unix_seconds: wire.unix_seconds,
            actor: wire.actor,
            action: parsed("action", &wire.action)?,
            object: wire.object,
            reason: wire.reason,
        })
    }
}

impl From<AuditEntry> for v1::AuditEntry {
    fn from(entry: AuditEntry) -> Self {
        Self {
            number: entry.number,
            unix_seconds: entry.unix_seconds,
            actor: entry.actor,
            action: entry.action.to_string(),
            object: entry.object,
            reason: entry.reason,
        }
    }
}

impl TryFrom<v1::HeartbeatResponse> for Renewed {
    type Error = FieldError;

    fn try_from(wire: v1::HeartbeatResponse) -> Checked<Self> {
        Ok(Self {
            state: wire.state().try_into()?,
            timers: required("timers", wire.timers)?.try_into()?,
            lun_generation: wire.lun_generation,
        })
    }
}

impl From<Renewed> for v1::HeartbeatResponse {
    fn from(renewed: Renewed) -> Self {
        Self {
            state: v1::NodeState::from(renewed.state).into(),
            timers: Some(renewed.timers.into()),
            lun_generation: renewed.lun_generation,
        }
    }
}
