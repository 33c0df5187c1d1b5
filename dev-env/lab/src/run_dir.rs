//! The directory of one running lab: sockets, logs, disks.
//!
//! Invariants:
//! - its owner holds a lock on `lock` in it for as long as the lab lives, so a directory whose lock
//!   is free belongs to nobody;
//! - directories of unnamed labs whose owner is gone are removed by the next lab that starts,
//!   except those that were kept as evidence.

use crate::error::{AtPath, LabError, Result};
use crate::host;
use crate::progress::say;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Moves the run directories; the default is `/var/tmp/lunar-lab-<user id>`.
pub const RUN_VARIABLE: &str = "LUNAR_LAB_RUN";
/// `logs` or `all`: keeps logs, or logs and disks, of labs that went well too.
pub const KEEP_VARIABLE: &str = "LUNAR_LAB_KEEP";

const UNNAMED_PREFIX: &str = "test-";
const KEPT_MARK: &str = "kept";
const DISK_EXTENSIONS: [&str; 2] = ["raw", "ext4"];

/// A run directory that this process owns.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// The directory below which all run directories are.
    pub(crate) fn base() -> PathBuf {
        std::env::var_os(RUN_VARIABLE).map_or_else(
            || PathBuf::from(format!("/var/tmp/lunar-lab-{}", nix::unistd::getuid())),
            PathBuf::from,
        )
    }

    /// Where the lab of this name lives, whether it exists or not.
    pub(crate) fn path_of(name: &str) -> PathBuf {
        Self::base().join(name)
    }

    /// Makes the directory; a name that is in use is refused, leftovers of that name are removed.
    pub(crate) fn create(name: Option<&str>) -> Result<Self> {
        let base = Self::base();
        fs::create_dir_all(&base).at("make", &base)?;
        // Held until our own lock is: nobody takes a directory in the making for a stale one.
        let _turn = take_turn(&base)?;
        let path = match name {
            Some(name) => {
                let path = base.join(name);
                if path.exists() {
                    remove_if_free(&path)?;
                }
                fs::create_dir(&path).at("make", &path)?;
                path
            }
            None => {
                remove_stale(&base);
                let maker = tempfile::Builder::new().prefix(UNNAMED_PREFIX).tempdir_in(&base);
                maker.at("make a directory in", &base)?.keep()
            }
        };
        let lock_path = path.join("lock");
        let lock = host::lock_file(&lock_path)?;
        lock.lock().at("lock", &lock_path)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the directory: removed after success, logs kept after failure, by [`KEEP_VARIABLE`].
    pub(crate) fn finish(&self, failed: bool) {
        let keep = std::env::var(KEEP_VARIABLE).unwrap_or_default();
        let result = take_turn(&Self::base()).and_then(|_turn| {
            if keep == "all" {
                self.keep("everything")
            } else if failed || keep == "logs" {
                remove_disks(&self.path).and_then(|()| self.keep("logs"))
            } else {
                fs::remove_dir_all(&self.path).at("remove", &self.path)
            }
        });
        if let Err(error) = result {
            say(&error.to_string());
        }
    }

    fn keep(&self, what: &str) -> Result<()> {
        say(&format!("{what} kept in {}", self.path.display()));
        let mark = self.path.join(KEPT_MARK);
        fs::write(&mark, "").at("write", mark)
    }
}

/// Whether a live process owns the directory.
pub(crate) fn is_owned(path: &Path) -> bool {
    match File::open(path.join("lock")) {
        Ok(lock) => lock.try_lock().is_err(),
        Err(_) => false,
    }
}

/// Removes the directory of a lab whose owner is gone.
pub(crate) fn remove_if_free(path: &Path) -> Result<()> {
    if is_owned(path) {
        return Err(LabError::Settings(format!(
            "a lab runs in {}; `lab down` ends it, --name starts another",
            path.display()
        )));
    }
    say(&format!("removing what a lab left behind in {}", path.display()));
    fs::remove_dir_all(path).at("remove", path)
}

/// Waits for the right to make or remove run directories; ends with the file that is returned.
fn take_turn(base: &Path) -> Result<File> {
    let path = base.join("making.lock");
    let turn = host::lock_file(&path)?;
    turn.lock().at("lock", &path)?;
    Ok(turn)
}

fn remove_stale(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let path = entry.path();
        let unnamed = entry.file_name().to_string_lossy().starts_with(UNNAMED_PREFIX);
        if unnamed
            && !is_owned(&path)
            && !path.join(KEPT_MARK).exists()
            && let Err(error) = fs::remove_dir_all(&path)
        {
            say(&format!("cannot remove {}: {error}", path.display()));
        }
    }
}

fn remove_disks(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).at("list", directory)? {
        let path = entry.at("list", directory)?.path();
        if path.is_dir() {
            remove_disks(&path)?;
        } else if path.extension().is_some_and(|found| DISK_EXTENSIONS.iter().any(|e| found == *e))
        {
            fs::remove_file(&path).at("remove", &path)?;
        }
    }
    Ok(())
}
