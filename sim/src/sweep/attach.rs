//! How the daemon gets the volume: a fresh attachment with its stale journals, or the attachment
//! of a killed predecessor. The order is that of `docs/engine.md`, "Recovery".

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lunar_engine::dirty::{DirtyIdentity, DirtySlot, DirtyTable, table_words};
use lunar_engine::journal::SEQ_CONFIRMED;
use lunar_engine::journal::{self, JournalIdentity, JournalRing, Recovered, RingPlace};
use lunar_engine::lun::{LunLayout, LunTable};
use lunar_engine::replay::SlotUpdate;
use lunar_engine::volume::{LoadedMap, Volume, VolumeParts, VolumeSpec, dirty_capacity};
use lunar_metadata::domain::{
    Attach, Attachment, CommitMap, Join, Pool, ResumeAttachment, RetireJournal, SealLayer,
    Selector, StaleJournal,
};
use lunar_metadata::seams::block_on;
use lunar_types::{
    CommitNumber, Epoch, ExtentRun, Incarnation, JournalSeq, LayerId, Presence, SessionNumber,
};

use super::medium::OpenLuns;
use super::node::{Node, Outcome, Serving, told};
use super::shape;
use crate::control::to_domain;
use crate::planted::Planted;
use crate::recovery::{journal_identity, lose_a_bit};
use crate::world::TableMemory;

/// The node's name.
const NODE: &str = "node";

fn ring_place(runs: &[ExtentRun]) -> RingPlace {
    let mut left = shape::RING_EXTENTS;
    let mut used = Vec::new();
    for run in runs {
        let count = run.count().min(left);
        if count > 0 {
            used.push(ExtentRun::new(run.first(), count));
            left -= count;
        }
    }
    RingPlace::new(used, shape::extent_size())
}

/// Where the extents of a pool are.
pub(super) fn lun_table(pool: &Pool) -> LunTable {
    let layout = |bytes| LunLayout::new(shape::extent_size(), bytes);
    LunTable::new(pool.luns.iter().map(|lun| (lun.index, layout(lun.size.get()))))
}

/// What a volume is to its engine.
pub(super) fn spec_of(attachment: &Attachment) -> VolumeSpec {
    let volume = &attachment.volume;
    VolumeSpec {
        volume: volume.id,
        holder: attachment.node,
        size: volume.size,
        extent_size: shape::extent_size(),
        logical_block: volume.logical_block_size,
        queue_count: shape::QUEUES,
        luns: lun_table(&attachment.pool),
        tuning: shape::tuning(),
    }
}

/// A journal as its reader names it: whose, where, and up to where it was checkpointed.
struct Ring<'a> {
    identity: JournalIdentity,
    next_head: Option<LayerId>,
    place: &'a RingPlace,
    checkpoint: u64,
}

impl Node {
    /// The daemon starts and joins; `resume` is what its killed predecessor was.
    pub(super) fn join(&mut self, resume: Option<Incarnation>) -> Outcome {
        let name = Selector::Name(NODE.parse().expect("a valid name"));
        let last =
            block_on(self.service.node(&name)).map_or(SessionNumber::default(), |n| n.session);
        let join = Join {
            is_drained: true,
            request: self.fresh_request(),
            name: NODE.parse().expect("a valid name"),
            boot: self.boot,
            resume,
            last_session: last,
        };
        let joined = self.call("a join", |service| block_on(service.join(&join)))?;
        if resume.is_some() && !joined.resumed {
            return Err("a killed daemon's successor could not resume its incarnation".to_owned());
        }
        self.session = Some(joined.session);
        self.recorder.borrow_mut().incarnation = Some(joined.session.node);
        Ok(())
    }

    /// Attaches the volume and brings it up.
    pub(super) fn attach(&mut self) -> Outcome {
        let volume = Selector::Id(self.volume_id()?);
        let (request, caller) = (self.fresh_request(), self.caller());
        let attach = Attach {
            request,
            volume,
            caller,
            understands_layers: true,
            accept_restored: false,
            publication: None,
            for_file_system: false,
        };
        let held = self.call("an attachment", |service| block_on(service.attach(&attach)))?;
        self.bring_up(&held)
    }

    /// Goes on with the attachment of a killed predecessor, if there is one.
    pub(super) fn resume_or_attach(&mut self) -> Outcome {
        let held = self.call("the volume", |service| {
            let name = Selector::Name(super::ops::volume_name());
            block_on(service.volume(&name))
        })?;
        let (volume, epoch, caller) = (held.id, held.epoch, self.caller());
        if held.holder.is_none() {
            return self.attach();
        }
        let request = ResumeAttachment { volume, epoch, caller };
        let held =
            self.call("a resumption", |service| block_on(service.resume_attachment(request)))?;
        if held.checkpoint.get() >= SEQ_CONFIRMED {
            self.resume(&held)
        } else {
            self.bring_up(&held)
        }
    }

    /// Replays and retires stale journals, formats and confirms the own one, starts the engine.
    fn bring_up(&mut self, attachment: &Attachment) -> Outcome {
        let mut table = self.make_table(attachment)?;
        let mut attachment = attachment.clone();
        let mut map = self.map_of(&attachment)?;
        let mut commits = attachment.last_commit;
        for stale in attachment.stale_journals.clone() {
            self.replay_stale(&mut attachment, &mut map, &stale, &mut commits)?;
        }
        table.relabel(attachment.volume.head);
        let identity = journal_identity(&attachment, attachment.epoch, attachment.node);
        let place = ring_place(&attachment.journal);
        let luns = OpenLuns::new(&self.medium);
        let luns_of_pool = lun_table(&attachment.pool);
        told("format", journal::format_ring(&identity, &place, &luns_of_pool, &luns))?;
        let checkpoint = Some(JournalSeq::new(SEQ_CONFIRMED));
        let confirm = self.next_commit(&attachment, &mut commits);
        let confirm = CommitMap { checkpoint, ..confirm };
        self.call("a confirmation", |service| block_on(service.commit_map(&confirm)))?;
        let ring = JournalRing::fresh(identity, place);
        self.start(&attachment, commits, map, (ring, table, None))
    }

    fn next_commit(&mut self, attachment: &Attachment, commits: &mut CommitNumber) -> CommitMap {
        *commits = commits.next();
        CommitMap {
            request: self.fresh_request(),
            caller: self.caller(),
            volume: attachment.volume.id,
            epoch: attachment.epoch,
            number: *commits,
            layer: attachment.volume.head,
            extent_size: shape::extent_size(),
            updates: Vec::new(),
            checkpoint: None,
            replay_of: None,
        }
    }

    fn table_identity(attachment: &Attachment) -> (DirtyIdentity, usize) {
        let most = dirty_capacity(&ring_place(&attachment.journal), shape::extent_size());
        let identity = DirtyIdentity {
            volume: attachment.volume.id,
            layer: attachment.volume.head,
            epoch: attachment.epoch,
            holder: attachment.node,
            extent_size: shape::extent_size(),
        };
        (identity, shape::DIRTY_CAPACITY.min(most))
    }

    fn make_table(&self, attachment: &Attachment) -> Outcome<DirtyTable> {
        let (identity, capacity) = Self::table_identity(attachment);
        let words = table_words(shape::extent_size(), capacity);
        let memory: TableMemory = Arc::new((0..words).map(|_| AtomicU64::new(0)).collect());
        let tables = &mut self.recorder.borrow_mut().tables;
        tables.clear();
        tables.insert((attachment.volume.id, attachment.epoch), Arc::clone(&memory));
        told("a new dirty table", DirtyTable::create(memory, identity, capacity))
    }

    fn replay_stale(
        &mut self,
        attachment: &mut Attachment,
        map: &mut LoadedMap,
        stale: &StaleJournal,
        commits: &mut CommitNumber,
    ) -> Outcome {
        if stale.checkpoint.get() >= SEQ_CONFIRMED {
            let mut found = self.read_stale(attachment, stale)?;
            let is_ahead = found.layer != attachment.volume.head;
            if is_ahead && self.has(Planted::UndecidedJournalDropped) {
                found.records.clear();
            } else if is_ahead {
                *attachment =
                    self.seal_ahead(attachment, &found, stale.next_head, Some(stale.epoch))?;
                *commits = attachment.last_commit;
                told("a sealed head", map.seal(attachment.volume.head))?;
            }
            let updates = self.updates_of(map, &found)?;
            if !updates.is_empty() {
                let commit = CommitMap {
                    updates: updates.iter().map(to_domain).collect(),
                    replay_of: Some(stale.epoch),
                    ..self.next_commit(attachment, commits)
                };
                self.call("a replay", |service| block_on(service.commit_map(&commit)))?;
            }
            map.take_in(updates);
        }
        let retire = RetireJournal {
            request: self.fresh_request(),
            volume: attachment.volume.id,
            epoch: attachment.epoch,
            caller: self.caller(),
            stale_epoch: stale.epoch,
        };
        self.call("the end of a journal", |service| block_on(service.retire_journal(&retire)))
    }

    fn read_stale(&self, attachment: &Attachment, stale: &StaleJournal) -> Outcome<Recovered> {
        let ring = Ring {
            identity: journal_identity(attachment, stale.epoch, stale.node),
            next_head: Some(stale.next_head),
            place: &ring_place(&stale.runs),
            checkpoint: stale.checkpoint.get(),
        };
        self.read_ring(attachment, &ring)
    }

    fn read_ring(&self, attachment: &Attachment, ring: &Ring<'_>) -> Outcome<Recovered> {
        let luns = OpenLuns::new(&self.medium);
        let image = journal::read(ring.place, &lun_table(&attachment.pool), &luns);
        let image = told("a journal cannot be read", image)?;
        let blocks = ring.place.blocks();
        let found = journal::recover(
            &ring.identity,
            ring.next_head,
            blocks,
            image.as_bytes(),
            ring.checkpoint,
        );
        told("a journal is damaged", found)
    }

    fn updates_of(&self, map: &LoadedMap, found: &Recovered) -> Outcome<Vec<SlotUpdate>> {
        let mut updates = told("a replay", map.changes(&found.records))?;
        if self.has(Planted::PresenceBitLost) {
            lose_a_bit(&mut updates);
        }
        Ok(updates)
    }

    /// A writer has gone on in its next head: that is made the head first.
    fn seal_ahead(
        &mut self,
        attachment: &Attachment,
        found: &Recovered,
        next_head: LayerId,
        replay_of: Option<Epoch>,
    ) -> Outcome<Attachment> {
        let is_ahead = found.layer == next_head;
        let checkpoint = if is_ahead { found.replay_from - 1 } else { found.last_seq };
        let (volume, epoch, caller) = (attachment.volume.id, attachment.epoch, self.caller());
        let seal = SealLayer {
            request: self.fresh_request(),
            volume,
            epoch,
            caller,
            number: attachment.last_commit.next(),
            checkpoint: JournalSeq::new(checkpoint),
            next_head,
            replay_of,
        };
        self.call("a seal", |service| block_on(service.seal_layer(&seal)))?;
        let request = ResumeAttachment { volume, epoch, caller };
        self.call("a look", |service| block_on(service.resume_attachment(request)))
    }

    /// Takes over the volume of a killed predecessor under the same incarnation.
    fn resume(&mut self, attachment: &Attachment) -> Outcome {
        let (id, capacity) = Self::table_identity(attachment);
        let memory = {
            let tables = &self.recorder.borrow().tables;
            let memory = tables.get(&(attachment.volume.id, attachment.epoch));
            Arc::clone(memory.ok_or("a confirmed journal has no dirty table")?)
        };
        let (mut table, dirty) = told("the dirty table", DirtyTable::open(memory, id, capacity))?;
        let (head, next) = (attachment.volume.head, attachment.next_head);
        let place = ring_place(&attachment.journal);
        let mut attachment = attachment.clone();
        let whose = |held: &Attachment| journal_identity(held, held.epoch, held.node);
        if told("the dirty table", table.claim(head, Some(next)))? != head {
            let (identity, checkpoint) = (whose(&attachment), attachment.checkpoint.get());
            let ring = Ring { identity, next_head: Some(next), place: &place, checkpoint };
            let found = self.read_ring(&attachment, &ring)?;
            attachment = self.seal_ahead(&attachment, &found, next, None)?;
        }
        let (identity, checkpoint) = (whose(&attachment), attachment.checkpoint.get());
        let ring = Ring { identity, next_head: None, place: &place, checkpoint };
        let found = self.read_ring(&attachment, &ring)?;
        let luns = OpenLuns::new(&self.medium);
        let luns_of_pool = lun_table(&attachment.pool);
        told("wipe", journal::wipe_beyond(&identity, &place, &luns_of_pool, &luns, &found))?;
        let ring = JournalRing::resumed(identity, place, &found);
        let commits = attachment.last_commit;
        let map = self.map_of(&attachment)?;
        self.start(&attachment, commits, map, (ring, table, Some(dirty)))
    }

    fn map_of(&self, attachment: &Attachment) -> Outcome<LoadedMap> {
        let layers: Vec<LayerId> = attachment.layers.iter().map(|layer| layer.id).collect();
        self.read_chain(attachment.volume.size, lun_table(&attachment.pool), &layers)
    }

    fn start(
        &mut self,
        attachment: &Attachment,
        commits: CommitNumber,
        map: LoadedMap,
        (ring, table, predecessor): (JournalRing, DirtyTable, Option<Vec<DirtySlot>>),
    ) -> Outcome {
        let (chain, mut own) = map.into_parts();
        if self.has(Planted::StaleBytesReadable) {
            for (_, slot) in own.iter_mut().filter(|(_, slot)| slot.extent().is_some()) {
                slot.presence = Presence::full(shape::extent_size());
            }
        }
        let spec = spec_of(attachment);
        let parts = VolumeParts { spec, chain, own, ring, table, predecessor };
        let engine = told("the engine does not start", Volume::start(parts))?;
        let layers = (attachment.volume.head, attachment.next_head);
        let mut serving = Serving::new(engine, attachment.epoch, layers);
        serving.commits = commits;
        self.serving = Some(serving);
        Ok(())
    }
}
