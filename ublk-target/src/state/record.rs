//! One record an attachment: which device serves which volume under which epoch.
//!
//! Invariants:
//! - a record is there from before its device is added until after the device is deleted and the
//!   metadata service knows of the detachment;
//! - a device is ours only if it carries the token of a record: numbers are reused by others.

use std::path::PathBuf;

use lunar_types::{Epoch, Incarnation, NodeId, NodeIncarnation, PublicationId, VolumeId};
use serde::{Deserialize, Serialize};

use super::node::parsed;
use super::{StateDir, StateError, read_json, remove, write_json};
use crate::ublk::DeviceId;

/// How far an attachment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Granted, journal confirmed; the device may be there, but has not been started: nothing was
    /// written yet.
    Starting,
    /// The device was started or is about to be.
    Live,
    /// The device is being stopped: what is dirty is still to be committed.
    Stopping,
    /// Nothing is left here but to tell the metadata service that the journal is for others.
    Leaving,
    /// The device is there, the volume is another node's or nobody's: there is no epoch.
    Waiting,
    /// Granted to a device that waits: nothing was written under this epoch yet.
    Taking,
    /// Everything is in the map and nothing is under way: the metadata service is being told that
    /// the volume is given away.
    Releasing,
}

/// Whether another node may have a device of the volume too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// None.
    #[default]
    Alone,
    /// One other, for a live migration.
    Migratable,
}

/// An attachment, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The volume.
    pub volume: VolumeId,
    /// Its name, for people.
    pub name: String,
    /// The epoch that it is held under; 0 while it is not.
    pub epoch: Epoch,
    /// The incarnation that holds it.
    pub holder: NodeIncarnation,
    /// The device.
    pub device: DeviceId,
    /// Stored with the device: proves that it is this one.
    pub token: u64,
    /// How far it has come.
    pub phase: Phase,
    /// Who else may have a device of it.
    pub sharing: Sharing,
    /// By whose leave it was attached; none: by hand.
    pub publication: Option<PublicationId>,
    /// It was attached for a file system alone: it may be unused so far.
    pub for_file_system: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordFile {
    volume_id: String,
    volume_name: String,
    epoch: u64,
    node: u16,
    incarnation: u32,
    device: u32,
    token: u64,
    phase: Phase,
    #[serde(default)]
    sharing: Sharing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    publication_id: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    for_file_system: bool,
}

impl From<&Record> for RecordFile {
    fn from(record: &Record) -> Self {
        Self {
            volume_id: record.volume.to_string(),
            volume_name: record.name.clone(),
            epoch: record.epoch.get(),
            node: record.holder.node.get(),
            incarnation: record.holder.incarnation.get(),
            device: record.device.get(),
            token: record.token,
            phase: record.phase,
            sharing: record.sharing,
            publication_id: record.publication.map(|id| id.to_string()),
            for_file_system: record.for_file_system,
        }
    }
}

impl TryFrom<RecordFile> for Record {
    type Error = serde_json::Error;

    fn try_from(file: RecordFile) -> Result<Self, Self::Error> {
        Ok(Self {
            volume: parsed(&file.volume_id)?,
            name: file.volume_name,
            epoch: Epoch::new(file.epoch),
            holder: NodeIncarnation {
                node: NodeId::new(file.node),
                incarnation: Incarnation::new(file.incarnation),
            },
            device: DeviceId::new(file.device),
            token: file.token,
            phase: file.phase,
            sharing: file.sharing,
            publication: file.publication_id.as_deref().map(parsed).transpose()?,
            for_file_system: file.for_file_system,
        })
    }
}

impl StateDir {
    fn record_path(&self, volume: VolumeId) -> PathBuf {
        self.root().join("devices").join(format!("{volume}.json"))
    }

    /// Keeps a record, in place of an earlier one of the volume.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_record(&self, record: &Record) -> Result<(), StateError> {
        write_json(&self.record_path(record.volume), &RecordFile::from(record))
    }

    /// Removes the record of a volume, if there is one. Its device is gone, and nothing of it can
    /// be frozen.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_record(&self, volume: VolumeId) -> Result<(), StateError> {
        self.remove_mark(volume)?;
        remove(&self.record_path(volume))
    }

    /// Every record, in order of volumes.
    ///
    /// # Errors
    /// When one cannot be read or understood.
    pub fn load_records(&self) -> Result<Vec<Record>, StateError> {
        let directory = self.root().join("devices");
        let listed = || super::failed("list", &directory);
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(listed())? {
            let path = entry.map_err(listed())?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let Some(file) = read_json::<RecordFile>(&path)? else { continue };
            let record = Record::try_from(file)
                .map_err(|source| StateError::Parse { path: path.clone(), source })?;
            records.push(record);
        }
        records.sort_by_key(|record| record.volume);
        Ok(records)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::state;
    use super::*;

    pub(in super::super) fn record(volume: u128, phase: Phase) -> Record {
        Record {
            volume: VolumeId::from_u128(volume),
            name: "data".to_owned(),
            epoch: Epoch::new(4),
            holder: NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(2) },
            device: DeviceId::new(3),
            token: u64::MAX - 1,
            phase,
            sharing: Sharing::Alone,
            publication: Some(PublicationId::from_u128(9)),
            for_file_system: volume == 2,
        }
    }

    #[test]
    fn records_are_kept_replaced_and_removed() {
        let (_dir, state) = state();
        state.save_record(&record(2, Phase::Starting)).expect("saved");
        state.save_record(&record(1, Phase::Live)).expect("saved");
        state.save_record(&record(2, Phase::Stopping)).expect("replaced");
        let kept = state.load_records().expect("loaded");
        assert_eq!(kept, [record(1, Phase::Live), record(2, Phase::Stopping)]);
        state.remove_record(VolumeId::from_u128(1)).expect("removed");
        assert_eq!(state.load_records().expect("loaded"), [record(2, Phase::Stopping)]);
    }

    #[test]
    fn a_record_half_written_by_a_killed_daemon_is_not_seen() {
        let (_dir, state) = state();
        std::fs::write(state.root().join("devices/x.new"), "{").expect("written");
        assert!(state.load_records().expect("loaded").is_empty());
        std::fs::write(state.root().join("devices/x.json"), "{").expect("written");
        assert!(state.load_records().is_err());
    }
}
