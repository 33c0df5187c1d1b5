//! The file systems on a device and its partitions.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::holders::{HolderSearch, block_device};
use crate::ublk::DeviceId;

/// A mounted file system.
pub(super) struct Mounted {
    pub(super) target: PathBuf,
    pub(super) root: File,
}

/// Whether a device or a partition of it is mounted; no file of anybody is looked at.
pub(super) fn is_mounted(device: DeviceId) -> io::Result<bool> {
    let Some(number) = block_device(Path::new(&device.block_path())) else { return Ok(false) };
    let mounts = HolderSearch::of_this_host().mounted(&device.block_name(), number)?;
    Ok(!mounts.is_empty())
}

/// The file systems on a device and its partitions, each once.
pub(super) fn file_systems_on(device: DeviceId) -> io::Result<Vec<Mounted>> {
    let Some(number) = block_device(Path::new(&device.block_path())) else {
        return Ok(Vec::new());
    };
    let (search, name) = (HolderSearch::of_this_host(), device.block_name());
    let ours = search.numbers(&name, number)?;
    let mut found = BTreeMap::new();
    for (target, pid) in search.mounted(&name, number)? {
        // As that process sees it: it may be another mount namespace.
        let inside = target.strip_prefix("/").unwrap_or(&target);
        let path = Path::new("/proc").join(pid.to_string()).join("root").join(inside);
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOFOLLOW);
        let root = match options.open(&path) {
            Ok(root) => root,
            // The process has ended, or the mount is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let file_system = root.metadata()?.dev();
        if ours.contains(&file_system) {
            found.entry(file_system).or_insert(Mounted { target, root });
        } else {
            warn!(target = %target.display(), "another file system is mounted over it");
        }
    }
    Ok(found.into_values().collect())
}
