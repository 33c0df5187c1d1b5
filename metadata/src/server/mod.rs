//! The gRPC face of the service: messages in, domain values through, messages out.
//!
//! Invariants:
//! - `guard` lets a call in before any handler, by the role of who makes it (`proto::roles`);
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
mod certificates;
mod contents;
mod diff;
mod fencing;
mod groups;
mod guard;
mod identity;
mod map;
mod members;
mod nodes;
mod peers;
mod pools;
mod publications;
mod snapshots;
mod tls;
mod volumes;
mod wait;

use std::future::Future;
use std::sync::Arc;

use lunar_identity::ServerTls;
use lunar_proto::error::ErrorReason;
use lunar_proto::v1;
use lunar_types::{NodeId, NodeIncarnation, NodeSession};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::server::Connected;
use tonic::{Request, Status};
use tracing::{debug, warn};

use crate::error::ServiceError;
use crate::service::Service;
use crate::store::MetaStore;

use guard::{Door, Guard};

pub use background::{StoreFailure, run_operations};
pub use identity::{Identity, NodeScope};

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

/// Serves connections that a door has let in, until `stop` ends.
async fn serve<S, I, IO>(
    incoming: I,
    door: Door,
    handlers: Handlers<S>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error>
where
    S: MetaStore,
    I: Stream<Item = std::io::Result<IO>> + Send,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let stopping = handlers.clone();
    let stop = async move {
        stop.await;
        stopping.stop_waiting();
    };
    let handlers = || handlers.clone();
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .layer(Guard::new(Arc::clone(&handlers().service), door))
        .add_service(v1::pools_server::PoolsServer::new(handlers()))
        .add_service(v1::volumes_server::VolumesServer::new(handlers()))
        .add_service(v1::snapshots_server::SnapshotsServer::new(handlers()))
        .add_service(v1::members_server::MembersServer::new(handlers()))
        .add_service(v1::attachments_server::AttachmentsServer::new(handlers()))
        .add_service(v1::peers_server::PeersServer::new(handlers()))
        .add_service(v1::publications_server::PublicationsServer::new(handlers()))
        .add_service(v1::contents_server::ContentsServer::new(handlers()))
        .add_service(v1::groups_server::GroupsServer::new(handlers()))
        .add_service(v1::nodes_server::NodesServer::new(handlers()))
        .add_service(v1::fencing_server::FencingServer::new(handlers()))
        .add_service(v1::map_server::MapServer::new(handlers()))
        .add_service(v1::reservations_server::ReservationsServer::new(handlers()))
        .add_service(v1::certificates_server::CertificatesServer::new(handlers()))
        .add_service(v1::admin_server::AdminServer::new(handlers()))
        .serve_with_incoming_shutdown(incoming, stop)
        .await
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
    serve(TcpListenerStream::new(listener), Door::Loopback, handlers, stop).await
}

/// Serves on a listener whose connections are over TLS, until `stop` ends; follows the files.
///
/// # Errors
/// When the transport fails.
pub async fn serve_tls<S: MetaStore>(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    handlers: Handlers<S>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let incoming = tls::secured(listener, Arc::clone(&tls));
    let serving = serve(incoming, Door::Tls(Arc::clone(&tls)), handlers, stop);
    tokio::select! {
        ended = serving => ended,
        () = tls::follow_files(tls) => unreachable!("the files are followed for ever"),
    }
}
