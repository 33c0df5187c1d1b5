//! Mounting at the paths of a stage and of a publish.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::failure::{Failure, Kind};
use super::mountinfo::{self, Mount};
use super::mounts::{self, FsMount, Writing};
use super::open_device::{OpenDevice, Purpose};
use super::paths::Spot;
use super::survey::mount_at;
use crate::node::device::Device;
use crate::node::options::Attribute;
use crate::node::text::quoted;

/// How a pod gets a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodAccess {
    /// As it is staged.
    AsStaged,
    /// To be read only.
    ReadOnly,
}

fn table() -> Result<Vec<Mount>, Failure> {
    mountinfo::read().map_err(|error| Failure::internal("read mounts", error))
}

/// Refuses a spot where something is mounted already: nothing is ever hidden by a mount.
fn assert_free(spot: &Spot, table: &[Mount]) -> Result<(), Failure> {
    let found = spot.look()?;
    let mount = found.map(|found| mount_at(spot, &found, table)).transpose()?.flatten();
    match mount {
        None => Ok(()),
        Some(_) => {
            let message = format!("{} has got a mount meanwhile: try again", quoted(spot.path()));
            Err(Failure::new(Kind::Busy, message))
        }
    }
}

/// Mounts the file system of a device at a path, on a directory that is made if need be.
///
/// # Errors
/// It cannot be mounted, or something is mounted there.
pub fn stage(root: &Path, path: &str, device: &Device, how: &FsMount) -> Result<(), Failure> {
    let spot = Spot::open(root, path)?;
    spot.make_directory()?;
    let table = table()?;
    assert_free(&spot, &table)?;
    let open = OpenDevice::open(device, Purpose::Change)?;
    let mount = mounts::mount_of(device, how)?;
    mounts::put(&mount, &spot, &table)?;
    drop(open);
    Ok(())
}

/// Gives a pod the file system that is staged at another path.
///
/// # Errors
/// It is not staged there, or cannot be mounted.
pub fn publish(
    root: &Path,
    staged: &str,
    path: &str,
    device: &Device,
    how: (&FsMount, PodAccess),
) -> Result<(), Failure> {
    let table = table()?;
    let staging = Spot::open(root, staged)?;
    let found = staging.look()?;
    let mount = found.as_ref().map(|found| mount_at(&staging, found, &table)).transpose()?;
    let is_staged = mount.flatten().is_some_and(|mount| mount.device == device.number);
    let Some(found) = found.filter(|_| is_staged) else {
        let message = format!("the volume is not staged at {} any more: try again", quoted(staged));
        return Err(Failure::new(Kind::Busy, message));
    };
    let spot = Spot::open(root, path)?;
    spot.make_directory()?;
    assert_free(&spot, &table)?;
    let mount = match how {
        (how, PodAccess::ReadOnly) if how.writing == Writing::Allowed => {
            let options = how.options.clone().with(Attribute::ReadOnly);
            mounts::mount_of(device, &FsMount { options, ..how.clone() })?
        }
        _ => mounts::copy_of(&found)?,
    };
    mounts::put(&mount, &spot, &table)
}

/// Gives a pod the device itself, on a file that is made if need be.
///
/// # Errors
/// It is another device, or cannot be mounted.
pub fn publish_node(root: &Path, path: &str, device: &Device) -> Result<(), Failure> {
    let table = table()?;
    let spot = Spot::open(root, path)?;
    spot.make_file()?;
    assert_free(&spot, &table)?;
    let open = OpenDevice::open(device, Purpose::Identify)?;
    let node = mounts::node_of(device)?;
    mounts::put(&node, &spot, &table)?;
    drop(open);
    Ok(())
}
