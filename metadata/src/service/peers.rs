//! Volumes that two nodes have for a live migration, and who of them owns the volume.
//!
//! Invariants (docs/migration.md):
//! - the owner is the peer that has the attachment: what is checked of a holder is checked of it,
//!   and a peer without one may write nothing;
//! - M4: an epoch is granted to who asks for it himself; who owns the volume already is given the
//!   grant that there is, so that one whose answer was lost is found;
//! - the journal's extents stay with a volume that changes hands: a pool that fills up meanwhile
//!   takes it from nobody.

use std::sync::Arc;

use lunar_proto::domain::{
    AddPeer, DetachMode, Holder, KnownPeer, LeavePeers, Ownership, OwnershipWish, PEERS_MAX,
    ReleaseOwnership, RemovePeer, RequestOwnership, ResumeAttachment, Selector, Volume,
};
use lunar_types::{Epoch, ExtentRun, NodeIncarnation, NodeSession, PoolId, VolumeId};

use super::Service;
use super::attachments::{
    attachable, end_clean, grant, leave_journal, require_attachable_by, require_attachment,
    require_free, require_ready, take_over,
};
use super::geometry::PoolGeometry;
use super::incarnations::{is_free_of, is_live};
use super::nodes::{find_node, require_session};
use super::peer_rows::{
    all_peers, end_if_deserted, forget_gone_peers, incarnation_of, live_peers, names_of, node_key,
    remove_peer,
};
use super::publications::{Leave, end_recalled, require_leave};
use super::registrations::require_registered;
use super::sets::leave_set;
use super::space::free_extents;
use super::volumes::{find_volume, holder_of};
use super::wishes::Wishes;
use crate::error::{PeerError, ServiceError};
use crate::keyspace::{
    AttachmentKey, AttachmentRecord, Content, KeyedTxn, MigrationKey, MigrationRecord, NodeKey,
    NodePeerKey, PeerKey, PeerRecord, Present, VolumeKey, VolumeRecord, peers_of_node,
};
use crate::store::{MetaStore, Txn};

/// What is left of a peer that detaches; `journal` is free, if it was ended cleanly.
pub(super) async fn leave_with<T: Txn>(
    txn: &T,
    volume: VolumeId,
    pool: PoolId,
    node: NodeIncarnation,
    journal: &[ExtentRun],
) -> Result<(), ServiceError> {
    remove_peer(txn, node, volume);
    let key = MigrationKey { volume };
    match txn.load(&key).await? {
        Some(migration) if !all_peers(txn, volume).await?.is_empty() => {
            keep_spare(txn, pool, key, migration, journal).await
        }
        _ => {
            free_extents(txn, pool, journal).await?;
            end_if_deserted(txn, volume, pool).await
        }
    }
}

/// Keeps the extents of a journal for the next owner's.
async fn keep_spare<T: Txn>(
    txn: &T,
    pool: PoolId,
    key: MigrationKey,
    migration: MigrationRecord,
    journal: &[ExtentRun],
) -> Result<(), ServiceError> {
    if !migration.spare_journal.is_empty() || journal.is_empty() {
        return free_extents(txn, pool, journal).await;
    }
    txn.put(&key, &MigrationRecord { spare_journal: journal.to_vec(), ..migration });
    Ok(())
}

async fn add_peer<T: Txn>(txn: &T, request: &AddPeer, now: u64) -> Result<VolumeId, ServiceError> {
    let node = request.caller.node;
    let (volume, record) =
        attachable(txn, request.caller, &request.volume, request.accept_restored).await?;
    let pool = record.pool;
    require_leave(txn, volume, node, Leave::Given(request.publication)).await?;
    require_registered(txn, node, &PoolGeometry::load(txn, pool).await?).await?;
    if let Some(held) = txn.load(&AttachmentKey { volume }).await?
        && is_free_of(txn, pool, held.node).await?
    {
        // Who is gone counts no more, also if it owned the volume.
        take_over(txn, volume, pool).await?;
    }
    let peers = live_peers(txn, volume, pool).await?;
    // Its former incarnation may still own the volume: that is taken over when it asks for it.
    let (former, peers): (Vec<_>, Vec<_>) = peers
        .into_iter()
        .partition(|(key, record)| key.node == node.node && record.incarnation != node.incarnation);
    let is_peer =
        |of: NodeIncarnation| peers.iter().any(|(key, record)| incarnation_of(key, record) == of);
    if is_peer(node) {
        return Ok(volume);
    }
    if let Some(held) = txn.load(&AttachmentKey { volume }).await?
        && !is_peer(held.node)
    {
        require_free(txn, volume, pool, &held).await?;
    }
    if peers.len() >= PEERS_MAX {
        let peers = names_of(txn, &peers).await?;
        return Err(PeerError::Full { volume, peers }.into());
    }
    for (key, record) in &former {
        remove_peer(txn, incarnation_of(key, record), volume);
    }
    txn.put(&VolumeKey { volume }, &record);
    let peer = PeerRecord {
        incarnation: node.incarnation,
        since: now,
        wish: 0,
        session: request.caller.number,
        is_urgent: false,
    };
    txn.put(&PeerKey { volume, node: node.node }, &peer);
    txn.put(&node_key(node, volume), &Present {});
    let key = MigrationKey { volume };
    if txn.load(&key).await?.is_none() {
        txn.put(&key, &MigrationRecord { moves: 0, spare_journal: Vec::new() });
    }
    Ok(volume)
}

/// What a request for ownership has found.
enum Asked {
    Owned(Epoch),
    /// The caller was given the volume by this very request.
    Granted(Epoch),
    Waiting(Holder),
    Unowned,
}

/// What a request has found, and whether it was news that it is wanted.
type Told = (Asked, bool);

/// A request for ownership, and what this process has heard.
struct Asking<'a> {
    request: RequestOwnership,
    wishes: &'a Wishes,
    now: std::time::Duration,
    unix_seconds: u64,
}

/// The peer that the caller is.
async fn require_peer<T: Txn>(
    txn: &T,
    volume: VolumeId,
    caller: NodeSession,
) -> Result<PeerRecord, ServiceError> {
    let node = caller.node;
    let found = txn.load(&PeerKey { volume, node: node.node }).await?;
    let own = found.filter(|peer| peer.incarnation == node.incarnation);
    own.ok_or_else(|| PeerError::NotFound { volume, node }.into())
}

impl Asking<'_> {
    async fn ask<T: Txn>(&self, txn: &T) -> Result<Told, ServiceError> {
        let RequestOwnership { volume, caller, wish } = self.request;
        require_session(txn, caller).await?;
        let record = txn.load(&VolumeKey { volume }).await?;
        let record =
            record.ok_or_else(|| ServiceError::VolumeNotFound { volume: volume.to_string() })?;
        let own = require_peer(txn, volume, caller).await?;
        let held = txn.load(&AttachmentKey { volume }).await?;
        if let Some(held) = held.as_ref().filter(|held| held.node == caller.node) {
            self.forget_wish(txn, own);
            return Ok((Asked::Owned(held.epoch), false));
        }
        let owner = match held {
            Some(held) if !is_free_of(txn, record.pool, held.node).await? => Some(held),
            _ => None,
        };
        let mut is_news = false;
        if wish != OwnershipWish::None {
            // A wish of who cannot be given the volume would take it from its owner for nothing.
            require_attachable_by(txn, caller).await?;
            require_ready(volume, &record)?;
            require_leave(txn, volume, caller.node, Leave::Standing).await?;
            let geometry = PoolGeometry::load(txn, record.pool).await?;
            require_registered(txn, caller.node, &geometry).await?;
            if owner.is_none() && !self.is_kept_for_another(txn, &own).await? {
                return Ok((self.give(txn, record, &geometry, own).await?, true));
            }
            is_news = self.note_wish(txn, own).await?;
        }
        let asked = match owner {
            Some(held) => Asked::Waiting(holder_of(txn, record.pool, &held).await?),
            None => Asked::Unowned,
        };
        Ok((asked, is_news))
    }

    fn own_key(&self) -> PeerKey {
        PeerKey { volume: self.request.volume, node: self.request.caller.node.node }
    }

    fn forget_wish<T: Txn>(&self, txn: &T, own: PeerRecord) {
        if own.wish > 0 {
            txn.put(&self.own_key(), &PeerRecord { wish: 0, is_urgent: false, ..own });
        }
    }

    /// Says whether it was not known so far.
    async fn note_wish<T: Txn>(&self, txn: &T, own: PeerRecord) -> Result<bool, ServiceError> {
        let session = self.request.caller.number;
        let is_urgent = self.request.wish == OwnershipWish::Urgent;
        let mut noted =
            PeerRecord { session, is_urgent: own.is_urgent || is_urgent, ..own.clone() };
        if own.wish == 0 || own.session != session {
            let peers = all_peers(txn, self.request.volume).await?;
            noted.wish = peers.iter().map(|(_, peer)| peer.wish).max().unwrap_or(0) + 1;
            noted.is_urgent = is_urgent;
        }
        let is_news = noted != own;
        if is_news {
            txn.put(&self.own_key(), &noted);
        }
        Ok(is_news)
    }

    /// Whether another peer has asked first and may still come for the volume. Who has just
    /// released it has requests waiting too, and would win every race.
    async fn is_kept_for_another<T: Txn>(
        &self,
        txn: &T,
        own: &PeerRecord,
    ) -> Result<bool, ServiceError> {
        let RequestOwnership { volume, caller, .. } = self.request;
        for (key, peer) in all_peers(txn, volume).await? {
            let is_first = peer.wish > 0 && (own.wish == 0 || peer.wish < own.wish);
            if key.node != caller.node.node
                && is_first
                && is_wish_alive(txn, (&key, &peer), self.wishes, self.now).await?
                && self.wishes.is_kept(volume, self.now)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn give<T: Txn>(
        &self,
        txn: &T,
        mut record: VolumeRecord,
        geometry: &PoolGeometry,
        own: PeerRecord,
    ) -> Result<Asked, ServiceError> {
        let RequestOwnership { volume, caller, .. } = self.request;
        take_over(txn, volume, record.pool).await?;
        forget_gone_peers(txn, volume, record.pool).await?;
        leave_set(txn, volume, &mut record, "volume-moved").await?;
        // Only raw block is had by several nodes: what its user writes there is not known.
        record.content = Content::Used;
        let key = MigrationKey { volume };
        let migration = txn.load_known(&key).await?;
        let spare = migration.spare_journal;
        let granted =
            grant(txn, (volume, record), geometry, (caller.node, self.unix_seconds), spare).await?;
        let moves = migration.moves + 1;
        txn.put(&key, &MigrationRecord { moves, spare_journal: Vec::new() });
        self.forget_wish(txn, own);
        Ok(Asked::Granted(granted))
    }
}

/// Whether a wish is one of a process that still is there and repeats it.
async fn is_wish_alive<T: Txn>(
    txn: &T,
    (key, peer): (&PeerKey, &PeerRecord),
    wishes: &Wishes,
    now: std::time::Duration,
) -> Result<bool, ServiceError> {
    let of_node = txn.load_known(&NodeKey { node: key.node }).await?;
    let is_there = is_live(&of_node, incarnation_of(key, peer)) && of_node.session == peer.session;
    Ok(is_there && wishes.is_fresh(key.volume, key.node, now))
}

async fn release<T: Txn>(txn: &T, request: &ReleaseOwnership) -> Result<(), ServiceError> {
    let ReleaseOwnership { volume, epoch, caller, mode, last_commit, .. } = *request;
    let (mut record, held) = require_attachment(txn, volume, epoch, caller).await?;
    require_peer(txn, volume, caller).await?;
    leave_set(txn, volume, &mut record, "volume-moved").await?;
    let unused = match mode {
        DetachMode::KeepJournal => leave_journal(txn, volume, &held).await?,
        DetachMode::Clean => {
            let (last, given) = (held.last_commit, last_commit);
            if last != given {
                return Err(ServiceError::CommitOutOfOrder { volume, epoch, last, given });
            }
            end_clean(txn, volume, caller.node, "give the volume away").await?;
            held.journal
        }
    };
    let key = MigrationKey { volume };
    let migration = txn.load_known(&key).await?;
    keep_spare(txn, record.pool, key, migration, &unused).await
}

async fn leave<T: Txn>(txn: &T, request: LeavePeers) -> Result<(), ServiceError> {
    let LeavePeers { volume, caller } = request;
    require_session(txn, caller).await?;
    let Some(record) = txn.load(&VolumeKey { volume }).await? else { return Ok(()) };
    let held = txn.load(&AttachmentKey { volume }).await?;
    if let Some(held) = held.filter(|held| held.node == caller.node) {
        let (node, held) = (held.node, held.epoch);
        return Err(PeerError::Owns { volume, node, held }.into());
    }
    if require_peer(txn, volume, caller).await.is_ok() {
        remove_peer(txn, caller.node, volume);
        end_if_deserted(txn, volume, record.pool).await?;
    }
    end_recalled(txn, volume, &record, caller.node.node).await
}

async fn take_off<T: Txn>(txn: &T, request: &RemovePeer) -> Result<(), ServiceError> {
    let (volume, record) = find_volume(txn, &request.volume).await?;
    let (id, of_node) = find_node(txn, &request.node).await?;
    let Some(peer) = txn.load(&PeerKey { volume, node: id }).await? else {
        let node = NodeIncarnation { node: id, incarnation: of_node.incarnation };
        return Err(PeerError::NotFound { volume, node }.into());
    };
    let node = NodeIncarnation { node: id, incarnation: peer.incarnation };
    if let Some(held) = txn.load(&AttachmentKey { volume }).await?
        && held.node == node
    {
        if !is_free_of(txn, record.pool, node).await? {
            return Err(PeerError::Owns { volume, node, held: held.epoch }.into());
        }
        let unused = leave_journal(txn, volume, &held).await?;
        free_extents(txn, record.pool, &unused).await?;
    }
    remove_peer(txn, node, volume);
    end_if_deserted(txn, volume, record.pool).await?;
    end_recalled(txn, volume, &record, id).await
}

/// What the peers of a volume that this attachment holds want, the most urgent first.
async fn wish_of_others<T: Txn>(
    txn: &T,
    volume: VolumeId,
    held: &AttachmentRecord,
    (wishes, now): (&Wishes, std::time::Duration),
) -> Result<OwnershipWish, ServiceError> {
    let mut most = OwnershipWish::None;
    for (key, peer) in all_peers(txn, volume).await? {
        if key.node == held.node.node
            || peer.wish == 0
            || !is_wish_alive(txn, (&key, &peer), wishes, now).await?
        {
            continue;
        }
        let wish = if peer.is_urgent { OwnershipWish::Urgent } else { OwnershipWish::Waiting };
        most = most.max(wish);
    }
    Ok(most)
}

/// The volumes of which a node is a peer, with what the other one wants of those it owns.
pub(super) async fn known_peers<T: Txn>(
    txn: &T,
    node: NodeIncarnation,
    heard: (&Wishes, std::time::Duration),
    most: usize,
) -> Result<Vec<KnownPeer>, ServiceError> {
    let mut known = Vec::new();
    let range = peers_of_node(node.node, node.incarnation);
    for (NodePeerKey { volume, .. }, _) in txn.scan(&range, most).await? {
        let held = txn.load(&AttachmentKey { volume }).await?;
        let wish = match held.filter(|held| held.node == node) {
            Some(held) => wish_of_others(txn, volume, &held, heard).await?,
            None => OwnershipWish::None,
        };
        known.push(KnownPeer { volume, wish });
    }
    Ok(known)
}

impl<S: MetaStore> Service<S> {
    /// Makes a node a peer of a volume; gives the volume as it is then.
    ///
    /// # Errors
    /// As [`Service::attach`]; a node holds the volume alone, or it has two peers.
    pub async fn add_peer(&self, request: &AddPeer) -> Result<Volume, ServiceError> {
        if !request.understands_layers {
            return Err(ServiceError::NodeTooOld { node: request.caller.node });
        }
        let now = self.seams.clock.unix_seconds();
        let add = |txn: Arc<S::Txn>| async move { add_peer(&*txn, request, now).await };
        let volume = self.store.transact(add).await?;
        self.sets_changed();
        self.volume(&Selector::Id(volume)).await
    }

    /// Asks for a volume: who owns it now, which may be the caller.
    ///
    /// # Errors
    /// The caller is no peer of it, a later process speaks for its node, or it could not be granted
    /// the volume now.
    pub async fn request_ownership(
        &self,
        request: RequestOwnership,
    ) -> Result<Ownership, ServiceError> {
        let RequestOwnership { volume, caller, wish } = request;
        let now = self.seams.clock.now();
        let unix_seconds = self.seams.clock.unix_seconds();
        let asking = &Asking { request, wishes: &self.wishes, now, unix_seconds };
        let ask = |txn: Arc<S::Txn>| async move { asking.ask(&*txn).await };
        let (asked, is_news) = self.store.transact(ask).await?;
        if wish != OwnershipWish::None {
            self.wishes.hear(volume, caller.node.node, now);
        }
        if is_news {
            self.sets_changed();
        }
        let epoch = match asked {
            Asked::Waiting(owner) => return Ok(Ownership::Waiting(owner)),
            Asked::Unowned => return Ok(Ownership::Unowned),
            Asked::Owned(epoch) => epoch,
            Asked::Granted(epoch) => {
                self.wishes.granted(volume, caller.node.node);
                epoch
            }
        };
        let resume = ResumeAttachment { volume, epoch, caller };
        Ok(Ownership::Owned(Box::new(self.resume_attachment(resume).await?)))
    }

    /// Gives a volume away; its owner stays a peer.
    ///
    /// # Errors
    /// It is not owned under this epoch, or, when its journal is not kept, stale journals are left
    /// or the last commit is another one.
    pub async fn release_ownership(&self, request: &ReleaseOwnership) -> Result<(), ServiceError> {
        let what = ("release ownership", request);
        let end = |txn: Arc<S::Txn>| async move { release(&*txn, request).await };
        self.once_done(request.request, &what, end).await?;
        self.wishes.released(request.volume, self.seams.clock.now());
        self.sets_changed();
        Ok(())
    }

    /// A node is no peer of a volume any more, by its own word.
    ///
    /// # Errors
    /// It owns the volume, or a later process speaks for it.
    pub async fn leave_peers(&self, request: LeavePeers) -> Result<(), ServiceError> {
        let end = |txn: Arc<S::Txn>| async move { leave(&*txn, request).await };
        self.store.transact(end).await?;
        self.wishes.forget(request.volume, request.caller.node.node);
        self.sets_changed();
        Ok(())
    }

    /// A node is no peer of a volume any more, by another one's word.
    ///
    /// # Errors
    /// It owns the volume and may write to it, or is no peer.
    pub async fn remove_peer(&self, request: &RemovePeer) -> Result<(), ServiceError> {
        let end = |txn: Arc<S::Txn>| async move { take_off(&*txn, request).await };
        self.store.transact(end).await?;
        self.sets_changed();
        Ok(())
    }
}
