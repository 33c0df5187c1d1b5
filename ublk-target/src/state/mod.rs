//! What has to survive a restart of fs-core, but not of the host: a directory on tmpfs.
//!
//! - `lock`: held while a daemon runs, and by what a killed one still has under way;
//! - `node.json`: the incarnation ([`node`]);
//! - `devices/<volume>.json`: one record an attachment ([`record`]);
//! - `frozen/<volume>`: its file systems may be frozen ([`frozen`]);
//! - `dirty/<volume>.<epoch>`: the dirty tables ([`dirty_file`]).
//!
//! Kill order: a file is written whole under another name, then renamed into place; a record is
//! written before what it speaks of is done, and removed after it is undone.

pub mod dirty_file;
pub mod frozen;
pub mod node;
pub mod record;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// linux/magic.h; nix has no name for it.
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file operation failed.
    #[error("cannot {what} {}", path.display())]
    File {
        /// Create, read, write, …
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is on a disk.
    #[error(
        "the state directory {} is not on tmpfs: a mapped file on a disk would make I/O wait for \
         that disk; give --state-dir on a tmpfs such as /run, or, in a lab, \
         --lab-allow-disk-state", path.display()
    )]
    NotTmpfs {
        /// The directory.
        path: PathBuf,
    },
    /// Another daemon is running.
    #[error(
        "another fs-core uses the state directory {}: stop it first; one that was killed lets \
         go when its last I/O has ended", path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A file holds something else than it should.
    #[error("{} cannot be understood", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

pub(crate) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError::File { what, path: path.to_owned(), source }
}

/// Whether a state directory may be on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// Only on memory.
    MemoryOnly,
    /// On a disk too, for labs.
    Any,
}

/// The state directory, held by this process.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    _lock: Flock<File>,
}

fn is_in_memory(kind: FsType) -> bool {
    kind == TMPFS_MAGIC || kind == FsType(RAMFS_MAGIC)
}

fn make_directory(path: &Path) -> Result<(), StateError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))
}

impl StateDir {
    /// Opens the directory, making it if need be, and takes its lock.
    ///
    /// # Errors
    /// When it is on no tmpfs, cannot be written or is in use.
    pub fn open(root: &Path, media: Media) -> Result<Self, StateError> {
        make_directory(root)?;
        let kind =
            statfs(root).map_err(|errno| failed("inspect", root)(errno.into()))?.filesystem_type();
        if media == Media::MemoryOnly && !is_in_memory(kind) {
            return Err(StateError::NotTmpfs { path: root.to_owned() });
        }
        let path = root.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed("open", &path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| StateError::Locked { path: root.to_owned() })?;
        for directory in ["devices", "frozen", "dirty"] {
            make_directory(&root.join(directory))?;
        }
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    /// The directory's path.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file system that it is on, for people.
    #[must_use]
    pub fn file_system(&self) -> String {
        match statfs(&self.root).map(|facts| facts.filesystem_type()) {
            Ok(TMPFS_MAGIC) => "tmpfs".to_owned(),
            Ok(FsType(RAMFS_MAGIC)) => "ramfs".to_owned(),
            Ok(FsType(magic)) => format!("file system {magic:#x}"),
            Err(errno) => format!("unknown ({errno})"),
        }
    }
}

/// Writes a file whole, then puts it into place.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StateError> {
    let parsed = |source| StateError::Parse { path: path.to_owned(), source };
    let text = serde_json::to_vec_pretty(value).map_err(parsed)?;
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary).map_err(failed("create", &temporary))?;
    file.write_all(&text).map_err(failed("write", &temporary))?;
    file.sync_all().map_err(failed("sync", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("rename", path))
}

/// Reads a file; nothing if it is not there.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let parsed = |source| StateError::Parse { path: path.to_owned(), source };
    serde_json::from_slice(&text).map(Some).map_err(parsed)
}

/// Removes a file; one that is not there is removed already.
pub(crate) fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let state = StateDir::open(&dir.path().join("state"), Media::Any).expect("opened");
        (dir, state)
    }

    #[test]
    fn a_second_daemon_is_kept_out() {
        let (dir, state) = state();
        let second = StateDir::open(&dir.path().join("state"), Media::Any);
        assert!(matches!(second, Err(StateError::Locked { .. })));
        drop(state);
        assert!(StateDir::open(&dir.path().join("state"), Media::Any).is_ok());
    }

    #[test]
    fn a_directory_on_a_disk_is_refused_and_one_in_memory_is_taken() {
        let on_disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
        let refused = StateDir::open(on_disk.path(), Media::MemoryOnly);
        assert!(matches!(refused, Err(StateError::NotTmpfs { .. })), "{refused:?}");
        let in_memory = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        let state = StateDir::open(in_memory.path(), Media::MemoryOnly).expect("tmpfs");
        assert_eq!(state.file_system(), "tmpfs");
    }

    #[test]
    fn a_file_is_replaced_whole_and_garbage_is_named() {
        let (dir, _state) = state();
        let path = dir.path().join("x.json");
        assert_eq!(read_json::<u32>(&path).expect("absent"), None);
        write_json(&path, &7_u32).expect("written");
        write_json(&path, &8_u32).expect("replaced");
        assert_eq!(read_json::<u32>(&path).expect("read"), Some(8));
        fs::write(&path, "{").expect("spoilt");
        let error = read_json::<u32>(&path).expect_err("garbage");
        assert!(error.to_string().contains("x.json"), "{error}");
        remove(&path).expect("removed");
        remove(&path).expect("removed already");
    }
}
