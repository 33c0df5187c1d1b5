//! The life of a volume on a node, in each form, and each call again and again.

use std::io::Write as _;
use std::path::Path;

use lunar_proto::csi::node_service_capability::Type;
use lunar_proto::csi::node_service_capability::rpc::Type as RpcType;
use lunar_proto::csi::volume_capability::access_mode::Mode;
use lunar_proto::csi::volume_usage::Unit;
use lunar_proto::csi::{NodeGetCapabilitiesRequest, NodeGetInfoRequest};
use lunar_proto::v1::ContentState;
use tonic::Code;

use crate::fscore::Hook;
use crate::world::{MIB, Wanted, World, code, until, wanted, wanted_block};

/// How often each call is repeated.
const TIMES: usize = 10;

async fn live(world: &World, mib: u64, wanted: &Wanted) {
    let claim = world.volume(mib);
    for _ in 0..TIMES {
        world.stage(&claim, wanted).await.expect("staged");
        assert_eq!(world.mounts_at(&claim.staging).len(), 1);
    }
    for _ in 0..TIMES {
        world.publish(&claim, wanted).await.expect("published");
        assert_eq!(world.mounts_at(&claim.target).len(), 1);
    }
    std::fs::write(claim.file("kept"), "of the pod").expect("written");
    for _ in 0..TIMES {
        world.unpublish(&claim).await.expect("unpublished");
        assert!(!Path::new(&claim.target).exists());
    }
    for _ in 0..TIMES {
        world.unstage(&claim).await.expect("unstaged");
    }
    world.assert_clean(&claim);
    assert_eq!(world.content(&claim), ContentState::Used);
    world.publish(&claim, wanted).await.expect("published, and staged for it");
    assert_eq!(std::fs::read_to_string(claim.file("kept")).expect("read"), "of the pod");
    world.unpublish(&claim).await.expect("unpublished");
    world.unstage(&claim).await.expect("unstaged");
    world.assert_clean(&claim);
}

#[tokio::test]
async fn an_ext4_volume_lives_and_keeps_its_data_and_each_call_may_be_repeated() {
    live(&World::new().await, 32, &wanted("ext4")).await;
}

#[tokio::test]
async fn an_xfs_volume_lives_and_keeps_its_data_and_each_call_may_be_repeated() {
    live(&World::new().await, 320, &wanted("xfs")).await;
}

#[tokio::test]
async fn no_file_system_that_is_asked_for_is_ext4() {
    let world = World::new().await;
    let claim = world.volume(32);
    world.stage(&claim, &wanted("")).await.expect("staged");
    assert_eq!(world.mounts_at(&claim.staging)[0].fs_type, "ext4");
}

#[tokio::test]
async fn a_raw_block_volume_lives_and_each_call_may_be_repeated() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(8), wanted_block());
    for _ in 0..TIMES {
        world.stage(&claim, &wanted).await.expect("staged");
    }
    assert!(world.mounts().is_empty(), "a device is not mounted where it is staged");
    for _ in 0..TIMES {
        world.publish(&claim, &wanted).await.expect("published");
        assert_eq!(world.mounts_at(&claim.target).len(), 1);
    }
    let mut device = std::fs::OpenOptions::new().write(true).open(&claim.target).expect("opened");
    device.write_all(b"of the pod").and_then(|()| device.sync_all()).expect("written");
    drop(device);
    assert_eq!(code(world.unstage(&claim).await), Code::FailedPrecondition, "a pod has it");
    for _ in 0..TIMES {
        world.unpublish(&claim).await.expect("unpublished");
    }
    for _ in 0..TIMES {
        world.unstage(&claim).await.expect("unstaged");
    }
    world.assert_clean(&claim);
    assert_eq!(claim.device.read(0, 10), b"of the pod");
    assert_eq!(world.content(&claim), ContentState::Used);
}

#[tokio::test]
async fn several_pods_of_a_node_share_a_volume_and_it_stays_until_the_last_has_gone() {
    let world = World::new().await;
    let (first, wanted) = (world.volume(32), wanted("ext4"));
    let second = first.at_target(&world.pod(&first.id, "pod-2"));
    world.stage(&first, &wanted).await.expect("staged");
    for claim in [&first, &second] {
        world.publish(claim, &wanted).await.expect("published");
    }
    std::fs::write(first.file("shared"), "by both").expect("written");
    assert_eq!(std::fs::read_to_string(second.file("shared")).expect("read"), "by both");
    world.unpublish(&first).await.expect("unpublished");
    let refused = world.unstage(&first).await.expect_err("the second pod has it");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&second.target), "{refused}");
    assert_eq!(world.mounts_at(&first.staging).len(), 1);
    world.unpublish(&second).await.expect("unpublished");
    world.unstage(&first).await.expect("unstaged");
    world.assert_clean(&first);
}

#[tokio::test]
async fn an_open_file_keeps_a_volume_published_and_its_process_is_named() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    world.publish(&claim, &wanted).await.expect("published");
    let file = std::fs::File::create(claim.file("open")).expect("made");
    let mut pod = std::process::Command::new("sleep").arg("600").stdin(file).spawn().expect("runs");
    let refused = world.unpublish(&claim).await.expect_err("a file is open");
    let named = format!("process {} (sleep)", pod.id());
    pod.kill().and_then(|()| pod.wait()).expect("ended");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&named), "{refused}");
    assert_eq!(world.mounts_at(&claim.target).len(), 1);
    world.unpublish(&claim).await.expect("unpublished");
}

#[tokio::test]
async fn a_mount_in_another_namespace_keeps_a_volume_attached_and_unharmed() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    world.publish(&claim, &wanted).await.expect("published");
    std::fs::write(claim.file("kept"), "data").expect("written");
    let mut other = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sleep", "600"])
        .spawn()
        .expect("unshare of util-linux is installed");
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let (pid, own) = (other.id().to_string(), namespace("thread-self"));
    until("it has mounts of its own", || namespace(&pid) != own).await;
    until("it sleeps", || {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim() == "sleep")
    })
    .await;
    world.unpublish(&claim).await.expect("what this node sees is unmounted");
    for _ in 0..2 {
        assert_eq!(code(world.unstage(&claim).await), Code::FailedPrecondition);
        assert!(world.is_attached(&claim), "somebody still has it");
    }
    assert!(world.stage(&claim, &wanted).await.is_err(), "nobody checks what is mounted");
    other.kill().and_then(|()| other.wait()).expect("ended");
    until("its mounts are gone", || !claim.device.is_claimed()).await;
    world.publish(&claim, &wanted).await.expect("published");
    assert_eq!(std::fs::read_to_string(claim.file("kept")).expect("read"), "data");
    world.unpublish(&claim).await.expect("unpublished");
    world.unstage(&claim).await.expect("unstaged");
    world.assert_clean(&claim);
}

#[tokio::test]
async fn mount_flags_are_on_the_mounts_of_the_stage_and_of_the_pod() {
    let world = World::new().await;
    let claim = world.volume(32);
    let wanted = wanted("ext4").flags(&["noatime", "nodev,nosuid", "noexec", "commit=17"]);
    world.publish(&claim, &wanted).await.expect("published");
    for path in [&claim.staging, &claim.target] {
        let mount = world.mounts_at(path).pop().expect("it is mounted");
        for attribute in ["noatime", "nodev", "nosuid", "noexec"] {
            assert!(mount.attributes.split(',').any(|is| is == attribute), "{mount:?}");
        }
        assert!(mount.fs_options.contains("commit=17"), "{mount:?}");
    }
}

#[tokio::test]
async fn a_flag_that_the_file_system_does_not_know_is_refused_and_leaves_nothing() {
    let world = World::new().await;
    for (fs_type, mib) in [("ext4", 32), ("xfs", 320)] {
        let claim = world.volume(mib);
        let refused = world.stage(&claim, &wanted(fs_type).flags(&["no_such_flag"])).await;
        assert_eq!(code(refused), Code::InvalidArgument);
        world.assert_clean(&claim);
    }
}

#[tokio::test]
async fn clones_with_one_xfs_uuid_are_mounted_on_one_node() {
    let world = World::new().await;
    let claims = [world.volume(320), world.volume(320)];
    for claim in &claims {
        claim.device.run("mkfs.xfs", &["-q", "-m", "uuid=b8090b0d-2564-4b31-a555-65385345661f"]);
        world.fscore.volume(&claim.id, |volume| volume.content = ContentState::Used);
        world.publish(claim, &wanted("xfs")).await.expect("published");
    }
}

#[tokio::test]
async fn stats_tell_bytes_and_inodes_of_a_file_system_and_the_size_of_a_device() {
    let world = World::new().await;
    let claim = world.volume(32);
    assert_eq!(code(world.stats(&claim, &claim.target).await), Code::NotFound);
    world.publish(&claim, &wanted("ext4")).await.expect("published");
    for path in [&claim.target, &claim.staging] {
        let stats = world.stats(&claim, path).await.expect("told");
        let [bytes, inodes] = &stats.usage[..] else { panic!("{stats:?}") };
        assert_eq!((bytes.unit(), inodes.unit()), (Unit::Bytes, Unit::Inodes));
        assert!(bytes.total > 20 << 20 && bytes.total <= 32 << 20, "{bytes:?}");
        assert!(bytes.used + bytes.available <= bytes.total, "{bytes:?}");
        assert_eq!(inodes.used + inodes.available, inodes.total);
        assert!(!stats.volume_condition.expect("told").abnormal);
    }
    let block = world.volume(8);
    world.publish(&block, &wanted_block()).await.expect("published");
    let stats = world.stats(&block, &block.target).await.expect("told");
    assert_eq!(stats.usage.len(), 1);
    assert_eq!(stats.usage[0].total, 8 * i64::try_from(MIB).expect("small"));
}

#[tokio::test]
async fn a_node_is_named_as_fs_core_names_it_and_is_of_its_cluster() {
    let world = World::new().await;
    let info = world.client().node_get_info(NodeGetInfoRequest {}).await.expect("told");
    let info = info.into_inner();
    assert_eq!(info.node_id, "node-1");
    let segments = info.accessible_topology.expect("told").segments;
    let cluster = "3f0c2a8e-6a53-4d0c-9a55-0f1f4a8b9c01";
    assert_eq!(segments["csi.lunar.storage/cluster"], cluster);
    world.fscore.hook("status", Hook::Refuse(tonic::Status::unknown("gone")));
    let answer = world.client().node_get_info(NodeGetInfoRequest {}).await;
    assert_eq!(code(answer), Code::Unavailable);
}

#[tokio::test]
async fn the_capabilities_are_those_that_the_node_has() {
    let world = World::new().await;
    let told = world.client().node_get_capabilities(NodeGetCapabilitiesRequest {}).await;
    let mut kinds: Vec<RpcType> = Vec::new();
    for capability in told.expect("told").into_inner().capabilities {
        let Some(Type::Rpc(rpc)) = capability.r#type else { panic!("{capability:?}") };
        kinds.push(rpc.r#type());
    }
    kinds.sort();
    let expected = [
        RpcType::StageUnstageVolume,
        RpcType::GetVolumeStats,
        RpcType::ExpandVolume,
        RpcType::VolumeCondition,
        RpcType::SingleNodeMultiWriter,
    ];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn a_migratable_volume_is_raw_block_alone() {
    let world = World::new().await;
    let claim = world.volume(32);
    let mode = Mode::MultiNodeMultiWriter;
    world.publish(&claim, &wanted_block().mode(mode)).await.expect("published");
    let refused = world.publish(&world.volume(32), &wanted("ext4").mode(mode)).await;
    assert_eq!(code(refused), Code::InvalidArgument);
}
