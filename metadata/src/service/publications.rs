//! Publications: the leave of a controller for a node to attach a volume (docs/csi.md).
//!
//! Invariants:
//! - P1: a volume that has publications is granted to a node of one of them alone, by its id, and
//!   a recalled one grants nothing. Every way to a grant looks at it in its own transaction;
//! - P2: a volume has one publication, or two of mode migratable, of different nodes;
//! - P3: a row goes only in a transaction that sees that its node holds nothing of the volume;
//! - P5: an id is never used again;
//! - P6: what is published is neither deleted nor attached by hand, and what a node has by hand is
//!   not published.
//!
//! Deliberately absent: who takes a volume from a node. One that lives detaches it when it hears of
//! the recall, one that does not is fenced by its silence.

use std::sync::Arc;

use lunar_proto::domain::{
    LeftPublication, PEERS_MAX, Publication, PublicationMode, PublishVolume, Recall, Selector,
    UnpublishVolume, VolumeState,
};
use lunar_types::{NodeId, NodeIncarnation, PublicationId, VolumeId};

use super::Service;
use super::attachments::require_free;
use super::incarnations::{fencing_of, is_free_of, life_of};
use super::nodes::find_node;
use super::peer_rows::{live_peer_of, require_no_peers};
use super::volumes::find_volume;
use crate::error::{Names, PublicationError, ServiceError};
use crate::keyspace::{
    AttachmentKey, KeyedTxn, NodeKey, Present, PublicationKey, PublicationRecord, RecallKey,
    VolumeRecord, publications_of, recalls_of,
};
use crate::store::{MetaStore, Txn};

type Row = (PublicationKey, PublicationRecord);

async fn rows_of<T: Txn>(txn: &T, volume: VolumeId) -> Result<Vec<Row>, ServiceError> {
    // One more than there may be: a check names it, and nothing overlooks it.
    txn.scan(&publications_of(volume), PEERS_MAX + 1).await
}

async fn names_of<T: Txn>(
    txn: &T,
    rows: impl IntoIterator<Item = &Row>,
) -> Result<Names, ServiceError> {
    let mut names = Vec::new();
    for (key, _) in rows {
        names.push(txn.load_known(&NodeKey { node: key.node }).await?.name);
    }
    Ok(Names(names))
}

async fn view<T: Txn>(
    txn: &T,
    (key, record): (PublicationKey, PublicationRecord),
) -> Result<Publication, ServiceError> {
    let PublicationRecord { id, mode, reads_only, recalled, since } = record;
    let node = key.node;
    let node_name = txn.load_known(&NodeKey { node }).await?.name;
    Ok(Publication { id, node, node_name, mode, reads_only, recalled, since })
}

/// The publications of a volume as clients are told.
pub(super) async fn publications_view<T: Txn>(
    txn: &T,
    volume: VolumeId,
) -> Result<Vec<Publication>, ServiceError> {
    let mut told = Vec::new();
    for row in rows_of(txn, volume).await? {
        told.push(view(txn, row).await?);
    }
    Ok(told)
}

/// Refuses what cannot be done to a volume that is published.
pub(super) async fn require_unpublished<T: Txn>(
    txn: &T,
    volume: VolumeId,
    wanted: &'static str,
) -> Result<(), ServiceError> {
    let rows = rows_of(txn, volume).await?;
    if rows.is_empty() {
        return Ok(());
    }
    let nodes = names_of(txn, &rows).await?;
    Err(PublicationError::Published { volume, nodes, wanted }.into())
}

/// How a node says that it may have a volume.
#[derive(Clone, Copy)]
pub(super) enum Leave {
    /// With this publication, or by hand.
    Given(Option<PublicationId>),
    /// It was let in before.
    Standing,
}

/// Refuses a node that has no leave for a volume that is published (P1).
pub(super) async fn require_leave<T: Txn>(
    txn: &T,
    volume: VolumeId,
    node: NodeIncarnation,
    leave: Leave,
) -> Result<(), ServiceError> {
    let rows = rows_of(txn, volume).await?;
    let own = rows.iter().find(|(key, _)| key.node == node.node).map(|(_, record)| record);
    let has_leave = match leave {
        Leave::Given(None) | Leave::Standing if rows.is_empty() => true,
        Leave::Given(Some(_)) if rows.is_empty() => {
            return Err(PublicationError::Unpublished { volume }.into());
        }
        Leave::Given(given) => own.is_some_and(|own| !own.recalled && Some(own.id) == given),
        Leave::Standing => own.is_some_and(|own| !own.recalled),
    };
    if has_leave {
        return Ok(());
    }
    let nodes = names_of(txn, &rows).await?;
    Err(PublicationError::NotPublished { volume, nodes }.into())
}

fn remove_row<T: Txn>(txn: &T, volume: VolumeId, node: NodeId) {
    txn.remove(&PublicationKey { volume, node });
    txn.remove(&RecallKey { node, volume });
}

/// Who of a node holds a volume, if he may still write to it or waits for it.
async fn hold_of<T: Txn>(
    txn: &T,
    volume: VolumeId,
    record: &VolumeRecord,
    node: NodeId,
) -> Result<Option<NodeIncarnation>, ServiceError> {
    let held = txn.load(&AttachmentKey { volume }).await?.map(|held| held.node);
    if let Some(holder) = held.filter(|holder| holder.node == node)
        && !is_free_of(txn, record.pool, holder).await?
    {
        return Ok(Some(holder));
    }
    live_peer_of(txn, volume, node).await
}

/// Takes a recalled publication away when its node holds nothing any more: with the last hold, so
/// that nothing can come between.
pub(super) async fn end_recalled<T: Txn>(
    txn: &T,
    volume: VolumeId,
    record: &VolumeRecord,
    node: NodeId,
) -> Result<(), ServiceError> {
    let row = txn.load(&PublicationKey { volume, node }).await?;
    if row.is_some_and(|row| row.recalled) && hold_of(txn, volume, record, node).await?.is_none() {
        remove_row(txn, volume, node);
    }
    Ok(())
}

async fn publish<T: Txn>(
    txn: &T,
    request: &PublishVolume,
    id: PublicationId,
    now: u64,
) -> Result<Publication, ServiceError> {
    let PublishVolume { volume, node, mode, reads_only } = request;
    let (volume, record) = find_volume(txn, volume).await?;
    if record.state == VolumeState::Deleting {
        return Err(ServiceError::VolumeNotFound { volume: volume.to_string() });
    }
    let (node, of_node) = find_node(txn, node).await?;
    let name = of_node.name;
    for (key, _) in rows_of(txn, volume).await? {
        // A fence takes no row away: whoever meets it does.
        end_recalled(txn, volume, &record, key.node).await?;
    }
    let rows = rows_of(txn, volume).await?;
    let (own, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(key, _)| key.node == node);
    if let Some((key, there)) = own.into_iter().next() {
        if there.recalled {
            return Err(PublicationError::Recalled { volume, node: name }.into());
        }
        if there.mode != *mode || there.reads_only != *reads_only {
            let told = |mode, reads_only| {
                format!("{mode}{}", if reads_only { ", for reading" } else { "" })
            };
            let wanted = told(*mode, *reads_only);
            let there = told(there.mode, there.reads_only);
            return Err(PublicationError::Otherwise { volume, node: name, there, wanted }.into());
        }
        return view(txn, (key, there)).await;
    }
    let is_shared = |mode: PublicationMode| mode == PublicationMode::Migratable;
    let has_room = others.len() < PEERS_MAX
        && is_shared(*mode)
        && others.iter().all(|(_, other)| is_shared(other.mode));
    if others.is_empty() {
        if let Some(held) = txn.load(&AttachmentKey { volume }).await? {
            require_free(txn, volume, record.pool, &held).await?;
        }
        require_no_peers(txn, volume, record.pool, "published").await?;
    } else if !has_room {
        let (nodes, wanted) = (names_of(txn, &others).await?, "published to another node");
        return Err(PublicationError::Published { volume, nodes, wanted }.into());
    }
    let (key, mode, reads_only) = (PublicationKey { volume, node }, *mode, *reads_only);
    let made = PublicationRecord { id, mode, reads_only, recalled: false, since: now };
    txn.put(&key, &made);
    view(txn, (key, made)).await
}

async fn why_left<T: Txn>(
    txn: &T,
    record: &VolumeRecord,
    holder: NodeIncarnation,
) -> Result<String, ServiceError> {
    let name = txn.load_known(&NodeKey { node: holder.node }).await?.name;
    let advice =
        life_of(txn, holder).await?.advice(fencing_of(txn, record.pool).await?, name.as_str());
    Ok(format!("node '{name}' holds it and was told to detach it: {advice}"))
}

/// Gives what is left, and whether anything has changed.
async fn unpublish<T: Txn>(
    txn: &T,
    request: &UnpublishVolume,
) -> Result<(Vec<LeftPublication>, bool), ServiceError> {
    let (mut left, mut is_changed) = (Vec::new(), false);
    let found = match find_volume(txn, &request.volume).await {
        Err(ServiceError::VolumeNotFound { .. }) => return Ok((left, is_changed)),
        found => found?,
    };
    let (volume, record) = found;
    let only = match &request.node {
        None => None,
        Some(node) => match find_node(txn, node).await {
            Err(ServiceError::NodeNotFound { .. }) => return Ok((left, is_changed)),
            found => Some(found?.0),
        },
    };
    for (key, row) in rows_of(txn, volume).await? {
        let is_meant = request.only.is_empty() || request.only.contains(&row.id);
        if !is_meant || only.is_some_and(|only| only != key.node) {
            continue;
        }
        let node = key.node;
        let Some(holder) = hold_of(txn, volume, &record, node).await? else {
            remove_row(txn, volume, node);
            is_changed = true;
            continue;
        };
        is_changed |= !row.recalled;
        let row = PublicationRecord { recalled: true, ..row };
        txn.put(&key, &row);
        txn.put(&RecallKey { node, volume }, &Present {});
        let why = why_left(txn, &record, holder).await?;
        left.push(LeftPublication { publication: view(txn, (key, row)).await?, why });
    }
    Ok((left, is_changed))
}

/// The recalled publications of which this incarnation still has the volume.
pub(super) async fn recalls_to<T: Txn>(
    txn: &T,
    node: NodeIncarnation,
    most: usize,
) -> Result<Vec<Recall>, ServiceError> {
    let mut told = Vec::new();
    for (RecallKey { volume, .. }, _) in txn.scan(&recalls_of(node.node), most).await? {
        let held = txn.load(&AttachmentKey { volume }).await?;
        let is_holder = held.is_some_and(|held| held.node == node);
        if !is_holder && live_peer_of(txn, volume, node.node).await? != Some(node) {
            continue;
        }
        let row = txn.load_known(&PublicationKey { volume, node: node.node }).await?;
        told.push(Recall { volume, publication: row.id });
    }
    Ok(told)
}

impl<S: MetaStore> Service<S> {
    /// Gives a node the leave to attach a volume.
    ///
    /// # Errors
    /// There is no such volume or node, the node has it in another way or is to give it back,
    /// another node has it, or a node has it by hand.
    pub async fn publish_volume(
        &self,
        request: &PublishVolume,
    ) -> Result<Publication, ServiceError> {
        let id = PublicationId::from_u128(self.seams.ids.next());
        let now = self.seams.clock.unix_seconds();
        let put = |txn: Arc<S::Txn>| async move { publish(&*txn, request, id, now).await };
        self.store.transact(put).await
    }

    /// Takes publications back, and gives those that their nodes have to let go first.
    ///
    /// # Errors
    /// The store fails.
    pub async fn unpublish_volume(
        &self,
        request: &UnpublishVolume,
    ) -> Result<Vec<LeftPublication>, ServiceError> {
        let take = |txn: Arc<S::Txn>| async move { unpublish(&*txn, request).await };
        let (left, is_changed) = self.store.transact(take).await?;
        if is_changed {
            self.sets_changed();
        }
        Ok(left)
    }

    /// The publications of a volume.
    ///
    /// # Errors
    /// There is no such volume.
    pub async fn publications(
        &self,
        volume: &Selector<VolumeId>,
    ) -> Result<Vec<Publication>, ServiceError> {
        self.read(|txn| async move {
            let (volume, _) = find_volume(&*txn, volume).await?;
            publications_view(&*txn, volume).await
        })
        .await
    }
}
