//! Exports that were made, checked or imported.

use std::path::Path;

use serde::Serialize;

use super::size;
use super::volume::VolumeView;
use crate::export::stream::StreamHeader;
use crate::output::Report;

/// What an export is, and its checksum.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct ExportFacts {
    /// Absent where it is the standard input or output.
    path: Option<String>,
    format: &'static str,
    /// Absent where nobody says what it is of.
    snapshot_id: Option<String>,
    /// Absent where it is whole.
    base_snapshot_id: Option<String>,
    size_bytes: u64,
    data_bytes: u64,
    /// Over all checksums; absent where there are none.
    crc32c: Option<String>,
}

impl ExportFacts {
    /// An export of this identity.
    #[must_use]
    pub fn new(
        path: Option<&Path>,
        format: &'static str,
        of: &StreamHeader,
        data_bytes: u64,
        crc: u32,
    ) -> Self {
        Self {
            path: path.map(|path| path.display().to_string()),
            format,
            snapshot_id: Some(of.snapshot.to_string()),
            base_snapshot_id: of.base.map(|base| base.to_string()),
            size_bytes: of.size.bytes(),
            data_bytes,
            crc32c: Some(format!("{crc:08x}")),
        }
    }

    /// A file of which nobody says what it is of.
    #[must_use]
    pub fn unverified(path: Option<&Path>, size_bytes: u64, data_bytes: u64) -> Self {
        Self {
            path: path.map(|path| path.display().to_string()),
            format: "raw",
            snapshot_id: None,
            base_snapshot_id: None,
            size_bytes,
            data_bytes,
            crc32c: None,
        }
    }

    /// The same without a checksum: there is nothing to be held against it.
    #[must_use]
    pub fn without_checksum(self) -> Self {
        Self { crc32c: None, ..self }
    }

    fn place(&self) -> &str {
        self.path.as_deref().unwrap_or("the pipe")
    }

    fn amount(&self) -> String {
        let sum = match &self.crc32c {
            Some(crc) => format!("checksum {crc}"),
            None => "without checksums".to_owned(),
        };
        format!(
            "{}, {} of data of {}, {sum}",
            self.format,
            size(self.data_bytes),
            size(self.size_bytes)
        )
    }
}

/// `lunar snapshot export`.
#[derive(Serialize, Debug)]
pub struct ExportView {
    /// What was written.
    #[serde(flatten)]
    pub export: ExportFacts,
    /// The name of the snapshot.
    pub snapshot_name: String,
    /// Data that an earlier run had written.
    pub resumed_bytes: u64,
}

impl Report for ExportView {
    fn to_text(&self) -> String {
        let Self { export, snapshot_name, resumed_bytes } = self;
        let resumed = match resumed_bytes {
            0 => String::new(),
            bytes => format!(", {} of it by an earlier run", size(*bytes)),
        };
        let (place, amount) = (export.place(), export.amount());
        format!("snapshot '{snapshot_name}' is in {place}: {amount}{resumed}\n")
    }
}

/// `lunar snapshot verify`.
#[derive(Serialize, Debug)]
pub struct VerifyView {
    /// What was checked.
    #[serde(flatten)]
    pub export: ExportFacts,
}

impl Report for VerifyView {
    fn to_text(&self) -> String {
        let base = match &self.export.base_snapshot_id {
            Some(base) => format!("what changed since snapshot {base}"),
            None => "all of it".to_owned(),
        };
        let snapshot = self.export.snapshot_id.as_deref().unwrap_or_default();
        let (place, amount) = (self.export.place(), self.export.amount());
        format!("{place} is good: snapshot {snapshot}, {base}; {amount}\n")
    }
}

/// `lunar snapshot import`.
#[derive(Serialize, Debug)]
pub struct ImportView {
    /// The volume.
    #[serde(flatten)]
    pub volume: VolumeView,
    /// The snapshot of it that the next export of differences is imported onto.
    pub marker: Option<String>,
    /// What was read.
    pub from: ExportFacts,
}

impl Report for ImportView {
    fn to_text(&self) -> String {
        let Self { volume, marker, from } = self;
        let (name, place, amount) = (volume.name(), from.place(), from.amount());
        let marker = match marker {
            Some(marker) => format!("snapshot '{marker}' marks what it has\n"),
            None => String::new(),
        };
        format!("volume '{name}' has what is in {place}: {amount}\n{marker}")
    }
}
