//! A volume that is being served, as its parts share it.

use std::sync::{Arc, Mutex};

use lunar_engine::volume::VolumeStats;
use lunar_proto::domain::Attachment;
use lunar_types::{
    ExtentAddress, ExtentSize, LogicalBlockSize, Name, PoolId, StructureNumber, VolumeId,
    VolumeSize,
};

use super::cut::Heads;
use super::grow::SharedSize;
use crate::lun::set::PoolLuns;
use crate::metadata::Grant;
use crate::queue::server::DeviceShared;
use crate::reserve::ReserveHolder;

/// What a volume is; does not change while it is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFacts {
    /// The grant that it is served under.
    pub grant: Grant,
    /// Its name.
    pub name: Name,
    /// Its pool.
    pub pool: PoolId,
    /// Its size when it was attached, or taken over.
    pub size: VolumeSize,
    /// What its device advertises.
    pub logical_block: LogicalBlockSize,
    /// Of its pool.
    pub extent_size: ExtentSize,
}

impl From<&Attachment> for VolumeFacts {
    fn from(attachment: &Attachment) -> Self {
        let volume = &attachment.volume;
        Self {
            grant: grant_of(attachment),
            name: volume.name.clone(),
            pool: volume.pool,
            size: volume.size,
            logical_block: volume.logical_block_size,
            extent_size: attachment.pool.extent_size,
        }
    }
}

/// The grant that an attachment is.
#[must_use]
pub const fn grant_of(attachment: &Attachment) -> Grant {
    Grant { volume: attachment.volume.id, epoch: attachment.epoch, node: attachment.node }
}

/// A volume that is being served.
pub struct ServedVolume {
    /// What it is.
    pub facts: VolumeFacts,
    /// The engine, and what its queues share.
    pub shared: Arc<DeviceShared>,
    /// Its LUNs.
    pub luns: PoolLuns,
    /// What its block device has.
    pub device_size: SharedSize,
    /// Which layer is written, and the commits of the grant.
    pub heads: Mutex<Heads>,
    /// Of the chain and the size as they are known here.
    pub structure: Mutex<StructureNumber>,
}

impl ServedVolume {
    /// Which structure the service has told of last.
    ///
    /// # Panics
    /// When somebody panicked with it in hand.
    #[must_use]
    pub fn structure(&self) -> StructureNumber {
        *self.structure.lock().expect("a panic ends the process")
    }

    /// The chain and the size of this structure are taken in.
    ///
    /// # Panics
    /// When somebody panicked with it in hand.
    pub fn note_structure(&self, structure: StructureNumber) {
        *self.structure.lock().expect("a panic ends the process") = structure;
    }

    /// The engine's counters.
    #[must_use]
    pub fn stats(&self) -> VolumeStats {
        self.shared.volume.stats()
    }
}

impl ReserveHolder for ServedVolume {
    fn volume(&self) -> VolumeId {
        self.facts.grant.volume
    }

    fn pool(&self) -> PoolId {
        self.facts.pool
    }

    fn spare(&self) -> u64 {
        self.stats().reserve_extents
    }

    fn is_starving(&self) -> bool {
        self.stats().parked_requests > 0
    }

    fn take(&self, count: usize) -> Vec<ExtentAddress> {
        self.shared.volume.take_reserve(count)
    }
}
