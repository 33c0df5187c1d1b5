//! Over TLS, with the certificate of a controller and with those of others.

use std::time::SystemTime;

use lunar_identity::TlsFiles;
use lunar_identity::issue::{Authority, Order};
use lunar_proto::csi;
use lunar_proto::roles::Role;
use tempfile::TempDir;
use tonic::Code;

use crate::calls::*;
use crate::node::Node;
use crate::world::*;

const DAY: i64 = 86_400;

/// An authority with its files.
struct Pki {
    folder: TempDir,
    authority: Authority,
    now: i64,
}

#[allow(clippy::disallowed_methods, reason = "certificates are valid by the time of day")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("a time")
}

impl Pki {
    fn new(world: &World) -> Self {
        let (folder, now) = (tempfile::tempdir().expect("a folder"), now());
        let cluster = world.service.cluster().id;
        let (authority, root) = Authority::new(cluster, now - DAY, now + DAY).expect("made");
        std::fs::write(folder.path().join("ca.crt"), &root.certificate).expect("written");
        Self { folder, authority, now }
    }

    fn issue(&self, role: Role, holder: &str) -> TlsFiles {
        let (not_before, not_after) = (self.now - 60, self.now + DAY / 2);
        let order = Order { role, name: name(holder), hosts: vec![], not_before, not_after };
        let issued = self.authority.issue(&order).expect("issued");
        let at = |file: String| self.folder.path().join(file);
        let (cert, key) = (at(format!("{holder}.crt")), at(format!("{holder}.key")));
        std::fs::write(&cert, &issued.certificate).expect("written");
        std::fs::write(&key, issued.key.reveal()).expect("written");
        TlsFiles { ca: at("ca.crt".to_owned()), cert, key }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_a_controller_is_enough_for_all_that_it_does() {
    let world = World::start().await;
    let pki = Pki::new(&world);
    let endpoint = world.serve_over_tls(pki.issue(Role::Metadata, "m1")).await;
    let files = pki.issue(Role::CsiController, "controller");
    let driver = Driver::start_with(world.socket("s"), &endpoint, Some(&files)).await;
    let node = Node::join(&world, "a").await;
    let here = [("csi.lunar.storage/cluster", world.service.cluster().id.to_string())];
    let segments = here.map(|(key, value)| (key.to_owned(), value)).into();
    let requisite = vec![csi::Topology { segments }];
    let request = csi::CreateVolumeRequest {
        accessibility_requirements: Some(csi::TopologyRequirement { requisite, preferred: vec![] }),
        ..new_volume("v")
    };
    let volume = driver.create(request).await.expect("made").volume_id;
    let snapshot = driver.cut(&volume, "snap").await.expect("cut").snapshot_id;
    let group = driver.cut_group("g", &[&volume]).await.expect("cut");
    for (name, source) in [("c1", of_snapshot(&snapshot)), ("c2", of_volume(&volume))] {
        let volume_content_source = source;
        let capacity_range = range(32 * MIB, 0);
        let request =
            csi::CreateVolumeRequest { volume_content_source, capacity_range, ..new_volume(name) };
        driver.create(request).await.expect(name);
    }
    driver.expand(&volume, 64 * MIB, 0).await.expect("grown");
    let leave = driver.publish(&volume, "a").await.expect("published");
    // A set that has to be waited for.
    let held = node.attach(&volume, Some(&leave)).await.expect("granted");
    let mut controller = driver.controller();
    let request = csi::CreateSnapshotRequest {
        source_volume_id: volume.clone(),
        name: "second".to_owned(),
        ..Default::default()
    };
    let waiting = tokio::spawn(async move { controller.create_snapshot(request).await });
    let set = node.when_asked(&held).await;
    node.vote(set, &held).await;
    waiting.await.expect("no panic").expect("cut");
    node.detach(&held).await;
    driver.unpublish(&volume, "a").await.expect("taken back");
    assert_eq!(driver.list(0, "").await.expect("a list").entries.len(), 3);
    let all = csi::ListSnapshotsRequest::default();
    assert_eq!(driver.snapshots(all).await.expect("a list").entries.len(), 3);
    let capacity = csi::GetCapacityRequest::default();
    driver.controller().get_capacity(capacity).await.expect("told");
    let request =
        csi::GetMetadataAllocatedRequest { snapshot_id: snapshot.clone(), ..Default::default() };
    let told = driver.snapshot_metadata().get_metadata_allocated(request).await;
    told.expect("told").into_inner().message().await.expect("a message");
    driver.delete_group(&group.group_snapshot_id, &ids_of(&group)).await.expect("deleted");
    driver.delete_snapshot(&snapshot).await.expect("deleted");
    driver.delete(&volume).await.expect("deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_a_node_makes_no_volume() {
    let world = World::start().await;
    let pki = Pki::new(&world);
    let endpoint = world.serve_over_tls(pki.issue(Role::Metadata, "m1")).await;
    let files = pki.issue(Role::Node, "a");
    let driver = Driver::start_with(world.socket("s"), &endpoint, Some(&files)).await;
    assert_eq!(code(driver.create(new_volume("v")).await), Code::PermissionDenied);
    assert!(world.volumes().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_another_cluster_is_not_believed() {
    let (world, other) = (World::start().await, World::start().await);
    let (pki, foreign) = (Pki::new(&world), Pki::new(&other));
    let endpoint = world.serve_over_tls(pki.issue(Role::Metadata, "m1")).await;
    let files = foreign.issue(Role::CsiController, "controller");
    let driver = Driver::start_with(world.socket("s"), &endpoint, Some(&files)).await;
    let request = within(std::time::Duration::from_secs(2), new_volume("v"));
    assert_eq!(code(driver.controller().create_volume(request).await), Code::Unavailable);
    assert!(world.volumes().await.is_empty());
}
