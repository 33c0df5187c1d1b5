//! Mounts that are made detached, and then moved onto a descriptor: what is mounted is known before
//! anybody can see it, and where it goes cannot be bent meanwhile.
//!
//! - A new mount of a file system is compared with the device that serves the volume before it is
//!   moved.
//! - The mount below has to be shared: in another namespace, the pod's, nothing would be seen of
//!   ours, and it would write into the directory of the host.
//! - A mount that is to be read only is a new one of the same file system with that attribute, and
//!   was never writable.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, fstat, major, minor};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use serde::{Deserialize, Serialize};

use super::failure::{Failure, Kind};
use super::mountinfo::{Mount, mount_id};
use super::open_device::block_number;
use super::paths::Spot;
use crate::file_system::FileSystem;
use crate::node::device::{Device, DeviceNumber};
use crate::node::options::{FsOption, MountOptions};
use crate::node::text::{quoted, said};

/// What may be written to a file system, through whatever mount of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Writing {
    /// Everything.
    Allowed,
    /// Nothing.
    Forbidden,
}

/// A file system and how it is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsMount {
    /// Which is there.
    pub kind: FileSystem,
    /// Flags of the storage class.
    pub options: MountOptions,
    /// Whether anybody may write.
    pub writing: Writing,
}

fn set(context: &OwnedFd, option: &FsOption) -> Result<(), Failure> {
    let done = match &option.value {
        Some(value) => fsconfig_set_string(context, &*option.key, &**value),
        None => fsconfig_set_flag(context, &*option.key),
    };
    done.map_err(|error| {
        let why = complaint(context, error);
        let message = format!("mount flag {} is not taken: {why}", quoted(&option.key));
        Failure::new(Kind::Invalid, message)
    })
}

/// What the file system has said of it, in words where it has any.
fn complaint(context: &OwnedFd, error: Errno) -> String {
    let mut told = Vec::new();
    let mut line = [0_u8; 1_024];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        told.extend_from_slice(&line[..length]);
        told.push(b' ');
    }
    match said(&told) {
        words if words.is_empty() => io::Error::from(error).to_string(),
        words => format!("{} ({words})", io::Error::from(error)),
    }
}

fn not_mounted(device: &Device, kind: FileSystem, context: &OwnedFd, error: Errno) -> Failure {
    let why = complaint(context, error);
    let message = format!("cannot mount the {kind} of {}: {why}", device.path);
    let is_damage = matches!(error, Errno::UCLEAN | Errno::BADMSG);
    let is_option = why.contains("nknown parameter") || why.contains("ad value");
    Failure::new(
        match error {
            _ if is_damage => Kind::DataLoss,
            _ if is_option => Kind::Invalid,
            Errno::BUSY => Kind::Precondition,
            _ => Kind::Internal,
        },
        message,
    )
}

/// A detached mount of the file system of a device.
///
/// # Errors
/// An option is not taken, or the file system is not mounted.
pub fn mount_of(device: &Device, how: &FsMount) -> Result<OwnedFd, Failure> {
    let failed = |error: Errno| {
        let what = format!("mount the {} of {}", how.kind, device.path);
        Failure::internal(what, io::Error::from(error))
    };
    let context = fsopen(how.kind.name(), FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    fsconfig_set_string(&context, "source", &*device.path).map_err(failed)?;
    if how.writing == Writing::Forbidden {
        fsconfig_set_flag(&context, "ro").map_err(failed)?;
    }
    if how.kind == FileSystem::Xfs {
        fsconfig_set_flag(&context, "nouuid").map_err(failed)?;
    }
    how.options.file_system.iter().try_for_each(|option| set(&context, option))?;
    fsconfig_create(&context).map_err(|error| not_mounted(device, how.kind, &context, error))?;
    let mut attributes = how.options.flags();
    if how.writing == Writing::Forbidden {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)?;
    let stat = fstat(&mount).map_err(failed)?;
    let found = DeviceNumber { major: major(stat.st_dev), minor: minor(stat.st_dev) };
    if found != device.number {
        let why = format!("what was mounted is of device {found}, not {}", device.number);
        return Err(Failure::internal(format!("mount {}", device.path), why));
    }
    Ok(mount)
}

/// A detached copy of a mount, with its attributes.
///
/// # Errors
/// The kernel refuses.
pub fn copy_of(mount: impl AsFd) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(mount, "", flags)
        .map_err(|error| Failure::internal("bind the file system", io::Error::from(error)))
}

/// A detached mount of a device node.
///
/// # Errors
/// The node is not there, or of another device.
pub fn node_of(device: &Device) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let failed = |error: io::Error| Failure::internal(format!("bind {}", device.path), error);
    let node = open_tree(CWD, &*device.path, flags).map_err(|error| failed(error.into()))?;
    match block_number(&node).map_err(failed)? {
        Some(found) if found == device.number => Ok(node),
        _ => Err(failed(io::Error::other("its number is not that of the device"))),
    }
}

/// Moves a detached mount onto what is at a spot.
///
/// # Errors
/// The mount below is not shared, or the kernel refuses.
pub fn put(mount: &OwnedFd, spot: &Spot, table: &[Mount]) -> Result<(), Failure> {
    let path = quoted(spot.path());
    let failed = |error: io::Error| Failure::internal(format!("mount on {path}"), error);
    let below = spot.look()?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let id = mount_id(&below).map_err(failed)?;
    if !table.iter().any(|mount| mount.id == id && mount.is_shared) {
        let message = format!(
            "the mount below {path} is not shared, so that pods would not see the volume: give \
             the driver the directory of kubelet with mountPropagation Bidirectional"
        );
        return Err(Failure::new(Kind::Precondition, message));
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", &below, "", flags).map_err(|error| failed(error.into()))
}
