//! Volumes that begin as a snapshot or as another volume.

use std::time::Duration;

use lunar_proto::csi;
use lunar_proto::domain::{CreateSnapshots, Fsfreeze, NewCut, NewMember, Selector};
use tonic::Code;

use crate::calls::*;
use crate::node::Node;
use crate::world::*;

fn clone(name: &str, source: Option<csi::VolumeContentSource>) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        capacity_range: None,
        volume_content_source: source,
        ..new_volume(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_made_once_and_tells_its_source() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let source = driver.volume("source").await;
    let snapshot = driver.cut(&source, "snap").await.expect("cut").snapshot_id;
    for (name, of) in [("c1", of_snapshot(&snapshot)), ("c2", of_volume(&source))] {
        let first = driver.create(clone(name, of.clone())).await.expect(name);
        assert_eq!((first.capacity_bytes, &first.content_source), (16 * MIB, &of));
        for _ in 0..10 {
            let again = driver.create(clone(name, of.clone())).await.expect(name);
            assert_eq!(again, first, "{name}");
        }
    }
    assert_eq!(world.volumes().await.len(), 3);
    assert_eq!(world.all_snapshots().await.len(), 1, "no clone leaves a snapshot behind");
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_may_be_larger_than_its_source_and_never_smaller() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let source = driver.volume("source").await;
    let snapshot = driver.cut(&source, "snap").await.expect("cut").snapshot_id;
    for (kind, of) in [("s", of_snapshot(&snapshot)), ("v", of_volume(&source))] {
        let sized = |name: &str, required, limit| csi::CreateVolumeRequest {
            capacity_range: range(required, limit),
            ..clone(&format!("{kind}-{name}"), of.clone())
        };
        for (name, required, limit, expected) in [
            ("larger", 40 * MIB + 1, 0, 40 * MIB + 4096),
            ("same", 16 * MIB, 16 * MIB, 16 * MIB),
            ("less-required", MIB, 0, 16 * MIB),
            ("limit-alone", 0, GIB, 16 * MIB),
        ] {
            for _ in 0..3 {
                let made = driver.create(sized(name, required, limit)).await.expect(name);
                assert_eq!(made.capacity_bytes, expected, "{kind} {name}");
            }
        }
        let before = world.volumes().await.len();
        for (name, required, limit) in [("a", MIB, 2 * MIB), ("b", 0, 15 * MIB)] {
            let refused = driver.create(sized(name, required, limit)).await;
            assert_eq!(code(refused), Code::OutOfRange, "{kind} {name}");
        }
        assert_eq!(world.volumes().await.len(), before);
    }
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_there_or_does_not_fit_is_refused() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let source = driver.volume("source").await;
    let snapshot = driver.cut(&source, "snap").await.expect("cut").snapshot_id;
    for none in ["6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10", "snap", "no uuid"] {
        for of in [of_snapshot(none), of_volume(none)] {
            assert_eq!(code(driver.create(clone("c", of)).await), Code::NotFound, "{none}");
        }
    }
    for of in [of_snapshot(&snapshot), of_volume(&source)] {
        let elsewhere = csi::CreateVolumeRequest {
            parameters: map(&[("pool", POND)]),
            ..clone("c", of.clone())
        };
        assert_eq!(code(driver.create(elsewhere).await), Code::InvalidArgument);
        let parameters = map(&[("pool", TANK), ("blockSize", "512")]);
        let finer = csi::CreateVolumeRequest { parameters, ..clone("c", of) };
        assert_eq!(code(driver.create(finer).await), Code::InvalidArgument);
    }
    driver.delete_snapshot(&snapshot).await.expect("deleted");
    driver.delete(&source).await.expect("deleted");
    for of in [of_snapshot(&snapshot), of_volume(&source)] {
        assert_eq!(code(driver.create(clone("c", of)).await), Code::NotFound);
    }
    assert!(world.volumes().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_of_an_attached_volume_is_made_when_its_node_has_voted() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let source = driver.volume("source").await;
    let node = Node::join(&world, "a").await;
    let leave = driver.publish(&source, "a").await.expect("published");
    let held = node.attach(&source, Some(&leave)).await.expect("granted");
    node.write(&held, &[0, 3]).await;
    let request = csi::CreateVolumeRequest {
        capacity_range: range(20 * MIB, 0),
        ..clone("c", of_volume(&source))
    };
    // Nobody votes in the time of the first two calls.
    for _ in 0..2 {
        let asked = within(Duration::from_millis(1500), request.clone());
        assert_eq!(code(driver.controller().create_volume(asked).await), Code::Aborted);
    }
    let set = node.when_asked(&held).await;
    node.vote(set, &held).await;
    for _ in 0..3 {
        let made = driver.create(request.clone()).await.expect("it is cut");
        assert_eq!(made.capacity_bytes, 20 * MIB);
    }
    assert_eq!(world.volumes().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_cannot_be_cut_says_so_and_leaves_nothing() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let source = driver.volume("source").await;
    let node = Node::join(&world, "a").await;
    let held = node.attach(&source, None).await.expect("granted");
    let mut controller = driver.controller();
    let request = within(Duration::from_secs(10), clone("c", of_volume(&source)));
    let asked = tokio::spawn(async move { controller.create_volume(request).await });
    let set = node.when_asked(&held).await;
    node.refuse(set, &held).await;
    let refused = asked.await.expect("no panic").expect_err("it is not cut");
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("nothing was cut"), "{refused}");
    assert_eq!(world.volumes().await.len(), 1);
    node.detach(&held).await;
    driver.create(clone("c", of_volume(&source))).await.expect("nobody is to be asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_was_cut_and_not_grown_is_grown_by_the_next_call() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let source = driver.volume("source").await;
    // What a controller leaves that is killed after the cut.
    let members = vec![NewMember {
        volume: Selector::Id(source.parse().expect("an id")),
        cut: NewCut::Clone(name("c")),
    }];
    let create = CreateSnapshots {
        request: lunar_metadata_client::fresh_request_id(),
        members,
        created_unix_seconds: 0,
        fsfreeze: Fsfreeze::Auto,
        over_watermark: false,
        group: None,
    };
    world.service.create_snapshots(&create).await.expect("cut");
    let request = csi::CreateVolumeRequest {
        capacity_range: range(64 * MIB, 0),
        ..clone("c", of_volume(&source))
    };
    let made = driver.create(request).await.expect("found and grown");
    assert_eq!(made.capacity_bytes, 64 * MIB);
    // Once somebody has had it, it is a volume of its own.
    let node = Node::join(&world, "a").await;
    let held = node.attach(&made.volume_id, None).await.expect("granted");
    node.detach(&held).await;
    let more = csi::CreateVolumeRequest {
        capacity_range: range(65 * MIB, 0),
        ..clone("c", of_volume(&source))
    };
    assert_eq!(code(driver.create(more).await), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_another_source_already_exists() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let (one, two) = (driver.volume("one").await, driver.volume("two").await);
    let snapshot = driver.cut(&one, "snap").await.expect("cut").snapshot_id;
    let other = driver.cut(&one, "other").await.expect("cut").snapshot_id;
    let sources =
        [None, of_volume(&one), of_volume(&two), of_snapshot(&snapshot), of_snapshot(&other)];
    for (has, source) in sources.iter().enumerate() {
        let name = format!("v{has}");
        let request = |source: &Option<csi::VolumeContentSource>| csi::CreateVolumeRequest {
            capacity_range: range(16 * MIB, 0),
            ..clone(&name, source.clone())
        };
        let made = driver.create(request(source)).await.expect("made");
        assert_eq!(&made.content_source, source);
        for (asked, other) in sources.iter().enumerate() {
            let outcome = driver.create(request(other)).await;
            if asked == has {
                assert_eq!(outcome.expect("the same").volume_id, made.volume_id);
            } else {
                assert_eq!(code(outcome), Code::AlreadyExists, "{has} {asked}");
            }
        }
        let told = driver.get(&made.volume_id).await.expect("there").volume.expect("told");
        assert_eq!(&told.content_source, source);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_found_although_its_source_is_gone() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let source = driver.volume("source").await;
    let snapshot = driver.cut(&source, "snap").await.expect("cut").snapshot_id;
    let (of_snapshot, of_volume) = (of_snapshot(&snapshot), of_volume(&source));
    let mut made = Vec::new();
    for (name, of) in [("c1", &of_snapshot), ("c2", &of_volume)] {
        made.push(driver.create(clone(name, of.clone())).await.expect(name));
    }
    driver.delete_snapshot(&snapshot).await.expect("deleted");
    driver.delete(&source).await.expect("deleted");
    for ((name, of), made) in [("c1", &of_snapshot), ("c2", &of_volume)].into_iter().zip(made) {
        assert_eq!(driver.create(clone(name, of.clone())).await.expect(name), made);
    }
}
