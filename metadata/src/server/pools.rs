//! Handlers of pools.

use lunar_proto::domain::{AddLuns, CreatePool, Page, SetWatermarks};
use lunar_proto::v1;
use lunar_proto::v1::pools_server::Pools;
use lunar_proto::wire::{page_request, selector, to_list, token_bytes};
use tonic::{Request, Response, Status};

use super::{Handlers, Identity};
use crate::seams::block_on;
use crate::store::MetaStore;

#[tonic::async_trait]
impl<S: MetaStore> Pools for Handlers<S> {
    async fn create_pool(
        &self,
        request: Request<v1::CreatePoolRequest>,
    ) -> Result<Response<v1::Pool>, Status> {
        Identity::require_admin(&request)?;
        let request = CreatePool::try_from(request.into_inner())?;
        let pool = self.call(move |service| block_on(service.create_pool(&request))).await?;
        Ok(Response::new(pool.into()))
    }

    async fn add_luns(
        &self,
        request: Request<v1::AddLunsRequest>,
    ) -> Result<Response<v1::Pool>, Status> {
        Identity::require_admin(&request)?;
        let request = AddLuns::try_from(request.into_inner())?;
        let pool = self.call(move |service| block_on(service.add_luns(&request))).await?;
        Ok(Response::new(pool.into()))
    }

    async fn set_watermarks(
        &self,
        request: Request<v1::SetWatermarksRequest>,
    ) -> Result<Response<v1::Pool>, Status> {
        Identity::require_admin(&request)?;
        let request = SetWatermarks::try_from(request.into_inner())?;
        let pool = self.call(move |service| block_on(service.set_watermarks(&request))).await?;
        Ok(Response::new(pool.into()))
    }

    async fn get_pool(
        &self,
        request: Request<v1::GetPoolRequest>,
    ) -> Result<Response<v1::Pool>, Status> {
        Identity::of(&request)?;
        let pool = selector("pool", request.into_inner().pool)?;
        let pool = self.call(move |service| block_on(service.pool(&pool))).await?;
        Ok(Response::new(pool.into()))
    }

    async fn list_pools(
        &self,
        request: Request<v1::ListPoolsRequest>,
    ) -> Result<Response<v1::ListPoolsResponse>, Status> {
        Identity::of(&request)?;
        let page = page_request(request.into_inner().page)?;
        let Page { items, next } = self.call(move |service| block_on(service.pools(&page))).await?;
        let (pools, next) = (to_list(items), token_bytes(next));
        Ok(Response::new(v1::ListPoolsResponse { pools, next }))
    }

    async fn get_pool_status(
        &self,
        request: Request<v1::GetPoolStatusRequest>,
    ) -> Result<Response<v1::PoolStatus>, Status> {
        Identity::of(&request)?;
        let pool = selector("pool", request.into_inner().pool)?;
        let status = self.call(move |service| block_on(service.pool_status(&pool))).await?;
        Ok(Response::new(status.into()))
    }
}
