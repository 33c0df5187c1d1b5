//! Growth of served volumes, against a driver of a few lines.

use super::*;
use crate::node::attach::serve;
use crate::reserve::ReserveDesk;
use crate::volume::load::tests::{attachment, world};

const ID: DeviceId = DeviceId::new(7);
const OURS: OurDevice = OurDevice { id: ID, token: 5 };

struct FakeDriver {
    has_update_size: bool,
    state: DeviceState,
    token: u64,
    bytes: u64,
    updates: u32,
}

impl FakeDriver {
    fn of(bytes: u64) -> Self {
        let state = DeviceState::Live;
        Self { has_update_size: true, state, token: OURS.token, bytes, updates: 0 }
    }
}

impl SizedDevices for FakeDriver {
    fn can_update_size(&mut self) -> bool {
        self.has_update_size
    }

    fn info(&mut self, id: DeviceId) -> Result<Option<DeviceInfo>, UblkError> {
        let (state, token) = (self.state, self.token);
        let (queues, queue_depth, max_io_bytes, flags, server_pid) = (1, 1, 4096, 0, 1);
        let info =
            DeviceInfo { id, state, queues, queue_depth, max_io_bytes, flags, token, server_pid };
        Ok((id == ID).then_some(info))
    }

    fn size_bytes(&mut self, id: DeviceId) -> Result<u64, UblkError> {
        assert_eq!(id, ID);
        Ok(self.bytes)
    }

    fn update_size(&mut self, id: DeviceId, bytes: u64) -> Result<(), UblkError> {
        assert!(id == ID && self.has_update_size && self.state == DeviceState::Live);
        (self.bytes, self.updates) = (bytes, self.updates + 1);
        Ok(())
    }
}

fn size(bytes: u64) -> VolumeSize {
    VolumeSize::from_bytes(bytes).expect("a size")
}

fn now(bytes: u64) -> DeviceSize {
    DeviceSize { bytes, waits_for_attachment: false }
}

#[test]
fn a_device_grows_once_and_never_shrinks() {
    let mut driver = FakeDriver::of(8 << 20);
    for (asked, bytes, updates) in [(8, 8, 0), (12, 12, 1), (12, 12, 1), (9, 12, 1), (13, 13, 2)] {
        let grown = OURS.grow(&mut driver, size(asked << 20)).expect("answered");
        assert_eq!((grown, driver.updates), (now(bytes << 20), updates));
        assert_eq!(driver.bytes, bytes << 20);
    }
}

#[test]
fn without_the_feature_the_device_waits_for_the_next_attachment() {
    let mut driver = FakeDriver { has_update_size: false, ..FakeDriver::of(8 << 20) };
    let grown = OURS.grow(&mut driver, size(9 << 20)).expect("answered");
    assert_eq!(grown, DeviceSize { bytes: 8 << 20, waits_for_attachment: true });
    assert_eq!(OURS.grow(&mut driver, size(8 << 20)).expect("answered"), now(8 << 20));
}

#[test]
fn a_device_that_is_not_live_or_not_ours_is_never_touched() {
    let mut others = FakeDriver { token: 6, ..FakeDriver::of(8 << 20) };
    let mut stopped = FakeDriver { state: DeviceState::Dead, ..FakeDriver::of(8 << 20) };
    let mut orphan = FakeDriver { state: DeviceState::Quiesced, ..FakeDriver::of(8 << 20) };
    for driver in [&mut others, &mut stopped, &mut orphan] {
        let refused = OURS.grow(driver, size(9 << 20)).expect_err("refused");
        assert!(matches!(refused, DeviceError::NotLive { device: ID }), "{refused}");
        assert_eq!(driver.updates, 0);
    }
    let nobody = OurDevice { id: DeviceId::new(8), ..OURS };
    let refused = nobody.grow(&mut FakeDriver::of(8 << 20), size(9 << 20));
    assert!(matches!(refused, Err(DeviceError::NotLive { .. })));
}

async fn control() -> Control {
    let world = world();
    let held = attachment(1, 2);
    let loaded = world.loader.fresh(&held).await.expect("loaded");
    let served = serve(loaded, 1).expect("started");
    let metadata = Arc::clone(&world.loader.metadata);
    let desk = Arc::new(ReserveDesk::new(Arc::clone(&metadata)));
    Control::new(served, metadata, desk, Arc::clone(&world.loader.luns))
}

#[tokio::test]
async fn the_engine_serves_the_new_size_before_the_device_has_it() {
    let control = control().await;
    let volume = Arc::clone(&control.served.shared.volume);
    let before = volume.size();
    let larger = size(before.bytes() + 4096);
    let engine = Arc::clone(&volume);
    let grown = control.grow_with(larger, ID, move |size| {
        assert_eq!(engine.size(), size, "first the engine");
        OURS.grow(&mut FakeDriver::of(before.bytes()), size)
    });
    assert_eq!(grown.await.expect("grown"), now(larger.bytes()));
    assert_eq!(control.served.device_size.get(), now(larger.bytes()));
    // A late answer with the old size, after a predecessor was killed before the last step.
    let grown = control.grow_with(before, ID, move |size| {
        assert_eq!(size, larger, "the device gets what the engine serves");
        OURS.grow(&mut FakeDriver::of(before.bytes()), size)
    });
    assert_eq!(grown.await.expect("grown"), now(larger.bytes()));
}

#[tokio::test]
async fn a_device_that_cannot_follow_is_told_by_name_and_may_be_tried_again() {
    let control = control().await;
    let larger = size(control.served.shared.volume.size().bytes() + 4096);
    let refused = control.grow_with(larger, ID, |_| Err(DeviceError::NotLive { device: ID }));
    let refused = refused.await.expect_err("not live");
    assert_eq!(
        refused.to_string(),
        format!(
            "the device /dev/ublkb7 of volume '{}' cannot be made larger",
            control.served.facts.name
        )
    );
    assert_eq!(control.served.shared.volume.size(), larger, "the engine serves it already");
    let again = control.grow_with(larger, ID, |size| Ok(now(size.bytes())));
    assert_eq!(again.await.expect("grown"), now(larger.bytes()));
    let limit = lunar_types::VOLUME_EXTENTS_MAX * control.served.facts.extent_size.bytes();
    let beyond = control.grow_with(size(limit + 4096), ID, |_| unreachable!("not the device"));
    assert!(matches!(beyond.await, Err(GrowError::Map { .. })));
    assert_eq!(control.served.shared.volume.size(), larger);
}
