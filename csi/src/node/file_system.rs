//! The file systems that the driver makes and mounts.

use serde::{Deserialize, Serialize};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileSystem {
    /// Checked before it is mounted; the one that is taken where none is asked for.
    Ext4,
    /// Its log is its check. Clones have the UUID of their source.
    Xfs,
}

impl FileSystem {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ext4, Self::Xfs];

    /// The one of this name; the default for no name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "" => Some(Self::Ext4),
            name => Self::ALL.into_iter().find(|kind| kind.name() == name),
        }
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
