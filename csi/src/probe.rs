//! `csi-driver probe`: whether the driver at a socket is ready, by its exit code.

use lunar_proto::csi::ProbeRequest;
use lunar_proto::csi::identity_client::IdentityClient;
use tonic::transport::Endpoint;

use crate::args::ProbeArgs;

/// Asks once.
///
/// # Errors
/// Nobody serves there, or the driver is not ready.
pub async fn run(arguments: &ProbeArgs) -> Result<(), Box<dyn std::error::Error>> {
    let path = arguments.endpoint.display();
    let channel = Endpoint::from_shared(format!("unix:{path}"))?.connect().await?;
    let answer = IdentityClient::new(channel).probe(ProbeRequest {}).await?.into_inner();
    match answer.ready {
        Some(false) => Err(format!("the driver at {path} does not reach what it speaks to").into()),
        _ => Ok(()),
    }
}
