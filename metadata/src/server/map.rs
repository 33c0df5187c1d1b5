//! Handlers of maps and reservations.

use lunar_proto::domain::{CommitMap, Page, PruneLayer, ReadLayer, ReleaseExtents, ReserveExtents};
use lunar_proto::v1;
use lunar_proto::v1::map_server::Map;
use lunar_proto::v1::reservations_server::Reservations;
use lunar_proto::wire::{page_request, to_list, token_bytes};
use tonic::{Request, Response, Status};

use super::{Handlers, Identity};
use crate::seams::block_on;
use crate::store::MetaStore;

#[tonic::async_trait]
impl<S: MetaStore> Map for Handlers<S> {
    async fn commit_map(
        &self,
        request: Request<v1::CommitMapRequest>,
    ) -> Result<Response<v1::CommitMapResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = CommitMap::try_from(request.into_inner())?;
        let freed = self.call(move |service| block_on(service.commit_map(&request))).await?;
        Ok(Response::new(freed.into()))
    }

    async fn read_layer(
        &self,
        request: Request<v1::ReadLayerRequest>,
    ) -> Result<Response<v1::ReadLayerResponse>, Status> {
        Identity::of(&request)?;
        let request = ReadLayer::try_from(request.into_inner())?;
        let page = self.call(move |service| block_on(service.read_layer(request))).await?;
        Ok(Response::new(page.into()))
    }

    async fn prune_layer(
        &self,
        request: Request<v1::PruneLayerRequest>,
    ) -> Result<Response<v1::PruneLayerResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = PruneLayer::try_from(request.into_inner())?;
        let pruned = self.call(move |service| block_on(service.prune_layer(&request))).await?;
        // Room in the layer may be what a merge waits for.
        self.work.notify_one();
        Ok(Response::new(pruned.into()))
    }
}

#[tonic::async_trait]
impl<S: MetaStore> Reservations for Handlers<S> {
    async fn reserve_extents(
        &self,
        request: Request<v1::ReserveExtentsRequest>,
    ) -> Result<Response<v1::ReserveExtentsResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = ReserveExtents::try_from(request.into_inner())?;
        let runs = self.call(move |service| block_on(service.reserve_extents(&request))).await?;
        Ok(Response::new(v1::ReserveExtentsResponse { runs: to_list(runs) }))
    }

    async fn release_extents(
        &self,
        request: Request<v1::ReleaseExtentsRequest>,
    ) -> Result<Response<v1::ReleaseExtentsResponse>, Status> {
        self.require_caller(&request, request.get_ref().caller.as_ref()).await?;
        let request = ReleaseExtents::try_from(request.into_inner())?;
        self.call(move |service| block_on(service.release_extents(&request))).await?;
        Ok(Response::new(v1::ReleaseExtentsResponse {}))
    }

    async fn list_reservations(
        &self,
        request: Request<v1::ListReservationsRequest>,
    ) -> Result<Response<v1::ListReservationsResponse>, Status> {
        let node = self.require_node(&request, request.get_ref().node.as_ref()).await?;
        let page = page_request(request.into_inner().page)?;
        let Page { items, next } =
            self.call(move |service| block_on(service.reservations(node, &page))).await?;
        let (reservations, next) = (to_list(items), token_bytes(next));
        Ok(Response::new(v1::ListReservationsResponse { reservations, next }))
    }
}
