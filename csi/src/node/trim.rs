//! Space that pods have freed goes back to the pool: file systems are trimmed every so often, as
//! `fstrim.timer` of a host does it.
//!
//! - A file system is trimmed in parts, and the key of its volume is held for one part at a time: a
//!   pod that is to end does not wait for the others.
//! - What cannot be trimmed now is left for the next turn: nothing depends on it.
//!
//! Deliberately absent: raw block, whose user discards by himself.

use std::time::Duration;

use lunar_types::VolumeId;
use tokio::time::sleep;
use tracing::{info, warn};

use super::device::Device;
use super::stage::Node;
use super::worker::Work;
use super::worker::survey::Mounted;
use super::worker::tools::Tool;
use crate::errors::CsiError;
use crate::file_system::FileSystem;
use crate::keyed_lock::KeyedLock;

/// What is trimmed at a time: the device is busy with it for some seconds at the most.
const PART_BYTES: u64 = 16 << 30;
/// Between two parts, so that who waits for the volume gets it.
const PAUSE: Duration = Duration::from_secs(2);

/// Whether there is more of a file system to be trimmed.
enum Trimmed {
    Part,
    All,
}

/// Trims what is staged here, turn after turn.
pub async fn keep_trimming(node: Node, locks: KeyedLock, every: Duration) {
    loop {
        sleep(every).await;
        match node.daemon.published().await {
            Ok(volumes) => {
                // Each by itself: a LUN that hangs keeps its own volume, and no other one.
                for (volume, device) in volumes {
                    let (node, locks) = (node.clone(), locks.clone());
                    tokio::spawn(async move { trim(&node, &locks, volume, &device).await });
                }
            }
            Err(error) => warn!("nothing is trimmed now: {error}"),
        }
    }
}

async fn trim(node: &Node, locks: &KeyedLock, volume: VolumeId, device: &Device) {
    let mut offset = 0;
    loop {
        // Who has the key changes where the volume is mounted, or ends it: the next turn finds it.
        let Ok(held) = locks.try_lock([volume.to_string()]) else { return };
        let trimmed = trim_part(node, device, offset).await;
        drop(held);
        match trimmed {
            Ok(Trimmed::Part) => offset += PART_BYTES,
            Ok(Trimmed::All) => return,
            Err(error) => {
                warn!(%volume, "not trimmed: {error}");
                return;
            }
        }
        sleep(PAUSE).await;
    }
}

/// Where a device is mounted as one of our file systems, to be written to.
fn mount_point(uses: &[Mounted]) -> Option<&str> {
    let is_ours = |mounted: &&Mounted| {
        let mount = &mounted.mount;
        mounted.node.is_none()
            && mount.root == "/"
            && !mount.is_fs_read_only()
            && FileSystem::ALL.iter().any(|known| known.name() == mount.fs_type)
    };
    uses.iter().find(is_ours).map(|mounted| mounted.mount.point.as_str())
}

async fn trim_part(node: &Node, device: &Device, offset: u64) -> Result<Trimmed, CsiError> {
    let size = device.number.size_bytes();
    let size =
        size.map_err(|error| CsiError::internal(format!("its size is not known: {error}")))?;
    let uses: Vec<Mounted> = node.workers.ask(Work::Uses(device.number)).await?;
    let (Some(at), Some(size)) = (mount_point(&uses), size) else { return Ok(Trimmed::All) };
    let tool = Tool::Trim { at: at.to_owned(), offset, length: PART_BYTES };
    let ended = node.workers.run(tool, device).await?;
    if ended.code != 0 {
        let why = format!("fstrim has ended with {}: {}", ended.code, ended.said);
        return Err(CsiError::internal(why));
    }
    if size - offset > PART_BYTES {
        return Ok(Trimmed::Part);
    }
    info!(device = device.path, at, "trimmed");
    Ok(Trimmed::All)
}
