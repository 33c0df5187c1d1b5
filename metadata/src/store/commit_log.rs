//! What was committed lately, to tell whether a transaction's reads still hold.
//!
//! The log is bounded: a transaction older than the log is called conflicting. Versions rise
//! after a commit is visible, so a snapshot is never older than the version taken before it.

use std::collections::{BTreeSet, VecDeque};

use super::KeyRange;
use super::overlay::{Overlay, Writes};

/// Commits that are remembered.
const REMEMBERED: usize = 256;

struct Committed {
    version: u64,
    keys: BTreeSet<Vec<u8>>,
    cleared: Vec<KeyRange>,
}

/// The newest version and the commits before it.
#[derive(Default)]
pub(super) struct CommitLog {
    version: u64,
    recent: VecDeque<Committed>,
}

impl CommitLog {
    /// The version that a transaction beginning now starts from.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Whether nothing that the transaction read was committed since it began.
    pub(super) fn allows(&self, began: u64, overlay: &Overlay) -> bool {
        let forgotten = self.recent.front().is_some_and(|oldest| oldest.version > began + 1);
        !forgotten
            && self.recent.iter().rev().take_while(|commit| commit.version > began).all(|commit| {
                let (keys, ranges) = overlay.reads();
                !commit.touches(keys, ranges)
            })
    }

    /// Remembers a commit that is visible now.
    pub(super) fn push(&mut self, cleared: &[KeyRange], writes: &Writes) {
        self.version += 1;
        self.recent.push_back(Committed {
            version: self.version,
            keys: writes.keys().cloned().collect(),
            cleared: cleared.to_vec(),
        });
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
    }
}

impl Committed {
    fn touches(&self, read_keys: &BTreeSet<Vec<u8>>, read_ranges: &[KeyRange]) -> bool {
        let key_hit = self.keys.iter().any(|key| {
            read_keys.contains(key) || read_ranges.iter().any(|range| range.contains(key))
        });
        key_hit
            || self.cleared.iter().any(|cleared| {
                read_ranges.iter().any(|range| range.overlaps(cleared))
                    || read_keys.iter().any(|key| cleared.contains(key))
            })
    }
}
