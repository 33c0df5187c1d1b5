//! Volumes: made once for a name, grown, validated, deleted.

use lunar_proto::csi;
use lunar_proto::csi::volume_capability::access_mode::Mode;
use lunar_proto::domain::{
    CreateSnapshots, CreateVolume, Fsfreeze, NewCut, NewMember, PageRequest, Selector,
    SetWatermarks,
};
use lunar_types::{LogicalBlockSize, VolumeSize};
use tonic::Code;

use crate::calls::*;
use crate::node::Node;
use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_made_once_for_its_name_however_often_it_is_asked_for() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let first = driver.create(new_volume("pvc-1")).await.expect("made");
    assert_eq!((first.capacity_bytes, first.content_source), (16 * MIB, None));
    for _ in 0..10 {
        let again = driver.create(new_volume("pvc-1")).await.expect("found");
        assert_eq!(again.volume_id, first.volume_id);
    }
    let [volume] = &world.volumes().await[..] else { panic!("one volume") };
    assert_eq!((volume.id.to_string(), volume.name.as_str()), (first.volume_id, "pvc-1"));
    assert_eq!(volume.logical_block_size, LogicalBlockSize::B4096);
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_none_of_ours_names_one_volume_too() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let odd = ["größe 1", "-dash", "🦀", "a/b", " ", &"ü".repeat(64)];
    for name in odd {
        let made = driver.volume(name).await;
        assert_eq!(driver.volume(name).await, made, "{name}");
    }
    assert_eq!(world.volumes().await.len(), odd.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_volume_under_a_name_that_is_taken_already_exists() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    let with = |change: fn(&mut csi::CreateVolumeRequest)| {
        let mut request = new_volume("v");
        change(&mut request);
        request
    };
    let others: [fn(&mut csi::CreateVolumeRequest); 5] = [
        |it| it.capacity_range = range(17 * MIB, 0),
        |it| it.capacity_range = range(0, 15 * MIB),
        |it| it.capacity_range = range(MIB, 2 * MIB),
        |it| it.parameters = map(&[("pool", POND)]),
        |it| it.parameters = map(&[("pool", TANK), ("blockSize", "512")]),
    ];
    for (row, other) in others.into_iter().enumerate() {
        assert_eq!(code(driver.create(with(other)).await), Code::AlreadyExists, "{row}");
    }
    let same: [fn(&mut csi::CreateVolumeRequest); 4] = [
        |it| it.capacity_range = None,
        |it| it.capacity_range = range(MIB, 0),
        |it| it.capacity_range = range(0, 16 * MIB),
        |it| it.parameters = map(&[("pool", TANK), ("blockSize", "4096")]),
    ];
    for (row, same) in same.into_iter().enumerate() {
        let found = driver.create(with(same)).await.expect("the same");
        assert_eq!((found.volume_id, found.capacity_bytes), (id.clone(), 16 * MIB), "{row}");
    }
    assert_eq!(world.volumes().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_deleted_is_another_volume() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let id = driver.volume("v").await;
        assert!(seen.insert(id.clone()), "an old volume is never given again");
        for _ in 0..3 {
            driver.delete(&id).await.expect("deleted");
        }
        assert_eq!(code(driver.get(&id).await), Code::NotFound);
    }
    assert!(world.volumes().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_rounded_to_blocks_and_defaulted() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    for (name, asked, expected) in [
        ("a", None, GIB),
        ("b", range(1, 0), 4096),
        ("c", range(5000, 8192), 8192),
        ("d", range(0, 10_000), 8192),
        ("e", range(4 << 40, 0), 4 << 40),
    ] {
        let request = csi::CreateVolumeRequest { capacity_range: asked, ..new_volume(name) };
        let made = driver.create(request).await.expect(name);
        assert_eq!(made.capacity_bytes, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_obeyed() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let pool = &world.service.pools(&PageRequest::first()).await;
    let pools = &pool.as_ref().expect("a list").items;
    let tank = pools.iter().find(|pool| pool.name.as_str() == TANK).expect("it is there").id;
    let parameters = map(&[
        ("pool", &tank.to_string()),
        ("blockSize", "512"),
        ("csi.storage.k8s.io/pv/name", "p"),
    ]);
    let request = csi::CreateVolumeRequest { parameters, ..new_volume("v") };
    let made = driver.create(request).await.expect("made");
    let volume = world.volume(&made.volume_id).await;
    assert_eq!((volume.pool, volume.logical_block_size), (tank, LogicalBlockSize::B512));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_grows_and_never_shrinks() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    for _ in 0..10 {
        assert_eq!(driver.expand(&id, 32 * MIB - 1, 0).await.expect("grown"), 32 * MIB);
    }
    assert_eq!(driver.expand(&id, MIB, 0).await.expect("it has that"), 32 * MIB);
    assert_eq!(driver.expand(&id, 0, 64 * MIB).await.expect("it is below"), 32 * MIB);
    assert_eq!(code(driver.expand(&id, MIB, 31 * MIB).await), Code::OutOfRange);
    assert_eq!(code(driver.expand(&id, i64::MAX, 0).await), Code::OutOfRange);
    assert_eq!(code(driver.expand(&id, 0, 0).await), Code::InvalidArgument);
    assert_eq!(world.volume(&id).await.size.bytes(), 32 << 20);
    driver.delete(&id).await.expect("deleted");
    assert_eq!(code(driver.expand(&id, 64 * MIB, 0).await), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_can_be_served_is_confirmed() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    let whole = csi::ValidateVolumeCapabilitiesRequest {
        volume_id: id.clone(),
        volume_context: map(&[("storage.kubernetes.io/csiProvisionerIdentity", "x")]),
        volume_capabilities: vec![writer()],
        parameters: map(&[("pool", TANK)]),
        ..Default::default()
    };
    let asked = |request| async { driver.controller().validate_volume_capabilities(request).await };
    for _ in 0..10 {
        let answer = asked(whole.clone()).await.expect("answered").into_inner();
        let confirmed = answer.confirmed.expect("all of it holds");
        assert_eq!(confirmed.volume_capabilities, whole.volume_capabilities);
        assert_eq!(confirmed.parameters, whole.parameters);
        assert_eq!(confirmed.volume_context, whole.volume_context);
    }
    let readers = capability(mount("ext4"), Mode::MultiNodeReaderOnly);
    let of = |volume_capabilities: Vec<_>| csi::ValidateVolumeCapabilitiesRequest {
        volume_capabilities,
        ..whole.clone()
    };
    let with = |parameters: &[(&str, &str)]| csi::ValidateVolumeCapabilitiesRequest {
        parameters: map(parameters),
        ..whole.clone()
    };
    let rows = [
        of(vec![readers]),
        of(vec![writer(), migratable()]),
        of(vec![capability(mount("btrfs"), Mode::SingleNodeWriter)]),
        with(&[("pool", POND)]),
        with(&[("pool", "nowhere")]),
        with(&[("pool", TANK), ("blockSize", "512")]),
        with(&[("pool", TANK), ("iops", "5")]),
        with(&[("pool", TANK), ("csi.storage.k8s.io/fstype", "xfs")]),
        csi::ValidateVolumeCapabilitiesRequest {
            mutable_parameters: map(&[("iops", "5")]),
            ..whole.clone()
        },
    ];
    for (row, request) in rows.into_iter().enumerate() {
        let answer = asked(request).await.expect("answered").into_inner();
        assert!(answer.confirmed.is_none() && !answer.message.is_empty(), "{row}: {answer:?}");
    }
    assert_eq!(code(asked(of(vec![])).await), Code::InvalidArgument);
    let mut gone = whole;
    gone.volume_id = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10".to_owned();
    assert_eq!(code(asked(gone).await), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_of_a_volume_is_accepted_and_ignored() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let id = driver.volume("v").await;
    let modify = |id: &str, of: &[(&str, &str)]| {
        let (volume_id, mutable_parameters) = (id.to_owned(), map(of));
        let request = csi::ControllerModifyVolumeRequest {
            volume_id,
            mutable_parameters,
            ..Default::default()
        };
        let mut controller = driver.controller();
        async move { controller.controller_modify_volume(request).await }
    };
    modify(&id, &[]).await.expect("nothing is asked for");
    let refused = modify(&id, &[("iops", "100")]).await.expect_err("not known");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("iops"), "{refused}");
    assert_eq!(code(modify("gone", &[]).await), Code::NotFound);
    let request =
        csi::CreateVolumeRequest { mutable_parameters: map(&[("iops", "1")]), ..new_volume("w") };
    assert_eq!(code(driver.create(request).await), Code::InvalidArgument);
    assert_eq!(world.volumes().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_that_can_be_met_is_told_and_every_other_one_refused() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let cluster = world.service.cluster().id.to_string();
    let topology = |key: &str, value: &str| csi::Topology { segments: map(&[(key, value)]) };
    let here = topology("csi.lunar.storage/cluster", &cluster);
    let request = |requisite: Vec<_>| {
        let accessibility_requirements =
            Some(csi::TopologyRequirement { requisite, preferred: vec![] });
        csi::CreateVolumeRequest { accessibility_requirements, ..new_volume("v") }
    };
    for other in [topology("zone", "a"), topology("csi.lunar.storage/cluster", "another")] {
        let refused = driver.create(request(vec![other])).await;
        assert_eq!(code(refused), Code::ResourceExhausted);
    }
    assert!(world.volumes().await.is_empty());
    let made = driver.create(request(vec![topology("zone", "a"), here.clone()])).await;
    assert_eq!(made.expect("made").accessible_topology, [here]);
}

#[tokio::test(flavor = "multi_thread")]
async fn free_space_is_told_for_one_pool_and_for_all() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let asked = |request: csi::GetCapacityRequest| async {
        Ok::<_, tonic::Status>(driver.controller().get_capacity(request).await?.into_inner())
    };
    let of = |parameters: &[(&str, &str)]| csi::GetCapacityRequest {
        parameters: map(parameters),
        ..Default::default()
    };
    let tank = asked(of(&[("pool", TANK)])).await.expect("told");
    let pond = asked(of(&[("pool", POND)])).await.expect("told");
    let all = asked(of(&[])).await.expect("told");
    assert!(tank.available_capacity > 7 * GIB && tank.available_capacity < 8 * GIB, "{tank:?}");
    assert_eq!(all.available_capacity, tank.available_capacity + pond.available_capacity);
    assert_eq!(tank.maximum_volume_size, Some(1 << 47));
    assert_eq!(pond.maximum_volume_size, Some(1 << 43));
    assert_eq!((all.maximum_volume_size, all.minimum_volume_size), (Some(1 << 47), Some(4096)));
    // The pond has blocks of 4096 B alone.
    let none = asked(of(&[("pool", POND), ("blockSize", "512")])).await.expect("told");
    assert_eq!((none.available_capacity, none.maximum_volume_size), (0, None));
    let elsewhere = Some(csi::Topology { segments: map(&[("zone", "a")]) });
    let none = csi::GetCapacityRequest { accessible_topology: elsewhere, ..of(&[]) };
    assert_eq!(asked(none).await.expect("told").available_capacity, 0);
    let readers = vec![capability(mount(""), Mode::MultiNodeReaderOnly)];
    let none = csi::GetCapacityRequest { volume_capabilities: readers, ..of(&[]) };
    assert_eq!(asked(none).await.expect("told").available_capacity, 0);
    for bad in [&[("pool", "nowhere")][..], &[("iops", "1")], &[("pool", TANK), ("x", "y")]] {
        assert_eq!(code(asked(of(bad)).await), Code::InvalidArgument, "{bad:?}");
    }
    // What is told is what can be made.
    for (pool, most) in [(TANK, 1_i64 << 47), (POND, 1 << 43)] {
        let with = |bytes| csi::CreateVolumeRequest {
            capacity_range: range(bytes, 0),
            parameters: map(&[("pool", pool)]),
            ..new_volume(&format!("most-of-{pool}"))
        };
        assert_eq!(code(driver.create(with(most + 1)).await), Code::OutOfRange);
        assert_eq!(driver.create(with(most)).await.expect("made").capacity_bytes, most);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_capabilities_are_all_that_are_served() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let request = csi::ControllerGetCapabilitiesRequest {};
    let told = driver.controller().controller_get_capabilities(request).await;
    let told = told.expect("told").into_inner().capabilities;
    let mut numbers: Vec<i32> = told
        .into_iter()
        .map(|it| match it.r#type.expect("one") {
            csi::controller_service_capability::Type::Rpc(rpc) => rpc.r#type,
        })
        .collect();
    numbers.sort_unstable();
    // The last one is alpha, and claimed on demand alone.
    assert_eq!(numbers, (1..=14).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_begins_in_a_pool_above_its_critical_watermark() {
    let world = World::start_idle().await;
    let driver = world.driver("s").await;
    // Made by who insists: the service counts for the first time when the driver asks.
    let create = CreateVolume {
        request: lunar_metadata_client::fresh_request_id(),
        name: name("v"),
        pool: Selector::Name(name(TANK)),
        size: VolumeSize::from_bytes(16 << 20).expect("a size"),
        logical_block_size: LogicalBlockSize::B4096,
        over_watermark: true,
    };
    let volume = world.service.create_volume(&create).await.expect("made").id;
    let cut = NewCut::Snapshot(name("snap"));
    let create = CreateSnapshots {
        request: lunar_metadata_client::fresh_request_id(),
        members: vec![NewMember { volume: Selector::Id(volume), cut }],
        created_unix_seconds: 0,
        fsfreeze: Fsfreeze::Auto,
        over_watermark: true,
        group: None,
    };
    let set = world.service.create_snapshots(&create).await.expect("cut");
    let (id, snapshot) = (volume.to_string(), set.snapshots[0].id.to_string());
    let node = Node::join(&world, "a").await;
    let held = node.attach(&id, None).await.expect("granted");
    node.reserve(&held, 500).await;
    node.detach(&held).await;
    let request = csi::GetCapacityRequest {
        parameters: map(&[("pool", TANK)]),
        ..csi::GetCapacityRequest::default()
    };
    let free = || async {
        let told = driver.controller().get_capacity(request.clone()).await.expect("told");
        told.into_inner().available_capacity
    };
    let before = free().await;
    assert!(before > 0);
    let set = SetWatermarks {
        request: lunar_metadata_client::fresh_request_id(),
        pool: Selector::Name(name(TANK)),
        warning: Some(1),
        high: Some(2),
        critical: Some(3),
    };
    world.service.set_watermarks(&set).await.expect("set");
    assert_eq!(free().await, 0);
    let exhausted = Code::ResourceExhausted;
    assert_eq!(code(driver.create(new_volume("w")).await), exhausted);
    for volume_content_source in [of_snapshot(&snapshot), of_volume(&id)] {
        let request = csi::CreateVolumeRequest { volume_content_source, ..new_volume("c") };
        assert_eq!(code(driver.create(request).await), exhausted);
    }
    assert_eq!(code(driver.cut(&id, "s").await), exhausted);
    assert_eq!(code(driver.cut_group("g", &[&id]).await), exhausted);
    assert_eq!(code(driver.expand(&id, GIB, 0).await), exhausted);
    // What is there is found, and can be deleted.
    assert_eq!(driver.volume("v").await, id);
    driver.cut(&id, "snap").await.expect("found");
    driver.delete_snapshot(&snapshot).await.expect("deleted");
    driver.delete(&id).await.expect("deleted");
}
