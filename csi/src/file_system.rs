//! The file systems that the driver makes and mounts.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum FileSystem {
    /// Checked before it is mounted; the one that is taken where none is asked for.
    #[default]
    Ext4,
    /// Its log is its check. Clones have the UUID of their source.
    Xfs,
}

/// A file system that the driver does not make.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("file system {0:?} is not served: ask for ext4 or xfs")]
pub struct FileSystemError(String);

impl FromStr for FileSystem {
    type Err = FileSystemError;

    fn from_str(name: &str) -> Result<Self, FileSystemError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| FileSystemError(name.chars().take(64).collect()))
    }
}

impl FileSystem {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ext4, Self::Xfs];

    /// The one that a volume is asked for with; the default for no name.
    ///
    /// # Errors
    /// The driver does not make it.
    pub fn asked(name: &str) -> Result<Self, FileSystemError> {
        if name.is_empty() { Ok(Self::default()) } else { name.parse() }
    }

    /// As the kernel and blkid call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

impl std::fmt::Display for FileSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
