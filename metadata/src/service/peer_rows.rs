//! Who the peers of a volume are, and which of them are still there.
//!
//! Invariants:
//! - a volume with live peers is attached to nobody alone, rolled back by nobody and not deleted:
//!   its devices would show what is not there any more;
//! - a peer that is gone counts no more, and its row goes when it is in the way. Only the owner's
//!   needs a proof;
//! - what belongs to a volume because it has peers goes with the last of them.
//!
//! Deliberately absent: who of them owns the volume (`peers`).

use lunar_proto::domain::Peer;
use lunar_types::{NodeId, NodeIncarnation, PoolId, VolumeId};

use super::incarnations::{is_free_of, is_live};
use super::space::free_extents;
use crate::error::{Names, PeerError, ServiceError};
use crate::keyspace::{
    AttachmentKey, KeyedTxn, MigrationKey, NodeKey, NodePeerKey, PeerKey, PeerRecord, peers_of,
};
use crate::store::Txn;

/// Rows that one transaction looks at.
const ROWS_MAX: usize = 10_000;

pub(super) const fn incarnation_of(key: &PeerKey, record: &PeerRecord) -> NodeIncarnation {
    NodeIncarnation { node: key.node, incarnation: record.incarnation }
}

pub(super) const fn node_key(node: NodeIncarnation, volume: VolumeId) -> NodePeerKey {
    NodePeerKey { node: node.node, incarnation: node.incarnation, volume }
}

pub(super) async fn all_peers<T: Txn>(
    txn: &T,
    volume: VolumeId,
) -> Result<Vec<(PeerKey, PeerRecord)>, ServiceError> {
    txn.scan(&peers_of(volume), ROWS_MAX).await
}

pub(super) async fn is_there<T: Txn>(txn: &T, node: NodeIncarnation) -> Result<bool, ServiceError> {
    let record = txn.load_known(&NodeKey { node: node.node }).await?;
    Ok(is_live(&record, node))
}

/// The live incarnation of a node that is a peer of a volume.
pub(super) async fn live_peer_of<T: Txn>(
    txn: &T,
    volume: VolumeId,
    node: NodeId,
) -> Result<Option<NodeIncarnation>, ServiceError> {
    let key = PeerKey { volume, node };
    let Some(record) = txn.load(&key).await? else { return Ok(None) };
    let peer = incarnation_of(&key, &record);
    Ok(if is_there(txn, peer).await? { Some(peer) } else { None })
}

pub(super) fn remove_peer<T: Txn>(txn: &T, node: NodeIncarnation, volume: VolumeId) {
    txn.remove(&PeerKey { volume, node: node.node });
    txn.remove(&node_key(node, volume));
}

/// Ends what belongs to a volume with peers when it has none any more.
pub(super) async fn end_if_deserted<T: Txn>(
    txn: &T,
    volume: VolumeId,
    pool: PoolId,
) -> Result<(), ServiceError> {
    let key = MigrationKey { volume };
    let Some(migration) = txn.load(&key).await? else { return Ok(()) };
    if all_peers(txn, volume).await?.is_empty() {
        free_extents(txn, pool, &migration.spare_journal).await?;
        txn.remove(&key);
    }
    Ok(())
}

/// Forgets the peers that are gone and own nothing; gives those that are left.
pub(super) async fn live_peers<T: Txn>(
    txn: &T,
    volume: VolumeId,
    pool: PoolId,
) -> Result<Vec<(PeerKey, PeerRecord)>, ServiceError> {
    let owner = txn.load(&AttachmentKey { volume }).await?.map(|held| held.node);
    let mut left = Vec::new();
    for (key, record) in all_peers(txn, volume).await? {
        let node = incarnation_of(&key, &record);
        if owner == Some(node) || is_there(txn, node).await? {
            left.push((key, record));
        } else {
            remove_peer(txn, node, volume);
        }
    }
    end_if_deserted(txn, volume, pool).await?;
    Ok(left)
}

pub(super) async fn names_of<T: Txn>(
    txn: &T,
    peers: &[(PeerKey, PeerRecord)],
) -> Result<Names, ServiceError> {
    let mut names = Vec::with_capacity(peers.len());
    for (key, _) in peers {
        names.push(txn.load_known(&NodeKey { node: key.node }).await?.name);
    }
    Ok(Names(names))
}

/// Refuses what cannot be done to a volume of which nodes have devices. Those that are gone are in
/// nobody's way; [`forget_gone_peers`] forgets them, when the caller has seen to the owner's grant.
pub(super) async fn require_no_peers<T: Txn>(
    txn: &T,
    volume: VolumeId,
    pool: PoolId,
    wanted: &'static str,
) -> Result<(), ServiceError> {
    let owner = txn.load(&AttachmentKey { volume }).await?.map(|held| held.node);
    let mut there = Vec::new();
    for (key, record) in all_peers(txn, volume).await? {
        let node = incarnation_of(&key, &record);
        // Only an owner that is gone may have something under way.
        let is_owner = owner == Some(node) && !is_free_of(txn, pool, node).await?;
        if is_owner || is_there(txn, node).await? {
            there.push((key, record));
        }
    }
    if there.is_empty() {
        return Ok(());
    }
    let peers = names_of(txn, &there).await?;
    Err(PeerError::Shared { volume, peers, wanted }.into())
}

/// Forgets the peers that are gone and own nothing.
pub(super) async fn forget_gone_peers<T: Txn>(
    txn: &T,
    volume: VolumeId,
    pool: PoolId,
) -> Result<(), ServiceError> {
    live_peers(txn, volume, pool).await.map(|_| ())
}

/// The peers of a volume as clients are told, and how often it has changed hands.
pub(super) async fn peers_view<T: Txn>(
    txn: &T,
    volume: VolumeId,
) -> Result<(Vec<Peer>, u64), ServiceError> {
    let Some(migration) = txn.load(&MigrationKey { volume }).await? else {
        return Ok((Vec::new(), 0));
    };
    let mut peers = Vec::new();
    for (key, record) in all_peers(txn, volume).await? {
        let of_node = txn.load_known(&NodeKey { node: key.node }).await?;
        let node = incarnation_of(&key, &record);
        peers.push(Peer {
            node,
            live: is_live(&of_node, node),
            wishes: record.wish > 0 && of_node.session == record.session,
            node_name: of_node.name,
            since: record.since,
        });
    }
    Ok((peers, migration.moves))
}
