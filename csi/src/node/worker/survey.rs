//! What is at a path, and where else the same device is mounted.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, openat, statat};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::mountinfo::{self, Mount, mount_id};
use super::open_device::block_number;
use super::paths::Spot;
use crate::node::device::DeviceNumber;
use crate::node::text::quoted;

/// A mount of a file system, or of a device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// As the kernel tells it.
    pub mount: Mount,
    /// Of a device node that is mounted on a file: which.
    pub node: Option<DeviceNumber>,
}

impl Mounted {
    /// The device that it gives: as a file system or as itself.
    #[must_use]
    pub fn device(&self) -> DeviceNumber {
        self.node.unwrap_or(self.mount.device)
    }
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Nothing, and not even the directory that it would be in.
    Nowhere,
    /// Nothing.
    Absent,
    /// A directory, and nothing is mounted on it.
    Directory,
    /// Something else, and nothing is mounted on it.
    File,
    /// A mount, the uppermost.
    Mount(Box<Mounted>),
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// At the path.
    pub place: Place,
    /// The file system at the path has shut down: nothing is read or written there any more.
    pub is_dead: bool,
    /// All mounts of the device that was asked for, or else of the one at the path; those at the
    /// path as well.
    pub uses: Vec<Mounted>,
}

/// The mount whose uppermost directory or file is at a spot.
///
/// # Errors
/// The spot or the mount table cannot be read.
pub fn mount_at(spot: &Spot, found: &OwnedFd, table: &[Mount]) -> Result<Option<Mount>, Failure> {
    let failed = |error| Failure::internal(format!("look at {}", quoted(spot.path())), error);
    let id = mount_id(found).map_err(failed)?;
    if id == mount_id(spot.parent()).map_err(failed)? {
        return Ok(None);
    }
    let mount = table.iter().find(|mount| mount.id == id).cloned();
    let gone = || failed(std::io::Error::other("its mount is not in the mount table"));
    mount.map(Some).ok_or_else(gone)
}

/// What a descriptor and its mount are.
fn mounted(found: impl AsFd, mount: Mount) -> Mounted {
    // A dead file system does not even say what its root is: then it is no device node.
    let node = if mount.root == "/" { None } else { block_number(found).ok().flatten() };
    Mounted { mount, node }
}

/// The mounts of a device.
#[must_use]
pub fn uses_of(device: DeviceNumber, table: &[Mount]) -> Vec<Mounted> {
    let is_use = |mount: &Mount| -> Option<Mounted> {
        if mount.device == device {
            return Some(Mounted { mount: mount.clone(), node: None });
        }
        // A device node alone is mounted from the file system of /dev, by its name there.
        if mount.root == "/" || !matches!(mount.fs_type.as_str(), "devtmpfs" | "tmpfs" | "ramfs") {
            return None;
        }
        let found = node_at(mount)?;
        (found == device).then(|| Mounted { mount: mount.clone(), node: Some(found) })
    };
    table.iter().filter_map(is_use).collect()
}

fn node_at(mount: &Mount) -> Option<DeviceNumber> {
    let stat = statat(CWD, &*mount.point, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    if !FileType::from_raw_mode(stat.st_mode).is_block_device() {
        return None;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(CWD, &*mount.point, flags, Mode::empty()).ok()?;
    (mount_id(&found).ok()? == mount.id).then(|| block_number(&found).ok().flatten()).flatten()
}

/// The mounts of a device in this namespace.
///
/// # Errors
/// The mount table cannot be read.
pub fn uses(device: DeviceNumber) -> Result<Vec<Mounted>, Failure> {
    let table = mountinfo::read().map_err(|error| Failure::internal("read mounts", error))?;
    Ok(uses_of(device, &table))
}

/// Looks at a path.
///
/// # Errors
/// The path is no path for us, or something cannot be read.
pub fn survey(root: &Path, path: &str, device: Option<DeviceNumber>) -> Result<Survey, Failure> {
    let table = mountinfo::read().map_err(|error| Failure::internal("read mounts", error))?;
    let spot = Spot::find(root, path)?;
    let found = spot.as_ref().map(Spot::look).transpose()?.flatten();
    let place = match (&spot, &found) {
        (None, _) => Place::Nowhere,
        (Some(_), None) => Place::Absent,
        (Some(spot), Some(found)) => match mount_at(spot, found, &table)? {
            Some(mount) => Place::Mount(Box::new(mounted(found, mount))),
            None if is_directory(found) => Place::Directory,
            None => Place::File,
        },
    };
    let is_dead = match (&place, &found) {
        (Place::Mount(mounted), Some(found)) => is_dead(&mounted.mount, found),
        _ => false,
    };
    let device = device.or(match &place {
        Place::Mount(mounted) => Some(mounted.device()),
        _ => None,
    });
    let uses = device.map(|device| uses_of(device, &table)).unwrap_or_default();
    Ok(Survey { place, is_dead, uses })
}

/// An xfs that has shut down fails whatever asks for its root; an ext4 says it in its options.
fn is_dead(mount: &Mount, found: &OwnedFd) -> bool {
    fstat(found).is_err() || mount.has_fs_option("shutdown") || mount.has_fs_option("emergency_ro")
}

fn is_directory(found: &OwnedFd) -> bool {
    fstat(found).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
}
