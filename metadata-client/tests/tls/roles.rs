//! Every call with every role, over real connections.

use lunar_identity::{ClientTls, TlsFiles};
use lunar_proto::error::{ErrorReason, ErrorReport};
use lunar_proto::roles::{METHODS, Role, callers_of};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::world::{World, short, unreachable};

/// A connection with the certificate of these files.
async fn channel(world: &World, files: TlsFiles) -> Channel {
    let config = ClientTls::load(files).expect("usable").config().1;
    world.channel(config).await
}

/// Makes a call with an empty request; gives the first message's fate.
async fn call(channel: &Channel, path: &str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("ready");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path: PathAndQuery = path.parse().expect("a path");
    let answers = grpc.server_streaming(Request::new(()), path, codec).await?;
    answers.into_inner().message().await.map(|_| ())
}

/// Whether a call was refused for who makes it.
fn is_refused(path: &str, outcome: &Result<(), Status>) -> bool {
    let Err(status) = outcome else { return false };
    match ErrorReport::from_status(status).map(|report| report.reason) {
        Some(ErrorReason::NotPermitted) => {
            assert_eq!(status.code(), Code::PermissionDenied, "{path}");
            true
        }
        Some(ErrorReason::NoIdentity) => panic!("{path}: {status}"),
        _ => false,
    }
}

#[tokio::test]
async fn every_call_is_open_to_the_roles_of_its_row_and_to_no_other() {
    let world = World::start().await;
    let mut cells = 0;
    for role in [Role::Node, Role::CsiController, Role::Fencer, Role::Admin] {
        let files = world.pki.issue(role, role.as_str());
        let channel = channel(&world, files).await;
        for path in METHODS {
            let outcome = call(&channel, path).await;
            let allowed = callers_of(path).contains(&role);
            assert_eq!(is_refused(path, &outcome), !allowed, "{role} {path}: {outcome:?}");
            cells += 1;
        }
        for path in ["/lunar.v1.Pools/Drop", "/lunar.v1.Pools/createpool", "/grpc.Health/Check"] {
            assert!(is_refused(path, &call(&channel, path).await), "{role} {path}");
        }
    }
    assert_eq!(cells, 4 * METHODS.len());
}

/// The certificate of a server is none of a client: no call of it gets as far as the table.
#[tokio::test]
async fn the_certificate_of_a_service_calls_nothing() {
    let world = World::start().await;
    let client = world.client_of(Role::Metadata, "m2");
    let said = unreachable(client.with_policy(short()).cluster().await);
    assert!(said.contains("the service refuses --tls-cert"), "{said}");
}
