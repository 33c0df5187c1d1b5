//! Growing the file system of a volume that has grown: first the device has to have the size.

use std::time::Duration;

use lunar_proto::csi::CapacityRange;
use lunar_types::VolumeId;
use tracing::info;

use super::device::Device;
use super::stage::Node;
use super::text::quoted;
use super::worker::Work;
use super::worker::survey::{Mounted, Place, Survey};
use crate::errors::CsiError;

/// How long a call waits for a device to grow, and how often it looks.
const WAIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(200);

/// The size that is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// At least.
    pub least: u64,
    /// At most; 0: no limit.
    pub most: u64,
}

impl Wanted {
    /// Of a call's range; none asks for nothing.
    ///
    /// # Errors
    /// The numbers contradict each other.
    pub fn parse(range: Option<&CapacityRange>) -> Result<Self, CsiError> {
        let Some(CapacityRange { required_bytes, limit_bytes }) = range else {
            return Ok(Self::default());
        };
        let size = |field: &str, bytes: i64| {
            let problem = |_| CsiError::invalid(format!("capacity_range.{field} is below 0"));
            u64::try_from(bytes).map_err(problem)
        };
        let least = size("required_bytes", *required_bytes)?;
        let most = size("limit_bytes", *limit_bytes)?;
        if most != 0 && most < least {
            return Err(CsiError::invalid("capacity_range.limit_bytes is below required_bytes"));
        }
        Ok(Self { least, most })
    }
}

impl Node {
    /// Grows what is mounted at a path to the size that its device has got; gives the size.
    ///
    /// # Errors
    /// UNAVAILABLE as long as the device is too small.
    pub async fn expand(
        &self,
        volume: VolumeId,
        path: &str,
        wanted: Wanted,
    ) -> Result<u64, CsiError> {
        let work = Work::Survey { path: path.to_owned(), device: None };
        let survey: Survey = self.workers.ask(work).await?;
        let Place::Mount(mounted) = &survey.place else { return Err(not_there(volume, path)) };
        let device = self.serving(volume, mounted, path).await?;
        let size = self.wait_for(volume, &device, wanted.least).await?;
        if wanted.most != 0 && size > wanted.most {
            let most = wanted.most;
            let message = format!("volume {volume} has {size} bytes: more than the limit, {most}");
            return Err(CsiError::out_of_range(message));
        }
        if mounted.node.is_none() {
            self.grow_fs(volume, &survey.uses, &device).await?;
        }
        info!(%volume, size, "expanded");
        Ok(size)
    }

    /// The device of a volume, if it is the one that is mounted.
    async fn serving(
        &self,
        volume: VolumeId,
        mounted: &Mounted,
        path: &str,
    ) -> Result<Device, CsiError> {
        let attachment = self.daemon.attachment(volume).await?;
        let attachment = attachment.ok_or_else(|| not_there(volume, path))?;
        let device = attachment.served(volume)?.device;
        if device.number != mounted.device() {
            return Err(not_there(volume, path));
        }
        if attachment.told.grows_at_next_attachment {
            let message = format!(
                "the ublk driver of this node cannot grow {}: the volume has its new size when \
                 its pods are deleted and started again",
                device.path
            );
            return Err(CsiError::precondition(message));
        }
        Ok(device)
    }

    async fn wait_for(
        &self,
        volume: VolumeId,
        device: &Device,
        least: u64,
    ) -> Result<u64, CsiError> {
        let path = &device.path;
        let look = || {
            let size = device.number.size_bytes();
            let size = size.map_err(|error| {
                CsiError::internal(format!("cannot ask {path} for its size: {error}"))
            })?;
            size.ok_or_else(|| CsiError::unavailable(format!("{path} is gone: try again")))
        };
        let grown = async {
            loop {
                match look() {
                    Ok(size) if size < least => tokio::time::sleep(LOOK).await,
                    told => break told,
                }
            }
        };
        match tokio::time::timeout(WAIT, grown).await {
            Ok(told) => told,
            Err(_) => {
                let size = look()?;
                let message = format!(
                    "device {path} of volume {volume} has {size} bytes, and not {least} yet: try \
                     again"
                );
                Err(CsiError::unavailable(message))
            }
        }
    }

    async fn grow_fs(
        &self,
        volume: VolumeId,
        uses: &[Mounted],
        device: &Device,
    ) -> Result<(), CsiError> {
        let is_writable =
            |used: &&Mounted| !used.mount.is_read_only() && !used.mount.is_fs_read_only();
        let used = uses.iter().find(is_writable).ok_or_else(|| {
            let why = "it grows when it is mounted to be written to";
            CsiError::precondition(format!("volume {volume} is mounted read only here: {why}"))
        })?;
        let kind = used.mount.fs_type.parse().map_err(|_| {
            let fs_type = quoted(&used.mount.fs_type);
            CsiError::internal(format!("volume {volume} is mounted as {fs_type}"))
        })?;
        self.grow(kind, &used.mount.point, device).await
    }
}

fn not_there(volume: VolumeId, path: &str) -> CsiError {
    CsiError::not_found(format!("volume {volume} is not mounted at {}", quoted(path)))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_range_that_contradicts_itself_is_refused() {
        let parse = |required_bytes, limit_bytes| {
            Wanted::parse(Some(&CapacityRange { required_bytes, limit_bytes }))
        };
        assert_eq!(Wanted::parse(None), Ok(Wanted::default()));
        assert_eq!(parse(5, 0), Ok(Wanted { least: 5, most: 0 }));
        assert_eq!(parse(5, 5), Ok(Wanted { least: 5, most: 5 }));
        for (least, most) in [(-1, 0), (0, -1), (5, 4), (i64::MIN, i64::MAX)] {
            let error = parse(least, most).expect_err("it is refused");
            assert_eq!(error.code, Code::InvalidArgument, "{least} {most}");
        }
    }
}
