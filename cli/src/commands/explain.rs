//! `lunar explain`.

use lunar_metadata_client::MetadataClient;
use lunar_proto::domain::{Holder, Selector};
use lunar_types::VolumeId;

use super::Context;
use crate::args::ExplainCommand;
use crate::error::{CliError, Exit};
use crate::explain::claim::{of_claim, of_lost, volume_of};
use crate::explain::{NodeFacts, VolumeFacts, of_node, of_volume};
use crate::kubernetes;

async fn facts_of(
    service: &MetadataClient,
    volume: &Selector<VolumeId>,
) -> Result<VolumeFacts, CliError> {
    let volume = service.volume(volume).await?;
    let pool = service.pool(&Selector::Id(volume.pool)).await?;
    let node = match &volume.holder {
        Some(holder) => Some(service.node(&Selector::Id(holder.node.node)).await?),
        None => None,
    };
    let fences = service.fences().await?;
    Ok(VolumeFacts { volume, pool, node, fences })
}

pub(super) async fn run(command: &ExplainCommand, context: &Context<'_>) -> Result<Exit, CliError> {
    match command {
        ExplainCommand::Volume { volume } => {
            context.show(&of_volume(&facts_of(&context.service().await?, &volume.0).await?))
        }
        ExplainCommand::Pvc { claim, namespace } => {
            let found = kubernetes::claim(claim, namespace.as_deref()).await?;
            let mut told = of_claim(&found);
            if let Some(volume) = volume_of(&found) {
                let service = context.service().await?;
                match facts_of(&service, &Selector::Id(volume)).await {
                    Ok(facts) => told.append(of_volume(&facts)),
                    Err(error) if error.exit == Exit::NotFound => told.append(of_lost(volume)),
                    Err(error) => return Err(error),
                }
            }
            context.show(&told)
        }
        ExplainCommand::Node { node } => {
            let service = context.service().await?;
            let node = service.node(&Selector::Name(node.clone())).await?;
            let is_its = |holder: &Holder| holder.node.node == node.id;
            let mut volumes = service.volumes().await?;
            volumes.retain(|volume| volume.holder.as_ref().is_some_and(is_its));
            let fences = service.fences().await?;
            context.show(&of_node(&NodeFacts { node, volumes, fences }))
        }
    }
}
