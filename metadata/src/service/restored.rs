//! A cluster that was restored: nothing is attached before an operator says that it may be.
//!
//! Invariants:
//! - mapped extents cannot be guarded against a daemon of before the restore, which may write to
//!   them: so no volume is attached, and no daemon of before gets another answer than that, until
//!   an operator has certified that none runs;
//! - the certification is of the cluster, and is given once.

use tracing::{info, warn};

use super::Service;
use crate::error::{RestoredError, ServiceError};
use crate::keyspace::{KeyedTxn, RestoreKey};
use crate::store::{MetaStore, Txn};

/// Refuses while the restore that made the store is not certified.
pub(super) async fn require_certified<T: Txn>(txn: &T) -> Result<(), ServiceError> {
    match txn.load(&RestoreKey {}).await? {
        None => Ok(()),
        Some(record) => {
            let (backup, restored) = (record.backup, record.restored);
            Err(RestoredError::NotCertified { backup, restored }.into())
        }
    }
}

impl<S: MetaStore> Service<S> {
    /// Says in the log that nothing can be attached yet, if that is so.
    pub(super) async fn tell_uncertified(&self) -> Result<(), ServiceError> {
        let found = self.read(|txn| async move { txn.load(&RestoreKey {}).await }).await?;
        if let Some(restore) = found {
            warn!(
                backup = restore.backup,
                "the store was restored: volumes can be attached when 'lunar pool \
                 release-quarantine' has certified that no fs-core of before runs"
            );
        }
        Ok(())
    }

    /// No daemon of before the restore runs any more: an operator says so, or fencing proves it.
    pub(super) async fn certify_restore(&self) -> Result<(), ServiceError> {
        let found = self.store.transact(|txn| async move {
            let found = txn.load(&RestoreKey {}).await?;
            if found.is_some() {
                txn.remove(&RestoreKey {});
            }
            Ok::<_, ServiceError>(found)
        });
        if let Some(restore) = found.await? {
            info!(backup = restore.backup, "the restore is certified: volumes may be attached");
        }
        Ok(())
    }
}
