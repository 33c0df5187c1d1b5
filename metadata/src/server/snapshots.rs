//! Handlers of snapshots.

use lunar_proto::domain::{
    CreateSnapshots, DeleteSnapshot, DiffSnapshots, Page, SnapshotSet, UsageOf,
};
use lunar_proto::v1;
use lunar_proto::v1::snapshots_server::Snapshots;
use lunar_proto::wire::{
    known_set_state, page_request, parsed, selector, to_list, token_bytes, wait,
};
use lunar_types::SnapshotSetId;
use tonic::{Request, Response, Status};

use super::diff::DiffStream;
use super::{Handlers, Identity};
use crate::seams::block_on;
use crate::store::MetaStore;

#[tonic::async_trait]
impl<S: MetaStore> Snapshots for Handlers<S> {
    type DiffSnapshotsStream = DiffStream;

    async fn create_snapshots(
        &self,
        request: Request<v1::CreateSnapshotsRequest>,
    ) -> Result<Response<v1::SnapshotSet>, Status> {
        Identity::require_admin(&request)?;
        let request = CreateSnapshots::try_from(request.into_inner())?;
        let set = self.call(move |service| block_on(service.create_snapshots(&request))).await?;
        Ok(Response::new(set.into()))
    }

    async fn get_snapshot_set(
        &self,
        request: Request<v1::GetSnapshotSetRequest>,
    ) -> Result<Response<v1::SnapshotSet>, Status> {
        Identity::of(&request)?;
        let v1::GetSnapshotSetRequest { set_id, wait_ms, known } = request.into_inner();
        let set: SnapshotSetId = parsed("set_id", &set_id)?;
        let (wait, known) = (wait(wait_ms)?, known_set_state("known", known)?);
        let is_changed = |set: &SnapshotSet| match known {
            Some(known) => set.state != known,
            None => !set.state.is_open(),
        };
        let ask = move |service: &crate::service::Service<S>| block_on(service.snapshot_set(set));
        let set = self.ask_until(wait, ask, is_changed).await?;
        Ok(Response::new(set.into()))
    }

    async fn abort_snapshots(
        &self,
        request: Request<v1::AbortSnapshotsRequest>,
    ) -> Result<Response<v1::SnapshotSet>, Status> {
        Identity::require_admin(&request)?;
        let set: SnapshotSetId = parsed("set_id", &request.into_inner().set_id)?;
        let set = self.call(move |service| block_on(service.abort_snapshots(set))).await?;
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
    async fn diff_snapshots(
        &self,
        request: Request<v1::DiffSnapshotsRequest>,
    ) -> Result<Response<Self::DiffSnapshotsStream>, Status> {
        Identity::of(&request)?;
        self.open_diff(DiffSnapshots::try_from(request.into_inner())?).await
    }
    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::Usage>, Status> {
        Identity::of(&request)?;
        let of = UsageOf::try_from(request.into_inner())?;
        let usage = self.call(move |service| block_on(service.usage(&of))).await?;
        Ok(Response::new(usage.into()))
    }
}
