//! Volumes that have become larger: the engine and the device follow what the service says.

use lunar_types::VolumeSize;

use super::Node;
use super::slot::Serving;
use crate::lun::inspect::with_causes;
use crate::state::record::{Phase, Record};
use crate::volume::grow::{DeviceSize, GrowError, OurDevice};

/// What a warning about a size is filed under.
pub(super) fn about(record: &Record) -> String {
    format!("size of volume '{}'", record.name)
}

impl Node {
    /// Serves a volume with the size that its attachment has by now; a size that it has already
    /// changes nothing, unless a predecessor was killed before its device had it. The caller holds
    /// the gate of the slot.
    ///
    /// # Errors
    /// When the volume or its device keeps its size; that is a warning of the node until a later
    /// call succeeds.
    pub(super) async fn grow_served(
        &self,
        serving: &Serving,
        size: VolumeSize,
    ) -> Result<DeviceSize, GrowError> {
        let record = &serving.record;
        let about = about(record);
        let device = OurDevice { id: record.device, token: record.token };
        let grown = match record.phase {
            Phase::Live => serving.control.grow(size, device).await,
            // A command to stop it may still be under way.
            _ => Err(serving.control.not_live(record.device)),
        };
        match &grown {
            Ok(_) => self.unwarn(&about),
            Err(error) => {
                let why = with_causes(error);
                self.warn(&about, format!("{why}; detach and attach it to get all {size} of it"));
            }
        }
        grown
    }
}
