//! What is being deleted, and takes its time: it is not there any more.

use lunar_proto::csi;
use lunar_proto::domain::{SnapshotState, VolumeState};
use tonic::Code;

use crate::calls::*;
use crate::node::Node;
use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_being_deleted_is_not_there_any_more() {
    let world = World::start_idle().await;
    let driver = world.driver("s").await;
    Node::join(&world, "a").await;
    let gone = driver.volume("v").await;
    for _ in 0..10 {
        driver.delete(&gone).await.expect("deleted");
    }
    assert_eq!(world.volume(&gone).await.state, VolumeState::Deleting, "it still goes on");
    assert_eq!(code(driver.get(&gone).await), Code::NotFound);
    assert_eq!(code(driver.expand(&gone, GIB, 0).await), Code::NotFound);
    assert_eq!(code(driver.publish(&gone, "a").await), Code::NotFound);
    assert_eq!(code(driver.cut(&gone, "s").await), Code::NotFound);
    assert_eq!(code(driver.cut_group("g", &[&gone]).await), Code::NotFound);
    let volume_content_source = of_volume(&gone);
    let request = csi::CreateVolumeRequest { volume_content_source, ..new_volume("c") };
    assert_eq!(code(driver.create(request).await), Code::NotFound);
    let request = csi::ValidateVolumeCapabilitiesRequest {
        volume_id: gone.clone(),
        volume_capabilities: vec![writer()],
        ..Default::default()
    };
    let validated = driver.controller().validate_volume_capabilities(request).await;
    assert_eq!(code(validated), Code::NotFound);
    driver.unpublish(&gone, "a").await.expect("nobody has it");
    let next = driver.volume("v").await;
    assert_ne!(next, gone);
    // Pages are filled up where others are left out.
    for n in 0..8 {
        let another = driver.volume(&format!("gone-{n}")).await;
        driver.delete(&another).await.expect("deleted");
    }
    let third = driver.volume("w").await;
    let page = driver.list(2, "").await.expect("a page");
    let mut told: Vec<_> =
        page.entries.iter().map(|it| it.volume.clone().expect("told").volume_id).collect();
    told.sort();
    let mut expected = vec![next, third];
    expected.sort();
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_being_deleted_is_not_there_any_more() {
    let world = World::start_idle().await;
    let driver = world.driver("s").await;
    let volume = driver.volume("v").await;
    let gone = driver.cut(&volume, "s").await.expect("cut").snapshot_id;
    let request =
        csi::CreateVolumeRequest { volume_content_source: of_snapshot(&gone), ..new_volume("c") };
    driver.create(request.clone()).await.expect("made");
    for _ in 0..10 {
        driver.delete_snapshot(&gone).await.expect("deleted");
    }
    let [deleting] = &world.all_snapshots().await[..] else { panic!("one") };
    assert_eq!(deleting.state, SnapshotState::Deleting, "the clone stands on it");
    let snapshot_id = || gone.clone();
    let get = csi::GetSnapshotRequest { snapshot_id: snapshot_id(), ..Default::default() };
    assert_eq!(code(driver.controller().get_snapshot(get).await), Code::NotFound);
    let one = csi::ListSnapshotsRequest { snapshot_id: snapshot_id(), ..Default::default() };
    let of = csi::ListSnapshotsRequest { source_volume_id: volume.clone(), ..Default::default() };
    for request in [one, of, csi::ListSnapshotsRequest::default()] {
        assert!(driver.snapshots(request).await.expect("a list").entries.is_empty());
    }
    let again = csi::CreateVolumeRequest { name: "d".to_owned(), ..request };
    assert_eq!(code(driver.create(again).await), Code::NotFound);
    let request =
        csi::GetMetadataAllocatedRequest { snapshot_id: snapshot_id(), ..Default::default() };
    let told = driver.snapshot_metadata().get_metadata_allocated(request).await;
    assert_eq!(told.expect_err("it is gone").code(), Code::NotFound);
    let next = driver.cut(&volume, "s").await.expect("the name is free").snapshot_id;
    assert_ne!(next, gone);
}
