//! Backups of the metadata.

use lunar_backup::{BackupEnd, BackupHeader};
use lunar_proto::domain::{Backup, BackupNumber, Backups};
use serde::Serialize;

use super::NONE;
use super::size;
use super::time::utc;
use crate::output::{Report, facts, table};

/// `lunar backup create`, `check` and `confirm`: a file.
#[derive(Serialize, Debug)]
pub struct BackupFileView {
    path: String,
    number: u64,
    cluster_id: String,
    keyspace_version: u32,
    /// Unix seconds.
    begun_at: u64,
    entries: u64,
    bytes: u64,
    /// Whether the service was told that it is complete, by this command.
    is_confirmed: bool,
}

impl BackupFileView {
    /// A file that was checked, or written and checked.
    #[must_use]
    pub fn new(path: String, header: &BackupHeader, end: &BackupEnd, is_confirmed: bool) -> Self {
        Self {
            path,
            number: header.number,
            cluster_id: header.cluster.to_string(),
            keyspace_version: header.keyspace_version,
            begun_at: header.begun,
            entries: end.entries,
            bytes: end.bytes,
            is_confirmed,
        }
    }
}

impl Report for BackupFileView {
    fn to_text(&self) -> String {
        let known =
            if self.is_confirmed { "the service knows that it is complete" } else { "whole" };
        facts(&[
            ("Backup", self.number.to_string()),
            ("File", self.path.clone()),
            ("State", known.to_owned()),
            ("Begun", utc(self.begun_at)),
            ("Cluster", self.cluster_id.clone()),
            ("Keyspace", format!("version {}", self.keyspace_version)),
            ("Size", format!("{} in {} entries", size(self.bytes), self.entries)),
        ])
    }
}

/// A backup that the service remembers.
#[derive(Serialize, Debug)]
struct BackupView {
    number: u64,
    begun_at: u64,
    complete_at: Option<u64>,
    /// It is the newest complete one.
    may_be_restored: bool,
}

/// `lunar backup list` and `horizon`.
#[derive(Serialize, Debug)]
pub struct BackupList {
    newest_complete: Option<u64>,
    is_horizon_off: bool,
    backups: Vec<BackupView>,
}

impl BackupList {
    /// What the service knows.
    #[must_use]
    pub fn new(all: &Backups) -> Self {
        let view = |backup: &Backup| BackupView {
            number: backup.number.get(),
            begun_at: backup.begun_at,
            complete_at: backup.complete_at,
            may_be_restored: all.newest_complete == Some(backup.number),
        };
        Self {
            newest_complete: all.newest_complete.map(BackupNumber::get),
            is_horizon_off: all.is_horizon_off,
            backups: all.backups.iter().map(view).collect(),
        }
    }
}

impl Report for BackupList {
    fn to_text(&self) -> String {
        let row = |backup: &BackupView| {
            [
                backup.number.to_string(),
                utc(backup.begun_at),
                backup.complete_at.map_or_else(|| NONE.to_owned(), utc),
                if backup.may_be_restored { "yes" } else { "no" }.to_owned(),
            ]
        };
        let rows = self.backups.iter().map(row).collect();
        let list = table(["NUMBER", "BEGUN", "COMPLETE", "MAY BE RESTORED"], rows, "no backups");
        match self.is_horizon_off {
            true => format!(
                "{list}\nThe horizon is off: what is deleted is given away at once, and no backup \
                 may be restored.\n"
            ),
            false => list,
        }
    }
}
