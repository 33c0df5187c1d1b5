//! Volumes that two nodes have together.

use super::*;

pub(super) fn peer() -> Peer {
    Peer {
        node: node(),
        node_name: "n1".parse().expect("a name"),
        live: true,
        wishes: true,
        since: 7_000_000,
    }
}

pub(super) fn known_peer() -> KnownPeer {
    KnownPeer { volume: VOLUME, wish: OwnershipWish::Urgent }
}

const VOLUME: VolumeId = VolumeId::from_u128(13);

#[test]
fn what_peers_say_survives_the_wire() {
    let volume = || Selector::Name("db".parse().expect("a name"));
    survives::<_, v1::AddPeerRequest>(AddPeer {
        volume: volume(),
        caller: caller(),
        understands_layers: true,
        accept_restored: true,
        publication: Some(publications::PUBLICATION),
    });
    for wish in [OwnershipWish::None, OwnershipWish::Waiting, OwnershipWish::Urgent] {
        let request = RequestOwnership { volume: VOLUME, caller: caller(), wish };
        survives::<_, v1::RequestOwnershipRequest>(request);
        survives::<_, v1::KnownPeer>(KnownPeer { volume: VOLUME, wish });
    }
    for mode in [DetachMode::Clean, DetachMode::KeepJournal] {
        survives::<_, v1::ReleaseOwnershipRequest>(ReleaseOwnership {
            request: REQUEST,
            volume: VOLUME,
            epoch: Epoch::new(4),
            caller: caller(),
            mode,
            last_commit: CommitNumber::new(9),
        });
    }
    survives::<_, v1::LeavePeersRequest>(LeavePeers { volume: VOLUME, caller: caller() });
    let node = Selector::Id(NodeId::new(3));
    survives::<_, v1::RemovePeerRequest>(RemovePeer { volume: volume(), node });
}

#[test]
fn who_owns_a_volume_survives_the_wire() {
    let holder = volume().holder.expect("it has one");
    survives::<_, v1::RequestOwnershipResponse>(Ownership::Waiting(holder));
    survives::<_, v1::RequestOwnershipResponse>(Ownership::Unowned);
    survives::<_, v1::RequestOwnershipResponse>(Ownership::Owned(Box::new(attachment())));
}

#[test]
fn a_bad_field_of_a_peer_request_is_named() {
    let wish = OwnershipWish::Waiting;
    let request = RequestOwnership { volume: VOLUME, caller: caller(), wish };
    type Wire = v1::RequestOwnershipRequest;
    for (field, spoil) in [
        ("wish", (|wire: &mut Wire| wire.wish = 0) as fn(&mut Wire)),
        ("wish", |wire| wire.wish = 9),
        ("volume_id", |wire| wire.volume_id.clear()),
        ("caller", |wire| wire.caller = None),
    ] {
        assert_eq!(bad_field::<_, RequestOwnership>(&request.into(), spoil), field);
    }
}
