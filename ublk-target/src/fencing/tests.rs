//! Stations and fencers against a modelled array.

use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::{FenceAttempt, FenceOrder, FenceProof, NodeState, PoolFencing};
use lunar_types::{ClusterId, Incarnation, LunId, NodeId, NodeIncarnation, RegistrationKey};

use super::fencer::DRAIN;
use super::*;
use crate::guard::{Admission, Authority, BootTime, Gate, LunGuard};
use crate::reservation::model::{ModelArray, ModelHost};
use crate::reservation::{Array, Finding, Kind, Step};
use crate::testing::{FakeMetadata, Said, unavailable};

const CLUSTER: ClusterId = ClusterId::from_u128(0xC1);
const LUN: LunId = LunId::from_u128(7);
const HOLD: Duration = Duration::from_secs(8);

fn incarnation(node: u16, incarnation: u32) -> NodeIncarnation {
    NodeIncarnation { node: NodeId::new(node), incarnation: Incarnation::new(incarnation) }
}

fn key(of: NodeIncarnation) -> RegistrationKey {
    RegistrationKey::of(CLUSTER, of)
}

struct Host {
    authority: Arc<Authority>,
    guard: Arc<LunGuard>,
    metadata: Arc<FakeMetadata>,
    array: Arc<ModelHost>,
    station: Arc<Station>,
}

fn host(array: &ModelArray, who: NodeIncarnation, paths: u32) -> Host {
    let authority = Arc::new(Authority::default());
    let guard = LunGuard::new(LUN, PoolFencing::Reservations, &authority);
    let metadata = Arc::new(FakeMetadata::default());
    let seen = array.host(who.node.get(), paths);
    let station = Arc::new(Station::new(StationParts {
        lun: LUN,
        guard: Arc::clone(&guard),
        array: Arc::clone(&seen) as Arc<dyn Array>,
        metadata: Arc::clone(&metadata) as _,
        authority: Arc::clone(&authority),
        node: who,
        cluster: CLUSTER,
    }));
    Host { authority, guard, metadata, array: seen, station }
}

fn order(victim: NodeIncarnation) -> FenceOrder {
    FenceOrder { victim, lun: LUN }
}

#[tokio::test]
async fn two_nodes_register_and_share_one_reservation() {
    let array = ModelArray::default();
    let (one, two) = (host(&array, incarnation(1, 1), 2), host(&array, incarnation(2, 1), 1));
    one.station.register().await.expect("registered");
    two.station.register().await.expect("registered");
    assert_eq!((one.guard.gate(), two.guard.gate()), (Gate::Open, Gate::Open));
    assert_eq!(one.metadata.said(), [Said::Confirm(LUN, 2)]);
    assert_eq!(array.keys().len(), 3);
    assert!(array.takes_write(1, 1) && array.takes_write(2, 0) && !array.takes_write(3, 0));
    let reserved = |(host, step): &(u16, Step)| (*step == Step::Reserve).then_some(*host);
    assert_eq!(array.log().iter().filter_map(reserved).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn the_gate_stays_closed_when_the_service_does_not_confirm() {
    let array = ModelArray::default();
    let one = host(&array, incarnation(1, 1), 1);
    one.metadata.expect_confirm([Err(unavailable())]);
    one.station.register().await.expect_err("not confirmed");
    assert!(matches!(one.guard.gate(), Gate::Frozen { .. }) && !one.guard.was_open());
    one.station.register().await.expect("registered");
    let registered = |(_, step): &&(u16, Step)| *step == Step::Register;
    assert_eq!(array.log().iter().filter(registered).count(), 2, "whatever is there already");
}

#[tokio::test]
async fn a_lun_of_somebody_else_is_left_alone() {
    for (spoil, expected) in [
        ((|array: &ModelArray| array.put_key(9, 0xABCD)) as fn(&ModelArray), "0x000000000000abcd"),
        (|array| array.put_reservation(Kind::Other(1)), "Write Exclusive"),
    ] {
        let array = ModelArray::default();
        spoil(&array);
        let one = host(&array, incarnation(1, 1), 1);
        let error = one.station.register().await.expect_err("it is somebody else's");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(matches!(one.guard.gate(), Gate::Frozen { .. }));
        let changed = |(_, step): &(u16, Step)| matches!(step, Step::Register | Step::Reserve);
        assert!(!array.log().iter().any(changed), "nothing was changed");
    }
}

#[tokio::test]
async fn keys_of_gone_incarnations_go_before_the_registration_is_confirmed() {
    let array = ModelArray::default();
    let (gone, live) = (incarnation(3, 4), incarnation(4, 1));
    host(&array, gone, 2).station.register().await.expect("registered");
    host(&array, live, 1).station.register().await.expect("registered");
    let one = host(&array, incarnation(1, 1), 1);
    one.metadata.set_gone(vec![gone]);
    one.station.register().await.expect("registered");
    assert!(!array.keys().contains(&key(gone).raw()));
    assert!(array.keys().contains(&key(live).raw()));

    let two = host(&array, incarnation(2, 1), 1);
    two.metadata.set_gone(vec![live]);
    // Look (two calls), register, look, judge: the sixth call is the preemption.
    array.fail_next(0);
    two.station.register().await.expect("registered");
    assert!(!array.keys().contains(&key(live).raw()));
}

#[tokio::test]
async fn half_the_paths_are_not_enough_and_are_named() {
    let array = ModelArray::default();
    let one = host(&array, incarnation(1, 1), 1);
    one.station.register().await.expect("registered");
    one.array.add_path();
    let sight = one.array.look().expect("it answers");
    let finding = Finding::PathsUnregistered { registered: 1, paths: 2 };
    assert_eq!(sight.finding(key(incarnation(1, 1))), finding);
    let text = StationError::Finding(finding).to_string();
    assert!(text.contains("1 of 2 paths"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_registration_is_made_again_only_after_the_service_has_said_so_and_drained() {
    let array = ModelArray::default();
    let one = host(&array, incarnation(1, 1), 1);
    one.authority.renewed(one.authority.begin_renewal(), HOLD);
    one.station.register().await.expect("registered");
    let way = one.guard.enlist(Box::new(|| {}));
    assert_eq!(way.enter(BootTime::now()), Admission::Begin);
    array.forget();
    let watching = Arc::clone(&one.station);
    tokio::spawn(async move { watching.watch().await });
    let registered = || {
        let is_it = |(_, step): &&(u16, Step)| *step == Step::Register;
        array.log().iter().filter(is_it).count()
    };
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(matches!(one.guard.gate(), Gate::Frozen { .. }), "the key is gone");
    one.authority.renewed(one.authority.begin_renewal(), HOLD);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(registered(), 1, "an I/O is under way");
    way.leave();
    wait_until(|| one.guard.gate() == Gate::Open).await;
    assert_eq!(registered(), 2);
    assert!(array.is_reserved());

    array.forget();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(registered(), 2, "the service has not answered since");
    one.authority.end();
    one.authority.renewed(one.authority.begin_renewal(), HOLD);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((registered(), one.guard.gate()), (2, Gate::Over));
}

async fn wait_until(condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never came true");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_there_vouches_for_reads_while_the_service_is_silent() {
    let array = ModelArray::default();
    let one = host(&array, incarnation(1, 1), 1);
    one.station.register().await.expect("registered");
    let way = one.guard.enlist(Box::new(|| {}));
    let read = || match way.delivery(BootTime::now()) {
        crate::guard::Delivery::Later(stamp) => stamp,
        crate::guard::Delivery::Now => panic!("there is no lease"),
    };
    let watching = Arc::clone(&one.station);
    tokio::spawn(async move { watching.watch().await });
    let stamp = read();
    wait_until(|| way.is_deliverable(stamp) == Admission::Begin).await;
    // Another node takes the key away.
    let two = host(&array, incarnation(2, 1), 1);
    two.station.register().await.expect("registered");
    let victim = incarnation(1, 1);
    two.metadata.expect_attempts([Ok(FenceAttempt { number: 1, was_confirmed: true })]);
    two.station.carry_out(order(victim)).await.expect("cut off");
    let stamp = read();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(way.is_deliverable(stamp), Admission::Wait, "nobody vouches for it any more");
}

#[tokio::test(start_paused = true)]
async fn a_victim_is_cut_off_and_the_proof_says_how() {
    let victim = incarnation(3, 1);
    for (is_there, was_confirmed, proof, waited) in [
        (true, true, FenceProof::Aborted, Duration::ZERO),
        (true, false, FenceProof::Aborted, Duration::ZERO),
        (false, false, FenceProof::NeverRegistered, Duration::ZERO),
        (false, true, FenceProof::Waited, DRAIN),
    ] {
        let array = ModelArray::default();
        if is_there {
            host(&array, victim, 2).station.register().await.expect("registered");
        }
        let one = host(&array, incarnation(1, 1), 1);
        one.station.register().await.expect("registered");
        one.metadata.expect_attempts([Ok(FenceAttempt { number: 4, was_confirmed })]);
        let begun = tokio::time::Instant::now();
        let state = one.station.carry_out(order(victim)).await.expect("cut off");
        assert_eq!(state, NodeState::Fenced);
        assert!(begun.elapsed() >= waited, "{proof}");
        assert!(!array.takes_write(3, 0) && !array.takes_write(3, 1));
        let said = one.metadata.said();
        assert_eq!(
            said[1..],
            [Said::BeginFence(order(victim)), Said::EndFence(order(victim), 4, proof)]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_of_a_unit_is_believed_once_the_unit_was_reset() {
    let victim = incarnation(3, 1);
    for (reset, proof, waited) in [
        (None, FenceProof::Aborted, Duration::ZERO),
        (Some(libc::ENOTTY), FenceProof::Aborted, Duration::ZERO),
        (Some(libc::EIO), FenceProof::Waited, DRAIN),
    ] {
        let array = ModelArray::default();
        host(&array, victim, 1).station.register().await.expect("registered");
        let one = host(&array, incarnation(1, 1), 1);
        one.station.register().await.expect("registered");
        one.metadata.expect_attempts([Ok(FenceAttempt { number: 1, was_confirmed: true })]);
        reset.into_iter().for_each(|errno| array.fail_reset(errno));
        let begun = tokio::time::Instant::now();
        one.station.carry_out(order(victim)).await.expect("cut off");
        assert!(begun.elapsed() >= waited, "{proof}");
        let said = one.metadata.said();
        assert_eq!(said.last(), Some(&Said::EndFence(order(victim), 1, proof)));
        let steps: Vec<Step> = array.log().into_iter().map(|(_, step)| step).collect();
        let place = |wanted| steps.iter().position(|step| *step == wanted).expect("it was asked");
        assert!(place(Step::PreemptAndAbort) < place(Step::Reset));
        let looked = steps.iter().rposition(|step| *step == Step::ReadKeys).expect("it looked");
        assert!(place(Step::Reset) < looked, "the proof is a look after the reset");
    }
}

#[tokio::test]
async fn nothing_is_proven_by_a_node_that_does_not_stand_there_itself() {
    let victim = incarnation(3, 1);
    let array = ModelArray::default();
    let one = host(&array, incarnation(1, 1), 1);
    one.station.register().await.expect("registered");
    let attempt = FenceAttempt { number: 1, was_confirmed: false };
    one.metadata.expect_attempts([Ok(attempt), Ok(attempt)]);
    // The target has lost its table: that the victim's key is not there says nothing.
    array.forget();
    let error = one.station.carry_out(order(victim)).await.expect_err("nothing is proven");
    assert!(matches!(error, StationError::Finding(Finding::PathsUnregistered { .. })), "{error}");
    array.put_key(1, key(incarnation(1, 1)).raw());
    let error = one.station.carry_out(order(victim)).await.expect_err("nothing is proven");
    assert!(matches!(error, StationError::Finding(Finding::Unprotected)), "{error}");
    assert!(!one.metadata.said().iter().any(|said| matches!(said, Said::EndFence(..))));
}

#[tokio::test(start_paused = true)]
async fn an_abort_that_fails_is_no_proof_and_the_next_attempt_waits() {
    let victim = incarnation(3, 1);
    let array = ModelArray::default();
    host(&array, victim, 1).station.register().await.expect("registered");
    let one = host(&array, incarnation(1, 1), 1);
    one.station.register().await.expect("registered");
    let attempt = |number| Ok(FenceAttempt { number, was_confirmed: true });
    one.metadata.expect_attempts([attempt(1), attempt(2)]);
    // The answer to the abort is lost: the key is gone, and nobody saw the commands end.
    one.array.preempt_and_abort(key(incarnation(1, 1)), key(victim)).expect("done");
    array.fail_next(1);
    one.station.carry_out(order(victim)).await.expect_err("the look failed");
    let begun = tokio::time::Instant::now();
    one.station.carry_out(order(victim)).await.expect("cut off");
    assert!(begun.elapsed() >= DRAIN);
    let end = Said::EndFence(order(victim), 2, FenceProof::Waited);
    assert_eq!(one.metadata.said().last(), Some(&end));
}

#[test]
#[should_panic(expected = "nobody takes its own key away")]
fn nobody_fences_itself() {
    let own = key(incarnation(1, 1));
    let _ = ModelArray::default().host(1, 1).preempt_and_abort(own, own);
}

#[test]
#[should_panic(expected = "another cluster")]
fn keys_of_another_cluster_are_never_touched() {
    let own = key(incarnation(1, 1));
    let other = RegistrationKey::of(ClusterId::from_u128(0xC2), incarnation(2, 1));
    let _ = ModelArray::default().host(1, 1).preempt_and_abort(own, other);
}
