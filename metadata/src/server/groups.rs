//! Handlers of groups of snapshots.

use lunar_proto::domain::{DeleteGroup, Page};
use lunar_proto::v1;
use lunar_proto::v1::groups_server::Groups;
use lunar_proto::wire::{page_request, selector, to_list, token_bytes};
use tonic::{Request, Response, Status};
use tracing::info;

use super::{Handlers, Identity};
use crate::seams::block_on;
use crate::store::MetaStore;

#[tonic::async_trait]
impl<S: MetaStore> Groups for Handlers<S> {
    async fn get_group(
        &self,
        request: Request<v1::GetGroupRequest>,
    ) -> Result<Response<v1::SnapshotGroup>, Status> {
        Identity::require_admin(&request)?;
        let group = selector("group", request.into_inner().group)?;
        let group = self.call(move |service| block_on(service.group(&group))).await?;
        Ok(Response::new(group.into()))
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        Identity::require_admin(&request)?;
        let page = page_request(request.into_inner().page)?;
        let Page { items, next } =
            self.call(move |service| block_on(service.groups(&page))).await?;
        let (groups, next) = (to_list(items), token_bytes(next));
        Ok(Response::new(v1::ListGroupsResponse { groups, next }))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        Identity::require_admin(&request)?;
        let request = DeleteGroup::try_from(request.into_inner())?;
        let group = request.group.clone();
        self.call(move |service| block_on(service.delete_group(&request))).await?;
        self.work.notify_one();
        info!(%group, "the snapshots of the group are being deleted");
        Ok(Response::new(v1::DeleteGroupResponse {}))
    }
}
