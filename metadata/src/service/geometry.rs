//! A pool with its LUNs as the allocator sees it.

use lunar_proto::domain::{Lun, Pool, Selector};
use lunar_types::{LunIndex, PoolId};

use crate::error::ServiceError;
use crate::keyspace::{
    Bitmap, GROUP_EXTENTS, GroupIndex, KeyedTxn, LunRecord, PoolKey, PoolNameKey, PoolRecord,
    luns_of,
};
use crate::store::Txn;

/// Extents at the head of a LUN that only journals may take: a pool that is full can then still
/// be taken over by another node, which needs a journal before it can replay the old one.
const HELD_BACK_MAX: u64 = 32;
/// Of how many extents one is held back.
const HELD_BACK_SHARE: u64 = 64;

/// A pool, its LUNs in order of their index.
pub(crate) struct PoolGeometry {
    pub(crate) id: PoolId,
    pub(crate) record: PoolRecord,
    pub(crate) luns: Vec<(LunIndex, LunRecord)>,
}

/// Finds a pool by id or by name.
pub(super) async fn find_pool<T: Txn>(
    txn: &T,
    selector: &Selector<PoolId>,
) -> Result<PoolId, ServiceError> {
    let not_found = || ServiceError::PoolNotFound { pool: selector.to_string() };
    match selector {
        Selector::Id(id) => {
            txn.load(&PoolKey { pool: *id }).await?.map(|_| *id).ok_or_else(not_found)
        }
        Selector::Name(name) => {
            let found = txn.load(&PoolNameKey { name: name.clone() }).await?;
            found.map(|record| record.pool).ok_or_else(not_found)
        }
    }
}

/// How many extents of a LUN are held back for journals.
pub(crate) fn held_back_extents(data_extents: u64) -> u64 {
    (data_extents / HELD_BACK_SHARE).min(HELD_BACK_MAX)
}

impl PoolGeometry {
    /// The pool of this id.
    pub(super) async fn load<T: Txn>(txn: &T, id: PoolId) -> Result<Self, ServiceError> {
        let record = txn.load(&PoolKey { pool: id }).await?;
        let record = record.ok_or_else(|| ServiceError::PoolNotFound { pool: id.to_string() })?;
        let luns = txn.scan(&luns_of(id), usize::from(LunIndex::LIMIT)).await?;
        let luns = luns.into_iter().map(|(key, lun)| (key.index, lun)).collect();
        Ok(Self { id, record, luns })
    }

    /// The pool as it is told to clients.
    pub(super) fn to_pool(&self) -> Pool {
        let lun = |(index, lun): &(LunIndex, LunRecord)| Lun {
            id: lun.id,
            index: *index,
            size: lun.size,
            logical_block_size: lun.logical_block_size,
            data_extents: lun.data_extents,
        };
        Pool {
            id: self.id,
            name: self.record.name.clone(),
            extent_size: self.record.extent_size,
            luns: self.luns.iter().map(lun).collect(),
            logical_block_size: self.record.logical_block_size,
            watermarks: self.record.watermarks,
            fencing: self.record.fencing,
        }
    }

    /// Allocation groups of all LUNs.
    pub(super) fn group_count(&self) -> u64 {
        self.luns.iter().map(|(_, lun)| groups_of_lun(lun.data_extents)).sum()
    }

    /// The place of the group of this number, counted over the LUNs in order.
    pub(super) fn group_at(&self, ordinal: u64) -> Option<(usize, u64)> {
        let mut rest = ordinal;
        for (position, (_, lun)) in self.luns.iter().enumerate() {
            let groups = groups_of_lun(lun.data_extents);
            if rest < groups {
                return Some((position, rest));
            }
            rest -= groups;
        }
        None
    }

    /// The number of a group, counted over the LUNs in order.
    pub(super) fn ordinal_of(&self, lun: LunIndex, group: GroupIndex) -> u64 {
        let before = self.luns.iter().take_while(|(index, _)| *index < lun);
        let before: u64 = before.map(|(_, lun)| groups_of_lun(lun.data_extents)).sum();
        before + u64::from(group.get())
    }
}

/// Groups of a LUN; the last may be covered in part.
pub(crate) fn groups_of_lun(data_extents: u64) -> u64 {
    data_extents.div_ceil(GROUP_EXTENTS)
}

/// The bits of a group that are extents of the LUN.
pub(crate) fn usable_bits(data_extents: u64, group: GroupIndex) -> Bitmap {
    Bitmap::first(data_extents.saturating_sub(u64::from(group.get()) * GROUP_EXTENTS))
}

/// The bits of a group that only journals may take.
pub(crate) fn held_back_bits(data_extents: u64, group: GroupIndex) -> Bitmap {
    if group.get() == 0 { Bitmap::first(held_back_extents(data_extents)) } else { Bitmap::EMPTY }
}
