//! Volumes that become larger.
//!
//! Invariants:
//! - a volume never becomes smaller: blocks that a device has shown are never cut off;
//! - size, the pool's entry and the structure change in one transaction; the holder that has not
//!   heard of it serves the old size, which is a prefix of the new one;
//! - an open set is not touched: what it seals has the size that the volume has at the seal.

use std::sync::Arc;

use lunar_proto::domain::{GrowVolume, Volume, VolumeState};

use super::Service;
use super::volumes::{find_volume, require_attachable};
use super::watermarks::Admission;
use crate::error::ServiceError;
use crate::keyspace::{KeyedTxn, Outcome, PoolKey, PoolVolumeKey, PoolVolumeRecord, VolumeKey};
use crate::store::{MetaStore, Txn};

async fn grow_volume<T: Txn>(
    txn: &T,
    request: &GrowVolume,
    admission: Admission<'_>,
) -> Result<Outcome, ServiceError> {
    let (volume, mut record) = find_volume(txn, &request.volume).await?;
    if record.state != VolumeState::Ready {
        return Err(ServiceError::VolumeNotReady { volume, state: record.state });
    }
    let (held, given) = (record.size, request.size);
    if given < held {
        return Err(ServiceError::VolumeWouldShrink { volume, held, given });
    }
    if given == held {
        return Ok(Outcome::Volume(volume));
    }
    let pool = record.pool;
    require_attachable(&record.name, given, &txn.load_known(&PoolKey { pool }).await?)?;
    admission.require(txn, pool).await?;
    record.size = given;
    record.structure = record.structure.next();
    txn.put(&VolumeKey { volume }, &record);
    txn.put(&PoolVolumeKey { pool, volume }, &PoolVolumeRecord { size: given });
    Ok(Outcome::Volume(volume))
}

impl<S: MetaStore> Service<S> {
    /// Makes a volume larger, attached or not. Its holder hears of another structure. The size
    /// that it has already changes nothing.
    ///
    /// # Errors
    /// There is no such volume, it is not Ready, it is larger already, it would have more extents
    /// than one can be attached with, or its pool is above its critical watermark.
    pub async fn grow_volume(&self, request: &GrowVolume) -> Result<Volume, ServiceError> {
        let what = ("grow volume", request);
        let gate = self.admission(request.over_watermark);
        let grow = |txn: Arc<S::Txn>| async move { grow_volume(&*txn, request, gate).await };
        let outcome = self.once(request.request, &what, grow).await?;
        self.sets_changed();
        self.volume_of(request.request, &outcome).await
    }
}
