//! Handlers of volumes that two nodes have together.

use lunar_proto::domain::{
    AddPeer, LeavePeers, Ownership, ReleaseOwnership, RemovePeer, RequestOwnership,
};
use lunar_proto::v1;
use lunar_proto::v1::peers_server::Peers;
use lunar_proto::wire::wait;
use tonic::{Request, Response, Status};
use tracing::info;

use super::{Handlers, Identity};
use crate::seams::block_on;
use crate::service::Service;
use crate::store::MetaStore;

#[tonic::async_trait]
impl<S: MetaStore> Peers for Handlers<S> {
    async fn add_peer(
        &self,
        request: Request<v1::AddPeerRequest>,
    ) -> Result<Response<v1::AddPeerResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = AddPeer::try_from(request.into_inner())?;
        let node = request.caller.node;
        let volume = self.call(move |service| block_on(service.add_peer(&request))).await?;
        info!(volume = %volume.id, %node, "a peer is there");
        Ok(Response::new(v1::AddPeerResponse { volume: Some(volume.into()) }))
    }

    async fn request_ownership(
        &self,
        request: Request<v1::RequestOwnershipRequest>,
    ) -> Result<Response<v1::RequestOwnershipResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let wait = wait(request.get_ref().wait_ms)?;
        let request = RequestOwnership::try_from(request.into_inner())?;
        let ask = move |service: &Service<S>| block_on(service.request_ownership(request));
        let is_owned = |found: &Ownership| matches!(found, Ownership::Owned(_));
        let found = self.ask_until(wait, ask, is_owned).await?;
        if let Ownership::Owned(attachment) = &found {
            let (volume, node) = (request.volume, request.caller.node);
            info!(%volume, %node, epoch = %attachment.epoch, "a peer owns the volume");
        }
        Ok(Response::new(found.into()))
    }

    async fn release_ownership(
        &self,
        request: Request<v1::ReleaseOwnershipRequest>,
    ) -> Result<Response<v1::ReleaseOwnershipResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = ReleaseOwnership::try_from(request.into_inner())?;
        self.call(move |service| block_on(service.release_ownership(&request))).await?;
        let (volume, node) = (request.volume, request.caller.node);
        info!(%volume, %node, epoch = %request.epoch, "a peer has given the volume away");
        Ok(Response::new(v1::ReleaseOwnershipResponse {}))
    }

    async fn leave_peers(
        &self,
        request: Request<v1::LeavePeersRequest>,
    ) -> Result<Response<v1::LeavePeersResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = LeavePeers::try_from(request.into_inner())?;
        self.call(move |service| block_on(service.leave_peers(request))).await?;
        let (volume, node) = (request.volume, request.caller.node);
        info!(%volume, %node, "a peer has left");
        Ok(Response::new(v1::LeavePeersResponse {}))
    }

    async fn remove_peer(
        &self,
        request: Request<v1::RemovePeerRequest>,
    ) -> Result<Response<v1::RemovePeerResponse>, Status> {
        Identity::require_admin(&request)?;
        let request = RemovePeer::try_from(request.into_inner())?;
        let (volume, node) = (request.volume.clone(), request.node.clone());
        self.call(move |service| block_on(service.remove_peer(&request))).await?;
        info!(%volume, %node, "a peer was taken off");
        Ok(Response::new(v1::RemovePeerResponse {}))
    }
}
