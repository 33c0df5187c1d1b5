//! How full a file system is, by its mount alone, and whether it still stands on something.

use std::io;
use std::path::Path;

use rustix::fs::{fstat, fstatvfs};
use serde::{Deserialize, Serialize};

use super::failure::{Failure, Kind};
use super::survey::{Mounted, Place, mount_at, survey};
use super::{mountinfo, paths::Spot};
use crate::node::device::DeviceNumber;
use crate::node::text::quoted;

/// So many of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// In all.
    pub total: u64,
    /// In use.
    pub used: u64,
    /// To be had by anybody but root.
    pub available: u64,
}

/// What a volume at a path looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes; of a device node its size alone.
    pub bytes: Option<Usage>,
    /// Files; a device node has none.
    pub inodes: Option<Usage>,
    /// For people: what is wrong with it.
    pub problem: Option<String>,
}

fn fill(root: &Path, path: &str) -> io::Result<(Usage, Usage)> {
    let other = |failure: Failure| io::Error::other(failure.message);
    let spot = Spot::open(root, path).map_err(other)?;
    let found = spot.look().map_err(other)?.ok_or(io::ErrorKind::NotFound)?;
    // The mount that was surveyed may have gone: then the host's own numbers would be told.
    if mount_at(&spot, &found, &mountinfo::read()?).map_err(other)?.is_none() {
        return Err(io::ErrorKind::NotFound.into());
    }
    // An xfs that has shut down still tells its numbers, and EIO of its root.
    fstat(&found)?;
    let stat = fstatvfs(&found)?;
    let bytes = Usage {
        total: stat.f_blocks * stat.f_frsize,
        used: stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize,
        available: stat.f_bavail * stat.f_frsize,
    };
    let inodes = Usage {
        total: stat.f_files,
        used: stat.f_files.saturating_sub(stat.f_ffree),
        available: stat.f_favail,
    };
    Ok((bytes, inodes))
}

/// How many errors an ext4 has found since it was last checked; an xfs shuts itself down instead.
fn errors_found(device: DeviceNumber) -> Option<u64> {
    let name = std::fs::read_link(format!("/sys/dev/block/{device}")).ok()?;
    let path = Path::new("/sys/fs/ext4").join(name.file_name()?).join("errors_count");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What the file system has become by itself.
fn turned(mounted: &Mounted) -> Option<String> {
    let mount = &mounted.mount;
    if let Some(count @ 1..) = errors_found(mount.device) {
        let advice = "it is checked when its pods are deleted and started again";
        return Some(format!("its file system has found {count} errors: {advice}"));
    }
    if mount.has_fs_option("shutdown") || mount.has_fs_option("emergency_ro") {
        return Some("its file system has shut itself down after an error".to_owned());
    }
    let is_turned = !mount.is_read_only() && mount.is_fs_read_only();
    is_turned.then(|| "its file system has made itself read only after an error".to_owned())
}

/// The stats of what is mounted at a path.
///
/// # Errors
/// Nothing is mounted there, or the path is no path for us.
pub fn stats(root: &Path, path: &str) -> Result<Stats, Failure> {
    let Place::Mount(mounted) = survey(root, path, None)?.place else {
        let message = format!("no volume is mounted at {}", quoted(path));
        return Err(Failure::new(Kind::NotFound, message));
    };
    let device = mounted.device();
    let size = device.size_bytes();
    let size =
        size.map_err(|error| Failure::internal(format!("look at device {device}"), error))?;
    let Some(size) = size else {
        let problem = format!("its device {device} is gone: delete the pods that use the volume");
        return Ok(Stats { problem: Some(problem), ..Stats::default() });
    };
    if mounted.node.is_some() {
        let bytes = Usage { total: size, ..Usage::default() };
        return Ok(Stats { bytes: Some(bytes), ..Stats::default() });
    }
    match fill(root, path) {
        Ok((bytes, inodes)) => {
            let problem = turned(&mounted);
            Ok(Stats { bytes: Some(bytes), inodes: Some(inodes), problem })
        }
        Err(error) => {
            let problem = format!("its file system cannot be asked: {error}");
            Ok(Stats { problem: Some(problem), ..Stats::default() })
        }
    }
}
