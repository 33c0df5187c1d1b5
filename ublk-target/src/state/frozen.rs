//! Marks of volumes whose file systems may be frozen: `frozen/<volume>`, an empty file.
//!
//! Invariants:
//! - the file is there from before the first file system is frozen until all are thawed: a
//!   successor of a killed daemon thaws what it finds marked;
//! - it is no part of a record: freezing cannot be called off, and may outlast its snapshot and
//!   even its attachment, so who thaws late must not write what is of others. Who freezes or thaws
//!   holds the lock of the file: `crate::volume::fsfreeze::helper`.

use std::fs;
use std::path::PathBuf;

use lunar_types::VolumeId;

use super::{StateDir, StateError, remove};

impl StateDir {
    /// Where the mark of a volume is, or would be.
    #[must_use]
    pub fn freeze_mark(&self, volume: VolumeId) -> PathBuf {
        self.root.join("frozen").join(volume.to_string())
    }

    /// Whether a volume is marked.
    #[must_use]
    pub fn is_marked_frozen(&self, volume: VolumeId) -> bool {
        fs::exists(self.freeze_mark(volume)).unwrap_or(true)
    }

    /// Removes the mark of a volume whose device is gone, and with it what was mounted from it.
    pub(super) fn remove_mark(&self, volume: VolumeId) -> Result<(), StateError> {
        remove(&self.freeze_mark(volume))
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Phase, tests::record};
    use super::super::tests::state;

    #[test]
    fn a_mark_goes_with_the_record_and_is_of_one_volume() {
        let (_dir, state) = state();
        let (one, other) = (record(7, Phase::Live), record(8, Phase::Live));
        for marked in [&one, &other] {
            state.save_record(marked).expect("saved");
            assert!(!state.is_marked_frozen(marked.volume));
            std::fs::write(state.freeze_mark(marked.volume), "").expect("marked");
            assert!(state.is_marked_frozen(marked.volume));
        }
        state.remove_record(one.volume).expect("removed");
        assert!(!state.is_marked_frozen(one.volume), "the device is gone");
        assert!(state.is_marked_frozen(other.volume));
    }
}
