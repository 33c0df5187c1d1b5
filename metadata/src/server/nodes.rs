//! Handlers of nodes.

use lunar_proto::domain::{Join, Leave, Page};
use lunar_proto::v1;
use lunar_proto::v1::nodes_server::Nodes;
use lunar_proto::wire::{page_request, selector, to_list, token_bytes};
use tonic::{Request, Response, Status};
use tracing::info;

use super::{Handlers, Identity};
use crate::seams::block_on;
use crate::store::MetaStore;

#[tonic::async_trait]
impl<S: MetaStore> Nodes for Handlers<S> {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        let identity = Identity::of(&request)?.clone();
        let request = Join::try_from(request.into_inner())?;
        identity.require_join(&request.name)?;
        let name = request.name.clone();
        let joined = self.call(move |service| block_on(service.join(&request))).await?;
        info!(node = %name, session = %joined.session, resumed = joined.resumed, "node joined");
        self.work.notify_one();
        Ok(Response::new(joined.into()))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let caller = self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let renewed = self.call(move |service| block_on(service.heartbeat(caller))).await?;
        Ok(Response::new(renewed.into()))
    }

    async fn leave(
        &self,
        request: Request<v1::LeaveRequest>,
    ) -> Result<Response<v1::LeaveResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = Leave::try_from(request.into_inner())?;
        let node = request.caller.node;
        self.call(move |service| block_on(service.leave(&request))).await?;
        info!(incarnation = %node, "node left");
        self.work.notify_one();
        Ok(Response::new(v1::LeaveResponse {}))
    }

    async fn get_node(
        &self,
        request: Request<v1::GetNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        Identity::of(&request)?;
        let node = selector("node", request.into_inner().node)?;
        let node = self.call(move |service| block_on(service.node(&node))).await?;
        Ok(Response::new(node.into()))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        Identity::of(&request)?;
        let page = page_request(request.into_inner().page)?;
        let Page { items, next } = self.call(move |service| block_on(service.nodes(&page))).await?;
        let (nodes, next) = (to_list(items), token_bytes(next));
        Ok(Response::new(v1::ListNodesResponse { nodes, next }))
    }
}
