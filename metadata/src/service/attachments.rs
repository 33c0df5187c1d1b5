//! Grants of volumes: attach, resume, detach, and the journals that grants leave behind.
//!
//! Invariants:
//! - one volume has one attachment at most, and its epoch is the volume's; of a volume that nodes
//!   have together it is the owner's (see `peers`);
//! - a grant is given away only when its holder is gone, by the proof that the pool asks for (see
//!   `incarnations`), or has detached; what a holder that is
//!   gone may have written into its journal is kept as a stale journal until it is retired. A
//!   grant under which no commit but replays could happen has written nothing: its journal is free;
//! - a grant has a next head of its own: the layer that its next seal makes the head. A journal
//!   speaks of the head or of it, also when it has become stale;
//! - who takes, ends or takes over a grant aborts the open set of the volume;
//! - stale journals are replayed and retired in the order of their epochs, before anything else
//!   is committed: a replay over newer commits would bring old data back;
//! - whoever asks is the last process of the holder's node: see `docs/metadata.md`, "Sessions and
//!   commit numbers".
//!
//! Detaching cleanly says that the journal is in the map wholly, so it is refused while stale
//! journals are left. Who cannot finish that detaches with [`DetachMode::KeepJournal`]: then
//! nothing is freed, and the next holder replays this journal too.

use std::sync::Arc;

use lunar_proto::domain::{
    Attach, Attachment, AttachmentSummary, Detach, DetachMode, Layer, Page, PageRequest,
    ResumeAttachment, RetireJournal, Selector, StaleJournal, VolumeState,
};
use lunar_types::{
    CommitNumber, Epoch, ExtentRun, ExtentSize, JournalSeq, LayerId, NodeIncarnation, NodeSession,
    PoolId, RequestId, VolumeId,
};

use super::geometry::PoolGeometry;
use super::incarnations::{fencing_of, life_of};
use super::layers::{CHAIN_LAYERS_MAX, next_layer};
use super::nodes::{reclaim_if_unused, require_session};
use super::paging::page;
use super::peer_rows::{forget_gone_peers, require_no_peers};
use super::peers::leave_with;
use super::publications::{Leave, end_recalled, require_leave};
use super::quarantine::count_held;
use super::registrations::{require_active, require_registered};
use super::reservations::home_group;
use super::restored::require_certified;
use super::sets::leave_set;
use super::space::{Allocator, Purpose, free_extents, runs_taken};
use super::volumes::{find_volume, holder_of, volume_view};
use super::{Service, foreign_outcome};
use crate::error::{FencingError, RestoredError, ServiceError};
use crate::keyspace::{
    AttachmentKey, AttachmentRecord, Content, KeyedTxn, LayerKey, NodeAttachmentKey,
    NodeAttachmentRecord, NodeStaleJournalKey, Outcome, Present, StaleJournalKey,
    StaleJournalRecord, VolumeKey, VolumeRecord, attachments_of, stale_journals_of,
};
use crate::store::{MetaStore, Txn};

/// Size of a journal, in bytes; at least one extent.
const JOURNAL_BYTES: u64 = 2 << 20;
/// Stale journals that one answer tells of. There is one more than were confirmed at most; a store
/// of before may have many.
const STALE_JOURNALS_MAX: usize = 1000;

fn journal_extents(size: ExtentSize) -> usize {
    usize::try_from(JOURNAL_BYTES / size.bytes()).expect("at most 32 extents").max(1)
}

fn node_attachment_key(node: NodeIncarnation, volume: VolumeId) -> NodeAttachmentKey {
    NodeAttachmentKey { node: node.node, incarnation: node.incarnation, volume }
}

fn node_stale_key(node: NodeIncarnation, volume: VolumeId, epoch: Epoch) -> NodeStaleJournalKey {
    NodeStaleJournalKey { node: node.node, incarnation: node.incarnation, volume, epoch }
}

/// Ends an attachment and keeps its journal for a replay.
pub(super) fn park_journal<T: Txn>(txn: &T, volume: VolumeId, attachment: &AttachmentRecord) {
    let AttachmentRecord { node, epoch, checkpoint, journal, next_head, .. } = attachment.clone();
    remove_attachment(txn, volume, node);
    let stale = StaleJournalRecord { node, checkpoint, journal, next_head };
    txn.put(&StaleJournalKey { volume, epoch }, &stale);
    txn.put(&node_stale_key(node, volume, epoch), &Present {});
}

/// Ends an attachment whose journal may have to be replayed. One that was never confirmed, with an
/// older one still to be replayed, has nothing to replay: a holder formats its ring when all older
/// ones are retired, and writes to it when it is confirmed. The caller gets its extents to free, or
/// every try to attach a volume whose journals cannot be replayed would leave another one.
pub(super) async fn leave_journal<T: Txn>(
    txn: &T,
    volume: VolumeId,
    attachment: &AttachmentRecord,
) -> Result<Vec<ExtentRun>, ServiceError> {
    let is_confirmed = attachment.checkpoint != JournalSeq::default();
    let oldest = oldest_stale(txn, volume).await?;
    let is_behind = oldest.is_some_and(|(epoch, _)| epoch < attachment.epoch);
    if is_confirmed || !is_behind {
        park_journal(txn, volume, attachment);
        return Ok(Vec::new());
    }
    remove_attachment(txn, volume, attachment.node);
    reclaim_if_unused(txn, attachment.node).await?;
    Ok(attachment.journal.clone())
}

fn remove_attachment<T: Txn>(txn: &T, volume: VolumeId, node: NodeIncarnation) {
    txn.remove(&AttachmentKey { volume });
    txn.remove(&node_attachment_key(node, volume));
}

/// Takes a stale journal away and frees its extents.
pub(super) async fn drop_stale_journal<T: Txn>(
    txn: &T,
    volume: VolumeId,
    record: &VolumeRecord,
    epoch: Epoch,
    stale: &StaleJournalRecord,
) -> Result<(), ServiceError> {
    free_extents(txn, record.pool, &stale.journal).await?;
    txn.remove(&StaleJournalKey { volume, epoch });
    txn.remove(&node_stale_key(stale.node, volume, epoch));
    reclaim_if_unused(txn, stale.node).await
}

/// The oldest stale journal of a volume.
pub(super) async fn oldest_stale<T: Txn>(
    txn: &T,
    volume: VolumeId,
) -> Result<Option<(Epoch, StaleJournalRecord)>, ServiceError> {
    let found = txn.scan(&stale_journals_of(volume), 1).await?;
    Ok(found.into_iter().next().map(|(key, record)| (key.epoch, record)))
}

/// The stale journal of this epoch, which must be the oldest.
pub(super) async fn require_oldest_stale<T: Txn>(
    txn: &T,
    volume: VolumeId,
    epoch: Epoch,
    wanted: &'static str,
) -> Result<StaleJournalRecord, ServiceError> {
    if txn.load(&StaleJournalKey { volume, epoch }).await?.is_none() {
        return Err(ServiceError::JournalNotFound { volume, epoch });
    }
    match oldest_stale(txn, volume).await? {
        Some((oldest, record)) if oldest == epoch => Ok(record),
        Some((oldest, _)) => Err(ServiceError::StaleJournals { volume, oldest, wanted }),
        None => Err(ServiceError::JournalNotFound { volume, epoch }),
    }
}

/// The volume and its attachment, which must be held under this epoch by this live incarnation,
/// whose last process the caller must be.
pub(super) async fn require_attachment<T: Txn>(
    txn: &T,
    volume: VolumeId,
    epoch: Epoch,
    caller: NodeSession,
) -> Result<(VolumeRecord, AttachmentRecord), ServiceError> {
    require_session(txn, caller).await?;
    let node = caller.node;
    let record = txn.load(&VolumeKey { volume }).await?;
    let record =
        record.ok_or_else(|| ServiceError::VolumeNotFound { volume: volume.to_string() })?;
    let attachment = txn.load(&AttachmentKey { volume }).await?;
    let attachment = attachment.ok_or(ServiceError::NotAttached { volume })?;
    if attachment.epoch != epoch || attachment.node != node {
        return Err(ServiceError::StaleEpoch {
            volume,
            held: attachment.epoch,
            held_by: attachment.node,
            given: epoch,
            given_by: node,
        });
    }
    require_ready(volume, &record)?;
    Ok((record, attachment))
}

pub(super) fn require_ready(volume: VolumeId, record: &VolumeRecord) -> Result<(), ServiceError> {
    match record.state {
        VolumeState::Ready => Ok(()),
        state => Err(ServiceError::VolumeNotReady { volume, state }),
    }
}

/// Takes the grant from a holder that is gone.
pub(super) async fn take_over<T: Txn>(
    txn: &T,
    volume: VolumeId,
    pool: PoolId,
) -> Result<(), ServiceError> {
    let Some(attachment) = txn.load(&AttachmentKey { volume }).await? else { return Ok(()) };
    require_free(txn, volume, pool, &attachment).await?;
    let unused = leave_journal(txn, volume, &attachment).await?;
    free_extents(txn, pool, &unused).await
}

/// Refuses what a holder may still write to.
pub(super) async fn require_free<T: Txn>(
    txn: &T,
    volume: VolumeId,
    pool: PoolId,
    attachment: &AttachmentRecord,
) -> Result<(), ServiceError> {
    let (life, fencing) = (life_of(txn, attachment.node).await?, fencing_of(txn, pool).await?);
    if life.frees(fencing) {
        return Ok(());
    }
    let holder = holder_of(txn, pool, attachment).await?;
    let advice = life.advice(fencing, holder.node_name.as_str());
    Err(ServiceError::VolumeAttached { volume, holder, advice })
}

/// Refuses who gets no volume now.
pub(super) async fn require_attachable_by<T: Txn>(
    txn: &T,
    caller: NodeSession,
) -> Result<(), ServiceError> {
    require_certified(txn).await?;
    let node = require_active(txn, caller).await?;
    if node.is_draining {
        return Err(FencingError::Draining { name: node.name }.into());
    }
    Ok(())
}

/// The volume to attach. One that was restored has to be accepted, once.
pub(super) async fn attachable<T: Txn>(
    txn: &T,
    caller: NodeSession,
    volume: &Selector<VolumeId>,
    accept_restored: bool,
) -> Result<(VolumeId, VolumeRecord), ServiceError> {
    require_attachable_by(txn, caller).await?;
    let (volume, mut record) = find_volume(txn, volume).await?;
    require_ready(volume, &record)?;
    if record.restored && !accept_restored {
        return Err(RestoredError::NotAccepted { volume }.into());
    }
    record.restored = false;
    Ok((volume, record))
}

async fn attach<T: Txn>(
    txn: &T,
    request: &Attach,
    granted_at: u64,
) -> Result<Outcome, ServiceError> {
    let node = request.caller.node;
    let (volume, mut record) =
        attachable(txn, request.caller, &request.volume, request.accept_restored).await?;
    require_leave(txn, volume, node, Leave::Given(request.publication)).await?;
    let geometry = PoolGeometry::load(txn, record.pool).await?;
    require_registered(txn, node, &geometry).await?;
    require_no_peers(txn, volume, record.pool, "attached to a node alone").await?;
    take_over(txn, volume, record.pool).await?;
    forget_gone_peers(txn, volume, record.pool).await?;
    leave_set(txn, volume, &mut record, "volume-attached").await?;
    if !request.for_file_system {
        record.content = Content::Used;
    }
    let epoch = grant(txn, (volume, record), &geometry, (node, granted_at), Vec::new()).await?;
    Ok(Outcome::Attached { volume, epoch })
}

/// The extents of a new journal.
async fn take_journal<T: Txn>(
    txn: &T,
    node: NodeIncarnation,
    geometry: &PoolGeometry,
) -> Result<Vec<ExtentRun>, ServiceError> {
    let wanted = journal_extents(geometry.record.extent_size);
    let start = home_group(node.node, geometry);
    let taken = Allocator::take(txn, geometry, Purpose::Journal, start, wanted).await?;
    if taken.is_empty() {
        let pool_name = geometry.record.name.clone();
        let (pool, held) = (geometry.id, count_held(txn, geometry.id).await?);
        return Err(ServiceError::PoolFull { pool, pool_name, held });
    }
    Ok(runs_taken(&taken))
}

/// Gives a volume that nobody holds to a node under the next epoch, with a journal in these extents
/// or, where there are none, in new ones.
pub(super) async fn grant<T: Txn>(
    txn: &T,
    (volume, mut record): (VolumeId, VolumeRecord),
    geometry: &PoolGeometry,
    (node, granted_at): (NodeIncarnation, u64),
    spare: Vec<ExtentRun>,
) -> Result<Epoch, ServiceError> {
    let journal = match spare.is_empty() {
        true => take_journal(txn, node, geometry).await?,
        false => spare,
    };
    let epoch = record.epoch.next();
    let attachment = AttachmentRecord {
        node,
        epoch,
        checkpoint: JournalSeq::default(),
        last_commit: CommitNumber::default(),
        last_request: RequestId::from_u128(0),
        journal,
        next_head: next_layer(txn).await?,
        granted_at,
    };
    record.epoch = epoch;
    txn.put(&VolumeKey { volume }, &record);
    txn.put(&AttachmentKey { volume }, &attachment);
    txn.put(&node_attachment_key(node, volume), &NodeAttachmentRecord { epoch });
    Ok(epoch)
}

/// Ends an attachment whose journal is in the map wholly.
pub(super) async fn end_clean<T: Txn>(
    txn: &T,
    volume: VolumeId,
    node: NodeIncarnation,
    wanted: &'static str,
) -> Result<(), ServiceError> {
    if let Some((oldest, _)) = oldest_stale(txn, volume).await? {
        return Err(ServiceError::StaleJournals { volume, oldest, wanted });
    }
    remove_attachment(txn, volume, node);
    Ok(())
}

/// The layers of a volume, the head first.
async fn layer_chain<T: Txn>(txn: &T, head: LayerId) -> Result<Vec<Layer>, ServiceError> {
    let mut layers = Vec::new();
    let mut next = Some(head);
    while let Some(id) = next {
        if layers.len() >= CHAIN_LAYERS_MAX {
            let problem = format!("more than {CHAIN_LAYERS_MAX} layers stand on each other");
            return Err(ServiceError::corrupt(format!("layer {head}"), problem));
        }
        let record = txn.load_known(&LayerKey { layer: id }).await?;
        next = record.parent;
        let (parent, volume, sealed) = (record.parent, record.volume, record.sealed);
        layers.push(Layer { id, parent, volume, sealed });
    }
    Ok(layers)
}

async fn attachment_facts<T: Txn>(
    txn: &T,
    request: ResumeAttachment,
) -> Result<Attachment, ServiceError> {
    let ResumeAttachment { volume, epoch, caller } = request;
    let (record, attachment) = require_attachment(txn, volume, epoch, caller).await?;
    let stale = txn.scan(&stale_journals_of(volume), STALE_JOURNALS_MAX).await?;
    let stale = stale.into_iter().map(|(key, record)| StaleJournal {
        epoch: key.epoch,
        node: record.node,
        runs: record.journal,
        checkpoint: record.checkpoint,
        next_head: record.next_head,
    });
    Ok(Attachment {
        epoch,
        node: caller.node,
        layers: layer_chain(txn, record.head).await?,
        pool: PoolGeometry::load(txn, record.pool).await?.to_pool(),
        journal: attachment.journal,
        checkpoint: attachment.checkpoint,
        stale_journals: stale.collect(),
        last_commit: attachment.last_commit,
        next_head: attachment.next_head,
        structure: record.structure,
        volume: volume_view(txn, volume, record).await?,
    })
}

async fn detach<T: Txn>(txn: &T, request: &Detach) -> Result<(), ServiceError> {
    let Detach { volume, epoch, caller, mode, .. } = *request;
    let (mut record, attachment) = require_attachment(txn, volume, epoch, caller).await?;
    leave_set(txn, volume, &mut record, "volume-detached").await?;
    let pool = record.pool;
    let journal = match mode {
        DetachMode::KeepJournal => leave_journal(txn, volume, &attachment).await?,
        DetachMode::Clean => {
            end_clean(txn, volume, caller.node, "detach cleanly").await?;
            attachment.journal
        }
    };
    leave_with(txn, volume, pool, caller.node, &journal).await?;
    end_recalled(txn, volume, &record, caller.node.node).await
}

async fn retire_journal<T: Txn>(txn: &T, request: &RetireJournal) -> Result<(), ServiceError> {
    let RetireJournal { volume, epoch, caller, stale_epoch, .. } = *request;
    let (record, _) = require_attachment(txn, volume, epoch, caller).await?;
    let wanted = "retire a later one";
    let stale = require_oldest_stale(txn, volume, stale_epoch, wanted).await?;
    drop_stale_journal(txn, volume, &record, stale_epoch, &stale).await
}

impl<S: MetaStore> Service<S> {
    /// Grants a volume to an incarnation under the next epoch.
    ///
    /// # Errors
    /// The incarnation is gone, not ACTIVE, draining or not registered at every LUN of the pool, a
    /// later process speaks for it, the volume is not Ready or held by an incarnation that may
    /// write (also by this one), the pool has no extent for a journal, the caller does not
    /// understand layers, or a restore has to be certified or accepted first.
    pub async fn attach(&self, request: &Attach) -> Result<Attachment, ServiceError> {
        if !request.understands_layers {
            return Err(ServiceError::NodeTooOld { node: request.caller.node });
        }
        let what = ("attach", request);
        let now = self.seams.clock.unix_seconds();
        let grant = |txn: Arc<S::Txn>| async move { attach(&*txn, request, now).await };
        let outcome = self.once(request.request, &what, grant).await?;
        self.sets_changed();
        match outcome {
            Outcome::Attached { volume, epoch } => {
                let caller = request.caller;
                self.resume_attachment(ResumeAttachment { volume, epoch, caller }).await
            }
            other => Err(foreign_outcome(request.request, &other)),
        }
    }

    /// The facts of an attachment that is held, without changing anything.
    ///
    /// # Errors
    /// The incarnation is gone, a later process speaks for it, or it does not hold the volume under
    /// this epoch.
    pub async fn resume_attachment(
        &self,
        request: ResumeAttachment,
    ) -> Result<Attachment, ServiceError> {
        self.read(|txn| async move { attachment_facts(&*txn, request).await }).await
    }

    /// Ends an attachment.
    ///
    /// # Errors
    /// It is not held, or stale journals forbid a clean end.
    pub async fn detach(&self, request: &Detach) -> Result<(), ServiceError> {
        let what = ("detach", request);
        let end = |txn: Arc<S::Txn>| async move { detach(&*txn, request).await };
        self.once_done(request.request, &what, end).await?;
        self.sets_changed();
        Ok(())
    }

    /// Frees the oldest stale journal, after what it holds was committed.
    ///
    /// # Errors
    /// The volume is not held, or there is no such journal, or an older one.
    pub async fn retire_journal(&self, request: &RetireJournal) -> Result<(), ServiceError> {
        let what = ("retire journal", request);
        let retire = |txn: Arc<S::Txn>| async move { retire_journal(&*txn, request).await };
        self.once_done(request.request, &what, retire).await
    }

    /// What an incarnation holds, by volume.
    ///
    /// # Errors
    /// The page token is not of this list.
    pub async fn attachments(
        &self,
        node: NodeIncarnation,
        request: &PageRequest,
    ) -> Result<Page<AttachmentSummary>, ServiceError> {
        self.read(|txn| async move {
            let range = attachments_of(node.node, node.incarnation);
            let (entries, next) = page(&*txn, range, request).await?;
            let summary = |(key, record): (NodeAttachmentKey, NodeAttachmentRecord)| {
                AttachmentSummary { volume: key.volume, epoch: record.epoch }
            };
            Ok(Page { items: entries.into_iter().map(summary).collect(), next })
        })
        .await
    }
}
