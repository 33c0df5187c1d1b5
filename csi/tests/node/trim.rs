//! Free space of mounted file systems goes back by itself.

use std::io::Write as _;

use crate::world::{MIB, World, until, wanted};

/// Fills a file, and deletes it.
fn use_and_free(path: &str) {
    let mut file = std::fs::File::create(path).expect("made");
    file.write_all(&vec![0x5a; 16 << 20]).and_then(|()| file.sync_all()).expect("written");
    drop(file);
    std::fs::remove_file(path).expect("deleted");
    let folder = std::path::Path::new(path).parent().expect("it is in a folder");
    rustix::fs::syncfs(std::fs::File::open(folder).expect("opened")).expect("durable");
}

#[tokio::test]
async fn what_a_pod_deletes_comes_back_to_the_pool() {
    let mut world = World::new().await;
    for (fs_type, mib) in [("ext4", 64), ("xfs", 320)] {
        let (claim, wanted) = (world.volume(mib), wanted(fs_type));
        world.stage(&claim, &wanted).await.expect("staged");
        world.publish(&claim, &wanted).await.expect("published");
        let before = claim.device.allocated();
        use_and_free(&claim.file("big").display().to_string());
        assert!(claim.device.allocated() > before + 12 * MIB, "{fs_type}: it was written");
        world.trim_seconds = 1;
        world.kill_and_restart().await;
        until("it is trimmed", || claim.device.allocated() < before + 4 * MIB).await;
        world.trim_seconds = 0;
        world.kill_and_restart().await;
        world.unpublish(&claim).await.expect("unpublished");
        world.unstage(&claim).await.expect("unstaged");
        world.assert_clean(&claim);
    }
}

#[tokio::test]
async fn a_turn_that_fails_disturbs_nobody() {
    let mut world = World::new().await;
    world.tool("fstrim", "exit 1");
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    world.stage(&claim, &wanted).await.expect("staged");
    world.trim_seconds = 1;
    world.kill_and_restart().await;
    until("a turn fails", || world.log().contains("not trimmed")).await;
    world.publish(&claim, &wanted).await.expect("published");
    world.unpublish(&claim).await.expect("unpublished");
    world.unstage(&claim).await.expect("unstaged");
    world.assert_clean(&claim);
}
