//! Drivers that are killed in the middle of a call, services that are away, callers that go.

use std::time::Duration;

use lunar_proto::csi;
use tonic::Code;

use crate::calls::*;
use crate::node::Node;
use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_killed_in_the_middle_makes_nothing_twice() {
    let world = World::start().await;
    let mut driver = world.driver("s").await;
    let source = driver.volume("source").await;
    let mut expected = 1;
    for round in 0..12_u64 {
        let name = format!("v{round}");
        let mut request = new_volume(&name);
        if round % 2 == 1 {
            request.volume_content_source = of_volume(&source);
            request.capacity_range = range(24 * MIB, 0);
        }
        let mut controller = driver.controller();
        let asked = request.clone();
        let call = tokio::spawn(async move { controller.create_volume(asked).await });
        // Before, in and after the work, which takes a few milliseconds.
        tokio::time::sleep(Duration::from_micros(round * 700)).await;
        let socket = driver.kill();
        if let Err(status) = call.await.expect("no panic") {
            let code = status.code();
            assert!(
                [Code::Unavailable, Code::Unknown, Code::Cancelled].contains(&code),
                "{status}"
            );
        }
        driver = Driver::start(socket, &world.endpoint()).await;
        let made = driver.create(request.clone()).await.expect("made or found");
        assert_eq!(made.capacity_bytes, request.capacity_range.expect("given").required_bytes);
        assert_eq!(driver.create(request).await.expect("found").volume_id, made.volume_id);
        expected += 1;
        assert_eq!(world.volumes().await.len(), expected, "{round}");
    }
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_outlives_the_driver_that_has_asked_for_it() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let volume = driver.volume("v").await;
    let node = Node::join(&world, "a").await;
    let held = node.attach(&volume, None).await.expect("granted");
    for (name, is_clone) in [("snap", false), ("clone", true)] {
        let mut controller = driver.controller();
        let (source, of) = (volume.clone(), of_volume(&volume));
        let call = tokio::spawn(async move {
            if is_clone {
                let volume_content_source = of;
                let request =
                    csi::CreateVolumeRequest { volume_content_source, ..new_volume(name) };
                controller.create_volume(request).await.map(drop)
            } else {
                let (source_volume_id, name) = (source, name.to_owned());
                let request =
                    csi::CreateSnapshotRequest { source_volume_id, name, ..Default::default() };
                controller.create_snapshot(request).await.map(drop)
            }
        });
        let set = node.when_asked(&held).await;
        // Another controller of the same cluster takes over.
        let second = world.driver(&format!("after-{name}")).await;
        call.abort();
        node.vote(set, &held).await;
        if is_clone {
            let volume_content_source = of_volume(&volume);
            let request = csi::CreateVolumeRequest { volume_content_source, ..new_volume(name) };
            second.create(request).await.expect("found");
        } else {
            second.cut(&volume, name).await.expect("found");
        }
    }
    assert_eq!((world.volumes().await.len(), world.all_snapshots().await.len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_killed_while_it_publishes_or_unpublishes_is_carried_on() {
    let world = World::start().await;
    let mut driver = world.driver("s").await;
    let id = driver.volume("v").await;
    let node = Node::join(&world, "a").await;
    for round in 0..6_u64 {
        let mut controller = driver.controller();
        let request = csi::ControllerPublishVolumeRequest {
            volume_id: id.clone(),
            node_id: "a".to_owned(),
            volume_capability: Some(writer()),
            ..Default::default()
        };
        let call = tokio::spawn(async move { controller.controller_publish_volume(request).await });
        tokio::time::sleep(Duration::from_micros(round * 700)).await;
        driver = Driver::start(driver.kill(), &world.endpoint()).await;
        drop(call.await.expect("no panic"));
        let leave = driver.publish(&id, "a").await.expect("published");
        let held = node.attach(&id, Some(&leave)).await.expect("granted");
        let mut controller = driver.controller();
        let request = csi::ControllerUnpublishVolumeRequest {
            volume_id: id.clone(),
            node_id: "a".to_owned(),
            ..Default::default()
        };
        let call =
            tokio::spawn(async move { controller.controller_unpublish_volume(request).await });
        tokio::time::sleep(Duration::from_millis(30)).await;
        driver = Driver::start(driver.kill(), &world.endpoint()).await;
        call.await.expect("no panic").expect_err("it was waiting");
        node.detach(&held).await;
        driver.unpublish(&id, "a").await.expect("nothing is left");
    }
    assert!(world.volume(&id).await.publications.is_empty());
    world.assert_clean().await;
}

/// Every call that needs the service, with a second to be answered.
async fn every_call(driver: &Driver, id: &str) -> Vec<(&'static str, Code)> {
    fn told<T>(outcome: Called<T>) -> Code {
        outcome.err().map_or(Code::Ok, |status| status.code())
    }
    let second = Duration::from_secs(1);
    let (mut controller, id) = (driver.controller(), id.to_owned());
    let publish = csi::ControllerPublishVolumeRequest {
        volume_id: id.clone(),
        node_id: "a".to_owned(),
        volume_capability: Some(writer()),
        ..Default::default()
    };
    let validate = csi::ValidateVolumeCapabilitiesRequest {
        volume_id: id.clone(),
        volume_capabilities: vec![writer()],
        ..Default::default()
    };
    let volume_id = || id.clone();
    let snapshot_id = || id.clone();
    macro_rules! ask {
        ($call:ident, $request:expr) => {
            (stringify!($call), told(controller.$call(within(second, $request)).await))
        };
    }
    vec![
        ask!(create_volume, new_volume("away")),
        ask!(
            delete_volume,
            csi::DeleteVolumeRequest { volume_id: volume_id(), ..Default::default() }
        ),
        ask!(controller_publish_volume, publish),
        ask!(
            controller_unpublish_volume,
            csi::ControllerUnpublishVolumeRequest { volume_id: volume_id(), ..Default::default() }
        ),
        ask!(validate_volume_capabilities, validate),
        ask!(list_volumes, csi::ListVolumesRequest::default()),
        ask!(get_capacity, csi::GetCapacityRequest::default()),
        ask!(
            create_snapshot,
            csi::CreateSnapshotRequest {
                source_volume_id: volume_id(),
                name: "s".to_owned(),
                ..Default::default()
            }
        ),
        ask!(
            delete_snapshot,
            csi::DeleteSnapshotRequest { snapshot_id: snapshot_id(), ..Default::default() }
        ),
        ask!(list_snapshots, csi::ListSnapshotsRequest::default()),
        ask!(
            get_snapshot,
            csi::GetSnapshotRequest { snapshot_id: snapshot_id(), ..Default::default() }
        ),
        ask!(
            controller_expand_volume,
            csi::ControllerExpandVolumeRequest {
                volume_id: volume_id(),
                capacity_range: range(GIB, 0),
                ..Default::default()
            }
        ),
        ask!(controller_get_volume, csi::ControllerGetVolumeRequest { volume_id: volume_id() }),
        ask!(
            controller_modify_volume,
            csi::ControllerModifyVolumeRequest { volume_id: volume_id(), ..Default::default() }
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_is_unavailable_and_then_served_again() {
    let mut world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    world.go_away().await;
    for (call, code) in every_call(&driver, &id).await {
        assert_eq!(code, Code::Unavailable, "{call}");
    }
    let request =
        csi::GetMetadataAllocatedRequest { snapshot_id: id.clone(), ..Default::default() };
    let request = within(Duration::from_secs(1), request);
    let refused = driver.snapshot_metadata().get_metadata_allocated(request).await;
    assert_eq!(refused.expect_err("away").code(), Code::Unavailable);
    world.serve().await;
    let [volume] = &world.volumes().await[..] else { panic!("nothing was made") };
    assert_eq!(volume.id.to_string(), id);
    driver.get(&id).await.expect("it is served again");
    assert_eq!(driver.volume("v").await, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_says_whether_it_reaches_the_service_and_lives_without_it() {
    let mut world = World::start().await;
    let mut driver = world.driver("s").await;
    let mut identity = csi::identity_client::IdentityClient::new(driver.channel());
    let ready = identity.probe(csi::ProbeRequest {}).await.expect("answered").into_inner();
    assert_eq!(ready.ready, Some(true));
    world.go_away().await;
    let ready = identity.probe(csi::ProbeRequest {}).await.expect("answered").into_inner();
    assert_eq!(ready.ready, Some(false));
    assert!(driver.is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_cancelled_is_carried_on_or_found() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    for round in 0..10_u64 {
        let name = format!("v{round}");
        let mut controller = driver.controller();
        let request = new_volume(&name);
        let call = tokio::spawn(async move { controller.create_volume(request).await });
        tokio::time::sleep(Duration::from_micros(round * 300)).await;
        call.abort();
        // The cancelled call may still have the name for a moment.
        let mut made = driver.create(new_volume(&name)).await;
        for _ in 0..100 {
            match &made {
                Err(status) if status.code() == Code::Aborted => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    made = driver.create(new_volume(&name)).await;
                }
                _ => break,
            }
        }
        made.expect("made or found");
    }
    assert_eq!(world.volumes().await.len(), 10);
}
