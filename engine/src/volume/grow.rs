//! A volume becomes larger while it serves.
//!
//! Invariants:
//! - the map is there before the size says so: a request is checked against the size and finds a
//!   word for every extent that it may touch;
//! - the size rises under the lock: what a discard covers is decided by one size;
//! - the size never falls.
//!
//! Blocks beyond the old end are absent in every slot: nothing could write them. So the last
//! extent, if it was covered in part, needs nothing when it becomes whole, and what is new reads as
//! zeros.
//!
//! Crash order: nothing of this is kept. The metadata service has the size before the engine hears
//! of it, and a successor loads the volume with it.

use std::sync::atomic::Ordering;

use lunar_types::VolumeSize;

use super::Volume;
use crate::map::ResolvedMapError;

impl Volume {
    /// How large the volume is now.
    ///
    /// # Panics
    /// Never: what is stored was the size of a volume.
    #[must_use]
    pub fn size(&self) -> VolumeSize {
        VolumeSize::from_bytes(self.bytes()).expect("it was stored from one")
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Serves so many bytes from now on; a size that is not greater changes nothing. Gives the size
    /// afterwards. The caller tells the block device after that.
    ///
    /// # Errors
    /// When the map would be too large; nothing has changed then.
    pub fn grow(&self, size: VolumeSize) -> Result<VolumeSize, ResolvedMapError> {
        // Without the lock: a map of many chunks takes its time, and nobody looks there yet.
        self.map.grow(size.extents(self.spec.extent_size))?;
        let _core = self.lock();
        let before = self.bytes.fetch_max(size.bytes(), Ordering::AcqRel);
        if before < size.bytes() {
            let volume = self.spec.volume;
            tracing::info!(%volume, before, now = size.bytes(), "volume has grown");
        }
        Ok(self.size())
    }
}
