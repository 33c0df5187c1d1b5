//! Pools and their LUNs: making, growing, listing.

use std::collections::BTreeSet;

use lunar_proto::domain::{
    AddLuns, CreatePool, NewLun, Page, PageRequest, Pool, Selector, Watermarks,
};
use lunar_types::{
    ByteCount, ExtentSize, LUN_DATA_START_BYTES, LUN_DATA_TAIL_BYTES, LogicalBlockSize, LunIndex,
    PhysicalExtent, PoolId,
};

use super::geometry::{PoolGeometry, find_pool};
use super::paging::page;
use super::{Service, foreign_outcome};
use crate::error::ServiceError;
use crate::keyspace::{
    KeyedTxn, LunKey, LunOwnerKey, LunOwnerRecord, LunRecord, Outcome, PoolKey, PoolNameKey,
    PoolNameRecord, PoolRecord, TypedRange,
};
use crate::store::{MetaStore, Txn};

/// What can be said of offered LUNs without the store.
fn check_luns(luns: &[NewLun], extent_size: Option<ExtentSize>) -> Result<(), ServiceError> {
    if luns.is_empty() {
        return Err(ServiceError::field("luns", "at least one LUN is needed"));
    }
    if luns.len() > usize::from(LunIndex::LIMIT) {
        let limit = u64::from(LunIndex::LIMIT);
        return Err(ServiceError::LimitReached { what: "LUNs of a pool", limit });
    }
    let mut seen = BTreeSet::new();
    for lun in luns {
        if !seen.insert(lun.id) {
            return Err(ServiceError::LunTwice { lun: lun.id });
        }
    }
    extent_size.map_or(Ok(()), |size| check_lun_sizes(luns, size))
}

fn check_lun_sizes(luns: &[NewLun], extent_size: ExtentSize) -> Result<(), ServiceError> {
    let margins = LUN_DATA_START_BYTES + LUN_DATA_TAIL_BYTES;
    for (index, lun) in luns.iter().enumerate() {
        let extents = extent_size.data_extents(lun.size.get());
        if extents == 0 {
            let least = ByteCount::new(margins + extent_size.bytes());
            return Err(ServiceError::lun_too_small(index, lun.size, least));
        }
        if extents > PhysicalExtent::LIMIT {
            let problem = format_args!("{} has more than 2^36 extents", lun.size);
            return Err(ServiceError::field(&format!("luns[{index}].size_bytes"), problem));
        }
    }
    Ok(())
}

/// Gives a LUN its place in a pool.
async fn add_lun<T: Txn>(
    txn: &T,
    pool: PoolId,
    record: &mut PoolRecord,
    lun: &NewLun,
) -> Result<(), ServiceError> {
    let owner_key = LunOwnerKey { lun: lun.id };
    if let Some(owner) = txn.load(&owner_key).await? {
        let other = txn.load_known(&PoolKey { pool: owner.pool }).await?;
        return Err(ServiceError::LunInUse {
            lun: lun.id,
            pool: owner.pool,
            pool_name: other.name,
        });
    }
    let index = LunIndex::try_new(record.luns).ok_or(ServiceError::LimitReached {
        what: "LUNs of a pool",
        limit: u64::from(LunIndex::LIMIT),
    })?;
    record.luns += 1;
    txn.put(&owner_key, &LunOwnerRecord { pool, index });
    let lun = LunRecord {
        id: lun.id,
        size: lun.size,
        logical_block_size: lun.logical_block_size,
        data_extents: record.extent_size.data_extents(lun.size.get()),
    };
    txn.put(&LunKey { pool, index }, &lun);
    Ok(())
}

async fn create_pool<T: Txn>(
    txn: &T,
    pool: PoolId,
    request: &CreatePool,
) -> Result<Outcome, ServiceError> {
    let name_key = PoolNameKey { name: request.name.clone() };
    if let Some(other) = txn.load(&name_key).await? {
        return Err(ServiceError::PoolExists { name: request.name.clone(), pool: other.pool });
    }
    let block_sizes = request.luns.iter().map(|lun| lun.logical_block_size);
    let mut record = PoolRecord {
        name: request.name.clone(),
        extent_size: request.extent_size,
        logical_block_size: block_sizes.max().unwrap_or(LogicalBlockSize::B4096),
        luns: 0,
        watermarks: Watermarks::DEFAULT,
        fencing: request.fencing,
    };
    for lun in &request.luns {
        add_lun(txn, pool, &mut record, lun).await?;
    }
    txn.put(&name_key, &PoolNameRecord { pool });
    txn.put(&PoolKey { pool }, &record);
    Ok(Outcome::Pool(pool))
}

async fn add_luns<T: Txn>(txn: &T, request: &AddLuns) -> Result<Outcome, ServiceError> {
    let pool = find_pool(txn, &request.pool).await?;
    let mut record = txn.load_known(&PoolKey { pool }).await?;
    check_lun_sizes(&request.luns, record.extent_size)?;
    for lun in &request.luns {
        if lun.logical_block_size > record.logical_block_size {
            return Err(ServiceError::LunBlockSize {
                lun: lun.id,
                lun_blocks: lun.logical_block_size.bytes(),
                pool_name: record.name,
                pool_blocks: record.logical_block_size.bytes(),
            });
        }
        add_lun(txn, pool, &mut record, lun).await?;
    }
    txn.put(&PoolKey { pool }, &record);
    Ok(Outcome::Pool(pool))
}

impl<S: MetaStore> Service<S> {
    /// Makes a pool of labelled LUNs.
    ///
    /// # Errors
    /// No LUN, a LUN twice, in another pool, too small or too large; the name is taken.
    pub async fn create_pool(&self, request: &CreatePool) -> Result<Pool, ServiceError> {
        check_luns(&request.luns, Some(request.extent_size))?;
        let id = PoolId::from_u128(self.seams.ids.next());
        let what = ("create pool", request);
        let create =
            |txn: std::sync::Arc<S::Txn>| async move { create_pool(&*txn, id, request).await };
        let outcome = self.once(request.request, &what, create).await?;
        self.luns_have_joined();
        self.pool_of(request.request, &outcome).await
    }

    /// Adds labelled LUNs to a pool: all or none.
    ///
    /// # Errors
    /// As for [`Service::create_pool`]; also a LUN with greater logical blocks than the pool's.
    pub async fn add_luns(&self, request: &AddLuns) -> Result<Pool, ServiceError> {
        check_luns(&request.luns, None)?;
        let what = ("add LUNs", request);
        let add = |txn: std::sync::Arc<S::Txn>| async move { add_luns(&*txn, request).await };
        let outcome = self.once(request.request, &what, add).await?;
        self.luns_have_joined();
        self.pool_of(request.request, &outcome).await
    }

    pub(super) async fn pool_of(
        &self,
        request: lunar_types::RequestId,
        outcome: &Outcome,
    ) -> Result<Pool, ServiceError> {
        match outcome {
            Outcome::Pool(pool) => self.pool(&Selector::Id(*pool)).await,
            other => Err(foreign_outcome(request, other)),
        }
    }

    /// A pool with its LUN table.
    ///
    /// # Errors
    /// There is no such pool.
    pub async fn pool(&self, selector: &Selector<PoolId>) -> Result<Pool, ServiceError> {
        self.read(|txn| async move {
            let id = find_pool(&*txn, selector).await?;
            Ok(PoolGeometry::load(&*txn, id).await?.to_pool())
        })
        .await
    }

    /// The pools, by id.
    ///
    /// # Errors
    /// The page token is not of this list.
    pub async fn pools(&self, request: &PageRequest) -> Result<Page<Pool>, ServiceError> {
        self.read(|txn| async move {
            let (entries, next) = page(&*txn, TypedRange::<PoolKey>::table(), request).await?;
            let mut items = Vec::with_capacity(entries.len());
            for (key, _) in entries {
                items.push(PoolGeometry::load(&*txn, key.pool).await?.to_pool());
            }
            Ok(Page { items, next })
        })
        .await
    }
}
