//! How the daemon gets a volume: a fresh attachment with its stale journals, or the attachment
//! of a killed predecessor. Crash order: `docs/engine.md`, "Recovery" and "Confirmation".

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lunar_engine::dirty::{DirtyIdentity, DirtyTable, table_words};
use lunar_engine::journal::{
    self, JournalIdentity, JournalIoError, JournalRing, Recovered, RingPlace, SEQ_CONFIRMED,
};
use lunar_engine::lun::{LunLayout, LunTable};
use lunar_engine::replay::SlotUpdate;
use lunar_engine::volume::{LoadedMap, Volume, VolumeParts, VolumeSpec, dirty_capacity};
use lunar_metadata::domain::{
    Attachment, CommitMap, ResumeAttachment, RetireJournal, SealLayer, StaleJournal,
};
use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_metadata::store::StoreError;
use lunar_types::{
    BLOCK_BYTES, CommitNumber, Epoch, ExtentRun, JournalSeq, LayerId, NodeIncarnation, Presence,
};

use crate::calls::Call;
use crate::disk::{OpenLuns, Source};
use crate::guest::Device;
use crate::journal_faults::KnownRing;
use crate::planted::Planted;
use crate::service::SimService;
use crate::world::{Flow, Served, Stop, TableMemory, World, failed};

/// A volume could not be brought up because a LUN failed; it may be tried again.
pub(crate) struct LunTrouble(pub(crate) String);

/// A part of a recovery, which a failing LUN may end.
pub(crate) type Attempt<T = ()> = Flow<Result<T, LunTrouble>>;

impl World {
    /// Asks the metadata service until it answers; the answer may be lost a few times first.
    pub(crate) fn ask<T>(
        &mut self,
        call: impl Fn(&SimService) -> Result<T, ServiceError>,
    ) -> Flow<Result<T, ServiceError>> {
        loop {
            self.tick()?;
            if !self.meta.is_up {
                self.network_step()?;
                self.meanwhile()?;
                continue;
            }
            let answer = call(self.meta.service());
            match answer {
                Err(ServiceError::Store(error)) if !is_retryable(&error) => {
                    return failed(format!("the store failed: {error}"));
                }
                Err(ServiceError::Store(_)) => {}
                _ if self.is_answer_lost() => {}
                answer => return Ok(answer),
            }
            self.meanwhile()?;
        }
    }

    /// Asks for something that the service must not refuse.
    pub(crate) fn must<T>(
        &mut self,
        what: &str,
        call: impl Fn(&SimService) -> Result<T, ServiceError>,
    ) -> Flow<T> {
        match self.ask(call)? {
            Ok(answer) => Ok(answer),
            Err(error) => failed(format!("{what} was refused: {error}")),
        }
    }

    pub(crate) fn open_luns(&self, guest: usize) -> OpenLuns {
        OpenLuns::new(&self.luns, Source { volume: guest as u32, queue: u16::MAX - 1 })
    }

    /// The part of a journal's extents that the ring uses.
    fn ring_place(&self, runs: &[ExtentRun]) -> RingPlace {
        let mut left = self.scenario.ring_extents;
        let mut used = Vec::new();
        for run in runs {
            let count = run.count().min(left);
            if count > 0 {
                used.push(ExtentRun::new(run.first(), count));
                left -= count;
            }
        }
        RingPlace::new(used, self.scenario.extent_size)
    }

    pub(crate) fn lun_table(&self, attachment: &Attachment) -> LunTable {
        let size = self.scenario.extent_size;
        let luns = &attachment.pool.luns;
        LunTable::new(luns.iter().map(|lun| (lun.index, LunLayout::new(size, lun.size.get()))))
    }

    fn know_ring(&mut self, guest: usize, attachment: &Attachment) {
        let place = self.ring_place(&attachment.journal);
        let table = self.lun_table(attachment);
        let blocks = place.stretches(&table).flat_map(|(lun, at, blocks)| {
            let lun = usize::from(lun.get());
            (0..u64::from(blocks)).map(move |n| (lun, at + n * BLOCK_BYTES))
        });
        let ring = KnownRing {
            identity: journal_identity(attachment, attachment.epoch, attachment.node),
            blocks: blocks.collect(),
            before: std::collections::BTreeMap::new(),
        };
        self.rings.insert(guest, ring);
    }

    /// Turns what a LUN did into the end of a recovery, unless the crash fell in it.
    fn lun_result<T>(&self, result: Result<T, JournalIoError>) -> Attempt<T> {
        self.survived()?;
        Ok(result.map_err(|error| LunTrouble(format!("{error}"))))
    }

    /// Brings a granted volume up: replays and retires its stale journals, formats and confirms
    /// its own, starts it.
    pub(crate) fn bring_up(&mut self, guest: usize, attachment: &Attachment) -> Attempt {
        let mut table = self.make_table(guest, attachment);
        let mut attachment = attachment.clone();
        let mut map = self.read_chain(&attachment)?;
        let mut commits = attachment.last_commit;
        for stale in attachment.stale_journals.clone() {
            let held = (&mut attachment, map);
            map = match self.replay_stale(guest, held, &stale, &mut commits)? {
                Ok(map) => map,
                Err(trouble) => return Ok(Err(trouble)),
            };
            self.meanwhile()?;
        }
        let attachment = &attachment;
        table.relabel(attachment.volume.head);
        self.journals_are_gone(guest);
        self.forget_mapped_quarantine()?;
        let identity = journal_identity(attachment, attachment.epoch, attachment.node);
        let place = self.ring_place(&attachment.journal);
        let luns = self.open_luns(guest);
        let formatted = journal::format_ring(&identity, &place, &self.lun_table(attachment), &luns);
        if let Err(trouble) = self.lun_result(formatted)? {
            return Ok(Err(trouble));
        }
        self.meanwhile()?;
        let confirm = CommitMap {
            checkpoint: Some(JournalSeq::new(SEQ_CONFIRMED)),
            ..self.empty_commit(attachment, &mut commits)
        };
        self.must_call(Call::Commit(confirm))?;
        let ring = JournalRing::fresh(identity, place);
        self.start(guest, (attachment, commits), map, ring, (table, None))?;
        Ok(Ok(()))
    }

    /// The next commit, which is sure to be answered before another is made.
    fn empty_commit(&mut self, attachment: &Attachment, commits: &mut CommitNumber) -> CommitMap {
        *commits = commits.next();
        CommitMap {
            request: self.meta.fresh_request(),
            caller: self.caller(self.host_with(attachment)),
            volume: attachment.volume.id,
            epoch: attachment.epoch,
            number: *commits,
            layer: attachment.volume.head,
            extent_size: self.scenario.extent_size,
            updates: Vec::new(),
            checkpoint: None,
            replay_of: None,
        }
    }

    pub(crate) fn table_identity(&self, attachment: &Attachment) -> (DirtyIdentity, usize) {
        let size = self.scenario.extent_size;
        let most = dirty_capacity(&self.ring_place(&attachment.journal), size);
        let identity = DirtyIdentity {
            volume: attachment.volume.id,
            layer: attachment.volume.head,
            epoch: attachment.epoch,
            holder: attachment.node,
            extent_size: size,
        };
        (identity, self.scenario.dirty_capacity.min(most))
    }

    /// Makes the dirty table, before the journal is confirmed: a confirmed journal has a table.
    fn make_table(&mut self, guest: usize, attachment: &Attachment) -> DirtyTable {
        let (identity, capacity) = self.table_identity(attachment);
        let words = table_words(self.scenario.extent_size, capacity);
        let memory: TableMemory = Arc::new((0..words).map(|_| AtomicU64::new(0)).collect());
        let key = (self.guests[guest].id, attachment.epoch);
        let host = self.host_with(attachment);
        let tables = &mut self.hosts[host].tmpfs.tables;
        tables.retain(|(volume, _), _| *volume != key.0);
        tables.insert(key, Arc::clone(&memory));
        DirtyTable::create(memory, identity, capacity).expect("the memory has the right size")
    }

    fn replay_stale(
        &mut self,
        guest: usize,
        (attachment, mut map): (&mut Attachment, LoadedMap),
        stale: &StaleJournal,
        commits: &mut CommitNumber,
    ) -> Attempt<LoadedMap> {
        if stale.checkpoint.get() >= SEQ_CONFIRMED {
            let mut found = match self.read_stale(guest, attachment, stale)? {
                Ok(found) => found,
                Err(trouble) => return Ok(Err(trouble)),
            };
            let is_ahead = found.layer != attachment.volume.head;
            if is_ahead && self.planted == Some(Planted::UndecidedJournalDropped) {
                found.records.clear();
            } else if is_ahead {
                let (next, epoch) = (stale.next_head, Some(stale.epoch));
                *attachment = self.seal_ahead(attachment, &found, next, epoch)?;
                *commits = attachment.last_commit;
                map = self.seal_loaded(map, attachment)?;
            }
            let updates = self.updates_of(&map, &found)?;
            self.counters.replays += u64::from(!updates.is_empty());
            let chunk = self.dice.one_of(&[1, 3, 1000]);
            for updates in updates.chunks(chunk) {
                let commit = CommitMap {
                    updates: updates.iter().map(crate::control::to_domain).collect(),
                    replay_of: Some(stale.epoch),
                    ..self.empty_commit(attachment, commits)
                };
                self.must_call(Call::Commit(commit))?;
                self.meanwhile()?;
            }
            map.take_in(updates);
        }
        let retire = RetireJournal {
            request: self.meta.fresh_request(),
            volume: attachment.volume.id,
            epoch: attachment.epoch,
            caller: self.caller(self.host_with(attachment)),
            stale_epoch: stale.epoch,
        };
        self.must_call(Call::Retire(retire))?;
        Ok(Ok(map))
    }

    /// What a stale journal says.
    fn read_stale(
        &mut self,
        guest: usize,
        attachment: &Attachment,
        stale: &StaleJournal,
    ) -> Attempt<Recovered> {
        let identity = journal_identity(attachment, stale.epoch, stale.node);
        let place = self.ring_place(&stale.runs);
        let whose = (identity, Some(stale.next_head));
        let found = self.read_ring(guest, attachment, whose, &place, stale.checkpoint.get())?;
        if let Ok(found) = &found {
            let moment = self.moment;
            self.trace.line(moment, || {
                let (from, last) = (found.replay_from, found.last_seq);
                format!("v{guest} journal of epoch {}: {from}..={last}", stale.epoch)
            });
        }
        Ok(found)
    }

    /// What a journal changes in the committed head.
    fn updates_of(&self, map: &LoadedMap, found: &Recovered) -> Flow<Vec<SlotUpdate>> {
        let mut updates = map
            .changes(&found.records)
            .map_err(|error| Stop::Failed(format!("replay: {error}")))?;
        if self.planted == Some(Planted::PresenceBitLost) {
            lose_a_bit(&mut updates);
        }
        Ok(updates)
    }

    /// The head of what was loaded was sealed.
    fn seal_loaded(&self, mut map: LoadedMap, now: &Attachment) -> Flow<LoadedMap> {
        let sealed = match self.planted {
            Some(Planted::SealedLayerAskedFor) => crate::chain::seal_as_told(map, now),
            _ => map.seal(now.volume.head).map(|()| map),
        };
        sealed.map_err(|error| Stop::Failed(format!("the map makes no sense: {error}")))
    }

    /// A writer has gone on in its next head: that is made the head first.
    fn seal_ahead(
        &mut self,
        attachment: &Attachment,
        found: &Recovered,
        next_head: LayerId,
        replay_of: Option<Epoch>,
    ) -> Flow<Attachment> {
        let is_ahead = found.layer == next_head;
        let checkpoint = if is_ahead { found.replay_from - 1 } else { found.last_seq };
        let (volume, epoch) = (attachment.volume.id, attachment.epoch);
        let caller = self.caller(self.host_with(attachment));
        let seal = SealLayer {
            request: self.meta.fresh_request(),
            volume,
            epoch,
            caller,
            number: attachment.last_commit.next(),
            checkpoint: JournalSeq::new(checkpoint),
            next_head,
            replay_of,
        };
        self.must_call(Call::Seal(seal))?;
        self.meanwhile()?;
        let request = ResumeAttachment { volume, epoch, caller };
        self.must("a look", |service| block_on(service.resume_attachment(request)))
    }

    fn read_ring(
        &mut self,
        guest: usize,
        attachment: &Attachment,
        (identity, next_head): (JournalIdentity, Option<LayerId>),
        place: &RingPlace,
        checkpoint: u64,
    ) -> Attempt<Recovered> {
        let luns = self.open_luns(guest);
        let image = journal::read(place, &self.lun_table(attachment), &luns);
        let image = match self.lun_result(image)? {
            Ok(image) => image,
            Err(trouble) => return Ok(Err(trouble)),
        };
        match journal::recover(&identity, next_head, place.blocks(), image.as_bytes(), checkpoint) {
            Ok(found) => Ok(Ok(found)),
            Err(damage) => self.damage_was_found(guest, &damage),
        }
    }

    /// Takes over the volume of a killed predecessor under the same incarnation.
    pub(crate) fn resume(&mut self, guest: usize, attachment: &Attachment) -> Attempt {
        let (id, capacity) = self.table_identity(attachment);
        let key = (self.guests[guest].id, attachment.epoch);
        let tables = &self.hosts[self.host_with(attachment)].tmpfs.tables;
        let Some(memory) = tables.get(&key).map(Arc::clone) else {
            return failed(format!("v{guest} has a confirmed journal and no dirty table"));
        };
        let damaged = |error| Stop::Failed(format!("dirty table of v{guest}: {error}"));
        let (mut table, dirty) = DirtyTable::open(memory, id, capacity).map_err(damaged)?;
        let (head, next) = (attachment.volume.head, attachment.next_head);
        let place = self.ring_place(&attachment.journal);
        let mut attachment = attachment.clone();
        if table.claim(head, Some(next)).map_err(damaged)? != head {
            let identity = journal_identity(&attachment, attachment.epoch, attachment.node);
            let (whose, checkpoint) = ((identity, Some(next)), attachment.checkpoint.get());
            let found = match self.read_ring(guest, &attachment, whose, &place, checkpoint)? {
                Ok(found) => found,
                Err(trouble) => return Ok(Err(trouble)),
            };
            attachment = self.seal_ahead(&attachment, &found, next, None)?;
        }
        let attachment = &attachment;
        let identity = journal_identity(attachment, attachment.epoch, attachment.node);
        let checkpoint = attachment.checkpoint.get();
        let found = match self.read_ring(guest, attachment, (identity, None), &place, checkpoint)? {
            Ok(found) => found,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let moment = self.moment;
        self.trace.line(moment, || {
            let (from, last) = (found.replay_from, found.last_seq);
            format!("v{guest} resumed, journal {from}..={last} beyond {:?}", found.beyond)
        });
        let luns = self.open_luns(guest);
        let lun_table = self.lun_table(attachment);
        let wiped = journal::wipe_beyond(&identity, &place, &lun_table, &luns, &found);
        if let Err(trouble) = self.lun_result(wiped)? {
            return Ok(Err(trouble));
        }
        let ring = JournalRing::resumed(identity, place, &found);
        let map = self.read_chain(attachment)?;
        let held = (attachment, attachment.last_commit);
        self.start(guest, held, map, ring, (table, Some(dirty)))?;
        Ok(Ok(()))
    }

    fn start(
        &mut self,
        guest: usize,
        (attachment, commits): (&Attachment, CommitNumber),
        map: LoadedMap,
        ring: JournalRing,
        (table, predecessor): (DirtyTable, Option<Vec<lunar_engine::dirty::DirtySlot>>),
    ) -> Flow {
        let (chain, mut own) = map.into_parts();
        if self.planted == Some(Planted::StaleBytesReadable) {
            for (_, slot) in own.iter_mut().filter(|(_, slot)| slot.extent().is_some()) {
                slot.presence = Presence::full(self.scenario.extent_size);
            }
        }
        let volume = &attachment.volume;
        let spec = VolumeSpec {
            volume: volume.id,
            holder: attachment.node,
            size: volume.size,
            extent_size: self.scenario.extent_size,
            logical_block: volume.logical_block_size,
            queue_count: self.scenario.queues,
            luns: self.lun_table(attachment),
            tuning: self.scenario.tuning,
        };
        let holds_quarantine = predecessor.as_ref().is_some_and(|dirty| !dirty.is_empty());
        let parts = VolumeParts { spec, chain, own, ring, table, predecessor };
        let started = Volume::start(parts);
        let engine = started.map_err(|e| Stop::Failed(format!("v{guest} does not start: {e}")))?;
        let queues = (0..=self.scenario.queues)
            .map(|queue| engine.queue(lunar_engine::io::QueueId::new(queue)))
            .collect();
        let host = self.host_with(attachment);
        self.served[guest] = Some(Served {
            host,
            volume: engine,
            table: self.table_identity(attachment),
            queues,
            woken: std::collections::BTreeSet::new(),
            is_control_woken: true,
            epoch: attachment.epoch,
            layer: attachment.volume.head,
            next_layer: attachment.next_head,
            below: attachment.layers.first().and_then(|head| head.parent),
            is_paused: false,
            voting: false,
            chain_news: None,
            last_prune: None,
            claim: None,
            pending_seal: None,
            call: None,
            commits,
            last_commit: None,
            last_reserve: None,
            saw_full: false,
            is_draining: false,
            holds_quarantine,
            reused_early: Vec::new(),
        });
        self.know_ring(guest, attachment);
        let (queues, depth) = (self.scenario.queues, self.scenario.depth);
        if self.guests[guest].device.is_none() {
            // One that outlives its daemon has the size that it has.
            self.guests[guest].device_has_grown(volume.size);
            self.guests[guest].device = Some(Device::new(queues, depth));
            let before = self.guests[guest].host.replace(host);
            self.counters.moved += u64::from(before.is_some_and(|before| before != host));
        }
        Ok(())
    }
}

pub(crate) const fn is_retryable(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Conflict | StoreError::MaybeCommitted | StoreError::Contended { .. }
    )
}

/// Whose journal of this volume it is.
pub(crate) fn journal_identity(
    attachment: &Attachment,
    epoch: Epoch,
    writer: NodeIncarnation,
) -> JournalIdentity {
    let volume = &attachment.volume;
    JournalIdentity { volume: volume.id, layer: volume.head, epoch, writer }
}

/// The planted bug: one presence bit does not survive the replay.
pub(crate) fn lose_a_bit(updates: &mut [SlotUpdate]) {
    let slots = updates.iter_mut().filter_map(|update| update.slot.as_mut());
    if let Some(slot) = slots.into_iter().find(|slot| !slot.presence.is_empty()) {
        let words = slot.presence.words();
        let index = words.iter().position(|word| *word != 0).expect("it is not empty");
        let word = words[index];
        slot.presence.set_word(index, word & (word - 1));
    }
}
