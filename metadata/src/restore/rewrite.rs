//! What becomes of each entry of a backup.
//!
//! | table | |
//! | --- | --- |
//! | keyspace, counters | written last, raised; the last node and entry of the audit stay |
//! | volumes | epoch and structure raised, in no set, restored, used |
//! | snapshots | restored, used, in no group; those of open sets are gone, with their names |
//! | nodes | session and incarnation raised |
//! | sets | open ones are aborted; members and lists of holders are gone |
//! | attachments, stale journals, peers, publications, recalls, groups | gone |
//! | reservations and their marks, requests, registrations, fences | gone |
//! | quarantine | written anew with all that is free |
//! | backups | written last, raised; of the list only the one that is restored stays, complete |
//! | everything else | as it was, also what cannot be read: a check names it |

use lunar_proto::domain::{NodeState, SetAbort, SetState};
use lunar_types::{Epoch, Incarnation, SessionNumber, StructureNumber};

use super::survey::{Survey, decoded};
use super::{RestoreError, content};
use crate::keyspace::{
    AttachmentKey, BackupKey, BackupsKey, Content, Counter, CounterKey, FenceKey, FenceLunKey,
    Generation, IdempotencyKey, Key, KeyspaceKey, LunRegistrationKey, MigrationKey,
    NodeAttachmentKey, NodeKey, NodePeerKey, NodeRegistrationKey, NodeSetKey, NodeStaleJournalKey,
    PeerKey, PublicationKey, QuarantineKey, RecallKey, Record as _, ReservationKey, RestoreKey,
    SetMemberKey, SnapshotGroupKey, SnapshotGroupNameKey, SnapshotKey, SnapshotNameKey,
    SnapshotSetKey, StaleJournalKey, UnmappedKey, VolumeKey, VolumeSnapshotKey, table_of,
};
use crate::store::KeyValue;

/// Why a set was aborted.
const ABORTED: &str = "metadata-restored";

fn entry<K: Key>(key: &K, record: &K::Value) -> Option<KeyValue> {
    Some((key.pack(), record.encode()))
}

fn kept(key: &[u8], value: &[u8]) -> Option<KeyValue> {
    Some((key.to_vec(), value.to_vec()))
}

impl Survey {
    /// The entry as it is restored, if it is.
    ///
    /// # Errors
    /// It has to be changed and cannot be read.
    pub(super) fn rewritten(
        &self,
        key: &[u8],
        value: &[u8],
    ) -> Result<Option<KeyValue>, RestoreError> {
        Ok(match table_of(key) {
            Some(
                KeyspaceKey::TABLE
                | RestoreKey::TABLE
                | QuarantineKey::TABLE
                | BackupsKey::TABLE
                | UnmappedKey::TABLE
                | AttachmentKey::TABLE
                | StaleJournalKey::TABLE
                | NodeAttachmentKey::TABLE
                | NodeStaleJournalKey::TABLE
                | ReservationKey::TABLE
                | IdempotencyKey::TABLE
                | SetMemberKey::TABLE
                | NodeSetKey::TABLE
                | MigrationKey::TABLE
                | PeerKey::TABLE
                | NodePeerKey::TABLE
                | PublicationKey::TABLE
                | RecallKey::TABLE
                | SnapshotGroupKey::TABLE
                | SnapshotGroupNameKey::TABLE
                | LunRegistrationKey::TABLE
                | NodeRegistrationKey::TABLE
                | FenceKey::TABLE
                | FenceLunKey::TABLE,
            ) => None,
            Some(CounterKey::TABLE) => {
                let (found, _) = decoded::<CounterKey>(key, value)?;
                match found.counter {
                    Counter::Node | Counter::Audit => kept(key, value),
                    Counter::Layer
                    | Counter::Operation
                    | Counter::Generation
                    | Counter::Incarnation => None,
                }
            }
            Some(BackupKey::TABLE) => self.backup(key, value)?,
            Some(VolumeKey::TABLE) => self.volume(key, value)?,
            Some(SnapshotKey::TABLE) => self.snapshot(key, value)?,
            Some(SnapshotNameKey::TABLE) => {
                let (_, record) = decoded::<SnapshotNameKey>(key, value)?;
                if self.uncut.contains(&record.snapshot) { None } else { kept(key, value) }
            }
            Some(VolumeSnapshotKey::TABLE) => {
                let (found, _) = decoded::<VolumeSnapshotKey>(key, value)?;
                if self.uncut.contains(&found.snapshot) { None } else { kept(key, value) }
            }
            Some(NodeKey::TABLE) => self.node(key, value)?,
            Some(SnapshotSetKey::TABLE) => self.set(key, value)?,
            Some(_) => kept(key, value),
            None => return Err(content(format!("{key:02x?}"), "the key is of no table")),
        })
    }

    /// Its file is whole, whoever has said so.
    fn backup(&self, key: &[u8], value: &[u8]) -> Result<Option<KeyValue>, RestoreError> {
        let (key, mut record) = decoded::<BackupKey>(key, value)?;
        if key.backup.get() != self.header.number {
            return Ok(None);
        }
        if record.complete_at == 0 {
            record.complete_at = self.raised.now();
        }
        Ok(entry(&key, &record))
    }

    fn volume(&self, key: &[u8], value: &[u8]) -> Result<Option<KeyValue>, RestoreError> {
        let (key, mut record) = decoded::<VolumeKey>(key, value)?;
        record.epoch = Epoch::new(self.raised.number());
        record.structure = StructureNumber::new(self.raised.number());
        record.set = None;
        record.restored = true;
        // What was written since is not in the backup.
        record.content = Content::Used;
        Ok(entry(&key, &record))
    }

    fn snapshot(&self, key: &[u8], value: &[u8]) -> Result<Option<KeyValue>, RestoreError> {
        let (key, mut record) = decoded::<SnapshotKey>(key, value)?;
        if self.uncut.contains(&key.snapshot) {
            return Ok(None);
        }
        (record.restored, record.content, record.group) = (true, Content::Used, None);
        Ok(entry(&key, &record))
    }

    fn node(&self, key: &[u8], value: &[u8]) -> Result<Option<KeyValue>, RestoreError> {
        let (key, mut record) = decoded::<NodeKey>(key, value)?;
        record.session = SessionNumber::new(self.raised.number());
        record.incarnation = Incarnation::new(self.raised.incarnation());
        // No fence of before is restored; certifying the restore is the proof for all of them.
        if record.state == NodeState::Fencing {
            record.state = NodeState::Fenced;
        }
        Ok(entry(&key, &record))
    }

    fn set(&self, key: &[u8], value: &[u8]) -> Result<Option<KeyValue>, RestoreError> {
        let (key, mut record) = decoded::<SnapshotSetKey>(key, value)?;
        if record.state.is_open() {
            let reason = ABORTED.parse().expect("reasons are names");
            record.state = SetState::Aborted;
            record.abort = Some(SetAbort { reason, volume: None });
            record.generation = Generation::new(super::Raised::generation(self.generation));
        }
        Ok(entry(&key, &record))
    }
}
