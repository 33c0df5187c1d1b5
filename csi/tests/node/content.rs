//! A file system is made on a volume that never had anything, and on no other.

use lunar_proto::csi::volume_capability::access_mode::Mode;
use lunar_proto::error::ErrorReason;
use lunar_proto::v1::ContentState;
use tonic::Code;

use crate::fscore::{Hook, refusal};
use crate::world::{Claim, MIB, World, code, wanted, wanted_block};

fn set(world: &World, claim: &Claim, content: ContentState) {
    world.fscore.volume(&claim.id, |volume| volume.content = content);
}

/// What a device begins with, to see that nobody has written there.
fn beginning(claim: &Claim) -> Vec<u8> {
    claim.device.read(0, 1 << 20)
}

#[tokio::test]
async fn a_used_volume_that_reads_as_zeros_is_lost_data_and_never_formatted() {
    let world = World::new().await;
    for (fs_type, mib) in [("ext4", 32), ("xfs", 320)] {
        let claim = world.volume(mib);
        set(&world, &claim, ContentState::Used);
        let refused = world.stage(&claim, &wanted(fs_type)).await.expect_err("it is lost");
        assert_eq!(refused.code(), Code::DataLoss);
        assert!(refused.message().contains("snapshot"), "{refused}");
        assert!(beginning(&claim).iter().all(|byte| *byte == 0));
        world.assert_clean(&claim);
    }
}

#[tokio::test]
async fn a_damaged_superblock_is_lost_data_and_never_formatted() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    world.stage(&claim, &wanted).await.expect("staged");
    world.unstage(&claim).await.expect("unstaged");
    claim.device.write(1_024, &[0; 1_024]);
    let before = beginning(&claim);
    assert_eq!(code(world.stage(&claim, &wanted).await), Code::DataLoss);
    assert_eq!(beginning(&claim), before);
    world.assert_clean(&claim);
}

#[tokio::test]
async fn a_used_volume_with_something_else_is_refused_by_name_and_stays_as_it_is() {
    let world = World::new().await;
    let others: [(&str, &[&str], &str); 3] =
        [("mkfs.xfs", &["-q"], "xfs"), ("mkfs.ext2", &["-q"], "ext2"), ("mkswap", &[], "swap")];
    for (program, arguments, name) in others {
        let claim = world.volume(320);
        claim.device.run(program, arguments);
        set(&world, &claim, ContentState::Used);
        let before = beginning(&claim);
        let refused = world.stage(&claim, &wanted("ext4")).await.expect_err("it is another one");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{name}");
        assert!(refused.message().contains(name), "{refused}");
        assert_eq!(beginning(&claim), before);
        world.assert_clean(&claim);
    }
}

#[tokio::test]
async fn a_used_volume_with_a_partition_table_is_refused_by_name() {
    let world = World::new().await;
    let claim = world.volume(32);
    let mut boot = vec![0; 512];
    // One partition of type 0x83, and the signature of a boot sector.
    boot[446..462].copy_from_slice(&[0x80, 1, 1, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 0xff, 0x7f, 0, 0]);
    boot[510..].copy_from_slice(&[0x55, 0xaa]);
    claim.device.write(0, &boot);
    set(&world, &claim, ContentState::Used);
    let refused = world.stage(&claim, &wanted("ext4")).await.expect_err("it is none");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("partition table (dos)"), "{refused}");
    assert_eq!(claim.device.read(0, 512), boot);
}

#[tokio::test]
async fn a_blank_volume_with_anything_on_it_is_not_formatted() {
    let world = World::new().await;
    let claim = world.volume(32);
    claim.device.run("mkfs.ext4", &["-q"]);
    let before = beginning(&claim);
    assert_eq!(code(world.stage(&claim, &wanted("ext4")).await), Code::Internal);
    assert_eq!(beginning(&claim), before);
    assert_eq!(world.content(&claim), ContentState::Blank);
    world.assert_clean(&claim);
}

#[tokio::test]
async fn half_a_format_is_formatted_anew_whatever_is_there() {
    let world = World::new().await;
    for (half, asked, mib) in [("mkfs.xfs", "ext4", 320), ("mkfs.ext4", "xfs", 320)] {
        let claim = world.volume(mib);
        claim.device.run(half, &["-q"]);
        set(&world, &claim, ContentState::Formatting);
        world.publish(&claim, &wanted(asked)).await.expect("formatted and published");
        assert_eq!(world.mounts_at(&claim.target)[0].fs_type, asked);
        assert_eq!(world.content(&claim), ContentState::Used);
    }
}

#[tokio::test]
async fn a_device_that_cannot_be_read_is_an_error_and_never_nothing() {
    let world = World::new().await;
    for content in [ContentState::Blank, ContentState::Used] {
        let claim = world.volume(32);
        set(&world, &claim, content);
        claim.device.break_it();
        let refused = world.stage(&claim, &wanted("ext4")).await.expect_err("it cannot be read");
        assert_eq!(refused.code(), Code::Internal, "{content:?}: {refused}");
        assert_eq!(world.content(&claim), content, "nothing has begun");
        world.assert_clean(&claim);
    }
}

#[tokio::test]
async fn a_raw_block_volume_is_used_and_never_formatted_after() {
    let world = World::new().await;
    let claim = world.volume(32);
    world.stage(&claim, &wanted_block()).await.expect("staged");
    world.unstage(&claim).await.expect("unstaged");
    claim.device.write(16 * MIB, b"far from the beginning");
    assert_eq!(code(world.stage(&claim, &wanted("ext4")).await), Code::DataLoss);
    assert_eq!(claim.device.read(16 * MIB, 22), b"far from the beginning");
}

#[tokio::test]
async fn who_only_reads_neither_formats_nor_checks() {
    let world = World::new().await;
    let reader = wanted("ext4").mode(Mode::SingleNodeReaderOnly);
    let claim = world.volume(32);
    assert_eq!(code(world.stage(&claim, &reader).await), Code::FailedPrecondition);
    assert_eq!(world.content(&claim), ContentState::Blank);
    world.assert_clean(&claim);
    world.stage(&claim, &wanted("ext4")).await.expect("formatted");
    world.unstage(&claim).await.expect("unstaged");
    world.tool("e2fsck", "exit 4");
    world.publish(&claim, &reader).await.expect("mounted as it is");
    let mount = world.mounts_at(&claim.target).pop().expect("mounted");
    assert!(mount.is_read_only() && mount.is_fs_read_only(), "{mount:?}");
    assert!(std::fs::write(claim.file("a"), "b").is_err());
    world.unpublish(&claim).await.expect("unpublished");
    world.unstage(&claim).await.expect("unstaged");
    world.assert_clean(&claim);
}

#[tokio::test]
async fn an_ext4_with_errors_that_need_a_person_is_not_mounted_and_says_what_e2fsck_said() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    world.stage(&claim, &wanted).await.expect("formatted");
    world.unstage(&claim).await.expect("unstaged");
    for (exit, expected) in [(4, Code::DataLoss), (8, Code::Internal), (2, Code::Internal)] {
        world.tool("e2fsck", &format!("echo Inode 12 is odd >&2; exit {exit}"));
        let refused = world.stage(&claim, &wanted).await.expect_err("it is damaged");
        assert_eq!(refused.code(), expected, "{exit}");
        assert!(refused.message().contains("Inode 12 is odd"), "{refused}");
        world.assert_clean(&claim);
    }
    world.tool("e2fsck", "exit 1");
    world.stage(&claim, &wanted).await.expect("what was repaired is mounted");
}

#[tokio::test]
async fn a_real_damage_is_found_by_the_check_before_the_mount() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    world.publish(&claim, &wanted).await.expect("formatted");
    for name in 0..50 {
        std::fs::create_dir(claim.file(&name.to_string())).expect("made");
    }
    world.unpublish(&claim).await.expect("unpublished");
    world.unstage(&claim).await.expect("unstaged");
    // The inode of the root directory becomes a file of nothing.
    claim.device.run("debugfs", &["-w", "-R", "set_inode_field <2> mode 0100644"]);
    let refused = world.stage(&claim, &wanted).await.expect_err("it is damaged");
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
    world.assert_clean(&claim);
}

#[tokio::test]
async fn a_tool_that_fails_is_named_and_half_a_format_is_known_as_such() {
    let world = World::new().await;
    let claim = world.volume(32);
    world.tool("mkfs.ext4", "exit 127");
    let refused = world.stage(&claim, &wanted("ext4")).await.expect_err("it does not format");
    assert!(refused.message().contains("mkfs.ext4"), "{refused}");
    assert_eq!(world.content(&claim), ContentState::Formatting, "nobody knows what it has done");
    world.assert_clean(&claim);
    world.no_tool("mkfs.ext4");
    world.stage(&claim, &wanted("ext4")).await.expect("formatted with the real one");
}

#[tokio::test]
async fn a_refused_attach_and_a_refused_format_have_their_codes_and_leave_nothing() {
    let world = World::new().await;
    for (call, reason, expected) in [
        ("attach", ErrorReason::NotPublished, Code::FailedPrecondition),
        ("attach", ErrorReason::VolumeRecalled, Code::Aborted),
        ("attach", ErrorReason::VolumeNotFound, Code::NotFound),
        ("attach", ErrorReason::StoreBusy, Code::Unavailable),
        ("begin", ErrorReason::StaleEpoch, Code::FailedPrecondition),
        ("content", ErrorReason::NotAttached, Code::FailedPrecondition),
        ("end", ErrorReason::StaleEpoch, Code::FailedPrecondition),
    ] {
        let claim = world.volume(32);
        world.fscore.hook(call, Hook::Refuse(refusal(reason)));
        let refused = code(world.stage(&claim, &wanted("ext4")).await);
        assert_eq!(refused, expected, "{call} {reason}");
        world.fscore.unhook();
        world.assert_clean(&claim);
    }
}

#[tokio::test]
async fn what_nobody_knows_to_have_ended_stays_attached_and_is_found_by_the_next_call() {
    let world = World::new().await;
    for call in ["attached", "begun", "ended"] {
        let claim = world.volume(32);
        world.fscore.hook(call, Hook::Refuse(tonic::Status::unknown("the answer was lost")));
        assert_eq!(code(world.stage(&claim, &wanted("ext4")).await), Code::Unavailable, "{call}");
        assert!(world.is_attached(&claim), "{call}");
        world.fscore.unhook();
        world.stage(&claim, &wanted("ext4")).await.expect("the next call goes on");
        assert_eq!(world.mounts_at(&claim.staging).len(), 1, "{call}");
    }
}
