//! Volumes that grow.

use tonic::Code;

use crate::world::{MIB, World, code, wanted, wanted_block};

fn total(stats: &lunar_proto::csi::NodeGetVolumeStatsResponse) -> u64 {
    u64::try_from(stats.usage[0].total).expect("not below zero")
}

/// Whether this process may have an ext4 grown that is mounted. The kernel asks for the capability
/// CAP_SYS_RESOURCE, which containers and sandboxes may lack, also of root.
fn may_grow_ext4() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.expect("its capabilities").trim();
    u64::from_str_radix(effective, 16).expect("a mask") & 1 << SYS_RESOURCE != 0
}

/// Grows a volume that is published, and says whether its file system has grown with it.
async fn assert_grows(world: &World, fs_type: &'static str, from: u64, to: u64) {
    let claim = world.volume(from);
    world.publish(&claim, &wanted(fs_type)).await.expect("published");
    let before = total(&world.stats(&claim, &claim.target).await.expect("told"));
    claim.device.resize(to * MIB);
    for _ in 0..10 {
        let size = world.expand(&claim, to * MIB).await.expect("expanded");
        assert_eq!(u64::try_from(size), Ok(to * MIB));
    }
    let after = total(&world.stats(&claim, &claim.target).await.expect("told"));
    assert!(after > before + (to - from) * MIB * 3 / 4, "{fs_type}: {before} {after}");
}

#[tokio::test]
async fn an_xfs_grows_to_the_size_of_its_device() {
    assert_grows(&World::new().await, "xfs", 320, 640).await;
}

#[tokio::test]
async fn an_ext4_grows_to_the_size_of_its_device_or_the_missing_capability_is_named() {
    let world = World::new().await;
    if may_grow_ext4() {
        return assert_grows(&world, "ext4", 32, 96).await;
    }
    let claim = world.volume(32);
    world.publish(&claim, &wanted("ext4")).await.expect("published");
    claim.device.resize(96 * MIB);
    let refused = world.expand(&claim, 96 * MIB).await.expect_err("it may not");
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("CAP_SYS_RESOURCE"), "{refused}");
    assert_eq!(world.mounts_at(&claim.target).len(), 1, "the pod goes on");
}

#[tokio::test]
async fn resize2fs_is_given_the_device_once_that_has_its_size() {
    let world = World::new().await;
    let claim = world.volume(32);
    world.publish(&claim, &wanted("ext4")).await.expect("published");
    let told = world.folder.path().join("told");
    let size = "cat /sys/class/block/$(basename $1)/size";
    world.tool("resize2fs", &format!("echo \"$*\" $({size}) >> {}", told.display()));
    let grow = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert!(!told.exists(), "the device has not grown yet");
        claim.device.resize(96 * MIB);
    };
    let (expanded, ()) = tokio::join!(world.expand(&claim, 96 * MIB), grow);
    assert_eq!(expanded.map(u64::try_from).expect("expanded"), Ok(96 * MIB));
    let told = std::fs::read_to_string(&told).expect("it was run");
    assert_eq!(told, format!("{} {}\n", claim.device.device, 96 * MIB / 512));
    world.tool("resize2fs", "echo no room >&2; exit 1");
    let refused = world.expand(&claim, 96 * MIB).await.expect_err("its tool has failed");
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("no room"), "{refused}");
}

#[tokio::test]
async fn an_expansion_waits_for_its_device_and_is_unavailable_until_it_has_grown() {
    let world = World::new().await;
    let claim = world.volume(320);
    world.publish(&claim, &wanted("xfs")).await.expect("published");
    assert_eq!(code(world.expand(&claim, 640 * MIB).await), Code::Unavailable);
    let grow = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        claim.device.resize(640 * MIB);
    };
    let (expanded, ()) = tokio::join!(world.expand(&claim, 640 * MIB), grow);
    assert_eq!(expanded.map(u64::try_from).expect("it has grown meanwhile"), Ok(640 * MIB));
}

#[tokio::test]
async fn a_raw_block_volume_has_grown_when_its_device_has() {
    let world = World::new().await;
    let claim = world.volume(8);
    world.publish(&claim, &wanted_block()).await.expect("published");
    claim.device.resize(16 * MIB);
    let size = world.expand(&claim, 16 * MIB).await.expect("expanded");
    assert_eq!(u64::try_from(size), Ok(16 * MIB));
}

#[tokio::test]
async fn a_device_that_cannot_grow_asks_for_a_new_start_of_the_pods() {
    let world = World::new().await;
    let claim = world.volume(32);
    world.publish(&claim, &wanted("ext4")).await.expect("published");
    world.fscore.volume(&claim.id, |volume| volume.grows_at_next_attachment = true);
    let refused = world.expand(&claim, 64 * MIB).await.expect_err("it cannot grow");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("pods"), "{refused}");
}

#[tokio::test]
async fn a_larger_clone_is_grown_when_it_is_staged() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(320), wanted("xfs"));
    world.stage(&claim, &wanted).await.expect("staged");
    let before = total(&world.stats(&claim, &claim.staging).await.expect("told"));
    world.unstage(&claim).await.expect("unstaged");
    claim.device.resize(640 * MIB);
    world.stage(&claim, &wanted).await.expect("staged");
    let after = total(&world.stats(&claim, &claim.staging).await.expect("told"));
    assert!(after > before + 240 * MIB, "{before} {after}");
}

#[tokio::test]
async fn a_stage_that_cannot_grow_its_file_system_is_undone_and_never_answered_well() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    world.tool("resize2fs", "echo no room >&2; exit 1");
    for _ in 0..2 {
        assert_eq!(code(world.stage(&claim, &wanted).await), Code::Internal);
        world.assert_clean(&claim);
    }
    world.no_tool("resize2fs");
    world.stage(&claim, &wanted).await.expect("staged");
    world.tool("resize2fs", "exit 1");
    // It is mounted, so nobody may forget it.
    assert_eq!(code(world.stage(&claim, &wanted).await), Code::Unavailable);
    assert_eq!(world.mounts_at(&claim.staging).len(), 1);
}

#[tokio::test]
async fn a_volume_is_not_expanded_where_it_is_not_mounted() {
    let world = World::new().await;
    let (claim, other) = (world.volume(32), world.volume(32));
    assert_eq!(code(world.expand(&claim, MIB).await), Code::NotFound);
    world.publish(&claim, &wanted("ext4")).await.expect("published");
    let mixed = other.at_target(&claim.target);
    assert_eq!(code(world.expand(&mixed, MIB).await), Code::NotFound);
}

#[tokio::test]
async fn a_volume_that_is_published_read_only_still_grows_where_it_is_staged() {
    let world = World::new().await;
    let claim = world.volume(320);
    world.publish(&claim, &wanted("xfs").readonly()).await.expect("published");
    claim.device.resize(640 * MIB);
    world.expand(&claim, 640 * MIB).await.expect("expanded");
    let bytes = total(&world.stats(&claim, &claim.target).await.expect("told"));
    assert!(bytes > 500 * MIB, "{bytes}");
}
