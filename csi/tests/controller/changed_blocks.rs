//! SnapshotMetadata: what is allocated, and what differs.

use lunar_proto::csi;
use lunar_proto::csi::BlockMetadataType;
use tonic::{Code, Status};

use crate::calls::*;
use crate::node::Node;
use crate::world::*;

type Ranges = Vec<(i64, i64)>;

/// Every range, and how many messages they came in.
async fn read<T>(
    opened: Result<tonic::Response<tonic::Streaming<T>>, Status>,
    facts: impl Fn(T) -> (i32, i64, Vec<csi::BlockMetadata>),
    max: i32,
) -> Result<(Ranges, usize), Status> {
    let (mut stream, mut ranges, mut messages) = (opened?.into_inner(), Ranges::new(), 0);
    while let Some(message) = stream.message().await? {
        let (kind, capacity, blocks) = facts(message);
        assert_eq!(kind, i32::from(BlockMetadataType::VariableLength));
        assert_eq!(capacity, 16 * MIB);
        assert!(max == 0 || blocks.len() <= max.unsigned_abs() as usize);
        ranges.extend(blocks.iter().map(|it| (it.byte_offset, it.size_bytes)));
        messages += 1;
    }
    for pair in ranges.windows(2) {
        assert!(pair[0].0 + pair[0].1 < pair[1].0, "in order, and none touches the next");
    }
    Ok((ranges, messages))
}

async fn allocated(driver: &Driver, id: &str, from: i64, max: i32) -> Called<(Ranges, usize)> {
    let request = csi::GetMetadataAllocatedRequest {
        snapshot_id: id.to_owned(),
        starting_offset: from,
        max_results: max,
        ..Default::default()
    };
    let opened = driver.snapshot_metadata().get_metadata_allocated(request).await;
    read(opened, |it| (it.block_metadata_type, it.volume_capacity_bytes, it.block_metadata), max)
        .await
}

async fn delta(
    driver: &Driver,
    (base, target): (&str, &str),
    from: i64,
    max: i32,
) -> Called<(Ranges, usize)> {
    let request = csi::GetMetadataDeltaRequest {
        base_snapshot_id: base.to_owned(),
        target_snapshot_id: target.to_owned(),
        starting_offset: from,
        max_results: max,
        ..Default::default()
    };
    let opened = driver.snapshot_metadata().get_metadata_delta(request).await;
    read(opened, |it| (it.block_metadata_type, it.volume_capacity_bytes, it.block_metadata), max)
        .await
}

/// A volume that was written, cut as `a`, written again, and cut as `b`.
async fn two(world: &World, driver: &Driver) -> (String, String) {
    let volume = driver.volume("v").await;
    let node = Node::join(world, "n").await;
    let held = node.attach(&volume, None).await.expect("granted");
    node.write(&held, &[0, 1, 5, 9]).await;
    node.detach(&held).await;
    let a = driver.cut(&volume, "a").await.expect("cut").snapshot_id;
    let held = node.attach(&volume, None).await.expect("granted");
    node.write(&held, &[1, 2, 15]).await;
    node.detach(&held).await;
    let b = driver.cut(&volume, "b").await.expect("cut").snapshot_id;
    (a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_told_and_nothing_else() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let (a, b) = two(&world, &driver).await;
    let mib = |of: &[(i64, i64)]| of.iter().map(|it| (it.0 * MIB, it.1 * MIB)).collect::<Ranges>();
    for _ in 0..10 {
        let told = allocated(&driver, &a, 0, 0).await.expect("told");
        assert_eq!(told, (mib(&[(0, 2), (5, 1), (9, 1)]), 1));
    }
    let told = allocated(&driver, &b, 0, 0).await.expect("told").0;
    assert_eq!(told, mib(&[(0, 3), (5, 1), (9, 1), (15, 1)]));
    let changed = delta(&driver, (&a, &b), 0, 0).await.expect("told").0;
    assert_eq!(changed, mib(&[(1, 2), (15, 1)]));
    let back = delta(&driver, (&b, &a), 0, 0).await.expect("told").0;
    assert_eq!(back, mib(&[(1, 2), (15, 1)]));
    let same = delta(&driver, (&a, &a), 0, 0).await.expect("told");
    assert_eq!(same, (vec![], 1), "one message tells the size");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_begins_at_its_offset_and_has_as_many_ranges_a_message_as_it_asks_for() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let (a, b) = two(&world, &driver).await;
    let whole = allocated(&driver, &b, 0, 0).await.expect("told").0;
    for max in 1..6 {
        let (told, messages) = allocated(&driver, &b, 0, max).await.expect("told");
        assert_eq!(told, whole, "{max}");
        assert_eq!(messages, whole.len().div_ceil(max.unsigned_abs() as usize), "{max}");
    }
    for from in [1, 4095, 4096, MIB + 1, 3 * MIB, 6 * MIB - 1, 16 * MIB - 1] {
        let clip = |(begin, size): &(i64, i64)| {
            let (begin, end) = ((*begin).max(from), begin + size);
            (begin < end).then_some((begin, end - begin))
        };
        let expected: Ranges = whole.iter().filter_map(clip).collect();
        assert_eq!(allocated(&driver, &b, from, 0).await.expect("told").0, expected, "{from}");
    }
    let told = delta(&driver, (&a, &b), 2 * MIB, 1).await.expect("told").0;
    assert_eq!(told, [(2 * MIB, MIB), (15 * MIB, MIB)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_is_refused() {
    let world = World::start().await;
    let driver = world.driver("s").await;
    let (a, _) = two(&world, &driver).await;
    let other = driver.volume("other").await;
    let other = driver.cut(&other, "c").await.expect("cut").snapshot_id;
    for none in ["no uuid", "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10"] {
        assert_eq!(code(allocated(&driver, none, 0, 0).await), Code::NotFound);
        assert_eq!(code(delta(&driver, (&a, none), 0, 0).await), Code::NotFound);
        assert_eq!(code(delta(&driver, (none, &a), 0, 0).await), Code::NotFound);
    }
    for (base, target) in [("", a.as_str()), (a.as_str(), ""), (other.as_str(), a.as_str())] {
        assert_eq!(code(delta(&driver, (base, target), 0, 0).await), Code::InvalidArgument);
    }
    assert_eq!(code(allocated(&driver, "", 0, 0).await), Code::InvalidArgument);
    assert_eq!(code(allocated(&driver, &a, 0, -1).await), Code::InvalidArgument);
    for offset in [-1, i64::MIN, 16 * MIB, i64::MAX] {
        assert_eq!(code(allocated(&driver, &a, offset, 0).await), Code::OutOfRange);
        assert_eq!(code(delta(&driver, (&a, &a), offset, 0).await), Code::OutOfRange);
    }
    driver.delete_snapshot(&a).await.expect("deleted");
    assert_eq!(code(allocated(&driver, &a, 0, 0).await), Code::NotFound);
}
