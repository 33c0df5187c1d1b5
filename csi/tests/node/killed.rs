//! The driver is killed at every step, started again, and asked again: it ends right.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use lunar_proto::v1::ContentState;
use tonic::{Code, Status};

use crate::world::{Claim, Wanted, World, until, wanted, wanted_block};

/// Asks again as kubelet does, as long as the answer says that it may help.
async fn until_done<F: Future<Output = Result<(), Status>>>(what: &str, call: impl Fn() -> F) {
    let asked = async {
        loop {
            match call().await {
                Err(status) if matches!(status.code(), Code::Aborted | Code::Unavailable) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                done => break done,
            }
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(60), asked).await;
    done.unwrap_or_else(|_| panic!("{what} does not end")).unwrap_or_else(|error| {
        panic!("{what} has failed: {error}");
    });
}

/// The volume is published, used, and given back, and nothing is left.
async fn assert_ends_right(world: &World, claim: &Claim, wanted: &Wanted) {
    until_done("the stage", || world.stage(claim, wanted)).await;
    until_done("the publish", || world.publish(claim, wanted)).await;
    assert_eq!(world.mounts_at(&claim.target).len(), 1);
    if wanted.fs_type.is_some() {
        assert_eq!(world.mounts_at(&claim.staging).len(), 1);
        std::fs::write(claim.file("works"), "it does").expect("written");
    }
    assert_eq!(world.content(claim), ContentState::Used);
    until_done("the unpublish", || world.unpublish(claim)).await;
    until_done("the unstage", || world.unstage(claim)).await;
    world.assert_clean(claim);
}

/// Asks for a publish that nobody will wait for.
fn call_publish(world: &World, claim: &Claim, wanted: &Wanted) {
    let (mut client, request) = (world.client(), claim.publish_request(wanted));
    tokio::spawn(async move { client.node_publish_volume(request).await });
}

#[tokio::test]
async fn killed_at_each_call_to_fs_core_a_publish_ends_right_when_it_is_asked_again() {
    let mut world = World::new().await;
    for call in ["attach", "attached", "content", "begin", "begun", "end", "ended"] {
        let (claim, wanted) = (world.volume(32), wanted("ext4"));
        let (reached, go) = world.fscore.hold(call);
        call_publish(&world, &claim, &wanted);
        reached.acquire().await.expect("open").forget();
        world.kill_and_restart().await;
        world.fscore.unhook();
        go.add_permits(1);
        assert_ends_right(&world, &claim, &wanted).await;
    }
}

#[tokio::test]
async fn killed_in_each_tool_the_tool_dies_too_and_the_next_stage_ends_right() {
    let mut world = World::new().await;
    for (tool, fs_type, mib, times) in [
        ("blkid", "ext4", 32, 1),
        ("mkfs.ext4", "ext4", 32, 1),
        ("mkfs.xfs", "xfs", 320, 1),
        ("resize2fs", "ext4", 32, 1),
        ("xfs_growfs", "xfs", 320, 1),
        ("e2fsck", "ext4", 32, 2),
    ] {
        let (claim, wanted) = (world.volume(mib), wanted(fs_type));
        if times == 2 {
            world.stage(&claim, &wanted).await.expect("formatted");
            world.unstage(&claim).await.expect("unstaged");
        }
        let pid_file = world.folder.path().join(format!("{tool}.pid"));
        // Half of its work, whatever that is, and then it hangs.
        let half = format!(
            "for p in /usr/sbin /sbin; do [ -x $p/{tool} ] && $p/{tool} \"$@\"; done\n\
             echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600",
            pid_file.display()
        );
        world.tool(tool, &half);
        call_publish(&world, &claim, &wanted);
        until(&format!("{tool} runs"), || pid_file.exists()).await;
        let pid = std::fs::read_to_string(&pid_file).expect("its id").trim().to_owned();
        assert!(Path::new("/proc").join(&pid).exists(), "it hangs");
        world.kill();
        let is_gone = || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        };
        until(&format!("{tool} has died with the driver"), is_gone).await;
        world.no_tool(tool);
        world.restart().await;
        assert_ends_right(&world, &claim, &wanted).await;
    }
}

#[tokio::test]
async fn killed_at_any_time_a_life_ends_right_when_it_is_asked_again() {
    let mut world = World::new().await;
    for (wanted, mib, step) in [(wanted("ext4"), 32, 12), (wanted_block(), 8, 6)] {
        for n in 0..12 {
            let claim = world.volume(mib);
            call_publish(&world, &claim, &wanted);
            tokio::time::sleep(Duration::from_millis(n * step)).await;
            world.kill_and_restart().await;
            assert_ends_right(&world, &claim, &wanted).await;
        }
    }
}

#[tokio::test]
async fn killed_in_an_unstage_the_next_one_ends_right() {
    let mut world = World::new().await;
    for call in ["list", "detach"] {
        let (claim, wanted) = (world.volume(32), wanted("ext4"));
        world.stage(&claim, &wanted).await.expect("staged");
        let (reached, go) = world.fscore.hold(call);
        let (mut client, request) = (world.client(), claim.unstage_request());
        tokio::spawn(async move { client.node_unstage_volume(request).await });
        reached.acquire().await.expect("open").forget();
        world.kill_and_restart().await;
        world.fscore.unhook();
        go.add_permits(1);
        until_done("the unstage", || world.unstage(&claim)).await;
        let target = Path::new(&claim.target);
        assert!(world.mounts().is_empty() && !world.is_attached(&claim) && !target.exists());
    }
}

#[tokio::test]
async fn a_new_driver_adopts_what_is_mounted_and_pods_notice_nothing() {
    let mut world = World::new().await;
    for (wanted, mib) in [(wanted("ext4"), 32), (wanted("xfs"), 320), (wanted_block(), 8)] {
        let claim = world.volume(mib);
        world.publish(&claim, &wanted).await.expect("published");
        let before = world.mounts();
        world.kill();
        if wanted.fs_type.is_some() {
            std::fs::write(claim.file("meanwhile"), "no driver").expect("pods go on");
        }
        world.restart().await;
        world.stage(&claim, &wanted).await.expect("found staged");
        world.publish(&claim, &wanted).await.expect("found published");
        assert_eq!(world.mounts(), before, "nothing is mounted twice or anew");
        world.unpublish(&claim).await.expect("unpublished");
        world.unstage(&claim).await.expect("unstaged");
        world.assert_clean(&claim);
    }
}

#[tokio::test]
async fn a_process_of_a_killed_driver_that_still_has_the_device_keeps_its_successor_out() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    // What a worker in an uninterruptible sleep would hold.
    let held = std::fs::File::open(&claim.device.device).expect("opened");
    let lock = rustix::fs::FlockOperation::LockExclusive;
    rustix::fs::flock(&held, lock).expect("locked");
    let refused = world.stage(&claim, &wanted).await.expect_err("somebody still works");
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    assert!(claim.device.read(0, 1 << 20).iter().all(|byte| *byte == 0));
    drop(held);
    assert_ends_right(&world, &claim, &wanted).await;
}
