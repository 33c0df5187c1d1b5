//! Errors of groups of snapshots.

use lunar_proto::error::{ErrorReason, Facts};
use lunar_types::{Name, SnapshotGroupId};

/// What is wrong with a group that was named.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GroupError {
    /// There is none.
    #[error("no group of snapshots '{group}' exists")]
    NotFound {
        /// Its id or name, as it was given.
        group: String,
    },
    /// The name is taken.
    #[error(
        "a group of snapshots named '{name}' exists already ({group}): choose another name, or \
         delete it"
    )]
    Exists {
        /// The name.
        name: Name,
        /// Whose it is.
        group: SnapshotGroupId,
    },
}

impl GroupError {
    pub(super) const fn kind(&self) -> ErrorReason {
        match self {
            Self::NotFound { .. } => ErrorReason::GroupNotFound,
            Self::Exists { .. } => ErrorReason::GroupExists,
        }
    }

    pub(super) fn facts(&self) -> Facts {
        let fact = |name: &str, value: &dyn ToString| (name.to_owned(), value.to_string());
        match self {
            Self::NotFound { group } => Facts::from([fact("group", group)]),
            Self::Exists { name, group } => Facts::from([fact("name", name), fact("group", group)]),
        }
    }
}
