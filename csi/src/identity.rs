//! The service Identity: who the driver is, what it can, and whether it is ready.
//!
//! Ready is who reaches what it speaks to: the metadata service, or fs-core. One that is not is not
//! restarted for it, so `Probe` answers also then.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use lunar_proto::csi::identity_server::Identity;
use lunar_proto::csi::plugin_capability::service::Type as ServiceType;
use lunar_proto::csi::plugin_capability::volume_expansion::Type as ExpansionType;
use lunar_proto::csi::plugin_capability::{Service, Type, VolumeExpansion};
use lunar_proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, PluginCapability, ProbeRequest, ProbeResponse,
};
use tonic::{Request, Response, Status};

/// The name of the driver in Kubernetes.
pub const DRIVER_NAME: &str = "csi.lunar.storage";

/// Whether what the driver speaks to answers.
pub type IsReady = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// The service.
#[derive(Clone)]
pub struct IdentityService {
    is_ready: IsReady,
}

impl IdentityService {
    /// The service of a driver that is ready when this says so.
    #[must_use]
    pub fn new(is_ready: IsReady) -> Self {
        Self { is_ready }
    }
}

impl std::fmt::Debug for IdentityService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityService").finish_non_exhaustive()
    }
}

fn capabilities() -> Vec<PluginCapability> {
    let services = [
        ServiceType::ControllerService,
        ServiceType::GroupControllerService,
        ServiceType::SnapshotMetadataService,
        ServiceType::VolumeAccessibilityConstraints,
    ];
    let service = |kind| Type::Service(Service { r#type: i32::from(kind) });
    let online = VolumeExpansion { r#type: ExpansionType::Online.into() };
    let kinds = services.map(service).into_iter().chain([Type::VolumeExpansion(online)]);
    kinds.map(|kind| PluginCapability { r#type: Some(kind) }).collect()
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: DRIVER_NAME.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: std::collections::HashMap::new(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities: capabilities() }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some((self.is_ready)().await) }))
    }
}
