//! The facts of this host that the doctor judges, read from the kernel and the file system.
//!
//! What cannot be read is `None`; a missing fact never ends the examination.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::utsname::uname;

/// Bit of CAP_IPC_LOCK in a capability mask (capability.h).
pub const CAP_IPC_LOCK: u32 = 14;
/// Bit of CAP_SYS_ADMIN in a capability mask (capability.h).
pub const CAP_SYS_ADMIN: u32 = 21;

/// Where programs are looked for beside `PATH`, which lacks them for plain users.
const SYSTEM_PATHS: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];

/// Programs that Lunar or its users call.
pub const TOOLS: [&str; 4] = ["blkid", "mkfs.ext4", "mkfs.xfs", "modprobe"];

/// Where the kernel could take ublk from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UblkDriver {
    /// `/dev/ublk-control` is there.
    Present,
    /// The module is installed but not loaded.
    Loadable,
    /// The kernel was built without it, or its module is not installed.
    Missing,
}

/// How much memory this process may lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryLock {
    /// Any amount.
    Unlimited,
    /// This many bytes.
    Bytes(u64),
}

/// What was found on this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostFacts {
    /// As `uname -r` says.
    pub kernel_release: String,
    /// Where ublk is.
    pub ublk: UblkDriver,
    /// The line of the kernel's configuration about ublk, if that can be read.
    pub ublk_config: Option<String>,
    /// `kernel.io_uring_disabled`: 0 for all, 1 for the privileged, 2 for nobody.
    pub io_uring_disabled: Option<u32>,
    /// Bits of the effective capabilities.
    pub capabilities: u64,
    /// The limit of locked memory.
    pub memory_lock: Option<MemoryLock>,
    /// Whether /run is on tmpfs.
    pub run_on_tmpfs: Option<bool>,
    /// The programs of [`TOOLS`] that were not found.
    pub tools_missing: Vec<&'static str>,
}

impl HostFacts {
    /// Whether the process has the capability of this bit.
    #[must_use]
    pub const fn has_capability(&self, bit: u32) -> bool {
        self.capabilities >> bit & 1 == 1
    }
}

/// Reads the facts of this host.
#[must_use]
pub fn gather() -> HostFacts {
    let release = uname().map(|name| name.release().to_string_lossy().into_owned());
    let kernel_release = release.unwrap_or_default();
    HostFacts {
        ublk: ublk_driver(&kernel_release),
        ublk_config: ublk_config(&kernel_release),
        io_uring_disabled: number_in("/proc/sys/kernel/io_uring_disabled"),
        capabilities: effective_capabilities(),
        memory_lock: memory_lock(),
        run_on_tmpfs: statfs("/run").ok().map(|at| at.filesystem_type() == TMPFS_MAGIC),
        tools_missing: TOOLS.into_iter().filter(|tool| !is_installed(tool)).collect(),
        kernel_release,
    }
}

fn ublk_driver(release: &str) -> UblkDriver {
    if Path::new("/dev/ublk-control").exists() {
        return UblkDriver::Present;
    }
    let modules = format!("/lib/modules/{release}");
    let listed = ["modules.dep", "modules.builtin"].into_iter().any(|list| {
        fs::read_to_string(format!("{modules}/{list}")).is_ok_and(|text| text.contains("ublk_drv."))
    });
    if listed { UblkDriver::Loadable } else { UblkDriver::Missing }
}

fn ublk_config(release: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/boot/config-{release}")).ok()?;
    text.lines().find(|line| line.contains("CONFIG_BLK_DEV_UBLK")).map(str::to_owned)
}

fn number_in(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn memory_lock() -> Option<MemoryLock> {
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).ok()?;
    Some(if soft == RLIM_INFINITY { MemoryLock::Unlimited } else { MemoryLock::Bytes(soft) })
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_PATHS.map(Into::into));
    folders.map(|folder| folder.join(tool)).any(|file| is_executable(&file))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_this_host_are_read() {
        let facts = gather();
        assert!(!facts.kernel_release.is_empty());
        assert!(facts.memory_lock.is_some() && facts.run_on_tmpfs.is_some());
    }

    #[test]
    fn programs_are_found_by_their_name() {
        assert!(is_installed("sh") && !is_installed("no-such-program-of-lunar"));
    }
}
