//! The gRPC face of the service: messages in, domain values through, messages out.
//!
//! Invariants:
//! - who asks is told by the connection (an [`Identity`] in the request's extensions), never by a
//!   field of the request; a request without one is refused;
//! - the service blocks (it waits for the disk at each commit), so every call runs on a thread
//!   that may block, never on the runtime's own.
//!
//! Deliberately absent: any rule of the domain. A handler checks who asks, converts, calls.

mod admin;
mod attachments;
mod background;
mod backups;
mod diff;
mod fencing;
mod identity;
mod map;
mod members;
mod nodes;
mod pools;
mod snapshots;
mod volumes;
mod wait;

use std::future::Future;
use std::sync::Arc;

use lunar_proto::error::ErrorReason;
use lunar_proto::v1;
use lunar_types::{NodeId, NodeIncarnation, NodeSession};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};
use tracing::{debug, warn};

use crate::error::ServiceError;
use crate::service::Service;
use crate::store::MetaStore;

pub use background::{StoreFailure, run_operations};
pub use identity::{Identity, NodeScope, identify_loopback};

/// The handlers of every gRPC service.
pub struct Handlers<S> {
    service: Arc<Service<S>>,
    /// Woken when an operation may wait.
    work: Arc<Notify>,
    /// Whether the service stops: then no call waits any more.
    stopping: Arc<watch::Sender<bool>>,
}

impl<S> Clone for Handlers<S> {
    fn clone(&self) -> Self {
        let (service, work) = (Arc::clone(&self.service), Arc::clone(&self.work));
        Self { service, work, stopping: Arc::clone(&self.stopping) }
    }
}

fn status(error: &ServiceError) -> Status {
    let report = error.report();
    match report.reason {
        ErrorReason::StoreFailed | ErrorReason::StoreCorrupt => {
            warn!(reason = %report.reason, "request failed: {}", report.message);
        }
        _ => debug!(reason = %report.reason, "request refused: {}", report.message),
    }
    report.to_status()
}

impl<S: MetaStore> Handlers<S> {
    /// Handlers of a service; `work` is woken when an operation may wait.
    #[must_use]
    pub fn new(service: Arc<Service<S>>, work: Arc<Notify>) -> Self {
        Self { service, work, stopping: Arc::new(watch::Sender::new(false)) }
    }

    /// Runs one call on a thread that may block.
    async fn call<R, F>(&self, body: F) -> Result<R, Status>
    where
        R: Send + 'static,
        F: FnOnce(&Service<S>) -> Result<R, ServiceError> + Send + 'static,
    {
        let service = Arc::clone(&self.service);
        let outcome = tokio::task::spawn_blocking(move || body(&service)).await;
        match outcome {
            Ok(result) => result.map_err(|error| status(&error)),
            Err(panic) => {
                warn!(%panic, "a request broke an assertion of the service");
                Err(Status::internal("the request broke an assertion of the service"))
            }
        }
    }

    /// Refuses a request that is not from this node.
    async fn require_node<T>(
        &self,
        request: &Request<T>,
        node: Option<&v1::NodeIncarnation>,
    ) -> Result<NodeIncarnation, Status> {
        let identity = Identity::of(request)?;
        let node: NodeIncarnation = lunar_proto::wire::nested("node", node.copied())?;
        self.require_node_id(identity, node.node).await?;
        Ok(node)
    }

    /// Refuses a request that is not made by a process of this node.
    async fn require_caller<T>(
        &self,
        request: &Request<T>,
        caller: Option<&v1::NodeSession>,
    ) -> Result<NodeSession, Status> {
        let identity = Identity::of(request)?;
        let caller: NodeSession = lunar_proto::wire::nested("caller", caller.copied())?;
        self.require_node_id(identity, caller.node.node).await?;
        Ok(caller)
    }

    async fn require_node_id(&self, identity: &Identity, node: NodeId) -> Result<(), Status> {
        if let Some(allowed) = identity.only_node() {
            let selector = lunar_proto::domain::Selector::Id(node);
            let found =
                self.call(move |service| crate::seams::block_on(service.node(&selector))).await?;
            identity.require_node_name(&found.name, &allowed)?;
        }
        Ok(())
    }
}

/// Serves on a listener whose connections come from this host alone, until `stop` ends.
///
/// # Errors
/// When the transport fails.
pub async fn serve_loopback<S: MetaStore>(
    listener: TcpListener,
    handlers: Handlers<S>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    macro_rules! guarded {
        ($server:ty) => {
            InterceptedService::new(<$server>::new(handlers.clone()), identify_loopback)
        };
    }
    let stopping = handlers.clone();
    let stop = async move {
        stop.await;
        stopping.stop_waiting();
    };
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(guarded!(v1::pools_server::PoolsServer<Handlers<S>>))
        .add_service(guarded!(v1::volumes_server::VolumesServer<Handlers<S>>))
        .add_service(guarded!(v1::snapshots_server::SnapshotsServer<Handlers<S>>))
        .add_service(guarded!(v1::members_server::MembersServer<Handlers<S>>))
        .add_service(guarded!(v1::attachments_server::AttachmentsServer<Handlers<S>>))
        .add_service(guarded!(v1::nodes_server::NodesServer<Handlers<S>>))
        .add_service(guarded!(v1::fencing_server::FencingServer<Handlers<S>>))
        .add_service(guarded!(v1::map_server::MapServer<Handlers<S>>))
        .add_service(guarded!(v1::reservations_server::ReservationsServer<Handlers<S>>))
        .add_service(guarded!(v1::admin_server::AdminServer<Handlers<S>>))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop)
        .await
}
