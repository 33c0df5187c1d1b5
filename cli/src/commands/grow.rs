//! `lunar volume grow`.
//!
//! The service takes the new size down, and the node that holds the volume makes its device larger
//! when it hears of it. If that is this node, the command waits for it. What forbids `--fs` is
//! looked at before anything is changed.

use std::time::Duration;

use lunar_metadata_client::{MetadataClient, fresh_request_id};
use lunar_proto::domain::{GrowVolume, Selector, Volume};
use lunar_proto::error::ErrorReason;
use lunar_proto::v1;
use lunar_types::VolumeId;
use tokio::time::{sleep, timeout};

use super::Context;
use crate::args::GrowArgs;
use crate::daemon::Daemon;
use crate::error::{CliError, Exit};
use crate::file_system::{Mounted, mounted_from};
use crate::progress::Waiting;
use crate::views::grow::{DeviceGrowth, GrowView};
use crate::views::volume::{AttachmentView, VolumeView};

/// How often the device is looked at.
const POLL: Duration = Duration::from_millis(200);
/// How long fs-core may take to hear of the new size and to make its device larger.
const DEVICE_LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn run(args: &GrowArgs, context: &Context<'_>) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let found = service.volume(&args.volume.0).await?;
    let step = format!("grow volume '{}'", found.name);
    let mounted = match args.fs {
        true => Some(mounted_here(&step, &context.daemon().await?, &found).await?),
        false => None,
    };
    let (request, volume) = (fresh_request_id(), Selector::Id(found.id));
    let (size, over_watermark) = (args.size, args.over_watermark);
    let grow = GrowVolume { request, volume, size, over_watermark };
    let grown = service.grow_volume(&grow).await?;
    let growth = device_growth(context, &step, &grown).await?;
    if let Some(mounted) = &mounted {
        grow_file_system(&step, &growth, mounted).await?;
    }
    show(context, &service, &grown, growth, mounted.as_ref()).await
}

async fn local(daemon: &Daemon, volume: VolumeId) -> Result<Option<v1::LocalAttachment>, CliError> {
    let attachments = daemon.attachments().await?;
    Ok(attachments.into_iter().find(|found| found.volume_id.parse() == Ok(volume)))
}

/// The file system of a volume that is attached and mounted here.
async fn mounted_here(step: &str, daemon: &Daemon, volume: &Volume) -> Result<Mounted, CliError> {
    if let Some(attachment) = local(daemon, volume.id).await? {
        return mounted_from(step, &attachment.device_path);
    }
    let (why, advice) = match &volume.holder {
        None => ("nobody holds it", "attach and mount it, or leave --fs out".to_owned()),
        Some(holder) => {
            let advice = format!("run this on node '{}', or leave --fs out", holder.node_name);
            ("another node holds it", advice)
        }
    };
    let message = format!("{step}: --fs works where the volume is mounted, and {why}");
    Err(CliError::new(Exit::Refused, ErrorReason::NotAttached.as_str(), message).advise(advice))
}

/// What becomes of the device of a volume that has grown; waits for it if it is on this node.
async fn device_growth(
    context: &Context<'_>,
    step: &str,
    volume: &Volume,
) -> Result<DeviceGrowth, CliError> {
    let Some(holder) = volume.holder.as_ref().filter(|holder| holder.live) else {
        return Ok(DeviceGrowth::AtAttachment);
    };
    let daemon = match context.daemon().await {
        Ok(daemon) => daemon,
        Err(error) => return Ok(DeviceGrowth::Unknown { problem: error.message }),
    };
    let node = || DeviceGrowth::OnOtherNode { node: holder.node_name.to_string() };
    let waiting = Waiting::on(&format!("waiting for the device of volume '{}'", volume.name));
    let waited = timeout(DEVICE_LIMIT, async {
        loop {
            let attachment = match local(&daemon, volume.id).await {
                Ok(Some(attachment)) => attachment,
                Ok(None) => return Ok(node()),
                // It is restarted: the successor makes the device larger.
                Err(error) if error.exit == Exit::Unavailable => {
                    sleep(POLL).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let view = Box::new(AttachmentView::from(&attachment));
            if attachment.size_bytes >= volume.size.bytes() {
                return Ok(DeviceGrowth::Done(view));
            }
            if attachment.grows_at_next_attachment {
                return Ok(DeviceGrowth::AtNextAttachment(view));
            }
            sleep(POLL).await;
        }
    });
    let waited = waited.await;
    drop(waiting);
    waited.unwrap_or_else(|_| Err(device_is_late(step, volume)))
}

fn device_is_late(step: &str, volume: &Volume) -> CliError {
    let (name, size) = (&volume.name, volume.size);
    let message = format!(
        "{step}: the volume has {size} now, but fs-core of this node has not made its device as \
         large within {} s",
        DEVICE_LIMIT.as_secs()
    );
    CliError::new(Exit::Unavailable, "DEVICE_NOT_GROWN", message).advise(format!(
        "see 'lunar volume show {name}' and what fs-core logs; the same command may be repeated, \
         and the next attachment has the new size in any case"
    ))
}

async fn grow_file_system(
    step: &str,
    growth: &DeviceGrowth,
    mounted: &Mounted,
) -> Result<(), CliError> {
    if matches!(growth, DeviceGrowth::Done(_)) {
        return mounted.grow(step).await;
    }
    let message = format!(
        "{step}: the volume has grown, but {} has the size it had, and so has {} on {}",
        mounted.device,
        mounted.file_system.name(),
        mounted.mount_point
    );
    Err(CliError::new(Exit::Refused, "DEVICE_NOT_GROWN", message).advise(format!(
        "unmount, detach, attach and mount the volume, then '{}'",
        mounted.command()
    )))
}

async fn show(
    context: &Context<'_>,
    service: &MetadataClient,
    volume: &Volume,
    growth: DeviceGrowth,
    mounted: Option<&Mounted>,
) -> Result<Exit, CliError> {
    let pool = service.pool(&Selector::Id(volume.pool)).await?;
    context.show(&GrowView::new(VolumeView::new(volume, &pool), growth, mounted))
}
