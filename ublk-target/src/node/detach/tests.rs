//! Detachments that come to nothing, of a volume that has no device.

use super::super::attach::serve;
use super::super::attach::tests::{node, record};
use super::*;
use crate::volume::load::tests::{World, attachment, world};

/// A volume that is served, as far as the node knows.
pub(crate) async fn serving(node: &Node) -> (World, Arc<Slot>, Serving) {
    let world = world();
    let loaded = world.loader.fresh(&attachment(1, 2)).await.expect("loaded");
    let served = serve(loaded, 1).expect("started");
    let record = Record { phase: Phase::Live, ..record() };
    node.state.save_record(&record).expect("kept");
    let slot = Slot::new(&record, Stage::Vacant);
    node.add_slot(&slot);
    let serving = node.go_live(&slot, record, served, None);
    (world, slot, serving)
}

fn no_holders() -> NodeError {
    let source = std::io::Error::from_raw_os_error(libc::EMFILE);
    NodeError::Holders { device: "/dev/ublkb900000".to_owned(), source }
}

fn in_use() -> NodeError {
    let (volume, device) = ("data".to_owned(), "/dev/ublkb900000".to_owned());
    NodeError::InUse { volume, device, holders: "mounted".to_owned() }
}

#[tokio::test]
async fn a_device_that_serves_on_is_recorded_as_live() {
    let (_dir, _metadata, node) = node();
    let (_world, slot, mut serving) = serving(&node).await;
    let driver = || {
        let source = std::io::Error::from_raw_os_error(libc::EINTR);
        let path = record().device.char_path();
        device_error("stop", "data")(DeviceError::Open { path, source })
    };
    let hangs = || stop_hangs(&record());
    let (live, stopping) = (Phase::Live, Phase::Stopping);
    for (error, before, after) in [
        (in_use(), live, live),
        (no_holders(), live, live),
        (driver(), live, live),
        (hangs(), live, stopping),
        (in_use(), stopping, live),
        // An earlier attempt may still stop it.
        (driver(), stopping, stopping),
    ] {
        serving.record.phase = Phase::Stopping;
        node.state.save_record(&serving.record).expect("kept");
        slot.show(|view| view.state = ViewState::Detaching);
        node.note_not_stopped(&slot, &mut serving, before, &error);
        let kept = node.state.load_records().expect("read");
        let (shown, is_live) = (slot.view().state, after == Phase::Live);
        assert_eq!((kept.len(), kept[0].phase, serving.record.phase), (1, after, after), "{error}");
        assert_eq!(shown == ViewState::Live, is_live, "{error}");
    }
}

#[tokio::test]
async fn a_change_that_hangs_does_not_keep_a_forced_detachment_waiting() {
    let (_dir, _metadata, node) = node();
    let node = Arc::new(node);
    let slot = Slot::new(&record(), Stage::Vacant);
    node.add_slot(&slot);
    let cut = Arc::clone(&slot.gate).lock_owned().await;
    let refused = node.detach_slot(&slot, Force::Yes, Duration::from_millis(20)).await;
    let error = refused.expect_err("the gate is held");
    assert!(matches!(error, NodeError::ChangeHangs { .. }), "{error}");
    drop(cut);
    let vacant = node.detach_slot(&slot, Force::Yes, Duration::from_millis(20)).await;
    assert!(matches!(vacant, Err(NodeError::NotAttachedHere { .. })));
}
