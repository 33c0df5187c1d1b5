//! Differences of snapshots on the wire.

use super::{Checked, list, selector, to_list};
use crate::domain::{DiffKind, DiffPage, DiffRun, DiffSnapshots};
use crate::error::FieldError;
use crate::v1;

fn diff_kind(field: &str, raw: i32) -> Checked<DiffKind> {
    match v1::DiffKind::try_from(raw) {
        Ok(v1::DiffKind::Data) => Ok(DiffKind::Data),
        Ok(v1::DiffKind::Zero) => Ok(DiffKind::Zero),
        Ok(v1::DiffKind::Unspecified) | Err(_) => {
            Err(FieldError::new(field, format_args!("{raw} is no kind of difference")))
        }
    }
}

impl From<DiffKind> for v1::DiffKind {
    fn from(kind: DiffKind) -> Self {
        match kind {
            DiffKind::Data => Self::Data,
            DiffKind::Zero => Self::Zero,
        }
    }
}

impl TryFrom<v1::DiffRun> for DiffRun {
    type Error = FieldError;

    fn try_from(wire: v1::DiffRun) -> Checked<Self> {
        let v1::DiffRun { offset_bytes: offset, length_bytes: length, kind } = wire;
        if length == 0 || offset.checked_add(length).is_none() {
            let problem = format_args!("{length} at {offset} is no run of bytes");
            return Err(FieldError::new("length_bytes", problem));
        }
        Ok(Self { offset, length, kind: diff_kind("kind", kind)? })
    }
}

impl From<DiffRun> for v1::DiffRun {
    fn from(run: DiffRun) -> Self {
        let DiffRun { offset, length, kind } = run;
        let kind = v1::DiffKind::from(kind).into();
        Self { offset_bytes: offset, length_bytes: length, kind }
    }
}

impl TryFrom<v1::DiffSnapshotsRequest> for DiffSnapshots {
    type Error = FieldError;

    fn try_from(wire: v1::DiffSnapshotsRequest) -> Checked<Self> {
        let from = wire.from.map(|from| selector("from", Some(from))).transpose()?;
        Ok(Self { from, to: selector("to", wire.to)?, start: wire.start_bytes })
    }
}

impl From<DiffSnapshots> for v1::DiffSnapshotsRequest {
    fn from(request: DiffSnapshots) -> Self {
        Self {
            from: request.from.map(Into::into),
            to: Some(request.to.into()),
            start_bytes: request.start,
        }
    }
}

impl TryFrom<v1::DiffSnapshotsResponse> for DiffPage {
    type Error = FieldError;

    fn try_from(wire: v1::DiffSnapshotsResponse) -> Checked<Self> {
        let runs: Vec<DiffRun> = list("runs", wire.runs)?;
        if let Some(at) = runs.windows(2).position(|two| two[1].offset < two[0].end()) {
            let problem = "does not begin behind the run before it";
            return Err(FieldError::new(&format!("runs[{}].offset_bytes", at + 1), problem));
        }
        let next = (wire.next_bytes > 0).then_some(wire.next_bytes);
        let end = runs.last().map_or(0, |run| run.end());
        if next.is_some_and(|next| next < end) {
            let problem = format_args!("{} is before the end of its runs", wire.next_bytes);
            return Err(FieldError::new("next_bytes", problem));
        }
        Ok(Self { runs, next })
    }
}

impl From<DiffPage> for v1::DiffSnapshotsResponse {
    fn from(page: DiffPage) -> Self {
        Self { runs: to_list(page.runs), next_bytes: page.next.unwrap_or(0) }
    }
}
