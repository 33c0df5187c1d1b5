//! `lunar snapshot`.

use std::time::Duration;

use lunar_metadata_client::{ErrorKind, ErrorReason, MetadataClient, fresh_request_id};
use lunar_proto::domain::{
    DeleteGroup, DeleteSnapshot, NewCut, NewMember, ReadLayer, Selector, Snapshot, SnapshotSet,
    UsageOf,
};
use lunar_types::{ByteCount, LayerId, LogicalExtent, SnapshotGroupId, SnapshotId, VolumeId};
use tokio::time::sleep;

use super::cut::cut;
use super::operation::drop_of;
use super::transfer::{export, import, verify};
use super::{Context, unless};
use crate::args::{CreateSnapshotArgs, DiffSnapshotsArgs, GroupMember, SnapshotCommand};
use crate::error::{CliError, Exit};
use crate::progress::Waiting;
use crate::views::diff::DiffView;
use crate::views::group::{GroupDeleteView, GroupList, GroupView};
use crate::views::snapshot::{
    Origins, SealedSetView, SnapshotDeleteView, SnapshotDeletion, SnapshotList, SnapshotView,
};
use crate::views::usage::SnapshotUsageView;

/// The first pause between two looks at a deletion; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

const SNAPSHOT_GONE: ErrorKind = ErrorKind::Refused(ErrorReason::SnapshotNotFound);
const VOLUME_GONE: ErrorKind = ErrorKind::Refused(ErrorReason::VolumeNotFound);
const LAYER_GONE: ErrorKind = ErrorKind::Refused(ErrorReason::LayerNotFound);

pub(super) async fn run(
    command: &SnapshotCommand,
    context: &Context<'_>,
) -> Result<Exit, CliError> {
    match command {
        SnapshotCommand::Create(args) => create(context, args).await,
        SnapshotCommand::List { volume } => {
            list(context, volume.as_ref().map(|volume| &volume.0)).await
        }
        SnapshotCommand::Groups => groups(context).await,
        SnapshotCommand::DeleteGroup { group } => delete_group(context, &group.0).await,
        SnapshotCommand::Show { snapshot } => show(context, &snapshot.0).await,
        SnapshotCommand::Usage { snapshot } => usage(context, &snapshot.0).await,
        SnapshotCommand::Diff(args) => diff(context, args).await,
        SnapshotCommand::Export(args) => export::run(args, context).await,
        SnapshotCommand::Import(args) => import::run(args, context).await,
        SnapshotCommand::Verify(args) => verify::run(args, context).await,
        SnapshotCommand::Delete { snapshot, no_wait } => {
            delete(context, &snapshot.0, *no_wait).await
        }
    }
}

async fn create(context: &Context<'_>, args: &CreateSnapshotArgs) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let member =
        |GroupMember { volume, name }| NewMember { volume: volume.0, cut: NewCut::Snapshot(name) };
    let members = args.members().into_iter().map(member).collect();
    let SnapshotSet { id, snapshots, .. } =
        cut(&service, members, args.fsfreeze.into(), args.over_watermark, args.group_name.clone())
            .await?;
    let origins = origins_of(&service, &snapshots).await?;
    context.show(&SealedSetView::new(id, views(&snapshots, &origins)?))
}

async fn list(
    context: &Context<'_>,
    volume: Option<&Selector<VolumeId>>,
) -> Result<Exit, CliError> {
    let service = context.service().await?;
    // What they point at is listed after them, so that it is there.
    let snapshots = service.snapshots(volume).await?;
    let origins = Origins::new(&service.volumes().await?, service.pools().await?);
    context.show(&SnapshotList::new(views(&snapshots, &origins)?))
}

async fn groups(context: &Context<'_>) -> Result<Exit, CliError> {
    let groups = context.service().await?.groups().await?;
    context.show(&GroupList::new(groups.iter().map(GroupView::new).collect()))
}

async fn delete_group(
    context: &Context<'_>,
    group: &Selector<SnapshotGroupId>,
) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let found = service.group(group).await?;
    let (request, group) = (fresh_request_id(), Selector::Id(found.id));
    service.delete_group(&DeleteGroup { request, group }).await?;
    context.show(&GroupDeleteView::new(&found))
}

async fn show(context: &Context<'_>, snapshot: &Selector<SnapshotId>) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let snapshot = service.snapshot(snapshot).await?;
    let origins = origins_of(&service, std::slice::from_ref(&snapshot)).await?;
    context.show(&view(&snapshot, &origins)?)
}

async fn usage(context: &Context<'_>, snapshot: &Selector<SnapshotId>) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let snapshot = service.snapshot(snapshot).await?;
    let _waiting = Waiting::on(&format!("reading what snapshot '{}' has", snapshot.name));
    let usage = service.usage(&UsageOf::Snapshot(Selector::Id(snapshot.id))).await?;
    context.show(&SnapshotUsageView::new(&snapshot, usage))
}

async fn diff(context: &Context<'_>, args: &DiffSnapshotsArgs) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let from = match &args.a {
        Some(from) => Some(service.snapshot(&from.0).await?),
        None => None,
    };
    let to = service.snapshot(&args.b.0).await?;
    let mut view = DiffView::new(from.as_ref(), &to);
    let what = format!("reading what snapshot '{}' has", to.name);
    let waiting = Waiting::on(&what);
    let from = from.map(|from| Selector::Id(from.id));
    let mut runs = service.diff_snapshots(from, Selector::Id(to.id), 0);
    while let Some(run) = runs.next().await {
        let run = run?;
        view.push(run);
        waiting.update(format!("{what}: {}", ByteCount::new(run.end())));
    }
    drop(waiting);
    context.show(&view)
}

/// The volumes and pools of a few snapshots; a volume may be gone.
async fn origins_of(service: &MetadataClient, snapshots: &[Snapshot]) -> Result<Origins, CliError> {
    let (mut volumes, mut pools) = (Vec::new(), Vec::new());
    for Snapshot { volume, pool, .. } in snapshots {
        let found = service.volume(&Selector::Id(*volume)).await;
        volumes.extend(unless(VOLUME_GONE, found)?);
        if !pools.iter().any(|known: &lunar_proto::domain::Pool| known.id == *pool) {
            pools.push(service.pool(&Selector::Id(*pool)).await?);
        }
    }
    Ok(Origins::new(&volumes, pools))
}

fn view(snapshot: &Snapshot, origins: &Origins) -> Result<SnapshotView, CliError> {
    SnapshotView::new(snapshot, origins).ok_or_else(|| {
        let Snapshot { name, pool, .. } = snapshot;
        let message = format!("snapshot '{name}' is in pool {pool}, which is not in the list");
        CliError::new(Exit::Failed, "MALFORMED_ANSWER", message).advise("run 'lunar fsck'")
    })
}

fn views(snapshots: &[Snapshot], origins: &Origins) -> Result<Vec<SnapshotView>, CliError> {
    snapshots.iter().map(|snapshot| view(snapshot, origins)).collect()
}

async fn delete(
    context: &Context<'_>,
    snapshot: &Selector<SnapshotId>,
    no_wait: bool,
) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let found = service.snapshot(snapshot).await?;
    let (request, snapshot) = (fresh_request_id(), Selector::Id(found.id));
    let deleting = service.delete_snapshot(&DeleteSnapshot { request, snapshot }).await;
    // A small one may be gone before the answer is made.
    let deleting = unless(SNAPSHOT_GONE, deleting)?.unwrap_or(found);
    let deletion = match no_wait {
        true => SnapshotDeletion::Started,
        false => ended(&service, &deleting).await?,
    };
    context.show(&SnapshotDeleteView::new(&deleting, deletion))
}

/// Waits until a deletion has ended, or waits itself for what stands on the snapshot.
async fn ended(
    service: &MetadataClient,
    deleting: &Snapshot,
) -> Result<SnapshotDeletion, CliError> {
    let what = format!("deleting snapshot '{}'", deleting.name);
    let (waiting, mut pause) = (Waiting::on(&what), FIRST_PAUSE);
    loop {
        // By id: its name is free for another already.
        let rest = service.snapshot(&Selector::Id(deleting.id)).await;
        let Some(rest) = unless(SNAPSHOT_GONE, rest)? else { break };
        if let Some(layer) = rest.layer
            && let Some(room) = drop_of(service, layer).await?.and_then(|it| it.waits_for)
        {
            let above = room.layer;
            let waits_for = standing(service, above).await?;
            return Ok(SnapshotDeletion::Waiting { waits_for_layer: above.get(), waits_for });
        }
        waiting.update(format!("{what}: {} extents to free", rest.owned_extents));
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    let Some(layer) = deleting.layer else { return Ok(SnapshotDeletion::Freed) };
    let read = ReadLayer { layer, from: LogicalExtent::new(0), limit: 1 };
    let kept = unless(LAYER_GONE, service.read_layer(read).await)?.is_some();
    Ok(if kept { SnapshotDeletion::Shared } else { SnapshotDeletion::Freed })
}

/// What this layer is.
async fn standing(service: &MetadataClient, layer: LayerId) -> Result<String, CliError> {
    let volumes = service.volumes().await?;
    if let Some(volume) = volumes.iter().find(|volume| volume.head == layer) {
        return Ok(format!("volume '{}'", volume.name));
    }
    let snapshots = service.snapshots(None).await?;
    let snapshot = snapshots.iter().find(|snapshot| snapshot.layer == Some(layer));
    Ok(snapshot.map_or_else(|| format!("layer {layer}"), |it| format!("snapshot '{}'", it.name)))
}
