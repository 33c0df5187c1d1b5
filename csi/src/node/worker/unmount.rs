//! Taking mounts off a path, until none is left there.
//!
//! - Never lazily: a mount that somebody uses stays, and is an error that names him.
//! - Only what may be of ours is taken off: ext4, xfs, and device nodes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::failure::{Failure, Kind};
use super::mountinfo::{self, Mount};
use super::open_device::block_number;
use super::paths::Spot;
use super::survey::mount_at;
use super::users::users_of;
use crate::file_system::FileSystem;
use crate::node::text::quoted;

/// More mounts on one path than anybody has made on purpose.
const LAYERS_MAX: usize = 32;

/// What is to be done besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Also {
    /// What was written is made durable before, and the directory stays.
    Sync,
    /// What is at the path is removed after.
    Remove,
    /// Nothing.
    Nothing,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmounted {
    /// How many mounts were taken off.
    pub count: usize,
    /// Why what was written is perhaps not durable.
    pub sync_problem: Option<String>,
}

fn is_ours(mount: &Mount, found: &OwnedFd) -> bool {
    let is_known = FileSystem::ALL.iter().any(|kind| kind.name() == mount.fs_type);
    is_known || block_number(found).is_ok_and(|number| number.is_some())
}

fn sync(spot: &Spot) -> Result<(), String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = Path::new(spot.path()).file_name().unwrap_or_default();
    let synced = openat(spot.parent(), name, flags, Mode::empty()).and_then(syncfs);
    synced.map_err(|error| io::Error::from(error).to_string())
}

fn foreign(spot: &Spot, mount: &Mount) -> Failure {
    let message = format!(
        "{} has a mount of {} ({}) on it, which is none of this driver: unmount it by hand",
        quoted(spot.path()),
        mount.fs_type,
        quoted(&mount.source)
    );
    Failure::new(Kind::Precondition, message)
}

fn busy(spot: &Spot, mount: &Mount) -> Failure {
    let users = match users_of(mount.device) {
        users if users.is_empty() => "something has it open, or is mounted in it".to_owned(),
        users => format!("{users} has something open there"),
    };
    let path = quoted(spot.path());
    let message = format!("{path} is in use: {users}; it is unmounted when that has ended");
    Failure::new(Kind::Precondition, message)
}

/// Takes off all mounts at a path. Where nothing is, nothing is done.
///
/// # Errors
/// One of them is in use, or none of ours.
pub fn unmount(root: &Path, path: &str, also: Also) -> Result<Unmounted, Failure> {
    let mut done = Unmounted::default();
    let Some(spot) = Spot::find(root, path)? else { return Ok(done) };
    loop {
        let Some(found) = spot.look()? else { return Ok(done) };
        let table = mountinfo::read().map_err(|error| Failure::internal("read mounts", error))?;
        let Some(mount) = mount_at(&spot, &found, &table)? else { break };
        if !is_ours(&mount, &found) {
            return Err(foreign(&spot, &mount));
        }
        if also == Also::Sync {
            done.sync_problem = sync(&spot).err();
        }
        // A descriptor of it keeps a mount busy.
        drop(found);
        match spot.unmount() {
            Ok(()) => done.count += 1,
            Err(Errno::BUSY) => return Err(busy(&spot, &mount)),
            Err(error) => {
                let what = format!("unmount {}", quoted(spot.path()));
                return Err(Failure::internal(what, io::Error::from(error)));
            }
        }
        if done.count > LAYERS_MAX {
            let why = "more and more is mounted there";
            return Err(Failure::internal(format!("unmount {}", quoted(spot.path())), why));
        }
    }
    if also == Also::Remove {
        spot.remove()?;
    }
    Ok(done)
}
