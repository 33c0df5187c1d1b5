//! Peers of volumes on the wire.

use lunar_types::CommitNumber;

use super::volumes::{detach_mode, granted_epoch};
use super::{Checked, given, nested, parsed, selector, told};
use crate::domain::{
    AddPeer, KnownPeer, LeavePeers, Ownership, OwnershipWish, Peer, ReleaseOwnership, RemovePeer,
    RequestOwnership,
};
use crate::error::FieldError;
use crate::v1;

fn wish(field: &str, raw: i32) -> Checked<OwnershipWish> {
    match v1::OwnershipWish::try_from(raw) {
        Ok(v1::OwnershipWish::None) => Ok(OwnershipWish::None),
        Ok(v1::OwnershipWish::Waiting) => Ok(OwnershipWish::Waiting),
        Ok(v1::OwnershipWish::Urgent) => Ok(OwnershipWish::Urgent),
        Ok(v1::OwnershipWish::Unspecified) | Err(_) => {
            Err(FieldError::new(field, format_args!("{raw} is no wish for a volume")))
        }
    }
}

impl From<OwnershipWish> for v1::OwnershipWish {
    fn from(wish: OwnershipWish) -> Self {
        match wish {
            OwnershipWish::None => Self::None,
            OwnershipWish::Waiting => Self::Waiting,
            OwnershipWish::Urgent => Self::Urgent,
        }
    }
}

impl TryFrom<v1::Peer> for Peer {
    type Error = FieldError;

    fn try_from(wire: v1::Peer) -> Checked<Self> {
        Ok(Self {
            node: nested("node", wire.node)?,
            node_name: parsed("node_name", &wire.node_name)?,
            live: wire.live,
            wishes: wire.wishes,
            since: wire.since_unix_seconds,
        })
    }
}

impl From<Peer> for v1::Peer {
    fn from(peer: Peer) -> Self {
        Self {
            node: Some(peer.node.into()),
            node_name: peer.node_name.to_string(),
            live: peer.live,
            wishes: peer.wishes,
            since_unix_seconds: peer.since,
        }
    }
}

impl TryFrom<v1::AddPeerRequest> for AddPeer {
    type Error = FieldError;

    fn try_from(wire: v1::AddPeerRequest) -> Checked<Self> {
        Ok(Self {
            volume: selector("volume", wire.volume)?,
            caller: nested("caller", wire.caller)?,
            understands_layers: wire.understands_layers,
            accept_restored: wire.accept_restored,
            publication: given("publication_id", &wire.publication_id)?,
        })
    }
}

impl From<AddPeer> for v1::AddPeerRequest {
    fn from(request: AddPeer) -> Self {
        Self {
            volume: Some(request.volume.into()),
            caller: Some(request.caller.into()),
            understands_layers: request.understands_layers,
            accept_restored: request.accept_restored,
            publication_id: told(request.publication),
        }
    }
}

impl TryFrom<v1::RequestOwnershipRequest> for RequestOwnership {
    type Error = FieldError;

    fn try_from(wire: v1::RequestOwnershipRequest) -> Checked<Self> {
        Ok(Self {
            volume: parsed("volume_id", &wire.volume_id)?,
            caller: nested("caller", wire.caller)?,
            wish: wish("wish", wire.wish)?,
        })
    }
}

impl From<RequestOwnership> for v1::RequestOwnershipRequest {
    /// Without a wait.
    fn from(request: RequestOwnership) -> Self {
        Self {
            volume_id: request.volume.to_string(),
            caller: Some(request.caller.into()),
            wish: v1::OwnershipWish::from(request.wish).into(),
            wait_ms: 0,
        }
    }
}

impl TryFrom<v1::RequestOwnershipResponse> for Ownership {
    type Error = FieldError;

    fn try_from(wire: v1::RequestOwnershipResponse) -> Checked<Self> {
        match (wire.owned, wire.owner) {
            (Some(owned), None) => Ok(Self::Owned(Box::new(nested("owned", Some(owned))?))),
            (None, Some(owner)) => Ok(Self::Waiting(nested("owner", Some(owner))?)),
            (None, None) => Ok(Self::Unowned),
            (Some(_), Some(_)) => Err(FieldError::new("owner", "the caller owns the volume")),
        }
    }
}

impl From<Ownership> for v1::RequestOwnershipResponse {
    fn from(ownership: Ownership) -> Self {
        match ownership {
            Ownership::Owned(owned) => Self { owned: Some((*owned).into()), owner: None },
            Ownership::Waiting(owner) => Self { owned: None, owner: Some(owner.into()) },
            Ownership::Unowned => Self { owned: None, owner: None },
        }
    }
}

impl TryFrom<v1::ReleaseOwnershipRequest> for ReleaseOwnership {
    type Error = FieldError;

    fn try_from(wire: v1::ReleaseOwnershipRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            volume: parsed("volume_id", &wire.volume_id)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
            caller: nested("caller", wire.caller)?,
            mode: detach_mode("mode", wire.mode)?,
            last_commit: CommitNumber::new(wire.last_commit),
        })
    }
}

impl From<ReleaseOwnership> for v1::ReleaseOwnershipRequest {
    fn from(request: ReleaseOwnership) -> Self {
        Self {
            request_id: request.request.to_string(),
            volume_id: request.volume.to_string(),
            epoch: request.epoch.get(),
            caller: Some(request.caller.into()),
            mode: v1::DetachMode::from(request.mode).into(),
            last_commit: request.last_commit.get(),
        }
    }
}

impl TryFrom<v1::LeavePeersRequest> for LeavePeers {
    type Error = FieldError;

    fn try_from(wire: v1::LeavePeersRequest) -> Checked<Self> {
        let volume = parsed("volume_id", &wire.volume_id)?;
        Ok(Self { volume, caller: nested("caller", wire.caller)? })
    }
}

impl From<LeavePeers> for v1::LeavePeersRequest {
    fn from(LeavePeers { volume, caller }: LeavePeers) -> Self {
        Self { volume_id: volume.to_string(), caller: Some(caller.into()) }
    }
}

impl TryFrom<v1::RemovePeerRequest> for RemovePeer {
    type Error = FieldError;

    fn try_from(wire: v1::RemovePeerRequest) -> Checked<Self> {
        Ok(Self { volume: selector("volume", wire.volume)?, node: selector("node", wire.node)? })
    }
}

impl From<RemovePeer> for v1::RemovePeerRequest {
    fn from(RemovePeer { volume, node }: RemovePeer) -> Self {
        Self { volume: Some(volume.into()), node: Some(node.into()) }
    }
}

impl TryFrom<v1::KnownPeer> for KnownPeer {
    type Error = FieldError;

    fn try_from(wire: v1::KnownPeer) -> Checked<Self> {
        let volume = parsed("volume_id", &wire.volume_id)?;
        Ok(Self { volume, wish: wish("wish", wire.wish)? })
    }
}

impl From<KnownPeer> for v1::KnownPeer {
    fn from(KnownPeer { volume, wish }: KnownPeer) -> Self {
        Self { volume_id: volume.to_string(), wish: v1::OwnershipWish::from(wish).into() }
    }
}
