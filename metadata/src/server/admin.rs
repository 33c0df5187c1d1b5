//! Handlers of the service itself.

use std::sync::Arc;

use lunar_proto::domain::{FsckEvent, Page};
use lunar_proto::v1;
use lunar_proto::v1::admin_server::Admin;
use lunar_proto::wire::{page_request, to_list, token_bytes};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::info;

use super::{Handlers, Identity, status};
use crate::fsck::Flow;
use crate::seams::block_on;
use crate::store::MetaStore;

/// Events of a check that wait for a slow client.
const EVENTS_WAITING: usize = 64;

#[tonic::async_trait]
impl<S: MetaStore> Admin for Handlers<S> {
    type FsckStream = ReceiverStream<Result<v1::FsckEvent, Status>>;

    async fn get_cluster(
        &self,
        request: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::Cluster>, Status> {
        Identity::of(&request)?;
        Ok(Response::new(self.service.cluster().into()))
    }

    async fn list_operations(
        &self,
        request: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        Identity::of(&request)?;
        let page = page_request(request.into_inner().page)?;
        let Page { items, next } =
            self.call(move |service| block_on(service.operations(&page))).await?;
        let (operations, next) = (to_list(items), token_bytes(next));
        Ok(Response::new(v1::ListOperationsResponse { operations, next }))
    }

    async fn fsck(
        &self,
        request: Request<v1::FsckRequest>,
    ) -> Result<Response<Self::FsckStream>, Status> {
        Identity::require_admin(&request)?;
        let (events, waiting) = mpsc::channel(EVENTS_WAITING);
        let service = Arc::clone(&self.service);
        tokio::task::spawn_blocking(move || {
            let mut sink = |event: FsckEvent| match events.blocking_send(Ok(event.into())) {
                Ok(()) => Flow::Continue,
                Err(_) => Flow::Stop,
            };
            match block_on(service.fsck(&mut sink)) {
                Ok(summary) => info!(findings = summary.findings, "store checked"),
                // A client that has gone does not want the error either.
                Err(error) => drop(events.blocking_send(Err(status(&error)))),
            }
        });
        Ok(Response::new(ReceiverStream::new(waiting)))
    }
}
