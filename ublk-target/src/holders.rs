//! Who uses a block device: mounts in any namespace, devices stacked on it, open files.
//!
//! Devices are compared by number, never by path: a path can be renamed, bind-mounted or be
//! absent from another namespace. What cannot be read because a process has just ended is left
//! out; what cannot be read for another reason is reported as an error, so that "nobody" means
//! nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A mount, as `/proc/<pid>/mountinfo` tells of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mount {
    /// The device number of the file system.
    pub device: u64,
    /// Where it is mounted, as that process sees it.
    pub target: PathBuf,
}

/// Somebody who uses a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// It is mounted.
    Mount {
        /// A process that sees the mount.
        pid: u32,
        /// Where.
        target: PathBuf,
    },
    /// Another block device stands on it.
    Device {
        /// Its kernel name.
        name: String,
    },
    /// A process has it open.
    Process {
        /// The process.
        pid: u32,
        /// Its command name.
        command: String,
    },
    /// It is used as swap.
    Swap,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount { pid, target } => {
                write!(f, "mounted on {} (seen by process {pid})", target.display())
            }
            Self::Device { name } => write!(f, "in use by the device {name}"),
            Self::Process { pid, command } => write!(f, "open in process {pid} ({command})"),
            Self::Swap => f.write_str("in use as swap"),
        }
    }
}

/// The mounts in a mountinfo text whose device satisfies `wanted`.
pub fn mounts_of(mountinfo: &str, wanted: impl Fn(u64) -> bool) -> Vec<Mount> {
    mountinfo.lines().filter_map(parse_mount).filter(|mount| wanted(mount.device)).collect()
}

fn parse_mount(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let device = fields.nth(2)?;
    let target = fields.nth(1)?;
    let (major, minor) = device.split_once(':')?;
    let device = nix::sys::stat::makedev(major.parse().ok()?, minor.parse().ok()?);
    Some(Mount { device, target: PathBuf::from(unescape(target)) })
}

/// Undoes the octal escapes of blanks and backslashes.
fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'\\')
            .then(|| text.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Where to look; the real host in production.
#[derive(Debug, Clone)]
pub struct HolderSearch {
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys/class/block`.
    pub class_block: PathBuf,
    /// A process that is not counted: our own.
    pub except: u32,
    /// The number of the block device at a path, if there is one.
    pub block_device: fn(&Path) -> Option<u64>,
}

/// The number of the block device at a path, following links; nothing for anything else.
#[must_use]
pub fn block_device(path: &Path) -> Option<u64> {
    let meta = fs::metadata(path).ok()?;
    meta.file_type().is_block_device().then(|| meta.rdev())
}

impl HolderSearch {
    /// The host that we run on, leaving out ourselves.
    #[must_use]
    pub fn of_this_host() -> Self {
        Self {
            proc: "/proc".into(),
            class_block: "/sys/class/block".into(),
            except: std::process::id(),
            block_device,
        }
    }

    /// Everybody who uses the device of this kernel name and number, or a partition of it.
    ///
    /// # Errors
    /// When a place cannot be looked at for another reason than that it is gone.
    pub fn find(&self, name: &str, device: u64) -> io::Result<Vec<Holder>> {
        let mut devices = BTreeMap::from([(device, name.to_owned())]);
        devices.extend(self.partitions(name)?);
        let wanted = |number: u64| devices.contains_key(&number);
        let mut holders = Vec::new();
        for part in devices.values() {
            holders.extend(self.stacked(part)?);
        }
        if self.swaps(&devices)? {
            holders.push(Holder::Swap);
        }
        for pid in self.processes()? {
            if self.has_open(pid, wanted)? {
                holders.push(Holder::Process { pid, command: self.command(pid) });
            }
        }
        let mounts = self.mounted(name, device)?.into_iter();
        holders.extend(mounts.map(|(target, pid)| Holder::Mount { pid, target }));
        holders.sort();
        Ok(holders)
    }

    /// Where the device or a partition of it is mounted, and a process that sees the mount. Only
    /// what the kernel tells of processes is read: no file that anybody has open.
    ///
    /// # Errors
    /// When a place cannot be looked at for another reason than that it is gone.
    pub fn mounted(&self, name: &str, device: u64) -> io::Result<BTreeMap<PathBuf, u32>> {
        let devices = self.numbers(name, device)?;
        let mut mounts = BTreeMap::new();
        for pid in self.processes()? {
            for mount in self.mounts(pid, |number| devices.contains(&number))? {
                mounts.entry(mount.target).or_insert(pid);
            }
        }
        Ok(mounts)
    }

    /// The numbers of a device and its partitions.
    ///
    /// # Errors
    /// When they cannot be looked at for another reason than that they are gone.
    pub fn numbers(&self, name: &str, device: u64) -> io::Result<BTreeSet<u64>> {
        let partitions = self.partitions(name)?.into_iter().map(|(number, _)| number);
        Ok(partitions.chain([device]).collect())
    }

    fn partitions(&self, name: &str) -> io::Result<Vec<(u64, String)>> {
        let mut found = Vec::new();
        for entry in listing(&self.class_block.join(name))? {
            let part = entry.file_name().to_string_lossy().into_owned();
            if !entry.path().join("partition").exists() {
                continue;
            }
            let text = fs::read_to_string(entry.path().join("dev"))?;
            if let Some(number) = device_number(&text) {
                found.push((number, part));
            }
        }
        Ok(found)
    }

    fn stacked(&self, name: &str) -> io::Result<Vec<Holder>> {
        let entries = listing(&self.class_block.join(name).join("holders"))?;
        Ok(entries
            .into_iter()
            .map(|entry| Holder::Device { name: entry.file_name().to_string_lossy().into_owned() })
            .collect())
    }

    fn swaps(&self, devices: &BTreeMap<u64, String>) -> io::Result<bool> {
        let text = gone_is(fs::read_to_string(self.proc.join("swaps")), String::new())?;
        let paths = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        let mut numbers = paths.filter_map(|path| (self.block_device)(Path::new(&unescape(path))));
        Ok(numbers.any(|number| devices.contains_key(&number)))
    }

    fn processes(&self) -> io::Result<Vec<u32>> {
        let pids = listing(&self.proc)?
            .iter()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != self.except)
            .collect();
        Ok(pids)
    }

    fn mounts(&self, pid: u32, wanted: impl Fn(u64) -> bool) -> io::Result<Vec<Mount>> {
        let path = self.proc.join(pid.to_string()).join("mountinfo");
        let text = gone_is(fs::read_to_string(path), String::new())?;
        Ok(mounts_of(&text, wanted))
    }

    fn has_open(&self, pid: u32, wanted: impl Fn(u64) -> bool) -> io::Result<bool> {
        let open = listing(&self.proc.join(pid.to_string()).join("fd"))?;
        Ok(open.iter().filter_map(|entry| (self.block_device)(&entry.path())).any(wanted))
    }

    fn command(&self, pid: u32) -> String {
        let path = self.proc.join(pid.to_string()).join("comm");
        fs::read_to_string(path).map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned())
    }
}

fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(nix::sys::stat::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// What a process that has ended leaves behind is not an error.
fn gone_is<T>(result: io::Result<T>, absent: T) -> io::Result<T> {
    match result {
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) =>
        {
            Ok(absent)
        }
        other => other,
    }
}

fn listing(path: &Path) -> io::Result<Vec<fs::DirEntry>> {
    let entries = gone_is(fs::read_dir(path).map(Some), None)?;
    let mut found = Vec::new();
    for entry in entries.into_iter().flatten() {
        match gone_is(entry.map(Some), None)? {
            Some(entry) => found.push(entry),
            None => break,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 259:0 / / rw,relatime shared:1 - ext4 /dev/root rw
55 22 259:7 / /mnt/with\\040blank rw - xfs /dev/ublkb7 rw
56 22 259:7 /sub /srv rw - xfs /some/renamed/path rw
57 22 0:25 / /proc rw - proc proc rw
";

    #[test]
    fn mounts_are_found_by_device_number_whatever_their_path() {
        let device = nix::sys::stat::makedev(259, 7);
        let targets: Vec<_> =
            mounts_of(MOUNTINFO, |number| number == device).into_iter().map(|m| m.target).collect();
        assert_eq!(targets, [PathBuf::from("/mnt/with blank"), PathBuf::from("/srv")]);
    }

    #[test]
    fn every_kind_of_holder_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let class_block = dir.path().join("block");
        fs::create_dir_all(class_block.join("ublkb7/holders/dm-3")).expect("made");
        fs::create_dir_all(class_block.join("ublkb7/ublkb7p1")).expect("made");
        fs::write(class_block.join("ublkb7/ublkb7p1/partition"), "1\n").expect("written");
        fs::write(class_block.join("ublkb7/ublkb7p1/dev"), "259:8\n").expect("written");
        fs::create_dir_all(class_block.join("ublkb7p1/holders/md0")).expect("made");
        let proc = dir.path().join("proc");
        fs::create_dir_all(proc.join("41/fd")).expect("made");
        fs::write(proc.join("41/mountinfo"), MOUNTINFO).expect("written");
        fs::create_dir_all(proc.join("42/fd")).expect("made");
        fs::write(proc.join("42/mountinfo"), "60 1 259:8 / /boot rw - ext4 /dev/ublkb7p1 rw\n")
            .expect("written");
        let search = HolderSearch { proc, class_block, except: 1, block_device };
        let held = search.find("ublkb7", nix::sys::stat::makedev(259, 7)).expect("readable");
        let mount = |pid, target: &str| Holder::Mount { pid, target: target.into() };
        let device = |name: &str| Holder::Device { name: name.to_owned() };
        let expected = [
            mount(41, "/mnt/with blank"),
            mount(41, "/srv"),
            mount(42, "/boot"),
            device("dm-3"),
            device("md0"),
        ];
        assert_eq!(held, expected);
        let none = HolderSearch { except: 41, ..search };
        assert!(none.find("ublkb9", nix::sys::stat::makedev(259, 9)).expect("ok").is_empty());
    }

    #[test]
    fn an_open_block_device_is_found_by_its_number() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let proc = dir.path().join("proc");
        for (pid, path) in [(77, "/renamed"), (78, "/other")] {
            let fds = proc.join(pid.to_string()).join("fd");
            fs::create_dir_all(&fds).expect("made");
            fs::write(proc.join(pid.to_string()).join("comm"), "holder\n").expect("written");
            std::os::unix::fs::symlink(path, fds.join("3")).expect("linked");
        }
        let number = |path: &Path| {
            let target = fs::read_link(path).ok()?;
            Some(if target == Path::new("/renamed") { 5 } else { 6 })
        };
        let class_block = dir.path().join("block");
        let search = HolderSearch { proc, class_block, except: 1, block_device: number };
        let held = search.find("sdx", 5).expect("readable");
        assert_eq!(held, [Holder::Process { pid: 77, command: "holder".to_owned() }]);
    }
}
