//! Directories that change while they are mounted on, and that are not as they should be.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::mount::{MountFlags, MountPropagationFlags, mount};
use tonic::Code;

use crate::world::{World, code, wanted, wanted_block};

#[tokio::test]
async fn a_directory_that_is_swapped_for_a_symlink_leads_no_mount_out_of_the_root() {
    let world = World::new().await;
    let claim = world.volume(32);
    let wanted = wanted("ext4");
    world.stage(&claim, &wanted).await.expect("staged");
    let outside = world.folder.path().join("outside");
    std::fs::create_dir(&outside).expect("made");
    let real = Path::new(&claim.target).parent().expect("it has one").to_owned();
    let trap = real.with_file_name("trap");
    symlink(&outside, &trap).expect("made");
    let stop = Arc::new(AtomicBool::new(false));
    let attacker = std::thread::spawn({
        let (stop, real, trap) = (Arc::clone(&stop), real.clone(), trap.clone());
        move || {
            let mut swaps = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &real, CWD, &trap, RenameFlags::EXCHANGE).expect("swapped");
                swaps += 1;
            }
            swaps
        }
    });
    let (mut done, mut refused) = (0, 0);
    for _ in 0..60 {
        for answer in [world.publish(&claim, &wanted).await, world.unpublish(&claim).await] {
            match answer {
                Ok(()) => done += 1,
                Err(status) => {
                    let is_fair = matches!(
                        status.code(),
                        Code::InvalidArgument | Code::Internal | Code::Aborted
                    );
                    assert!(is_fair, "{status}");
                    refused += 1;
                }
            }
            let left = std::fs::read_dir(&outside).expect("it is there").count();
            assert_eq!(left, 0, "something was made outside");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let swaps = attacker.join().expect("it has ended");
    assert!(swaps > 100 && done > 0 && refused > 0, "{swaps} swaps, {done} done, {refused} not");
    let table = lunar_csi::node::worker::mountinfo::read().expect("the mount table");
    let outside = outside.display().to_string();
    assert!(!table.iter().any(|mount| mount.point.starts_with(&outside)), "{table:?}");
}

#[tokio::test]
async fn a_kubelet_directory_that_is_not_shared_is_refused_and_nothing_is_left() {
    let world = World::with_root(MountPropagationFlags::PRIVATE).await;
    let claim = world.volume(32);
    let refused = world.stage(&claim, &wanted("ext4")).await.expect_err("pods would not see it");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("Bidirectional"), "{refused}");
    world.assert_clean(&claim);
    let block = world.volume(8);
    assert_eq!(code(world.publish(&block, &wanted_block()).await), Code::FailedPrecondition);
    assert!(world.mounts().is_empty());
}

#[tokio::test]
async fn what_is_no_mount_of_ours_is_never_taken_off() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    std::fs::create_dir(&claim.target).expect("made");
    for path in [&claim.staging, &claim.target] {
        mount("tmpfs", path.as_str(), "tmpfs", MountFlags::empty(), None).expect("mounted");
    }
    std::fs::write(Path::new(&claim.staging).join("kept"), "of somebody").expect("written");
    assert_eq!(code(world.stage(&claim, &wanted).await), Code::FailedPrecondition);
    assert_eq!(code(world.publish(&claim, &wanted).await), Code::FailedPrecondition);
    assert_eq!(code(world.unpublish(&claim).await), Code::FailedPrecondition);
    assert_eq!(code(world.unstage(&claim).await), Code::FailedPrecondition);
    assert_eq!(world.mounts().len(), 2, "both are left");
    assert!(Path::new(&claim.staging).join("kept").exists());
    assert!(!world.is_attached(&claim));
}

#[tokio::test]
async fn an_unpublish_removes_no_directory_that_has_something_in_it() {
    let world = World::new().await;
    let claim = world.volume(32);
    std::fs::create_dir(&claim.target).expect("made");
    std::fs::write(claim.file("kept"), "of somebody").expect("written");
    assert_eq!(code(world.unpublish(&claim).await), Code::Internal);
    assert!(claim.file("kept").exists());
    std::fs::remove_file(claim.file("kept")).expect("removed");
    world.unpublish(&claim).await.expect("an empty one goes");
    assert!(!Path::new(&claim.target).exists());
}

#[tokio::test]
async fn several_mounts_on_one_target_are_all_taken_off() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    world.publish(&claim, &wanted).await.expect("published");
    for _ in 0..3 {
        rustix::mount::mount_bind(claim.staging.as_str(), claim.target.as_str()).expect("bound");
    }
    assert!(world.mounts_at(&claim.target).len() > 3, "one above the other");
    world.unpublish(&claim).await.expect("unpublished");
    world.unstage(&claim).await.expect("unstaged");
    world.assert_clean(&claim);
}
