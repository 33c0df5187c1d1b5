//! Explanations of facts as the services tell them.

use std::time::Duration;

use lunar_proto::domain::{FenceLun, FenceProof, Holder, Peer, VolumeState, Watermarks};
use lunar_types::{
    BootId, Epoch, ExtentSize, Incarnation, LayerId, LogicalBlockSize, LunId, Name, NodeId,
    NodeIncarnation, PoolId, SessionNumber, VolumeId, VolumeSize,
};

use super::*;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn holder() -> NodeIncarnation {
    NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(4) }
}

fn node(state: NodeState) -> Node {
    Node {
        id: NodeId::new(1),
        name: name("n1"),
        incarnation: Incarnation::new(4),
        boot: BootId::from_u128(9),
        state,
        heard_ago: Some(Duration::from_millis(12_345)),
        attachments: 1,
        session: SessionNumber::new(4),
        is_barred: false,
        is_draining: false,
    }
}

fn facts(fencing: PoolFencing, state: NodeState, live: bool) -> VolumeFacts {
    let held = Holder {
        node: holder(),
        node_name: name("n1"),
        epoch: Epoch::new(7),
        live,
        granted_at: 951_782_400,
    };
    let volume = Volume {
        id: VolumeId::from_u128(3),
        name: name("db"),
        pool: PoolId::from_u128(2),
        size: VolumeSize::from_bytes(1 << 30).expect("a size"),
        logical_block_size: LogicalBlockSize::B4096,
        head: LayerId::new(1),
        epoch: Epoch::new(7),
        state: VolumeState::Ready,
        restored: false,
        holder: Some(held),
        mapped_extents: 0,
        peers: Vec::new(),
        moves: 0,
        publications: Vec::new(),
        content: lunar_proto::domain::ContentState::Used,
        origin: None,
    };
    let pool = Pool {
        id: PoolId::from_u128(2),
        name: name("tank"),
        extent_size: ExtentSize::DEFAULT,
        luns: Vec::new(),
        logical_block_size: LogicalBlockSize::B4096,
        watermarks: Watermarks::DEFAULT,
        fencing,
    };
    VolumeFacts { volume, pool, node: Some(node(state)), fences: Vec::new() }
}

fn fence(waits_for: &str) -> Fence {
    let lun = |id, state| FenceLun { lun: LunId::from_u128(id), state };
    Fence {
        victim: holder(),
        node_name: name("n1"),
        reason: "not heard from for 15 s".to_owned(),
        luns: vec![
            lun(1, FenceLunState::Open),
            lun(2, FenceLunState::Begun { fencer: holder(), attempt: 2 }),
            lun(3, FenceLunState::Done(FenceProof::Aborted)),
        ],
        waits_for: waits_for.to_owned(),
    }
}

#[test]
fn a_volume_in_use_waits_for_nothing() {
    let known = facts(PoolFencing::Reservations, NodeState::Active, true);
    let text = of_volume(&known).to_text();
    for said in ["n1 (incarnation 4)", "2000-02-29 00:00:00Z", "ACTIVE, heard from 12.3 s ago"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(text.ends_with("waits for nothing\n"), "{text}");
}

#[test]
fn each_wait_says_what_would_end_it() {
    use NodeState::{Fenced, Fencing, Suspect};
    use PoolFencing::{Lease, None, Reservations};
    for (fencing, state, fence, said) in [
        (Reservations, Suspect, Option::None, "lunar node fence n1 begins it now"),
        (Lease, Suspect, Option::None, "lunar node fence n1 begins it now"),
        (None, Suspect, Option::None, "--certified-powered-off --confirm n1"),
        (None, Fenced, Option::None, "--certified-powered-off --confirm n1"),
        (Reservations, Fencing, Some(fence("")), "goes on by itself"),
        (Reservations, Fencing, Some(fence("a node that sees LUN 7")), "a node that sees LUN 7"),
    ] {
        let fences = fence.into_iter().collect();
        let known = VolumeFacts { fences, ..facts(fencing, state, true) };
        let told = of_volume(&known);
        assert_eq!(told.waits_for.len(), 1, "{told:?}");
        assert!(told.to_text().contains(said), "{said}: {}", told.to_text());
    }
}

#[test]
fn a_node_says_what_it_holds_and_what_keeps_it_out() {
    let volumes = vec![facts(PoolFencing::None, NodeState::Active, true).volume];
    let known = NodeFacts { node: node(NodeState::Active), volumes, fences: Vec::new() };
    assert!(of_node(&known).to_text().contains("db under epoch 7"));
    let barred = Node { is_barred: true, ..node(NodeState::Fenced) };
    let known = NodeFacts { node: barred, volumes: Vec::new(), fences: vec![] };
    assert!(of_node(&known).to_text().contains("lunar node unfence n1"));
    let known = NodeFacts {
        node: node(NodeState::Fencing),
        volumes: Vec::new(),
        fences: vec![fence("a node that sees LUN 7")],
    };
    let text = of_node(&known).to_text();
    assert!(text.contains("not heard from for 15 s") && text.contains("done: aborted"), "{text}");
    let joining = NodeFacts { node: node(NodeState::Joining), volumes: vec![], fences: vec![] };
    assert!(of_node(&joining).to_text().contains("lunar doctor on 'n1'"));
}

#[test]
fn a_volume_that_nodes_share_says_who_owns_it_and_who_waits_for_it() {
    let mut known = facts(PoolFencing::Reservations, NodeState::Active, true);
    let peer = |node: u16, wishes| Peer {
        node: NodeIncarnation { node: NodeId::new(node), incarnation: Incarnation::new(4) },
        node_name: name(&format!("n{node}")),
        live: true,
        wishes,
        since: 951_782_400,
    };
    known.volume.peers = vec![peer(1, false), peer(2, false)];
    known.volume.moves = 6;
    let text = of_volume(&known).to_text();
    for part in ["n1, which owns it", "n2, which has a device that waits", "6 times"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("waits for nothing"), "{text}");
    known.volume.peers[1].wishes = true;
    let text = of_volume(&known).to_text();
    for part in ["'n1' to give it to 'n2'", "'lunar doctor' on 'n1'"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    known.volume.holder = None;
    let text = of_volume(&known).to_text();
    assert!(text.contains("'n2', which has asked for it, to take it"), "{text}");
}
