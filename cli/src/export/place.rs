//! Where an export lies: `PATH` when it is whole, `PATH.partial` before, and `PATH.lunar`, the
//! manifest of a format without checksums.
//!
//! - Nothing that is there is overwritten; one export at a time writes a file (a lock on it).
//! - `PATH` appears by a rename, after everything in it and in its manifest was made durable.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Whether an export that was broken off may be gone on with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    /// Nothing may be there.
    Anew,
    /// What is there is gone on with.
    OrResume,
}

/// Whether there is a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sums {
    /// The file has its checksums itself.
    Inside,
    /// They are in a manifest.
    Manifest,
}

/// Why an export cannot be at a place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Something is there.
    #[error("{} is there already", .path.display())]
    Exists {
        /// What.
        path: PathBuf,
    },
    /// An export was broken off there.
    #[error("{} is there, of an export that was not completed", .path.display())]
    Unfinished {
        /// What.
        path: PathBuf,
    },
    /// Another one writes it.
    #[error("{} is being written by another lunar", .path.display())]
    Busy {
        /// What.
        path: PathBuf,
    },
    /// A step failed.
    #[error("{step} {}: {problem}", .path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        problem: io::Error,
    },
}

/// The place of an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    path: PathBuf,
}

/// The open files of an export.
#[derive(Debug)]
pub struct Files {
    /// `PATH.partial`, locked as long as it is open.
    pub partial: File,
    /// `PATH.lunar`, if there is one.
    pub manifest: Option<File>,
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_owned();
    move |problem| PlaceError::Io { step, path, problem }
}

impl Place {
    /// The place whose finished export is at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where it is when it is whole.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is while it is not whole.
    #[must_use]
    pub fn partial(&self) -> PathBuf {
        with_suffix(&self.path, ".partial")
    }

    /// Where its manifest is.
    #[must_use]
    pub fn manifest(&self) -> PathBuf {
        with_suffix(&self.path, ".lunar")
    }

    /// Looks whether an export may be written here; nothing is made.
    ///
    /// # Errors
    /// When something is there.
    pub fn check(&self, begin: Begin, sums: Sums) -> Result<(), PlaceError> {
        refuse_existing(&self.path)?;
        if begin == Begin::Anew {
            let partial = self.partial();
            if partial.symlink_metadata().is_ok() {
                return Err(PlaceError::Unfinished { path: partial });
            }
            if sums == Sums::Manifest {
                refuse_existing(&self.manifest())?;
            }
        }
        Ok(())
    }

    /// Opens the files to be written.
    ///
    /// # Errors
    /// When something is there, or they cannot be opened.
    pub fn open(&self, begin: Begin, sums: Sums) -> Result<Files, PlaceError> {
        self.check(begin, sums)?;
        let (partial, manifest) = (self.partial(), self.manifest());
        let file = open_at(&partial, begin)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PlaceError::Busy { path: partial }),
            Err(TryLockError::Error(problem)) => return Err(failed("lock", &partial)(problem)),
        }
        // Who was in between may have finished, and its file must not be written any more.
        refuse_existing(&self.path)?;
        let manifest = match sums {
            Sums::Manifest => Some(open_at(&manifest, begin)?),
            Sums::Inside => None,
        };
        Ok(Files { partial: file, manifest })
    }

    /// Gives the whole file its name. All of it is durable already.
    ///
    /// # Errors
    /// When something has taken the name, or it cannot be given.
    pub fn finish(&self) -> Result<(), PlaceError> {
        let partial = self.partial();
        let flags = RenameFlags::RENAME_NOREPLACE;
        match renameat2(AT_FDCWD, &partial, AT_FDCWD, &self.path, flags) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Err(PlaceError::Exists { path: self.path.clone() }),
            // A file system that does not know the flag.
            Err(Errno::EINVAL | Errno::ENOSYS) => {
                refuse_existing(&self.path)?;
                fs::rename(&partial, &self.path).map_err(failed("rename", &partial))?;
            }
            Err(error) => return Err(failed("rename", &partial)(error.into())),
        }
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(failed("make durable the folder", folder))
    }
}

fn refuse_existing(path: &Path) -> Result<(), PlaceError> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(problem) => Err(failed("look at", path)(problem)),
        Ok(_) => Err(PlaceError::Exists { path: path.to_owned() }),
    }
}

fn open_at(path: &Path, begin: Begin) -> Result<File, PlaceError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match begin {
        Begin::Anew => options.create_new(true),
        Begin::OrResume => options.create(true).truncate(false),
    };
    options.open(path).map_err(failed("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::new(&folder.path().join("e"));
        (folder, place)
    }

    #[test]
    fn a_file_has_its_name_when_it_is_finished() {
        let (folder, place) = place();
        let files = place.open(Begin::Anew, Sums::Manifest).expect("opens");
        assert!(files.manifest.is_some() && !folder.path().join("e").exists());
        place.finish().expect("renamed");
        assert!(folder.path().join("e").exists() && !place.partial().exists());
        let again = place.open(Begin::OrResume, Sums::Manifest).expect_err("it is there");
        assert!(matches!(again, PlaceError::Exists { .. }), "{again}");
    }

    #[test]
    fn nothing_that_is_there_is_overwritten() {
        let (folder, place) = place();
        let held = place.open(Begin::Anew, Sums::Inside).expect("opens");
        let busy = place.open(Begin::OrResume, Sums::Inside).expect_err("it is written");
        assert!(matches!(busy, PlaceError::Busy { .. }), "{busy}");
        drop(held);
        let unfinished = place.open(Begin::Anew, Sums::Inside).expect_err("it is there");
        assert!(matches!(unfinished, PlaceError::Unfinished { .. }), "{unfinished}");
        place.open(Begin::OrResume, Sums::Inside).expect("it is gone on with");
        fs::write(folder.path().join("e"), b"mine").expect("written");
        let taken = place.finish().expect_err("the name is taken");
        assert!(matches!(taken, PlaceError::Exists { .. }), "{taken}");
        assert_eq!(fs::read(folder.path().join("e")).expect("read"), b"mine");
    }

    #[test]
    fn a_manifest_of_another_file_is_not_overwritten() {
        let (_folder, place) = place();
        fs::write(place.manifest(), b"mine").expect("written");
        let refused = place.open(Begin::Anew, Sums::Manifest).expect_err("it is there");
        assert!(matches!(refused, PlaceError::Exists { .. }), "{refused}");
        assert!(!place.partial().exists());
    }
}
