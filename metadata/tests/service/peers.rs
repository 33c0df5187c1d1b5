//! Volumes that two nodes have together: docs/migration.md, the service's part.

use std::time::Duration;

use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;
use proptest::prelude::*;

use super::world::*;

/// Nodes A and B, and a volume in a pool without fencing.
struct Case {
    world: World,
    pool: Pool,
    volume: VolumeId,
    a: NodeSession,
    b: NodeSession,
}

use OwnershipWish::{None as Look, Urgent, Waiting};

impl Case {
    fn with_extents(extents: u64) -> Self {
        let world = World::new();
        let pool = world.pool(extents);
        let volume = world.volume("v").id;
        let (a, b) = (world.node("a"), world.node("b"));
        Self { world, pool, volume, a, b }
    }

    fn new() -> Self {
        Self::with_extents(100)
    }

    /// Both nodes are peers.
    fn shared() -> Self {
        let case = Self::new();
        case.add(case.a).expect("a peer");
        case.add(case.b).expect("a peer");
        case
    }

    fn add(&self, caller: NodeSession) -> Result<Volume, ServiceError> {
        let volume = Selector::Id(self.volume);
        let add = AddPeer {
            volume,
            caller,
            understands_layers: true,
            accept_restored: false,
            publication: None,
        };
        block_on(self.world.service.add_peer(&add))
    }

    fn ask(&self, caller: NodeSession, wish: OwnershipWish) -> Result<Ownership, ServiceError> {
        let request = RequestOwnership { volume: self.volume, caller, wish };
        block_on(self.world.service.request_ownership(request))
    }

    fn owned(&self, caller: NodeSession) -> Attachment {
        match self.ask(caller, Waiting).expect("asked") {
            Ownership::Owned(attachment) => *attachment,
            other => panic!("{other:?}"),
        }
    }

    fn is_waiting(&self, caller: NodeSession) -> bool {
        matches!(self.ask(caller, Waiting), Ok(Ownership::Waiting(_) | Ownership::Unowned))
    }

    fn release_as(&self, held: &Attachment, mode: DetachMode) -> Result<(), ServiceError> {
        let now = self.world.resumed(held).unwrap_or_else(|_| held.clone());
        block_on(self.world.service.release_ownership(&ReleaseOwnership {
            request: self.world.request(),
            volume: self.volume,
            epoch: held.epoch,
            caller: self.world.caller_of(held),
            mode,
            last_commit: now.last_commit,
        }))
    }

    fn release(&self, held: &Attachment) {
        self.release_as(held, DetachMode::Clean).expect("released");
    }

    fn leave(&self, caller: NodeSession) -> Result<(), ServiceError> {
        block_on(self.world.service.leave_peers(LeavePeers { volume: self.volume, caller }))
    }

    fn take_off(&self, node: &str) -> Result<(), ServiceError> {
        let (volume, node) = (Selector::Id(self.volume), Selector::Name(name(node)));
        block_on(self.world.service.remove_peer(&RemovePeer { volume, node }))
    }

    fn view(&self) -> Volume {
        block_on(self.world.service.volume(&Selector::Id(self.volume))).expect("there")
    }

    fn wish_told_to(&self, caller: NodeSession) -> Option<OwnershipWish> {
        let watch = WatchNode {
            caller,
            structures: vec![],
            members: vec![],
            fences: vec![],
            peers: vec![],
            recalls: vec![],
        };
        let news = block_on(self.world.service.watch_node(&watch)).expect("news");
        news.peers.iter().find(|peer| peer.volume == self.volume).map(|peer| peer.wish)
    }

    fn free_extents(&self) -> u64 {
        let usage = self.world.status(self.pool.id).usage;
        usage.total_extents - usage.allocated_extents
    }

    fn pass(&self, seconds: u64) {
        self.world.clock.advance(Duration::from_secs(seconds));
    }

    /// A later process of the same incarnation.
    fn restarted(&self, node: &str, boot: u128, of: NodeSession) -> NodeSession {
        let resume = Some(of.node.incarnation.get());
        self.world.join_as(node, boot, resume).expect("resumed").session
    }

    fn check(&self) {
        self.world.assert_clean();
    }
}

#[test]
fn ownership_moves_with_an_epoch_of_its_own_and_never_has_two() {
    let case = Case::shared();
    let first = case.owned(case.a);
    assert!(case.is_waiting(case.b));
    assert_eq!(case.wish_told_to(case.a), Some(Waiting));
    assert_eq!(case.wish_told_to(case.b), Some(Look), "it owns nothing");
    case.release(&first);
    let second = case.owned(case.b);
    assert_eq!(second.epoch, first.epoch.next());
    assert!(case.is_waiting(case.a));
    assert_eq!(kind(case.world.commit(&first, vec![])), ErrorReason::StaleEpoch);
    let view = case.view();
    assert_eq!((view.peers.len(), view.moves), (2, 2));
    assert_eq!(view.holder.expect("held").node, case.b.node);
    assert_eq!(view.peers.iter().filter(|peer| peer.wishes).count(), 1);
    case.check();
}

#[test]
fn who_owns_it_already_is_given_the_same_grant_again() {
    let case = Case::shared();
    let held = case.owned(case.a);
    for wish in [Look, Waiting, Urgent] {
        let Ok(Ownership::Owned(again)) = case.ask(case.a, wish) else { panic!("owned") };
        assert_eq!(again.epoch, held.epoch);
    }
    assert_eq!(case.view().moves, 1);
}

#[test]
fn a_look_neither_takes_a_volume_nor_notes_a_wish() {
    let case = Case::shared();
    assert!(matches!(case.ask(case.a, Look), Ok(Ownership::Unowned)));
    let held = case.owned(case.a);
    assert!(matches!(case.ask(case.b, Look), Ok(Ownership::Waiting(_))));
    assert_eq!(case.wish_told_to(case.a), Some(Look));
    case.release(&held);
    assert!(matches!(case.ask(case.b, Look), Ok(Ownership::Unowned)));
}

#[test]
fn who_has_asked_first_gets_it_for_a_second_and_then_whoever_asks() {
    let case = Case::shared();
    let held = case.owned(case.a);
    assert!(case.is_waiting(case.b));
    case.release(&held);
    assert!(case.is_waiting(case.a), "the other one asked first");
    case.pass(1);
    assert_eq!(case.owned(case.a).epoch, held.epoch.next(), "it did not come");
}

#[test]
fn a_wish_is_over_when_it_is_not_repeated_or_its_process_is_gone() {
    let case = Case::new();
    let boot = 0xB007;
    let c = case.world.boot_as("c", boot);
    case.add(case.a).expect("a peer");
    case.add(c).expect("a peer");
    let held = case.owned(case.a);
    assert!(case.is_waiting(c));
    assert_eq!(case.wish_told_to(case.a), Some(Waiting));
    case.pass(10);
    assert_eq!(case.wish_told_to(case.a), Some(Look), "it was not repeated");
    assert!(case.is_waiting(c));
    assert_eq!(case.wish_told_to(case.a), Some(Waiting));
    let c = case.restarted("c", boot, c);
    assert_eq!(case.wish_told_to(case.a), Some(Look), "its process is gone");
    case.release(&held);
    assert_eq!(case.owned(case.a).node, case.a.node, "nobody else wants it");
    assert!(matches!(case.ask(c, Urgent), Ok(Ownership::Waiting(_))));
    assert_eq!(case.wish_told_to(case.a), Some(Urgent));
}

#[test]
fn a_volume_is_held_alone_or_shared_by_two_and_nothing_else() {
    let case = Case::new();
    let held = case.world.attach(case.volume, case.a).expect("attached");
    assert_eq!(kind(case.add(case.b)), ErrorReason::VolumeAttached);
    assert_eq!(kind(case.add(case.a)), ErrorReason::VolumeAttached);
    case.world.detach(&held, DetachMode::Clean).expect("detached");
    case.add(case.a).expect("a peer");
    case.add(case.a).expect("the same again");
    case.add(case.b).expect("a peer");
    let c = case.world.node("c");
    assert_eq!(kind(case.add(c)), ErrorReason::PeersFull);
    let snapshot = case.world.cut(case.volume, "s").expect("nobody owns it").id;
    for held in [None, Some(case.owned(case.a))] {
        assert_eq!(kind(case.world.attach(case.volume, c)), ErrorReason::VolumeShared);
        assert_eq!(kind(case.world.delete(case.volume)), ErrorReason::VolumeShared);
        assert_eq!(kind(case.world.roll_back(case.volume, snapshot)), ErrorReason::VolumeShared);
        held.iter().for_each(|held| case.release(held));
    }
    assert_eq!(kind(case.ask(c, Waiting)), ErrorReason::PeerNotFound);
    case.leave(case.a).expect("left");
    case.leave(case.a).expect("the same again");
    case.take_off("b").expect("taken off");
    assert_eq!(kind(case.take_off("b")), ErrorReason::PeerNotFound);
    assert_eq!(case.view().peers, []);
    case.world.attach(case.volume, c).expect("alone again");
    case.check();
}

#[test]
fn an_owner_neither_leaves_nor_is_taken_off_it_detaches() {
    let case = Case::shared();
    let held = case.owned(case.a);
    assert_eq!(kind(case.leave(case.a)), ErrorReason::PeerOwns);
    assert_eq!(kind(case.take_off("a")), ErrorReason::PeerOwns);
    case.world.detach(&held, DetachMode::Clean).expect("detached");
    assert_eq!(case.view().peers.len(), 1);
    case.check();
    case.owned(case.b);
    case.check();
}

#[test]
fn the_journal_stays_with_the_volume_when_the_pool_is_full() {
    let case = Case::with_extents(40);
    case.add(case.a).expect("a peer");
    case.add(case.b).expect("a peer");
    let held = case.owned(case.a);
    assert!(case.is_waiting(case.b));
    case.release(&held);
    while case.world.reserve(case.a, case.pool.id, 1).is_ok() {}
    assert_eq!(case.free_extents(), 0);
    let second = case.owned(case.b);
    assert_eq!(second.journal, held.journal);
    case.check();
}

#[test]
fn the_last_peer_frees_the_journal_that_was_kept() {
    let case = Case::shared();
    let free = case.free_extents();
    let held = case.owned(case.a);
    case.release(&held);
    case.check();
    assert!(case.free_extents() < free, "the next owner's journal");
    case.leave(case.a).expect("left");
    case.leave(case.b).expect("left");
    assert_eq!(case.free_extents(), free);
    case.check();
}

#[test]
fn a_clean_release_says_what_was_committed_last() {
    let case = Case::shared();
    let held = case.owned(case.a);
    case.world.commit(&held, vec![]).expect("committed");
    let release = |last_commit| {
        block_on(case.world.service.release_ownership(&ReleaseOwnership {
            request: case.world.request(),
            volume: case.volume,
            epoch: held.epoch,
            caller: case.a,
            mode: DetachMode::Clean,
            last_commit: CommitNumber::new(last_commit),
        }))
    };
    assert_eq!(kind(release(0)), ErrorReason::CommitOutOfOrder);
    assert_eq!(kind(release(2)), ErrorReason::CommitOutOfOrder);
    release(1).expect("released");
    assert_eq!(kind(release(1)), ErrorReason::NotAttached);
}

#[test]
fn a_release_sent_again_is_answered_again_and_ends_no_later_grant() {
    let case = Case::shared();
    let held = case.owned(case.a);
    let release = ReleaseOwnership {
        request: case.world.request(),
        volume: case.volume,
        epoch: held.epoch,
        caller: case.a,
        mode: DetachMode::Clean,
        last_commit: CommitNumber::default(),
    };
    for _ in 0..2 {
        block_on(case.world.service.release_ownership(&release)).expect("released");
    }
    let second = case.owned(case.b);
    block_on(case.world.service.release_ownership(&release)).expect("answered as before");
    case.world.resumed(&second).expect("still owned");
}

#[test]
fn a_release_that_keeps_its_journal_leaves_it_to_the_next_owner() {
    let case = Case::shared();
    let held = case.owned(case.a);
    let confirm =
        CommitMap { checkpoint: Some(JournalSeq::new(1)), ..case.world.commit_of(&held, vec![]) };
    block_on(case.world.service.commit_map(&confirm)).expect("confirmed");
    case.release_as(&held, DetachMode::KeepJournal).expect("released");
    let second = case.owned(case.b);
    let stale: Vec<_> = second.stale_journals.iter().map(|stale| stale.epoch).collect();
    assert_eq!(stale, [held.epoch]);
    assert_eq!(
        kind(case.release_as(&second, DetachMode::Clean)),
        ErrorReason::StaleJournals,
        "it was not replayed"
    );
    case.check();
}

/// B could not serve it: its own journal is unused, and stays with the volume.
#[test]
fn a_grant_that_came_to_nothing_leaves_a_journal_to_the_next_one_on_a_full_pool() {
    let case = Case::with_extents(40);
    case.add(case.a).expect("a peer");
    case.add(case.b).expect("a peer");
    let held = case.owned(case.a);
    let confirm =
        CommitMap { checkpoint: Some(JournalSeq::new(1)), ..case.world.commit_of(&held, vec![]) };
    block_on(case.world.service.commit_map(&confirm)).expect("confirmed");
    case.release_as(&held, DetachMode::KeepJournal).expect("released");
    let second = case.owned(case.b);
    while case.world.reserve(case.a, case.pool.id, 1).is_ok() {}
    assert_eq!(kind(case.release_as(&second, DetachMode::Clean)), ErrorReason::StaleJournals);
    case.release_as(&second, DetachMode::KeepJournal).expect("given back");
    case.check();
    let third = case.owned(case.a);
    assert_eq!(third.journal, second.journal);
    assert_eq!(third.stale_journals.len(), 1, "the first one alone");
    case.check();
}

#[test]
fn an_owner_that_is_gone_is_in_no_third_nodes_way() {
    let case = Case::shared();
    case.owned(case.a);
    let c = case.world.node("c");
    assert_eq!(kind(case.add(c)), ErrorReason::PeersFull);
    case.world.node("a");
    case.add(c).expect("a peer in place of the one that is gone");
    let names: Vec<_> = case.view().peers.iter().map(|peer| peer.node_name.to_string()).collect();
    assert_eq!(names, ["b", "c"]);
    case.check();
}

#[test]
fn a_call_of_a_killed_daemon_gives_nothing_away() {
    let case = Case::new();
    let boot = 0xB007;
    let c = case.world.boot_as("c", boot);
    case.add(c).expect("a peer");
    let held = case.owned(c);
    let successor = case.restarted("c", boot, c);
    let late = ReleaseOwnership {
        request: case.world.request(),
        volume: case.volume,
        epoch: held.epoch,
        caller: c,
        mode: DetachMode::Clean,
        last_commit: CommitNumber::default(),
    };
    let answer = block_on(case.world.service.release_ownership(&late));
    assert_eq!(kind(answer), ErrorReason::StaleSession);
    let Ok(Ownership::Owned(found)) = case.ask(successor, Look) else { panic!("owned") };
    assert_eq!(found.epoch, held.epoch);
}

#[test]
fn a_peer_whose_node_has_joined_anew_is_none_and_is_not_in_the_way() {
    let case = Case::shared();
    let held = case.owned(case.a);
    let b = case.world.node("b");
    assert_eq!(kind(case.ask(b, Waiting)), ErrorReason::PeerNotFound);
    case.add(b).expect("a peer again");
    let a = case.world.node("a");
    assert!(matches!(case.ask(b, Waiting), Ok(Ownership::Owned(_))), "its owner is gone");
    case.add(a).expect("a peer again");
    assert_eq!(case.view().peers.len(), 2);
    assert_eq!(kind(case.world.commit(&held, vec![])), ErrorReason::NodeFenced);
    case.check();
}

#[test]
fn a_node_that_gets_no_volume_takes_none_from_its_owner() {
    let case = Case::shared();
    case.owned(case.a);
    let drain =
        DrainNode { request: case.world.request(), node: Selector::Name(name("b")), drains: true };
    let by = lunar_metadata::service::Actor { name: "admin/ada", at: 77 };
    block_on(case.world.service.drain_node(&drain, by)).expect("drained");
    assert_eq!(kind(case.ask(case.b, Waiting)), ErrorReason::NodeDraining);
    assert_eq!(case.wish_told_to(case.a), Some(Look));
    assert!(matches!(case.ask(case.b, Look), Ok(Ownership::Waiting(_))), "it may look");
}

/// What may happen to two peers.
#[derive(Clone, Copy, Debug)]
enum Event {
    Ask(usize, OwnershipWish),
    Release(usize, DetachMode),
    Commit(usize),
    Detach(usize),
    Add(usize),
    Leave(usize),
    TakeOff(usize),
    /// Another process of the same incarnation.
    Restart(usize),
    /// Another incarnation.
    Boot(usize),
    Pass(u64),
    RestartService,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let node = 0..2_usize;
    let event = prop_oneof![
        6 => (node.clone(), prop_oneof![Just(Look), Just(Waiting), Just(Urgent)])
            .prop_map(|(node, wish)| Event::Ask(node, wish)),
        4 => (node.clone(), prop_oneof![Just(DetachMode::Clean), Just(DetachMode::KeepJournal)])
            .prop_map(|(node, mode)| Event::Release(node, mode)),
        4 => node.clone().prop_map(Event::Commit),
        1 => node.clone().prop_map(Event::Detach),
        3 => node.clone().prop_map(Event::Add),
        1 => node.clone().prop_map(Event::Leave),
        1 => node.clone().prop_map(Event::TakeOff),
        1 => node.clone().prop_map(Event::Restart),
        1 => node.prop_map(Event::Boot),
        2 => (0..3_u64).prop_map(Event::Pass),
        1 => Just(Event::RestartService),
    ];
    prop::collection::vec(event, 1..60)
}

/// Two nodes that do anything at any time, each with the last grant that it was told of.
struct Life {
    case: Case,
    nodes: [NodeSession; 2],
    boots: [u128; 2],
    told: [Option<Attachment>; 2],
    last_epoch: Epoch,
}

impl Life {
    fn new() -> Self {
        let mut case = Case::new();
        let boots = [0xA, 0xB];
        let nodes = [case.world.boot_as("x", boots[0]), case.world.boot_as("y", boots[1])];
        (case.a, case.b) = (nodes[0], nodes[1]);
        Self { case, nodes, boots, told: [const { None }; 2], last_epoch: Epoch::default() }
    }

    const fn name(node: usize) -> &'static str {
        ["x", "y"][node]
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Ask(node, wish) => {
                if let Ok(Ownership::Owned(held)) = self.case.ask(self.nodes[node], wish) {
                    assert!(held.epoch >= self.last_epoch, "epochs rise");
                    self.last_epoch = held.epoch;
                    self.told[node] = Some(*held);
                }
            }
            Event::Release(node, mode) => {
                if let Some(held) = &self.told[node] {
                    let _ = self.case.release_as(held, mode);
                }
            }
            Event::Commit(node) => {
                if let Some(held) = &self.told[node] {
                    let done = self.case.world.commit(held, vec![]);
                    assert!(
                        done.is_err() || held.epoch == self.last_epoch,
                        "a commit of epoch {} is carried out after {}",
                        held.epoch,
                        self.last_epoch
                    );
                }
            }
            Event::Detach(node) => {
                if let Some(held) = self.told[node].take() {
                    let _ = self.case.world.detach(&held, DetachMode::KeepJournal);
                }
            }
            Event::Add(node) => {
                let _ = self.case.add(self.nodes[node]);
            }
            Event::Leave(node) => {
                let _ = self.case.leave(self.nodes[node]);
            }
            Event::TakeOff(node) => {
                let _ = self.case.take_off(Self::name(node));
            }
            Event::Restart(node) => {
                let of = self.nodes[node];
                self.nodes[node] = self.case.restarted(Self::name(node), self.boots[node], of);
            }
            Event::Boot(node) => {
                self.boots[node] += 0x100;
                self.nodes[node] = self.case.world.boot_as(Self::name(node), self.boots[node]);
                self.told[node] = None;
            }
            Event::Pass(seconds) => self.case.pass(seconds),
            Event::RestartService => self.case.world.restart(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// At most one node's commits are carried out, those of the last epoch; the store stays sound;
    /// and in the end each of the two gets the volume.
    #[test]
    fn peers_that_do_anything_never_own_a_volume_together(events in events()) {
        let mut life = Life::new();
        for event in events {
            life.happens(event);
            life.case.check();
        }
        for node in [0, 1] {
            let caller = life.nodes[node];
            life.case.add(caller).expect("a peer: there are two nodes");
            if let Ok(Ownership::Waiting(_)) = life.case.ask(caller, Waiting) {
                let owner = life.nodes[1 - node];
                let Ok(Ownership::Owned(held)) = life.case.ask(owner, Look) else {
                    panic!("the other one owns it")
                };
                life.case.release_as(&held, DetachMode::KeepJournal).expect("released");
            }
            life.case.pass(1);
            let held = life.case.owned(caller);
            life.case.release_as(&held, DetachMode::KeepJournal).expect("released");
            life.case.check();
        }
    }
}
