//! `lunar volume`.

use std::collections::BTreeMap;
use std::time::Duration;

use lunar_metadata_client::{ErrorKind, ErrorReason, MetadataClient, fresh_request_id};
use lunar_proto::domain::{
    CreateVolume, DeleteVolume, Pool, READ_LAYER_MAX, ReadLayer, RemovePeer, Selector, UsageOf,
    Volume,
};
use lunar_proto::v1;
use lunar_types::{LogicalExtent, Name, PoolId, VolumeId};
use tokio::time::sleep;

use super::operation::drop_of;
use super::takeover::{self, Takeover};
use super::{Context, clone, grow, publish, rollback, unless};
use crate::args::{DetachArgs, VolumeCommand};
use crate::daemon::AttachAs;
use crate::error::{CliError, Exit};
use crate::progress::Waiting;
use crate::views::map::MapView;
use crate::views::usage::VolumeUsageView;
use crate::views::volume::{
    AttachmentView, DeleteView, DetachView, VolumeDetail, VolumeList, VolumeView,
};

/// How often a deletion is looked at.
const DELETE_POLL: Duration = Duration::from_millis(200);
/// What the service says of a volume whose deletion is finished.
const GONE: ErrorKind = ErrorKind::Refused(ErrorReason::VolumeNotFound);

pub(super) async fn run(command: &VolumeCommand, context: &Context<'_>) -> Result<Exit, CliError> {
    match command {
        VolumeCommand::Create { name, pool, size, logical_block_size, over_watermark } => {
            let request = fresh_request_id();
            let (name, pool, size) = (name.clone(), pool.0.clone(), *size);
            let (logical_block_size, over_watermark) = (*logical_block_size, *over_watermark);
            let volume =
                CreateVolume { request, name, pool, size, logical_block_size, over_watermark };
            create(context, &volume).await
        }
        VolumeCommand::List { pool } => list(context, pool.as_ref().map(|pool| &pool.0)).await,
        VolumeCommand::Show { volume } => show(context, &volume.0).await,
        VolumeCommand::Usage { volume } => usage(context, &volume.0).await,
        VolumeCommand::Attach { volume, accept_restored, migratable, publication, force, wait } => {
            let takeover = Takeover { force: *force, wait: *wait };
            let (accept_restored, migratable) = (*accept_restored, *migratable);
            let how = AttachAs { accept_restored, migratable, publication: *publication };
            attach(context, &volume.0, how, takeover).await
        }
        VolumeCommand::Detach(DetachArgs { volume, peer: Some(node), .. }) => {
            take_off(context, &volume.0, node).await
        }
        VolumeCommand::Detach(args) => detach(context, args).await,
        VolumeCommand::Move { volume } => move_here(context, &volume.0).await,
        VolumeCommand::Publish(args) => publish::publish(args, context).await,
        VolumeCommand::Unpublish(args) => publish::unpublish(args, context).await,
        VolumeCommand::Delete { volume, no_wait: true } => {
            let volume = start_delete(&context.service().await?, &volume.0).await?;
            context.show(&DeleteView::new(&volume, false))
        }
        VolumeCommand::Delete { volume, no_wait: false } => delete(context, &volume.0).await,
        VolumeCommand::Clone(args) => clone::run(args, context).await,
        VolumeCommand::Grow(args) => grow::run(args, context).await,
        VolumeCommand::Rollback { volume, snapshot, reattach: true } => {
            rollback::reattached(context, &volume.0, &snapshot.0).await
        }
        VolumeCommand::Rollback { volume, snapshot, reattach: false } => {
            rollback::detached(context, &volume.0, &snapshot.0).await
        }
        VolumeCommand::Map { volume, checkpoint } => map(context, &volume.0, *checkpoint).await,
    }
}

async fn create(context: &Context<'_>, volume: &CreateVolume) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let volume = service.create_volume(volume).await?;
    let pool = service.pool(&Selector::Id(volume.pool)).await?;
    context.show(&VolumeView::new(&volume, &pool))
}

async fn list(context: &Context<'_>, pool: Option<&Selector<PoolId>>) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let pools = match pool {
        Some(pool) => vec![service.pool(pool).await?],
        None => service.pools().await?,
    };
    let pools: BTreeMap<PoolId, Pool> = pools.into_iter().map(|pool| (pool.id, pool)).collect();
    let mut volumes = service.volumes().await?;
    volumes.sort_by(|left, right| left.name.cmp(&right.name));
    let views = volumes.iter().filter_map(|volume| {
        let pool = pools.get(&volume.pool)?;
        Some(VolumeView::new(volume, pool))
    });
    context.show(&VolumeList::new(views.collect()))
}

async fn show(context: &Context<'_>, volume: &Selector<VolumeId>) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let volume = service.volume(volume).await?;
    let pool = service.pool(&Selector::Id(volume.pool)).await?;
    let is_somewhere = volume.holder.is_some() || !volume.peers.is_empty();
    let local = match is_somewhere {
        true => local_attachment(context, volume.id).await.map_err(|error| error.message),
        false => Ok(None),
    };
    context.show(&VolumeDetail::new(VolumeView::new(&volume, &pool), local))
}

async fn usage(context: &Context<'_>, volume: &Selector<VolumeId>) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let volume = service.volume(volume).await?;
    let _waiting = Waiting::on(&format!("reading what volume '{}' has", volume.name));
    let usage = service.usage(&UsageOf::Volume(Selector::Id(volume.id))).await?;
    context.show(&VolumeUsageView::new(&volume, usage))
}

async fn local_attachment(
    context: &Context<'_>,
    volume: VolumeId,
) -> Result<Option<AttachmentView>, CliError> {
    let attachments = context.daemon().await?.attachments().await?;
    let local = attachments.iter().find(|found| found.volume_id.parse() == Ok(volume));
    Ok(local.map(AttachmentView::from))
}

async fn attach(
    context: &Context<'_>,
    volume: &Selector<VolumeId>,
    how: AttachAs,
    takeover: Takeover,
) -> Result<Exit, CliError> {
    let daemon = context.daemon().await?;
    // The daemon takes a repeated call for a retry; a person who attaches twice is told.
    let attached = daemon.attachments().await?;
    if let Some(attached) = attached.iter().find(|attached| is_selected(attached, volume)) {
        return Err(attached_already(attached));
    }
    let waiting = Waiting::on(&format!("attaching volume {volume}"));
    let attach = || daemon.attach(volume, how);
    let attachment = takeover::attached(context, volume, takeover, &waiting, attach).await?;
    drop(waiting);
    takeover::warn_of_fencing(context, &attachment).await;
    context.show(&AttachmentView::from(&attachment))
}

fn is_selected(attached: &v1::LocalAttachment, volume: &Selector<VolumeId>) -> bool {
    match volume {
        Selector::Id(id) => attached.volume_id.parse() == Ok(*id),
        Selector::Name(name) => attached.volume_name == name.as_str(),
    }
}

fn attached_already(attached: &v1::LocalAttachment) -> CliError {
    let v1::LocalAttachment { volume_name, device_path, .. } = attached;
    let message =
        format!("attach volume '{volume_name}': it is attached here already as {device_path}");
    CliError::new(Exit::Refused, "VOLUME_ATTACHED", message)
        .advise(format!("use {device_path}, or 'lunar volume detach {volume_name}' first"))
}

async fn detach(context: &Context<'_>, args: &DetachArgs) -> Result<Exit, CliError> {
    let volume = &args.volume.0;
    let daemon = context.daemon().await?;
    let waiting = Waiting::on(&format!("detaching volume {volume}"));
    let answer = daemon.detach(volume, args.force).await?;
    drop(waiting);
    context.show(&DetachView::new(volume.to_string(), answer))
}

async fn move_here(context: &Context<'_>, volume: &Selector<VolumeId>) -> Result<Exit, CliError> {
    let daemon = context.daemon().await?;
    let waiting = Waiting::on(&format!("moving volume {volume} to this node"));
    let moved = daemon.move_volume(volume).await?;
    drop(waiting);
    context.show(&AttachmentView::from(&moved))
}

async fn take_off(
    context: &Context<'_>,
    volume: &Selector<VolumeId>,
    node: &Name,
) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let remove = RemovePeer { volume: volume.clone(), node: Selector::Name(node.clone()) };
    service.remove_peer(&remove).await?;
    let volume = service.volume(volume).await?;
    let pool = service.pool(&Selector::Id(volume.pool)).await?;
    context.show(&VolumeView::new(&volume, &pool))
}

/// The deletion of a volume that has begun, and the head that is dropped at its end.
async fn start_delete(
    service: &MetadataClient,
    volume: &Selector<VolumeId>,
) -> Result<Volume, CliError> {
    let found = service.volume(volume).await?;
    let (request, volume) = (fresh_request_id(), Selector::Id(found.id));
    let deleting = service.delete_volume(&DeleteVolume { request, volume }).await;
    // One without journals may be gone before the answer is made.
    Ok(unless(GONE, deleting)?.unwrap_or(found))
}

/// Waits for the volume, and for the extents of its head, which come back after it is gone.
async fn delete(context: &Context<'_>, volume: &Selector<VolumeId>) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let deleting = start_delete(&service, volume).await?;
    let waiting = Waiting::on(&format!("deleting volume {volume}"));
    // By id: its name is free for another already.
    let by_id = Selector::Id(deleting.id);
    while let Some(rest) = unless(GONE, service.volume(&by_id).await)? {
        let left = rest.mapped_extents;
        waiting.update(format!("deleting volume {volume}: {left} extents to free"));
        sleep(DELETE_POLL).await;
    }
    while drop_of(&service, deleting.head).await?.is_some() {
        waiting.update(format!("deleting volume {volume}: its extents are being freed"));
        sleep(DELETE_POLL).await;
    }
    drop(waiting);
    context.show(&DeleteView::new(&deleting, true))
}

async fn map(
    context: &Context<'_>,
    volume: &Selector<VolumeId>,
    checkpoint: bool,
) -> Result<Exit, CliError> {
    if checkpoint {
        let daemon = context.daemon().await?;
        let _waiting = Waiting::on(&format!("committing what is written to volume {volume}"));
        daemon.checkpoint(volume).await?;
    }
    let service = context.service().await?;
    let volume = service.volume(volume).await?;
    let pool = service.pool(&Selector::Id(volume.pool)).await?;
    let mut view = MapView::new(&volume, pool.extent_size);
    let _waiting = Waiting::on(&format!("reading the map of volume '{}'", volume.name));
    let mut from = Some(LogicalExtent::new(0));
    while let Some(at) = from {
        let page = ReadLayer { layer: volume.head, from: at, limit: READ_LAYER_MAX };
        let page = service.read_layer(page).await?;
        view.extend(&page.entries, page.extent_size);
        from = page.next;
    }
    context.show(&view)
}
