//! What the content of a volume may be: docs/csi.md, *Format once*, the service's part.

use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;
use proptest::prelude::*;

use super::world::*;

use ContentState::{Blank, Formatting, Used};

/// A volume, and two nodes that may take it.
struct Case {
    world: World,
    volume: VolumeId,
    nodes: [NodeSession; 2],
}

impl Case {
    fn new() -> Self {
        let world = World::new();
        world.pool(100);
        let volume = world.volume("v").id;
        let nodes = ["a", "b"].map(|name| world.node(name));
        Self { world, volume, nodes }
    }

    fn attach_of(&self, volume: VolumeId, for_file_system: bool) -> Attachment {
        let attach = Attach {
            request: self.world.request(),
            volume: Selector::Id(volume),
            caller: self.nodes[0],
            understands_layers: true,
            accept_restored: false,
            publication: None,
            for_file_system,
        };
        block_on(self.world.service.attach(&attach)).expect("granted")
    }

    fn attach(&self, for_file_system: bool) -> Attachment {
        self.attach_of(self.volume, for_file_system)
    }

    fn of(&self, held: &Attachment) -> ContentOf {
        let (volume, epoch) = (held.volume.id, held.epoch);
        ContentOf { volume, epoch, caller: self.world.caller_of(held) }
    }

    fn begin(&self, held: &Attachment, token: u128) -> Result<ContentState, ServiceError> {
        let (of, token) = (self.of(held), FormatToken::from_u128(token));
        block_on(self.world.service.begin_format(FormatContent { of, token }))
    }

    fn end(&self, held: &Attachment, token: u128) -> Result<ContentState, ServiceError> {
        let (of, token) = (self.of(held), FormatToken::from_u128(token));
        block_on(self.world.service.end_format(FormatContent { of, token }))
    }

    fn state_of(&self, volume: VolumeId) -> ContentState {
        let found = block_on(self.world.service.volume(&Selector::Id(volume)));
        found.expect("it is there").content
    }

    fn state(&self) -> ContentState {
        self.state_of(self.volume)
    }

    fn give_back(&self, held: &Attachment) {
        self.world.detach(held, DetachMode::Clean).expect("given back");
    }
}

#[test]
fn a_volume_is_blank_until_it_is_attached_otherwise_than_for_a_file_system() {
    let case = Case::new();
    assert_eq!(case.state(), Blank);
    let held = case.attach(true);
    assert_eq!(case.state(), Blank);
    case.give_back(&held);
    case.attach(false);
    assert_eq!(case.state(), Used);
}

#[test]
fn a_file_system_is_made_once() {
    let case = Case::new();
    let held = case.attach(true);
    assert_eq!(case.begin(&held, 1).expect("it begins"), Formatting);
    assert_eq!(case.begin(&held, 1).expect("said again"), Formatting);
    assert_eq!(case.end(&held, 1).expect("it ends"), Used);
    assert_eq!(case.end(&held, 1).expect("said again"), Used);
    assert_eq!(kind(case.begin(&held, 1)), ErrorReason::ContentUsed);
    assert_eq!(kind(case.begin(&held, 2)), ErrorReason::ContentUsed);
    assert_eq!(case.state(), Used);
}

#[test]
fn the_attempt_that_began_last_counts() {
    let case = Case::new();
    let held = case.attach(true);
    assert_eq!(kind(case.end(&held, 1)), ErrorReason::OtherFormat, "nothing has begun");
    case.begin(&held, 1).expect("it begins");
    case.give_back(&held);
    // Its node was cut off in the middle: the next holder formats anew.
    let held = case.attach(true);
    assert_eq!(case.state(), Formatting);
    case.begin(&held, 2).expect("it begins anew");
    assert_eq!(kind(case.end(&held, 1)), ErrorReason::OtherFormat);
    assert_eq!(case.state(), Formatting);
    case.end(&held, 2).expect("it ends");
    assert_eq!(case.state(), Used);
}

#[test]
fn only_the_holder_moves_it_under_its_grant() {
    let case = Case::new();
    let old = case.attach(true);
    case.give_back(&old);
    assert_eq!(kind(case.begin(&old, 1)), ErrorReason::NotAttached);
    let held = case.attach(true);
    assert_eq!(kind(case.begin(&old, 1)), ErrorReason::StaleEpoch);
    let foreign = ContentOf { caller: case.nodes[1], ..case.of(&held) };
    let token = FormatToken::from_u128(1);
    let service = &case.world.service;
    let refused = block_on(service.begin_format(FormatContent { of: foreign, token }));
    assert_eq!(kind(refused), ErrorReason::StaleEpoch);
    assert_eq!(kind(block_on(service.content(foreign))), ErrorReason::StaleEpoch);
    assert_eq!(kind(block_on(service.use_content(foreign))), ErrorReason::StaleEpoch);
    assert_eq!(block_on(service.content(case.of(&held))).expect("told"), Blank);
    assert_eq!(block_on(service.use_content(case.of(&held))).expect("said"), Used);
    assert_eq!(case.state(), Used);
}

#[test]
fn snapshots_clones_and_rollbacks_carry_the_state_of_their_content() {
    let case = Case::new();
    let world = &case.world;
    let blank = world.cut(case.volume, "blank").expect("cut");
    let held = case.attach(true);
    case.begin(&held, 1).expect("it begins");
    case.give_back(&held);
    let half = world.cut(case.volume, "half").expect("cut");
    let held = case.attach(true);
    case.begin(&held, 2).expect("it begins");
    case.end(&held, 2).expect("it ends");
    case.give_back(&held);
    let used = world.cut(case.volume, "used").expect("cut");
    for (snapshot, expected) in [(&blank, Blank), (&half, Formatting), (&used, Used)] {
        let clone = world.clone_of(snapshot.id, &format!("of-{}", snapshot.name)).expect("made");
        assert_eq!((clone.content, clone.origin), (expected, Some(Origin::Snapshot(snapshot.id))));
        world.roll_back(case.volume, snapshot.id).expect("rolled back");
        assert_eq!(case.state(), expected, "{}", snapshot.name);
    }
    // The attempt of before does not end what came with a snapshot.
    world.roll_back(case.volume, half.id).expect("rolled back");
    let held = case.attach(true);
    assert_eq!(kind(case.end(&held, 2)), ErrorReason::OtherFormat);
    world.assert_clean();
}

#[test]
fn a_clone_of_a_volume_is_as_used_as_the_volume() {
    let case = Case::new();
    let clone_as = |text: &str| {
        let cut = CreateSnapshots {
            request: case.world.request(),
            members: vec![NewMember {
                volume: Selector::Id(case.volume),
                cut: NewCut::Clone(name(text)),
            }],
            created_unix_seconds: 0,
            fsfreeze: Fsfreeze::Never,
            over_watermark: true,
            group: None,
        };
        block_on(case.world.service.create_snapshots(&cut)).expect("cut");
        block_on(case.world.service.volume(&Selector::Name(name(text)))).expect("there")
    };
    let blank = clone_as("blank");
    assert_eq!((blank.content, blank.origin), (Blank, Some(Origin::Volume(case.volume))));
    let held = case.attach(false);
    case.give_back(&held);
    assert_eq!(clone_as("used").content, Used);
}

#[test]
fn a_peer_that_is_given_the_volume_has_used_it() {
    let case = Case::new();
    let (volume, caller) = (case.volume, case.nodes[1]);
    let add = AddPeer {
        volume: Selector::Id(volume),
        caller,
        understands_layers: true,
        accept_restored: false,
        publication: None,
    };
    block_on(case.world.service.add_peer(&add)).expect("a peer");
    let ask = RequestOwnership { volume, caller, wish: OwnershipWish::Waiting };
    let owned = block_on(case.world.service.request_ownership(ask)).expect("asked");
    assert!(matches!(owned, Ownership::Owned(_)));
    assert_eq!(case.state(), Used);
}

proptest! {
    /// Whatever is attached, given back, begun and ended, in whatever order: it only moves forward,
    /// and nothing is used that was not attached otherwise or ended by the attempt that counts.
    #[test]
    fn a_state_only_moves_forward(steps in prop::collection::vec((0u8..4, 1u128..4), 1..40)) {
        let case = Case::new();
        let mut held = case.attach(true);
        let (mut begun, mut is_used, mut last) = (None, false, Blank);
        for (step, token) in steps {
            match step {
                0 => {
                    let answer = case.begin(&held, token);
                    prop_assert_eq!(answer.is_ok(), !is_used);
                    begun = if is_used { begun } else { Some(token) };
                }
                1 => {
                    let answer = case.end(&held, token);
                    prop_assert_eq!(answer.is_ok(), is_used || begun == Some(token));
                    is_used |= begun == Some(token);
                }
                step => {
                    case.give_back(&held);
                    let for_file_system = step == 2 || token > 1;
                    held = case.attach(for_file_system);
                    is_used |= !for_file_system;
                }
            }
            let state = case.state();
            prop_assert!(state >= last, "{} became {}", last, state);
            prop_assert_eq!(state == Used, is_used);
            prop_assert_eq!(state == Blank, !is_used && begun.is_none());
            last = state;
        }
    }
}
