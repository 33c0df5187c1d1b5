//! The quarantine: extents that are allocated, that nobody owns, and that are not given away.
//!
//! Invariants:
//! - an extent comes back into the pool in the transaction that takes it out of the quarantine;
//! - what waits for an operator is freed by nothing else.

use lunar_proto::domain::{FsckEvent, ReleaseQuarantine};
use lunar_types::PoolId;

use super::Service;
use super::geometry::find_pool;
use crate::error::ServiceError;
use crate::fsck::{self, FindingKind, Flow};
use crate::keyspace::{
    Bitmap, GroupKey, Key as _, KeyedTxn, PoolKey, QuarantineKey, QuarantineStamp, TypedRange,
    quarantine_of,
};
use crate::store::{MetaStore, Txn};

/// Groups that one transaction frees.
const GROUPS_PER_STEP: usize = 256;

/// Findings with which nobody can say that an extent of the quarantine has no other owner.
const OWNERS_IN_DOUBT: &[FindingKind] = &[
    FindingKind::EntryUnreadable,
    FindingKind::ExtentDoublyOwned,
    FindingKind::ExtentUnallocated,
    FindingKind::SlotOrphan,
    FindingKind::AttachmentOrphan,
];

/// The finding that forbids a release, if there is one.
async fn find_doubt<T: Txn>(txn: &T) -> Result<Option<String>, ServiceError> {
    let mut doubt = None;
    let mut sink = |event| {
        if let FsckEvent::Finding(finding) = event
            && OWNERS_IN_DOUBT.iter().any(|kind| kind.as_str() == finding.kind)
        {
            doubt.get_or_insert(format!("{}: {}", finding.kind, finding.message));
        }
        Flow::Continue
    };
    fsck::check(txn, &mut sink).await?;
    Ok(doubt)
}

/// Frees the bits of one key; gives how many.
async fn free_group<T: Txn>(
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
    /// # Errors
    /// There is no such pool, the name does not confirm it, or a check cannot tell that nobody
    /// owns the extents.
    pub async fn release_quarantine(
        &self,
        request: &ReleaseQuarantine,
    ) -> Result<u64, ServiceError> {
        let pool = self.confirmed_pool(request).await?;
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
