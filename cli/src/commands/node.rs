//! `lunar node`.

use super::Context;
use crate::error::{CliError, Exit};
use crate::views::node::NodeList;

pub(super) async fn list(context: &Context<'_>) -> Result<Exit, CliError> {
    let mut nodes = context.service().await?.nodes().await?;
    nodes.sort_by(|left, right| left.name.cmp(&right.name));
    context.show(&NodeList::new(&nodes))
}
