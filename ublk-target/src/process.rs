//! Sets the process up before it has a second thread: everything here is inherited by threads.
//!
//! Invariants once [`prepare`] has returned:
//! - allocations of this process never wait for dirty pages to be cleaned (PR_SET_IO_FLUSHER),
//!   because cleaning them may need us;
//! - the process has a mount namespace of its own, into which nothing propagates: a mount of our
//!   own device that we shared would have to be synced by us while we exit;
//! - mounts of ublk devices that the namespace was born with are dropped from it;
//! - as many files may be open as the rings and LUNs need.
//!
//! Locked memory and a low OOM score are wanted but not required: their absence is reported.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::holders::{Mount, mounts_of};
use crate::sys;

/// The device of the ublk driver's control commands.
pub const UBLK_CONTROL: &str = "/dev/ublk-control";
/// This very program, also when its file was replaced since.
pub const PROGRAM: &str = "/proc/self/exe";
const OOM_SCORE_ADJ: i32 = -1000;

/// What [`prepare`] could and could not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Why memory is not locked, if it is not.
    pub memory_lock_problem: Option<String>,
    /// The OOM score adjustment in force.
    pub oom_score_adj: i32,
}

/// The process cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Not root.
    #[error("fs-core serves block devices and has to run as root; it runs as user {0}")]
    NotRoot(u32),
    /// PR_SET_IO_FLUSHER was refused.
    #[error(
        "cannot become an I/O flusher: without it memory reclaim can wait for fs-core for ever; \
         it needs Linux 5.6 and CAP_SYS_RESOURCE"
    )]
    IoFlusher(#[source] io::Error),
    /// The mount namespace could not be made or made private.
    #[error(
        "cannot get a mount namespace of its own: with a shared one the exit of fs-core can \
         deadlock with a mount of its own device; it needs CAP_SYS_ADMIN"
    )]
    MountNamespace(#[source] Errno),
    /// The limit of open files cannot be read.
    #[error("cannot read the limit of open files")]
    ReadFileLimit(#[source] Errno),
    /// The limit of open files is too low and cannot be raised.
    #[error(
        "fs-core needs {FILES_LEAST} open files, but the hard limit is {hard} and cannot be \
         raised: set LimitNOFILE of its unit, or grant CAP_SYS_RESOURCE"
    )]
    FileLimit {
        /// The hard limit.
        hard: u64,
        /// Why it cannot be raised.
        #[source]
        source: Errno,
    },
    /// The kernel has no ublk.
    #[error(
        "{UBLK_CONTROL} is missing and the module ublk_drv cannot be loaded ({modprobe}): this \
         kernel ({release}) needs CONFIG_BLK_DEV_UBLK, which Linux 6.0 and later offer and \
         Debian's kernels from trixie-backports have; install such a kernel and boot it"
    )]
    NoUblk {
        /// What modprobe said.
        modprobe: String,
        /// `uname -r`.
        release: String,
    },
}

/// Sets the process up. Call it in `main` before any thread exists.
///
/// # Errors
/// When something that correctness needs is refused.
pub fn prepare() -> Result<ProcessFacts, ProcessError> {
    let user = nix::unistd::geteuid();
    if !user.is_root() {
        return Err(ProcessError::NotRoot(user.as_raw()));
    }
    sys::set_io_flusher().map_err(ProcessError::IoFlusher)?;
    own_mount_namespace().map_err(ProcessError::MountNamespace)?;
    let memory_lock_problem = sys::lock_memory().err().map(|error| {
        warn!(%error, "memory is not locked: under memory pressure I/O may stall on paging");
        format!("mlockall failed: {error}; raise RLIMIT_MEMLOCK or grant CAP_IPC_LOCK")
    });
    raise_file_limit()?;
    Ok(ProcessFacts { memory_lock_problem, oom_score_adj: lower_oom_score() })
}

fn own_mount_namespace() -> Result<(), Errno> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
}

/// A queue's ring has room for every LUN that a pool can have, which the kernel counts against this
/// limit; every LUN and device is an open file too.
const FILES_LEAST: u64 = 4096;

fn raise_file_limit() -> Result<(), ProcessError> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(ProcessError::ReadFileLimit)?;
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard.max(FILES_LEAST), hard.max(FILES_LEAST));
    raised.map_err(|source| ProcessError::FileLimit { hard, source })
}

fn lower_oom_score() -> i32 {
    let path = "/proc/self/oom_score_adj";
    if let Err(error) = fs::write(path, OOM_SCORE_ADJ.to_string()) {
        warn!(%error, "the OOM killer may choose fs-core: its score cannot be lowered");
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Drops the mounts of ublk devices that our namespace was born with: they would keep the
/// devices in use. It runs on a thread of its own, because dropping the last mount of a file
/// system writes to the device, and that write waits for us to serve it.
pub fn drop_inherited_mounts() {
    let spawned = std::thread::Builder::new().name("drop-mounts".to_owned()).spawn(|| {
        match inherited_ublk_mounts() {
            Ok(mounts) => mounts.iter().for_each(drop_mount),
            Err(error) => warn!(%error, "cannot read the mounts that were inherited"),
        }
    });
    if let Err(error) = spawned {
        warn!(%error, "inherited mounts of ublk devices stay: detaching those devices may fail");
    }
}

fn inherited_ublk_mounts() -> io::Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let is_ublk = |device: u64| stands_on_ublk(Path::new("/sys/dev/block"), device);
    Ok(mounts_of(&text, is_ublk))
}

fn drop_mount(mount: &Mount) {
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    match nix::mount::umount2(&mount.target, flags) {
        Ok(()) => info!(mount = %mount.target.display(), "inherited mount dropped"),
        Err(error) => warn!(
            mount = %mount.target.display(), %error,
            "an inherited mount of a ublk device stays: detaching the device may fail"
        ),
    }
}

/// Whether the block device, or one below it, is a ublk device.
fn stands_on_ublk(dev_block: &Path, device: u64) -> bool {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let Ok(sysfs) = fs::canonicalize(dev_block.join(format!("{major}:{minor}"))) else {
        return false;
    };
    let mut pending: Vec<PathBuf> = vec![sysfs];
    while let Some(path) = pending.pop() {
        if path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("ublkb")) {
            return true;
        }
        let slaves = fs::read_dir(path.join("slaves")).into_iter().flatten().flatten();
        pending.extend(slaves.filter_map(|entry| fs::canonicalize(entry.path()).ok()));
    }
    false
}

/// Makes sure that the kernel has ublk, loading its module if need be.
///
/// # Errors
/// When it has not.
pub fn require_ublk() -> Result<(), ProcessError> {
    if Path::new(UBLK_CONTROL).exists() {
        return Ok(());
    }
    let modprobe = match Command::new("modprobe").arg("ublk_drv").output() {
        Ok(output) if output.status.success() => "it loaded, but made no such device".to_owned(),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("modprobe: {error}"),
    };
    if Path::new(UBLK_CONTROL).exists() {
        return Ok(());
    }
    Err(ProcessError::NoUblk { modprobe, release: kernel_release() })
}

/// Runs the program again in this process, with its arguments: nothing of the old one is left but
/// its number. It returns only when that is impossible.
#[must_use]
pub fn start_anew() -> io::Error {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    Command::new(PROGRAM).arg0(name).args(arguments).exec()
}

/// `uname -r`.
#[must_use]
pub fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.release().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_mapper_device_over_ublk_stands_on_ublk() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let blocks = dir.path().join("devices");
        for name in ["ublkb3", "dm-0", "sda"] {
            fs::create_dir_all(blocks.join(name).join("slaves")).expect("made");
        }
        let link = |from: PathBuf, to: PathBuf| std::os::unix::fs::symlink(from, to);
        link(blocks.join("ublkb3"), blocks.join("dm-0/slaves/ublkb3")).expect("linked");
        let dev_block = dir.path().join("dev_block");
        fs::create_dir(&dev_block).expect("made");
        link(blocks.join("dm-0"), dev_block.join("253:0")).expect("linked");
        link(blocks.join("sda"), dev_block.join("8:0")).expect("linked");
        assert!(stands_on_ublk(&dev_block, nix::sys::stat::makedev(253, 0)));
        assert!(!stands_on_ublk(&dev_block, nix::sys::stat::makedev(8, 0)));
        assert!(!stands_on_ublk(&dev_block, nix::sys::stat::makedev(8, 1)));
    }
}
