//! `lunar explain`.

use lunar_proto::domain::{Holder, Selector};

use super::Context;
use crate::args::ExplainCommand;
use crate::error::{CliError, Exit};
use crate::explain::{NodeFacts, VolumeFacts, of_node, of_volume};

pub(super) async fn run(command: &ExplainCommand, context: &Context<'_>) -> Result<Exit, CliError> {
    let service = context.service().await?;
    match command {
        ExplainCommand::Volume { volume } => {
            let volume = service.volume(&volume.0).await?;
            let pool = service.pool(&Selector::Id(volume.pool)).await?;
            let node = match &volume.holder {
                Some(holder) => Some(service.node(&Selector::Id(holder.node.node)).await?),
                None => None,
            };
            let fences = service.fences().await?;
            context.show(&of_volume(&VolumeFacts { volume, pool, node, fences }))
        }
        ExplainCommand::Node { node } => {
            let node = service.node(&Selector::Name(node.clone())).await?;
            let is_its = |holder: &Holder| holder.node.node == node.id;
            let mut volumes = service.volumes().await?;
            volumes.retain(|volume| volume.holder.as_ref().is_some_and(is_its));
            let fences = service.fences().await?;
            context.show(&of_node(&NodeFacts { node, volumes, fences }))
        }
    }
}
