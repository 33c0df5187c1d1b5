//! How full a pool is: bits counted, by LUN and by what holds them.

use std::collections::BTreeMap;

use lunar_proto::domain::{LunStatus, PoolStatus, Selector, SpaceUsage};
use lunar_types::{ByteCount, ExtentRun, LunIndex, PoolId};

use super::Service;
use super::geometry::{PoolGeometry, find_pool, held_back_bits};
use super::watermarks::fill_of;
use crate::error::ServiceError;
use crate::keyspace::{
    AttachmentKey, Bitmap, GroupIndex, GroupKey, Key, KeyedTxn, MigrationKey, PoolVolumeKey,
    QuarantineKey, ReservationKey, StaleJournalKey, TypedRange, VolumeKey, groups_of,
    quarantine_of, volumes_of,
};
use crate::store::{MetaStore, Txn};

/// Keys of one read.
const SCAN_KEYS: usize = 1000;

/// Usage of each LUN, as it is being counted.
type Usage = BTreeMap<LunIndex, SpaceUsage>;

/// Every entry of a range, read in parts.
async fn each<T: Txn, K: Key>(
    txn: &T,
    range: TypedRange<K>,
    mut visit: impl FnMut(K, K::Value) + Send,
) -> Result<(), ServiceError> {
    let mut range = range;
    loop {
        let entries = txn.scan_read::<K>(range.first(SCAN_KEYS).as_snapshot()).await?;
        let Some((last, _)) = entries.last() else { return Ok(()) };
        let last = last.pack();
        let count = entries.len();
        entries.into_iter().for_each(|(key, value)| visit(key, value));
        if count < SCAN_KEYS {
            return Ok(());
        }
        range = range.after(&last);
    }
}

async fn count_groups<T: Txn>(
    txn: &T,
    geometry: &PoolGeometry,
    usage: &mut Usage,
) -> Result<(), ServiceError> {
    for (lun, record) in &geometry.luns {
        let usage = usage.entry(*lun).or_default();
        let first = GroupIndex::new(0);
        let held = held_back_bits(record.data_extents, first);
        usage.total_extents = record.data_extents;
        usage.held_back_extents = u64::from(held.count());
        each(txn, groups_of(geometry.id, *lun), |key: GroupKey, bits: Bitmap| {
            usage.allocated_extents += u64::from(bits.count());
            if key.group == first {
                usage.held_back_extents -= u64::from(bits.and(&held).count());
            }
        })
        .await?;
    }
    Ok(())
}

async fn count_reservations<T: Txn>(
    txn: &T,
    pool: PoolId,
    usage: &mut Usage,
) -> Result<(), ServiceError> {
    let range = TypedRange::<ReservationKey>::table();
    each(txn, range, |key: ReservationKey, bits: Bitmap| {
        if key.pool == pool {
            usage.entry(key.lun).or_default().reserved_extents += u64::from(bits.count());
        }
    })
    .await
}

async fn count_quarantine<T: Txn>(
    txn: &T,
    pool: PoolId,
    usage: &mut Usage,
) -> Result<(), ServiceError> {
    each(txn, quarantine_of(pool), |key: QuarantineKey, bits: Bitmap| {
        usage.entry(key.lun).or_default().quarantined_extents += u64::from(bits.count());
    })
    .await
}

async fn count_journals<T: Txn>(
    txn: &T,
    pool: PoolId,
    usage: &mut Usage,
) -> Result<(), ServiceError> {
    let mut journals: Vec<(lunar_types::VolumeId, Vec<ExtentRun>)> = Vec::new();
    each(txn, TypedRange::<AttachmentKey>::table(), |key, record| {
        journals.push((key.volume, record.journal));
    })
    .await?;
    each(txn, TypedRange::<StaleJournalKey>::table(), |key, record| {
        journals.push((key.volume, record.journal));
    })
    .await?;
    each(txn, TypedRange::<MigrationKey>::table(), |key, record| {
        journals.push((key.volume, record.spare_journal));
    })
    .await?;
    for (volume, runs) in journals {
        if txn.load_known(&VolumeKey { volume }).await?.pool == pool {
            for run in runs {
                let usage = usage.entry(run.first().lun).or_default();
                usage.journal_extents += u64::from(run.count());
            }
        }
    }
    Ok(())
}

/// What a pool has free and allocated, without who holds it.
pub(super) async fn count_space<T: Txn>(
    txn: &T,
    geometry: &PoolGeometry,
) -> Result<SpaceUsage, ServiceError> {
    let mut usage = Usage::new();
    count_groups(txn, geometry, &mut usage).await?;
    Ok(sum(&usage))
}

fn sum(usage: &Usage) -> SpaceUsage {
    usage.values().fold(SpaceUsage::default(), |sum, one| SpaceUsage {
        total_extents: sum.total_extents + one.total_extents,
        allocated_extents: sum.allocated_extents + one.allocated_extents,
        reserved_extents: sum.reserved_extents + one.reserved_extents,
        journal_extents: sum.journal_extents + one.journal_extents,
        held_back_extents: sum.held_back_extents + one.held_back_extents,
        quarantined_extents: sum.quarantined_extents + one.quarantined_extents,
    })
}

async fn pool_status<T: Txn>(
    txn: &T,
    selector: &Selector<PoolId>,
) -> Result<PoolStatus, ServiceError> {
    let id = find_pool(txn, selector).await?;
    let geometry = PoolGeometry::load(txn, id).await?;
    let mut usage = Usage::new();
    count_groups(txn, &geometry, &mut usage).await?;
    count_reservations(txn, id, &mut usage).await?;
    count_journals(txn, id, &mut usage).await?;
    count_quarantine(txn, id, &mut usage).await?;
    let (mut volumes, mut provisioned) = (0, 0_u64);
    each(txn, volumes_of(id), |_: PoolVolumeKey, record| {
        volumes += 1;
        provisioned = provisioned.saturating_add(record.size.bytes());
    })
    .await?;
    let total = sum(&usage);
    let (pool, fill) = (geometry.to_pool(), fill_of(&geometry, &total));
    let lun_status = |lun: &lunar_proto::domain::Lun| LunStatus {
        lun: *lun,
        usage: usage.get(&lun.index).copied().unwrap_or_default(),
    };
    Ok(PoolStatus {
        luns: pool.luns.iter().map(lun_status).collect(),
        usage: total,
        fill,
        pool,
        provisioned: ByteCount::new(provisioned),
        volumes,
    })
}

impl<S: MetaStore> Service<S> {
    /// How full a pool is.
    ///
    /// # Errors
    /// There is no such pool.
    pub async fn pool_status(
        &self,
        selector: &Selector<PoolId>,
    ) -> Result<PoolStatus, ServiceError> {
        self.read(|txn| async move { pool_status(&*txn, selector).await }).await
    }
}
