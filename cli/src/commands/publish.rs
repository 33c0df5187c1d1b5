//! `lunar volume publish` and `unpublish`: which node has leave to attach a volume.

use std::time::Duration;

use lunar_proto::domain::{PublicationMode, PublishVolume, Selector, UnpublishVolume, WAIT_MAX};
use lunar_types::{Name, VolumeId};
use tokio::time::Instant;

use super::Context;
use crate::args::{PublishArgs, UnpublishArgs};
use crate::error::{CliError, Exit};
use crate::progress::Waiting;
use crate::views::publication::{PublicationView, UnpublishView};

/// How long nodes are waited for that have to detach the volume, or to be fenced, first.
const PATIENCE: Duration = Duration::from_secs(90);

pub(super) async fn publish(args: &PublishArgs, context: &Context<'_>) -> Result<Exit, CliError> {
    let mode = if args.migratable { PublicationMode::Migratable } else { PublicationMode::Single };
    let request = PublishVolume {
        volume: args.volume.0.clone(),
        node: Selector::Name(args.node.clone()),
        mode,
        reads_only: args.reads_only,
    };
    let made = context.service().await?.publish_volume(&request).await?;
    context.show(&PublicationView::new(&made))
}

pub(super) async fn unpublish(
    args: &UnpublishArgs,
    context: &Context<'_>,
) -> Result<Exit, CliError> {
    let volume = &args.volume.0;
    let service = context.service().await?;
    // The service takes what is not there for unpublished; a person may have mistyped it.
    service.volume(volume).await?;
    if let Some(node) = &args.node {
        service.node(&Selector::Name(node.clone())).await?;
    }
    let node = args.node.clone().map(Selector::Name);
    let request = UnpublishVolume { volume: volume.clone(), node, only: Vec::new() };
    let (begun, limit) = (Instant::now(), args.wait.unwrap_or(PATIENCE));
    let waiting = Waiting::on(&format!("waiting for the nodes of volume {volume}"));
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        let still = service.unpublish_volume(&request, left.min(WAIT_MAX)).await?;
        let Some(first) = still.first() else { break };
        if begun.elapsed() >= limit {
            return Err(still_there(volume, &first.publication.node_name, &first.why));
        }
    }
    drop(waiting);
    context.show(&UnpublishView::new(volume, args.node.as_ref()))
}

fn still_there(volume: &Selector<VolumeId>, node: &Name, why: &str) -> CliError {
    let message = format!("unpublish volume {volume} of node '{node}': {why}");
    CliError::new(Exit::Refused, "VOLUME_RECALLED", message)
        .advise("it stays recalled: the node gets the volume no more; run the command again")
}
