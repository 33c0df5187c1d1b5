//! Registrations and fences.

use super::*;

pub(super) fn order() -> FenceOrder {
    FenceOrder { victim: node(), lun: LunId::from_u128(9) }
}

fn at_node() -> Selector<NodeId> {
    Selector::Name("n1".parse().expect("a name"))
}

#[test]
fn what_nodes_say_survives_the_wire() {
    let luns = vec![LunId::from_u128(9), LunId::from_u128(10)];
    survives::<_, v1::IntendRegistrationsRequest>(IntendRegistrations {
        caller: caller(),
        luns: luns.clone(),
    });
    let lun = LunId::from_u128(9);
    survives::<_, v1::ConfirmRegistrationRequest>(ConfirmRegistration {
        caller: caller(),
        lun,
        paths: 4,
    });
    survives::<_, v1::ActivateRequest>(Activate { caller: caller(), unseen: luns });
    survives::<_, v1::JudgeKeysRequest>(JudgeKeys { caller: caller(), seen: vec![node()] });
    let begin = BeginFenceLun { caller: caller(), order: order() };
    survives::<_, v1::BeginFenceLunRequest>(begin);
    for was_confirmed in [false, true] {
        survives::<_, v1::BeginFenceLunResponse>(FenceAttempt { number: 3, was_confirmed });
    }
    for proof in [FenceProof::Aborted, FenceProof::NeverRegistered, FenceProof::Waited] {
        let (caller, order) = (caller(), order());
        survives::<_, v1::EndFenceLunRequest>(EndFenceLun { caller, order, attempt: 3, proof });
    }
    survives::<_, v1::HeartbeatResponse>(Renewed {
        state: NodeState::Active,
        timers: LeaseTimers::DEFAULT,
        lun_generation: 7,
    });
}

#[test]
fn what_operators_say_and_see_survives_the_wire() {
    let reason = "rack 7 is dark".to_owned();
    survives::<_, v1::FenceNodeRequest>(FenceNode {
        keeps_out: true,
        request: REQUEST,
        node: at_node(),
        reason: reason.clone(),
    });
    survives::<_, v1::UnfenceNodeRequest>(UnfenceNode { request: REQUEST, node: at_node() });
    survives::<_, v1::CertifyPoweredOffRequest>(CertifyPoweredOff {
        request: REQUEST,
        node: at_node(),
        confirm: "n1".parse().expect("a name"),
        reason: reason.clone(),
    });
    let proofs = [FenceProof::Aborted, FenceProof::Waited, FenceProof::Certified];
    let done = proofs.into_iter().map(FenceLunState::Done);
    let states = [FenceLunState::Open, FenceLunState::Begun { fencer: node(), attempt: 2 }];
    let lun = |state| FenceLun { lun: LunId::from_u128(9), state };
    survives::<_, v1::Fence>(Fence {
        victim: node(),
        node_name: "n1".parse().expect("a name"),
        reason: reason.clone(),
        luns: states.into_iter().chain(done).map(lun).collect(),
        waits_for: "a node that sees LUN 9".to_owned(),
    });
    survives::<_, v1::AuditEntry>(AuditEntry {
        number: 4,
        unix_seconds: 1_700_000_000,
        actor: "admin/a".to_owned(),
        action: "certify-powered-off".parse().expect("a name"),
        object: "n1".to_owned(),
        reason,
    });
}

#[test]
fn a_bad_field_of_a_fence_is_named() {
    let (caller, order) = (caller(), order());
    let end = EndFenceLun { caller, order, attempt: 1, proof: FenceProof::Aborted };
    let good = v1::EndFenceLunRequest::from(end);
    let field = |spoil: fn(&mut v1::EndFenceLunRequest)| bad_field::<_, EndFenceLun>(&good, spoil);
    assert_eq!(field(|wire| wire.attempt = 0), "attempt");
    assert_eq!(field(|wire| wire.proof = 0), "proof");
    assert_eq!(field(|wire| wire.proof = v1::FenceProof::Certified.into()), "proof");
    assert_eq!(field(|wire| wire.order = None), "order");
    let good = v1::CertifyPoweredOffRequest::from(CertifyPoweredOff {
        request: REQUEST,
        node: at_node(),
        confirm: "n1".parse().expect("a name"),
        reason: "dark".to_owned(),
    });
    let field = |spoil: fn(&mut v1::CertifyPoweredOffRequest)| {
        bad_field::<_, CertifyPoweredOff>(&good, spoil)
    };
    assert_eq!(field(|wire| wire.reason = "x".repeat(201)), "reason");
    assert_eq!(field(|wire| wire.reason = " ".to_owned()), "reason");
    assert_eq!(field(|wire| wire.reason = "a\nb".to_owned()), "reason");
    let many = v1::IntendRegistrationsRequest {
        caller: Some(caller.into()),
        lun_ids: vec![LunId::from_u128(9).to_string(); FENCE_LIST_MAX],
    };
    let field = |spoil: fn(&mut v1::IntendRegistrationsRequest)| {
        bad_field::<_, IntendRegistrations>(&many, spoil)
    };
    assert_eq!(field(|wire| wire.lun_ids.push(String::new())), "lun_ids");
    assert_eq!(field(|wire| wire.lun_ids[7].clear()), "lun_ids[7]");
}

#[test]
fn the_words_of_fencing_are_those_of_the_command_line() {
    for fencing in [PoolFencing::Reservations, PoolFencing::Lease, PoolFencing::None] {
        assert_eq!(fencing.as_str().parse(), Ok(fencing));
    }
    let error = "scsi".parse::<PoolFencing>().expect_err("no such kind").to_string();
    assert!(error.contains("'scsi'") && error.contains("reservations, lease or none"), "{error}");
}

#[test]
fn revocations_survive_the_wire_and_odd_ones_are_named() {
    use crate::domain::{CertSerial, RevokeCertificate, RevokedCertificate};
    let serial: CertSerial = "0a1b".parse().expect("a number");
    let asked = RevokeCertificate { serial: serial.clone(), reason: "lost".to_owned() };
    let wire = v1::RevokeCertificateRequest::from(asked.clone());
    assert_eq!(RevokeCertificate::try_from(wire.clone()), Ok(asked));
    let shown = RevokedCertificate { serial, reason: String::new(), revoked_unix_seconds: 7 };
    let list = v1::ListRevokedResponse::from(vec![shown.clone()]);
    assert_eq!(Vec::<RevokedCertificate>::try_from(list), Ok(vec![shown]));
    let odd = v1::RevokeCertificateRequest { serial: "0".to_owned(), ..wire.clone() };
    let error = RevokeCertificate::try_from(odd).expect_err("no number");
    assert_eq!(error.field(), "serial");
    let long = v1::RevokeCertificateRequest { reason: "x".repeat(257), ..wire };
    let error = RevokeCertificate::try_from(long).expect_err("too long");
    assert_eq!(error.field(), "reason");
}
