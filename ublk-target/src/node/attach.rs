//! Attaching: from the grant to a live device, each step undone if a later one fails.
//!
//! Order: grant → record → LUNs, stale journals, journal, dirty table → device added → record
//! says live → device started. A kill before the record says live leaves nothing that was written
//! to; the next daemon gives the grant back.

use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::{Attachment, DetachMode, Selector};
use lunar_proto::error::ErrorReason;
use lunar_types::{Epoch, VolumeId};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use tracing::{info, warn};

use super::migration::{Turn, Waiting};
use super::slot::{ControlTask, Serving};
use super::steps::watched;
use super::{Membership, Node, NodeError, Slot, Stage, ViewState};
use crate::lun::inspect::with_causes;
use crate::metadata::{Grant, MetadataError, Terms};
use crate::queue::rest::Rest;
use crate::queue::server::{DeviceShared, QueueCounters};
use crate::queue::waker::QueueWaker;
use crate::reserve::ReserveHolder;
use crate::state::record::{Phase, Record, Sharing};
use crate::ublk::params::DeviceShape;
use crate::ublk::{DeviceId, DeviceInfo, NewDevice, features};
use crate::volume::control::Control;
use crate::volume::cut::Heads;
use crate::volume::device::{self, DeviceError, QueueThreads, QueueWork};
use crate::volume::grow::{DeviceSize, SharedSize};
use crate::volume::load::{LoadError, Loaded};
use crate::volume::served::{ServedVolume, VolumeFacts, grant_of};

/// Most device numbers that are tried when others have taken ours.
const NUMBERS_TRIED: u32 = 1024;

/// Runs something that blocks on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it neither panics nor is cancelled")
}

/// How giving a grant back ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenBack {
    /// The service knows.
    Done,
    /// It is still to be told.
    Pending,
}

impl Node {
    /// Attaches a volume and serves it; one that is served here already is left as it is, one
    /// that was restored is refused unless it is accepted.
    ///
    /// # Errors
    /// See [`NodeError`]; nothing is left of a failed attempt, but for a grant of which nothing was
    /// heard: it is given back later.
    pub async fn attach(
        self: &Arc<Self>,
        volume: Selector<VolumeId>,
        sharing: Sharing,
        terms: Terms,
    ) -> Result<Arc<Slot>, NodeError> {
        let node = Arc::clone(self);
        // On a task of its own: a caller that goes away must not leave it half done.
        let attached = tokio::spawn(async move {
            let member = node.member()?;
            let attached = node.attach_as(&volume, sharing, terms, &member).await;
            let Err(NodeError::Metadata { source, .. }) = &attached else { return attached };
            if source.reason() != Some(ErrorReason::LunNotRegistered) {
                return attached;
            }
            // The pool may be younger than this node's last look for LUNs to register at.
            if let Err(problem) = node.register_all(&member).await {
                warn!(%problem, "not known which LUNs there are to register at");
            }
            node.attach_as(&volume, sharing, terms, &member).await
        });
        attached.await.expect("attaching neither panics nor is cancelled")
    }

    async fn attach_as(
        self: &Arc<Self>,
        volume: &Selector<VolumeId>,
        sharing: Sharing,
        terms: Terms,
        member: &Membership,
    ) -> Result<Arc<Slot>, NodeError> {
        match sharing {
            Sharing::Alone => self.attach_alone(volume, terms, member).await,
            Sharing::Migratable => self.attach_shared(volume, terms, member).await,
        }
    }

    async fn attach_alone(
        &self,
        volume: &Selector<VolumeId>,
        terms: Terms,
        member: &Membership,
    ) -> Result<Arc<Slot>, NodeError> {
        let granting = self.granting.lock().await;
        if let Some(slot) = self.slot(volume) {
            drop(granting);
            return self.served_already(slot, Sharing::Alone, terms).await;
        }
        let granted = self.grant(volume, member, terms).await;
        if let Err(NodeError::Metadata { source, .. }) = &granted
            && source.is_unavailable()
        {
            // The grant may be there all the same, or come still.
            self.strays.expect(Instant::now());
        }
        let attachment = granted?;
        let record = self.new_record(&attachment, terms);
        let record = record.inspect_err(|_| self.strays.expect(Instant::now()))?;
        let slot = Slot::new(&record, Stage::Vacant);
        let stage = Arc::clone(&slot.gate).lock_owned().await;
        self.add_slot(&slot);
        drop(granting);
        let brought = self.bring_up(&slot, record, &attachment, member).await;
        self.attached(slot, stage, brought)
    }

    /// A volume that is here already, as what it is asked for.
    pub(super) async fn served_already(
        &self,
        slot: Arc<Slot>,
        sharing: Sharing,
        terms: Terms,
    ) -> Result<Arc<Slot>, NodeError> {
        let mut stage = Arc::clone(&slot.gate).lock_owned().await;
        let volume = slot.name.clone();
        let problem = slot.view().problem.unwrap_or_else(|| "try again".to_owned());
        match &mut *stage {
            Stage::Serving(Serving { record, .. }) | Stage::Waiting(Waiting { record, .. })
                if record.sharing != sharing =>
            {
                Err(NodeError::OtherSharing { volume })
            }
            // A person who attaches what is here already is told so, whoever has attached it.
            Stage::Serving(Serving { record, .. }) | Stage::Waiting(Waiting { record, .. })
                if terms.publication.is_some() && record.publication != terms.publication =>
            {
                Err(NodeError::OtherPublication { volume })
            }
            Stage::Serving(serving) => {
                if !terms.for_file_system {
                    self.use_content(&slot, serving).await?;
                }
                Ok(Arc::clone(&slot))
            }
            Stage::Waiting(_) => Ok(Arc::clone(&slot)),
            Stage::Stopped(_) => Err(NodeError::HalfDetached { volume, problem }),
            Stage::Lost(_) => Err(NodeError::NotRecovered { volume, problem }),
            Stage::Vacant => Err(NodeError::NotAttachedHere { volume }),
        }
    }

    /// What an attachment has come to, for its slot.
    pub(super) fn attached(
        &self,
        slot: Arc<Slot>,
        mut stage: OwnedMutexGuard<Stage>,
        brought: Result<Serving, NodeError>,
    ) -> Result<Arc<Slot>, NodeError> {
        match brought {
            Ok(serving) => {
                *stage = Stage::Serving(serving);
                Ok(slot)
            }
            Err(error) => {
                warn!(volume = slot.name, error = error.message(), "not attached");
                self.remove_slot(slot.volume);
                Err(error)
            }
        }
    }

    async fn grant(
        &self,
        volume: &Selector<VolumeId>,
        member: &Membership,
        terms: Terms,
    ) -> Result<Attachment, NodeError> {
        let refused =
            |source| NodeError::Metadata { what: format!("attach volume {volume}"), source };
        let ask = || self.metadata.attach(volume.clone(), member.node, terms);
        let asked = ask();
        let answer = watched(&volume.to_string(), "grant", asked).await;
        self.note_link(&answer);
        match answer {
            Err(error) if error.reason() == Some(ErrorReason::VolumeAttached) => {
                // Ours perhaps, by a call whose answer was lost.
                if self.give_back_strays(member).await == 0 {
                    return Err(refused(error));
                }
                ask().await.map_err(refused)
            }
            other => other.map_err(refused),
        }
    }

    fn new_record(&self, attachment: &Attachment, terms: Terms) -> Result<Record, NodeError> {
        let record = Record {
            volume: attachment.volume.id,
            name: attachment.volume.name.to_string(),
            epoch: attachment.epoch,
            holder: attachment.node,
            device: self.next_device()?,
            token: rand::random(),
            phase: Phase::Starting,
            sharing: Sharing::Alone,
            publication: terms.publication,
            for_file_system: terms.for_file_system,
        };
        self.state.save_record(&record)?;
        Ok(record)
    }

    pub(super) async fn bring_up(
        &self,
        slot: &Arc<Slot>,
        mut record: Record,
        attachment: &Attachment,
        member: &Membership,
    ) -> Result<Serving, NodeError> {
        let brought = self.bring_up_steps(slot, &mut record, attachment, member).await;
        if brought.is_err() {
            self.undo(&record).await;
        }
        brought
    }

    async fn bring_up_steps(
        &self,
        slot: &Arc<Slot>,
        record: &mut Record,
        attachment: &Attachment,
        member: &Membership,
    ) -> Result<Serving, NodeError> {
        let loader = self.loader(member);
        let loaded = watched(&record.name, "load", loader.fresh(attachment)).await;
        let loaded = loaded.map_err(|source| load_error(attachment, source))?;
        self.note_loaded(attachment, &loaded)?;
        let name = record.name.clone();
        let shape = self.device_shape(&loaded);
        let info = watched(&name, "add device", self.add_device(record, shape)).await?;
        let served = serve(loaded, info.queues)?;
        record.phase = Phase::Live;
        self.state.save_record(record)?;
        let work = QueueWork::Serve {
            shared: Arc::clone(&served.shared),
            luns: served.luns.clone(),
            owes: false,
        };
        let starting = blocking(move || device::start(&info, &work));
        let queues = watched(&name, "start device", starting).await;
        let queues = queues.map_err(device_error("start", &record.name))?;
        served
            .device_size
            .set(DeviceSize { bytes: shape.size.bytes(), waits_for_attachment: false });
        let device = info.id.block_path();
        info!(volume = record.name, epoch = %record.epoch, device, "attached");
        Ok(self.go_live(slot, record.clone(), served, Some(queues)))
    }

    /// Takes note of what a load has found in use, and of the journals that it has replayed.
    pub(super) fn note_loaded(
        &self,
        attachment: &Attachment,
        loaded: &Loaded,
    ) -> Result<(), NodeError> {
        self.desk.exempt(attachment.volume.pool, &loaded.used_extents());
        let replayed = attachment.stale_journals.iter().map(|stale| stale.epoch).collect();
        Ok(self.note_replayed(attachment.volume.id, &replayed)?)
    }

    /// Starts the control side of a volume whose device serves, or is never to serve again.
    pub(super) fn go_live(
        &self,
        slot: &Arc<Slot>,
        record: Record,
        served: Arc<ServedVolume>,
        queues: Option<QueueThreads>,
    ) -> Serving {
        let holder: Arc<dyn ReserveHolder> = Arc::clone(&served) as Arc<dyn ReserveHolder>;
        self.desk.enlist(&holder);
        let mut control = Control::new(
            Arc::clone(&served),
            Arc::clone(&self.metadata),
            Arc::clone(&self.desk),
            Arc::clone(&self.luns),
        );
        control.copies = Some(Arc::clone(&self.copies));
        let control = Arc::new(control);
        let task = ControlTask::start(&control);
        slot.show(|view| {
            view.state = ViewState::Live;
            view.problem = None;
            view.record = record.clone();
            view.served = Some(Arc::clone(&served));
            view.waiting = None;
            view.turn = Some(Turn::begin(Duration::ZERO));
        });
        Serving { record, served, control, task, queues }
    }

    /// What the device of a volume has: of the attachment as loading has left it, like the engine
    /// and the structure that is known. With the size of the grant, a volume that has grown since
    /// would keep a device that is too small: nothing would be left to be told.
    fn device_shape(&self, loaded: &Loaded) -> DeviceShape {
        let attachment = &loaded.attachment;
        DeviceShape {
            size: attachment.volume.size,
            logical_block: attachment.volume.logical_block_size,
            extent_size: attachment.pool.extent_size,
            max_io_bytes: self.config.max_io_bytes,
        }
    }

    async fn add_device(
        &self,
        record: &mut Record,
        shape: DeviceShape,
    ) -> Result<DeviceInfo, NodeError> {
        for _ in 0..NUMBERS_TRIED {
            let new = self.new_device(record.device, record.token);
            match blocking(move || device::add(&new, &shape)).await {
                Ok(info) => return Ok(info),
                Err(DeviceError::Driver(error)) if error.errno() == Some(libc::EEXIST) => {
                    record.device = self.next_device()?;
                    self.state.save_record(record)?;
                }
                Err(source) => return Err(device_error("add", &record.name)(source)),
            }
        }
        let source = std::io::Error::from_raw_os_error(libc::EEXIST);
        let source = DeviceError::Open { path: record.device.char_path(), source };
        Err(device_error("find a free number for", &record.name)(source))
    }

    fn new_device(&self, id: DeviceId, token: u64) -> NewDevice {
        NewDevice {
            id,
            queues: self.config.queues,
            queue_depth: self.config.queue_depth,
            max_io_bytes: self.config.max_io_bytes,
            flags: features::WANTED,
            token,
        }
    }

    /// Takes back what an attachment that failed has done. Nothing was written to the volume.
    pub(super) async fn undo(&self, record: &Record) {
        self.remove_device(record).await;
        let given_back = match record.epoch == Epoch::default() {
            // A peer that has not heard of a grant.
            true => self.leave_as_peer(record).await,
            false => self.give_back_unused(grant_of_record(record)).await,
        };
        if given_back == GivenBack::Pending {
            let leaving = Record { phase: Phase::Leaving, ..record.clone() };
            if let Err(error) = self.state.save_record(&leaving) {
                warn!(volume = record.name, %error, "the grant is given back at the next start");
            }
            return;
        }
        self.forget(record);
    }

    /// Removes the device of a record, if there is one that carries its token.
    pub(super) async fn remove_device(&self, record: &Record) {
        let (id, token) = (record.device, record.token);
        let removed = blocking(move || match device::find(id, token)? {
            Some(_) => device::remove(id),
            None => Ok(()),
        });
        if let Err(error) = removed.await {
            let about = format!("device {id}");
            let why = with_causes(&error);
            self.warn(&about, format!("{about} of volume '{}' stays: {why}", record.name));
        }
    }

    /// Removes the devices of all volumes: their requests fail. What is kept of them stays, for the
    /// next start to discard.
    pub async fn remove_devices(self: &Arc<Self>) {
        let mut removals = tokio::task::JoinSet::new();
        for slot in self.slots() {
            if let Some(waiting) = slot.view().waiting {
                // The driver waits for what is under way, and nobody answers that otherwise.
                waiting.fail();
            }
            let (node, record) = (Arc::clone(self), slot.view().record);
            removals.spawn(async move { node.remove_device(&record).await });
        }
        removals.join_all().await;
    }

    /// Removes everything that is kept of an attachment.
    pub(super) fn forget(&self, record: &Record) {
        self.unwarn(&super::grow::about(record));
        let dirty = self.state.remove_dirty_table(record.volume, record.epoch);
        let kept = self.state.remove_record(record.volume);
        for error in [dirty.err(), kept.err()].into_iter().flatten() {
            warn!(volume = record.name, %error, "a leftover stays in the state directory");
        }
    }

    /// Gives a grant back under which nothing was written. A journal that others have left stays
    /// for the next to replay.
    pub(super) async fn give_back_unused(&self, grant: Grant) -> GivenBack {
        let mut answer = self.metadata.detach(grant, DetachMode::Clean).await;
        if matches!(&answer, Err(error) if error.reason() == Some(ErrorReason::StaleJournals)) {
            answer = self.metadata.detach(grant, DetachMode::KeepJournal).await;
        }
        given_back(grant, answer)
    }

    /// Gives a grant back with a journal that the next attachment replays.
    pub(super) async fn leave_journal(&self, grant: Grant) -> GivenBack {
        if let Err(error) = self.note_journal_left(grant) {
            warn!(volume = %grant.volume, %error, "the grant is given back later");
            return GivenBack::Pending;
        }
        given_back(grant, self.metadata.detach(grant, DetachMode::KeepJournal).await)
    }
}

pub(super) fn given_back(grant: Grant, answer: Result<(), MetadataError>) -> GivenBack {
    match answer {
        Ok(()) => GivenBack::Done,
        Err(error) if error.is_not_ours() => GivenBack::Done,
        Err(error) => {
            warn!(volume = %grant.volume, %error, "the grant is given back later");
            GivenBack::Pending
        }
    }
}

pub(super) fn load_error(attachment: &Attachment, source: LoadError) -> NodeError {
    NodeError::Load { volume: attachment.volume.name.to_string(), source: Box::new(source) }
}

pub(super) fn device_error(
    what: &'static str,
    volume: &str,
) -> impl FnOnce(DeviceError) -> NodeError + use<> {
    let volume = volume.to_owned();
    move |source| NodeError::Device { what, volume, source }
}

/// The engine's volume with what the threads of its queues share.
pub(crate) fn serve(loaded: Loaded, queues: u16) -> Result<Arc<ServedVolume>, NodeError> {
    let attachment = &loaded.attachment.clone();
    let (volume, luns) = loaded.start(queues).map_err(|source| load_error(attachment, source))?;
    let wakers = (0..queues).map(|_| QueueWaker::new()).collect::<Result<Vec<_>, _>>();
    let wakers = wakers.map_err(|source| {
        let device = DeviceId::new(0);
        let name = attachment.volume.name.to_string();
        device_error("make queues for", &name)(DeviceError::Queue { queue: 0, device, source })
    })?;
    let shared = DeviceShared {
        volume: Arc::new(volume),
        wakers,
        counters: (0..queues).map(|_| QueueCounters::default()).collect(),
        control: tokio::sync::Notify::new(),
        rest: Rest::new(queues),
    };
    Ok(Arc::new(ServedVolume {
        facts: VolumeFacts::from(attachment),
        shared: Arc::new(shared),
        luns,
        device_size: SharedSize::default(),
        heads: Heads::of(attachment).into(),
        structure: attachment.structure.into(),
    }))
}

/// The grant of a record.
pub(super) fn grant_of_record(record: &Record) -> Grant {
    Grant { volume: record.volume, epoch: record.epoch, node: record.holder }
}

/// Whether an attachment is the one of a record.
pub(super) fn is_same_grant(attachment: &Attachment, record: &Record) -> bool {
    grant_of(attachment) == grant_of_record(record)
}

#[cfg(test)]
pub(super) mod tests;
