//! A volume that has become larger while it is served.
//!
//! Order: map → size of the engine → size of the block device. So no request beyond the old end can
//! come before the engine serves it. Nothing of it is kept on this node: after a kill at any step
//! the successor loads the volume with the size of its attachment, finds a device that is smaller,
//! and changes that.
//!
//! Invariants:
//! - a device is changed only while it is live, carries our token and cannot be stopped: the caller
//!   holds the gate of the volume's slot, as who stops a device does;
//! - a device never becomes smaller, whatever is asked for.

use std::sync::{Arc, Mutex};

use lunar_engine::map::ResolvedMapError;
use lunar_types::VolumeSize;
use tracing::{info, warn};

use super::control::Control;
use super::device::DeviceError;
use crate::ublk::{Control as Driver, DeviceId, DeviceInfo, DeviceState, UblkError};

/// What is known of the size of a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceSize {
    /// How large it is; 0 while that is not known.
    pub bytes: u64,
    /// Its volume is larger, and the driver cannot change that: the next attachment does.
    pub waits_for_attachment: bool,
}

/// A volume that has grown cannot be served wholly.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// Its map would be too large.
    #[error("volume '{volume}' is served with the size it had")]
    Map {
        /// The volume.
        volume: String,
        /// Why.
        #[source]
        source: ResolvedMapError,
    },
    /// Its device keeps its size.
    #[error("the device {device} of volume '{volume}' cannot be made larger")]
    Device {
        /// The volume.
        volume: String,
        /// Path of the device.
        device: String,
        /// Why.
        #[source]
        source: DeviceError,
    },
}

/// Which step failed.
enum Cause {
    Map(ResolvedMapError),
    Device(DeviceError),
}

/// What growing needs of the driver.
trait SizedDevices {
    fn can_update_size(&mut self) -> bool;
    fn info(&mut self, id: DeviceId) -> Result<Option<DeviceInfo>, UblkError>;
    fn size_bytes(&mut self, id: DeviceId) -> Result<u64, UblkError>;
    fn update_size(&mut self, id: DeviceId, bytes: u64) -> Result<(), UblkError>;
}

impl SizedDevices for Driver {
    fn can_update_size(&mut self) -> bool {
        // A driver that cannot say what it knows is older than the feature.
        self.features().unwrap_or(0) & u64::from(libublk::sys::UBLK_F_UPDATE_SIZE) != 0
    }

    fn info(&mut self, id: DeviceId) -> Result<Option<DeviceInfo>, UblkError> {
        Self::info(self, id)
    }

    fn size_bytes(&mut self, id: DeviceId) -> Result<u64, UblkError> {
        Self::size_bytes(self, id)
    }

    fn update_size(&mut self, id: DeviceId, bytes: u64) -> Result<(), UblkError> {
        Self::update_size(self, id, bytes)
    }
}

/// Which device is meant: a number is reused by others, the token is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OurDevice {
    /// Its number.
    pub id: DeviceId,
    /// What it carries.
    pub token: u64,
}

impl OurDevice {
    /// Makes the device so large, if it is smaller. It blocks.
    fn grow(
        self,
        driver: &mut impl SizedDevices,
        size: VolumeSize,
    ) -> Result<DeviceSize, DeviceError> {
        let Self { id, token } = self;
        let found = driver.info(id)?;
        if !found.is_some_and(|info| info.token == token && info.state == DeviceState::Live) {
            return Err(DeviceError::NotLive { device: id });
        }
        let bytes = driver.size_bytes(id)?;
        if bytes >= size.bytes() {
            return Ok(DeviceSize { bytes, waits_for_attachment: false });
        }
        if !driver.can_update_size() {
            return Ok(DeviceSize { bytes, waits_for_attachment: true });
        }
        driver.update_size(id, size.bytes())?;
        Ok(DeviceSize { bytes: size.bytes(), waits_for_attachment: false })
    }
}

/// The size of a device as its volume's parts share it.
#[derive(Debug, Default)]
pub struct SharedSize(Mutex<DeviceSize>);

impl SharedSize {
    /// What is known now.
    #[must_use]
    pub fn get(&self) -> DeviceSize {
        *self.0.lock().expect("a panic ends the process")
    }

    /// Notes what was learned.
    pub fn set(&self, size: DeviceSize) {
        *self.0.lock().expect("a panic ends the process") = size;
    }
}

impl Control {
    /// Serves so many bytes, and makes the device as large: after the metadata service has told
    /// of a greater size, and after a device was taken over from a predecessor, who may have been
    /// killed before he came to it. A size that is not greater changes nothing. The caller holds
    /// the gate of the volume's slot. May be repeated after an error.
    ///
    /// # Errors
    /// When the map would be too large, or the driver fails; the engine serves the size then
    /// already, and the device has the old one.
    pub async fn grow(&self, size: VolumeSize, device: OurDevice) -> Result<DeviceSize, GrowError> {
        self.grow_with(size, device.id, move |size| device.grow(&mut Driver::open()?, size)).await
    }

    /// What is said of a device that is on its way out.
    pub(crate) fn not_live(&self, id: DeviceId) -> GrowError {
        let (volume, device) = (self.name(), id.block_path());
        GrowError::Device { volume, device, source: DeviceError::NotLive { device: id } }
    }

    async fn grow_with(
        &self,
        size: VolumeSize,
        id: DeviceId,
        grow_device: impl FnOnce(VolumeSize) -> Result<DeviceSize, DeviceError> + Send + 'static,
    ) -> Result<DeviceSize, GrowError> {
        let volume = Arc::clone(&self.served.shared.volume);
        let work = move || {
            let size = volume.grow(size).map_err(Cause::Map)?;
            grow_device(size).map_err(Cause::Device)
        };
        let grown = tokio::task::spawn_blocking(work).await;
        let grown = grown.expect("growing neither panics nor is cancelled");
        let grown = grown.map_err(|cause| {
            let (volume, device) = (self.name(), id.block_path());
            match cause {
                Cause::Map(source) => GrowError::Map { volume, source },
                Cause::Device(source) => GrowError::Device { volume, device, source },
            }
        })?;
        self.note_device(id, grown);
        Ok(grown)
    }

    fn note_device(&self, id: DeviceId, size: DeviceSize) {
        let before = self.served.device_size.get();
        self.served.device_size.set(size);
        let (volume, device, bytes) = (self.name(), id.block_path(), size.bytes);
        if size.waits_for_attachment && !before.waits_for_attachment {
            warn!(
                volume,
                device,
                bytes,
                "the volume has grown, but this kernel's ublk driver lacks UPDATE_SIZE: its device \
                 has the new size after it was detached and attached again"
            );
        } else if before.bytes != 0 && before.bytes < bytes {
            info!(volume, device, bytes, "the device has grown");
        }
    }
}

#[cfg(test)]
mod tests;
