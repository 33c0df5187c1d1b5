//! Calls about pools.

use lunar_proto::domain::{
    AddLuns, CreatePool, Page, PageRequest, PageToken, Pool, PoolStatus, Selector, SetWatermarks,
};
use lunar_proto::v1;
use lunar_proto::v1::pools_client::PoolsClient;
use lunar_proto::wire;
use lunar_types::PoolId;

use crate::transport::on_channel;
use crate::{ClientError, MetadataClient, every};

impl MetadataClient {
    /// Makes a pool of labelled LUNs.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_pool(&self, request: &CreatePool) -> Result<Pool, ClientError> {
        let request = v1::CreatePoolRequest::from(request.clone());
        self.call("create the pool", request, async |channel, request| {
            on_channel!(PoolsClient, channel).create_pool(request).await
        })
        .await
    }

    /// Adds labelled LUNs to a pool: all or none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn add_luns(&self, request: &AddLuns) -> Result<Pool, ClientError> {
        let request = v1::AddLunsRequest::from(request.clone());
        self.call("add LUNs to the pool", request, async |channel, request| {
            on_channel!(PoolsClient, channel).add_luns(request).await
        })
        .await
    }

    /// Sets watermarks of a pool; what is not named stays.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_watermarks(&self, request: &SetWatermarks) -> Result<Pool, ClientError> {
        let request = v1::SetWatermarksRequest::from(request.clone());
        self.call("set the watermarks of the pool", request, async |channel, request| {
            on_channel!(PoolsClient, channel).set_watermarks(request).await
        })
        .await
    }

    /// A pool with its LUN table.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pool(&self, pool: &Selector<PoolId>) -> Result<Pool, ClientError> {
        let request = v1::GetPoolRequest { pool: Some(pool.clone().into()) };
        self.call("look up the pool", request, async |channel, request| {
            on_channel!(PoolsClient, channel).get_pool(request).await
        })
        .await
    }

    /// How full a pool is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pool_status(&self, pool: &Selector<PoolId>) -> Result<PoolStatus, ClientError> {
        let request = v1::GetPoolStatusRequest { pool: Some(pool.clone().into()) };
        self.call("ask how full the pool is", request, async |channel, request| {
            on_channel!(PoolsClient, channel).get_pool_status(request).await
        })
        .await
    }

    /// A page of the pools.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pools_page(&self, page: PageRequest) -> Result<Page<Pool>, ClientError> {
        const WHAT: &str = "list the pools";
        let request = v1::ListPoolsRequest { page: Some(page.into()) };
        let answer = self.call_raw(WHAT, request, async |channel, request| {
            on_channel!(PoolsClient, channel).list_pools(request).await
        });
        let answer = answer.await?;
        let items = wire::list("pools", answer.pools);
        let items = items.map_err(|source| ClientError::Malformed { what: WHAT, source })?;
        Ok(Page { items, next: PageToken::from_bytes(answer.next) })
    }

    /// Every pool.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pools(&self) -> Result<Vec<Pool>, ClientError> {
        every(|page| self.pools_page(page)).await
    }
}
