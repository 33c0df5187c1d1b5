//! The quarantine: extents that are allocated, that nobody owns, and that are not given away.
//!
//! Invariants:
//! - an extent comes back into the pool in the transaction that takes it out of the quarantine;
//! - what waits for an operator is freed by nothing else; what waits for a backup (see `horizon`)
//!   has had an owner until then, and needs no such care;
//! - nothing of the former is freed while a check finds anything that could hide an owner, nor
//!   while a journal waits to be replayed. The second is looked at again by every transaction that
//!   frees; the first cannot come by itself, because nobody becomes the owner of an extent whose
//!   bit is set.

use std::collections::BTreeMap;

use lunar_proto::domain::{FsckEvent, FsckFinding, ReleaseQuarantine};
use lunar_types::PoolId;

use super::Service;
use super::geometry::find_pool;
use crate::error::{HeldExtents, ServiceError};
use crate::fsck::{self, Flow};
use crate::keyspace::{
    Bitmap, GroupKey, Key as _, KeyedTxn, PoolKey, QuarantineKey, QuarantineStamp, StaleJournalKey,
    TypedRange, quarantine_of,
};
use crate::store::{MetaStore, Txn};

/// Groups that one transaction frees.
const GROUPS_PER_STEP: usize = 256;
/// Groups that are counted at once.
const GROUPS_PER_READ: usize = 1000;

/// The findings that forbid a release, if there are any: those with which a repair takes nothing
/// away either. The first one of each kind.
async fn find_doubt<T: Txn>(txn: &T) -> Result<Option<String>, ServiceError> {
    let mut doubts: BTreeMap<String, String> = BTreeMap::new();
    let mut sink = |event| {
        if let FsckEvent::Finding(FsckFinding { kind, message, .. }) = event
            && fsck::leaves_owners_in_doubt(&kind)
        {
            doubts.entry(kind).or_insert(message);
        }
        Flow::Continue
    };
    fsck::check(txn, &mut sink).await?;
    let told: Vec<_> = doubts.iter().map(|(kind, message)| format!("{kind}: {message}")).collect();
    Ok((!told.is_empty()).then(|| told.join("; ")))
}

/// Refuses while a journal waits to be replayed: its records may name what has no other owner.
async fn require_no_stale<T: Txn>(txn: &T) -> Result<(), ServiceError> {
    let found = txn.scan(&TypedRange::<StaleJournalKey>::table(), 1).await?;
    match found.into_iter().next() {
        None => Ok(()),
        Some((StaleJournalKey { volume, epoch: oldest }, _)) => {
            let wanted = "release the quarantine of a pool";
            Err(ServiceError::StaleJournals { volume, oldest, wanted })
        }
    }
}

/// What a pool has in quarantine.
pub(super) async fn count_held<T: Txn>(txn: &T, pool: PoolId) -> Result<HeldExtents, ServiceError> {
    let (mut range, mut held) = (quarantine_of(pool), HeldExtents::default());
    loop {
        let read = range.first(GROUPS_PER_READ).as_snapshot();
        let found = txn.scan_read::<QuarantineKey>(read).await?;
        for (key, bits) in &found {
            let count = u64::from(bits.count());
            match key.stamp {
                QuarantineStamp::BY_HAND => held.by_hand += count,
                _ => held.for_backups += count,
            }
        }
        let Some((last, _)) = found.last() else { return Ok(held) };
        range = range.after(&last.pack());
    }
}

/// Frees the bits of one key; gives how many.
pub(super) async fn free_group<T: Txn>(
    txn: &T,
    key: &QuarantineKey,
    bits: &Bitmap,
) -> Result<u64, ServiceError> {
    let group = GroupKey { pool: key.pool, lun: key.lun, group: key.group };
    let allocated = txn.load(&group).await?.unwrap_or(Bitmap::EMPTY);
    if !bits.without(&allocated).is_empty() {
        let problem = "an extent of the quarantine is free already".to_owned();
        return Err(ServiceError::corrupt(format!("{key:?}"), problem));
    }
    let left = allocated.without(bits);
    match left.is_empty() {
        true => txn.remove(&group),
        false => txn.put(&group, &left),
    }
    txn.remove(key);
    Ok(u64::from(bits.count()))
}

/// Frees what an operator has to release of some groups; says from where to go on.
async fn free_some<T: Txn>(
    txn: &T,
    range: &TypedRange<QuarantineKey>,
) -> Result<(u64, Option<QuarantineKey>), ServiceError> {
    require_no_stale(txn).await?;
    let found = txn.scan(range, GROUPS_PER_STEP).await?;
    let mut freed = 0;
    for (key, bits) in found.iter().filter(|(key, _)| key.stamp == QuarantineStamp::BY_HAND) {
        freed += free_group(txn, key, bits).await?;
    }
    Ok((freed, found.last().map(|(key, _)| key.clone())))
}

impl<S: MetaStore> Service<S> {
    /// Frees what an operator has to release of the quarantine of a pool; gives how many extents.
    /// Sent again, it frees what is left.
    ///
    /// After a restore it is also the operator's word for the whole cluster that no daemon of
    /// before it runs: that is so whatever a check finds in the space of this pool, and if it came
    /// only after the check, nobody could attach a volume while there is a finding.
    ///
    /// # Errors
    /// There is no such pool, the name does not confirm it, a journal waits to be replayed, or a
    /// check cannot tell that nobody owns the extents.
    pub async fn release_quarantine(
        &self,
        request: &ReleaseQuarantine,
    ) -> Result<u64, ServiceError> {
        let pool = self.confirmed_pool(request).await?;
        self.certify_restore().await?;
        self.read(|txn| async move { require_no_stale(&*txn).await }).await?;
        if let Some(doubt) = find_doubt(&self.store.begin().await?).await? {
            let problem = format!("its extents may have owners, a check finds {doubt}");
            return Err(ServiceError::corrupt(format!("quarantine of pool {pool}"), problem));
        }
        let (mut range, mut freed) = (quarantine_of(pool), 0);
        loop {
            let from = &range;
            let step = self.store.transact(|txn| async move { free_some(&*txn, from).await });
            let (count, last): (u64, Option<QuarantineKey>) = step.await?;
            freed += count;
            let Some(last) = last else { return Ok(freed) };
            range = range.after(&last.pack());
        }
    }

    async fn confirmed_pool(&self, request: &ReleaseQuarantine) -> Result<PoolId, ServiceError> {
        self.read(|txn| async move {
            let pool = find_pool(&*txn, &request.pool).await?;
            let name = txn.load_known(&PoolKey { pool }).await?.name;
            if name != request.confirm {
                let problem = format!("is '{}', and the pool is '{name}'", request.confirm);
                return Err(ServiceError::field("confirm", problem));
            }
            Ok(pool)
        })
        .await
    }
}
