//! Marks of volumes whose file systems may be frozen: `frozen/<volume>`, an empty file.
//!
//! Invariants:
//! - the file is there from before the first file system is frozen until all are thawed: a
//!   successor of a killed daemon thaws what it finds marked;
//! - a process has one mark of a volume at a time. Freezing cannot be called off: while it lasts,
//!   longer than its snapshot and maybe than its attachment, nobody else freezes or thaws.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use lunar_types::VolumeId;

use super::{StateDir, StateError, failed, remove};

const UNPOISONED: &str = "a panic ends the process";

/// File systems of a volume may be frozen. Dropped, the file stays for a successor.
pub struct FreezeMark {
    state: Arc<StateDir>,
    volume: VolumeId,
}

impl StateDir {
    fn mark_path(&self, volume: VolumeId) -> PathBuf {
        self.root.join("frozen").join(volume.to_string())
    }

    /// Marks a volume before its file systems are frozen or thawed. Nothing if this process does
    /// that already.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub fn mark_frozen(
        self: &Arc<Self>,
        volume: VolumeId,
    ) -> Result<Option<FreezeMark>, StateError> {
        if !self.freezing.lock().expect(UNPOISONED).insert(volume) {
            return Ok(None);
        }
        let mark = FreezeMark { state: Arc::clone(self), volume };
        let path = self.mark_path(volume);
        File::create(&path).map_err(failed("create", &path))?;
        Ok(Some(mark))
    }

    /// Whether a volume is marked.
    #[must_use]
    pub fn is_marked_frozen(&self, volume: VolumeId) -> bool {
        fs::exists(self.mark_path(volume)).unwrap_or(true)
    }

    /// Removes the mark of a volume whose device is gone, and with it what was mounted from it.
    pub(super) fn remove_mark(&self, volume: VolumeId) -> Result<(), StateError> {
        remove(&self.mark_path(volume))
    }
}

impl FreezeMark {
    /// Nothing is frozen any more.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn clear(self) -> Result<(), StateError> {
        self.state.remove_mark(self.volume)
    }
}

impl Drop for FreezeMark {
    fn drop(&mut self) {
        self.state.freezing.lock().expect(UNPOISONED).remove(&self.volume);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Media;
    use super::super::record::{Phase, tests::record};
    use super::super::tests::state;
    use super::*;

    const VOLUME: VolumeId = VolumeId::from_u128(7);

    #[test]
    fn a_mark_is_one_at_a_time_and_stays_until_it_is_cleared() {
        let (dir, state) = state();
        let state = Arc::new(state);
        assert!(!state.is_marked_frozen(VOLUME));
        let mark = state.mark_frozen(VOLUME).expect("marked").expect("the first one");
        assert!(state.mark_frozen(VOLUME).expect("looked").is_none(), "while the first lasts");
        assert!(state.mark_frozen(VolumeId::from_u128(8)).expect("marked").is_some());
        drop(mark);
        assert!(state.is_marked_frozen(VOLUME), "not thawed: for a successor");
        drop(state);

        let state = Arc::new(StateDir::open(&dir.path().join("state"), Media::Any).expect("taken"));
        assert!(state.is_marked_frozen(VOLUME));
        let mark = state.mark_frozen(VOLUME).expect("marked").expect("the predecessor is gone");
        mark.clear().expect("cleared");
        assert!(!state.is_marked_frozen(VOLUME));
        assert!(state.mark_frozen(VOLUME).expect("marked").is_some());
    }

    #[test]
    fn a_late_thaw_changes_nothing_of_a_record_that_was_removed_or_replaced() {
        let (_dir, state) = state();
        let state = Arc::new(state);
        let volume = record(7, Phase::Live).volume;
        state.save_record(&record(7, Phase::Live)).expect("saved");
        let late = state.mark_frozen(volume).expect("marked").expect("the first one");
        state.remove_record(volume).expect("removed");
        assert!(!state.is_marked_frozen(volume), "the device is gone");
        state.save_record(&record(7, Phase::Starting)).expect("attached again");
        assert!(state.mark_frozen(volume).expect("looked").is_none(), "while the first lasts");
        late.clear().expect("cleared");
        assert_eq!(state.load_records().expect("loaded"), [record(7, Phase::Starting)]);
    }
}
