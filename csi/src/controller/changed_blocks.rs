//! SnapshotMetadata: what a snapshot holds, and where two differ, as streams of ranges.
//!
//! - Ranges come in order, none touches the next one, and none begins before the offset that was
//!   asked for. They may say too much, never too little (`DiffSnapshots` of the service).
//! - What refuses the first range refuses the call; a later error ends the stream with it.

use std::collections::VecDeque;

use lunar_metadata_client::{ClientError, DiffRuns, ErrorKind, ErrorReason};
use lunar_proto::csi::BlockMetadata;
use lunar_proto::domain::{DiffRun, Selector, Snapshot};
use lunar_types::BLOCK_BYTES;

use super::call::Call;
use super::ids::snapshot_of;
use crate::errors::CsiError;
use crate::sizes::bytes_of;

/// Ranges of a message where the caller leaves that open.
const RANGES_UNSAID: usize = 1024;
/// The most ranges of a message: below 1 MiB.
const RANGES_MAX: usize = 32_768;

/// What is asked for.
pub(super) struct Asked<'a> {
    /// The first of two.
    pub(super) base: Option<&'a str>,
    /// The one whose content it is about, and how its field is called.
    pub(super) target: (&'static str, &'a str),
    pub(super) starting_offset: i64,
    pub(super) max_results: i32,
}

/// Ranges that have come, joined where they touch.
#[derive(Debug)]
struct Joined {
    /// Nothing before this offset is wanted, and nothing from `end` on.
    start: u64,
    end: u64,
    /// Begin and end of each. The last one may grow until all has come.
    ready: VecDeque<(u64, u64)>,
    is_complete: bool,
}

impl Joined {
    fn take(&mut self, run: DiffRun) {
        // A caller copies what it is told: nothing behind the end of the target.
        let (begin, end) = (run.offset.max(self.start), run.end().min(self.end));
        if begin >= end {
            return;
        }
        match self.ready.back_mut() {
            // Data and zeros are all the same here: both have changed.
            Some((_, last)) if *last >= begin => *last = end.max(*last),
            _ => self.ready.push_back((begin, end)),
        }
    }

    /// Whether so many can be told, none of which will grow.
    fn has(&self, count: usize) -> bool {
        self.is_complete || self.ready.len() > count
    }

    /// The next ranges, at most so many; none at the end.
    fn give(&mut self, most: usize) -> Vec<BlockMetadata> {
        let range = |(begin, end): (u64, u64)| BlockMetadata {
            byte_offset: i64::try_from(begin).expect("a volume has at most 4 PiB"),
            size_bytes: i64::try_from(end - begin).expect("a volume has at most 4 PiB"),
        };
        let count = self.ready.len().min(most);
        self.ready.drain(..count).map(range).collect()
    }
}

/// The ranges of one call.
pub(super) struct Ranges {
    runs: DiffRuns,
    joined: Joined,
    per_message: usize,
    /// The size of the target.
    pub(super) capacity: i64,
}

fn refusal(error: ClientError) -> CsiError {
    match error.kind() {
        ErrorKind::Refused(ErrorReason::SnapshotsUnrelated) => CsiError::invalid(error),
        _ => error.into(),
    }
}

fn offset_of(asked: &Asked<'_>, target: &Snapshot) -> Result<u64, CsiError> {
    let (offset, size) = (asked.starting_offset, target.size.bytes());
    match u64::try_from(offset).ok().filter(|offset| *offset < size) {
        Some(offset) => Ok(offset),
        None => Err(CsiError::out_of_range(format!(
            "starting_offset is {offset}: the snapshot has {size} B"
        ))),
    }
}

impl Ranges {
    /// Looks the snapshots up.
    pub(super) async fn open(call: &Call, asked: &Asked<'_>) -> Result<Self, CsiError> {
        let per_message = match usize::try_from(asked.max_results) {
            Ok(0) => RANGES_UNSAID,
            Ok(most) => most.min(RANGES_MAX),
            Err(_) => {
                let message = format!("max_results is {}, a negative number", asked.max_results);
                return Err(CsiError::invalid(message));
            }
        };
        let base = match asked.base {
            Some(base) => Some(snapshot_of(call, "base_snapshot_id", base).await?),
            None => None,
        };
        let (field, target) = asked.target;
        let target = snapshot_of(call, field, target).await?;
        let start = offset_of(asked, &target)?;
        let from = base.map(|base| Selector::Id(base.id));
        let whole = start - start % BLOCK_BYTES;
        let runs = call.patient().diff_snapshots(from, Selector::Id(target.id), whole);
        let (end, ready) = (target.size.bytes(), VecDeque::new());
        let joined = Joined { start, end, ready, is_complete: false };
        Ok(Self { runs, joined, per_message, capacity: bytes_of(target.size) })
    }

    /// The ranges of the next message; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<BlockMetadata>>, CsiError> {
        while !self.joined.has(self.per_message) {
            match self.runs.next().await {
                Some(run) => self.joined.take(run.map_err(refusal)?),
                None => self.joined.is_complete = true,
            }
        }
        Ok(Some(self.joined.give(self.per_message)).filter(|ranges| !ranges.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use lunar_proto::domain::DiffKind;

    use super::*;

    fn run(offset: u64, length: u64, kind: DiffKind) -> DiffRun {
        DiffRun { offset, length, kind }
    }

    fn joined(start: u64, end: u64) -> Joined {
        Joined { start, end, ready: VecDeque::new(), is_complete: false }
    }

    fn told(of: &mut Joined, most: usize) -> Vec<(i64, i64)> {
        of.give(most).iter().map(|it| (it.byte_offset, it.size_bytes)).collect()
    }

    #[test]
    fn data_and_zeros_that_touch_are_one_range_which_is_told_when_it_cannot_grow() {
        let mut it = joined(0, 100);
        it.take(run(10, 10, DiffKind::Data));
        assert!(!it.has(1), "it may grow");
        it.take(run(20, 5, DiffKind::Zero));
        it.take(run(25, 5, DiffKind::Data));
        assert!(!it.has(1), "it may still grow");
        it.take(run(40, 1, DiffKind::Zero));
        assert!(it.has(1) && !it.has(2));
        assert_eq!(told(&mut it, 1), [(10, 20)]);
        it.is_complete = true;
        assert!(it.has(5));
        assert_eq!((told(&mut it, 5), told(&mut it, 5)), (vec![(40, 1)], vec![]));
    }

    #[test]
    fn ranges_are_cut_off_at_the_offset_and_at_the_end() {
        let mut it = joined(15, 50);
        for (offset, length) in [(0, 10), (10, 5), (14, 3), (40, 20), (60, 5)] {
            it.take(run(offset, length, DiffKind::Data));
        }
        assert_eq!(told(&mut it, 9), [(15, 2), (40, 10)]);
    }
}
