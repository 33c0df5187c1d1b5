//! Handlers of snapshots.

use lunar_proto::domain::{CreateSnapshots, DeleteSnapshot, Page};
use lunar_proto::v1;
use lunar_proto::v1::snapshots_server::Snapshots;
use lunar_proto::wire::{page_request, selector, to_list, token_bytes};
use tonic::{Request, Response, Status};

use super::{Handlers, Identity};
use crate::seams::block_on;
use crate::store::MetaStore;

#[tonic::async_trait]
impl<S: MetaStore> Snapshots for Handlers<S> {
    async fn create_snapshots(
        &self,
        request: Request<v1::CreateSnapshotsRequest>,
    ) -> Result<Response<v1::SnapshotSet>, Status> {
        Identity::require_admin(&request)?;
        let request = CreateSnapshots::try_from(request.into_inner())?;
        let set = self.call(move |service| block_on(service.create_snapshots(&request))).await?;
        Ok(Response::new(set.into()))
    }

    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::Snapshot>, Status> {
        Identity::of(&request)?;
        let snapshot = selector("snapshot", request.into_inner().snapshot)?;
        let snapshot = self.call(move |service| block_on(service.snapshot(&snapshot))).await?;
        Ok(Response::new(snapshot.into()))
    }

    async fn list_snapshots(
        &self,
        request: Request<v1::ListSnapshotsRequest>,
    ) -> Result<Response<v1::ListSnapshotsResponse>, Status> {
        Identity::of(&request)?;
        let v1::ListSnapshotsRequest { volume, page } = request.into_inner();
        let volume = volume.map(|volume| selector("volume", Some(volume))).transpose()?;
        let page = page_request(page)?;
        let list = move |service: &crate::service::Service<S>| {
            block_on(service.snapshots(volume.as_ref(), &page))
        };
        let Page { items, next } = self.call(list).await?;
        let (snapshots, next) = (to_list(items), token_bytes(next));
        Ok(Response::new(v1::ListSnapshotsResponse { snapshots, next }))
    }

    async fn delete_snapshot(
        &self,
        request: Request<v1::DeleteSnapshotRequest>,
    ) -> Result<Response<v1::Snapshot>, Status> {
        Identity::require_admin(&request)?;
        let request = DeleteSnapshot::try_from(request.into_inner())?;
        let deleted = self.call(move |service| block_on(service.delete_snapshot(&request))).await?;
        self.work.notify_one();
        Ok(Response::new(deleted.into()))
    }
}
