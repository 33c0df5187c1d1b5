//! Group snapshots: cut at one moment, found, deleted as a whole.

use std::collections::BTreeSet;
use std::time::Duration;

use lunar_proto::csi;
use tonic::Code;

use crate::calls::*;
use crate::node::Node;
use crate::world::*;

const NOBODY: &str = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_cut_once_for_its_name_however_often_it_is_asked_for() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let (a, b, c) = (driver.volume("a").await, driver.volume("b").await, driver.volume("c").await);
    let first = driver.cut_group("größe 1", &[&a, &b]).await.expect("cut");
    assert!(first.ready_to_use && first.creation_time.expect("told").seconds > 1_700_000_000);
    let of: BTreeSet<_> = first.snapshots.iter().map(|it| it.source_volume_id.clone()).collect();
    assert_eq!(of, BTreeSet::from([a.clone(), b.clone()]));
    for member in &first.snapshots {
        assert_eq!(member.group_snapshot_id, first.group_snapshot_id);
        assert!(member.ready_to_use && member.size_bytes == 16 * MIB);
    }
    for _ in 0..10 {
        assert_eq!(driver.cut_group("größe 1", &[&b, &a]).await.expect("found"), first);
        let got = driver.get_group(&first.group_snapshot_id, &ids_of(&first)).await;
        assert_eq!(got.expect("there"), first);
    }
    assert_eq!(world.all_snapshots().await.len(), 2);
    for others in [&[a.as_str()][..], &[&a, &b, &c], &[&a, &c]] {
        let refused = driver.cut_group("größe 1", others).await;
        assert_eq!(code(refused), Code::AlreadyExists, "{others:?}");
    }
    // Another group of the same volumes is another one.
    let second = driver.cut_group("another", &[&a, &b]).await.expect("cut");
    assert_ne!(second.group_snapshot_id, first.group_snapshot_id);
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_deleted_as_a_whole_and_its_name_is_free() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let (a, b) = (driver.volume("a").await, driver.volume("b").await);
    let single = driver.cut(&a, "single").await.expect("cut");
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        let group = driver.cut_group("g", &[&a, &b]).await.expect("cut");
        let (id, members) = (&group.group_snapshot_id, ids_of(&group));
        assert!(seen.insert(id.clone()), "an old one is never given again");
        for member in &members {
            assert_eq!(code(driver.delete_snapshot(member).await), Code::InvalidArgument);
        }
        let all = csi::ListSnapshotsRequest::default();
        let listed = driver.snapshots(all).await.expect("a list").entries;
        let in_it = listed.iter().filter_map(|it| it.snapshot.as_ref());
        let in_it = in_it.filter(|it| it.group_snapshot_id == *id).count();
        assert_eq!((listed.len(), in_it), (3, 2));
        let wrong = [
            vec![],
            members[..1].to_vec(),
            vec![members[0].clone(), single.snapshot_id.clone()],
            [&members[..], std::slice::from_ref(&single.snapshot_id)].concat(),
        ];
        for told in wrong {
            assert_eq!(code(driver.delete_group(id, &told).await), Code::InvalidArgument);
        }
        assert_eq!(driver.get_group(id, &[]).await.expect("still there"), group);
        for _ in 0..3 {
            driver.delete_group(id, &members).await.expect("deleted");
        }
        assert_eq!(code(driver.get_group(id, &[]).await), Code::NotFound);
        for member in &members {
            driver.delete_snapshot(member).await.expect("it is gone");
        }
    }
    assert_eq!(driver.cut(&a, "single").await.expect("found"), single);
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_attached_volumes_is_answered_when_all_have_voted() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let (a, b) = (driver.volume("a").await, driver.volume("b").await);
    let node = Node::join(&world, "n").await;
    let held_a = node.attach(&a, None).await.expect("granted");
    let held_b = node.attach(&b, None).await.expect("granted");
    let short = Duration::from_millis(1500);
    for _ in 0..2 {
        assert_eq!(code(driver.cut_group_within("g", &[&a, &b], short).await), Code::Aborted);
    }
    let uncut = world.all_snapshots().await;
    assert_eq!(uncut.len(), 2);
    let id = uncut[0].group.expect("one").to_string();
    assert_eq!(code(driver.get_group(&id, &[]).await), Code::Aborted);
    let set = node.when_asked(&held_a).await;
    node.ready(set, &held_a).await;
    node.ready(set, &held_b).await;
    node.pause(set, &held_a).await;
    assert_eq!(code(driver.cut_group_within("g", &[&a, &b], short).await), Code::Aborted);
    node.pause(set, &held_b).await;
    let group = driver.cut_group("g", &[&a, &b]).await.expect("cut");
    assert_eq!(group.group_snapshot_id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_cannot_be_cut_leaves_nothing() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let (a, b) = (driver.volume("a").await, driver.volume("b").await);
    let node = Node::join(&world, "n").await;
    let held = node.attach(&b, None).await.expect("granted");
    let mut groups = driver.groups();
    let request = within(Duration::from_secs(20), new_group("g", &[&a, &b]));
    let waiting = tokio::spawn(async move { groups.create_volume_group_snapshot(request).await });
    let set = node.when_asked(&held).await;
    node.refuse(set, &held).await;
    let refused = waiting.await.expect("no panic").expect_err("not cut");
    assert_eq!(refused.code(), Code::Internal, "{refused}");
    assert!(world.all_snapshots().await.is_empty());
    node.detach(&held).await;
    driver.cut_group("g", &[&a, &b]).await.expect("nobody is to be asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_cut_one_group() {
    let world = World::start().await;
    let drivers = [world.driver("one").await, world.driver("two").await];
    let (a, b) = (drivers[0].volume("a").await, drivers[0].volume("b").await);
    for round in 0..5 {
        let name = format!("g{round}");
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..8 {
            let mut groups = drivers[n % 2].groups();
            let request = new_group(&name, &[&a, &b]);
            tasks.spawn(async move { groups.create_volume_group_snapshot(request).await });
        }
        let mut seen = BTreeSet::new();
        for outcome in tasks.join_all().await {
            match outcome {
                Ok(answer) => {
                    let group = answer.into_inner().group_snapshot.expect("told");
                    seen.insert(group.group_snapshot_id);
                }
                Err(status) => assert_eq!(status.code(), Code::Aborted, "{status}"),
            }
        }
        assert!(seen.len() <= 1, "{seen:?}");
        drivers[1].cut_group(&name, &[&a, &b]).await.expect("found");
        assert_eq!(world.all_snapshots().await.len(), 2 * (round + 1));
    }
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_killed_in_the_middle_cuts_no_group_twice() {
    let world = World::start().await;
    let mut driver = world.driver("s").await;
    let (a, b) = (driver.volume("a").await, driver.volume("b").await);
    for round in 0..8_u64 {
        let name = format!("g{round}");
        let mut groups = driver.groups();
        let request = new_group(&name, &[&a, &b]);
        let call = tokio::spawn(async move { groups.create_volume_group_snapshot(request).await });
        tokio::time::sleep(Duration::from_micros(round * 700)).await;
        driver = Driver::start(driver.kill(), &world.endpoint()).await;
        drop(call.await.expect("no panic"));
        driver.cut_group(&name, &[&a, &b]).await.expect("cut or found");
        let expected = 2 * (usize::try_from(round).expect("few") + 1);
        assert_eq!(world.all_snapshots().await.len(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_a_member_is_not_given_to_a_single_snapshot() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let a = driver.volume("a").await;
    driver.cut_group("g", &[&a]).await.expect("cut");
    let [member] = &world.all_snapshots().await[..] else { panic!("one") };
    assert_eq!(code(driver.cut(&a, member.name.as_str()).await), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_cannot_be_are_refused_and_nothing_is_cut() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let (a, b) = (driver.volume("a").await, driver.volume("b").await);
    let good = new_group("g", &[&a, &b]);
    let (invalid, not_found) = (Code::InvalidArgument, Code::NotFound);
    let mut rows = Vec::new();
    for name in ["", "a\nb", "\0", &"g".repeat(129), &"ü".repeat(65)] {
        rows.push((new_group(name, &[&a, &b]), invalid));
    }
    for volumes in [&[][..], &[""], &[&a, ""], &[&a, &a], &[&a, &b, &a], &[a.as_str(); 33]] {
        rows.push((new_group("g", volumes), invalid));
    }
    for volumes in [&["no uuid"][..], &[&a, NOBODY], &[NOBODY, &a], &["\0", &b]] {
        rows.push((new_group("g", volumes), not_found));
    }
    for name in ["fsfreeze", "", "pool"] {
        let parameters = map(&[(name, "x")]);
        rows.push((csi::CreateVolumeGroupSnapshotRequest { parameters, ..good.clone() }, invalid));
    }
    let secrets = map(&[("key", "hush")]);
    rows.push((csi::CreateVolumeGroupSnapshotRequest { secrets, ..good.clone() }, invalid));
    for (row, (request, expected)) in rows.into_iter().enumerate() {
        let refused = driver.groups().create_volume_group_snapshot(request).await;
        assert_eq!(code(refused), expected, "{row}");
        assert!(world.all_snapshots().await.is_empty(), "{row}");
    }
    for id in ["no uuid", NOBODY, "\0", "g"] {
        assert_eq!(code(driver.get_group(id, &[]).await), not_found, "{id}");
        driver.delete_group(id, &[]).await.expect("it is not there");
    }
    assert_eq!(code(driver.get_group("", &[]).await), invalid);
    assert_eq!(code(driver.delete_group("", &[]).await), invalid);
    let told = driver.groups();
    let request = csi::GroupControllerGetCapabilitiesRequest {};
    let told = { told }.group_controller_get_capabilities(request).await.expect("told");
    assert_eq!(told.into_inner().capabilities.len(), 1);
    driver.groups().create_volume_group_snapshot(good).await.expect("the good one");
}
