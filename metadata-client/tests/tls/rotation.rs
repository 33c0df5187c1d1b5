//! Certificates that change while both ends run.

use std::sync::Arc;
use std::time::Duration;

use lunar_identity::certificate::CertFacts;
use lunar_proto::domain::{CertSerial, RevokeCertificate};
use lunar_proto::roles::Role;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::strangers::credulous;
use crate::world::{World, serial};

/// The serial number that the service shows to a new connection.
async fn shown(world: &World) -> CertSerial {
    let files = world.pki.issue(Role::Admin, "looker");
    let stream = TcpStream::connect(world.address).await.expect("connected");
    let name = ServerName::try_from("service").expect("a name");
    let connector = TlsConnector::from(Arc::clone(&credulous(Some(&files))));
    let stream = connector.connect(name, stream).await.expect("let in");
    let chain = stream.get_ref().1.peer_certificates().expect("a certificate").to_vec();
    CertFacts::of(&chain[0]).expect("ours").serial
}

#[tokio::test]
async fn the_service_takes_another_certificate_without_a_restart() {
    let world = World::start().await;
    let client = world.client_of(Role::Admin, "root");
    client.cluster().await.expect("served");
    let first = shown(&world).await;
    let files = world.pki.issue(Role::Metadata, "m1");
    assert_ne!(serial(&files), first);
    // It looks by itself.
    let changed = tokio::time::timeout(Duration::from_secs(10), async {
        while shown(&world).await == first {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    changed.await.expect("taken");
    assert_eq!(shown(&world).await, serial(&files));
    client.cluster().await.expect("the open connection goes on");
    world.client_of(Role::Node, "n").cluster().await.expect("and new ones are made");
}

#[tokio::test]
async fn broken_files_leave_the_service_as_it_was() {
    let world = World::start().await;
    let first = shown(&world).await;
    std::fs::write(&world.tls.files().cert, "rubbish").expect("written");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(shown(&world).await, first);
    // A certificate of another role is as good as rubbish.
    world.pki.place("m1", &world.pki.order(Role::Node, "m1", (-60, 3600)));
    assert!(!world.tls.look());
    assert_eq!(shown(&world).await, first);
}

#[tokio::test]
async fn a_client_takes_another_certificate_without_a_restart() {
    let world = World::start().await;
    let files = world.pki.issue(Role::Node, "n");
    let client = world.client(files.clone());
    client.cluster().await.expect("the first");
    let first = serial(&files);
    world.pki.issue(Role::Node, "n");
    let reason = "rotated".to_owned();
    let revoke = RevokeCertificate { serial: first, reason };
    world.service.revoke_certificate(&revoke, 0).await.expect("revoked");
    client.cluster().await.expect("the second");
}

#[tokio::test]
async fn a_client_whose_files_are_broken_goes_on() {
    let world = World::start().await;
    let files = world.pki.issue(Role::Node, "n");
    let client = world.client(files.clone());
    client.cluster().await.expect("served");
    std::fs::write(&files.key, "rubbish").expect("written");
    tokio::time::sleep(Duration::from_secs(3)).await;
    client.cluster().await.expect("still served");
}
