//! `lunar operation`, and what commands that wait for one ask of it.

use lunar_metadata_client::MetadataClient;
use lunar_proto::domain::{Operation, OperationWork};
use lunar_types::LayerId;

use super::Context;
use crate::error::{CliError, Exit};
use crate::views::operation::OperationList;

pub(super) async fn list(context: &Context<'_>) -> Result<Exit, CliError> {
    let operations = context.service().await?.operations().await?;
    context.show(&OperationList::new(&operations))
}

/// The operation that drops this layer, while there is one.
pub(super) async fn drop_of(
    service: &MetadataClient,
    layer: LayerId,
) -> Result<Option<Operation>, CliError> {
    let operations = service.operations().await?;
    Ok(operations.into_iter().find(|it| it.work == OperationWork::DropLayer(layer)))
}
