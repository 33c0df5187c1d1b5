//! Snapshots: cut once for a name, found, deleted.

use std::time::Duration;

use lunar_proto::csi;
use tonic::Code;

use crate::calls::*;
use crate::node::Node;
use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_cut_once_for_its_name_however_often_it_is_asked_for() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let volume = driver.volume("v").await;
    let first = driver.cut(&volume, "snap").await.expect("cut");
    assert!(first.ready_to_use && first.group_snapshot_id.is_empty());
    assert_eq!((first.size_bytes, &first.source_volume_id), (16 * MIB, &volume));
    assert!(first.creation_time.expect("told").seconds > 1_700_000_000);
    for _ in 0..10 {
        assert_eq!(driver.cut(&volume, "snap").await.expect("found"), first);
    }
    assert_eq!(world.all_snapshots().await.len(), 1);
    let other = driver.volume("w").await;
    assert_eq!(code(driver.cut(&other, "snap").await), Code::AlreadyExists);
    // It stays when its volume goes, and is still found by its name.
    driver.delete(&volume).await.expect("deleted");
    assert_eq!(driver.cut(&volume, "snap").await.expect("found"), first);
    assert_eq!(code(driver.cut(&volume, "another").await), Code::NotFound);
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_got_until_it_is_deleted() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let volume = driver.volume("v").await;
    let got = |id: &str| {
        let request = csi::GetSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        let mut controller = driver.controller();
        async move { controller.get_snapshot(request).await }
    };
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let cut = driver.cut(&volume, "snap").await.expect("cut");
        assert!(seen.insert(cut.snapshot_id.clone()), "an old one is never given again");
        let told = got(&cut.snapshot_id).await.expect("there").into_inner().snapshot;
        assert_eq!(told.as_ref(), Some(&cut));
        for _ in 0..3 {
            driver.delete_snapshot(&cut.snapshot_id).await.expect("deleted");
        }
        assert_eq!(code(got(&cut.snapshot_id).await), Code::NotFound);
    }
    assert_eq!(code(got("no uuid").await), Code::NotFound);
    assert_eq!(code(got("").await), Code::InvalidArgument);
    driver.delete_snapshot("no uuid").await.expect("it is not there");
    assert_eq!(code(driver.delete_snapshot("").await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_an_attached_volume_is_answered_when_it_is_cut() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let volume = driver.volume("v").await;
    let node = Node::join(&world, "a").await;
    let leave = driver.publish(&volume, "a").await.expect("published");
    let held = node.attach(&volume, Some(&leave)).await.expect("granted");
    let short = Duration::from_millis(1500);
    for _ in 0..2 {
        let waits = driver.cut_within(&volume, "snap", short).await;
        assert_eq!(code(waits), Code::Aborted, "nobody has voted");
    }
    // It is in no list before, and cannot be cloned.
    let all = csi::ListSnapshotsRequest::default();
    assert!(driver.snapshots(all.clone()).await.expect("a list").entries.is_empty());
    let [uncut] = &world.all_snapshots().await[..] else { panic!("one, not two") };
    let request = csi::CreateVolumeRequest {
        volume_content_source: of_snapshot(&uncut.id.to_string()),
        ..new_volume("c")
    };
    assert_eq!(code(driver.create(request).await), Code::Aborted);
    // Another name is not cut of the volume at the same time.
    assert_eq!(code(driver.cut_within(&volume, "other", short).await), Code::Aborted);
    let set = node.when_asked(&held).await;
    node.vote(set, &held).await;
    let cut = driver.cut(&volume, "snap").await.expect("cut");
    assert_eq!(cut.snapshot_id, uncut.id.to_string());
    assert_eq!(driver.snapshots(all).await.expect("a list").entries.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_is_answered_when_the_node_votes() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let volume = driver.volume("v").await;
    let node = Node::join(&world, "a").await;
    let held = node.attach(&volume, None).await.expect("granted");
    let mut controller = driver.controller();
    let request = csi::CreateSnapshotRequest {
        source_volume_id: volume.clone(),
        name: "snap".to_owned(),
        ..Default::default()
    };
    let request = within(Duration::from_secs(20), request);
    let waiting = tokio::spawn(async move { controller.create_snapshot(request).await });
    let set = node.when_asked(&held).await;
    assert_eq!(code(driver.cut(&volume, "snap").await), Code::Aborted, "one call for a name");
    node.vote(set, &held).await;
    let cut = waiting.await.expect("no panic").expect("cut").into_inner().snapshot;
    assert!(cut.expect("told").ready_to_use);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_cut_says_why_and_leaves_its_name_free() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let volume = driver.volume("v").await;
    let node = Node::join(&world, "a").await;
    let held = node.attach(&volume, None).await.expect("granted");
    let short = Duration::from_millis(1500);
    assert_eq!(code(driver.cut_within(&volume, "snap", short).await), Code::Aborted);
    let mut controller = driver.controller();
    let request = csi::CreateSnapshotRequest {
        source_volume_id: volume.clone(),
        name: "snap".to_owned(),
        ..Default::default()
    };
    let request = within(Duration::from_secs(20), request);
    let waiting = tokio::spawn(async move { controller.create_snapshot(request).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let set = node.when_asked(&held).await;
    node.refuse(set, &held).await;
    let refused = waiting.await.expect("no panic").expect_err("not cut");
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("frozen"), "{refused}");
    assert!(world.all_snapshots().await.is_empty());
    node.detach(&held).await;
    driver.cut(&volume, "snap").await.expect("nobody is to be asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_node_is_lost_is_not_cut_until_its_journal_is_replayed() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let volume = driver.volume("v").await;
    let (node, next) = (Node::join(&world, "a").await, Node::join(&world, "b").await);
    node.attach(&volume, None).await.expect("granted");
    node.lose().await;
    assert_eq!(code(driver.cut(&volume, "snap").await), Code::FailedPrecondition);
    assert_eq!(code(driver.cut_group("g", &[&volume]).await), Code::FailedPrecondition);
    let volume_content_source = of_volume(&volume);
    let request = csi::CreateVolumeRequest { volume_content_source, ..new_volume("c") };
    assert_eq!(code(driver.create(request).await), Code::FailedPrecondition);
    assert!(world.all_snapshots().await.is_empty());
    let held = next.attach(&volume, None).await.expect("taken over");
    next.retire(&held).await;
    next.detach(&held).await;
    driver.cut(&volume, "snap").await.expect("cut");
}
