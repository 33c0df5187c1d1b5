//! Publications: given, refused, taken back.

use std::time::Duration;

use lunar_proto::csi::volume_capability::access_mode::Mode;
use tonic::Code;

use crate::calls::*;
use crate::node::Node;
use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_given_the_same_leave_until_it_is_taken_back() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    let node = Node::join(&world, "a").await;
    let mut leaves = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let leave = driver.publish(&id, "a").await.expect("published");
        assert!(leaves.insert(leave.clone()), "an id is never used again");
        for _ in 0..10 {
            assert_eq!(driver.publish(&id, "a").await.expect("published"), leave);
        }
        let status = driver.get(&id).await.expect("there").status.expect("told");
        assert_eq!(status.published_node_ids, ["a"]);
        let held = node.attach(&id, Some(&leave)).await.expect("granted");
        node.detach(&held).await;
        for _ in 0..10 {
            driver.unpublish(&id, "a").await.expect("taken back");
        }
        node.attach(&id, Some(&leave)).await.expect_err("the leave is gone");
    }
    let status = driver.get(&id).await.expect("there").status.expect("told");
    assert!(status.published_node_ids.is_empty());
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_one_writer_has_one_node() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    for node in ["a", "b"] {
        Node::join(&world, node).await;
    }
    let one_node = [
        Mode::SingleNodeWriter,
        Mode::SingleNodeReaderOnly,
        Mode::SingleNodeSingleWriter,
        Mode::SingleNodeMultiWriter,
    ];
    for mode in one_node {
        let with = || capability(mount("ext4"), mode);
        driver.publish_as(&id, "a", with(), false).await.expect("published");
        let refused = driver.publish_as(&id, "b", with(), false).await.expect_err("one node");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{mode:?}");
        assert!(refused.message().contains("'a'"), "it names the node: {refused}");
        driver.unpublish(&id, "").await.expect("from every node");
    }
    driver.publish(&id, "b").await.expect("it is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_have_a_raw_block_volume_of_many_writers_and_a_third_has_not() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    for node in ["a", "b", "c"] {
        Node::join(&world, node).await;
    }
    for node in ["a", "b"] {
        driver.publish_as(&id, node, migratable(), false).await.expect(node);
    }
    let third = driver.publish_as(&id, "c", migratable(), false).await;
    assert_eq!(code(third), Code::FailedPrecondition);
    let status = driver.get(&id).await.expect("there").status.expect("told");
    assert_eq!(status.published_node_ids, ["a", "b"]);
    driver.unpublish(&id, "a").await.expect("taken back");
    driver.publish_as(&id, "c", migratable(), false).await.expect("there is room");
    driver.unpublish(&id, "").await.expect("from every node");
    assert!(world.volume(&id).await.publications.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_way_at_the_same_node_already_exists() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    Node::join(&world, "a").await;
    driver.publish(&id, "a").await.expect("published");
    let reader = capability(mount("ext4"), Mode::SingleNodeReaderOnly);
    for (with, readonly) in [(writer(), true), (reader, false), (migratable(), false)] {
        let refused = driver.publish_as(&id, "a", with, readonly).await;
        assert_eq!(code(refused), Code::AlreadyExists);
    }
    driver.unpublish(&id, "a").await.expect("taken back");
    driver.publish_as(&id, "a", writer(), true).await.expect("for reading");
    assert!(world.volume(&id).await.publications[0].reads_only);
    assert_eq!(code(driver.publish(&id, "a").await), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_there_is_not_found_and_has_nothing_to_give_back() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    let gone = driver.volume("gone").await;
    driver.delete(&gone).await.expect("deleted");
    Node::join(&world, "a").await;
    for node in ["nobody", "no name at all", "a/b", &"n".repeat(300)] {
        assert_eq!(code(driver.publish(&id, node).await), Code::NotFound, "{node}");
        driver.unpublish(&id, node).await.expect("it has nothing");
    }
    for volume in [gone.as_str(), "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10", "v", "no uuid"] {
        assert_eq!(code(driver.publish(volume, "a").await), Code::NotFound, "{volume}");
        for node in ["a", ""] {
            driver.unpublish(volume, node).await.expect("nobody has it");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpublish_ends_when_the_node_has_let_go_and_not_before() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    let node = Node::join(&world, "a").await;
    Node::join(&world, "b").await;
    let leave = driver.publish(&id, "a").await.expect("published");
    let held = node.attach(&id, Some(&leave)).await.expect("granted");
    for _ in 0..2 {
        let waits = driver.unpublish(&id, "a").await.expect_err("the node has it");
        assert_eq!(waits.code(), Code::Aborted);
        assert!(waits.message().contains("node 'a'"), "it says what it waits for: {waits}");
    }
    assert_eq!(code(driver.publish(&id, "b").await), Code::FailedPrecondition);
    assert_eq!(code(driver.publish(&id, "a").await), Code::Aborted);
    let condition = driver.get(&id).await.expect("there").status.expect("told");
    assert!(condition.volume_condition.expect("told").abnormal, "it is being taken away");
    let mut controller = driver.controller();
    let request = lunar_proto::csi::ControllerUnpublishVolumeRequest {
        volume_id: id.clone(),
        node_id: "a".to_owned(),
        ..Default::default()
    };
    let request = within(Duration::from_secs(20), request);
    let waiting =
        tokio::spawn(async move { controller.controller_unpublish_volume(request).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "the node has it");
    // Another call for the same is turned away meanwhile.
    assert_eq!(code(driver.unpublish(&id, "a").await), Code::Aborted);
    node.detach(&held).await;
    waiting.await.expect("no panic").expect("it has let go");
    driver.publish(&id, "b").await.expect("it is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_waited_for_until_its_loss_is_proven() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    let node = Node::join(&world, "a").await;
    Node::join(&world, "b").await;
    let leave = driver.publish(&id, "a").await.expect("published");
    node.attach(&id, Some(&leave)).await.expect("granted");
    assert_eq!(code(driver.unpublish(&id, "a").await), Code::Aborted);
    node.lose().await;
    driver.unpublish(&id, "a").await.expect("that is proven");
    driver.publish(&id, "b").await.expect("it is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_published_or_held_by_hand_is_not_deleted() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    let node = Node::join(&world, "a").await;
    driver.publish(&id, "a").await.expect("published");
    assert_eq!(code(driver.delete(&id).await), Code::FailedPrecondition);
    driver.unpublish(&id, "a").await.expect("taken back");
    let held = node.attach(&id, None).await.expect("by hand");
    assert_eq!(code(driver.delete(&id).await), Code::FailedPrecondition);
    assert_eq!(code(driver.publish(&id, "a").await), Code::FailedPrecondition);
    node.detach(&held).await;
    driver.delete(&id).await.expect("deleted");
    assert!(world.volumes().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_volume_grows() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    let node = Node::join(&world, "a").await;
    let leave = driver.publish(&id, "a").await.expect("published");
    node.attach(&id, Some(&leave)).await.expect("granted");
    assert_eq!(driver.expand(&id, 32 * MIB, 0).await.expect("grown"), 32 * MIB);
}
