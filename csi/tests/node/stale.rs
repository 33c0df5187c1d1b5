//! Mounts of devices that serve nothing any more, or another volume.

use std::sync::Arc;

use lunar_proto::v1::AttachmentState;
use tonic::Code;

use crate::loops::Loop;
use crate::world::{Claim, MIB, World, code, wanted, wanted_block};

/// fs-core has attached the volume anew: another device serves it, with what was on the old one.
fn move_to_another_device(world: &World, claim: &Claim, mib: u64) -> Arc<Loop> {
    let other = Arc::new(Loop::new(world.folder.path(), &format!("{}-2", claim.id), mib * MIB));
    let length = usize::try_from(mib * MIB).expect("small");
    other.write(0, &claim.device.read(0, length));
    world.fscore.volume(&claim.id, |volume| volume.device = Arc::clone(&other));
    other
}

#[tokio::test]
async fn a_stage_takes_off_the_mount_of_a_device_that_serves_another_volume() {
    let world = World::new().await;
    let (claim, other) = (world.volume(32), world.volume(32));
    world.stage(&claim, &wanted("ext4")).await.expect("staged");
    let old = Arc::clone(&claim.device);
    let new = move_to_another_device(&world, &claim, 32);
    // The old number is of another volume now.
    world.fscore.volume(&other.id, |volume| {
        volume.device = Arc::clone(&old);
        volume.attached = Some(other.publication.clone());
    });
    world.stage(&claim, &wanted("ext4")).await.expect("staged anew");
    let mounts = world.mounts_at(&claim.staging);
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    assert_eq!((mounts[0].device.major, mounts[0].device.minor), new.number);
    assert!(!old.is_claimed(), "nothing is mounted of the old one");
}

#[tokio::test]
async fn a_publish_finds_its_stage_stale_and_stages_anew() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    world.publish(&claim, &wanted).await.expect("published");
    std::fs::write(claim.file("kept"), "data").expect("written");
    world.unpublish(&claim).await.expect("unpublished");
    let new = move_to_another_device(&world, &claim, 32);
    world.publish(&claim, &wanted).await.expect("published from the new device");
    for path in [&claim.staging, &claim.target] {
        let mounts = world.mounts_at(path);
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        assert_eq!((mounts[0].device.major, mounts[0].device.minor), new.number);
    }
}

#[tokio::test]
async fn a_stale_mount_at_the_target_is_taken_off_by_the_publish() {
    let world = World::new().await;
    for (wanted, mib) in [(wanted("ext4"), 32), (wanted_block(), 8)] {
        let claim = world.volume(mib);
        world.publish(&claim, &wanted).await.expect("published");
        let new = move_to_another_device(&world, &claim, mib);
        world.publish(&claim, &wanted).await.expect("published anew");
        let mounts = world.mounts_at(&claim.target);
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        if wanted.fs_type.is_some() {
            assert_eq!((mounts[0].device.major, mounts[0].device.minor), new.number);
        } else {
            assert!(new.device.ends_with(&mounts[0].root), "{mounts:?}");
        }
        assert!(!claim.device.is_claimed());
    }
}

#[tokio::test]
async fn a_publish_without_a_stage_stages() {
    let world = World::new().await;
    let claim = world.volume(32);
    std::fs::remove_dir(&claim.staging).expect("kubelet has not made it");
    world.publish(&claim, &wanted("ext4")).await.expect("published");
    assert_eq!(world.mounts().len(), 2);
}

#[tokio::test]
async fn an_old_publication_is_refused_also_where_the_volume_is_staged() {
    let world = World::new().await;
    let claim = world.volume(32);
    world.stage(&claim, &wanted("ext4")).await.expect("staged");
    let old = Claim { publication: uuid::Uuid::new_v4().to_string(), ..claim.clone() };
    assert_eq!(code(world.stage(&old, &wanted("ext4")).await), Code::FailedPrecondition);
    assert_eq!(code(world.publish(&old, &wanted("ext4")).await), Code::FailedPrecondition);
    assert_eq!(world.mounts_at(&claim.staging).len(), 1, "what is staged rightly stays");
    assert!(world.is_attached(&claim));
}

/// What a file system does whose device fails a write that it cannot do without.
fn shut_down(claim: &Claim) {
    let shut =
        std::process::Command::new("xfs_io").args(["-x", "-c", "shutdown", &claim.target]).status();
    assert!(shut.expect("xfs_io of xfsprogs is installed").success());
}

#[tokio::test]
async fn a_dead_file_system_is_mounted_anew_for_the_next_pod_once_the_last_has_left() {
    let world = World::new().await;
    for (fs_type, mib) in [("ext4", 32), ("xfs", 320)] {
        let (claim, wanted) = (world.volume(mib), wanted(fs_type));
        world.publish(&claim, &wanted).await.expect("published");
        std::fs::write(claim.file("kept"), "data").expect("written");
        let file = std::fs::File::open(claim.file("kept")).expect("opened");
        rustix::fs::syncfs(&file).expect("synced");
        drop(file);
        shut_down(&claim);
        let second = claim.at_target(&world.pod(&claim.id, "pod-2"));
        let refused = world.publish(&second, &wanted).await.expect_err("a pod still has it");
        // It is mounted, so nobody may forget it.
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains("delete the pods"), "{refused}");
        assert!(world.is_attached(&claim), "a pod still has it");
        world.unpublish(&claim).await.expect("unpublished");
        world.publish(&second, &wanted).await.expect("mounted anew");
        assert_eq!(std::fs::read_to_string(second.file("kept")).expect("read"), "data");
        std::fs::write(second.file("more"), "data").expect("it lives");
        world.unpublish(&second).await.expect("unpublished");
        world.unstage(&claim).await.expect("unstaged");
        world.assert_clean(&claim);
    }
}

#[tokio::test]
async fn a_dead_file_system_is_abnormal_and_can_be_unpublished_and_unstaged() {
    let world = World::new().await;
    for (fs_type, mib) in [("ext4", 32), ("xfs", 320)] {
        let claim = world.volume(mib);
        world.publish(&claim, &wanted(fs_type)).await.expect("published");
        shut_down(&claim);
        assert!(std::fs::write(claim.file("lost"), "data").is_err(), "it is dead");
        let stats = world.stats(&claim, &claim.target).await.expect("told");
        assert!(stats.volume_condition.expect("told").abnormal, "{fs_type}");
        world.unpublish(&claim).await.expect("unpublished");
        world.unstage(&claim).await.expect("unstaged");
        world.assert_clean(&claim);
    }
}

#[tokio::test]
async fn an_ext4_that_has_found_errors_is_abnormal_and_its_mounts_can_be_taken_off() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    world.publish(&claim, &wanted).await.expect("published");
    let is_abnormal = async || {
        let stats = world.stats(&claim, &claim.target).await.expect("told");
        stats.volume_condition.expect("told").abnormal
    };
    assert!(!is_abnormal().await);
    claim.device.break_it();
    assert!(std::fs::File::create(claim.file("lost")).is_err(), "it cannot be read");
    assert!(is_abnormal().await);
    world.unpublish(&claim).await.expect("unpublished");
    world.unstage(&claim).await.expect("unstaged");
    world.assert_clean(&claim);
}

#[tokio::test]
async fn a_volume_with_a_failed_flush_is_attached_anew_when_nothing_uses_it() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    let poison = || {
        world.fscore.volume(&claim.id, |volume| volume.state = AttachmentState::Poisoned);
    };
    world.publish(&claim, &wanted).await.expect("published");
    poison();
    assert_eq!(code(world.publish(&claim, &wanted).await), Code::FailedPrecondition);
    assert_eq!(world.mounts_at(&claim.target).len(), 1, "what still reads stays");
    world.unpublish(&claim).await.expect("unpublished");
    world.unstage(&claim).await.expect("unstaged");
    world.fscore.volume(&claim.id, |volume| volume.attached = Some(claim.publication.clone()));
    poison();
    world.stage(&claim, &wanted).await.expect("staged");
    let calls = world.fscore.with(|state| state.calls.clone());
    let last: Vec<_> = calls.iter().rev().filter(|call| call.contains("tach")).take(5).collect();
    assert_eq!(last, [&"attached", &"attach", &"detach", &"attached", &"attach"]);
}

#[tokio::test]
async fn a_device_with_another_number_than_the_answer_says_is_not_touched() {
    let world = World::new().await;
    let (claim, other) = (world.volume(32), world.volume(32));
    // The path is of one device, and the number of another.
    let mixed = Arc::new(Loop::new(world.folder.path(), "mixed", 32 * MIB));
    let mut forged = Loop::clone_of(&other.device);
    forged.number = mixed.number;
    world.fscore.volume(&claim.id, |volume| volume.device = Arc::new(forged));
    for wanted in [wanted("ext4"), wanted_block()] {
        assert_eq!(code(world.stage(&claim, &wanted).await), Code::Internal);
        assert!(world.mounts().is_empty());
        assert!(other.device.read(0, 1 << 20).iter().all(|byte| *byte == 0));
    }
}

#[tokio::test]
async fn an_unstage_needs_fs_core_for_the_detach_alone() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    world.publish(&claim, &wanted).await.expect("published");
    let away = crate::fscore::Hook::Refuse(tonic::Status::unavailable("away"));
    for call in ["attach", "detach", "list", "content"] {
        world.fscore.hook(call, away.clone());
    }
    world.unpublish(&claim).await.expect("it needs the kernel alone");
    world.stats(&claim, &claim.staging).await.expect("they need the kernel alone");
    assert_eq!(code(world.unstage(&claim).await), Code::Unavailable);
    assert!(world.mounts().is_empty(), "it is unmounted");
    world.fscore.unhook();
    world.unstage(&claim).await.expect("unstaged");
    world.assert_clean(&claim);
}

#[tokio::test]
async fn what_is_attached_by_hand_is_not_detached_by_an_unstage() {
    let world = World::new().await;
    let claim = world.volume(32);
    world.fscore.volume(&claim.id, |volume| volume.attached = Some(String::new()));
    world.unstage(&claim).await.expect("nothing is staged");
    assert!(world.is_attached(&claim));
}
