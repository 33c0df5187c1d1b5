//! Why a backup is not believed, and what is never written. Offsets are bytes from the beginning.

use std::io;

use super::BACKUP_VERSION;

/// Why a backup is not believed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It cannot be read.
    #[error("byte {offset}: the backup cannot be read")]
    Io {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("byte 0: this is no backup of the metadata")]
    NotABackup,
    /// Another program wrote it.
    #[error(
        "byte 8: the backup has format version {found}, this program reads {BACKUP_VERSION}: take \
         the program that wrote it"
    )]
    Version {
        /// The version of the backup.
        found: u16,
    },
    /// It ends too early.
    #[error("byte {offset}: the backup ends here, in the middle of {within}: it was cut off")]
    Truncated {
        /// Where.
        offset: u64,
        /// In what.
        within: &'static str,
    },
    /// It was changed.
    #[error("byte {offset}: the checksum of {of} is wrong: the backup was changed or damaged")]
    Checksum {
        /// Where the part begins.
        offset: u64,
        /// Of what.
        of: &'static str,
    },
    /// Bytes that no writer wrote.
    #[error("byte {offset}: {problem}: the backup was changed or damaged")]
    Malformed {
        /// Where.
        offset: u64,
        /// What is wrong.
        problem: &'static str,
    },
}

impl BackupError {
    /// The byte at which the backup is not believed.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        match self {
            Self::NotABackup => 0,
            Self::Version { .. } => 8,
            Self::Io { offset, .. }
            | Self::Truncated { offset, .. }
            | Self::Checksum { offset, .. }
            | Self::Malformed { offset, .. } => *offset,
        }
    }
}

/// Why an entry is not written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    /// The store gave keys out of order.
    #[error("entry {number} of the store has a key that does not come after the one before it")]
    Order {
        /// How many came before.
        number: u64,
    },
    /// No store has such entries.
    #[error(
        "entry {number} of the store has a key of {key} B and a value of {value} B: together with \
         6 B they have to fit into a block of 1 MiB, and the key into 65,535 B"
    )]
    TooLong {
        /// How many came before.
        number: u64,
        /// Bytes of the key.
        key: usize,
        /// Bytes of the value.
        value: usize,
    },
}
