//! Watermarks of pools.

use super::*;

#[test]
fn watermarks_survive_the_wire() {
    survives::<_, v1::Watermarks>(Watermarks::DEFAULT);
    let pool = Selector::Name("p".parse().expect("a name"));
    for [warning, high, critical] in [[None; 3], [Some(1), None, Some(100)], [None, Some(7), None]]
    {
        let pool = pool.clone();
        let set = SetWatermarks { request: REQUEST, pool, warning, high, critical };
        survives::<_, v1::SetWatermarksRequest>(set);
    }
    for over_watermark in [false, true] {
        survives::<_, v1::GrowVolumeRequest>(GrowVolume {
            request: REQUEST,
            volume: Selector::Name("v".parse().expect("a name")),
            size: VolumeSize::from_bytes(4096).expect("a size"),
            over_watermark,
        });
    }
}

#[test]
fn watermarks_out_of_order_or_range_are_named() {
    let wire = v1::Watermarks::from(Watermarks::DEFAULT);
    let field = |spoil: fn(&mut v1::Watermarks)| bad_field::<_, Watermarks>(&wire, spoil);
    assert_eq!(field(|wire| wire.warning_percent = 91), "warning_percent");
    assert_eq!(field(|wire| wire.high_percent = 256), "high_percent");
    assert_eq!(field(|wire| wire.critical_percent = 0), "critical_percent");
}

#[test]
fn the_level_of_a_pool_is_told() {
    let usage = SpaceUsage::default();
    for (used_extents, level) in [
        (69, v1::WatermarkLevel::Normal),
        (70, v1::WatermarkLevel::Warning),
        (80, v1::WatermarkLevel::High),
        (90, v1::WatermarkLevel::Critical),
    ] {
        let fill = PoolFill { used_extents, usable_extents: 100 };
        let (provisioned, luns) = (ByteCount::new(0), Vec::new());
        let status = PoolStatus { pool: pool(), usage, fill, provisioned, volumes: 0, luns };
        assert_eq!(v1::PoolStatus::from(status).level(), level);
    }
}
