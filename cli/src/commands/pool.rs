//! `lunar pool`.

use super::{Context, lun};
use crate::args::PoolCommand;
use crate::error::{CliError, Exit};
use crate::views::pool::{PoolList, PoolStatusList, PoolView};

pub(super) async fn run(command: &PoolCommand, context: &Context<'_>) -> Result<Exit, CliError> {
    match command {
        PoolCommand::Create { name, luns, extent_size } => {
            let luns = lun::to_pool_luns(&context.daemon().await?, luns).await?;
            let service = context.service().await?;
            let pool = service.create_pool(name, *extent_size, luns).await?;
            context.show(&PoolView::from(&pool))
        }
        PoolCommand::AddLun { pool, luns } => {
            let luns = lun::to_pool_luns(&context.daemon().await?, luns).await?;
            let pool = context.service().await?.add_luns(&pool.0, luns).await?;
            context.show(&PoolView::from(&pool))
        }
        PoolCommand::List => {
            let pools = context.service().await?.pools().await?;
            context.show(&PoolList::new(&pools))
        }
        PoolCommand::Status { pool } => {
            let service = context.service().await?;
            let statuses = match pool {
                Some(pool) => vec![service.pool_status(&pool.0).await?],
                None => service.every_pool_status().await?,
            };
            context.show(&PoolStatusList::new(&statuses))
        }
    }
}
