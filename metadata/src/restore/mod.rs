//! Restoring a backup into an empty store, offline.
//!
//! Crash order: the backup is read to its end and checked wholly before anything is written
//! ([`Survey::read`]); then a mark is written, with which the service refuses to start; then the
//! entries, changed as `rewrite` says; then what is free goes into quarantine; then, in one
//! transaction, the numbers are raised, the keyspace version is written and the mark becomes
//! "finished, not certified". A restore that was cut off is begun again in another store.
//!
//! Invariants:
//! - no number that a daemon of before knows is current again: see [`Raised`];
//! - nothing of the backup can be written by a grant, a session or a journal of before: there are
//!   none;
//! - an extent is free only after an operator has released it.
//!
//! Deliberately absent: deciding which backup is the newest complete one. The file cannot tell; the
//! operator names its number.

mod raised;
mod rewrite;
mod space;
mod survey;
mod write;

use std::io::Read;

use lunar_backup::{BackupError, BackupReader};
use lunar_types::ClusterId;

use crate::error::ServiceError;
use crate::keyspace::KEYSPACE_VERSION;
use crate::store::{StoreError, TransactError};

pub use raised::{ClockWrong, Raised};
pub use survey::{Counts, Survey};
pub use write::restore;

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is not believed.
    #[error("the backup is not restored: it is not whole")]
    Backup(#[from] BackupError),
    /// The operator means another one.
    #[error(
        "the file is backup {found}, and --number names backup {asked}: only the newest complete \
         backup may be restored ('lunar backup list', or the log of the service, has its number)"
    )]
    OtherNumber {
        /// The number in the file.
        found: u64,
        /// The number that was asked for.
        asked: u64,
    },
    /// What it names was given away.
    #[error(
        "the horizon was off when backup {number} was made ('lunar backup horizon'): what it names \
         may have been given to other volumes since, and a restored volume would show what those \
         have written; if there is nothing better, insist with --unprotected"
    )]
    Unprotected {
        /// The number in the file.
        number: u64,
    },
    /// Another version of the program wrote it.
    #[error(
        "the backup is of keyspace version {found}, this program writes {KEYSPACE_VERSION}: take \
         the metadata-service that wrote it"
    )]
    OtherKeyspace {
        /// The version of the backup.
        found: u32,
    },
    /// This host's time cannot be right.
    #[error(transparent)]
    Clock(#[from] ClockWrong),
    /// The content of the backup.
    #[error("the backup holds what cannot be restored: {key}: {problem}")]
    Content {
        /// Which entry.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// The file is not the one that was checked.
    #[error("the backup has changed while it was restored: begin again with an empty store")]
    Changed,
    /// It holds something.
    #[error(
        "the store is not empty: a backup is restored into an empty one, give the path of a file \
         that does not exist yet"
    )]
    NotEmpty,
    /// The store failed.
    #[error("the store cannot be written: begin again with an empty store")]
    Store(#[from] ServiceError),
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}

impl TransactError for RestoreError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => error.store_error(),
            _ => None,
        }
    }
}

fn content(key: impl Into<String>, problem: impl Into<String>) -> RestoreError {
    RestoreError::Content { key: key.into(), problem: problem.into() }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The number of the backup, as the operator knows it.
    pub number: u64,
    /// The time of this host, in seconds since 1970-01-01 UTC.
    pub now: u64,
    /// A backup that was made while the horizon was off is restored all the same.
    pub unprotected: bool,
}

/// What a backup is of, if it may be restored.
fn accepted<R: Read>(reader: &BackupReader<R>, asked: Asked) -> Result<ClusterId, RestoreError> {
    let header = reader.header();
    if header.number != asked.number {
        return Err(RestoreError::OtherNumber { found: header.number, asked: asked.number });
    }
    if header.keyspace_version != KEYSPACE_VERSION {
        return Err(RestoreError::OtherKeyspace { found: header.keyspace_version });
    }
    Ok(header.cluster)
}
