//! Calls at the same time, and calls that nobody waits for any more.

use std::sync::Arc;
use std::time::Duration;

use lunar_proto::v1::ContentState;
use tokio::sync::Semaphore;
use tonic::Code;

use crate::world::{World, code, until, wanted};

#[tokio::test]
async fn of_calls_for_one_volume_at_the_same_time_one_works_and_the_others_are_aborted() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    let (reached, go) = world.fscore.hold("attach");
    let first = async {
        let staged = world.stage(&claim, &wanted).await;
        staged.expect("staged");
    };
    let others = async {
        reached.acquire().await.expect("open").forget();
        // The others are answered at once, and never wait for the first.
        fail_after(Duration::from_secs(60), &go);
        for _ in 0..10 {
            assert_eq!(code(world.stage(&claim, &wanted).await), Code::Aborted);
            assert_eq!(code(world.publish(&claim, &wanted).await), Code::Aborted);
            assert_eq!(code(world.unpublish(&claim).await), Code::Aborted);
            assert_eq!(code(world.unstage(&claim).await), Code::Aborted);
            assert_eq!(code(world.expand(&claim, 1).await), Code::Aborted);
        }
        let stats = world.stats(&claim, &claim.target).await;
        assert_eq!(code(stats), Code::NotFound, "stats wait for nobody");
        go.add_permits(1);
    };
    tokio::join!(first, others);
    assert_eq!(world.mounts_at(&claim.staging).len(), 1);
}

/// Lets everything go on after a while, so that what waits in vain fails and does not hang.
fn fail_after(limit: Duration, go: &Arc<Semaphore>) {
    let go = Arc::clone(go);
    tokio::spawn(async move {
        tokio::time::sleep(limit).await;
        go.add_permits(1_000);
    });
}

#[tokio::test]
async fn volumes_do_not_wait_for_each_other() {
    let world = World::new().await;
    let (slow, quick) = (world.volume(32), world.volume(32));
    world.tool("e2fsck", "exec sleep 600");
    world.fscore.volume(&slow.id, |volume| volume.content = ContentState::Used);
    slow.device.run("mkfs.ext4", &["-q"]);
    let (client, wanted) = (world.client(), wanted("ext4"));
    let request = slow.stage_request(&wanted);
    let hangs = tokio::spawn(async move { client.clone().node_stage_volume(request).await });
    world.publish(&quick, &wanted).await.expect("published meanwhile");
    assert!(!hangs.is_finished());
}

#[tokio::test]
async fn two_volumes_at_one_path_at_the_same_time_exclude_each_other() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    let other = world.volume(32).at_target(&claim.target);
    let (reached, go) = world.fscore.hold("attach");
    let first = world.publish(&claim, &wanted);
    let second = async {
        reached.acquire().await.expect("open").forget();
        fail_after(Duration::from_secs(60), &go);
        let refused = world.publish(&other, &wanted).await;
        go.add_permits(100);
        code(refused)
    };
    let (published, refused) = tokio::join!(first, second);
    published.expect("published");
    assert_eq!(refused, Code::Aborted);
}

#[tokio::test]
async fn a_cancelled_call_keeps_its_volume_until_its_work_has_ended() {
    let world = World::new().await;
    let (claim, wanted) = (world.volume(32), wanted("ext4"));
    let gate = world.folder.path().join("gate");
    let real = "for p in /usr/sbin /sbin; do [ -x $p/mkfs.ext4 ] && exec $p/mkfs.ext4 \"$@\"; done";
    let wait = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    world.tool("mkfs.ext4", &format!("{wait}\n{real}"));
    let called = tokio::time::timeout(Duration::from_secs(2), world.stage(&claim, &wanted)).await;
    assert!(called.is_err(), "it formats, and the call is given up");
    assert_eq!(world.content(&claim), ContentState::Formatting);
    for _ in 0..3 {
        assert_eq!(code(world.stage(&claim, &wanted).await), Code::Aborted);
        assert_eq!(code(world.unstage(&claim).await), Code::Aborted);
    }
    assert!(world.is_attached(&claim));
    std::fs::write(&gate, "").expect("opened");
    until("the work has ended", || !world.mounts_at(&claim.staging).is_empty()).await;
    // It is seen mounted a little before its key is free.
    let mut unstaged = world.unstage(&claim).await;
    while unstaged.as_ref().is_err_and(|status| status.code() == Code::Aborted) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        unstaged = world.unstage(&claim).await;
    }
    unstaged.expect("unstaged");
    assert_eq!(world.content(&claim), ContentState::Used);
    world.assert_clean(&claim);
}
