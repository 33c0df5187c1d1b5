//! Dirty tables as files on tmpfs, mapped: what a completed write has changed in the map stays
//! there when fs-core is killed.
//!
//! Invariants:
//! - a file is filled whole before it is mapped, so that no store hits a page that tmpfs cannot
//!   give;
//! - a file is put into place only when it holds a valid empty table.
#![allow(unsafe_code, reason = "the words are shared with the page cache")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lunar_engine::dirty::{
    DirtyIdentity, DirtySlot, DirtyTable, DirtyTableError, SharedWords, table_words,
};
use lunar_types::{Epoch, VolumeId};
use memmap2::{MmapOptions, MmapRaw};

use super::{StateDir, StateError, failed, remove};

const CHUNK_BYTES: usize = 1 << 20;

/// A dirty table cannot be made or taken over.
#[derive(Debug, thiserror::Error)]
pub enum DirtyFileError {
    /// Its file cannot be handled.
    #[error("cannot keep the dirty table")]
    File(#[from] StateError),
    /// It is not the table that it should be.
    #[error("the dirty table {} cannot be used", path.display())]
    Table {
        /// Its file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: DirtyTableError,
    },
}

/// A mapped file of words.
struct MappedWords {
    memory: MmapRaw,
    count: usize,
}

impl MappedWords {
    fn map(path: &Path) -> Result<Self, StateError> {
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(failed("open", path))?;
        let memory = MmapOptions::new().map_raw(&file).map_err(failed("map", path))?;
        let count = memory.len() / size_of::<u64>();
        Ok(Self { memory, count })
    }
}

impl SharedWords for MappedWords {
    fn words(&self) -> &[AtomicU64] {
        let first = self.memory.as_mut_ptr().cast::<AtomicU64>();
        // SAFETY: the mapping is page-aligned, `count` words long, lives as long as `self`, and
        // is only ever used through atomics: by this process, and by a successor after its end.
        unsafe { std::slice::from_raw_parts(first, self.count) }
    }
}

impl StateDir {
    /// Where the dirty table of an attachment is.
    #[must_use]
    pub fn dirty_path(&self, volume: VolumeId, epoch: Epoch) -> PathBuf {
        self.root().join("dirty").join(format!("{volume}.{epoch}"))
    }

    /// Makes an empty dirty table.
    ///
    /// # Errors
    /// When tmpfs has no room.
    pub fn create_dirty_table(
        &self,
        identity: DirtyIdentity,
        capacity: usize,
    ) -> Result<DirtyTable, DirtyFileError> {
        let path = self.dirty_path(identity.volume, identity.epoch);
        let temporary = path.with_extension("new");
        let bytes = table_words(identity.extent_size, capacity) * size_of::<u64>();
        if let Err(error) = fill_zeros(&temporary, bytes) {
            remove(&temporary)?;
            return Err(error.into());
        }
        let memory = Arc::new(MappedWords::map(&temporary)?);
        let table = DirtyTable::create(memory, identity, capacity)
            .map_err(|source| DirtyFileError::Table { path: path.clone(), source })?;
        fs::rename(&temporary, &path).map_err(failed("rename", &path))?;
        Ok(table)
    }

    /// Takes over the dirty table of a killed predecessor.
    ///
    /// # Errors
    /// When it is not there, or not that of this attachment.
    pub fn open_dirty_table(
        &self,
        identity: DirtyIdentity,
        capacity: usize,
    ) -> Result<(DirtyTable, Vec<DirtySlot>), DirtyFileError> {
        let path = self.dirty_path(identity.volume, identity.epoch);
        let memory = Arc::new(MappedWords::map(&path)?);
        DirtyTable::open(memory, identity, capacity)
            .map_err(|source| DirtyFileError::Table { path, source })
    }

    /// Removes the dirty table of an attachment, if there is one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_dirty_table(&self, volume: VolumeId, epoch: Epoch) -> Result<(), StateError> {
        remove(&self.dirty_path(volume, epoch))
    }

    /// Removes the dirty tables of all attachments but these: leftovers of a killed daemon.
    ///
    /// # Errors
    /// When they cannot be listed or removed.
    pub fn remove_other_dirty_tables(
        &self,
        keep: &[(VolumeId, Epoch)],
    ) -> Result<usize, StateError> {
        let keep: Vec<_> = keep.iter().map(|&(id, epoch)| self.dirty_path(id, epoch)).collect();
        let directory = self.root().join("dirty");
        let listed = || failed("list", &directory);
        let mut count = 0;
        for entry in fs::read_dir(&directory).map_err(listed())? {
            let path = entry.map_err(listed())?.path();
            if !keep.contains(&path) {
                remove(&path)?;
                count += 1;
            }
        }
        Ok(count)
    }
}

fn fill_zeros(path: &Path, bytes: usize) -> Result<(), StateError> {
    let mut file = fs::File::create(path).map_err(failed("create", path))?;
    let zeros = vec![0; CHUNK_BYTES.min(bytes)];
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(zeros.len());
        file.write_all(&zeros[..piece]).map_err(failed("fill", path))?;
        left -= piece;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lunar_types::{ExtentSize, Incarnation, LayerId, NodeId, NodeIncarnation};

    use super::super::tests::state;
    use super::*;

    fn identity(epoch: u64) -> DirtyIdentity {
        DirtyIdentity {
            volume: VolumeId::from_u128(7),
            layer: LayerId::new(1),
            epoch: Epoch::new(epoch),
            holder: NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(1) },
            extent_size: ExtentSize::DEFAULT,
        }
    }

    #[test]
    fn a_table_is_taken_over_by_the_same_attachment_only() {
        let (_dir, state) = state();
        let table = state.create_dirty_table(identity(3), 1000).expect("made");
        assert_eq!((table.capacity(), table.len()), (1000, 0));
        drop(table);
        let (table, slots) = state.open_dirty_table(identity(3), 1000).expect("taken over");
        assert!(table.is_empty() && slots.is_empty());
        assert!(matches!(
            state.open_dirty_table(identity(3), 999),
            Err(DirtyFileError::Table { .. })
        ));
        assert!(matches!(state.open_dirty_table(identity(4), 1000), Err(DirtyFileError::File(_))));
    }

    #[test]
    fn leftovers_are_removed_and_kept_tables_stay() {
        let (_dir, state) = state();
        drop(state.create_dirty_table(identity(3), 10).expect("made"));
        drop(state.create_dirty_table(identity(4), 10).expect("made"));
        let keep = [(VolumeId::from_u128(7), Epoch::new(4))];
        assert_eq!(state.remove_other_dirty_tables(&keep).expect("removed"), 1);
        assert!(state.open_dirty_table(identity(4), 10).is_ok());
        state.remove_dirty_table(VolumeId::from_u128(7), Epoch::new(4)).expect("removed");
        assert!(state.open_dirty_table(identity(4), 10).is_err());
    }
}
