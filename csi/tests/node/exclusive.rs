//! Reading and writing, one pod and several.

use std::fs::OpenOptions;
use std::io::Write as _;

use lunar_proto::csi::volume_capability::access_mode::Mode;
use tonic::Code;

use crate::world::{World, code, wanted, wanted_block};

#[tokio::test]
async fn a_read_only_pod_cannot_write_and_another_one_can() {
    let world = World::new().await;
    for (fs_type, mib) in [("ext4", 32), ("xfs", 320)] {
        let (writer, wanted) = (world.volume(mib), wanted(fs_type));
        let reader = writer.at_target(&world.pod(&writer.id, "pod-2"));
        world.publish(&writer, &wanted).await.expect("published");
        for _ in 0..10 {
            world.publish(&reader, &wanted.clone().readonly()).await.expect("published");
        }
        let mounts = world.mounts_at(&reader.target);
        assert!(mounts.len() == 1 && mounts[0].is_read_only(), "{mounts:?}");
        std::fs::write(writer.file("a"), "written").expect("written");
        assert_eq!(std::fs::read_to_string(reader.file("a")).expect("read"), "written");
        let refused = std::fs::write(reader.file("b"), "written").expect_err("it only reads");
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        world.unpublish(&reader).await.expect("unpublished");
        world.unpublish(&writer).await.expect("unpublished");
        world.unstage(&writer).await.expect("unstaged");
        world.assert_clean(&writer);
    }
}

#[tokio::test]
async fn the_same_target_in_another_way_is_refused() {
    let world = World::new().await;
    let claim = world.volume(32);
    world.publish(&claim, &wanted("ext4")).await.expect("published");
    let refused = world.publish(&claim, &wanted("ext4").readonly()).await;
    assert_eq!(code(refused), Code::AlreadyExists);
    assert_eq!(code(world.publish(&claim, &wanted("xfs")).await), Code::AlreadyExists);
    assert_eq!(code(world.stage(&claim, &wanted("xfs")).await), Code::AlreadyExists);
    let reader = wanted("ext4").mode(Mode::SingleNodeReaderOnly);
    assert_eq!(code(world.stage(&claim, &reader).await), Code::AlreadyExists);
    assert!(world.is_attached(&claim), "what is mounted stays attached");
    assert_eq!(world.mounts().len(), 2);
}

#[tokio::test]
async fn a_read_only_raw_block_volume_takes_no_writes_and_excludes_writers() {
    let world = World::new().await;
    let (reader, wanted) = (world.volume(8), wanted_block());
    let writer = reader.at_target(&world.pod(&reader.id, "pod-2"));
    world.publish(&reader, &wanted.clone().readonly()).await.expect("published");
    world.publish(&reader, &wanted.clone().readonly()).await.expect("published still");
    let write = |path: &str| {
        let device = OpenOptions::new().write(true).open(path);
        device.and_then(|mut device| device.write_all(b"x").and_then(|()| device.sync_all()))
    };
    assert!(write(&reader.target).is_err(), "it only reads");
    assert_eq!(code(world.publish(&writer, &wanted).await), Code::FailedPrecondition);
    assert!(world.mounts_at(&writer.target).is_empty());
    world.unpublish(&reader).await.expect("unpublished");
    world.publish(&writer, &wanted).await.expect("nobody reads any more");
    write(&writer.target).expect("it writes");
    let refused = world.publish(&reader, &wanted.clone().readonly()).await;
    assert_eq!(code(refused), Code::FailedPrecondition);
    write(&writer.target).expect("it still writes");
    world.unpublish(&writer).await.expect("unpublished");
    world.unstage(&writer).await.expect("unstaged");
    world.assert_clean(&writer);
}

#[tokio::test]
async fn a_device_that_was_read_only_is_writable_when_its_last_reader_has_gone() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(8), wanted_block().readonly());
    let second = claim.at_target(&world.pod(&claim.id, "pod-2"));
    world.publish(&claim, &wanted).await.expect("published");
    world.publish(&second, &wanted).await.expect("published");
    world.unpublish(&claim).await.expect("unpublished");
    let open = || OpenOptions::new().write(true).open(&claim.device.device);
    let is_writable = || open().and_then(|mut device| device.write_all(b"x")).is_ok();
    assert!(!is_writable(), "the second one still reads");
    world.unpublish(&second).await.expect("unpublished");
    assert!(is_writable(), "nobody reads any more");
}

async fn assert_one_pod(world: &World) {
    for (wanted, mib) in [(wanted("ext4"), 32), (wanted_block(), 8)] {
        let first = world.volume(mib);
        let second = first.at_target(&world.pod(&first.id, "pod-2"));
        let alone = wanted.mode(Mode::SingleNodeSingleWriter);
        for _ in 0..2 {
            world.publish(&first, &alone).await.expect("published");
        }
        assert_eq!(code(world.publish(&second, &alone).await), Code::FailedPrecondition);
        world.unpublish(&first).await.expect("unpublished");
        world.publish(&second, &alone).await.expect("the first one has gone");
        world.unpublish(&second).await.expect("unpublished");
        world.unstage(&first).await.expect("unstaged");
        world.assert_clean(&first);
    }
}

#[tokio::test]
async fn a_volume_for_one_pod_is_given_to_no_second_one() {
    assert_one_pod(&World::new().await).await;
}

#[tokio::test]
async fn a_kubelet_directory_behind_a_symlink_of_the_host_is_the_same_to_the_driver() {
    assert_one_pod(&World::by_symlink().await).await;
}
