//! Certificates that are not, not yet or no longer good.

use std::time::Duration;

use lunar_metadata_client::{ClientError, TlsFiles};
use lunar_proto::domain::RevokeCertificate;
use lunar_proto::error::ErrorReason;
use lunar_proto::roles::Role;
use lunar_types::ClusterId;

use crate::world::{DAY, Pki, World, client_at, refusal, serial, unreachable};

/// Files of one authority that believe what another has signed too.
fn bundled(world: &World, other: &Pki) {
    let mut both = std::fs::read_to_string(world.pki.ca()).expect("read");
    both += &std::fs::read_to_string(other.ca()).expect("read");
    std::fs::write(world.pki.ca(), both).expect("written");
    assert!(world.tls.look());
}

#[tokio::test]
async fn expired_and_future_certificates_are_refused() {
    let world = World::start().await;
    for (holder, life) in [("late", (-2 * DAY, -60)), ("early", (3600, DAY))] {
        let files = world.pki.place(holder, &world.pki.order(Role::Node, holder, life));
        let said = unreachable(world.client(files).cluster().await);
        assert!(said.contains("has expired or is not valid yet"), "{holder}: {said}");
    }
}

#[tokio::test]
async fn a_certificate_that_expires_ends_on_an_open_connection() {
    let world = World::start().await;
    let files = world.pki.place("n", &world.pki.order(Role::Node, "n", (-60, 3)));
    let client = world.client(files.clone());
    client.cluster().await.expect("still valid");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(refusal(client.cluster().await), ErrorReason::CertificateExpired);
    // Another one in its place is taken without a restart.
    world.pki.issue(Role::Node, "n");
    client.cluster().await.expect("the new one");
}

#[tokio::test]
async fn a_revoked_certificate_ends_on_an_open_connection_and_for_new_ones() {
    let world = World::start().await;
    let files = world.pki.issue(Role::Node, "n");
    let client = world.client(files.clone());
    client.cluster().await.expect("valid");
    let admin = world.client_of(Role::Admin, "root");
    let revoke = RevokeCertificate { serial: serial(&files), reason: "laptop lost".to_owned() };
    assert_eq!(refusal(client.revoke_certificate(&revoke).await), ErrorReason::NotPermitted);
    for _ in 0..2 {
        admin.revoke_certificate(&revoke).await.expect("revoked");
    }
    let refused = client.cluster().await;
    let said = refused.as_ref().expect_err("refused").to_string();
    assert!(said.contains(&revoke.serial.to_string()) && said.contains("revoked"), "{said}");
    assert_eq!(refusal(refused), ErrorReason::CertificateRevoked);
    let fresh = world.client(files);
    assert_eq!(refusal(fresh.cluster().await), ErrorReason::CertificateRevoked);
    let revoked = admin.revoked_certificates().await.expect("a list");
    assert_eq!(revoked.len(), 1);
    assert_eq!((&revoked[0].serial, revoked[0].reason.as_str()), (&revoke.serial, "laptop lost"));
    assert!(revoked[0].revoked_unix_seconds > 1_700_000_000);
    // The node goes on with another certificate.
    world.client_of(Role::Node, "n").cluster().await.expect("the new one");
}

#[tokio::test]
async fn another_authority_makes_nobody() {
    let world = World::start().await;
    let other = Pki::new(world.service.cluster().id);
    // It believes the service, the service does not believe it.
    let files = TlsFiles { ca: world.pki.ca(), ..other.issue(Role::Admin, "root") };
    let said = unreachable(client_at(world.address, files).cluster().await);
    assert!(said.contains("not in the service's --tls-client-ca"), "{said}");
    // And the other way round.
    let files = TlsFiles { ca: other.ca(), ..world.pki.issue(Role::Admin, "root") };
    let said = unreachable(client_at(world.address, files).cluster().await);
    assert!(said.contains("not in --tls-ca"), "{said}");
}

#[tokio::test]
async fn a_certificate_of_another_cluster_is_refused_though_its_authority_is_trusted() {
    let world = World::start().await;
    let other = Pki::new(ClusterId::from_u128(7));
    bundled(&world, &other);
    // The client would not talk to this service either: its own cluster is another.
    let files = TlsFiles { ca: world.pki.ca(), ..other.issue(Role::Admin, "root") };
    let said = unreachable(client_at(world.address, files.clone()).cluster().await);
    assert!(said.contains("is not of cluster"), "{said}");
    let outcome = crate::strangers::call_over_any_server(&world, &files).await;
    let report = lunar_proto::error::ErrorReport::from_status(&outcome).expect("ours");
    assert_eq!(report.reason, ErrorReason::OtherCluster);
    assert_eq!(report.facts["cluster_given"], ClusterId::from_u128(7).to_string());
}

#[tokio::test]
async fn an_authority_that_is_trusted_no_more_ends_open_connections() {
    let world = World::start().await;
    let other = Pki::new(world.service.cluster().id);
    bundled(&world, &other);
    // The client has files of its own, which stay.
    let ca = other.folder.path().join("both.crt");
    std::fs::copy(world.pki.ca(), &ca).expect("copied");
    let files = TlsFiles { ca, ..other.issue(Role::Admin, "root") };
    let (client, kept) = (client_at(world.address, files), world.client_of(Role::Admin, "kept"));
    client.cluster().await.expect("trusted");
    kept.cluster().await.expect("trusted");
    let both = std::fs::read_to_string(world.pki.ca()).expect("read");
    let end = "-----END CERTIFICATE-----\n";
    let first = both.split_inclusive(end).next().expect("the first");
    std::fs::write(world.pki.ca(), first).expect("written");
    assert!(world.tls.look());
    assert_eq!(refusal(client.cluster().await), ErrorReason::CertificateExpired);
    kept.cluster().await.expect("still trusted");
}

#[tokio::test]
async fn revocations_outlive_the_service() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    let serial = "0a1b2c".parse().expect("a number");
    let open = async || {
        use lunar_metadata::seams::{SystemClock, SystemIds};
        use lunar_metadata::service::{Seams, Service, Settings};
        let (clock, ids) =
            (std::sync::Arc::new(SystemClock::start()), std::sync::Arc::new(SystemIds));
        let store = lunar_metadata::store::RedbStore::open(&path).expect("opened");
        Service::open(store, Seams { clock, ids }, Settings::default()).await.expect("starts")
    };
    let service = open().await;
    assert!(!service.is_revoked(&serial));
    let revoke = RevokeCertificate { serial: serial.clone(), reason: String::new() };
    service.revoke_certificate(&revoke, 5).await.expect("revoked");
    assert!(service.is_revoked(&serial));
    drop(service);
    assert!(open().await.is_revoked(&serial));
}

#[tokio::test]
async fn a_refusal_is_no_reason_to_try_again() {
    let world = World::start().await;
    let client = world.client_of(Role::Node, "n");
    let refused = client.pools().await;
    refused.expect("a node reads pools");
    let error = client.volumes().await.expect_err("not a node's");
    assert!(matches!(error, ClientError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("lunar://"), "{error}");
}
