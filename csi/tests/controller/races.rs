//! Many callers at once, of one controller and of two.

use std::collections::BTreeSet;
use std::future::Future;

use tokio::task::JoinSet;
use tonic::Code;

use crate::calls::*;
use crate::node::Node;
use crate::world::*;

/// What each of several tasks gets, begun at once.
async fn at_once<T: Send + 'static, F>(tasks: impl IntoIterator<Item = F>) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
{
    let mut set = JoinSet::new();
    for task in tasks {
        set.spawn(task);
    }
    set.join_all().await
}

/// The one thing that all who got it have got; everybody else was told to ask again.
fn one_of(outcomes: Vec<Called<String>>) -> Option<String> {
    let mut seen = BTreeSet::new();
    for outcome in outcomes {
        match outcome {
            Ok(id) => drop(seen.insert(id)),
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{status}"),
        }
    }
    assert!(seen.len() <= 1, "{seen:?}");
    seen.pop_first()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_for_one_name_make_one_volume() {
    let world = World::start().await;
    let drivers = [world.driver("one").await, world.driver("two").await];
    let mut made = BTreeSet::new();
    for callers in [2_usize, 5, 16] {
        let name = format!("v{callers}");
        let task = |n: usize| {
            let (mut controller, request) = (drivers[n % 2].controller(), new_volume(&name));
            async move {
                let answer = controller.create_volume(request).await?.into_inner();
                Ok(answer.volume.expect("told").volume_id)
            }
        };
        let first = one_of(at_once((0..callers).map(task)).await);
        let again = drivers[0].volume(&name).await;
        assert!(first.is_none_or(|first| first == again), "{callers}");
        made.insert(again);
        assert_eq!(world.volumes().await.len(), made.len(), "{callers}");
    }
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_make_one_clone_and_one_snapshot_of_a_name() {
    let world = World::start().await;
    let drivers = [world.driver("one").await, world.driver("two").await];
    let source = drivers[0].volume("source").await;
    let clone = |n: usize| {
        let mut request = new_volume("clone");
        request.volume_content_source = of_volume(&source);
        request.capacity_range = range(32 * MIB, 0);
        let mut controller = drivers[n % 2].controller();
        async move {
            let volume = controller.create_volume(request).await?.into_inner().volume;
            let volume = volume.expect("told");
            assert_eq!(volume.capacity_bytes, 32 * MIB, "nobody is told a half made one");
            Ok(volume.volume_id)
        }
    };
    one_of(at_once((0..8).map(clone)).await);
    let cut = |n: usize| {
        let request = lunar_proto::csi::CreateSnapshotRequest {
            source_volume_id: source.clone(),
            name: "snap".to_owned(),
            ..Default::default()
        };
        let mut controller = drivers[n % 2].controller();
        async move {
            let snapshot = controller.create_snapshot(request).await?.into_inner().snapshot;
            Ok(snapshot.expect("told").snapshot_id)
        }
    };
    one_of(at_once((0..8).map(cut)).await);
    drivers[1].cut(&source, "snap").await.expect("found");
    clone(0).await.expect("found");
    assert_eq!((world.volumes().await.len(), world.all_snapshots().await.len()), (2, 1));
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_one_gets_a_volume_whoever_publishes() {
    let world = World::start().await;
    let drivers = [world.driver("one").await, world.driver("two").await];
    let id = drivers[0].volume("v").await;
    for node in ["a", "b"] {
        Node::join(&world, node).await;
    }
    for _ in 0..5 {
        let task = |n: usize| {
            let node = if n.is_multiple_of(2) { "a" } else { "b" };
            let mut controller = drivers[n / 2 % 2].controller();
            let request = lunar_proto::csi::ControllerPublishVolumeRequest {
                volume_id: id.clone(),
                node_id: node.to_owned(),
                volume_capability: Some(writer()),
                ..Default::default()
            };
            async move { (node, controller.controller_publish_volume(request).await) }
        };
        let outcomes = at_once((0..8).map(task)).await;
        let mut winners = BTreeSet::new();
        for (node, outcome) in outcomes {
            match outcome {
                Ok(_) => drop(winners.insert(node)),
                Err(status) => {
                    let expected = [Code::FailedPrecondition, Code::Aborted];
                    assert!(expected.contains(&status.code()), "{status}");
                }
            }
        }
        assert!(winners.len() <= 1, "{winners:?}");
        drivers[1].unpublish(&id, "").await.expect("taken back");
    }
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn makers_and_deleters_of_one_name_leave_nothing_half_done() {
    let world = World::start().await;
    let drivers = [world.driver("one").await, world.driver("two").await];
    let task = |n: usize| {
        let mut controller = drivers[n % 2].controller();
        async move {
            for _ in 0..10 {
                let made = controller.create_volume(new_volume("v")).await;
                let made = match made {
                    Ok(made) => made.into_inner().volume.expect("told"),
                    Err(status) => {
                        assert_eq!(status.code(), Code::Aborted, "{status}");
                        continue;
                    }
                };
                let volume_id = made.volume_id;
                let request =
                    lunar_proto::csi::DeleteVolumeRequest { volume_id, ..Default::default() };
                if let Err(status) = controller.delete_volume(request).await {
                    assert_eq!(status.code(), Code::Aborted, "{status}");
                }
            }
        }
    };
    at_once((0..6).map(task)).await;
    assert!(world.volumes().await.len() <= 1);
    let last = drivers[0].volume("v").await;
    drivers[0].delete(&last).await.expect("deleted");
    assert!(world.volumes().await.is_empty());
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn growers_of_one_volume_agree() {
    let world = World::start().await;
    let drivers = [world.driver("one").await, world.driver("two").await];
    for round in 0..20 {
        let id = drivers[0].volume(&format!("v{round}")).await;
        let task = |n: usize| {
            let mib = 17 + i64::try_from(n).expect("few");
            let request = lunar_proto::csi::ControllerExpandVolumeRequest {
                volume_id: id.clone(),
                capacity_range: range(mib * MIB, 0),
                ..Default::default()
            };
            let mut controller = drivers[n % 2].controller();
            async move { (mib, controller.controller_expand_volume(request).await) }
        };
        for (mib, outcome) in at_once((0..8).map(task)).await {
            match outcome {
                Ok(grown) => assert!(grown.into_inner().capacity_bytes >= mib * MIB),
                Err(status) => assert_eq!(status.code(), Code::Aborted, "{status}"),
            }
        }
        assert_eq!(drivers[0].expand(&id, 24 * MIB, 0).await.expect("grown"), 24 * MIB);
    }
}
