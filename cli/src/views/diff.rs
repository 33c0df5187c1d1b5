//! What differs between two snapshots.

use lunar_proto::domain::{DiffKind, DiffRun, Snapshot};
use serde::Serialize;

use super::size;
use crate::output::{Report, table};

/// A run of blocks.
#[derive(Serialize, Debug)]
pub struct DiffRunView {
    offset_bytes: u64,
    length_bytes: u64,
    /// `data` to be written, or `zero`: reads as zeros in the second snapshot.
    kind: &'static str,
}

/// `lunar snapshot diff`.
#[derive(Serialize, Debug)]
pub struct DiffView {
    /// Absent where what the second one has allocated is listed.
    from_snapshot_id: Option<String>,
    to_snapshot_id: String,
    size_bytes: u64,
    data_bytes: u64,
    zero_bytes: u64,
    /// In order of their offset.
    runs: Vec<DiffRunView>,
}

impl DiffView {
    /// No run yet between these two.
    #[must_use]
    pub fn new(from: Option<&Snapshot>, to: &Snapshot) -> Self {
        Self {
            from_snapshot_id: from.map(|from| from.id.to_string()),
            to_snapshot_id: to.id.to_string(),
            size_bytes: to.size.bytes(),
            data_bytes: 0,
            zero_bytes: 0,
            runs: Vec::new(),
        }
    }

    /// Adds the next run.
    pub fn push(&mut self, run: DiffRun) {
        let (kind, sum) = match run.kind {
            DiffKind::Data => ("data", &mut self.data_bytes),
            DiffKind::Zero => ("zero", &mut self.zero_bytes),
        };
        *sum += run.length;
        let (offset_bytes, length_bytes) = (run.offset, run.length);
        self.runs.push(DiffRunView { offset_bytes, length_bytes, kind });
    }
}

impl DiffRunView {
    fn row(&self) -> [String; 3] {
        [self.offset_bytes.to_string(), self.length_bytes.to_string(), self.kind.to_owned()]
    }
}

impl Report for DiffView {
    fn to_text(&self) -> String {
        let none = match self.from_snapshot_id {
            Some(_) => "no difference",
            None => "nothing is allocated",
        };
        let rows = self.runs.iter().map(DiffRunView::row).collect();
        let mut text = table(["OFFSET", "LENGTH", "KIND"], rows, none);
        if !self.runs.is_empty() {
            let (data, zero) = (size(self.data_bytes), size(self.zero_bytes));
            text += &format!("{data} data, {zero} zero\n");
        }
        text
    }
}
