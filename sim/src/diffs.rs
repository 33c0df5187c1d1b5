//! What differs between two snapshots, as the service tells it: replayed over what the first one
//! shows, it gives what the second one shows.

use std::collections::BTreeMap;

use lunar_metadata::domain::{DiffKind, DiffRun, DiffSnapshots, Selector};
use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_types::{BLOCK_BYTES, SnapshotId};

use crate::planted::Planted;
use crate::world::{Flow, World, failed};

impl World {
    /// Compares a snapshot with another one, or with nothing.
    pub(crate) fn compare_snapshots(&mut self, to: usize) -> Flow {
        let from = self.dice.below(self.snapshots.len() as u64 + 1) as usize;
        let from = self.snapshots.get(from).cloned();
        let to = self.snapshots[to].clone();
        let is_related = from.as_ref().is_none_or(|from| from.cut.is_related(&to.cut));
        let mut runs = match self.diff(from.as_ref().map(|from| from.id), to.id) {
            Ok(_) if !is_related => return failed("two volumes that share nothing are related"),
            Err(ServiceError::SnapshotsUnrelated { .. }) if !is_related => return Ok(()),
            Ok(runs) => runs,
            Err(error) => return failed(format!("two snapshots were not compared: {error}")),
        };
        if self.planted == Some(Planted::DiffWithoutZero) {
            runs.retain(|run| run.kind == DiffKind::Data);
        }
        let mut named = BTreeMap::new();
        for run in &runs {
            let blocks = run.offset / BLOCK_BYTES..run.end() / BLOCK_BYTES;
            named.extend(blocks.map(|block| (block, run.kind)));
        }
        let from = from.as_ref();
        let end = from.map_or(0, |from| from.size.bytes()).max(to.size.bytes());
        for block in 0..end / BLOCK_BYTES {
            let replayed = match named.get(&block) {
                Some(DiffKind::Data) => continue,
                Some(DiffKind::Zero) => None,
                None => from.map(|from| &from.cut),
            };
            if let Some(byte) = to.cut.disagrees(block, replayed) {
                let (uid, told) = (to.cut.uid(), named.get(&block));
                return failed(format!(
                    "what differs, replayed up to a snapshot of v{uid}, is not what that shows at \
                     byte {byte} (told: {told:?})"
                ));
            }
        }
        self.counters.compared += 1;
        Ok(())
    }

    fn diff(&self, from: Option<SnapshotId>, to: SnapshotId) -> Result<Vec<DiffRun>, ServiceError> {
        let (from, to) = (from.map(Selector::Id), Selector::Id(to));
        let (mut runs, mut next) = (Vec::new(), Some(0));
        while let Some(start) = next {
            let diff = DiffSnapshots { from: from.clone(), to: to.clone(), start };
            let page = self.until_answered(|s| block_on(s.diff_snapshots(&diff)))?;
            runs.extend(page.runs);
            next = page.next;
        }
        Ok(runs)
    }
}
