//! The programs that know what is inside a file system. A worker becomes one of them, so that it
//! dies with the driver, and keeps the device open and locked.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::failure::{Failure, Kind};
use crate::file_system::FileSystem;

/// Where programs of root are, should PATH not say so.
const MORE_PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// A program and what it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tool {
    /// Says what is on the device.
    Identify,
    /// Takes away what half a format has left.
    Wipe,
    /// Makes a file system, whatever is there.
    Make(FileSystem),
    /// Repairs an ext4 as far as that needs no one to decide.
    CheckExt4,
    /// Grows a mounted ext4 to its device.
    GrowExt4,
    /// Grows the xfs that is mounted there to its device. It takes a path; whatever xfs that
    /// comes to mean, growing it to its own device harms nobody.
    GrowXfs(String),
    /// Gives back what the file system that is mounted there has free, of a part of it. It takes a
    /// path; whatever file system that comes to mean, it gives back only what is free there.
    Trim {
        /// Where it is mounted.
        at: String,
        /// Where the part begins.
        offset: u64,
        /// How long it is.
        length: u64,
    },
    /// Lets nobody write to the device.
    SetReadOnly,
    /// Lets everybody write to it again.
    SetWritable,
}

impl Tool {
    /// The name of the program.
    #[must_use]
    pub const fn program(&self) -> &'static str {
        match self {
            Self::Identify => "blkid",
            Self::Wipe => "wipefs",
            Self::Make(FileSystem::Ext4) => "mkfs.ext4",
            Self::Make(FileSystem::Xfs) => "mkfs.xfs",
            Self::CheckExt4 => "e2fsck",
            Self::GrowExt4 => "resize2fs",
            Self::GrowXfs(_) => "xfs_growfs",
            Self::Trim { .. } => "fstrim",
            Self::SetReadOnly | Self::SetWritable => "blockdev",
        }
    }

    /// The Debian package that has it.
    const fn package(&self) -> &'static str {
        match self {
            Self::Identify
            | Self::Wipe
            | Self::Trim { .. }
            | Self::SetReadOnly
            | Self::SetWritable => "util-linux",
            Self::Make(FileSystem::Ext4) | Self::CheckExt4 | Self::GrowExt4 => "e2fsprogs",
            Self::Make(FileSystem::Xfs) | Self::GrowXfs(_) => "xfsprogs",
        }
    }

    /// Whether it changes what is on the device, so that nobody else may at the same time.
    #[must_use]
    pub const fn is_change(&self) -> bool {
        matches!(self, Self::Wipe | Self::Make(_) | Self::CheckExt4)
    }

    fn arguments(&self, device: &str) -> Vec<String> {
        if let Self::Trim { at, offset, length } = self {
            let (offset, length) = (format!("--offset={offset}"), format!("--length={length}"));
            return vec![offset, length, "--".to_owned(), at.clone()];
        }
        self.plain_arguments(device).into_iter().map(str::to_owned).collect()
    }

    fn plain_arguments<'a>(&'a self, device: &'a str) -> Vec<&'a str> {
        match self {
            // -p: past the cache of blkid, and with partition tables.
            Self::Identify => vec!["-p", "-o", "export", device],
            Self::Wipe => vec!["-a", "-f", "-q", device],
            // -F: it asks nobody. No blocks are kept for root, who has no use for them in a pod.
            Self::Make(FileSystem::Ext4) => vec!["-q", "-F", "-m", "0", device],
            Self::Make(FileSystem::Xfs) => vec!["-q", "-f", device],
            Self::CheckExt4 => vec!["-p", device],
            Self::GrowExt4 => vec![device],
            Self::GrowXfs(at) => vec!["-d", at],
            Self::Trim { at, .. } => vec![at],
            Self::SetReadOnly => vec!["--setro", device],
            Self::SetWritable => vec!["--setrw", device],
        }
    }

    /// The command that does it to a device.
    ///
    /// # Errors
    /// The program is not installed.
    pub fn command(&self, device: &str) -> Result<Command, Failure> {
        let path = std::env::var("PATH").unwrap_or_default();
        self.command_in(device, &format!("{path}:{MORE_PATH}"))
    }

    fn command_in(&self, device: &str, path: &str) -> Result<Command, Failure> {
        let program = find(self.program(), path).ok_or_else(|| {
            let message = format!(
                "{} is not installed here: install the package {}",
                self.program(),
                self.package()
            );
            Failure::new(Kind::Internal, message)
        })?;
        let mut command = Command::new(program);
        command.args(self.arguments(device));
        Ok(command)
    }
}

fn find(program: &str, path: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        let found = path.metadata();
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let directories = path.split(':').filter(|directory| directory.starts_with('/'));
    directories.map(|directory| Path::new(directory).join(program)).find(is_program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_path_and_only_if_it_can_be_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("mkfs.odd");
        std::fs::write(&program, "#!/bin/sh\n").expect("written");
        let path = format!("relative:/nowhere:{}", folder.path().display());
        assert_eq!(find("mkfs.odd", &path), None);
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, mode).expect("its mode");
        assert_eq!(find("mkfs.odd", &path), Some(program));
    }

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        for (tool, package) in [
            (Tool::Make(FileSystem::Xfs), "xfsprogs"),
            (Tool::GrowXfs("/a".to_owned()), "xfsprogs"),
            (Tool::CheckExt4, "e2fsprogs"),
            (Tool::Identify, "util-linux"),
        ] {
            let failure = tool.command_in("/dev/x", "/nowhere").expect_err("it is not there");
            assert!(failure.message.contains(tool.program()), "{failure}");
            assert!(failure.message.contains(package), "{failure}");
        }
    }

    #[test]
    fn what_formats_names_the_device_last_and_what_only_looks_changes_nothing() {
        for tool in
            [Tool::Wipe, Tool::Make(FileSystem::Ext4), Tool::Make(FileSystem::Xfs), Tool::CheckExt4]
        {
            let last = tool.arguments("/dev/x").pop();
            assert_eq!(last.as_deref(), Some("/dev/x"), "{tool:?}");
            assert!(tool.is_change(), "{tool:?}");
        }
        assert!(!Tool::Identify.is_change());
    }
}
