//! All that is free, and all that only daemons of before had, goes into quarantine.
//!
//! A daemon of before may still write to what was free in the backup, to what it had reserved and
//! to its journals, and a journal that was made after the backup may lie anywhere that was free.

use super::RestoreError;
use super::survey::{GroupPlace, Survey};
use crate::keyspace::{Bitmap, GroupIndex, GroupKey, KeyedTxn, QuarantineKey, QuarantineStamp};
use crate::service::{groups_of_lun, usable_bits};
use crate::store::{MetaStore, Txn};

/// Groups of one transaction: two bitmaps each.
const GROUPS_PER_STEP: usize = 1000;

/// A group, the bits of it that are extents, and those that only daemons of before had.
struct Group {
    place: GroupPlace,
    usable: Bitmap,
    held: Bitmap,
}

/// Allocates what is free of a group and puts it into quarantine, with what was held. Done again
/// it changes nothing.
async fn shut<T: Txn>(txn: &T, group: &Group) -> Result<u64, RestoreError> {
    let (pool, lun, index) = group.place;
    let key = GroupKey { pool, lun, group: index };
    let allocated = txn.load(&key).await?.unwrap_or(Bitmap::EMPTY);
    let quarantine = QuarantineKey { pool, lun, group: index, stamp: QuarantineStamp::BY_HAND };
    let before = txn.load(&quarantine).await?.unwrap_or(Bitmap::EMPTY);
    let held = group.held.and(&group.usable);
    let shut = group.usable.without(&allocated).or(&held).or(&before);
    if !shut.is_empty() {
        txn.put(&quarantine, &shut);
    }
    txn.put(&key, &allocated.or(&group.usable));
    Ok(u64::from(shut.count()))
}

/// Puts all that is free into quarantine; gives how many extents.
pub(super) async fn quarantine_all<S: MetaStore>(
    store: &S,
    survey: &Survey,
) -> Result<u64, RestoreError> {
    let mut extents = 0;
    for (pool, lun, data_extents) in survey.luns() {
        let count = u32::try_from(groups_of_lun(data_extents)).expect("a LUN has 2^26 groups");
        let group = |index: u32| {
            let index = GroupIndex::new(index);
            let place = (pool, lun, index);
            let held = survey.held.get(&place).copied().unwrap_or(Bitmap::EMPTY);
            Group { place, usable: usable_bits(data_extents, index), held }
        };
        let mut indices = 0..count;
        loop {
            let step: Vec<Group> = indices.by_ref().take(GROUPS_PER_STEP).map(group).collect();
            if step.is_empty() {
                break;
            }
            let step = &step;
            let done = store.transact(|txn| async move {
                let mut shut_extents = 0;
                for group in step {
                    shut_extents += shut(&*txn, group).await?;
                }
                Ok::<_, RestoreError>(shut_extents)
            });
            extents += done.await?;
        }
    }
    Ok(extents)
}
