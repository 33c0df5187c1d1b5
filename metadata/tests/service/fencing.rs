//! Registrations, fences and what they free: docs/fencing.md, the service's part.

use std::time::Duration;

use lunar_metadata::error::ServiceError;
use lunar_metadata::keyspace::{
    FenceLunKey, FenceLunRecord, KeyedTxn, LunRegistrationKey, RegistrationRecord,
};
use lunar_metadata::seams::block_on;
use lunar_metadata::service::Actor;
use lunar_metadata::store::{MetaStore, RedbStore, StoreError};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use super::world::*;

const ADA: Actor<'static> = Actor { name: "admin/ada", at: 77 };

/// A pool `p` with reservations, of two LUNs, and a volume in it.
struct Case {
    world: World,
    pool: Pool,
    volume: VolumeId,
}

impl Case {
    fn new() -> Self {
        Self::fenced(PoolFencing::Reservations)
    }

    fn fenced(fencing: PoolFencing) -> Self {
        let world = World::new();
        let pool = world.fenced_pool("p", ExtentSize::DEFAULT, &[1000, 1000], fencing);
        let volume = world.volume("v").id;
        Self { world, pool, volume }
    }

    fn luns(&self) -> Vec<LunId> {
        self.pool.luns.iter().map(|lun| lun.id).collect()
    }

    fn intend(&self, caller: NodeSession, luns: &[LunId]) -> Result<(), ServiceError> {
        let luns = luns.to_vec();
        block_on(self.world.service.intend_registrations(&IntendRegistrations { caller, luns }))
    }

    fn confirm(&self, caller: NodeSession, lun: LunId) -> Result<(), ServiceError> {
        let confirm = ConfirmRegistration { caller, lun, paths: 2 };
        block_on(self.world.service.confirm_registration(confirm))
    }

    fn activate(&self, caller: NodeSession, unseen: &[LunId]) -> Result<NodeState, ServiceError> {
        let unseen = unseen.to_vec();
        block_on(self.world.service.activate(&Activate { caller, unseen }))
    }

    fn register(&self, caller: NodeSession, luns: &[LunId]) {
        self.intend(caller, luns).expect("intended");
        luns.iter().for_each(|lun| self.confirm(caller, *lun).expect("confirmed"));
    }

    /// A node that has joined on a fresh boot, registered everywhere, and is ACTIVE.
    fn node(&self, node: &str) -> NodeSession {
        let caller = self.world.node(node);
        self.register(caller, &self.luns());
        assert_eq!(self.activate(caller, &[]).expect("activated"), NodeState::Active);
        caller
    }

    fn renew(&self, caller: NodeSession) -> Result<Renewed, ServiceError> {
        block_on(self.world.service.heartbeat(caller))
    }

    fn step(&self) {
        block_on(self.world.service.step_operations()).expect("a step");
    }

    /// Time goes by in steps of a second, while these renew and the service looks.
    fn pass(&self, seconds: u64, renewing: &[NodeSession]) {
        for _ in 0..seconds {
            self.world.clock.advance(Duration::from_secs(1));
            for caller in renewing {
                self.renew(*caller).expect("renewed");
            }
            self.step();
        }
    }

    fn orders(&self, caller: NodeSession) -> Vec<FenceOrder> {
        let watch = WatchNode {
            caller,
            structures: Vec::new(),
            members: Vec::new(),
            fences: Vec::new(),
            peers: Vec::new(),
            recalls: Vec::new(),
        };
        block_on(self.world.service.watch_node(&watch)).expect("news").fences
    }

    fn begin(&self, caller: NodeSession, order: FenceOrder) -> Result<FenceAttempt, ServiceError> {
        block_on(self.world.service.begin_fence_lun(BeginFenceLun { caller, order }))
    }

    fn end(
        &self,
        caller: NodeSession,
        order: FenceOrder,
        (attempt, proof): (u32, FenceProof),
    ) -> Result<NodeState, ServiceError> {
        let end = EndFenceLun { caller, order, attempt, proof };
        block_on(self.world.service.end_fence_lun(end))
    }

    /// Carries every order out that a node has.
    fn carry_out(&self, caller: NodeSession) {
        for order in self.orders(caller) {
            let attempt = self.begin(caller, order).expect("begun").number;
            self.end(caller, order, (attempt, FenceProof::Aborted)).expect("ended");
        }
    }

    fn state(&self, node: &str) -> NodeState {
        block_on(self.world.service.node(&Selector::Name(name(node)))).expect("known").state
    }

    fn fence(&self, node: &str, keeps_out: bool) -> Node {
        let (request, node) = (self.world.request(), Selector::Name(name(node)));
        let reason = "rack 7 is dark".to_owned();
        let fence = FenceNode { request, node, reason, keeps_out };
        block_on(self.world.service.fence_node(&fence, ADA)).expect("known")
    }

    fn certify(&self, node: &str, confirm: &str) -> Result<Node, ServiceError> {
        let certify = CertifyPoweredOff {
            request: self.world.request(),
            node: Selector::Name(name(node)),
            confirm: name(confirm),
            reason: "the plug is out".to_owned(),
        };
        block_on(self.world.service.certify_powered_off(&certify, ADA))
    }

    /// Changes the store behind the service's back.
    fn damage(&self, change: impl Fn(&<RedbStore as MetaStore>::Txn) + Send + Sync) {
        let change = &change;
        let done = self.world.service.store().transact(|txn| async move {
            change(&txn);
            Ok::<_, StoreError>(())
        });
        block_on(done).expect("damaged");
    }

    /// What the check says of registrations and fences, which is all that it finds.
    fn mismatches(&self, kind: &str) -> Vec<String> {
        let findings = self.world.findings();
        assert!(findings.iter().all(|it| it.kind == kind), "{findings:#?}");
        findings.into_iter().map(|it| it.message).collect()
    }

    fn judge(&self, caller: NodeSession, seen: &[NodeIncarnation]) -> Vec<NodeIncarnation> {
        let judge = JudgeKeys { caller, seen: seen.to_vec() };
        block_on(self.world.service.judge_keys(&judge)).expect("judged")
    }
}

#[test]
fn a_node_registers_at_every_lun_before_it_holds_anything() {
    let case = Case::new();
    let joined = case.world.join_as("a", 1, None).expect("joined");
    assert_eq!(joined.state, NodeState::Joining);
    let a = joined.session;
    let attach = || case.world.attach(case.volume, a);
    assert_eq!(kind(attach()), ErrorReason::NodeNotActive);
    assert_eq!(kind(case.world.reserve(a, case.pool.id, 1)), ErrorReason::NodeNotActive);
    assert_eq!(kind(case.confirm(a, case.luns()[0])), ErrorReason::LunNotFound, "not intended");
    assert_eq!(kind(case.intend(a, &[LunId::from_u128(9)])), ErrorReason::LunNotFound);
    case.intend(a, &case.luns()).expect("intended");
    assert_eq!(kind(case.activate(a, &[])), ErrorReason::LunNotRegistered, "not confirmed");
    case.confirm(a, case.luns()[0]).expect("confirmed");
    assert_eq!(kind(case.activate(a, &[])), ErrorReason::LunNotRegistered);
    case.confirm(a, case.luns()[1]).expect("confirmed");
    assert_eq!(case.activate(a, &[]).expect("activated"), NodeState::Active);
    case.intend(a, &case.luns()).expect("intended again");
    attach().expect("what is confirmed stays so");
    case.world.reserve(a, case.pool.id, 1).expect("reserved");
    case.world.assert_clean();
}

#[test]
fn a_lun_that_a_node_does_not_see_gives_it_neither_extents_nor_volumes() {
    let case = Case::new();
    let a = case.world.node("a");
    let [seen, unseen] = case.luns()[..] else { panic!("two LUNs") };
    case.register(a, &[seen]);
    case.activate(a, &[unseen]).expect("activated");
    let refused = case.world.attach(case.volume, a).expect_err("refused").to_string();
    assert!(refused.contains(&unseen.to_string()), "{refused}");
    let taken = case.world.extents(a, case.pool.id, 1024);
    assert!(taken.len() < 1000 && taken.iter().all(|extent| extent.lun == LunIndex::new(0)));
    case.register(a, &[unseen]);
    case.world.attach(case.volume, a).expect("granted");
    let b = case.world.node("b");
    case.activate(b, &case.luns()).expect("activated");
    assert_eq!(kind(case.world.reserve(b, case.pool.id, 1)), ErrorReason::LunNotRegistered);
    case.world.assert_clean();
}

#[test]
fn a_silent_node_is_cut_off_by_another_which_then_gets_its_volume() {
    let case = Case::new();
    let (a, b) = (case.node("a"), case.node("b"));
    let held = case.world.attach(case.volume, a).expect("granted");
    case.world.reserve(a, case.pool.id, 10).expect("reserved");
    case.pass(14, &[b]);
    assert_eq!(case.state("a"), NodeState::Suspect);
    assert!(case.orders(b).is_empty());
    case.pass(1, &[b]);
    assert_eq!(case.state("a"), NodeState::Fencing);
    let refused = case.world.attach(case.volume, b).expect_err("it is not cut off yet");
    assert!(refused.to_string().contains("being fenced"), "{refused}");
    for refused in [
        kind(case.renew(a)),
        kind(case.intend(a, &case.luns())),
        kind(case.confirm(a, case.luns()[0])),
        kind(case.world.reserve(a, case.pool.id, 1)),
        kind(case.world.detach(&held, DetachMode::KeepJournal)),
        kind(case.world.commit(&held, vec![hole(1)])),
    ] {
        assert_eq!(refused, ErrorReason::NodeFenced);
    }
    let orders = case.orders(b);
    assert_eq!(orders.len(), 2);
    let attempt = case.begin(b, orders[0]).expect("begun");
    assert_eq!(attempt, FenceAttempt { number: 1, was_confirmed: true });
    let ended = case.end(b, orders[0], (1, FenceProof::Aborted)).expect("ended");
    assert_eq!(ended, NodeState::Fencing, "one LUN is left");
    case.world.assert_clean();
    assert!(case.world.attach(case.volume, b).is_err(), "one LUN is left");
    case.begin(b, orders[1]).expect("begun");
    let ended = case.end(b, orders[1], (1, FenceProof::Waited)).expect("ended");
    assert_eq!(ended, NodeState::Fenced);
    assert_eq!(case.end(b, orders[1], (1, FenceProof::Waited)).ok(), Some(NodeState::Fenced));
    let taken = case.world.attach(case.volume, b).expect("granted");
    assert_eq!(taken.epoch, held.epoch.next());
    assert!(case.orders(b).is_empty());
    case.world.retire(&taken, held.epoch).expect("retired");
    case.world.settle();
    assert_eq!(case.world.status(case.pool.id).usage.reserved_extents, 0);
    case.world.assert_clean();
    let back = case.node("a");
    assert_eq!(back.node.incarnation.get(), 2);
    case.world.assert_clean();
}

#[test]
fn a_service_that_has_just_started_or_was_stopped_counts_nobodys_silence() {
    let mut case = Case::new();
    let (a, b) = (case.node("a"), case.node("b"));
    case.pass(14, &[b]);
    case.world.restart();
    case.pass(14, &[b]);
    assert_eq!(case.state("a"), NodeState::Suspect);
    // It is stopped for a minute: nobody could be heard.
    case.world.clock.advance(Duration::from_secs(60));
    case.step();
    assert_eq!(case.state("b"), NodeState::Active);
    case.pass(14, &[b]);
    assert_ne!(case.state("a"), NodeState::Fencing);
    case.renew(a).expect("it is not fenced");
    case.pass(15, &[b]);
    assert_eq!(case.state("a"), NodeState::Fencing);
}

#[test]
fn only_the_last_attempt_is_ended_and_only_by_who_may() {
    let case = Case::new();
    let (a, b, c) = (case.node("a"), case.node("b"), case.node("c"));
    let joining = case.world.node("d");
    case.fence("a", false);
    let order = FenceOrder { victim: a.node, lun: case.luns()[0] };
    assert_eq!(kind(case.begin(joining, order)), ErrorReason::NodeNotActive);
    assert_eq!(kind(case.begin(a, order)), ErrorReason::NodeFenced);
    let nobody = FenceOrder { victim: c.node, ..order };
    assert_eq!(kind(case.begin(b, nobody)), ErrorReason::FenceNotFound);
    assert_eq!(case.begin(b, order).expect("begun").number, 1);
    assert_eq!(case.begin(c, order).expect("begun").number, 2);
    let aborted = |attempt| (attempt, FenceProof::Aborted);
    assert_eq!(kind(case.end(b, order, aborted(1))), ErrorReason::StaleFenceAttempt);
    assert_eq!(kind(case.end(b, order, aborted(2))), ErrorReason::StaleFenceAttempt);
    let absent = (2, FenceProof::NeverRegistered);
    assert_eq!(kind(case.end(c, order, absent)), ErrorReason::InvalidField, "it was confirmed");
    case.end(c, order, aborted(2)).expect("ended");
    assert_eq!(kind(case.begin(b, order)), ErrorReason::FenceNotFound, "it is done");
    case.world.assert_clean();
}

#[test]
fn a_fencer_that_dies_is_replaced_and_the_fence_survives_a_restart() {
    let mut case = Case::new();
    let (a, b, c) = (case.node("a"), case.node("b"), case.node("c"));
    case.fence("a", false);
    let (of_b, of_c) = (case.orders(b), case.orders(c));
    assert_eq!(of_b.len() + of_c.len(), 2);
    let (first, second) = if of_b.is_empty() { (c, b) } else { (b, c) };
    for order in case.orders(first) {
        case.begin(first, order).expect("begun");
    }
    case.pass(8, &[second]);
    assert_eq!(case.orders(second).len(), 2, "the first is silent");
    case.world.restart();
    case.renew(second).expect("renewed");
    case.carry_out(second);
    assert_eq!(case.state("a"), NodeState::Fencing, "its lease may last");
    case.pass(9, &[second]);
    assert_eq!(case.state("a"), NodeState::Fenced);
    assert!(case.judge(second, &[a.node]).contains(&a.node));
    case.world.assert_clean();
}

#[test]
fn no_fence_ends_while_the_lease_of_its_victim_can_hold() {
    let case = Case::new();
    let (_a, b) = (case.node("a"), case.node("b"));
    case.fence("a", false);
    case.carry_out(b);
    assert_eq!(case.state("a"), NodeState::Fencing);
    case.pass(8, &[b]);
    assert_eq!(case.state("a"), NodeState::Fencing, "8 s on one clock may be 8.08 s on another");
    case.pass(1, &[b]);
    assert_eq!(case.state("a"), NodeState::Fenced);
}

#[test]
fn a_pool_without_fencing_is_freed_by_the_next_boot_or_an_operators_word() {
    let case = Case::new();
    case.world.fenced_pool("n", ExtentSize::DEFAULT, &[100], PoolFencing::None);
    let plain = case.world.create_in("n", "w", 1 << 30).expect("made").id;
    let (a, b) = (case.node("a"), case.node("b"));
    case.world.attach(plain, a).expect("granted");
    let pool = case.world.status_of("n").pool.id;
    case.world.reserve(a, pool, 7).expect("reserved");
    case.pass(15, &[b]);
    case.carry_out(b);
    assert_eq!(case.state("a"), NodeState::Fenced);
    let refused = case.world.attach(plain, b).expect_err("it may still write there").to_string();
    assert!(refused.contains("--certified-powered-off"), "{refused}");
    assert_eq!(kind(case.world.delete(plain)), ErrorReason::VolumeAttached);
    case.world.settle();
    assert_eq!(case.world.status(pool).usage.reserved_extents, 7, "it may still write there");
    case.world.assert_clean();
    assert_eq!(kind(case.certify("a", "b")), ErrorReason::InvalidField);
    assert_eq!(kind(case.certify("b", "b")), ErrorReason::NodeRenews);
    case.certify("a", "a").expect("certified");
    let taken = case.world.attach(plain, b).expect("granted");
    case.world.retire(&taken, Epoch::new(1)).expect("retired");
    case.world.settle();
    assert_eq!(case.world.status(pool).usage.reserved_extents, 0);
    let audit = block_on(case.world.service.audit(&PageRequest::first())).expect("a list").items;
    let [entry] = &audit[..] else { panic!("one entry: {audit:?}") };
    let told = (entry.actor.as_str(), entry.action.as_str(), entry.object.as_str());
    assert_eq!(told, ("admin/ada", "certify-powered-off", "a"));
    assert_eq!((entry.reason.as_str(), entry.unix_seconds), ("the plug is out", 77));
    case.world.assert_clean();
}

#[test]
fn a_pool_fenced_by_leases_is_freed_when_the_lease_has_run_out_twice_over() {
    let case = Case::fenced(PoolFencing::Lease);
    let joined = case.world.join_as("a", 1, None).expect("joined");
    assert_eq!(joined.state, NodeState::Active, "there is nothing to register at");
    let (a, b) = (joined.session, case.world.node("b"));
    case.world.attach(case.volume, a).expect("granted");
    case.pass(15, &[b]);
    assert_eq!(case.state("a"), NodeState::Fencing);
    case.pass(7, &[b]);
    assert_eq!(kind(case.world.attach(case.volume, b)), ErrorReason::VolumeAttached);
    case.pass(1, &[b]);
    assert_eq!(case.state("a"), NodeState::Fenced);
    case.world.attach(case.volume, b).expect("granted");
    case.world.assert_clean();
}

#[test]
fn the_next_boot_joins_when_the_former_one_is_cut_off() {
    let case = Case::new();
    let (a, b) = (case.node("a"), case.node("b"));
    case.world.attach(case.volume, a).expect("granted");
    let rejoin = || case.world.join_as("a", 999, None);
    assert_eq!(kind(rejoin()), ErrorReason::NodeAlive, "it was heard from just now");
    case.pass(8, &[b]);
    let refused = rejoin().expect_err("it is cut off first");
    assert_eq!(refused.kind(), ErrorReason::NodeFencing);
    assert_eq!(case.state("a"), NodeState::Fencing);
    case.carry_out(b);
    case.pass(1, &[b]);
    let back = rejoin().expect("joined");
    assert_eq!((back.session.node.incarnation.get(), back.state), (2, NodeState::Joining));
    assert_eq!(case.judge(b, &[a.node, back.session.node]), [a.node]);
    case.world.assert_clean();
}

#[test]
fn a_node_that_nobody_else_can_cut_off_does_it_itself_before_its_volumes_go() {
    let case = Case::new();
    let a = case.node("a");
    let held = case.world.attach(case.volume, a).expect("granted");
    case.pass(8, &[]);
    let back = case.world.join_as("a", 999, None).expect("nobody else can").session;
    assert_eq!(case.judge(back, &[a.node]), [], "it is not proven yet");
    case.world.assert_clean();
    case.register(back, &case.luns());
    case.activate(back, &[]).expect("activated");
    assert_eq!(kind(case.world.attach(case.volume, back)), ErrorReason::VolumeAttached);
    let orders = case.orders(back);
    assert_eq!(orders.len(), 2);
    case.carry_out(back);
    case.pass(1, &[back]);
    let taken = case.world.attach(case.volume, back).expect("granted");
    assert_eq!(taken.epoch, held.epoch.next());
    case.world.assert_clean();
}

#[test]
fn another_incarnation_on_the_same_boot_says_that_nothing_of_the_former_is_under_way() {
    let case = Case::fenced(PoolFencing::None);
    let a = case.world.join_as("a", 1, None).expect("joined").session;
    case.world.attach(case.volume, a).expect("granted");
    case.pass(15, &[]);
    let join = |is_drained| Join { is_drained, ..case.world.join_of("a", 1, None) };
    let send = |join: Join| block_on(case.world.service.join(&join));
    assert_eq!(kind(send(join(false))), ErrorReason::NodeUndrained);
    let other_boot = Join { boot: BootId::from_u128(2), ..join(false) };
    let b = case.world.node("b");
    assert_eq!(kind(case.world.attach(case.volume, b)), ErrorReason::VolumeAttached);
    send(other_boot).expect("another boot has ended everything");
    case.world.attach(case.volume, b).expect("granted");
    case.world.assert_clean();
}

#[test]
fn a_barred_node_joins_only_when_it_is_let() {
    let case = Case::new();
    let (_a, b) = (case.node("a"), case.node("b"));
    assert!(case.fence("a", true).is_barred);
    case.carry_out(b);
    case.pass(9, &[b]);
    assert_eq!(kind(case.world.join_as("a", 5, None)), ErrorReason::NodeBarred);
    let (request, node) = (case.world.request(), Selector::Name(name("a")));
    let unfence = UnfenceNode { request, node };
    let node = block_on(case.world.service.unfence_node(&unfence, ADA)).expect("let in");
    assert!(!node.is_barred);
    case.node("a");
    let audit = block_on(case.world.service.audit(&PageRequest::first())).expect("a list").items;
    let actions: Vec<_> = audit.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["fence-node", "unfence-node"]);
    case.world.assert_clean();
}

#[test]
fn keys_are_judged_by_what_their_incarnations_have_become() {
    let case = Case::new();
    let (a, b) = (case.node("a"), case.node("b"));
    let future = NodeIncarnation { incarnation: Incarnation::new(7), ..a.node };
    let stranger = NodeIncarnation { node: NodeId::new(77), ..a.node };
    let seen = [a.node, b.node, future, stranger];
    assert_eq!(case.judge(b, &seen), []);
    let (request, caller) = (case.world.request(), a);
    block_on(case.world.service.leave(&Leave { request, caller })).expect("left");
    assert_eq!(case.judge(b, &seen), [a.node], "nobody takes its own key away");
    let back = case.node("a");
    case.fence("a", false);
    assert_eq!(case.judge(b, &[a.node, back.node]), [a.node], "a fence takes the other away");
    case.world.assert_clean();
}

#[test]
fn a_fence_that_nobody_can_carry_out_says_what_it_waits_for() {
    let case = Case::new();
    let _a = case.node("a");
    case.fence("a", false);
    let fences = || block_on(case.world.service.fences(&PageRequest::first())).expect("a list");
    let [fence] = &fences().items[..] else { panic!("one fence") };
    assert!(fence.waits_for.contains(&case.luns()[0].to_string()), "{}", fence.waits_for);
    assert!(fence.reason.contains("admin/ada: rack 7 is dark"), "{}", fence.reason);
    assert_eq!(fence.luns.len(), 2);
    let b = case.node("b");
    let [fence] = &fences().items[..] else { panic!("one fence") };
    assert_eq!(fence.waits_for, "");
    case.carry_out(b);
    case.pass(9, &[b]);
    assert!(fences().items.is_empty());
}

#[test]
fn the_check_finds_a_complete_fence_that_left_a_lun_open() {
    let case = Case::new();
    let (a, b) = (case.node("a"), case.node("b"));
    case.pass(15, &[b]);
    case.carry_out(b);
    assert_eq!(case.state("a"), NodeState::Fenced);
    case.world.assert_clean();
    let NodeIncarnation { node, incarnation } = a.node;
    let lun = case.luns()[1];
    for state in [FenceLunState::Open, FenceLunState::Begun { fencer: b.node, attempt: 1 }] {
        let row = FenceLunRecord { was_confirmed: true, state, attempts: 1 };
        case.damage(|txn| txn.put(&FenceLunKey { node, incarnation, lun }, &row));
        let [found] = &case.mismatches("fence-mismatch")[..] else { panic!("one finding") };
        assert!(found.contains(&format!("cut off from LUN {lun}")), "{found}");
    }
}

#[test]
fn the_check_finds_a_holder_that_is_not_confirmed_where_it_may_write() {
    let case = Case::new();
    let a = case.node("a");
    let held = case.world.attach(case.volume, a).expect("granted");
    let journal = held.journal[0].first().lun;
    case.world.assert_clean();
    let at = |lun: LunId| LunRegistrationKey { lun, node: a.node.node };
    let intended = RegistrationRecord { incarnation: a.node.incarnation, paths: 0 };
    let [first, second] = case.luns()[..] else { panic!("two LUNs") };
    let (own, other) = if journal == LunIndex::new(0) { (first, second) } else { (second, first) };
    let unconfirm = |lun: LunId| case.damage(|txn| txn.put(&at(lun), &intended));
    let only_finding = |lun: LunId, why: &str| {
        let [found] = &case.mismatches("registration-mismatch")[..] else { panic!("one finding") };
        assert!(found.contains(&format!("LUN {lun}, {why}")), "{found}");
    };
    unconfirm(other);
    case.world.assert_clean();
    unconfirm(own);
    assert_eq!(case.mismatches("registration-mismatch").len(), 2, "it is confirmed nowhere");
    case.confirm(a, other).expect("confirmed");
    only_finding(own, "where its journal is");
    let extent = case.world.extents(a, case.pool.id, 1)[0];
    assert_ne!(extent.lun, journal, "it gets none where it is not confirmed");
    case.confirm(a, own).expect("confirmed");
    unconfirm(other);
    only_finding(other, "where it has reserved extents");
    case.confirm(a, other).expect("confirmed");
    case.world.commit(&held, vec![solid(0, extent)]).expect("mapped");
    unconfirm(other);
    only_finding(other, "where blocks of the volume are");
}

#[test]
fn a_holder_need_not_be_confirmed_at_a_lun_that_joins_its_pool() {
    let case = Case::new();
    let a = case.node("a");
    case.world.attach(case.volume, a).expect("granted");
    let (request, pool) = (case.world.request(), Selector::Id(case.pool.id));
    let added = LunId::from_u128(77);
    let add = AddLuns { request, pool, luns: vec![lun(77, 12 * MIB)] };
    block_on(case.world.service.add_luns(&add)).expect("added");
    case.world.assert_clean();
    case.intend(a, &[added]).expect("intended");
    case.world.assert_clean();
    case.confirm(a, added).expect("confirmed");
    case.world.assert_clean();
}
