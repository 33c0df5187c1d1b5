//! Backups of the metadata: beginning one, hearing that its file is whole, what follows from that.
//!
//! Invariants:
//! - a backup is begun before its snapshot of the store is taken: what is freed from then on is
//!   held back for it;
//! - only who has the file says that it is complete, and only the newest complete one may be
//!   restored: what earlier ones alone name is freed;
//! - turning the horizon off or on takes a number, too: what is stamped after it was turned on
//!   again is not freed by what turning it off has begun.

use std::sync::Arc;

use lunar_proto::domain::{Backup, BackupNumber, Backups, OperationWork};

use super::Service;
use super::operations::begin_operation;
use super::quarantine::free_group;
use crate::error::ServiceError;
use crate::keyspace::{
    BackupKey, BackupRecord, BackupsKey, BackupsRecord, Bitmap, Key as _, KeyedTxn, OperationKey,
    QuarantineKey, TypedRange,
};
use crate::store::{MetaStore, Txn};

/// Backups that are remembered.
const BACKUPS_KEPT: u64 = 100;
/// Groups that one step frees.
const GROUPS_PER_STEP: usize = 256;
/// Groups of the quarantine of one read.
const GROUPS_PER_READ: usize = 1000;

fn next_number(record: &mut BackupsRecord) -> Result<u64, ServiceError> {
    record.begun = record.begun.checked_add(1).ok_or_else(|| {
        ServiceError::corrupt(format!("{:?}", BackupsKey {}), "its numbers are used up".to_owned())
    })?;
    Ok(record.begun)
}

async fn begin<T: Txn>(txn: &T, begun_at: u64) -> Result<BackupNumber, ServiceError> {
    let mut record = txn.load(&BackupsKey {}).await?.unwrap_or_default();
    let number = next_number(&mut record)?;
    txn.put(&BackupsKey {}, &record);
    let backup = BackupNumber::new(number);
    txn.put(&BackupKey { backup }, &BackupRecord { begun_at, complete_at: 0 });
    if let Some(forgotten) = number.checked_sub(BACKUPS_KEPT) {
        txn.remove(&BackupKey { backup: BackupNumber::new(forgotten) });
    }
    Ok(backup)
}

/// Whether what a backup names was held back since it was begun.
const fn is_protected(record: &BackupsRecord, number: u64) -> bool {
    !record.is_horizon_off && number > record.unprotected
}

async fn done<T: Txn>(txn: &T, backup: BackupNumber, at: u64) -> Result<(), ServiceError> {
    let key = BackupKey { backup };
    let Some(mut one) = txn.load(&key).await? else {
        return Err(ServiceError::BackupNotFound { backup });
    };
    let mut all = txn.load_known(&BackupsKey {}).await?;
    if one.complete_at == 0 {
        one.complete_at = at.max(1);
        txn.put(&key, &one);
    }
    let number = backup.get();
    if is_protected(&all, number) && number > all.complete {
        all.complete = number;
        txn.put(&BackupsKey {}, &all);
        begin_operation(txn, OperationWork::FreeQuarantine(backup)).await?;
    }
    Ok(())
}

async fn set_horizon<T: Txn>(txn: &T, is_off: bool) -> Result<(), ServiceError> {
    let mut record = txn.load(&BackupsKey {}).await?.unwrap_or_default();
    if record.is_horizon_off == is_off {
        return Ok(());
    }
    let number = next_number(&mut record)?;
    (record.is_horizon_off, record.complete, record.unprotected) = (is_off, 0, number);
    txn.put(&BackupsKey {}, &record);
    if is_off {
        begin_operation(txn, OperationWork::FreeQuarantine(BackupNumber::new(number))).await?;
    }
    Ok(())
}

async fn load_backups<T: Txn>(txn: &T) -> Result<Backups, ServiceError> {
    let record = txn.load(&BackupsKey {}).await?.unwrap_or_default();
    let kept = usize::try_from(BACKUPS_KEPT).expect("it is small");
    // From the newest on: one that was restored stays, and numbers have a gap after it.
    let read = TypedRange::<BackupKey>::table().first(kept).reversed();
    let found = txn.scan_read::<BackupKey>(read).await?;
    let backup = |(BackupKey { backup: number }, record): (_, BackupRecord)| Backup {
        number,
        begun_at: record.begun_at,
        complete_at: (record.complete_at > 0).then_some(record.complete_at),
    };
    Ok(Backups {
        newest_complete: (record.complete > 0).then(|| BackupNumber::new(record.complete)),
        is_horizon_off: record.is_horizon_off,
        backups: found.into_iter().map(backup).collect(),
    })
}

/// Some of what only backups before this one name.
async fn named_before<T: Txn>(
    txn: &T,
    before: BackupNumber,
) -> Result<Vec<(QuarantineKey, Bitmap)>, ServiceError> {
    let mut range = TypedRange::<QuarantineKey>::table();
    let mut named = Vec::new();
    loop {
        let read = range.first(GROUPS_PER_READ).as_snapshot();
        let found = txn.scan_read::<QuarantineKey>(read).await?;
        let Some((last, _)) = found.last() else { return Ok(named) };
        range = range.after(&last.pack());
        let is_named_before = |(key, _): &(QuarantineKey, Bitmap)| key.stamp.get() < before.get();
        named.extend(found.into_iter().filter(is_named_before));
        if named.len() >= GROUPS_PER_STEP {
            named.truncate(GROUPS_PER_STEP);
            return Ok(named);
        }
    }
}

/// Frees some of what only backups before this one name.
pub(super) async fn step_free_quarantine<T: Txn>(
    txn: &T,
    operation: &OperationKey,
    before: BackupNumber,
) -> Result<(), ServiceError> {
    let named = named_before(txn, before).await?;
    if named.is_empty() {
        txn.remove(operation);
    }
    for (key, _) in named {
        // Seen as it was lately; what is freed is what is there.
        if let Some(bits) = txn.load(&key).await? {
            free_group(txn, &key, &bits).await?;
        }
    }
    Ok(())
}

impl<S: MetaStore> Service<S> {
    /// Begins a backup, whose snapshot of the store is to be taken when this has returned.
    ///
    /// # Errors
    /// The store failed.
    pub async fn begin_backup(&self, now_unix: u64) -> Result<BackupNumber, ServiceError> {
        let begin = |txn: Arc<S::Txn>| async move { begin(&*txn, now_unix).await };
        self.store.transact(begin).await
    }

    /// Takes note that the file of a backup is whole and on stable storage. May be repeated.
    ///
    /// # Errors
    /// There is no such backup, or it is not remembered any more.
    pub async fn backup_done(
        &self,
        backup: BackupNumber,
        now_unix: u64,
    ) -> Result<Backups, ServiceError> {
        self.store
            .transact(|txn| async move {
                done(&*txn, backup, now_unix).await?;
                load_backups(&*txn).await
            })
            .await
    }

    /// What is known of backups.
    ///
    /// # Errors
    /// The store failed.
    pub async fn backups(&self) -> Result<Backups, ServiceError> {
        self.read(|txn| async move { load_backups(&*txn).await }).await
    }

    /// Turns the horizon on or off. Backups of before are not protected any more: no backup is
    /// complete until a new one is.
    ///
    /// # Errors
    /// The store failed.
    pub async fn set_backup_horizon(&self, on: bool) -> Result<Backups, ServiceError> {
        self.store
            .transact(|txn| async move {
                set_horizon(&*txn, !on).await?;
                load_backups(&*txn).await
            })
            .await
    }
}
