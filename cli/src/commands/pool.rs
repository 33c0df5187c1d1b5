//! `lunar pool`.

use lunar_metadata_client::{MetadataClient, fresh_request_id};
use lunar_proto::domain::{
    AddLuns, CreatePool, Pool, PoolStatus, ReleaseQuarantine, Selector, SetWatermarks,
};
use lunar_types::PoolId;

use super::{Context, lun};
use crate::args::PoolCommand;
use crate::error::{CliError, Exit};
use crate::views::pool::{PoolList, PoolStatusList, PoolView, ReleasedView, WatermarksView};

pub(super) async fn run(command: &PoolCommand, context: &Context<'_>) -> Result<Exit, CliError> {
    match command {
        PoolCommand::Create { name, luns, extent_size, fencing } => {
            let daemon = context.daemon().await?;
            let found = lun::find_all(&daemon, luns).await?;
            let luns = lun::to_pool_luns(&found)?;
            let fencing = lun::fencing_of(&found, *fencing)?;
            let service = context.service().await?;
            let (request, name, extent_size) = (fresh_request_id(), name.clone(), *extent_size);
            let pool = CreatePool { request, name, extent_size, luns, fencing };
            let pool = service.create_pool(&pool).await?;
            context.show(&PoolView::from(&pool))
        }
        PoolCommand::AddLun { pool, luns } => {
            let found = lun::find_all(&context.daemon().await?, luns).await?;
            let luns = lun::to_pool_luns(&found)?;
            lun::require_fencing(&found, &context.service().await?.pool(&pool.0).await?)?;
            let (request, pool) = (fresh_request_id(), pool.0.clone());
            let pool = context.service().await?.add_luns(&AddLuns { request, pool, luns }).await?;
            context.show(&PoolView::from(&pool))
        }
        PoolCommand::List => {
            let pools = pools_by_name(&context.service().await?).await?;
            context.show(&PoolList::new(&pools))
        }
        PoolCommand::Watermarks { pool, warning, high, critical } => {
            let marks = [*warning, *high, *critical];
            watermarks(context, &pool.0, marks).await
        }
        PoolCommand::ReleaseQuarantine { pool, confirm } => {
            let request = ReleaseQuarantine { pool: pool.0.clone(), confirm: confirm.clone() };
            let extents = context.service().await?.release_quarantine(&request).await?;
            context.show(&ReleasedView::new(confirm.as_str(), extents))
        }
        PoolCommand::Status { pool } => {
            let service = context.service().await?;
            let statuses = match pool {
                Some(pool) => vec![service.pool_status(&pool.0).await?],
                None => every_status(&service).await?,
            };
            context.show(&PoolStatusList::new(&statuses))
        }
    }
}

/// Sets the marks that are named, if there are any, and shows all of them.
async fn watermarks(
    context: &Context<'_>,
    pool: &Selector<PoolId>,
    [warning, high, critical]: [Option<u8>; 3],
) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let pool = match warning.or(high).or(critical) {
        None => service.pool(pool).await?,
        Some(_) => {
            let (request, pool) = (fresh_request_id(), pool.clone());
            let set = SetWatermarks { request, pool, warning, high, critical };
            service.set_watermarks(&set).await?
        }
    };
    context.show(&WatermarksView::from(&pool))
}

async fn pools_by_name(service: &MetadataClient) -> Result<Vec<Pool>, CliError> {
    let mut pools = service.pools().await?;
    pools.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(pools)
}

pub(super) async fn every_status(service: &MetadataClient) -> Result<Vec<PoolStatus>, CliError> {
    let mut statuses = Vec::new();
    for pool in pools_by_name(service).await? {
        statuses.push(service.pool_status(&Selector::Id(pool.id)).await?);
    }
    Ok(statuses)
}
