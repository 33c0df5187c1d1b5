//! Handlers of the service itself.

use lunar_proto::domain::{FindingsDigest, FsckEvent, FsckSummary, Page, ReleaseQuarantine};
use lunar_proto::v1;
use lunar_proto::v1::admin_server::Admin;
use lunar_proto::wire::{backup_number, page_request, to_list, token_bytes};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::info;

use super::backups::{BackupStream, unix_seconds};
use super::{Handlers, Identity, status};
use crate::error::ServiceError;
use crate::fsck::Flow;
use crate::seams::block_on;
use crate::store::MetaStore;

/// Events of a check that wait for a slow client.
const EVENTS_WAITING: usize = 64;

/// What a check tells, and how it ends.
type Events = ReceiverStream<Result<v1::FsckEvent, Status>>;
/// Who is told.
type Sink<'a> = &'a mut (dyn FnMut(FsckEvent) -> Flow + Send);

impl<S: MetaStore> Handlers<S> {
    /// Runs a check on a thread that may block, and gives its events.
    fn stream_check<F>(&self, check: F) -> Response<Events>
    where
        F: FnOnce(&Self, Sink<'_>) -> Result<FsckSummary, ServiceError> + Send + 'static,
    {
        let (events, waiting) = mpsc::channel(EVENTS_WAITING);
        let handlers = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut sink = |event: FsckEvent| match events.blocking_send(Ok(event.into())) {
                Ok(()) => Flow::Continue,
                Err(_) => Flow::Stop,
            };
            match check(&handlers, &mut sink) {
                Ok(summary) => info!(findings = summary.findings, "store checked"),
                // A client that has gone does not want the error either.
                Err(error) => drop(events.blocking_send(Err(status(&error)))),
            }
        });
        Response::new(ReceiverStream::new(waiting))
    }
}

#[tonic::async_trait]
impl<S: MetaStore> Admin for Handlers<S> {
    type BackupStream = BackupStream;
    type FsckStream = Events;
    type RepairStream = Events;

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
        Ok(self.stream_check(|handlers, sink| block_on(handlers.service.fsck(sink))))
    }

    async fn release_quarantine(
        &self,
        request: Request<v1::ReleaseQuarantineRequest>,
    ) -> Result<Response<v1::ReleaseQuarantineResponse>, Status> {
        Identity::require_admin(&request)?;
        let request = ReleaseQuarantine::try_from(request.into_inner())?;
        let released = self.call(move |service| block_on(service.release_quarantine(&request)));
        let extents = released.await?;
        Ok(Response::new(v1::ReleaseQuarantineResponse { extents }))
    }

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        Identity::require_admin(&request)?;
        self.open_backup().await
    }

    async fn backup_done(
        &self,
        request: Request<v1::BackupDoneRequest>,
    ) -> Result<Response<v1::Backups>, Status> {
        Identity::require_admin(&request)?;
        let number = backup_number("number", request.into_inner().number)?;
        let now = unix_seconds();
        let backups = self.call(move |service| block_on(service.backup_done(number, now))).await?;
        info!(%number, "backup is complete");
        // What only earlier ones name is free.
        self.work.notify_one();
        Ok(Response::new(backups.into()))
    }

    async fn list_backups(
        &self,
        request: Request<v1::ListBackupsRequest>,
    ) -> Result<Response<v1::Backups>, Status> {
        Identity::of(&request)?;
        let backups = self.call(move |service| block_on(service.backups())).await?;
        Ok(Response::new(backups.into()))
    }

    async fn set_backup_horizon(
        &self,
        request: Request<v1::SetBackupHorizonRequest>,
    ) -> Result<Response<v1::Backups>, Status> {
        Identity::require_admin(&request)?;
        let on = request.into_inner().on;
        let backups = self.call(move |service| block_on(service.set_backup_horizon(on))).await?;
        info!(on, "backup horizon set: no backup of before is protected");
        self.work.notify_one();
        Ok(Response::new(backups.into()))
    }

    async fn repair(
        &self,
        request: Request<v1::RepairRequest>,
    ) -> Result<Response<Self::RepairStream>, Status> {
        Identity::require_admin(&request)?;
        let findings = FindingsDigest::new(request.into_inner().findings_digest);
        Ok(self.stream_check(move |handlers, sink| {
            info!(%findings, "repairing the store");
            let outcome = block_on(handlers.service.repair(findings, sink));
            // A repair may have begun an operation, also one that failed later.
            handlers.work.notify_one();
            outcome
        }))
    }
}
