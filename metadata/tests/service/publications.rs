//! Publications: docs/csi.md, the service's part.

use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;
use proptest::prelude::*;

use super::world::*;

use PublicationMode::{Migratable, Single};

/// Three nodes, and a volume in a pool without fencing.
struct Case {
    world: World,
    volume: VolumeId,
    nodes: [NodeSession; 3],
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Case {
    fn new() -> Self {
        let world = World::new();
        world.pool(100);
        let volume = world.volume("v").id;
        let nodes = NAMES.map(|name| world.node(name));
        Self { world, volume, nodes }
    }

    fn publish(&self, node: usize, mode: PublicationMode) -> Result<Publication, ServiceError> {
        block_on(self.world.service.publish_volume(&PublishVolume {
            volume: Selector::Id(self.volume),
            node: Selector::Name(name(NAMES[node])),
            mode,
            reads_only: false,
        }))
    }

    fn published(&self, node: usize, mode: PublicationMode) -> PublicationId {
        self.publish(node, mode).expect("published").id
    }

    fn unpublish_of(&self, node: Option<usize>) -> Vec<LeftPublication> {
        let node = node.map(|node| Selector::Name(name(NAMES[node])));
        let request = UnpublishVolume { volume: Selector::Id(self.volume), node, only: vec![] };
        block_on(self.world.service.unpublish_volume(&request)).expect("asked")
    }

    fn unpublish(&self, node: usize) -> Vec<LeftPublication> {
        self.unpublish_of(Some(node))
    }

    fn attach(
        &self,
        node: usize,
        publication: Option<PublicationId>,
    ) -> Result<Attachment, ServiceError> {
        block_on(self.world.service.attach(&Attach {
            request: self.world.request(),
            volume: Selector::Id(self.volume),
            caller: self.nodes[node],
            understands_layers: true,
            accept_restored: false,
            publication,
            for_file_system: false,
        }))
    }

    fn add_peer(
        &self,
        node: usize,
        publication: Option<PublicationId>,
    ) -> Result<(), ServiceError> {
        let add = AddPeer {
            volume: Selector::Id(self.volume),
            caller: self.nodes[node],
            understands_layers: true,
            accept_restored: false,
            publication,
        };
        block_on(self.world.service.add_peer(&add)).map(drop)
    }

    fn ask(&self, node: usize) -> Result<Ownership, ServiceError> {
        let (volume, caller) = (self.volume, self.nodes[node]);
        let request = RequestOwnership { volume, caller, wish: OwnershipWish::Waiting };
        block_on(self.world.service.request_ownership(request))
    }

    fn recalls_told_to(&self, node: usize) -> Vec<Recall> {
        let watch = WatchNode {
            caller: self.nodes[node],
            structures: vec![],
            members: vec![],
            fences: vec![],
            peers: vec![],
            recalls: vec![],
        };
        block_on(self.world.service.watch_node(&watch)).expect("news").recalls
    }

    fn unpublish_only(&self, publication: PublicationId) -> Vec<LeftPublication> {
        let volume = Selector::Id(self.volume);
        let request = UnpublishVolume { volume, node: None, only: vec![publication] };
        block_on(self.world.service.unpublish_volume(&request)).expect("asked")
    }

    /// A node is gone, and that is proven.
    fn lose(&self, node: usize) {
        block_on(self.world.service.declare_fenced(self.nodes[node].node)).expect("fenced");
    }

    fn shown(&self) -> Vec<Publication> {
        block_on(self.world.service.publications(&Selector::Id(self.volume))).expect("there")
    }

    fn check(&self) {
        self.world.assert_clean();
    }
}

#[test]
fn who_has_leave_attaches_and_nobody_else() {
    let case = Case::new();
    let leave = case.published(0, Single);
    assert_eq!(case.published(0, Single), leave, "the same again is the same");
    for (node, given) in [(0, None), (1, None), (1, Some(leave))] {
        assert_eq!(kind(case.attach(node, given)), ErrorReason::NotPublished, "{node} {given:?}");
    }
    let held = case.attach(0, Some(leave)).expect("granted");
    assert_eq!(held.volume.publications.len(), 1);
    assert_eq!(kind(case.publish(1, Single)), ErrorReason::VolumePublished);
    assert_eq!(kind(case.publish(0, Migratable)), ErrorReason::PublishedOtherwise);
    assert_eq!(kind(case.world.delete(case.volume)), ErrorReason::VolumePublished);
    case.check();
}

#[test]
fn an_unpublished_node_is_refused_however_late_it_comes() {
    let case = Case::new();
    let old = case.published(0, Single);
    assert!(case.unpublish(0).is_empty());
    // Attack 1: nobody has it.
    assert_eq!(kind(case.attach(0, Some(old))), ErrorReason::NotPublished);
    // Attack 1 again: another one has it. Attack 2: it has itself a newer leave.
    for node in [1, 0] {
        let leave = case.published(node, Single);
        assert_ne!(leave, old);
        assert_eq!(kind(case.attach(0, Some(old))), ErrorReason::NotPublished);
        let held = case.attach(node, Some(leave)).expect("granted");
        case.world.detach(&held, DetachMode::Clean).expect("detached");
        assert!(case.unpublish(node).is_empty());
    }
    case.check();
}

#[test]
fn a_recalled_publication_grants_nothing_and_goes_with_the_last_hold() {
    let case = Case::new();
    let leave = case.published(0, Single);
    let held = case.attach(0, Some(leave)).expect("granted");
    assert_eq!(case.recalls_told_to(0), []);
    for _ in 0..2 {
        let left = case.unpublish(0);
        assert_eq!(left.len(), 1);
        assert!(left[0].publication.recalled && left[0].why.contains("node 'a'"), "{left:?}");
    }
    let recall = Recall { volume: case.volume, publication: leave };
    assert_eq!((case.recalls_told_to(0), case.recalls_told_to(1)), (vec![recall], vec![]));
    // Attack 4: it is still there, so nobody else gets it.
    assert_eq!(kind(case.publish(1, Single)), ErrorReason::VolumePublished);
    assert_eq!(kind(case.publish(0, Single)), ErrorReason::VolumeRecalled);
    // Its holder works on until it has detached.
    case.world.resumed(&held).expect("still held");
    case.world.detach(&held, DetachMode::Clean).expect("detached");
    // Attack 3: with the detach it is gone, so a stage that is repeated gets nothing.
    assert_eq!(case.shown(), []);
    assert_eq!(kind(case.attach(0, Some(leave))), ErrorReason::NotPublished);
    assert_eq!(case.recalls_told_to(0), []);
    case.published(1, Single);
    case.check();
}

#[test]
fn what_a_lost_node_has_goes_with_the_proof() {
    let case = Case::new();
    let leave = case.published(0, Single);
    case.attach(0, Some(leave)).expect("granted");
    assert_eq!(case.unpublish(0).len(), 1);
    case.lose(0);
    assert!(case.unpublish(0).is_empty());
    let next = case.published(1, Single);
    case.attach(1, Some(next)).expect("taken over");
    case.check();
}

#[test]
fn whoever_publishes_forgets_what_a_lost_node_had() {
    let case = Case::new();
    let leave = case.published(0, Single);
    case.attach(0, Some(leave)).expect("granted");
    assert_eq!(case.unpublish(0).len(), 1);
    case.lose(0);
    case.published(1, Single);
    assert_eq!(case.shown().len(), 1);
    case.check();
}

#[test]
fn what_a_node_has_by_hand_is_not_published() {
    let case = Case::new();
    let held = case.attach(0, None).expect("by hand");
    for node in [0, 1] {
        assert_eq!(kind(case.publish(node, Single)), ErrorReason::VolumeAttached);
    }
    case.world.detach(&held, DetachMode::Clean).expect("detached");
    case.add_peer(0, None).expect("a peer");
    for node in [0, 1] {
        assert_eq!(kind(case.publish(node, Migratable)), ErrorReason::VolumeShared);
    }
    case.check();
}

#[test]
fn two_nodes_may_have_it_for_a_migration() {
    let case = Case::new();
    let (a, b) = (case.published(0, Migratable), case.published(1, Migratable));
    assert_eq!(kind(case.publish(2, Migratable)), ErrorReason::VolumePublished);
    assert_eq!(kind(case.add_peer(0, None)), ErrorReason::NotPublished);
    assert_eq!(kind(case.add_peer(0, Some(b))), ErrorReason::NotPublished);
    case.add_peer(0, Some(a)).expect("a peer");
    case.add_peer(1, Some(b)).expect("a peer");
    assert!(matches!(case.ask(0), Ok(Ownership::Owned(_))));
    assert!(matches!(case.ask(1), Ok(Ownership::Waiting(_))));
    // The one that waits is to leave: it is told, and gets the volume no more.
    assert_eq!(case.unpublish(1).len(), 1);
    assert_eq!(case.recalls_told_to(1).len(), 1);
    assert_eq!(kind(case.ask(1)), ErrorReason::NotPublished);
    let (volume, caller) = (case.volume, case.nodes[1]);
    block_on(case.world.service.leave_peers(LeavePeers { volume, caller })).expect("left");
    assert_eq!(case.shown().len(), 1);
    case.published(2, Migratable);
    case.check();
}

#[test]
fn a_peer_that_is_gone_needs_no_proof() {
    let case = Case::new();
    let (a, b) = (case.published(0, Migratable), case.published(1, Migratable));
    case.add_peer(0, Some(a)).expect("a peer");
    case.add_peer(1, Some(b)).expect("a peer");
    assert!(matches!(case.ask(0), Ok(Ownership::Owned(_))));
    case.lose(1);
    assert!(case.unpublish(1).is_empty());
    case.check();
}

#[test]
fn a_single_publication_is_alone_whichever_comes_first() {
    let case = Case::new();
    case.published(0, Migratable);
    assert_eq!(kind(case.publish(1, Single)), ErrorReason::VolumePublished);
    assert!(case.unpublish_of(None).is_empty());
    case.published(1, Single);
    assert_eq!(kind(case.publish(0, Migratable)), ErrorReason::VolumePublished);
    assert!(case.unpublish_of(None).is_empty());
    assert_eq!(case.shown(), []);
    case.check();
}

#[test]
fn what_is_not_there_is_unpublished_and_not_published() {
    let case = Case::new();
    let nowhere = Some(Selector::Name(name("nowhere")));
    for (volume, node) in
        [(VolumeId::from_u128(99), None), (case.volume, nowhere), (case.volume, None)]
    {
        let request = UnpublishVolume { volume: Selector::Id(volume), node, only: vec![] };
        let left = block_on(case.world.service.unpublish_volume(&request)).expect("asked");
        assert_eq!(left, []);
    }
    case.world.delete(case.volume).expect("deleted");
    assert_eq!(kind(case.publish(0, Single)), ErrorReason::VolumeNotFound);
}

/// What anybody may do, by node.
#[derive(Clone, Copy, Debug)]
enum Act {
    Publish(usize, bool),
    Unpublish(usize),
    UnpublishAll,
    /// With the newest id, or with an older one.
    Attach(usize, bool),
    ByHand(usize),
    Detach,
    AddPeer(usize),
    Ask(usize),
    Leave(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let node = 0..3_usize;
    let act = prop_oneof![
        (node.clone(), any::<bool>()).prop_map(|(node, shared)| Act::Publish(node, shared)),
        node.clone().prop_map(Act::Unpublish),
        Just(Act::UnpublishAll),
        (node.clone(), any::<bool>()).prop_map(|(node, new)| Act::Attach(node, new)),
        node.clone().prop_map(Act::ByHand),
        Just(Act::Detach),
        node.clone().prop_map(Act::AddPeer),
        node.clone().prop_map(Act::Ask),
        node.prop_map(Act::Leave),
    ];
    prop::collection::vec(act, 1..40)
}

/// Who may have the volume, kept beside the service by what it has answered alone.
struct Model {
    case: Case,
    /// Ids that were given, the newest last, by node.
    given: [Vec<PublicationId>; 3],
    /// Nodes whose unpublish was answered with nothing left, or that were never published.
    is_out: [bool; 3],
}

impl Model {
    fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        match act {
            Act::Publish(node, is_shared) => {
                let mode = if is_shared { Migratable } else { Single };
                if let Ok(made) = self.case.publish(node, mode) {
                    if self.given[node].last() != Some(&made.id) {
                        prop_assert!(self.is_out[node], "published anew while it was published");
                        self.given[node].push(made.id);
                    }
                    self.is_out[node] = false;
                }
            }
            Act::Unpublish(node) => {
                self.is_out[node] |= self.case.unpublish(node).is_empty();
            }
            Act::UnpublishAll => {
                if self.case.unpublish_of(None).is_empty() {
                    self.is_out = [true; 3];
                }
            }
            Act::Attach(node, is_new) => {
                let given = &self.given[node];
                let id = if is_new { given.last() } else { given.iter().rev().nth(1) };
                let granted = id.is_some_and(|id| self.case.attach(node, Some(*id)).is_ok());
                prop_assert!(!granted || (is_new && !self.is_out[node]), "P1 or P5");
            }
            Act::ByHand(node) => {
                if self.case.attach(node, None).is_ok() {
                    prop_assert_eq!(self.case.shown(), vec![], "P6");
                }
            }
            Act::Detach => {
                let volume = Selector::Id(self.case.volume);
                let shown = block_on(self.case.world.service.volume(&volume)).expect("there");
                let Some(holder) = shown.holder else { return Ok(()) };
                let index = self.case.nodes.iter().position(|node| node.node == holder.node);
                let caller = self.case.nodes[index.expect("one of ours")];
                let (request, mode) = (self.case.world.request(), DetachMode::KeepJournal);
                let (volume, epoch) = (self.case.volume, holder.epoch);
                let detach = Detach { request, volume, epoch, caller, mode };
                block_on(self.case.world.service.detach(&detach)).expect("its own");
            }
            Act::AddPeer(node) => {
                let id = self.given[node].last().copied();
                let added = self.case.add_peer(node, id).is_ok();
                prop_assert!(!added || id.is_none() || !self.is_out[node], "P1");
            }
            Act::Ask(node) => {
                let _ = self.case.ask(node);
            }
            Act::Leave(node) => {
                let (volume, caller) = (self.case.volume, self.case.nodes[node]);
                let _ =
                    block_on(self.case.world.service.leave_peers(LeavePeers { volume, caller }));
            }
        }
        self.check()
    }

    /// P1, P2, P4: who holds a published volume is published to, and two have it only together.
    fn check(&mut self) -> Result<(), TestCaseError> {
        let volume = Selector::Id(self.case.volume);
        let shown = block_on(self.case.world.service.volume(&volume)).expect("there");
        let rows = &shown.publications;
        prop_assert!(rows.len() <= 1 || rows.iter().all(|row| row.mode == Migratable), "P2");
        prop_assert!(rows.len() <= PEERS_MAX, "P2");
        for (node, session) in self.case.nodes.iter().enumerate() {
            let is_holder = shown.holder.as_ref().is_some_and(|holder| holder.node == session.node);
            let is_peer = shown.peers.iter().any(|peer| peer.node == session.node);
            let row = rows.iter().find(|row| row.node == session.node.node);
            if row.is_none() {
                self.is_out[node] = true;
            }
            let has_it = is_holder || is_peer;
            prop_assert!(!has_it || rows.is_empty() || row.is_some(), "P1: node {node}");
        }
        Ok(())
    }
}

#[test]
fn a_late_request_takes_back_only_what_it_means() {
    let case = Case::new();
    let old = case.published(0, Single);
    assert!(case.unpublish_only(old).is_empty());
    let new = case.published(0, Single);
    case.attach(0, Some(new)).expect("granted");
    // It was on its way since before: the pod that has the volume now does not notice.
    assert!(case.unpublish_only(old).is_empty());
    assert!(!case.shown()[0].recalled);
    assert!(case.recalls_told_to(0).is_empty());
    assert_eq!(case.unpublish_only(new).len(), 1);
    assert!(case.shown()[0].recalled);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_is_done_only_who_has_leave_has_the_volume(acts in acts()) {
        let mut model = Model {
            case: Case::new(),
            given: Default::default(),
            is_out: [true; 3],
        };
        for act in acts {
            model.act(act)?;
        }
        model.case.check();
    }
}
