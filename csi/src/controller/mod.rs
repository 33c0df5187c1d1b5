//! The part of the driver that runs once a cluster: what Kubernetes asks of volumes, snapshots and
//! publications becomes calls to the metadata service.
//!
//! Invariants:
//! - it keeps nothing: what a call has made is found again by its name or id, by this process or
//!   another one;
//! - two controllers at once do no harm: every decision is a transaction of the service, and the
//!   keys of calls only spare it what would be refused;
//! - nothing that is asked for is accepted and ignored.
//!
//! Deliberately absent: nodes' devices and file systems, and any rule of who may hold a volume.

mod call;
mod capacity;
mod changed_blocks;
mod create;
mod cut;
mod groups;
mod grow;
mod ids;
mod publish;
mod service;
mod snapshots;
mod view;
mod volumes;

use std::sync::Arc;
use std::time::Duration;

use lunar_metadata_client::{ClientTls, MetadataClient, Policy, TlsFiles};
use lunar_proto::csi::controller_server::ControllerServer;
use lunar_proto::csi::group_controller_server::GroupControllerServer;
use lunar_proto::csi::identity_server::IdentityServer;
use lunar_proto::csi::snapshot_metadata_server::SnapshotMetadataServer;
use tonic::service::Routes;

use crate::args::ControllerArgs;
use crate::identity::IdentityService;
use crate::server::serve;

use call::Controller;

/// How long the service may take to show that it is there.
const PROBE: Duration = Duration::from_secs(2);

fn connect(arguments: &ControllerArgs) -> Result<MetadataClient, Box<dyn std::error::Error>> {
    let ControllerArgs { tls_ca, tls_cert, tls_key, .. } = arguments.clone();
    let files = TlsFiles::all_or_none(tls_ca, tls_cert, tls_key)?;
    let tls = files.map(ClientTls::load).transpose()?.map(Arc::new);
    Ok(MetadataClient::over(&arguments.metadata, Policy::default(), tls.as_ref())?)
}

/// Every service of this part of the driver.
fn services(client: MetadataClient, alpha: bool) -> Routes {
    let asked = client.with_policy(Policy::once(PROBE));
    let is_ready = Arc::new(move || {
        let asked = asked.clone();
        Box::pin(async move { asked.cluster().await.is_ok() }) as _
    });
    let controller = Controller::new(client, alpha);
    Routes::new(IdentityServer::new(IdentityService::new(is_ready)))
        .add_service(ControllerServer::new(controller.clone()))
        .add_service(GroupControllerServer::new(controller.clone()))
        .add_service(SnapshotMetadataServer::new(controller))
}

/// Serves until SIGTERM.
///
/// # Errors
/// The arguments cannot be what they say, or the socket cannot be served.
pub async fn run(arguments: &ControllerArgs) -> Result<(), Box<dyn std::error::Error>> {
    let client = connect(arguments)?;
    Ok(serve(&arguments.serve.endpoint, services(client, arguments.alpha)).await?)
}
