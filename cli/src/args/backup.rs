//! `lunar backup`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Commands on backups of the metadata.
#[derive(Subcommand, Debug)]
pub enum BackupCommand {
    /// Write a backup of the metadata to a file, and tell the service when it is on stable storage.
    ///
    /// It holds the map of every volume and snapshot, not their data. From the first one on, what
    /// is deleted comes back to its pool only when a later backup is complete.
    Create {
        /// The file; it must not exist.
        path: PathBuf,
    },
    /// Check a backup file: every checksum, and that it is whole. Asks no service.
    Check {
        /// The file.
        path: PathBuf,
    },
    /// Check a backup file, and tell the service that it is on stable storage: for one whose
    /// 'create' could not say so.
    Confirm {
        /// The file.
        path: PathBuf,
    },
    /// List the backups that the service remembers, and which of them may be restored.
    List,
    /// Say whether what is deleted waits for the next backup.
    Horizon(HorizonArgs),
}

/// Arguments of `lunar backup horizon`.
#[derive(Args, Debug)]
pub struct HorizonArgs {
    /// on: what a backup names is not given away before a later one is complete; off: it is, and
    /// no backup may be restored any more.
    pub horizon: HorizonArg,
}

/// Whether there is a horizon.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum HorizonArg {
    /// What is deleted waits.
    On,
    /// It does not.
    Off,
}
