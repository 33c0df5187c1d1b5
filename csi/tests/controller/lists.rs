//! Lists: pages, tokens, filters.

use std::collections::BTreeSet;

use lunar_proto::csi;
use tonic::Code;

use crate::calls::*;
use crate::node::Node;
use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_volume_is_in_one_page_whatever_the_size_of_pages() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let mut expected = BTreeSet::new();
    for n in 0..9 {
        expected.insert(driver.volume(&format!("v{n}")).await);
    }
    Node::join(&world, "a").await;
    let published = expected.first().expect("one").clone();
    driver.publish(&published, "a").await.expect("published");
    for max in [0, 1, 2, 3, 4, 9, 10, 5000, i32::MAX] {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let page = driver.list(max, &token).await.expect("a page");
            assert!(max == 0 || page.entries.len() <= max.unsigned_abs() as usize, "{max}");
            seen.extend(page.entries);
            token = page.next_token;
            if token.is_empty() {
                break;
            }
        }
        let ids: Vec<_> =
            seen.iter().map(|it| it.volume.clone().expect("told").volume_id).collect();
        assert_eq!(ids.len(), 9, "{max}: none twice");
        assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), expected, "{max}");
        for entry in seen {
            let status = entry.status.expect("told");
            let is_published = entry.volume.expect("told").volume_id == published;
            assert_eq!(status.published_node_ids, ["a"][..usize::from(is_published)]);
            assert!(!status.volume_condition.expect("told").abnormal);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_goes_on_where_it_was_although_volumes_come_and_go() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let mut ids = Vec::new();
    for n in 0..6 {
        ids.push(driver.volume(&format!("v{n}")).await);
    }
    ids.sort();
    let first = driver.list(3, "").await.expect("a page");
    let of = |page: &csi::ListVolumesResponse| -> Vec<String> {
        page.entries.iter().map(|it| it.volume.clone().expect("told").volume_id).collect()
    };
    assert_eq!(of(&first), ids[..3]);
    for gone in [&ids[2], &ids[4]] {
        driver.delete(gone).await.expect("deleted");
    }
    let rest = driver.list(3, &first.next_token).await.expect("the token's volume may be gone");
    assert_eq!((of(&rest), rest.next_token.as_str()), (vec![ids[3].clone(), ids[5].clone()], ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_none_are_aborted_and_negative_numbers_invalid() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let volume = driver.volume("v").await;
    driver.volume("w").await;
    for name in ["s1", "s2"] {
        driver.cut(&volume, name).await.expect("cut");
    }
    let of_volumes = driver.list(1, "").await.expect("a page").next_token;
    let asked = csi::ListSnapshotsRequest { max_entries: 1, ..Default::default() };
    let of_snapshots = driver.snapshots(asked.clone()).await.expect("a page").next_token;
    assert!(!of_volumes.is_empty() && !of_snapshots.is_empty());
    let long = "ab".repeat(2000);
    for token in ["x", "abc", "zz", "00", "ff", "-1", long.as_str(), of_snapshots.as_str()] {
        assert_eq!(code(driver.list(1, token).await), Code::Aborted, "{token}");
    }
    for token in ["x", "00", long.as_str(), of_volumes.as_str()] {
        let starting_token = token.to_owned();
        let asked = csi::ListSnapshotsRequest { starting_token, ..asked.clone() };
        assert_eq!(code(driver.snapshots(asked).await), Code::Aborted, "{token}");
    }
    assert_eq!(code(driver.list(-1, "").await), Code::InvalidArgument);
    assert_eq!(code(driver.list(i32::MIN, &of_volumes).await), Code::InvalidArgument);
    let negative = csi::ListSnapshotsRequest { max_entries: -5, ..Default::default() };
    assert_eq!(code(driver.snapshots(negative).await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_listed_by_volume_by_id_and_all() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let (v, w) = (driver.volume("v").await, driver.volume("w").await);
    let mut of_v = BTreeSet::new();
    for n in 0..5 {
        of_v.insert(driver.cut(&v, &format!("v-{n}")).await.expect("cut").snapshot_id);
    }
    let one_of_w = driver.cut(&w, "w-0").await.expect("cut").snapshot_id;
    let listed = |volume: &str, snapshot: &str, max: i32| {
        let (source_volume_id, snapshot_id) = (volume.to_owned(), snapshot.to_owned());
        let mut request = csi::ListSnapshotsRequest {
            max_entries: max,
            source_volume_id,
            snapshot_id,
            ..Default::default()
        };
        let driver = &driver;
        async move {
            let mut ids = BTreeSet::new();
            loop {
                let page = driver.snapshots(request.clone()).await.expect("a page");
                for entry in page.entries {
                    assert!(ids.insert(entry.snapshot.expect("told").snapshot_id), "not twice");
                }
                request.starting_token = page.next_token;
                if request.starting_token.is_empty() {
                    return ids;
                }
            }
        }
    };
    let none = BTreeSet::new();
    let one = || BTreeSet::from([one_of_w.clone()]);
    for max in [0, 1, 2, 100] {
        assert_eq!(listed("", "", max).await.len(), 6, "{max}");
        assert_eq!(listed(&v, "", max).await, of_v, "{max}");
        assert_eq!(listed(&w, "", max).await, one(), "{max}");
        assert_eq!(listed("", &one_of_w, max).await, one(), "{max}");
        assert_eq!(listed(&w, &one_of_w, max).await, one(), "{max}");
        assert_eq!(listed(&v, &one_of_w, max).await, none, "{max}");
    }
    let nobody = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";
    for (volume, snapshot) in
        [("no uuid", ""), ("", "no uuid"), (nobody, ""), ("", nobody), (&v, "no uuid")]
    {
        assert_eq!(listed(volume, snapshot, 0).await, none, "{volume} {snapshot}");
    }
    // Those of a volume that is gone are still there.
    driver.delete(&v).await.expect("deleted");
    assert_eq!(listed(&v, "", 2).await, of_v);
    driver.delete_snapshot(&one_of_w).await.expect("deleted");
    assert_eq!(listed("", "", 0).await, of_v);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_changes_nothing_however_often() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let volume = driver.volume("v").await;
    let snapshot = driver.cut(&volume, "s").await.expect("cut").snapshot_id;
    let look = || async {
        let mut controller = driver.controller();
        let capacity = csi::GetCapacityRequest::default();
        let snapshot_id = snapshot.clone();
        let get = csi::GetSnapshotRequest { snapshot_id, ..Default::default() };
        let volume_id = volume.clone();
        let modify = csi::ControllerModifyVolumeRequest { volume_id, ..Default::default() };
        controller.controller_modify_volume(modify).await.expect("nothing is asked for");
        (
            driver.list(0, "").await.expect("a list"),
            driver.snapshots(csi::ListSnapshotsRequest::default()).await.expect("a list"),
            driver.get(&volume).await.expect("there"),
            controller.get_capacity(capacity).await.expect("told").into_inner(),
            controller.get_snapshot(get).await.expect("there").into_inner(),
        )
    };
    let first = look().await;
    assert_eq!((first.0.entries.len(), first.1.entries.len()), (1, 1));
    let before = (world.volumes().await, world.all_snapshots().await);
    for _ in 0..10 {
        assert_eq!(look().await, first);
    }
    assert_eq!((world.volumes().await, world.all_snapshots().await), before);
}
