//! The file system that is mounted from a block device of this node, and its own tool that makes it
//! larger.
//!
//! - A device is compared by its number, never by its path.
//! - Only what is mounted straight from the device is grown: a partition or another device on top
//!   of it has to be grown first, by who has made it.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, minor};
use serde::Serialize;
use tokio::process::Command;

use crate::error::{CliError, Exit};

const MOUNTS: &str = "/proc/self/mountinfo";

/// A file system that can be made larger while it is mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSystem {
    /// Grown by resize2fs, named by its device.
    Ext4,
    /// Grown by xfs_growfs, named by where it is mounted.
    Xfs,
}

impl FileSystem {
    fn of(kind: &str) -> Option<Self> {
        match kind {
            "ext4" => Some(Self::Ext4),
            "xfs" => Some(Self::Xfs),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// The tool, and the package that has it.
    const fn tool(self) -> (&'static str, &'static str) {
        match self {
            Self::Ext4 => ("resize2fs", "e2fsprogs"),
            Self::Xfs => ("xfs_growfs", "xfsprogs"),
        }
    }
}

/// A file system that is mounted from a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mounted {
    /// Which one.
    pub file_system: FileSystem,
    /// Where.
    pub mount_point: String,
    /// From which device.
    pub device: String,
}

/// A path of mountinfo, where blanks and the like are written as `\040`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part.get(..3).and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                plain.push(code);
                plain.extend(&part.as_bytes()[3..]);
            }
            None => {
                plain.push(b'\\');
                plain.extend(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// The type and the place of the first mount of a device in a mountinfo.
fn first_mount(mountinfo: &str, number: (u64, u64)) -> Option<(String, String)> {
    let number = format!("{}:{}", number.0, number.1);
    mountinfo.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let of_device = fields.nth(2)? == number;
        let mount_point = fields.nth(1)?;
        let kind = source.split(' ').next()?;
        of_device.then(|| (kind.to_owned(), unescape(mount_point)))
    })
}

fn refuse(step: &str, reason: &str, why: String, advice: String) -> CliError {
    CliError::new(Exit::Refused, reason, format!("{step}: {why}")).advise(advice)
}

/// What is mounted from a device on this node, if it can be made larger there. `step` is what is
/// being done, for errors.
///
/// # Errors
/// When the device cannot be looked at, nothing is mounted from it, or something else than ext4 or
/// xfs.
pub fn mounted_from(step: &str, device: &str) -> Result<Mounted, CliError> {
    let unreadable = |what: &str, error: io::Error| {
        let message = format!("{step}: cannot look at {what}: {error}");
        CliError::new(Exit::Failed, "FILE_SYSTEM", message)
    };
    let found = Path::new(device).metadata().map_err(|error| unreadable(device, error))?;
    if !found.file_type().is_block_device() {
        return Err(unreadable(device, io::Error::other("it is no block device")));
    }
    let mounts = std::fs::read_to_string(MOUNTS).map_err(|error| unreadable(MOUNTS, error))?;
    let number = (major(found.rdev()), minor(found.rdev()));
    what_to_grow(step, device, first_mount(&mounts, number))
}

fn what_to_grow(
    step: &str,
    device: &str,
    mount: Option<(String, String)>,
) -> Result<Mounted, CliError> {
    let Some((kind, mount_point)) = mount else {
        let why = format!("nothing is mounted from {device} on this node");
        let advice = "mount its file system and repeat this, or leave --fs out and grow what is \
                      on the device by its own tool";
        return Err(refuse(step, "FILE_SYSTEM_NOT_MOUNTED", why, advice.to_owned()));
    };
    let Some(file_system) = FileSystem::of(&kind) else {
        let why = format!("{mount_point} is {kind}, and --fs grows ext4 and xfs only");
        let advice = format!("leave --fs out, then grow {mount_point} by the tool of {kind}");
        return Err(refuse(step, "FILE_SYSTEM_UNKNOWN", why, advice));
    };
    Ok(Mounted { file_system, mount_point, device: device.to_owned() })
}

impl Mounted {
    fn target(&self) -> &str {
        match self.file_system {
            FileSystem::Ext4 => &self.device,
            FileSystem::Xfs => &self.mount_point,
        }
    }

    /// The command that a person would type.
    #[must_use]
    pub fn command(&self) -> String {
        format!("{} {}", self.file_system.tool().0, self.target())
    }

    /// Has its own tool make it as large as its device. One that is that large already stays so.
    ///
    /// # Errors
    /// When the tool is not there, or fails.
    pub async fn grow(&self, step: &str) -> Result<(), CliError> {
        let (tool, package) = self.file_system.tool();
        let again = format!("see to that, then '{}'", self.command());
        let failed = |why: String, advice: String| {
            let (kind, at) = (self.file_system.name(), &self.mount_point);
            let message = format!(
                "{step}: the volume and {} have grown, but {kind} on {at} has not: {why}",
                self.device
            );
            CliError::new(Exit::Failed, "FILE_SYSTEM_NOT_GROWN", message).advise(advice)
        };
        let output = Command::new(tool).arg(self.target()).output().await;
        let output = output.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                let advice = format!("install {package}, then '{}'", self.command());
                failed(format!("{tool} is not installed"), advice)
            }
            _ => failed(format!("{tool} cannot be run: {error}"), again.clone()),
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().lines().last().unwrap_or("it gave no reason").to_owned();
        Err(failed(format!("{tool} ended with {}: {said}", output.status), again))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 259:3 / /mnt/with\\040blank rw,noatime shared:7 master:2 - xfs /dev/ublkb3 rw,attr2
31 22 259:3 / /second rw - xfs /dev/ublkb3 rw
32 22 259:4 / /srv rw - btrfs /dev/ublkb4 rw
33 22 0:30 / /tmp rw shared:4 - tmpfs tmpfs rw
";

    fn found(number: (u64, u64)) -> Result<Mounted, CliError> {
        what_to_grow("grow volume 'v'", "/dev/ublkb3", first_mount(MOUNTINFO, number))
    }

    #[test]
    fn a_mount_is_found_by_the_number_of_its_device() {
        let root = found((8, 1)).expect("ext4");
        assert_eq!((root.file_system, root.mount_point.as_str()), (FileSystem::Ext4, "/"));
        assert_eq!(root.command(), "resize2fs /dev/ublkb3");
        let xfs = found((259, 3)).expect("xfs");
        assert_eq!(xfs.mount_point, "/mnt/with blank");
        assert_eq!(xfs.command(), "xfs_growfs /mnt/with blank");
    }

    #[test]
    fn what_is_not_mounted_or_unknown_is_refused_by_name() {
        let absent = found((259, 33)).expect_err("not mounted");
        assert_eq!(
            (absent.exit, absent.reason.as_str()),
            (Exit::Refused, "FILE_SYSTEM_NOT_MOUNTED")
        );
        assert!(absent.message.contains("/dev/ublkb3"), "{absent}");
        assert!(absent.advice.contains("mount its file system"), "{absent}");
        let other = found((259, 4)).expect_err("btrfs");
        assert!(other.message.contains("/srv is btrfs"), "{other}");
        let nothing = mounted_from("grow volume 'v'", "/dev/null").expect_err("no block device");
        assert!(nothing.message.contains("no block device"), "{nothing}");
    }

    #[test]
    fn odd_escapes_stay_as_they_are() {
        for (text, plain) in [("/a\\040b", "/a b"), ("/a\\9", "/a\\9"), ("/a\\134b", "/a\\b")] {
            assert_eq!(unescape(text), plain);
        }
    }

    #[tokio::test]
    async fn a_tool_that_fails_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let nowhere = folder.path().join("none").display().to_string();
        let mounted = Mounted {
            file_system: FileSystem::Ext4,
            mount_point: "/mnt".to_owned(),
            device: nowhere.clone(),
        };
        let error = mounted.grow("grow volume 'v'").await.expect_err("there is no such device");
        assert_eq!((error.exit, error.reason.as_str()), (Exit::Failed, "FILE_SYSTEM_NOT_GROWN"));
        assert!(error.message.contains("ext4 on /mnt has not"), "{error}");
        assert!(error.advice.contains(&format!("resize2fs {nowhere}")), "{error}");
    }
}
