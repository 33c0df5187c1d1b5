//! `lunar volume rollback`.
//!
//! With `--reattach`, what can be known to forbid the rollback is looked at before the volume is
//! detached, and whatever comes of the rollback, the volume is attached again.

use lunar_metadata_client::{ErrorKind, ErrorReason, MetadataClient, fresh_request_id};
use lunar_proto::domain::{RollbackVolume, Selector, Snapshot, SnapshotState, Volume};
use lunar_proto::v1;
use lunar_types::{SnapshotId, VolumeId};

use super::Context;
use crate::daemon::{AttachAs, Daemon};
use crate::error::{CliError, Exit};
use crate::progress::Waiting;
use crate::views::snapshot::RollbackView;
use crate::views::volume::{AttachmentView, VolumeView};

const ATTACHED: ErrorKind = ErrorKind::Refused(ErrorReason::VolumeAttached);

/// What goes back to what.
struct Target {
    volume: Volume,
    snapshot: Snapshot,
}

impl Target {
    async fn find(
        service: &MetadataClient,
        volume: &Selector<VolumeId>,
        snapshot: &Selector<SnapshotId>,
    ) -> Result<Self, CliError> {
        let volume = service.volume(volume).await?;
        Ok(Self { volume, snapshot: service.snapshot(snapshot).await? })
    }

    /// Refuses what the service would refuse after the volume was detached for it.
    fn check(&self) -> Result<(), CliError> {
        let Self { volume, snapshot } = self;
        let refuse = |reason: ErrorReason, why: String| {
            let message = format!("roll back volume '{}': {why}", volume.name);
            Err(CliError::new(Exit::Refused, reason.as_str(), message))
        };
        if snapshot.volume != volume.id {
            let why = format!("snapshot '{}' was cut of another volume", snapshot.name);
            return refuse(ErrorReason::SnapshotOfOtherVolume, why);
        }
        match snapshot.state {
            SnapshotState::Ready => Ok(()),
            state => {
                let why = format!("snapshot '{}' is {state}, not Ready", snapshot.name);
                refuse(ErrorReason::SnapshotNotReady, why)
            }
        }
    }

    async fn roll_back(&self, service: &MetadataClient) -> Result<(), CliError> {
        let request = fresh_request_id();
        let volume = Selector::Id(self.volume.id);
        let snapshot = Selector::Id(self.snapshot.id);
        let request = RollbackVolume { request, volume, snapshot };
        match service.rollback_volume(&request).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ATTACHED => Err(CliError::from(error).advise(
                "detach it first; on the node that holds it, --reattach detaches it and attaches \
                 it again",
            )),
            Err(error) => Err(error.into()),
        }
    }

    async fn show(
        &self,
        context: &Context<'_>,
        service: &MetadataClient,
        attachment: Option<&v1::LocalAttachment>,
    ) -> Result<Exit, CliError> {
        let volume = service.volume(&Selector::Id(self.volume.id)).await?;
        let pool = service.pool(&Selector::Id(volume.pool)).await?;
        let attachment = attachment.map(AttachmentView::from);
        let volume = VolumeView::new(&volume, &pool);
        context.show(&RollbackView::new(volume, &self.snapshot, attachment))
    }
}

/// Rolls a detached volume back.
pub(super) async fn detached(
    context: &Context<'_>,
    volume: &Selector<VolumeId>,
    snapshot: &Selector<SnapshotId>,
) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let target = Target::find(&service, volume, snapshot).await?;
    target.roll_back(&service).await?;
    target.show(context, &service, None).await
}

/// Rolls a volume back that is attached to this node.
pub(super) async fn reattached(
    context: &Context<'_>,
    volume: &Selector<VolumeId>,
    snapshot: &Selector<SnapshotId>,
) -> Result<Exit, CliError> {
    let daemon = context.daemon().await?;
    let service = context.service().await?;
    let target = Target::find(&service, volume, snapshot).await?;
    target.check()?;
    require_attached_here(&daemon, &target.volume).await?;
    let (name, by_id) = (&target.volume.name, Selector::Id(target.volume.id));
    let waiting = Waiting::on(&format!("detaching volume '{name}'"));
    daemon.detach(&by_id, false).await?;
    waiting.update(format!("rolling volume '{name}' back"));
    let rolled_back = target.roll_back(&service).await;
    waiting.update(format!("attaching volume '{name}'"));
    let attached = daemon.attach(&by_id, AttachAs::default()).await;
    drop(waiting);
    match (rolled_back, attached) {
        (Ok(()), Ok(attachment)) => target.show(context, &service, Some(&attachment)).await,
        (Ok(()), Err(error)) => Err(not_attached_again(&target, error)),
        (Err(error), attached) => Err(not_rolled_back(&target, error, attached)),
    }
}

async fn require_attached_here(daemon: &Daemon, volume: &Volume) -> Result<(), CliError> {
    let attachments = daemon.attachments().await?;
    if attachments.iter().any(|found| found.volume_id.parse() == Ok(volume.id)) {
        return Ok(());
    }
    let (name, refused) =
        (&volume.name, "it is not attached to this node, so --reattach cannot be");
    let (why, advice) = match &volume.holder {
        None => ("nobody holds it".to_owned(), "leave --reattach out".to_owned()),
        Some(holder) => {
            let node = &holder.node_name;
            (format!("node '{node}' holds it"), format!("run this on node '{node}'"))
        }
    };
    let message = format!("roll back volume '{name}': {refused}: {why}");
    Err(CliError::new(Exit::Refused, ErrorReason::NotAttached.as_str(), message).advise(advice))
}

fn not_attached_again(target: &Target, error: CliError) -> CliError {
    let Target { volume, snapshot } = target;
    let (volume, snapshot) = (&volume.name, &snapshot.name);
    let message = format!(
        "volume '{volume}' has the content of snapshot '{snapshot}', but could not be attached \
         again: {}",
        error.message
    );
    let advice = format!("see to that, then 'lunar volume attach {volume}'");
    CliError { message, advice, ..error }
}

fn not_rolled_back(
    target: &Target,
    error: CliError,
    attached: Result<v1::LocalAttachment, CliError>,
) -> CliError {
    let name = &target.volume.name;
    let known = match error.exit {
        Exit::Unavailable | Exit::Failed => "whether it was rolled back is not known",
        _ => "it was not rolled back",
    };
    let (now, advice) = match attached {
        Ok(attachment) => {
            (format!("it is attached again as {}", attachment.device_path), error.advice.clone())
        }
        Err(second) => (
            format!("it is detached, and could not be attached again: {}", second.message),
            format!("see to that, then 'lunar volume attach {name}'"),
        ),
    };
    let message = format!("{}; volume '{name}': {known}, and {now}", error.message);
    CliError { message, advice, ..error }
}
