//! `lunar node`.

use super::Context;
use crate::error::{CliError, Exit};
use crate::views::node::NodeList;

pub(super) async fn list(context: &Context<'_>) -> Result<Exit, CliError> {
    let nodes = context.service().await?.nodes().await?;
    context.show(&NodeList::new(&nodes))
}
