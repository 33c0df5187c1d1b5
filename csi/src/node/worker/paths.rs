//! Paths that kubelet gives: believed no further than its root.
//!
//! - A path is absolute, normal and beneath the root, by its text; and it is opened from a
//!   descriptor of the root without a symlink on the way, so that a pod that swaps a directory for
//!   a symlink is refused and not followed.
//! - A path is opened once. What is made, looked at, mounted on or unmounted is then named by the
//!   descriptor of its parent and its last part.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, openat2, unlinkat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::failure::{Failure, Kind};
use crate::node::text::quoted;

/// The most bytes of a path, by the kernel, without the zero at its end.
const PATH_BYTES_MAX: usize = 4_095;
/// The most bytes of one part of it.
const NAME_BYTES_MAX: usize = 255;
/// Directories that are made can be looked into by root alone: the mount brings its own mode.
const DIRECTORY_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o640;

/// Why a text is no path for us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing was given.
    #[error("is missing")]
    Missing,
    /// More than the kernel takes.
    #[error("has {0} bytes, or one part of more than 255: the most is 4095")]
    TooLong(usize),
    /// A zero, a newline or the like.
    #[error("{} has a control character", quoted(.0))]
    Control(String),
    /// It means different things in different places.
    #[error("{} is not absolute", quoted(.0))]
    Relative(String),
    /// "..", ".", two slashes, or one at the end.
    #[error("{} is not normal: give it without '.', '..' and empty parts", quoted(.0))]
    NotNormal(String),
    /// Nothing of kubelet's.
    #[error("{} is not beneath --kubelet-root {root}", quoted(.path))]
    Outside {
        /// What was given.
        path: String,
        /// Where it has to be.
        root: String,
    },
}

/// The part of a path that comes after the root.
///
/// # Errors
/// By its text it is no normal path beneath the root.
pub fn beneath(root: &Path, path: &str) -> Result<PathBuf, PathError> {
    if path.is_empty() {
        return Err(PathError::Missing);
    }
    if path.len() > PATH_BYTES_MAX || path.split('/').any(|part| part.len() > NAME_BYTES_MAX) {
        return Err(PathError::TooLong(path.len()));
    }
    if path.chars().any(char::is_control) {
        return Err(PathError::Control(path.to_owned()));
    }
    let Some(parts) = path.strip_prefix('/') else {
        return Err(PathError::Relative(path.to_owned()));
    };
    if parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(PathError::NotNormal(path.to_owned()));
    }
    match Path::new(path).strip_prefix(root) {
        Ok(rest) if rest.as_os_str() != "" => Ok(rest.to_owned()),
        _ => Err(PathError::Outside { path: path.to_owned(), root: root.display().to_string() }),
    }
}

const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// The last part of a path, in a directory that is open.
#[derive(Debug)]
pub struct Spot {
    parent: OwnedFd,
    name: String,
    path: String,
}

fn refused(path: &str, error: Errno) -> Failure {
    let path = quoted(path);
    match error {
        Errno::LOOP | Errno::XDEV => {
            let why = "there is a symlink on the way, which is never followed";
            Failure::new(Kind::Invalid, format!("path {path} cannot be used: {why}"))
        }
        Errno::NOTDIR => {
            let why = "a part of it is no directory";
            Failure::new(Kind::Invalid, format!("path {path} cannot be used: {why}"))
        }
        _ => Failure::internal(format!("open {path}"), io::Error::from(error)),
    }
}

impl Spot {
    /// The spot at a path; nothing, if its directory is not there.
    ///
    /// # Errors
    /// The path is no path for us, or cannot be opened.
    pub fn find(root: &Path, path: &str) -> Result<Option<Self>, Failure> {
        let rest = beneath(root, path)
            .map_err(|error| Failure::new(Kind::Invalid, format!("path {error}")))?;
        let named = |error: io::Error| Failure::internal(format!("open {}", root.display()), error);
        let root = File::open(root).map_err(named)?;
        let name = rest.file_name().and_then(|name| name.to_str());
        let name = name.expect("a normal path of text ends with a name").to_owned();
        let directory = match rest.parent() {
            Some(parent) if parent.as_os_str() != "" => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat2(&root, directory, flags, Mode::empty(), RESOLVE) {
            Ok(parent) => Ok(Some(Self { parent, name, path: path.to_owned() })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(refused(path, error)),
        }
    }

    /// The spot at a path, in a directory that has to be there.
    ///
    /// # Errors
    /// As [`Spot::find`], or the directory is not there.
    pub fn open(root: &Path, path: &str) -> Result<Self, Failure> {
        Self::find(root, path)?.ok_or_else(|| {
            let path = quoted(path);
            let why = "its directory is not there, and is kubelet's to make";
            Failure::new(Kind::Invalid, format!("path {path} cannot be used: {why}"))
        })
    }

    /// The whole path, for people.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its directory.
    #[must_use]
    pub fn parent(&self) -> &OwnedFd {
        &self.parent
    }

    /// What is there, of mounts the uppermost; nothing, if nothing is.
    ///
    /// # Errors
    /// It is a symlink, or cannot be opened.
    pub fn look(&self) -> Result<Option<OwnedFd>, Failure> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match openat2(&self.parent, &self.name, flags, Mode::empty(), RESOLVE) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(refused(&self.path, error)),
        }
    }

    /// Makes a directory there; one that is there is none the worse.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_directory(&self) -> Result<(), Failure> {
        match mkdirat(&self.parent, &self.name, Mode::from_raw_mode(DIRECTORY_MODE)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(self.failed("make", error)),
        }
    }

    /// Makes an empty file there, for a device to be mounted on; what is there stays.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_file(&self) -> Result<(), Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(FILE_MODE);
        match openat2(&self.parent, &self.name, flags, mode, RESOLVE) {
            Ok(_) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(self.failed("make", error)),
        }
    }

    /// Removes the empty directory or the file that is there.
    ///
    /// # Errors
    /// It cannot be removed; a directory with something in it never is.
    pub fn remove(&self) -> Result<(), Failure> {
        let removed = match unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTDIR) => unlinkat(&self.parent, &self.name, AtFlags::empty()),
            done => done,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed("remove", error)),
        }
    }

    /// Takes off the uppermost mount there, if nobody uses it.
    ///
    /// # Errors
    /// `BUSY` where somebody does.
    pub fn unmount(&self) -> rustix::io::Result<()> {
        // The kernel takes no descriptor here; this path goes through one, so nobody can bend it.
        let path =
            format!("/proc/thread-self/fd/{}/{}", self.parent.as_fd().as_raw_fd(), self.name);
        unmount(path, UnmountFlags::NOFOLLOW)
    }

    fn failed(&self, what: &str, error: Errno) -> Failure {
        Failure::internal(format!("{what} {}", quoted(&self.path)), io::Error::from(error))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_normal_paths_beneath_the_root_are_taken() {
        let root = Path::new("/var/lib/kubelet");
        let taken = beneath(root, "/var/lib/kubelet/pods/a b/é").expect("a path");
        assert_eq!(taken, Path::new("pods/a b/é"));
        for (path, expected) in [
            ("", "is missing"),
            ("var/lib/kubelet/a", "not absolute"),
            ("/var/lib/kubelet", "not beneath"),
            ("/var/lib/kubelet/", "not normal"),
            ("/var/lib/kubelet-other/a", "not beneath"),
            ("/var/lib/kubelet/../../etc", "not normal"),
            ("/var/lib/kubelet/./a", "not normal"),
            ("/var/lib//kubelet/a", "not normal"),
            ("/etc", "not beneath"),
            ("/", "not normal"),
            ("/var/lib/kubelet/a\nb", "control character"),
            ("/var/lib/kubelet/a\0b", "control character"),
        ] {
            let refused = beneath(root, path).expect_err(path).to_string();
            assert!(refused.contains(expected), "{path}: {refused}");
        }
        for long in ["/var/lib/kubelet/x".to_owned() + &"y".repeat(255), "/a".repeat(3_000)] {
            assert!(matches!(beneath(root, &long), Err(PathError::TooLong(_))));
        }
    }

    #[test]
    fn a_symlink_is_followed_nowhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        std::fs::create_dir_all(root.join("real/inner")).expect("made");
        std::fs::create_dir_all(outside.join("inner")).expect("made");
        symlink(&outside, root.join("link")).expect("made");
        symlink("real", root.join("near")).expect("made");
        let at = |rest: &str| root.join(rest).display().to_string();
        for rest in ["link/inner", "near/inner"] {
            let refused = Spot::find(&root, &at(rest)).expect_err(rest);
            assert_eq!(refused.kind, Kind::Invalid, "{refused}");
        }
        let spot = Spot::open(&root, &at("link")).expect("its directory is real");
        assert_eq!(spot.look().expect_err("a symlink").kind, Kind::Invalid);
        assert!(Spot::find(&root, &at("absent/a")).expect("no error").is_none());
        assert!(Spot::open(&root, &at("absent/a")).is_err());
    }

    #[test]
    fn what_is_made_is_found_and_removed_and_what_is_full_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let spot_at = |name: &str| {
            let path = folder.path().join(name).display().to_string();
            Spot::open(folder.path(), &path).expect("a spot")
        };
        let (directory, file) = (spot_at("d"), spot_at("f"));
        assert!(directory.look().expect("looked").is_none());
        for _ in 0..2 {
            directory.make_directory().expect("made");
            file.make_file().expect("made");
        }
        assert!(directory.look().expect("looked").is_some());
        std::fs::write(folder.path().join("d/kept"), "data").expect("written");
        assert!(directory.remove().is_err());
        for _ in 0..2 {
            file.remove().expect("removed");
        }
        assert!(folder.path().join("d/kept").exists() && !folder.path().join("f").exists());
    }
}
