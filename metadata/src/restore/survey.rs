//! The first pass over a backup: every checksum, and what the second pass has to know before it
//! meets an entry. Nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use lunar_backup::{BackupEnd, BackupHeader, BackupReader};
use lunar_proto::domain::SnapshotState;
use lunar_types::{ExtentRun, LunIndex, PoolId, SnapshotId, VolumeId};

use super::raised::Raised;
use super::{Asked, RestoreError, accepted, content};
use crate::keyspace::{
    AttachmentKey, BackupsKey, BackupsRecord, Bitmap, ClusterKey, Counter, CounterKey, GroupIndex,
    Key, KeyspaceKey, LunKey, MigrationKey, NodeKey, QuarantineKey, Record as _, ReservationKey,
    SnapshotKey, SnapshotSetKey, StaleJournalKey, TABLES, VolumeKey, table_of,
};

/// A group of the cluster.
pub(super) type GroupPlace = (PoolId, LunIndex, GroupIndex);

/// What a backup holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Volumes.
    pub volumes: u64,
    /// Snapshots that were cut.
    pub snapshots: u64,
    /// Nodes.
    pub nodes: u64,
    /// Attachments, which end.
    pub attachments: u64,
    /// Stale journals, which are never replayed.
    pub stale_journals: u64,
    /// Open sets, which are aborted.
    pub open_sets: u64,
}

/// A backup that was read to its end, is whole, and may be restored now.
#[derive(Debug)]
pub struct Survey {
    /// What it is of.
    pub header: BackupHeader,
    /// What it has been in all.
    pub end: BackupEnd,
    /// What numbers are raised to.
    pub raised: Raised,
    /// What it holds.
    pub counts: Counts,
    /// What was known of backups.
    pub(super) backups: BackupsRecord,
    /// The generation of requests.
    pub(super) generation: u64,
    /// Snapshots of open sets: they were never cut.
    pub(super) uncut: BTreeSet<SnapshotId>,
    /// What journals, reservations and the quarantine hold of each group.
    pub(super) held: BTreeMap<GroupPlace, Bitmap>,
    pools: BTreeMap<VolumeId, PoolId>,
    luns: BTreeMap<(PoolId, LunIndex), u64>,
    has_cluster: bool,
    has_keyspace: bool,
}

/// Key and record of an entry, which has to be readable to be changed.
pub(super) fn decoded<K: Key>(key: &[u8], value: &[u8]) -> Result<(K, K::Value), RestoreError> {
    let unpacked = K::unpack(key)
        .ok_or_else(|| content(format!("{key:02x?}"), format!("no key of table '{}'", K::NAME)))?;
    let record = K::Value::decode(value)
        .map_err(|error| content(format!("{unpacked:?}"), error.to_string()))?;
    Ok((unpacked, record))
}

impl Survey {
    /// Reads a backup to its end.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn read(input: impl Read, asked: Asked) -> Result<Self, RestoreError> {
        let mut reader = BackupReader::begin(input)?;
        accepted(&reader, asked)?;
        let header = *reader.header();
        let mut survey = Self {
            header,
            end: BackupEnd { blocks: 0, entries: 0, bytes: 0 },
            raised: Raised::at(asked.now, header.begun)?,
            counts: Counts::default(),
            backups: BackupsRecord::default(),
            generation: 0,
            uncut: BTreeSet::new(),
            held: BTreeMap::new(),
            pools: BTreeMap::new(),
            luns: BTreeMap::new(),
            has_cluster: false,
            has_keyspace: false,
        };
        while let Some(block) = reader.next_block()? {
            for (key, value) in block.entries() {
                survey.see(key, value)?;
            }
        }
        survey.end = reader.end()?;
        survey.check_whole()?;
        if !survey.is_protected() && !asked.unprotected {
            return Err(RestoreError::Unprotected { number: header.number });
        }
        Ok(survey)
    }

    /// Whether what the backup names was held back since it was begun, as far as it can know.
    pub(super) const fn is_protected(&self) -> bool {
        !self.backups.is_horizon_off && self.header.number > self.backups.unprotected
    }

    fn check_whole(&self) -> Result<(), RestoreError> {
        match (self.has_keyspace, self.has_cluster) {
            (true, true) => Ok(()),
            _ => Err(content("keyspace and cluster", "they are missing: it is of no cluster")),
        }
    }

    fn see(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let table = table_of(key);
        match table {
            Some(KeyspaceKey::TABLE) => self.see_keyspace(key, value),
            Some(ClusterKey::TABLE) => self.see_cluster(key, value),
            Some(CounterKey::TABLE) => self.see_counter(key, value),
            Some(LunKey::TABLE) => self.see_lun(key, value),
            Some(QuarantineKey::TABLE) => self.see_quarantine(key, value),
            Some(BackupsKey::TABLE) => self.see_backups(key, value),
            Some(VolumeKey::TABLE) => self.see_volume(key, value),
            Some(SnapshotKey::TABLE) => self.see_snapshot(key, value),
            Some(NodeKey::TABLE) => self.see_node(key, value),
            Some(AttachmentKey::TABLE) => self.see_attachment(key, value),
            Some(StaleJournalKey::TABLE) => self.see_stale_journal(key, value),
            Some(MigrationKey::TABLE) => self.see_migration(key, value),
            Some(ReservationKey::TABLE) => self.see_reservation(key, value),
            Some(SnapshotSetKey::TABLE) => self.see_set(key, value),
            Some(known) if TABLES.iter().any(|(table, _)| *table == known) => Ok(()),
            _ => {
                let problem = "this program knows no such table: take the one that wrote it";
                Err(content(format!("{key:02x?}"), problem))
            }
        }
    }

    fn see_keyspace(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (key, record) = decoded::<KeyspaceKey>(key, value)?;
        if record.version != self.header.keyspace_version {
            let (found, said) = (record.version, self.header.keyspace_version);
            let problem = format!("it is version {found}, and the header says {said}");
            return Err(content(format!("{key:?}"), problem));
        }
        self.has_keyspace = true;
        Ok(())
    }

    fn see_cluster(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (key, record) = decoded::<ClusterKey>(key, value)?;
        if record.id != self.header.cluster {
            let problem =
                format!("it is {}, and the header says {}", record.id, self.header.cluster);
            return Err(content(format!("{key:?}"), problem));
        }
        self.has_cluster = true;
        Ok(())
    }

    fn see_counter(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (key, record) = decoded::<CounterKey>(key, value)?;
        match key.counter {
            Counter::Layer => self.raised.require_number("the last layer", record.last)?,
            Counter::Operation => self.raised.require_number("the last operation", record.last)?,
            Counter::Generation => self.generation = record.last,
            Counter::Node | Counter::Audit | Counter::Incarnation => {}
        }
        Ok(())
    }

    fn see_lun(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (key, record) = decoded::<LunKey>(key, value)?;
        self.luns.insert((key.pool, key.index), record.data_extents);
        Ok(())
    }

    fn see_quarantine(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (key, bits) = decoded::<QuarantineKey>(key, value)?;
        self.hold((key.pool, key.lun, key.group), &bits);
        Ok(())
    }

    fn see_backups(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (_, record) = decoded::<BackupsKey>(key, value)?;
        self.raised.require_number("the last backup", record.begun)?;
        self.backups = record;
        Ok(())
    }

    fn see_volume(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (key, record) = decoded::<VolumeKey>(key, value)?;
        self.raised.require_number("an epoch", record.epoch.get())?;
        self.raised.require_number("a structure", record.structure.get())?;
        self.pools.insert(key.volume, record.pool);
        self.counts.volumes += 1;
        Ok(())
    }

    fn see_snapshot(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (key, record) = decoded::<SnapshotKey>(key, value)?;
        match record.state {
            SnapshotState::Creating => {
                self.uncut.insert(key.snapshot);
            }
            SnapshotState::Ready | SnapshotState::Deleting => self.counts.snapshots += 1,
        }
        Ok(())
    }

    fn see_node(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (_, record) = decoded::<NodeKey>(key, value)?;
        self.raised.require_number("a session", record.session.get())?;
        self.raised.require_incarnation(record.incarnation.get())?;
        self.counts.nodes += 1;
        Ok(())
    }

    fn see_attachment(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (key, record) = decoded::<AttachmentKey>(key, value)?;
        self.hold_journal(key.volume, &record.journal);
        self.counts.attachments += 1;
        Ok(())
    }

    fn see_stale_journal(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (key, record) = decoded::<StaleJournalKey>(key, value)?;
        self.hold_journal(key.volume, &record.journal);
        self.counts.stale_journals += 1;
        Ok(())
    }

    fn see_migration(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (key, record) = decoded::<MigrationKey>(key, value)?;
        self.hold_journal(key.volume, &record.spare_journal);
        Ok(())
    }

    fn see_reservation(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (key, bits) = decoded::<ReservationKey>(key, value)?;
        self.hold((key.pool, key.lun, key.group), &bits);
        Ok(())
    }

    fn see_set(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (_, record) = decoded::<SnapshotSetKey>(key, value)?;
        self.counts.open_sets += u64::from(record.state.is_open());
        Ok(())
    }

    /// Of a volume that is missing nobody knows the pool: its journal stays allocated, and a check
    /// names it as leaked.
    fn hold_journal(&mut self, volume: VolumeId, runs: &[ExtentRun]) {
        let Some(pool) = self.pools.get(&volume).copied() else { return };
        for at in runs.iter().flat_map(|run| run.iter()) {
            let (group, bit) = GroupIndex::of(at.extent);
            let mut bits = Bitmap::EMPTY;
            bits.insert(bit);
            self.hold((pool, at.lun, group), &bits);
        }
    }

    fn hold(&mut self, place: GroupPlace, bits: &Bitmap) {
        let held = self.held.entry(place).or_insert(Bitmap::EMPTY);
        *held = held.or(bits);
    }

    /// Each LUN with its data extents.
    pub(super) fn luns(&self) -> impl Iterator<Item = (PoolId, LunIndex, u64)> {
        self.luns.iter().map(|((pool, lun), extents)| (*pool, *lun, *extents))
    }
}
